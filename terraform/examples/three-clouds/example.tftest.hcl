mock_provider "aws" {
  mock_resource "aws_iam_outbound_web_identity_federation" {
    defaults = { issuer_identifier = "https://issuer.example/1" }
  }
}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  account_id      = "111122223333"
  project         = "project-1"
  azure           = { tenant_id = "t", subscription_id = "s", resource_group = "backups" }
  suffix          = "example"
  image           = "registry.example/holdfast@sha256:00"
  password_secret = "arn:aws:secretsmanager:eu-west-3:111122223333:secret:holdfast"
  network         = { subnets = ["subnet-1"], security_groups = ["sg-1"] }
  file_system_id  = "fs-1"
}

# What is known only once it is made must not stand in the way of the first plan.
run "plan" {
  command = plan
}

run "apply" {
  assert {
    condition     = length(regexall("\\[\\[store\\]\\]", output.config_toml)) == 3 && strcontains(output.config_toml, "az://holdfastexample/holdfast/main") && strcontains(output.config_toml, "token_file = \"/run/holdfast/tokens/azure\"")
    error_message = "Three stores, and the way into the other clouds is by tokens."
  }
}
