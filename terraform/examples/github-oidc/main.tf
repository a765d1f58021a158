# A workflow of GitHub writes to stores at AWS and Google Cloud. No secret of either lies at GitHub.

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
    # The root knows three clouds; what is not set makes nothing.
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.65, < 6.0"
    }
  }
}

provider "aws" {
  region = "us-east-1"
}

provider "google" {
  project = var.project
}

provider "azurerm" {
  subscription_id                 = "00000000-0000-0000-0000-000000000000"
  resource_provider_registrations = "none"
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

variable "bucket" {
  description = "Name of both buckets."
  type        = string
}

variable "github" {
  description = "The repository and its environment."
  type = object({
    owner         = string
    owner_id      = string
    repository    = string
    repository_id = string
    environment   = string
  })
}

module "holdfast" {
  source = "../.."
  name   = "ci-backup"
  aws    = { account_id = var.account_id, region = "us-east-1", bucket = var.bucket }
  gcp    = { project = var.project, location = "US-EAST1", bucket = var.bucket }
  github = var.github
  host   = "ci"
  jobs   = { sources = { paths = ["src"] } }
}

output "files" {
  description = "What the workflow needs in one folder besides the tokens; it can be committed."
  value       = module.holdfast.files.writer
}

output "token_audiences" {
  description = "The workflow writes a token for each of these into tokens/NAME beside the configuration."
  value       = module.holdfast.token_audiences
}
