# The account and its container: no keys, no public access, versions, soft deletion.

locals {
  # As object names begin: empty, or with a slash at the end.
  prefix       = var.prefix == "" ? "" : "${var.prefix}/"
  account_id   = "/subscriptions/${var.subscription_id}/resourceGroups/${var.resource_group}/providers/Microsoft.Storage/storageAccounts/${var.account}"
  container_id = "${local.account_id}/blobServices/default/containers/${var.container}"
}

resource "azurerm_storage_account" "this" {
  count                            = var.create_account ? 1 : 0
  name                             = var.account
  resource_group_name              = var.resource_group
  location                         = var.location
  account_tier                     = "Standard"
  account_kind                     = "StorageV2"
  account_replication_type         = var.replication
  shared_access_key_enabled        = false
  default_to_oauth_authentication  = true
  https_traffic_only_enabled       = true
  min_tls_version                  = "TLS1_2"
  allow_nested_items_to_be_public  = false
  local_user_enabled               = false
  cross_tenant_replication_enabled = false
  tags                             = var.tags
  blob_properties {
    versioning_enabled = true
    # On Azure the way back after a prune: versions count their age from when they were written.
    delete_retention_policy {
      days = var.old_versions_days
    }
    container_delete_retention_policy {
      days = var.old_versions_days
    }
  }
  dynamic "immutability_policy" {
    for_each = var.immutability_days > 0 ? [1] : []
    content {
      state                         = var.immutability_locked ? "Locked" : "Unlocked"
      period_since_creation_in_days = var.immutability_days
      allow_protected_append_writes = false
    }
  }
  dynamic "identity" {
    for_each = var.kms_key_id == null ? [] : [1]
    content {
      type         = "UserAssigned"
      identity_ids = [var.kms_identity_id]
    }
  }
  dynamic "customer_managed_key" {
    for_each = var.kms_key_id == null ? [] : [1]
    content {
      key_vault_key_id          = var.kms_key_id
      user_assigned_identity_id = var.kms_identity_id
    }
  }
}

resource "azurerm_storage_container" "this" {
  count                 = var.create_account ? 1 : 0
  name                  = var.container
  storage_account_id    = azurerm_storage_account.this[0].id
  container_access_type = "private"
}

resource "azurerm_storage_management_policy" "this" {
  count              = var.create_account ? 1 : 0
  storage_account_id = azurerm_storage_account.this[0].id
  # Old versions alone: nothing that is current ever goes by itself. Blocks that were never committed go after a week anyway.
  rule {
    name    = "old-versions"
    enabled = true
    filters {
      blob_types = ["blockBlob"]
    }
    actions {
      version {
        delete_after_days_since_creation = var.old_versions_days
      }
    }
  }
}

# Whoever deletes the account by mistake has to take this away first.
resource "azurerm_management_lock" "this" {
  count      = var.create_account ? 1 : 0
  name       = "holdfast-backups"
  scope      = azurerm_storage_account.this[0].id
  lock_level = "CanNotDelete"
  notes      = "Backups: removing this account removes them."
}
