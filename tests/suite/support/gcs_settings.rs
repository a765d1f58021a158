//! What a bucket of Google Cloud Storage says of itself, as gRPC carries it, with the field numbers of the published interface.

use prost::Message;

/// Settings; without any, a bucket as it comes.
#[derive(Clone, PartialEq, Message)]
pub struct Settings {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub bucket_id: String,
    #[prost(string, tag = "3")]
    pub project: String,
    #[prost(string, tag = "5")]
    pub location: String,
    #[prost(string, tag = "7")]
    pub storage_class: String,
    #[prost(message, optional, tag = "10")]
    pub lifecycle: Option<Lifecycle>,
    #[prost(message, optional, tag = "17")]
    pub versioning: Option<Switch>,
    #[prost(message, optional, tag = "20")]
    pub encryption: Option<Encryption>,
    #[prost(message, optional, tag = "22")]
    pub retention_policy: Option<RetentionPolicy>,
    #[prost(message, optional, tag = "23")]
    pub iam_config: Option<IamConfig>,
    #[prost(message, optional, tag = "31")]
    pub soft_delete_policy: Option<SoftDelete>,
    #[prost(message, optional, tag = "33")]
    pub object_retention: Option<Switch>,
}

/// On, or off.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Switch {
    #[prost(bool, tag = "1")]
    pub enabled: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Seconds {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Encryption {
    #[prost(string, tag = "1")]
    pub default_kms_key: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct RetentionPolicy {
    #[prost(bool, tag = "2")]
    pub is_locked: bool,
    #[prost(message, optional, tag = "4")]
    pub retention_duration: Option<Seconds>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct SoftDelete {
    #[prost(message, optional, tag = "1")]
    pub retention_duration: Option<Seconds>,
}

#[derive(Clone, PartialEq, Message)]
pub struct IamConfig {
    #[prost(message, optional, tag = "1")]
    pub uniform_bucket_level_access: Option<Switch>,
    #[prost(string, tag = "3")]
    pub public_access_prevention: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Lifecycle {
    #[prost(message, repeated, tag = "1")]
    pub rule: Vec<Rule>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rule {
    #[prost(message, optional, tag = "1")]
    pub action: Option<Action>,
    #[prost(message, optional, tag = "2")]
    pub condition: Option<Condition>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Action {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub storage_class: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Condition {
    #[prost(int32, optional, tag = "1")]
    pub age_days: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub is_live: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub days_since_noncurrent_time: Option<i32>,
    #[prost(string, repeated, tag = "11")]
    pub matches_prefix: Vec<String>,
}

/// A rule.
pub fn rule(kind: &str, storage_class: &str, condition: Condition) -> Rule {
    let action = Action { kind: kind.into(), storage_class: storage_class.into() };
    Rule { action: Some(action), condition: Some(condition) }
}

impl Settings {
    /// As it should be.
    pub fn locked_down() -> Settings {
        let old = Condition { days_since_noncurrent_time: Some(30), ..Condition::default() };
        let uploads = Condition { age_days: Some(7), ..Condition::default() };
        Settings {
            project: "projects/12345".into(),
            location: "EUROPE-WEST1".into(),
            storage_class: "STANDARD".into(),
            lifecycle: Some(Lifecycle {
                rule: vec![rule("Delete", "", old), rule("AbortIncompleteMultipartUpload", "", uploads)],
            }),
            versioning: Some(Switch { enabled: true }),
            encryption: Some(Encryption { default_kms_key: "projects/p/locations/l/keyRings/r/cryptoKeys/k".into() }),
            retention_policy: None,
            iam_config: Some(IamConfig {
                uniform_bucket_level_access: Some(Switch { enabled: true }),
                public_access_prevention: "enforced".into(),
            }),
            soft_delete_policy: Some(SoftDelete { retention_duration: Some(Seconds { seconds: 0 }) }),
            object_retention: Some(Switch { enabled: true }),
            ..Settings::default()
        }
    }
}
