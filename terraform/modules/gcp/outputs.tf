output "url" {
  description = "URL of the store, as --store takes it."
  value       = "gs://${var.bucket}${var.prefix == "" ? "" : "/${var.prefix}"}"
}

output "stores" {
  description = "By role: the store for modules/config. With a token file, gcp.json tells how it is exchanged; it holds no secret."
  value = { for role in local.roles : role => {
    url         = "gs://${var.bucket}${var.prefix == "" ? "" : "/${var.prefix}"}"
    credentials = var.token_file == null ? null : { kind = "file", file = "gcp.json" }
    files = var.token_file == null || !contains(keys(var.login), role) ? {} : {
      "gcp.json" = jsonencode({
        type                              = "external_account"
        universe_domain                   = "googleapis.com"
        audience                          = "//iam.googleapis.com/${google_iam_workload_identity_pool_provider.this[var.login[role]].name}"
        subject_token_type                = "urn:ietf:params:oauth:token-type:jwt"
        token_url                         = "https://sts.googleapis.com/v1/token"
        service_account_impersonation_url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/${local.emails[role]}:generateAccessToken"
        credential_source                 = { file = var.token_file }
      })
    }
  } }
}

output "emails" {
  description = "By role: the service account."
  value       = local.emails
}

output "subjects" {
  description = "By role: the account's unique id, which is the subject of its tokens."
  value       = { for role in local.roles : role => google_service_account.this[role].unique_id }
}

output "rights" {
  description = "By role: what it may do, for review."
  value       = local.rights
}
