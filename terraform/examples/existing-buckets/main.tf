# Buckets that are there already: identities and the configuration alone.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.42, < 7.0"
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

provider "azurerm" {
  subscription_id     = var.subscription_id
  storage_use_azuread = true
  features {}
}

variable "account_id" {
  description = "Id of the AWS account."
  type        = string
}

variable "bucket" {
  description = "The bucket at AWS."
  type        = string
}

variable "tenant_id" {
  description = "Id of the Azure directory."
  type        = string
}

variable "subscription_id" {
  description = "Id of the Azure subscription."
  type        = string
}

variable "resource_group" {
  description = "Resource group of the account."
  type        = string
}

variable "account" {
  description = "The storage account at Azure."
  type        = string
}

module "aws" {
  source        = "../../modules/aws"
  account_id    = var.account_id
  region        = "eu-west-3"
  bucket        = var.bucket
  create_bucket = false
  prefix        = "backups/holdfast"
}

module "azure" {
  source          = "../../modules/azure"
  tenant_id       = var.tenant_id
  subscription_id = var.subscription_id
  resource_group  = var.resource_group
  location        = "francecentral"
  account         = var.account
  container       = "backups"
  create_account  = false
  prefix          = "holdfast"
}

module "config" {
  source = "../../modules/config"
  stores = { aws = module.aws.stores.writer, azure = module.azure.stores.writer }
  jobs   = { home = { paths = ["/home"] } }
}

output "config_toml" {
  description = "The configuration of a machine that has the writer's identities."
  value       = module.config.config_toml
}

output "bucket_policy" {
  description = "Statements to add to the bucket's policy."
  value       = module.aws.bucket_policy
}
