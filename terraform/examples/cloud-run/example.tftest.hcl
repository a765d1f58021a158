mock_provider "aws" {}
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      email     = "job@project-1.iam.gserviceaccount.com"
      name      = "projects/project-1/serviceAccounts/job@project-1.iam.gserviceaccount.com"
      unique_id = "100000000000000000001"
    }
  }
}
mock_provider "azurerm" {}

variables {
  account_id      = "111122223333"
  project         = "project-1"
  azure           = { tenant_id = "t", subscription_id = "s", resource_group = "backups" }
  suffix          = "example"
  image           = "registry.example/holdfast@sha256:00"
  password_secret = "holdfast-password"
  network         = { network = "backups", subnetwork = "backups" }
  nfs             = { server = "10.0.0.2", export = "/home" }
}

# What is known only once it is made must not stand in the way of the first plan.
run "plan" {
  command = plan
}

run "apply" {
  assert {
    condition     = length(regexall("\\[\\[store\\]\\]", output.config_toml)) == 3 && length(regexall("token_from = \"google-metadata-server\"", output.config_toml)) == 2 && !strcontains(output.config_toml, "token_file")
    error_message = "Three stores, and the way into the other clouds is by tokens of the job's service account:\n${output.config_toml}"
  }
}
