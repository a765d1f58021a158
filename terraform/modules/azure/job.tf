# The scheduled job: a job of Container Apps as writer every day, and one as pruner every week.

locals {
  jobs = var.job == null ? {} : {
    writer = { schedule = var.job.run_schedule, args = ["run", "--init", "--no-lifecycle"], files = lookup(var.config, "writer", {}) }
    pruner = { schedule = var.job.lifecycle_schedule, args = ["lifecycle"], files = lookup(var.config, "pruner", {}) }
  }
  # Tokens of managed identities last a day, and the job ends before. One that cannot be had costs one store, and not the backup.
  fetch_tokens = join("\n", concat(["set -eu"], [
    for file, audience in var.token_audiences :
    "curl -sf -G -H \"X-IDENTITY-HEADER: $IDENTITY_HEADER\" --data-urlencode 'resource=${audience}' -d api-version=2019-08-01 -d \"client_id=$CLIENT_ID\" \"$IDENTITY_ENDPOINT\" | sed -e 's/.*\"access_token\" *: *\"//' -e 's/\".*//' > /tokens/${file} && test -s /tokens/${file} || echo 'no token for ${file}' >&2"
  ]))
}

resource "azurerm_container_app_job" "this" {
  for_each                     = local.jobs
  name                         = "${var.name}-${each.key}"
  resource_group_name          = var.resource_group
  location                     = var.location
  container_app_environment_id = var.job.environment_id
  replica_timeout_in_seconds   = var.job.timeout_seconds
  replica_retry_limit          = 1
  tags                         = var.tags
  schedule_trigger_config {
    cron_expression          = each.value.schedule
    parallelism              = 1
    replica_completion_count = 1
  }
  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.this[each.key].id]
  }
  secret {
    name                = "password"
    identity            = azurerm_user_assigned_identity.this[each.key].id
    key_vault_secret_id = var.job.password_secret
  }
  # The files of the configuration hold no secret; Container Apps mounts files from here alone.
  dynamic "secret" {
    for_each = each.value.files
    content {
      name  = secret.key
      value = secret.value
    }
  }
  template {
    container {
      name   = "holdfast"
      image  = var.job.image
      args   = each.value.args
      cpu    = var.job.cpu
      memory = var.job.memory
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
        name        = "HOLDFAST_PASSWORD"
        secret_name = "password"
      }
      volume_mounts {
        name = "config"
        path = "/etc/holdfast"
      }
      volume_mounts {
        name = "state"
        path = "/state"
      }
      volume_mounts {
        name = "tokens"
        path = "/tokens"
      }
      dynamic "volume_mounts" {
        for_each = var.job.volumes
        content {
          name = volume_mounts.key
          path = volume_mounts.value.path
        }
      }
    }
    dynamic "init_container" {
      for_each = length(var.token_audiences) > 0 ? [1] : []
      content {
        name    = "tokens"
        image   = var.job.tools_image
        command = ["/bin/sh", "-c"]
        args    = [local.fetch_tokens]
        cpu     = 0.25
        memory  = "0.5Gi"
        env {
          name  = "CLIENT_ID"
          value = azurerm_user_assigned_identity.this[each.key].client_id
        }
        volume_mounts {
          name = "tokens"
          path = "/tokens"
        }
      }
    }
    volume {
      name         = "config"
      storage_type = "Secret"
    }
    volume {
      name         = "state"
      storage_type = "EmptyDir"
    }
    volume {
      name         = "tokens"
      storage_type = "EmptyDir"
    }
    dynamic "volume" {
      for_each = var.job.volumes
      content {
        name         = volume.key
        storage_type = "AzureFile"
        storage_name = volume.value.storage_name
      }
    }
  }
}
