mock_provider "aws" {}

variables {
  account_id      = "111122223333"
  bucket          = "bucket"
  image           = "registry.example/holdfast@sha256:00"
  password_secret = "arn:aws:secretsmanager:eu-west-3:111122223333:secret:holdfast"
  network         = { vpc_id = "vpc-1", subnets = ["subnet-1"], route_tables = ["rtb-1"], security_groups = ["sg-1"] }
  file_system_id  = "fs-1"
}

run "plan" {
  command = plan
  assert {
    condition     = strcontains(output.config_toml, "url = \"s3://bucket?region=eu-west-3\"") && strcontains(output.config_toml, "paths = [\"/data/home\"]")
    error_message = "The configuration names the bucket and the job."
  }
}

run "apply" {
  assert {
    condition     = length(module.store.role_arns) == 3 && module.store.failures_queue != null
    error_message = "Three roles, and a queue of what could not be started."
  }
}
