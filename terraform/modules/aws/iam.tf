# Who may do what: a writer creates and reads, a pruner also deletes below four folders, a reader reads.

locals {
  roles = ["writer", "pruner", "reader"]
  # Google's tokens are known to AWS without a provider.
  google  = "https://accounts.google.com"
  issuers = toset([for one in values(var.federation) : one.issuer if one.issuer != local.google && !contains(keys(var.oidc_provider_arns), one.issuer)])
  provider_arns = merge(
    { for issuer in local.issuers : issuer => aws_iam_openid_connect_provider.this[issuer].arn },
    var.oidc_provider_arns,
    { (local.google) = "accounts.google.com" },
  )
  trusted = { for role in local.roles : role => [
    for one in values(var.federation) : {
      provider = local.provider_arns[one.issuer]
      # What condition keys are called after.
      host     = trimprefix(one.issuer, "https://")
      google   = one.issuer == local.google
      subjects = one.subjects
      audience = one.audience
    } if one.role == role
  ] }
}

resource "aws_iam_openid_connect_provider" "this" {
  for_each = local.issuers
  url      = each.value
  # All audiences that are asked for in this issuer's name.
  client_id_list = distinct([for one in values(var.federation) : one.audience if one.issuer == each.value])
  tags           = var.tags
}

resource "aws_iam_role" "this" {
  for_each    = toset(local.roles)
  name        = "${var.name}-${each.value}"
  description = "Holdfast: ${each.value} of ${var.bucket}"
  assume_role_policy = templatefile("${path.module}/policies/trust.json.tftpl", {
    account_id = var.account_id
    trusted    = local.trusted[each.value]
    principals = lookup(var.principals, each.value, [])
    pods       = lookup(var.pods, each.value, [])
  })
  max_session_duration = 43200
  tags                 = var.tags
}

resource "aws_iam_role_policy" "this" {
  for_each = toset(local.roles)
  name     = "holdfast"
  role     = aws_iam_role.this[each.value].id
  policy = templatefile("${path.module}/policies/${each.value}.json.tftpl", {
    bucket_arn = local.bucket_arn
    prefix     = local.prefix
    kms_arn    = local.with_kms ? local.kms_arn : ""
  })
}

# The job's roles may also ask for tokens that other clouds accept.
resource "aws_iam_role_policy" "tokens" {
  for_each = var.job != null && length(var.token_audiences) > 0 ? toset(["writer", "pruner"]) : toset([])
  name     = "tokens"
  role     = aws_iam_role.this[each.value].id
  policy   = templatefile("${path.module}/policies/tokens.json.tftpl", { audiences = values(var.token_audiences) })
}
