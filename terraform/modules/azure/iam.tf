# Who may do what: a writer creates and reads, a pruner also deletes below four folders, a reader reads.

locals {
  roles = ["writer", "pruner", "reader"]
  rights = { for role in local.roles : role => jsondecode(templatefile("${path.module}/policies/${role}.json.tftpl", {
    prefix = local.prefix
  })) }
  others = { for one in flatten([for role, ids in var.principals : [for id in ids : { role = role, id = id }]]) : "${one.role}-${one.id}" => one }
  # One credential for each exact subject: Entra knows no patterns here.
  subjects = merge([for name, one in var.federation : {
    for index, subject in one.subjects : "${name}-${index}" => { issuer = one.issuer, subject = subject, role = one.role, audience = one.audience }
  }]...)
}

resource "azurerm_user_assigned_identity" "this" {
  for_each            = toset(local.roles)
  name                = "${var.name}-${each.value}"
  resource_group_name = var.resource_group
  location            = var.location
  tags                = var.tags
}

resource "azurerm_role_definition" "this" {
  for_each    = toset(local.roles)
  name        = "Holdfast ${each.value} of ${var.account}/${var.container} (${var.name})"
  scope       = local.account_id
  description = "What Holdfast needs as ${each.value}, and nothing else"
  permissions {
    actions          = []
    data_actions     = local.rights[each.value].data_actions
    not_data_actions = local.rights[each.value].not_data_actions
  }
  assignable_scopes = [local.account_id]
  depends_on        = [azurerm_storage_account.this]
}

resource "azurerm_role_assignment" "this" {
  for_each           = toset(local.roles)
  scope              = local.container_id
  role_definition_id = azurerm_role_definition.this[each.value].role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.this[each.value].principal_id
  principal_type     = "ServicePrincipal"
  condition          = local.rights[each.value].condition == "" ? null : local.rights[each.value].condition
  condition_version  = local.rights[each.value].condition == "" ? null : "2.0"
  depends_on         = [azurerm_storage_container.this]
}

# Those who have the same rights by an identity of their own.
resource "azurerm_role_assignment" "others" {
  for_each           = local.others
  scope              = local.container_id
  role_definition_id = azurerm_role_definition.this[each.value.role].role_definition_resource_id
  principal_id       = each.value.id
  condition          = local.rights[each.value.role].condition == "" ? null : local.rights[each.value.role].condition
  condition_version  = local.rights[each.value.role].condition == "" ? null : "2.0"
  depends_on         = [azurerm_storage_container.this]
}

resource "azurerm_federated_identity_credential" "this" {
  for_each                  = local.subjects
  name                      = "${var.name}-${each.key}"
  user_assigned_identity_id = azurerm_user_assigned_identity.this[each.value.role].id
  issuer                    = each.value.issuer
  subject                   = each.value.subject
  audience                  = [each.value.audience]
}
