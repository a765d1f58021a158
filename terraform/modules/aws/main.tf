# The bucket: versions, encryption, no public access, and nobody who may overwrite or remove a version.

locals {
  # As object names begin: empty, or with a slash at the end.
  prefix     = var.prefix == "" ? "" : "${var.prefix}/"
  bucket_arn = "arn:aws:s3:::${var.bucket}"
  kms_arn    = var.create_kms_key ? aws_kms_key.bucket[0].arn : var.kms_key_arn
  with_kms   = var.create_kms_key || var.kms_key_arn != null
  count      = var.create_bucket ? 1 : 0
  bucket_policy = templatefile("${path.module}/policies/bucket.json.tftpl", {
    bucket_arn = local.bucket_arn
    prefix     = local.prefix
    role_arns  = [for role in local.roles : "arn:aws:iam::${var.account_id}:role/${var.name}-${role}"]
  })
}

resource "aws_s3_bucket" "this" {
  count               = local.count
  bucket              = var.bucket
  object_lock_enabled = var.object_lock != null
  # Terraform never empties it: backups outlive the code that made room for them.
  force_destroy = false
  tags          = var.tags
}

resource "aws_s3_bucket_versioning" "this" {
  count  = local.count
  bucket = aws_s3_bucket.this[0].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "this" {
  count = var.create_bucket && var.object_lock != null ? 1 : 0
  # Locks need versions: this way they come first.
  bucket = aws_s3_bucket_versioning.this[0].bucket
  rule {
    default_retention {
      mode = var.object_lock.mode
      days = var.object_lock.days
    }
  }
}

resource "aws_kms_key" "bucket" {
  count                   = var.create_kms_key ? 1 : 0
  description             = "Encrypts the backups in ${var.bucket} once more"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = templatefile("${path.module}/policies/key.json.tftpl", { account_id = var.account_id })
  tags                    = var.tags
}

resource "aws_kms_alias" "bucket" {
  count         = var.create_kms_key ? 1 : 0
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.bucket[0].key_id
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  count  = local.count
  bucket = aws_s3_bucket.this[0].id
  rule {
    bucket_key_enabled = local.with_kms
    apply_server_side_encryption_by_default {
      sse_algorithm     = local.with_kms ? "aws:kms" : "AES256"
      kms_master_key_id = local.with_kms ? local.kms_arn : null
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  count  = local.count
  bucket = aws_s3_bucket_versioning.this[0].bucket
  # Holdfast sends one request for each object; parts of others' uploads must not lie about for ever.
  rule {
    id     = "aborted-uploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 3
    }
  }
  # What prune deletes becomes an old version: it goes here, and nothing that is current ever does.
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.old_versions_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  count                   = local.count
  bucket                  = aws_s3_bucket.this[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  count  = local.count
  bucket = aws_s3_bucket.this[0].id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "this" {
  count  = local.count
  bucket = aws_s3_bucket.this[0].id
  policy = local.bucket_policy
  # A policy is not public, but the block must stand before anything could make it so.
  depends_on = [aws_s3_bucket_public_access_block.this, aws_iam_role.this]
}
