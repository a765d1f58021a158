# One repository in three clouds: the job runs at AWS and writes to all of them, and no key of any cloud lies anywhere.

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
  description = "ARN of the secret whose value is the passphrase. Keep a copy in another place: without it nothing can be restored."
  type        = string
}

variable "network" {
  description = "Where the job runs: subnets, and security groups that let out https and NFS."
  type = object({
    subnets         = list(string)
    security_groups = list(string)
  })
}

variable "file_system_id" {
  description = "The file system to back up."
  type        = string
}

# Once for the account: its roles may then show other clouds who they are.
resource "aws_iam_outbound_web_identity_federation" "this" {}

module "holdfast" {
  source = "../.."
  prefix = "main"
  aws = {
    account_id   = var.account_id
    region       = "eu-west-3"
    bucket       = "holdfast-${var.suffix}"
    object_lock  = { mode = "COMPLIANCE", days = 30 }
    token_issuer = aws_iam_outbound_web_identity_federation.this.issuer_identifier
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
  prefer       = ["aws"]
  jobs         = { home = { paths = ["/data/home"], exclude = ["*.tmp"] } }
  schedule_aws = {
    image           = var.image
    password_secret = var.password_secret
    subnets         = var.network.subnets
    security_groups = var.network.security_groups
    volumes         = { home = { file_system_id = var.file_system_id, path = "/data/home" } }
  }
}

output "config_toml" {
  description = "The configuration of the job."
  value       = module.holdfast.config_toml
}
