# The scheduled job: a job of Cloud Run as writer every day, and one as pruner every week.

locals {
  jobs = var.job == null ? {} : {
    writer = { schedule = var.job.run_schedule, args = ["run", "--init", "--no-lifecycle"], files = lookup(var.config, "writer", {}) }
    pruner = { schedule = var.job.lifecycle_schedule, args = ["lifecycle"], files = lookup(var.config, "pruner", {}) }
  }
  file_secrets = merge([for role, job in local.jobs : { for name, text in job.files : "${role}-${replace(name, ".", "-")}" => { role = role, name = name, text = text } }]...)
}

# The files of the configuration hold no secret; Cloud Run mounts files from here alone.
resource "google_secret_manager_secret" "file" {
  for_each  = { for key, file in local.file_secrets : key => { role = file.role } }
  project   = var.project
  secret_id = "${var.name}-${each.key}"
  labels    = var.labels
  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "file" {
  for_each    = local.file_secrets
  secret      = google_secret_manager_secret.file[each.key].id
  secret_data = each.value.text
}

resource "google_secret_manager_secret_iam_member" "file" {
  for_each  = { for key, file in local.file_secrets : key => { role = file.role } }
  project   = var.project
  secret_id = google_secret_manager_secret.file[each.key].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.this[each.value.role].email}"
}

resource "google_secret_manager_secret_iam_member" "password" {
  for_each  = local.jobs
  project   = var.project
  secret_id = var.job.password_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${google_service_account.this[each.key].email}"
}

resource "google_cloud_run_v2_job" "this" {
  for_each = local.jobs
  name     = "${var.name}-${each.key}"
  project  = var.project
  location = var.job.region
  labels   = var.labels
  # It can be made again at any time; what matters is in the bucket.
  deletion_protection = false
  template {
    task_count  = 1
    parallelism = 1
    template {
      service_account = google_service_account.this[each.key].email
      timeout         = var.job.timeout
      max_retries     = 1
      containers {
        name  = "holdfast"
        image = var.job.image
        args  = each.value.args
        env {
          name  = "HOLDFAST_CONFIG"
          value = "/etc/holdfast/holdfast.toml"
        }
        env {
          name  = "HOLDFAST_STATE_DIR"
          value = "/state"
        }
        env {
          name  = "TMPDIR"
          value = "/state"
        }
        env {
          name = "HOLDFAST_PASSWORD"
          value_source {
            secret_key_ref {
              secret  = var.job.password_secret
              version = "latest"
            }
          }
        }
        resources {
          limits = { cpu = var.job.cpu, memory = var.job.memory }
        }
        volume_mounts {
          name       = "state"
          mount_path = "/state"
        }
        dynamic "volume_mounts" {
          for_each = each.value.files
          content {
            name       = replace(volume_mounts.key, ".", "-")
            mount_path = volume_mounts.key == "holdfast.toml" ? "/etc/holdfast" : "/etc/holdfast-${replace(volume_mounts.key, ".", "-")}"
          }
        }
        dynamic "volume_mounts" {
          for_each = var.job.volumes
          content {
            name       = volume_mounts.key
            mount_path = volume_mounts.value.path
          }
        }
      }
      volumes {
        name = "state"
        empty_dir {
          medium = "MEMORY"
        }
      }
      dynamic "volumes" {
        for_each = each.value.files
        content {
          name = replace(volumes.key, ".", "-")
          secret {
            secret = google_secret_manager_secret.file["${each.key}-${replace(volumes.key, ".", "-")}"].secret_id
            items {
              path    = volumes.key
              version = "latest"
            }
          }
        }
      }
      dynamic "volumes" {
        for_each = var.job.volumes
        content {
          name = volumes.key
          nfs {
            server    = volumes.value.server
            path      = volumes.value.export
            read_only = true
          }
        }
      }
      dynamic "vpc_access" {
        for_each = var.job.network == null ? [] : [1]
        content {
          egress = "PRIVATE_RANGES_ONLY"
          network_interfaces {
            network    = var.job.network
            subnetwork = var.job.subnetwork
          }
        }
      }
    }
  }
  depends_on = [google_secret_manager_secret_version.file, google_secret_manager_secret_iam_member.file, google_secret_manager_secret_iam_member.password]
}

resource "google_service_account" "scheduler" {
  count        = var.job == null ? 0 : 1
  project      = var.project
  account_id   = "${var.name}-schedule"
  display_name = "Holdfast: starts the job when it is due"
}

resource "google_cloud_run_v2_job_iam_member" "scheduler" {
  for_each = local.jobs
  project  = var.project
  location = var.job.region
  name     = google_cloud_run_v2_job.this[each.key].name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${google_service_account.scheduler[0].email}"
}

resource "google_cloud_scheduler_job" "this" {
  for_each         = local.jobs
  name             = "${var.name}-${each.key}"
  project          = var.project
  region           = var.job.region
  schedule         = each.value.schedule
  time_zone        = var.job.timezone
  paused           = !var.job.enabled
  attempt_deadline = "180s"
  retry_config {
    retry_count = 5
  }
  http_target {
    http_method = "POST"
    uri         = "https://run.googleapis.com/v2/projects/${var.project}/locations/${var.job.region}/jobs/${google_cloud_run_v2_job.this[each.key].name}:run"
    oauth_token {
      service_account_email = google_service_account.scheduler[0].email
      scope                 = "https://www.googleapis.com/auth/cloud-platform"
    }
  }
}
