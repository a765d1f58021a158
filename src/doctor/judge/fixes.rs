//! What to do about a matter, in the words of Terraform's providers and of the cloud's own consoles.

use crate::doctor::facts::Provider;

/// The fix for a matter at a provider; for what concerns all stores together, without one.
pub fn fix(provider: Option<Provider>, matter: &str) -> Option<&'static str> {
    use Provider::{Azure, Gcs, S3};
    Some(match (provider, matter) {
        (None, "replicas") => "add a [[store]] with another provider, then `holdfast heal`",
        (None, "places") => {
            "move one of them to another provider, account, region or disk: add it as a store, heal, then retire the old one"
        }
        (None, "quorum") => "set write_quorum in [repository], or leave it out: all but one",
        (None, "open") => {
            "`holdfast init` makes a repository; a secret is set with password_file, password_command or key_file in [repository]"
        }
        (None, "retention") => "run `holdfast lifecycle` by schedule, with an identity that may remove",
        (None, "whole") => "run `holdfast heal`, then `holdfast verify`",
        (None, "verified") => "run `holdfast verify`, or `holdfast lifecycle` by schedule",
        (Some(_), "repository") => "`holdfast init` makes one; where other stores hold it, `holdfast heal` brings it there",
        (Some(_), "clock") => "set the clock that is wrong",
        (Some(Provider::Directory), "read" | "list" | "create" | "remove") => "let this user own the directory and all in it",
        (Some(Provider::Directory), "modes") => "chmod 700 the store's directory",
        (Some(Provider::Directory), "room") => "make room, or move the store to a larger disk",
        (Some(Provider::Directory), "links" | "sync") => "use a file system that has both, such as ext4, xfs, zfs or NFS 4",
        (Some(_), "create-if-absent") => {
            "use a store that honours create-if-absent (S3: If-None-Match): this one cannot be shared safely"
        }
        (Some(S3), "read") => "grant s3:GetObject on the objects, and s3:ListBucket on the bucket",
        (Some(S3), "list") => "grant s3:ListBucket on the bucket",
        (Some(S3), "create") => "grant s3:PutObject to writers and pruners, and to nobody else",
        (Some(S3), "remove") => "grant s3:DeleteObject to the pruner's identity, and to nobody else",
        (Some(S3), "destroy") => "take s3:DeleteObjectVersion away: versions go by the lifecycle rule",
        (Some(Gcs), "read") => "grant storage.objects.get on the bucket",
        (Some(Gcs), "list") => "grant storage.objects.list on the bucket",
        (Some(Gcs), "create") => "grant storage.objects.create to writers and pruners, and to nobody else",
        (Some(Gcs), "remove") => "grant storage.objects.delete to the pruner's identity, and to nobody else",
        (Some(Azure), "read" | "list") => {
            "grant Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read on the container"
        }
        (Some(Azure), "create") => "grant .../containers/blobs/add/action to writers and pruners, and to nobody else",
        (Some(Azure), "remove") => "grant .../containers/blobs/delete to the pruner's identity, and to nobody else",
        (Some(_), "line") => "write https:// in the endpoint",
        (Some(S3), "versioning") => "aws_s3_bucket_versioning: status = \"Enabled\" (console: Bucket Versioning)",
        (Some(Gcs), "versioning") => "google_storage_bucket: versioning { enabled = true } (module gcp: undo = \"versions\")",
        (Some(Azure), "versioning") => "azurerm_storage_account: blob_properties { versioning_enabled = true }",
        (Some(Gcs), "soft-delete") => "google_storage_bucket: soft_delete_policy { retention_duration_seconds = 604800 }",
        (Some(Azure), "soft-delete") => {
            "azurerm_storage_account: blob_properties { delete_retention_policy { days } } (module azure: old_versions_days)"
        }
        (Some(S3), "lock") => "aws_s3_bucket_object_lock_configuration (module aws: object_lock; console: Object Lock)",
        (Some(Gcs), "lock") => "google_storage_bucket: retention_policy (module gcp: undo = \"retention\", retention_days)",
        (Some(Azure), "lock") => "azurerm_storage_account: immutability_policy (module azure: immutability_days)",
        (Some(S3), "expiry") => {
            "aws_s3_bucket_lifecycle_configuration: take `expiration` with days or a date out, or give the rule another prefix"
        }
        (Some(Gcs), "expiry") => {
            "google_storage_bucket: take the lifecycle_rule with action Delete out, or add with_state = \"ARCHIVED\""
        }
        (Some(Azure), "expiry") => "azurerm_storage_management_policy: take delete_after_days_... out of actions { base_blob }",
        (Some(S3), "archive") => {
            "aws_s3_bucket_lifecycle_configuration: take the `transition` out, or limit its filter to .../data/"
        }
        (Some(Gcs), "archive") => {
            "google_storage_bucket: take the lifecycle_rule with SetStorageClass out, or limit matches_prefix to .../data/"
        }
        (Some(Azure), "archive") => "azurerm_storage_management_policy: take tier_to_archive_... out of actions { base_blob }",
        (Some(S3), "uploads") => {
            "aws_s3_bucket_lifecycle_configuration: abort_incomplete_multipart_upload { days_after_initiation = 3 }"
        }
        (Some(Gcs), "uploads") => "google_storage_bucket: lifecycle_rule with action AbortIncompleteMultipartUpload and age = 3",
        (Some(S3), "old-versions") => {
            "aws_s3_bucket_lifecycle_configuration: noncurrent_version_expiration { noncurrent_days } (module aws: old_versions_days)"
        }
        (Some(Gcs), "old-versions") => {
            "google_storage_bucket: lifecycle_rule with action Delete and days_since_noncurrent_time (module gcp: old_versions_days)"
        }
        (Some(Azure), "old-versions" | "lifecycle") => {
            "azurerm_storage_management_policy: actions { version { delete_after_days_since_creation } }, and nothing in base_blob (module azure: old_versions_days)"
        }
        (Some(S3), "lifecycle") => "aws_s3_bucket_lifecycle_configuration (console: Management, Lifecycle rules)",
        (Some(Gcs), "lifecycle") => "google_storage_bucket: lifecycle_rule",
        (Some(S3), "public") => "take the statement that allows Principal \"*\" out of the bucket's policy",
        (Some(Gcs), "public") => "take allUsers and allAuthenticatedUsers out of the bucket's IAM policy",
        (Some(Azure), "public") => "azurerm_storage_container: container_access_type = \"private\"",
        (Some(S3), "public-block") => {
            "aws_s3_bucket_public_access_block with all four set, and aws_s3_bucket_ownership_controls: BucketOwnerEnforced"
        }
        (Some(Gcs), "public-block") => {
            "google_storage_bucket: public_access_prevention = \"enforced\", uniform_bucket_level_access = true"
        }
        (Some(Azure), "public-block") => "azurerm_storage_account: allow_nested_items_to_be_public = false",
        (Some(S3), "tls-only") => {
            "aws_s3_bucket_policy: deny s3:* to everybody where aws:SecureTransport is false (module aws: output bucket_policy)"
        }
        (Some(Azure), "tls-only") => "azurerm_storage_account: https_traffic_only_enabled = true, min_tls_version = \"TLS1_2\"",
        (Some(S3), "create-only") => {
            "aws_s3_bucket_policy: deny s3:PutObject where s3:if-none-match is absent (module aws: output bucket_policy)"
        }
        (Some(S3), "encryption") => {
            "aws_s3_bucket_server_side_encryption_configuration: sse_algorithm = \"AES256\" or \"aws:kms\" (module aws: create_kms_key, kms_key_arn)"
        }
        (Some(_), "storage-class") => {
            "set storage_class and meta_storage_class of the store to a class that is online, or leave them out"
        }
        _ => return None,
    })
}
