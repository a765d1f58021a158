# The module azure by itself.

mock_provider "aws" {}
mock_provider "google" {}
mock_provider "azurerm" {}

variables {
  tenant_id       = "00000000-0000-0000-0000-000000000001"
  subscription_id = "00000000-0000-0000-0000-000000000002"
  resource_group  = "backups"
  location        = "francecentral"
  account         = "testaccount"
  container       = "container"
}

run "account" {
  module {
    source = "./modules/azure"
  }
  assert {
    condition     = !azurerm_storage_account.this[0].shared_access_key_enabled && !azurerm_storage_account.this[0].local_user_enabled && !azurerm_storage_account.this[0].allow_nested_items_to_be_public && azurerm_storage_container.this[0].container_access_type == "private"
    error_message = "No keys, no local users, nothing public."
  }
  assert {
    condition     = azurerm_storage_account.this[0].https_traffic_only_enabled && azurerm_storage_account.this[0].min_tls_version == "TLS1_2"
    error_message = "Encrypted connections only."
  }
  assert {
    condition     = azurerm_storage_account.this[0].blob_properties[0].versioning_enabled && azurerm_storage_account.this[0].blob_properties[0].delete_retention_policy[0].days == 30
    error_message = "What was deleted can be brought back."
  }
  assert {
    condition     = azurerm_management_lock.this[0].lock_level == "CanNotDelete" && length(azurerm_storage_account.this[0].immutability_policy) == 0
    error_message = "The account is not deleted by mistake; objects are immutable only when asked."
  }
  assert {
    condition     = [for role in ["writer", "pruner", "reader"] : [for action in azurerm_role_definition.this[role].permissions[0].data_actions : trimprefix(action, "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/")]] == [["add/action", "read"], ["add/action", "delete", "read"], ["read"]]
    error_message = "A writer adds, a pruner also deletes, a reader reads; nobody overwrites."
  }
  assert {
    condition     = azurerm_role_assignment.this["writer"].condition == null && strcontains(azurerm_role_assignment.this["pruner"].condition, "StringStartsWith 'snapshots/'") && !strcontains(azurerm_role_assignment.this["pruner"].condition, "StringStartsWith ''")
    error_message = "In a container of its own only deleting needs a condition."
  }
  assert {
    condition     = output.url == "az://testaccount/container" && output.stores["writer"].credentials == null
    error_message = "The store's URL names account and container."
  }
}

run "prefix_lock_and_key" {
  module {
    source = "./modules/azure"
  }
  variables {
    prefix            = "a/prefix"
    immutability_days = 7
    kms_key_id        = "https://vault.example/keys/holdfast"
    kms_identity_id   = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i"
  }
  assert {
    condition     = strcontains(azurerm_role_assignment.this["reader"].condition, "StringStartsWith 'a/prefix/'") && strcontains(azurerm_role_assignment.this["pruner"].condition, "StringStartsWith 'a/prefix/data/'")
    error_message = "Rights end at the prefix."
  }
  assert {
    condition     = azurerm_storage_account.this[0].immutability_policy[0].state == "Unlocked" && azurerm_storage_account.this[0].customer_managed_key[0].key_vault_key_id == "https://vault.example/keys/holdfast"
    error_message = "Immutability and a key of one's own, when asked."
  }
}

run "federation" {
  module {
    source = "./modules/azure"
  }
  variables {
    token_file = "/tokens/azure"
    federation = { github = { issuer = "https://token.actions.githubusercontent.com", subjects = ["repo:o@1/r@2:environment:e", "repo:o/r:environment:e"] } }
  }
  assert {
    condition     = toset([for one in values(azurerm_federated_identity_credential.this) : one.subject]) == toset(["repo:o@1/r@2:environment:e", "repo:o/r:environment:e"])
    error_message = "One credential for each exact subject."
  }
  assert {
    condition     = output.stores["writer"].credentials.kind == "workload-identity"
    error_message = "The configuration logs in by the token."
  }
}

run "job" {
  module {
    source = "./modules/azure"
  }
  variables {
    managed_identity = true
    token_audiences  = { aws = "api://holdfast" }
    config           = { writer = { "holdfast.toml" = "w" }, pruner = { "holdfast.toml" = "p" } }
    job = {
      image           = "registry.example/holdfast@sha256:00"
      password_secret = "https://vault.example/secrets/holdfast"
      environment_id  = "/subscriptions/s/resourceGroups/g/providers/Microsoft.App/managedEnvironments/e"
    }
  }
  assert {
    condition     = [for role in ["writer", "pruner"] : join(" ", azurerm_container_app_job.this[role].template[0].container[0].args)] == ["run --init --no-lifecycle", "lifecycle"]
    error_message = "The writer runs the jobs, and the pruner the lifecycle."
  }
  assert {
    condition     = alltrue([for role in ["writer", "pruner"] : one(azurerm_container_app_job.this[role].identity[0].identity_ids) == azurerm_user_assigned_identity.this[role].id])
    error_message = "Each runs as who it is."
  }
  assert {
    condition     = strcontains(azurerm_container_app_job.this["writer"].template[0].init_container[0].args[0], "api://holdfast") && output.stores["pruner"].credentials.kind == "managed-identity"
    error_message = "Tokens for other clouds are fetched first; at its own it logs in as itself."
  }
}

run "others" {
  module {
    source = "./modules/azure"
  }
  variables {
    principals = { reader = ["00000000-0000-0000-0000-0000000000aa"] }
  }
  assert {
    condition     = one(values(azurerm_role_assignment.others)).principal_id == "00000000-0000-0000-0000-0000000000aa" && one(values(azurerm_role_assignment.others)).role_definition_id == azurerm_role_definition.this["reader"].role_definition_resource_id
    error_message = "Whoever restores has the reader's rights."
  }
}
