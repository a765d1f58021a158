mock_provider "aws" {}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  account_id = "111122223333"
  project    = "project-1"
  bucket     = "bucket"
  github     = { owner = "o", owner_id = "1", repository = "r", repository_id = "2", environment = "backup" }
}

run "plan" {
  command = plan
  assert {
    condition     = output.token_audiences == { aws = "sts.amazonaws.com", gcp = "holdfast-ci-backup" }
    error_message = "One token for each store."
  }
}

run "apply" {
  # deploy/ci/github-backup.yml is for what comes out here; the suite holds the two together.
  assert {
    condition     = output.files["holdfast.toml"] == file("holdfast.toml")
    error_message = "holdfast.toml is not what comes out:\n${output.files["holdfast.toml"]}"
  }
  assert {
    condition     = toset(keys(output.files)) == toset(["holdfast.toml", "gcp.json"]) && strcontains(output.files["holdfast.toml"], "role = \"arn:aws:iam::111122223333:role/ci-backup-writer\", token_file = \"tokens/aws\"")
    error_message = "The workflow takes the writer's role by its token."
  }
}
