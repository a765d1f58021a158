//! What S3 says about a bucket: ten questions, each with a right of its own.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketVersioningStatus, DefaultRetention, ExpirationStatus, LifecycleRule, ObjectOwnership};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Fault, Verb, words};
use crate::store::inspect::{BucketFacts, Facts, Inspect, Lock, Names, PlaceFacts, Rule, RuleAction, Site, Told, Versioning};
use crate::store::name::ObjectName;
use crate::store::retry::Retrying;
use crate::store::s3::S3Store;
use crate::store::url::{Bucket, Line};

/// Who logs in, and where.
pub(super) struct Login {
    /// The way, in words.
    pub shown: String,
    /// Another server than AWS.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
}

impl S3Store {
    /// An answer about a setting; `None` if S3 says by one of the codes `absent` that there is none.
    fn setting<T, E>(&self, right: &str, absent: &[&str], answer: Result<T, SdkError<E>>) -> Result<Option<T>, StoreError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match answer {
            Ok(told) => Ok(Some(told)),
            Err(e) if e.code().is_some_and(|code| absent.contains(&code)) => Ok(None),
            Err(e) => Err(self.error(Verb::Settings, &right, self.fault(Verb::Settings, right, &e))),
        }
    }

    async fn identity(&self) -> Result<(String, String), StoreError> {
        let key = self.clients.key().await.map_err(|fault| self.error(Verb::Settings, &"a login", fault))?;
        let Some(key) = key else { return Ok((self.login.shown.clone(), String::new())) };
        let account = key.account_id().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let id = words(key.access_key_id());
        let shown = match self.login.shown.contains(&id) {
            true => self.login.shown.clone(),
            false => format!("{}, with the access key {id}", self.login.shown),
        };
        Ok((shown, account))
    }

    /// The server's clock, from the header of a refusal: an object that is not there is asked for.
    async fn server_time(&self, absent: &ObjectName) -> Result<i64, StoreError> {
        let key = self.key(Verb::Get, absent)?;
        let answer = self
            .client(Verb::Get, absent)
            .await?
            .get_object()
            .bucket(&self.bucket.name)
            .key(&key)
            .range("bytes=0-0")
            .send()
            .await;
        let fault = match answer {
            Ok(_) => Fault::new(StoreErrorKind::Other, "there is an object that cannot be"),
            Err(SdkError::ServiceError(refused)) => match refused.raw().headers().get("date").and_then(read_date) {
                Some(theirs) => return Ok(theirs - self.env.now().seconds()),
                None => Fault::new(StoreErrorKind::Invalid, "its answers have no date"),
            },
            Err(e) => self.fault(Verb::Get, &key, &e),
        };
        Err(self.error(Verb::Get, absent, fault))
    }

    async fn versioning(&self, right: &str) -> Result<Versioning, StoreError> {
        let answer = self.client(Verb::Settings, &right).await?.get_bucket_versioning().bucket(&self.bucket.name).send().await;
        Ok(match self.setting(right, &[], answer)?.and_then(|told| told.status) {
            Some(BucketVersioningStatus::Enabled) => Versioning::On,
            Some(_) => Versioning::Suspended,
            None => Versioning::Off,
        })
    }

    async fn lock(&self, right: &str) -> Result<Option<Lock>, StoreError> {
        let answer =
            self.client(Verb::Settings, &right).await?.get_object_lock_configuration().bucket(&self.bucket.name).send().await;
        let told = self.setting(right, &["ObjectLockConfigurationNotFoundError", "ObjectLockConfigurationNotFound"], answer)?;
        let Some(lock) = told.and_then(|told| told.object_lock_configuration) else { return Ok(None) };
        let retention = lock.rule.and_then(|rule| rule.default_retention);
        let shown = retention.as_ref().map_or("object lock, without a default".into(), retention_in_words);
        Ok(Some(Lock { shown, every: retention.is_some() }))
    }

    async fn rules(&self, right: &str) -> Result<Vec<Rule>, StoreError> {
        let answer = self
            .client(Verb::Settings, &right)
            .await?
            .get_bucket_lifecycle_configuration()
            .bucket(&self.bucket.name)
            .send()
            .await;
        let told = self.setting(right, &["NoSuchLifecycleConfiguration"], answer)?;
        let rules = told.and_then(|told| told.rules).unwrap_or_default();
        Ok(rules.iter().enumerate().flat_map(|(at, rule)| actions(at, rule)).collect())
    }

    /// What of the block against public access is missing; `None`: nothing.
    async fn closed(&self, right: &str) -> Result<Option<String>, StoreError> {
        let answer = self.client(Verb::Settings, &right).await?.get_public_access_block().bucket(&self.bucket.name).send().await;
        let told = self.setting(right, &["NoSuchPublicAccessBlockConfiguration"], answer)?;
        let Some(block) = told.and_then(|told| told.public_access_block_configuration) else {
            return Ok(Some("there is no block against public access".into()));
        };
        let parts = [
            ("BlockPublicAcls", block.block_public_acls),
            ("IgnorePublicAcls", block.ignore_public_acls),
            ("BlockPublicPolicy", block.block_public_policy),
            ("RestrictPublicBuckets", block.restrict_public_buckets),
        ];
        let open: Vec<_> = parts.iter().filter(|(_, on)| *on != Some(true)).map(|(name, _)| *name).collect();
        Ok((!open.is_empty()).then(|| format!("{} not set", open.join(", "))))
    }

    async fn public(&self, right: &str) -> Result<Option<String>, StoreError> {
        let answer = self.client(Verb::Settings, &right).await?.get_bucket_policy_status().bucket(&self.bucket.name).send().await;
        let told = self.setting(right, &["NoSuchBucketPolicy"], answer)?;
        let open = told.and_then(|told| told.policy_status).and_then(|status| status.is_public) == Some(true);
        Ok(open.then(|| "the bucket's policy opens it to everybody".into()))
    }

    /// The bucket's policy; empty if there is none.
    async fn policy(&self, right: &str) -> Result<Vec<Value>, StoreError> {
        let answer = self.client(Verb::Settings, &right).await?.get_bucket_policy().bucket(&self.bucket.name).send().await;
        let Some(text) = self.setting(right, &["NoSuchBucketPolicy"], answer)?.and_then(|told| told.policy) else {
            return Ok(Vec::new());
        };
        let wrong = |e: serde_json::Error| {
            let cause = format!("the bucket's policy is no JSON (line {})", e.line());
            self.error(Verb::Settings, &right, Fault::new(StoreErrorKind::Corrupt, cause))
        };
        let policy: Value = serde_json::from_str(&text).map_err(wrong)?;
        Ok(match &policy["Statement"] {
            Value::Array(all) => all.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        })
    }

    async fn encryption(&self, right: &str) -> Result<Option<String>, StoreError> {
        let answer = self.client(Verb::Settings, &right).await?.get_bucket_encryption().bucket(&self.bucket.name).send().await;
        let told = self.setting(right, &["ServerSideEncryptionConfigurationNotFoundError"], answer)?;
        let rules = told.and_then(|told| told.server_side_encryption_configuration).map(|c| c.rules).unwrap_or_default();
        Ok(rules.into_iter().find_map(|rule| rule.apply_server_side_encryption_by_default).map(|way| {
            let key = way.kms_master_key_id.map(|id| format!(", key {}", words(&id))).unwrap_or_default();
            format!("{}{key}", words(way.sse_algorithm.as_str()))
        }))
    }

    /// Whether access lists are out of force: else objects can be opened one by one.
    async fn lists_off(&self, right: &str) -> Result<bool, StoreError> {
        let answer =
            self.client(Verb::Settings, &right).await?.get_bucket_ownership_controls().bucket(&self.bucket.name).send().await;
        let told = self.setting(right, &["OwnershipControlsNotFoundError"], answer)?;
        let rules = told.and_then(|told| told.ownership_controls).map(|controls| controls.rules).unwrap_or_default();
        Ok(rules.iter().any(|rule| rule.object_ownership == ObjectOwnership::BucketOwnerEnforced))
    }

    /// Whether a version may be taken away for good, tried on one that is not there.
    async fn destroys(&self, absent: &ObjectName) -> Result<bool, StoreError> {
        let key = self.key(Verb::Delete, absent)?;
        match self
            .client(Verb::Delete, absent)
            .await?
            .delete_object()
            .bucket(&self.bucket.name)
            .key(&key)
            .version_id("null")
            .send()
            .await
        {
            Ok(_) => Ok(true),
            Err(e) => match self.fault(Verb::Delete, &key, &e) {
                fault if fault.kind == StoreErrorKind::Denied => Ok(false),
                // It was looked for, so it would have been taken.
                fault if fault.kind == StoreErrorKind::NotFound => Ok(true),
                fault => Err(self.error(Verb::Delete, absent, fault)),
            },
        }
    }

    async fn all(&self, asking: &Retrying, Names { absent, probe, .. }: Names<'_>) -> Facts {
        // One question: its right, and who answers.
        macro_rules! ask {
            ($right:literal, $question:ident) => {
                Told::from(asking.ask(concat!("settings by ", $right), || self.$question($right)).await, $right)
            };
        }
        let identity = self.identity().await;
        let site = Site {
            provider: self.login.endpoint.clone().unwrap_or_else(|| "AWS".into()),
            account: identity.as_ref().map(|(_, account)| account.clone()).unwrap_or_default(),
            region: self.login.region.clone(),
        };
        let policy = ask!("s3:GetBucketPolicy", policy);
        let mut bucket = BucketFacts::new(Line::to(self.login.endpoint.as_deref()));
        bucket.versioning = ask!("s3:GetBucketVersioning", versioning);
        bucket.lock = ask!("s3:GetBucketObjectLockConfiguration", lock);
        bucket.rules = ask!("s3:GetLifecycleConfiguration", rules);
        bucket.public = ask!("s3:GetBucketPolicyStatus", public);
        bucket.closed = ask!("s3:GetBucketPublicAccessBlock", closed);
        if let Told::Known(None) = bucket.closed {
            let off = ask!("s3:GetBucketOwnershipControls", lists_off);
            bucket.closed = off.map(|off| (!off).then(|| "access lists are in force (not BucketOwnerEnforced)".into()));
        }
        bucket.encryption = ask!("s3:GetEncryptionConfiguration", encryption);
        bucket.encrypted_only = policy.clone().map(|all| all.iter().any(|s| covers(s, &self.bucket) && denies_plain_http(s)));
        bucket.create_only = policy.map(|all| all.iter().any(|s| covers(s, &self.bucket) && denies_overwriting(s)));
        bucket.class = Told::Known("STANDARD".into());
        bucket.destroys = match probe {
            true => Told::from(asking.ask("delete of a version", || self.destroys(absent)).await, "s3:DeleteObjectVersion"),
            false => Told::Moot,
        };
        Facts {
            identity: Told::from(identity.map(|(shown, _)| shown), "credentials"),
            ahead: Told::from(asking.ask("the server's clock", || self.server_time(absent)).await, "s3:GetObject"),
            site: Told::Known(site),
            place: PlaceFacts::Bucket(Box::new(bucket)),
        }
    }
}

