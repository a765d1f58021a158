mock_provider "aws" {}
mock_provider "azurerm" {}

variables {
  account_id      = "111122223333"
  bucket          = "bucket"
  tenant_id       = "t"
  subscription_id = "s"
  resource_group  = "backups"
  account         = "testaccount"
}

run "plan" {
  command = plan
  assert {
    condition     = strcontains(output.config_toml, "url = \"s3://bucket/backups/holdfast?region=eu-west-3\"") && strcontains(output.config_toml, "url = \"az://testaccount/backups/holdfast\"") && !strcontains(output.config_toml, "credentials")
    error_message = "The stores lie in what is there already."
  }
  assert {
    condition     = strcontains(output.bucket_policy, "arn:aws:s3:::bucket/backups/holdfast/*")
    error_message = "The statements are for the part of the bucket that holds the repository."
  }
}
