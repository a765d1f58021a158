# The module gcp by itself.

mock_provider "aws" {}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  project  = "project-1"
  location = "EUROPE-WEST9"
  bucket   = "bucket"
  prefix   = "a/prefix"
}

run "bucket" {
  module {
    source = "./modules/gcp"
  }
  assert {
    condition     = google_storage_bucket.this[0].uniform_bucket_level_access && google_storage_bucket.this[0].public_access_prevention == "enforced"
    error_message = "Nothing of a backup is public."
  }
  assert {
    condition     = google_storage_bucket.this[0].versioning[0].enabled && length(google_storage_bucket.this[0].retention_policy) == 0 && google_storage_bucket.this[0].soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "Old versions are the way back, paid for once."
  }
  assert {
    condition     = alltrue([for rule in google_storage_bucket.this[0].lifecycle_rule : one(rule.condition).with_state == "ARCHIVED" if one(rule.action).type == "Delete"])
    error_message = "No rule of the bucket may remove what is current."
  }
  assert {
    condition     = { for name, role in google_project_iam_custom_role.this : name => role.permissions } == { list = toset(["storage.objects.list"]), read = toset(["storage.objects.get"]), create = toset(["storage.objects.create"]), delete = toset(["storage.objects.delete"]) }
    error_message = "Each right has a role of its own."
  }
  assert {
    condition     = toset(keys(google_storage_bucket_iam_member.this)) == toset(["writer-list", "writer-read", "writer-create", "pruner-list", "pruner-read", "pruner-create", "pruner-delete", "reader-list", "reader-read"])
    error_message = "Only the pruner deletes, and the reader only reads."
  }
  assert {
    condition     = google_storage_bucket_iam_member.this["pruner-delete"].condition[0].expression == join(" || ", [for folder in ["data", "meta", "index", "snapshots"] : "resource.name.startsWith(\"projects/_/buckets/bucket/objects/a/prefix/${folder}/\")"])
    error_message = "It deletes below the four folders that prune deletes from."
  }
  assert {
    condition     = length(google_cloud_run_v2_job.this) + length(google_iam_workload_identity_pool.this) == 0 && output.url == "gs://bucket/a/prefix"
    error_message = "Without a job and others that are trusted, nothing of theirs is made."
  }
}

run "retention" {
  module {
    source = "./modules/gcp"
  }
  variables {
    undo             = "retention"
    retention_days   = 7
    retention_locked = true
    create_kms_key   = true
  }
  assert {
    condition     = google_storage_bucket.this[0].retention_policy[0].retention_period == "604800" && google_storage_bucket.this[0].retention_policy[0].is_locked && !google_storage_bucket.this[0].versioning[0].enabled
    error_message = "Retention instead of versions: Cloud Storage has one or the other."
  }
  assert {
    condition     = google_storage_bucket.this[0].encryption[0].default_kms_key_name == google_kms_crypto_key.bucket[0].id
    error_message = "The key of one's own encrypts what comes."
  }
}

run "job" {
  module {
    source = "./modules/gcp"
  }
  variables {
    config = { writer = { "holdfast.toml" = "w" }, pruner = { "holdfast.toml" = "p" } }
    job = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "holdfast-password"
      region          = "europe-west9"
    }
  }
  assert {
    condition     = [for role in ["writer", "pruner"] : join(" ", google_cloud_run_v2_job.this[role].template[0].template[0].containers[0].args)] == ["run --init --no-lifecycle", "lifecycle"]
    error_message = "The writer runs the jobs, and the pruner the lifecycle."
  }
  assert {
    condition     = alltrue([for role in ["writer", "pruner"] : google_cloud_run_v2_job.this[role].template[0].template[0].service_account == google_service_account.this[role].email])
    error_message = "Each runs as who it is."
  }
  assert {
    condition     = google_cloud_scheduler_job.this["writer"].http_target[0].oauth_token[0].service_account_email == google_service_account.scheduler[0].email && google_cloud_run_v2_job_iam_member.scheduler["pruner"].role == "roles/run.invoker"
    error_message = "The schedule starts the jobs, and may do nothing else."
  }
  assert {
    condition     = google_secret_manager_secret_version.file["pruner-holdfast-toml"].secret_data == "p"
    error_message = "Each has its own configuration."
  }
}

run "federation" {
  module {
    source = "./modules/gcp"
  }
  variables {
    token_file = "/tokens/gcp"
    login      = { writer = "github" }
    federation = {
      github = {
        issuer    = "https://token.actions.githubusercontent.com"
        subjects  = ["repo:o@1/r@2:environment:e", "repo:o/r:environment:e"]
        audience  = "holdfast-test"
        condition = "assertion.repository_id == '2'"
      }
    }
  }
  assert {
    condition     = google_iam_workload_identity_pool_provider.this["github"].attribute_condition == "assertion.sub in [\"repo:o@1/r@2:environment:e\",\"repo:o/r:environment:e\"] && assertion.repository_id == '2'"
    error_message = "A workflow is known by exact subjects and by its repository's id."
  }
  assert {
    condition     = length(google_service_account_iam_member.federation) == 2 && output.stores["writer"].credentials == { kind = "file", file = "gcp.json" }
    error_message = "Both forms of the subject may act as the writer."
  }
  assert {
    condition     = jsondecode(output.stores["writer"].files["gcp.json"]).credential_source.file == "/tokens/gcp" && jsondecode(output.stores["writer"].files["gcp.json"]).type == "external_account"
    error_message = "The file tells how the token is exchanged."
  }
}

run "others" {
  module {
    source = "./modules/gcp"
  }
  variables {
    location                    = "EU"
    create_kms_key              = true
    principals                  = { reader = ["group:restore@example.com"] }
    kubernetes_service_accounts = { writer = ["holdfast/holdfast-writer"], pruner = ["holdfast/holdfast-pruner"] }
  }
  assert {
    condition     = { for one in values(google_service_account_iam_member.others) : one.member => one.role } == { "group:restore@example.com" = "roles/iam.serviceAccountTokenCreator", "serviceAccount:project-1.svc.id.goog[holdfast/holdfast-writer]" = "roles/iam.workloadIdentityUser", "serviceAccount:project-1.svc.id.goog[holdfast/holdfast-pruner]" = "roles/iam.workloadIdentityUser" }
    error_message = "People act as an account, and pods are linked to one."
  }
  assert {
    condition     = google_kms_key_ring.bucket[0].location == "europe"
    error_message = "Cloud KMS calls the multi-region EU europe."
  }
}
