# Who may do what: a writer creates and reads, a pruner also deletes below four folders, a reader reads. Whoever may create and
# not delete cannot overwrite either.

locals {
  roles  = ["writer", "pruner", "reader"]
  emails = { for role in local.roles : role => "${var.name}-${role}@${var.project}.iam.gserviceaccount.com" }
  rights = { for role in local.roles : role => jsondecode(templatefile("${path.module}/policies/${role}.json.tftpl", {
    bucket = var.bucket
    prefix = local.prefix
  })) }
  # One custom role for each kind of right, shared by the accounts that have it.
  kinds    = merge([for role in local.roles : { for right in local.rights[role].bindings : right.name => right.permissions }]...)
  bindings = merge([for role in local.roles : { for right in local.rights[role].bindings : "${role}-${right.name}" => merge(right, { account = role }) }]...)
  members = merge(
    { for one in flatten([for role, members in var.principals : [for member in members : { role = role, member = member }]]) : "${one.role}-${one.member}" => merge(one, { right = "roles/iam.serviceAccountTokenCreator" }) },
    { for one in flatten([for role, accounts in var.kubernetes_service_accounts : [for account in accounts : { role = role, member = "serviceAccount:${var.project}.svc.id.goog[${account}]" }]]) : "${one.role}-${one.member}" => merge(one, { right = "roles/iam.workloadIdentityUser" }) },
  )
  subjects = merge([for name, one in var.federation : { for index, subject in one.subjects : "${name}-${index}" => { role = one.role, subject = subject } }]...)
}

resource "google_service_account" "this" {
  for_each     = toset(local.roles)
  project      = var.project
  account_id   = "${var.name}-${each.value}"
  display_name = "Holdfast: ${each.value} of ${var.bucket}"
}

resource "google_project_iam_custom_role" "this" {
  for_each    = local.kinds
  project     = var.project
  role_id     = "${replace(var.name, "-", "_")}_${each.key}"
  title       = "Holdfast: ${each.key} objects"
  permissions = each.value
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = local.bindings
  bucket   = var.create_bucket ? google_storage_bucket.this[0].name : var.bucket
  role     = google_project_iam_custom_role.this[each.value.name].id
  member   = "serviceAccount:${google_service_account.this[each.value.account].email}"
  dynamic "condition" {
    for_each = each.value.condition == "" ? [] : [each.value.condition]
    content {
      title      = "holdfast-${each.value.name}"
      expression = condition.value
    }
  }
}

resource "google_iam_workload_identity_pool" "this" {
  count                     = length(var.federation) > 0 ? 1 : 0
  project                   = var.project
  workload_identity_pool_id = var.name
  display_name              = "Holdfast"
}

resource "google_iam_workload_identity_pool_provider" "this" {
  for_each                           = var.federation
  project                            = var.project
  workload_identity_pool_id          = google_iam_workload_identity_pool.this[0].workload_identity_pool_id
  workload_identity_pool_provider_id = each.key
  attribute_mapping                  = { "google.subject" = "assertion.sub" }
  attribute_condition = join(" && ", compact([
    "assertion.sub in ${jsonencode(each.value.subjects)}",
    each.value.condition,
  ]))
  oidc {
    issuer_uri        = each.value.issuer
    allowed_audiences = each.value.audience == null ? null : [each.value.audience]
  }
}

resource "google_service_account_iam_member" "federation" {
  for_each           = local.subjects
  service_account_id = google_service_account.this[each.value.role].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.this[0].name}/subject/${each.value.subject}"
}

# Those who act as an account otherwise: people by impersonation, pods of GKE by their own service account.
resource "google_service_account_iam_member" "others" {
  for_each           = local.members
  service_account_id = google_service_account.this[each.value.role].name
  role               = each.value.right
  member             = each.value.member
}
