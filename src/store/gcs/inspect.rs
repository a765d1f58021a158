//! What Google Cloud Storage says about a bucket: all of it in one answer.

use futures::future::BoxFuture;
use google_cloud_storage::model::Bucket as Model;
use google_cloud_storage::model::bucket::lifecycle::Rule as ModelRule;

use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Fault, Verb, words};
use crate::store::gcs::GcsStore;
use crate::store::inspect::{BucketFacts, Facts, Inspect, Lock, Names, PlaceFacts, Rule, RuleAction, Site, Told, Versioning};
use crate::store::name::ObjectName;
use crate::store::retry::Retrying;
use crate::store::url::Line;

/// What reading the bucket's settings takes.
const RIGHT: &str = "storage.buckets.get";

/// Seconds of a day.
const DAY: i64 = 86_400;

impl GcsStore {
    async fn settings(&self) -> Result<Model, StoreError> {
        let answer = self.names.get_bucket().set_name(&self.resource).send().await;
        answer.map_err(|e| self.error(Verb::Settings, &RIGHT, self.fault(Verb::Settings, RIGHT, &e)))
    }

    /// The server's clock, from the header of a refusal: an object that is not there is asked for.
    async fn server_time(&self, absent: &ObjectName) -> Result<i64, StoreError> {
        let key = self.key(Verb::Get, absent)?;
        let fault = match self.bodies.read_object(&self.resource, &key).send().await {
            Ok(_) => Fault::new(StoreErrorKind::Other, "there is an object that cannot be"),
            Err(e) => {
                let date = e.http_headers().and_then(|h| h.get("date")).and_then(|v| v.to_str().ok());
                match (date.and_then(|text| jiff::fmt::rfc2822::parse(text.trim()).ok()), e.http_status_code()) {
                    (Some(theirs), _) => return Ok(theirs.timestamp().as_second() - self.env.now().seconds()),
                    (None, Some(_)) => Fault::new(StoreErrorKind::Invalid, "its answers have no date"),
                    (None, None) => self.fault(Verb::Get, &key, &e),
                }
            }
        };
        Err(self.error(Verb::Get, absent, fault))
    }

    async fn all(&self, asking: &Retrying, absent: &ObjectName) -> Facts {
        let told = Told::from(asking.ask("settings by storage.buckets.get", || self.settings()).await, RIGHT);
        let mut bucket = BucketFacts::new(Line::to(self.endpoint.as_deref()));
        bucket.versioning = told.clone().map(|b| match b.versioning.is_some_and(|v| v.enabled) {
            true => Versioning::On,
            false => Versioning::Off,
        });
        bucket.soft_delete_days = told.clone().map(|b| {
            let seconds = b.soft_delete_policy.and_then(|policy| policy.retention_duration).map_or(0, |time| time.seconds());
            u32::try_from(seconds / DAY).unwrap_or(0)
        });
        bucket.lock = told.clone().map(|b| lock(&b));
        bucket.rules = told.clone().map(|b| rules(&b));
        bucket.closed = told.clone().map(|b| open_ways(&b));
        bucket.encryption = told.clone().map(|b| {
            let key = b.encryption.map(|way| way.default_kms_key).filter(|key| !key.is_empty());
            Some(key.map_or("Google's own keys".into(), |key| format!("the key {}", words(&key))))
        });
        bucket.class = told.clone().map(|b| words(&b.storage_class));
        let provider = self.endpoint.clone().unwrap_or_else(|| "Google Cloud".into());
        Facts {
            identity: Told::Known(self.shown.clone()),
            ahead: Told::from(asking.ask("the server's clock", || self.server_time(absent)).await, "storage.objects.get"),
            site: told.map(|b| Site { provider, account: words(&b.project), region: words(&b.location).to_ascii_lowercase() }),
            place: PlaceFacts::Bucket(Box::new(bucket)),
        }
    }
}

impl Inspect for GcsStore {
    fn inspect<'a>(&'a self, asking: &'a Retrying, names: Names<'a>) -> BoxFuture<'a, Facts> {
        Box::pin(self.all(asking, names.absent))
    }
}

fn lock(bucket: &Model) -> Option<Lock> {
    let policy =
        bucket.retention_policy.as_ref().and_then(|policy| Some((policy.retention_duration.as_ref()?, policy.is_locked)));
    let held = policy.map(|(time, locked)| {
        let days = time.seconds() / DAY;
        let shown = format!("a retention policy of {days} days, {}", if locked { "locked" } else { "not locked" });
        Lock { shown, every: days > 0 }
    });
    let each = bucket.object_retention.as_ref().is_some_and(|each| each.enabled);
    held.or_else(|| each.then(|| Lock { shown: "object retention, without a default".into(), every: false }))
}

/// By which ways the bucket could be opened to everybody.
fn open_ways(bucket: &Model) -> Option<String> {
    let iam = bucket.iam_config.as_ref();
    let mut open = Vec::new();
    if iam.is_none_or(|iam| iam.public_access_prevention != "enforced") {
        open.push("public access prevention is not enforced");
    }
    if !iam.and_then(|iam| iam.uniform_bucket_level_access.as_ref()).is_some_and(|uniform| uniform.enabled) {
        open.push("access lists are in force (no uniform bucket-level access)");
    }
    (!open.is_empty()).then(|| open.join("; "))
}

fn rules(bucket: &Model) -> Vec<Rule> {
    let all = bucket.lifecycle.as_ref().map(|lifecycle| lifecycle.rule.as_slice()).unwrap_or_default();
    all.iter().enumerate().flat_map(|(at, rule)| actions(at, rule)).collect()
}

/// What a rule does, once for each of its prefixes.
fn actions(at: usize, rule: &ModelRule) -> Vec<Rule> {
    let Some(action) = &rule.action else { return Vec::new() };
    let when = rule.condition.as_ref();
    let old_only = when.is_some_and(|when| {
        when.is_live == Some(false)
            || when.num_newer_versions.is_some_and(|n| n > 0)
            || when.days_since_noncurrent_time.is_some()
            || when.noncurrent_time_before.is_some()
    });
    let narrowed = when.is_some_and(|when| {
        !when.matches_storage_class.is_empty()
            || !when.matches_suffix.is_empty()
            || when.days_since_custom_time.is_some()
            || when.custom_time_before.is_some()
    });
    let days = when.and_then(|when| when.days_since_noncurrent_time.or(when.age_days));
    let does = match action.r#type.as_str() {
        "AbortIncompleteMultipartUpload" => RuleAction::AbortUploads,
        "Delete" if old_only => RuleAction::ExpireOld { days: days.and_then(|days| u32::try_from(days).ok()) },
        "Delete" => RuleAction::ExpireCurrent,
        "SetStorageClass" => RuleAction::Move { class: words(&action.storage_class), old_only },
        _ => return Vec::new(),
    };
    let prefixes =
        when.map(|when| when.matches_prefix.clone()).filter(|all| !all.is_empty()).unwrap_or_else(|| vec![String::new()]);
    let rule = |prefix| Rule { name: format!("number {}", at + 1), prefix, narrowed, does: does.clone() };
    prefixes.into_iter().map(rule).collect()
}
