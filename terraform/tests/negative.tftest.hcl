# What must be refused, before anything is made.

mock_provider "aws" {}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  aws = { account_id = "111122223333", region = "eu-west-3", bucket = "bucket" }
}

run "a_schedule_of_nothing" {
  command = plan
  variables {
    schedule_aws = { image = "i", password_secret = "s", subnets = [], security_groups = [] }
  }
  expect_failures = [terraform_data.sound]
}

run "a_job_of_paths_and_a_command" {
  command = plan
  variables {
    jobs = { both = { paths = ["/data"], command = ["pg_dump"] } }
  }
  expect_failures = [var.jobs]
}

run "everybody_as_a_principal" {
  command = plan
  module {
    source = "./modules/aws"
  }
  variables {
    account_id = "111122223333"
    region     = "eu-west-3"
    bucket     = "bucket"
    principals = { reader = ["*"] }
  }
  expect_failures = [var.principals]
}

run "nowhere" {
  command = plan
  module {
    source = "./modules/config"
  }
  variables {
    stores = {}
  }
  expect_failures = [var.stores]
}

run "two_schedules" {
  command = plan
  variables {
    gcp          = { project = "p", location = "EU", bucket = "bucket" }
    schedule_aws = { image = "i", password_secret = "s", subnets = [], security_groups = [] }
    schedule_gcp = { image = "i", password_secret = "s", region = "r" }
  }
  expect_failures = [terraform_data.sound]
}

run "no_issuer" {
  command = plan
  variables {
    gcp          = { project = "p", location = "EU", bucket = "bucket" }
    schedule_aws = { image = "i", password_secret = "s", subnets = [], security_groups = [] }
  }
  expect_failures = [terraform_data.sound]
}

run "a_schedule_without_a_store_beside_it" {
  command = plan
  variables {
    schedule_gcp = { image = "i", password_secret = "s", region = "r" }
  }
  expect_failures = [terraform_data.sound]
}

run "two_tokens_for_one_store" {
  command = plan
  module {
    source = "./modules/aws"
  }
  variables {
    account_id = "111122223333"
    region     = "eu-west-3"
    bucket     = "bucket"
    token_file = "/tokens/aws"
    token_from = "google-metadata-server"
  }
  expect_failures = [var.token_from]
}

run "a_giver_of_tokens_that_nobody_knows" {
  command = plan
  module {
    source = "./modules/azure"
  }
  variables {
    tenant_id       = "t"
    subscription_id = "s"
    resource_group  = "g"
    location        = "l"
    account         = "account"
    token_from      = "metadata"
  }
  expect_failures = [var.token_from]
}

run "names_instead_of_ids" {
  command = plan
  variables {
    github = { owner = "o", owner_id = "o", repository = "r", repository_id = "r", environment = "e" }
  }
  expect_failures = [var.github]
}

run "a_pattern_as_prefix" {
  command = plan
  module {
    source = "./modules/aws"
  }
  variables {
    account_id = "111122223333"
    region     = "eu-west-3"
    bucket     = "bucket"
    prefix     = "*"
  }
  expect_failures = [var.prefix]
}

run "an_unknown_role" {
  command = plan
  module {
    source = "./modules/gcp"
  }
  variables {
    project    = "p"
    location   = "EU"
    bucket     = "bucket"
    federation = { other = { issuer = "https://i.example", subjects = ["s"], role = "owner" } }
  }
  expect_failures = [var.federation]
}

run "an_unknown_rule" {
  command = plan
  module {
    source = "./modules/config"
  }
  variables {
    stores    = { a = { url = "s3://bucket" } }
    retention = { keep_forever = 1 }
  }
  expect_failures = [var.retention]
}

run "a_name_that_google_does_not_take" {
  command = plan
  module {
    source = "./modules/gcp"
  }
  variables {
    project    = "p"
    location   = "EU"
    bucket     = "bucket"
    federation = { x = { issuer = "https://i.example", subjects = ["s"] } }
  }
  expect_failures = [var.federation]
}
