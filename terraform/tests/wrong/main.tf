# Everything here is wrong: the suite checks that each mistake is found, so that a check which finds nothing cannot pass.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
    google = {
      source = "hashicorp/google"
    }
    azurerm = {
      source = "hashicorp/azurerm"
    }
  }
}

variable "nobody" {
  type = string
}

resource "aws_s3_bucket" "misspelt" {
  buckett = "a"
}

resource "aws_s3_bucket_versioning" "no_block" {
  bucket = "a"
}

resource "aws_iam_role" "nothing_required" {
  name = "a"
  arn  = "arn:aws:iam::111122223333:role/a"
}

resource "google_storage_bucket" "unknown_block" {
  name     = "a"
  location = "EU"
  dynamic "version" {
    for_each = [1]
    content {
      enabled = true
    }
  }
  lifecycle_rule {
    action {
      typo = "Delete"
    }
    condition {
      age = 1
    }
  }
}

resource "azurerm_storage_account" "too_many" {
  name                     = "a"
  resource_group_name      = "a"
  location                 = "a"
  account_tier             = "Standard"
  account_replication_type = "ZRS"
  blob_properties {
    versioning_enabled = true
  }
  blob_properties {
    versioning_enabled = false
  }
}
