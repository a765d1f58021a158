# The module aws by itself.

mock_provider "aws" {}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  account_id = "111122223333"
  region     = "eu-west-3"
  bucket     = "bucket"
  prefix     = "a/prefix"
}

run "bucket" {
  module {
    source = "./modules/aws"
  }
  assert {
    condition     = aws_s3_bucket_versioning.this[0].versioning_configuration[0].status == "Enabled"
    error_message = "Without versions a prune cannot be undone."
  }
  assert {
    condition     = alltrue([for on in ["block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"] : aws_s3_bucket_public_access_block.this[0][on]])
    error_message = "Nothing of a backup is public."
  }
  assert {
    condition     = aws_s3_bucket.this[0].force_destroy == false && length(aws_s3_bucket_object_lock_configuration.this) == 0
    error_message = "Terraform never empties a bucket, and locks only when asked."
  }
  assert {
    condition     = length([for rule in aws_s3_bucket_lifecycle_configuration.this[0].rule : rule if length([for one in rule.expiration : one if one.date != null || !one.expired_object_delete_marker]) > 0]) == 0
    error_message = "No rule of the bucket may remove what is current."
  }
  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this[0].rule : rule.noncurrent_version_expiration[0].noncurrent_days if rule.id == "old-versions"]) == 30
    error_message = "Old versions go after a month."
  }
  assert {
    condition     = length(aws_kms_key.bucket) == 0 && one(one(aws_s3_bucket_server_side_encryption_configuration.this[0].rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "Without a key of one's own, the provider's."
  }
  assert {
    condition     = length(aws_scheduler_schedule.job) == 0 && length(aws_ecs_cluster.job) == 0 && length(aws_sqs_queue.failures) == 0
    error_message = "Without a job nothing of it is made."
  }
  assert {
    condition     = output.url == "s3://bucket/a/prefix?region=eu-west-3" && output.stores["reader"].credentials == null
    error_message = "The store's URL names bucket, prefix and region."
  }
  # Which actions anybody is allowed at all.
  assert {
    condition = toset(flatten([for policy in values(output.policies) : [
      for statement in jsondecode(policy).Statement : statement.Action
    ]])) == toset(["s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"])
    error_message = "No identity may do more than list, read, create and delete."
  }
  assert {
    condition     = [for role in ["writer", "pruner", "reader"] : strcontains(output.policies[role], "Delete")] == [false, true, false]
    error_message = "Only the pruner deletes."
  }
}

run "lock_and_key" {
  module {
    source = "./modules/aws"
  }
  variables {
    object_lock    = { mode = "COMPLIANCE", days = 14 }
    create_kms_key = true
    prefix         = ""
  }
  assert {
    condition     = aws_s3_bucket.this[0].object_lock_enabled && aws_s3_bucket_object_lock_configuration.this[0].rule[0].default_retention[0].days == 14
    error_message = "The lock is on for every new object."
  }
  assert {
    condition     = aws_kms_key.bucket[0].enable_key_rotation && one(aws_s3_bucket_server_side_encryption_configuration.this[0].rule).bucket_key_enabled
    error_message = "The key is rotated, and asked for once for many objects."
  }
  assert {
    condition     = [for role in ["writer", "pruner", "reader"] : toset(flatten([for one in jsondecode(output.policies[role]).Statement : one.Action if one.Sid == "Encrypt" || one.Sid == "Decrypt"]))] == [toset(["kms:Decrypt", "kms:GenerateDataKey"]), toset(["kms:Decrypt", "kms:GenerateDataKey"]), toset(["kms:Decrypt"])]
    error_message = "Who writes encrypts, and who reads decrypts."
  }
}

run "federation" {
  module {
    source = "./modules/aws"
  }
  variables {
    federation = {
      github  = { issuer = "https://token.actions.githubusercontent.com", subjects = ["repo:o@1/r@2:environment:e", "repo:o/r:environment:e"] }
      google  = { issuer = "https://accounts.google.com", subjects = ["1234567890"], role = "pruner" }
      cluster = { issuer = "https://oidc.example/id", subjects = ["system:serviceaccount:backup:holdfast"], role = "reader" }
    }
    oidc_provider_arns = { "https://oidc.example/id" = "arn:aws:iam::111122223333:oidc-provider/oidc.example/id" }
  }
  assert {
    condition     = keys(aws_iam_openid_connect_provider.this) == ["https://token.actions.githubusercontent.com"]
    error_message = "Providers that are known already, and Google, are not made again."
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["writer"].assume_role_policy).Statement[0].Condition.StringEquals == { "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com", "token.actions.githubusercontent.com:sub" = ["repo:o@1/r@2:environment:e", "repo:o/r:environment:e"] }
    error_message = "A workflow takes the role by exact subjects, in both forms."
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["pruner"].assume_role_policy).Statement[0].Principal.Federated == "accounts.google.com"
    error_message = "Google's tokens are known without a provider."
  }
  # At AWS `aud` is whom the token was given to, and `oaud` whom it is made out to.
  assert {
    condition     = jsondecode(output.trust_policies["pruner"]).Statement[0].Condition.StringEquals == { "accounts.google.com:oaud" = "sts.amazonaws.com", "accounts.google.com:aud" = ["1234567890"], "accounts.google.com:sub" = ["1234567890"] }
    error_message = "A service account of Google takes the role by its unique id, and by a token for this alone."
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["reader"].assume_role_policy).Statement[0].Principal.Federated == "arn:aws:iam::111122223333:oidc-provider/oidc.example/id"
    error_message = "A known provider is used."
  }
}

