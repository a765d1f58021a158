# The bucket: versions or retention, no public access, uniform rights.

locals {
  # As object names begin: empty, or with a slash at the end.
  prefix   = var.prefix == "" ? "" : "${var.prefix}/"
  kms_key  = var.create_kms_key ? google_kms_crypto_key.bucket[0].id : var.kms_key
  with_kms = var.create_kms_key || var.kms_key != null
  versions = var.undo == "versions"
}

resource "google_storage_bucket" "this" {
  count                       = var.create_bucket ? 1 : 0
  name                        = var.bucket
  project                     = var.project
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Terraform never empties it: backups outlive the code that made room for them.
  force_destroy = false
  labels        = var.labels
  versioning {
    enabled = local.versions
  }
  # Old versions are the way back; soft deletion besides would be paid twice.
  soft_delete_policy {
    retention_duration_seconds = 0
  }
  dynamic "retention_policy" {
    for_each = local.versions ? [] : [1]
    content {
      retention_period = tostring(var.retention_days * 86400)
      is_locked        = var.retention_locked
    }
  }
  dynamic "encryption" {
    for_each = local.with_kms ? [1] : []
    content {
      default_kms_key_name = local.kms_key
    }
  }
  # Holdfast sends one request for each object; parts of others' uploads must not lie about for ever.
  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 3
    }
  }
  # What prune deletes becomes an old version: it goes here, and nothing that is current ever does.
  dynamic "lifecycle_rule" {
    for_each = local.versions ? [1] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        days_since_noncurrent_time = var.old_versions_days
        with_state                 = "ARCHIVED"
      }
    }
  }
  depends_on = [google_kms_crypto_key_iam_member.bucket]
}

resource "google_kms_key_ring" "bucket" {
  count   = var.create_kms_key ? 1 : 0
  name    = var.name
  project = var.project
  # Cloud KMS has a name of its own for one of Cloud Storage's multi-regions.
  location = upper(var.location) == "EU" ? "europe" : lower(var.location)
}

resource "google_kms_crypto_key" "bucket" {
  count           = var.create_kms_key ? 1 : 0
  name            = var.name
  key_ring        = google_kms_key_ring.bucket[0].id
  rotation_period = "7776000s"
  labels          = var.labels
}

data "google_storage_project_service_account" "this" {
  count   = var.create_kms_key ? 1 : 0
  project = var.project
}

# The bucket uses the key by itself: no identity of Holdfast ever touches it.
resource "google_kms_crypto_key_iam_member" "bucket" {
  count         = var.create_kms_key ? 1 : 0
  crypto_key_id = google_kms_crypto_key.bucket[0].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${data.google_storage_project_service_account.this[0].email_address}"
}