impl Inspect for S3Store {
    fn inspect<'a>(&'a self, asking: &'a Retrying, names: Names<'a>) -> BoxFuture<'a, Facts> {
        Box::pin(self.all(asking, names))
    }
}

fn read_date(text: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp().as_second())
}

fn retention_in_words(retention: &DefaultRetention) -> String {
    let mode = retention.mode.as_ref().map_or("no mode", |mode| mode.as_str());
    match (retention.days, retention.years) {
        (Some(days), _) => format!("object lock, {} for {days} days", words(mode)),
        (None, Some(years)) => format!("object lock, {} for {years} years", words(mode)),
        (None, None) => format!("object lock, {}", words(mode)),
    }
}

/// What a rule does, one thing at a time.
fn actions(at: usize, rule: &LifecycleRule) -> Vec<Rule> {
    if rule.status != ExpirationStatus::Enabled {
        return Vec::new();
    }
    let filter = rule.filter.as_ref();
    let and = filter.and_then(|filter| filter.and.as_ref());
    // The old place of the prefix is the rule itself.
    #[allow(deprecated)]
    let own = rule.prefix.as_deref();
    let prefix = own.or(filter.and_then(|f| f.prefix.as_deref())).or(and.and_then(|a| a.prefix.as_deref())).unwrap_or_default();
    let sized = |greater: Option<i64>, less: Option<i64>| greater.is_some() || less.is_some();
    let narrowed = filter.is_some_and(|f| f.tag.is_some() || sized(f.object_size_greater_than, f.object_size_less_than))
        || and.is_some_and(|a| !a.tags().is_empty() || sized(a.object_size_greater_than, a.object_size_less_than));
    let mut all = Vec::new();
    if let Some(expiration) = &rule.expiration
        && (expiration.days.is_some() || expiration.date.is_some())
    {
        all.push(RuleAction::ExpireCurrent);
    }
    if let Some(old) = &rule.noncurrent_version_expiration {
        all.push(RuleAction::ExpireOld { days: old.noncurrent_days.and_then(|days| u32::try_from(days).ok()) });
    }
    if rule.abort_incomplete_multipart_upload.is_some() {
        all.push(RuleAction::AbortUploads);
    }
    for class in rule.transitions().iter().filter_map(|t| t.storage_class.as_ref()) {
        all.push(RuleAction::Move { class: words(class.as_str()), old_only: false });
    }
    for class in rule.noncurrent_version_transitions().iter().filter_map(|t| t.storage_class.as_ref()) {
        all.push(RuleAction::Move { class: words(class.as_str()), old_only: true });
    }
    let name = rule.id.as_deref().map_or_else(|| format!("number {}", at + 1), words);
    all.into_iter().map(|does| Rule { name: name.clone(), prefix: prefix.to_owned(), narrowed, does }).collect()
}