run "token_from" {
  module {
    source = "./modules/aws"
  }
  variables {
    token_from = "google-metadata-server"
  }
  assert {
    condition     = { for key, value in output.stores["pruner"].credentials : key => value if value != null } == { kind = "web-identity", role = "arn:aws:iam::111122223333:role/holdfast-pruner", token_from = "google-metadata-server" }
    error_message = "The configuration asks for a token that is in no file."
  }
}

run "job" {
  module {
    source = "./modules/aws"
  }
  variables {
    token_audiences = { gcp = "holdfast-test" }
    config          = { writer = { "holdfast.toml" = "w" }, pruner = { "holdfast.toml" = "p" } }
    job = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "arn:aws:secretsmanager:eu-west-3:111122223333:secret:holdfast"
      subnets         = ["subnet-1"]
      security_groups = ["sg-1"]
      volumes         = { home = { file_system_id = "fs-1", path = "/data/home" } }
    }
  }
  assert {
    condition     = [for role in ["writer", "pruner"] : one([for one in jsondecode(aws_ecs_task_definition.job[role].container_definitions) : join(" ", one.command) if one.name == "holdfast"])] == ["run --init --no-lifecycle", "lifecycle"]
    error_message = "The writer runs the jobs, and the pruner the lifecycle."
  }
  assert {
    condition     = alltrue([for role in ["writer", "pruner"] : aws_ecs_task_definition.job[role].task_role_arn == aws_iam_role.this[role].arn])
    error_message = "Each runs as who it is."
  }
  assert {
    condition     = alltrue([for one in jsondecode(aws_ecs_task_definition.job["writer"].container_definitions) : one.essential == (one.name == "holdfast")])
    error_message = "The task ends with the job, whatever else runs in it."
  }
  assert {
    condition     = toset(keys(aws_iam_role_policy.tokens)) == toset(["writer", "pruner"]) && strcontains(aws_iam_role_policy.tokens["writer"].policy, "holdfast-test")
    error_message = "The job may ask for tokens of exactly these audiences."
  }
  assert {
    condition     = strcontains(aws_iam_role.scheduler[0].assume_role_policy, "scheduler.amazonaws.com") && aws_scheduler_schedule.job["writer"].target[0].dead_letter_config[0].arn == aws_sqs_queue.failures[0].arn
    error_message = "A run that cannot be started is kept in a queue."
  }
}

run "job_switched_off" {
  module {
    source = "./modules/aws"
  }
  variables {
    config = { writer = { "holdfast.toml" = "w" }, pruner = { "holdfast.toml" = "p" } }
    job = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "arn:aws:secretsmanager:eu-west-3:111122223333:secret:holdfast"
      subnets         = ["subnet-1"]
      security_groups = ["sg-1"]
      enabled         = false
    }
  }
  assert {
    condition     = [for role in ["writer", "pruner"] : aws_scheduler_schedule.job[role].state] == ["DISABLED", "DISABLED"]
    error_message = "A schedule that is switched off starts nothing."
  }
}

run "others" {
  module {
    source = "./modules/aws"
  }
  variables {
    principals = { reader = ["arn:aws:iam::111122223333:role/restore"] }
    pods       = { writer = [{ cluster = "main", namespace = "holdfast", service_account = "holdfast-writer" }] }
  }
  assert {
    condition     = jsondecode(output.trust_policies["reader"]).Statement[0] == { Effect = "Allow", Principal = { AWS = "arn:aws:iam::111122223333:role/restore" }, Action = "sts:AssumeRole" }
    error_message = "Whoever restores takes the reader's role."
  }
  assert {
    condition     = jsondecode(output.trust_policies["writer"]).Statement[0].Principal.Service == "pods.eks.amazonaws.com" && jsondecode(output.trust_policies["writer"]).Statement[0].Condition.StringEquals == { "aws:SourceAccount" = "111122223333", "aws:RequestTag/eks-cluster-name" = "main", "aws:RequestTag/kubernetes-namespace" = "holdfast", "aws:RequestTag/kubernetes-service-account" = "holdfast-writer" }
    error_message = "A pod takes the role by cluster, namespace and service account."
  }
  assert {
    condition     = length(jsondecode(output.trust_policies["pruner"]).Statement) == 1
    error_message = "Nobody else gets in."
  }
}

run "existing_bucket" {
  module {
    source = "./modules/aws"
  }
  variables {
    create_bucket = false
  }
  assert {
    condition     = length(aws_s3_bucket.this) + length(aws_s3_bucket_policy.this) + length(aws_s3_bucket_lifecycle_configuration.this) == 0 && length(aws_iam_role.this) == 3
    error_message = "An existing bucket is left as it is."
  }
  assert {
    condition     = contains([for one in jsondecode(output.bucket_policy).Statement : one.Sid], "VersionsStay")
    error_message = "Its owner is told what to add."
  }
}
