# One repository in three clouds: the job runs at Google's Cloud Run and writes to all of them. AWS and Azure know it by its service account,
# whose tokens Holdfast asks the metadata server for: no key and no token lies in any file of the job.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.42, < 7.0"
    }
    google = {
      source  = "hashicorp/google"
      version = ">= 7.0, < 9.0"
    }
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.65, < 6.0"
    }
  }
}

provider "aws" {
  region = "eu-west-3"
}

provider "google" {
  project = var.project
}

provider "azurerm" {
  subscription_id = var.azure.subscription_id
  # The account admits no keys: the provider logs in there, too.
  storage_use_azuread = true
  features {}
}

variable "account_id" {
  description = "Id of the AWS account."
  type        = string
}

variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "azure" {
  description = "Where the store at Azure belongs."
  type = object({
    tenant_id       = string
    subscription_id = string
    resource_group  = string
  })
}

variable "suffix" {
  description = "What the names of buckets end with: nobody else in the world has them."
  type        = string
}

variable "image" {
  description = "The image of Holdfast, by its digest."
  type        = string
}

variable "password_secret" {
  description = "Name of the secret in Secret Manager whose value is the passphrase. Keep a copy in another place: without it nothing can be restored."
  type        = string
}

variable "network" {
  description = "Where the job reaches the NFS server."
  type = object({
    network    = string
    subnetwork = string
  })
}

variable "nfs" {
  description = "The NFS server with what is backed up, and what it exports."
  type = object({
    server = string
    export = string
  })
}

module "holdfast" {
  source = "../.."
  prefix = "main"
  # In AWS nothing is made for Google as an issuer: it knows accounts.google.com by itself.
  aws = {
    account_id  = var.account_id
    region      = "eu-west-3"
    bucket      = "holdfast-${var.suffix}"
    object_lock = { mode = "COMPLIANCE", days = 30 }
  }
  gcp = {
    project  = var.project
    location = "EUROPE-WEST9"
    bucket   = "holdfast-${var.suffix}"
  }
  azure = merge(var.azure, {
    location = "francecentral"
    account  = "holdfast${var.suffix}"
  })
  write_quorum = 2
  prefer       = ["gcp"]
  jobs         = { home = { paths = ["/data/home"], exclude = ["*.tmp"] } }
  schedule_gcp = {
    image           = var.image
    password_secret = var.password_secret
    region          = "europe-west9"
    network         = var.network.network
    subnetwork      = var.network.subnetwork
    volumes         = { home = merge(var.nfs, { path = "/data/home" }) }
  }
}

output "config_toml" {
  description = "The configuration of the job."
  value       = module.holdfast.config_toml
}