/// The texts of a value that may be one or many; `true` and `false` as text, too.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Bool(on) => vec![on.to_string()],
        Value::Array(all) => all.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// The values of the condition `operator` on `key`, whatever their case.
fn condition(statement: &Value, operator: &str, key: &str) -> Vec<String> {
    let found = |value: &Value, name: &str| {
        let object = value.as_object()?;
        object.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    found(&statement["Condition"], operator).and_then(|keys| found(&keys, key)).map(|value| texts(&value)).unwrap_or_default()
}

/// Whether a statement denies one of `actions` to everybody.
fn denies(statement: &Value, actions: &[&str]) -> bool {
    let everybody = texts(&statement["Principal"]).iter().any(|who| who == "*")
        || texts(&statement["Principal"]["AWS"]).iter().any(|who| who == "*");
    let named = texts(&statement["Action"]);
    everybody && statement["Effect"] == "Deny" && named.iter().any(|own| actions.iter().any(|a| own.eq_ignore_ascii_case(a)))
}

/// Whether a statement is about every object of the store.
fn covers(statement: &Value, bucket: &Bucket) -> bool {
    texts(&statement["Resource"]).iter().any(|resource| {
        let named = resource.split_once(":::").and_then(|(_, place)| place.split_once('/'));
        let below = |(name, key): (&str, &str)| {
            name == bucket.name && key.strip_suffix('*').is_some_and(|begin| bucket.prefix.starts_with(begin))
        };
        resource == "*" || named.is_some_and(below)
    })
}

fn denies_plain_http(statement: &Value) -> bool {
    denies(statement, &["s3:*", "*"])
        && condition(statement, "Bool", "aws:SecureTransport").iter().any(|v| v == "false")
        && hangs_on(statement, &[("Bool", "aws:SecureTransport")])
}

fn denies_overwriting(statement: &Value) -> bool {
    denies(statement, &["s3:PutObject", "s3:*", "*"])
        && condition(statement, "Null", "s3:if-none-match").iter().any(|v| v == "true")
        // Parts of an upload are no creation, and have no such header.
        && hangs_on(statement, &[("Null", "s3:if-none-match"), ("Bool", "s3:ObjectCreationOperation")])
}

/// Whether a statement has no other condition than these: each one more leaves cases out.
fn hangs_on(statement: &Value, known: &[(&str, &str)]) -> bool {
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    conditions.flat_map(|(how, keys)| keys.as_object().into_iter().flatten().map(move |(key, _)| (how, key))).all(|(how, key)| {
        known.iter().any(|(known_how, known_key)| how.eq_ignore_ascii_case(known_how) && key.eq_ignore_ascii_case(known_key))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::store::s3::inspect::{covers, denies_overwriting, denies_plain_http};
    use crate::store::url::Bucket;

    #[test]
    fn a_statement_counts_where_it_is_about_all_of_the_store() {
        let bucket = Bucket { name: "ours".into(), prefix: "repo/".into(), region: None, endpoint: None };
        let about = |resource| covers(&json!({"Resource": resource}), &bucket);
        let arn = "arn:aws:s3:::";
        for yes in [json!("*"), json!([format!("{arn}ours"), format!("{arn}ours/*")]), json!(format!("{arn}ours/repo/*"))] {
            assert!(about(yes.clone()), "{yes}");
        }
        for no in
            [json!(format!("{arn}ours")), json!(format!("{arn}other/*")), json!(format!("{arn}ours/repo/data/*")), json!([])]
        {
            assert!(!about(no.clone()), "{no}");
        }
    }

    #[test]
    fn statements_are_read_in_every_spelling() {
        let tls = json!({"Effect": "Deny", "Principal": "*", "Action": "s3:*",
            "Condition": {"Bool": {"aws:SecureTransport": "false"}}});
        assert!(denies_plain_http(&tls) && !denies_overwriting(&tls));
        let mut some = tls.clone();
        some["Condition"]["StringEquals"] = json!({"aws:PrincipalAccount": "1"});
        assert!(!denies_plain_http(&some), "others may come without");
        let mut create = json!({"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
            "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}});
        assert!(denies_overwriting(&create));
        create["Condition"]["ArnLike"] = json!({"aws:PrincipalArn": "arn:aws:iam::1:role/x"});
        assert!(!denies_overwriting(&create), "others may overwrite");
        let spelt = json!({"Effect": "Deny", "Principal": {"AWS": ["*"]}, "Action": ["S3:*"],
            "Condition": {"Bool": {"aws:securetransport": [false]}}});
        assert!(denies_plain_http(&spelt));
        for (field, wrong) in [
            ("Effect", json!("Allow")),
            ("Principal", json!({"AWS": "arn:aws:iam::1:root"})),
            ("Action", json!("s3:GetObject")),
            ("Condition", json!({"Bool": {"aws:SecureTransport": "true"}})),
        ] {
            let mut other = tls.clone();
            other[field] = wrong;
            assert!(!denies_plain_http(&other), "{other}");
        }
        let create = json!({"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"],
            "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}});
        assert!(denies_overwriting(&create) && !denies_plain_http(&create));
    }
}
