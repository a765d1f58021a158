output "url" {
  description = "URL of the store, as --store takes it."
  value       = "s3://${var.bucket}${var.prefix == "" ? "" : "/${var.prefix}"}?region=${var.region}"
}

output "stores" {
  description = "By role: the store for modules/config."
  value = { for role in local.roles : role => {
    url = "s3://${var.bucket}${var.prefix == "" ? "" : "/${var.prefix}"}?region=${var.region}"
    credentials = var.token_file == null && var.token_from == null ? null : {
      kind       = "web-identity"
      role       = "arn:aws:iam::${var.account_id}:role/${var.name}-${role}"
      token_file = var.token_file
      token_from = var.token_from
    }
    files = {}
  } }
}

output "role_arns" {
  description = "By role: its ARN, for whoever is to take it."
  value       = { for role in local.roles : role => "arn:aws:iam::${var.account_id}:role/${var.name}-${role}" }
}

output "policies" {
  description = "By role: its policy, for review and for existing roles."
  value       = { for role in local.roles : role => aws_iam_role_policy.this[role].policy }
}

output "trust_policies" {
  description = "By role: who may take it, for review."
  value       = { for role in local.roles : role => aws_iam_role.this[role].assume_role_policy }
}

output "bucket_policy" {
  description = "Policy that the bucket needs: an existing bucket gets it by hand."
  value       = local.bucket_policy
}

output "failures_queue" {
  description = "ARN of the queue of runs that could not be started, to set an alarm on; null without a job."
  value       = one(aws_sqs_queue.failures[*].arn)
}
