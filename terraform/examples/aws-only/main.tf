# One bucket at AWS, a writer, a pruner and a reader, and a daily job that backs up a file system of EFS.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.42, < 7.0"
    }
  }
}

provider "aws" {
  region = "eu-west-3"
}

variable "account_id" {
  description = "Id of the account."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket, which nobody else in the world has."
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
  description = "Where the job runs: VPC, its private subnets and their route tables, and security groups that let out https and NFS."
  type = object({
    vpc_id          = string
    subnets         = list(string)
    route_tables    = list(string)
    security_groups = list(string)
  })
}

variable "file_system_id" {
  description = "The file system to back up."
  type        = string
}

# Without it, every byte goes through a NAT gateway, which charges for it.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = var.network.vpc_id
  service_name      = "com.amazonaws.eu-west-3.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.network.route_tables
}

module "store" {
  source     = "../../modules/aws"
  account_id = var.account_id
  region     = "eu-west-3"
  bucket     = var.bucket
  # A stolen writer can delete nothing, and for two weeks nobody can.
  object_lock = { mode = "GOVERNANCE", days = 14 }
  config      = { writer = module.config["writer"].files, pruner = module.config["pruner"].files }
  job = {
    image           = var.image
    password_secret = var.password_secret
    subnets         = var.network.subnets
    security_groups = var.network.security_groups
    volumes         = { home = { file_system_id = var.file_system_id, path = "/data/home" } }
  }
}

module "config" {
  source   = "../../modules/config"
  for_each = toset(["writer", "pruner", "reader"])
  stores   = { aws = module.store.stores[each.value] }
  host     = "files"
  jobs     = { home = { paths = ["/data/home"] } }
}

output "config_toml" {
  description = "For a person who restores: terraform output -raw config_toml > holdfast.toml."
  value       = module.config["reader"].config_toml
}
