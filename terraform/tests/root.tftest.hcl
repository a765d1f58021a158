# The root: which configuration comes out of which stores. The files in tests/golden are read by the suite of the program.

mock_provider "aws" {}
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = { unique_id = "100000000000000000001" }
  }
  mock_resource "google_iam_workload_identity_pool_provider" {
    defaults = { name = "projects/1234/locations/global/workloadIdentityPools/holdfast/providers/job" }
  }
}
mock_provider "azurerm" {
  mock_resource "azurerm_user_assigned_identity" {
    defaults = {
      id           = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
      client_id    = "00000000-0000-0000-0000-00000000000c"
      principal_id = "00000000-0000-0000-0000-00000000000d"
    }
  }
}

variables {
  prefix = "a/prefix"
  aws    = { account_id = "111122223333", region = "eu-test-1", bucket = "bucket" }
  gcp    = { project = "project-1", location = "EUROPE-WEST9", bucket = "bucket" }
  azure = {
    tenant_id       = "00000000-0000-0000-0000-000000000001"
    subscription_id = "00000000-0000-0000-0000-000000000002"
    resource_group  = "backups"
    location        = "francecentral"
    account         = "testaccount"
    container       = "container"
  }
  jobs         = { home = { paths = ["data/home"], exclude = ["*.tmp"], tags = ["daily"] } }
  write_quorum = 2
  prefer       = ["aws"]
}

run "surroundings" {
  assert {
    condition     = output.config_toml == file("tests/golden/surroundings.toml")
    error_message = "tests/golden/surroundings.toml is not what comes out:\n${output.config_toml}"
  }
  assert {
    condition     = output.configs.writer == output.configs.reader && keys(output.files.pruner) == ["holdfast.toml"]
    error_message = "Who logs in as found in the surroundings has the same configuration in each role."
  }
}

run "watched" {
  variables {
    jobs = {
      home = { paths = ["data/home"], exclude = ["*.tmp"], tags = ["daily"], every = "1d", ping = "https://watch.example/home" }
      shop = { command = ["pg_dump", "--format=custom", "shop"], filename = "shop.dump", every = "6h" }
    }
    watch = { push = "http://pushgateway.example:9091/", ping = "https://watch.example/run", log_format = "json" }
  }
  assert {
    condition     = output.config_toml == file("tests/golden/watched.toml")
    error_message = "tests/golden/watched.toml is not what comes out:\n${output.config_toml}"
  }
}

run "scheduled_at_aws" {
  variables {
    aws = { account_id = "111122223333", region = "eu-test-1", bucket = "bucket", token_issuer = "https://issuer.example/1" }
    schedule_aws = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "arn:aws:secretsmanager:eu-test-1:111122223333:secret:holdfast"
      subnets         = ["subnet-1"]
      security_groups = ["sg-1"]
    }
  }
  assert {
    condition     = output.config_toml == file("tests/golden/scheduled.toml")
    error_message = "tests/golden/scheduled.toml is not what comes out:\n${output.config_toml}"
  }
  assert {
    condition     = "${output.files.writer["gcp.json"]}\n" == file("tests/golden/gcp.json")
    error_message = "tests/golden/gcp.json is not what comes out:\n${output.files.writer["gcp.json"]}"
  }
  assert {
    condition     = output.token_audiences == { aws = "sts.amazonaws.com", gcp = "holdfast-holdfast", azure = "api://AzureADTokenExchange" }
    error_message = "Each cloud has its audience."
  }
}

run "scheduled_at_azure" {
  variables {
    azure = {
      tenant_id         = "00000000-0000-0000-0000-000000000001"
      subscription_id   = "00000000-0000-0000-0000-000000000002"
      resource_group    = "backups"
      location          = "francecentral"
      account           = "testaccount"
      token_application = "api://holdfast"
    }
    schedule_azure = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "https://vault.example/secrets/holdfast"
      environment_id  = "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/managedEnvironments/e"
    }
  }
  assert {
    condition     = strcontains(output.configs.pruner, "role = \"arn:aws:iam::111122223333:role/holdfast-pruner\", token_file = \"/tokens/aws\"") && strcontains(output.configs.pruner, "kind = \"managed-identity\"")
    error_message = "The job at Azure shows AWS a token, and logs in to Azure as itself."
  }
}

