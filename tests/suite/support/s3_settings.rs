//! What a bucket of S3 says of itself, as its owner has set it.

use s3s::dto;
use serde_json::{Value, json};

/// Settings; without any, a bucket as it comes.
#[derive(Clone, Default)]
pub struct Settings {
    /// Versions were kept once, and are no more.
    pub suspended: bool,
    pub lock: Option<dto::ObjectLockConfiguration>,
    pub rules: Vec<dto::LifecycleRule>,
    pub block: Option<dto::PublicAccessBlockConfiguration>,
    pub policy: Option<Value>,
    pub encryption: Option<dto::ServerSideEncryptionConfiguration>,
    pub ownership: Option<dto::OwnershipControls>,
}

/// A rule that does nothing yet.
pub fn rule(id: &str, prefix: &str) -> dto::LifecycleRule {
    dto::LifecycleRule {
        abort_incomplete_multipart_upload: None,
        expiration: None,
        filter: Some(dto::LifecycleRuleFilter { prefix: Some(prefix.into()), ..Default::default() }),
        id: Some(id.into()),
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        status: dto::ExpirationStatus::from_static(dto::ExpirationStatus::ENABLED),
        transitions: None,
    }
}

/// A rule that takes out objects that are in use.
pub fn deadly(id: &str, prefix: &str) -> dto::LifecycleRule {
    let expiration = Some(dto::LifecycleExpiration { days: Some(30), ..Default::default() });
    dto::LifecycleRule { expiration, ..rule(id, prefix) }
}

/// A rule that moves objects.
pub fn moving(id: &str, prefix: &str, class: &'static str) -> dto::LifecycleRule {
    let storage_class = Some(dto::TransitionStorageClass::from_static(class));
    let transitions = Some(vec![dto::Transition { days: Some(1), storage_class, ..Default::default() }]);
    dto::LifecycleRule { transitions, ..rule(id, prefix) }
}

impl Settings {
    /// As it should be, but for the versions, which the bucket itself keeps.
    pub fn locked_down() -> Settings {
        let retention = dto::DefaultRetention {
            days: Some(30),
            mode: Some(dto::ObjectLockRetentionMode::from_static(dto::ObjectLockRetentionMode::GOVERNANCE)),
            years: None,
        };
        let days = |n| Some(dto::NoncurrentVersionExpiration { noncurrent_days: Some(n), newer_noncurrent_versions: None });
        let keeping = dto::LifecycleRule {
            abort_incomplete_multipart_upload: Some(dto::AbortIncompleteMultipartUpload { days_after_initiation: Some(7) }),
            expiration: Some(dto::LifecycleExpiration { expired_object_delete_marker: Some(true), ..Default::default() }),
            noncurrent_version_expiration: days(30),
            ..rule("keeping", "")
        };
        let way = dto::ServerSideEncryptionByDefault {
            kms_master_key_id: Some("key-1".into()),
            sse_algorithm: dto::ServerSideEncryption::from_static(dto::ServerSideEncryption::AWS_KMS),
        };
        Settings {
            suspended: false,
            lock: Some(dto::ObjectLockConfiguration {
                object_lock_enabled: Some(dto::ObjectLockEnabled::from_static(dto::ObjectLockEnabled::ENABLED)),
                rule: Some(dto::ObjectLockRule { default_retention: Some(retention) }),
            }),
            rules: vec![keeping],
            block: Some(dto::PublicAccessBlockConfiguration {
                block_public_acls: Some(true),
                block_public_policy: Some(true),
                ignore_public_acls: Some(true),
                restrict_public_buckets: Some(true),
            }),
            policy: Some(json!({"Version": "2012-10-17", "Statement": [
                {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
                 "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
                {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::bucket/*",
                 "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}},
            ]})),
            encryption: Some(dto::ServerSideEncryptionConfiguration {
                rules: vec![dto::ServerSideEncryptionRule {
                    apply_server_side_encryption_by_default: Some(way),
                    bucket_key_enabled: Some(true),
                }],
            }),
            ownership: Some(dto::OwnershipControls {
                rules: vec![dto::OwnershipControlsRule {
                    object_ownership: dto::ObjectOwnership::from_static(dto::ObjectOwnership::BUCKET_OWNER_ENFORCED),
                }],
            }),
        }
    }
}
