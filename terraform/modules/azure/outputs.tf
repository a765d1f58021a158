output "url" {
  description = "URL of the store, as --store takes it."
  value       = "az://${var.account}/${var.container}${var.prefix == "" ? "" : "/${var.prefix}"}"
}

output "stores" {
  description = "By role: the store for modules/config."
  value = { for role in local.roles : role => {
    url = "az://${var.account}/${var.container}${var.prefix == "" ? "" : "/${var.prefix}"}"
    credentials = var.token_file != null || var.token_from != null ? {
      kind       = "workload-identity"
      tenant_id  = var.tenant_id
      client_id  = azurerm_user_assigned_identity.this[role].client_id
      token_file = var.token_file
      token_from = var.token_from
      } : !var.managed_identity ? null : {
      kind       = "managed-identity"
      tenant_id  = null
      client_id  = azurerm_user_assigned_identity.this[role].client_id
      token_file = null
      token_from = null
    }
    files = {}
  } }
}

output "client_ids" {
  description = "By role: the identity's client id, for whoever is to log in as it."
  value       = { for role in local.roles : role => azurerm_user_assigned_identity.this[role].client_id }
}

output "subjects" {
  description = "By role: the identity's object id, which is the subject of its tokens."
  value       = { for role in local.roles : role => azurerm_user_assigned_identity.this[role].principal_id }
}

output "trusted" {
  description = "By name: who may log in as an identity by a token: issuer, subject, audience and role, for review."
  value       = local.subjects
}

output "rights" {
  description = "By role: what it may do, for review."
  value       = local.rights
}