run "scheduled_at_google" {
  variables {
    aws          = null
    azure        = null
    prefer       = []
    write_quorum = null
    schedule_gcp = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "holdfast-password"
      region          = "europe-west9"
    }
  }
  assert {
    condition     = !strcontains(output.config_toml, "credentials") && output.urls == { gcp = "gs://bucket/a/prefix" }
    error_message = "A job beside its only store logs in as itself."
  }
}

run "scheduled_at_google_for_three" {
  variables {
    schedule_gcp = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "holdfast-password"
      region          = "europe-west9"
    }
  }
  assert {
    condition     = output.config_toml == file("tests/golden/cloud_run.toml")
    error_message = "tests/golden/cloud_run.toml is not what comes out:\n${output.config_toml}"
  }
  assert {
    condition     = keys(output.files.writer) == ["holdfast.toml"] && strcontains(output.configs.pruner, "role/holdfast-pruner")
    error_message = "The job needs no file with a token, and each role of it is another one at AWS."
  }
  assert {
    condition     = alltrue([for role in ["writer", "pruner"] : jsondecode(module.aws[0].trust_policies[role]).Statement[0] == { Effect = "Allow", Principal = { Federated = "accounts.google.com" }, Action = "sts:AssumeRoleWithWebIdentity", Condition = { StringEquals = { "accounts.google.com:oaud" = "sts.amazonaws.com", "accounts.google.com:aud" = ["100000000000000000001"], "accounts.google.com:sub" = ["100000000000000000001"] } } }])
    error_message = "At AWS each role knows its own service account."
  }
  assert {
    condition     = length(jsondecode(module.aws[0].trust_policies["reader"]).Statement) == 1
    error_message = "Nobody reads as the job."
  }
  assert {
    condition     = module.azure[0].trusted == { for role in ["writer", "pruner"] : "job-${role}-0" => { issuer = "https://accounts.google.com", subject = "100000000000000000001", role = role, audience = "api://AzureADTokenExchange" } }
    error_message = "At Azure each identity knows its own service account."
  }
  assert {
    condition     = output.token_audiences == { aws = "sts.amazonaws.com", gcp = "holdfast-holdfast", azure = "api://AzureADTokenExchange" }
    error_message = "Each cloud has its audience."
  }
}

# What is known only once it is made must not stand in the way of the first plan.
run "scheduled_at_google_planned" {
  command = plan
  variables {
    schedule_gcp = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "holdfast-password"
      region          = "europe-west9"
    }
  }
  assert {
    condition     = keys(module.azure[0].trusted) == ["job-pruner-0", "job-writer-0"]
    error_message = "The names of what is made are known before it is."
  }
}

run "github" {
  variables {
    azure  = null
    github = { owner = "o", owner_id = "1", repository = "r", repository_id = "2", environment = "e" }
  }
  assert {
    condition     = strcontains(output.config_toml, "token_file = \"tokens/aws\"") && strcontains(output.files.writer["gcp.json"], "tokens/gcp")
    error_message = "The workflow's tokens lie beside the configuration."
  }
}

run "cluster" {
  variables {
    federation = { cluster = { issuer = "https://oidc.example/id", subjects = ["system:serviceaccount:backup:holdfast"] } }
  }
  assert {
    condition     = strcontains(output.config_toml, "token_file = \"tokens/azure\"") && strcontains(output.files.writer["gcp.json"], "tokens/gcp") && keys(output.files.reader) == ["holdfast.toml"]
    error_message = "A cluster's tokens lie beside the configuration of the role that it has."
  }
}
