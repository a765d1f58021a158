//! A store in a bucket of S3, or of any server that speaks its language.
//!
//! An object is one conditional PUT with a CRC-64 that the server compares; a batch of removals is one request. Each
//! call is one attempt: the SDK's own retries are off. AWS itself is addressed by virtual hosts, any other endpoint by path.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Delete, Error, ObjectIdentifier, ServerSideEncryption, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::clock::{Env, Time};
use crate::store::credentials::Credentials;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Asked, Fault, Verb, chain};
use crate::store::name::ObjectName;
use crate::store::pages::{self, Pages};
use crate::store::s3::clients::Clients;
use crate::store::s3::fault::{Answer, classify, failed};
use crate::store::s3::inspect::Login;
use crate::store::settings::StoreSettings;
use crate::store::url::Bucket;
use crate::store::{OBJECT_MAX, ObjectInfo, Store, admit, buffers};

mod clients;
mod credentials;
mod fault;
mod inspect;

/// How long it may take to reach a server.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Keys per page of a listing, and per batch of removals: what S3 admits.
const PAGE: usize = 1000;

/// A store in a bucket.
pub struct S3Store {
    label: String,
    env: Env,
    bucket: Bucket,
    clients: Clients,
    classes: BTreeMap<String, String>,
    kms_key: Option<String>,
    login: Login,
    // Whether the bucket was ever seen to exist: a HEAD cannot tell an absent object from an absent bucket.
    bucket_seen: AtomicBool,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("label", &self.label).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Prepares the store `label` in `bucket`. Asks no server but those that say who we are; `Invalid` when the settings
    /// cannot work (no region, a way to log in that is not S3's, unreadable certificates).
    pub async fn open(env: &Env, label: &str, bucket: &Bucket, settings: &StoreSettings) -> Result<S3Store, StoreError> {
        let refuse = |cause: String| {
            StoreError::new(StoreErrorKind::Invalid, label, format!("opening the bucket {}", bucket.name)).because(cause)
        };
        let provider = &settings.provider;
        let endpoint = bucket.endpoint.as_ref().or(provider.endpoint.as_ref());
        let region = bucket.region.as_deref().or(provider.region.as_deref());
        let pem = provider.certificates(env).await.map_err(refuse)?;
        let patience = settings.timeout;
        let found = credentials::surroundings(env, provider, region, endpoint.is_some(), pem.as_deref(), patience).await;
        let (found, exchange) = found.map_err(refuse)?;
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_MAX).build();
        // A body that does not move is given up by the SDK; how long an attempt may take as a whole is for `retry`.
        let stalls = StalledStreamProtectionConfig::enabled().grace_period(settings.timeout).build();
        let mut config = aws_sdk_s3::config::Builder::from(&found)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(stalls)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        } else if found.endpoint_url().is_some() {
            config = config.force_path_style(true);
        }
        if let Some(pem) = &pem {
            config = config.http_client(credentials::trusting(pem, false).map_err(refuse)?);
        }
        if provider.credentials == Credentials::Anonymous {
            config = config.allow_no_auth();
        }
        let login = Login {
            shown: provider.credentials.shown(),
            endpoint: endpoint.cloned().or_else(|| found.endpoint_url().map(str::to_owned)),
            region: found.region().map(ToString::to_string).unwrap_or_default(),
        };
        let known = found.credentials_provider().filter(|_| provider.credentials != Credentials::Anonymous);
        Ok(S3Store {
            login,
            label: label.to_owned(),
            env: env.clone(),
            bucket: bucket.clone(),
            clients: Clients::new(config, known, exchange),
            classes: provider.storage_classes.clone(),
            kms_key: provider.kms_key.clone(),
            bucket_seen: AtomicBool::new(false),
        })
    }

    fn asked<'a>(&'a self, verb: Verb, key: &'a str) -> Asked<'a> {
        Asked { verb, bucket: &self.bucket.name, key, kms: self.kms_key.is_some() }
    }

    fn error(&self, verb: Verb, name: &dyn fmt::Display, fault: Fault) -> StoreError {
        StoreError::new(fault.kind, &self.label, format!("{verb} {name}")).because(fault.cause)
    }

    /// The client to ask by.
    async fn client(&self, verb: Verb, name: &(dyn fmt::Display + Sync)) -> Result<Client, StoreError> {
        self.clients.current().await.map_err(|fault| self.error(verb, &name, fault))
    }

    fn key(&self, verb: Verb, name: &ObjectName) -> Result<String, StoreError> {
        let cause = "the name and the store's prefix are longer than S3 takes";
        self.bucket.key(name).ok_or_else(|| self.error(verb, name, Fault::new(StoreErrorKind::Invalid, cause)))
    }

    /// What the SDK says, classed.
    fn fault<E>(&self, verb: Verb, key: &str, error: &SdkError<E>) -> Fault
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        failed(error, self.asked(verb, key), self.env.now())
    }

    fn seen(&self) {
        self.bucket_seen.store(true, Ordering::Relaxed);
    }

    async fn create(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        admit(&self.label, name, bytes.len())?;
        let key = self.key(Verb::Put, name)?;
        // Sums of small objects are quicker done than handed over.
        let sum = match bytes.len() {
            0..=0xffff => crc_fast::checksum(Crc64Nvme, &bytes),
            _ => {
                let bytes = bytes.clone();
                self.env.cpu(move || crc_fast::checksum(Crc64Nvme, &bytes)).await
            }
        };
        let class = self.classes.get(name.first()).map(|class| StorageClass::from(class.as_str()));
        let client = self.client(Verb::Put, name).await?;
        let request = client
            .put_object()
            .bucket(&self.bucket.name)
            .key(&key)
            .if_none_match("*")
            .checksum_crc64_nvme(BASE64.encode(sum.to_be_bytes()))
            .set_storage_class(class)
            .set_server_side_encryption(self.kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms))
            .set_ssekms_key_id(self.kms_key.clone())
            .body(ByteStream::from(bytes));
        // The sum above is what protects the body: no second hash for the signature.
        let answer = request.customize().disable_payload_signing().send().await;
        let answer = answer.map_err(|e| self.error(Verb::Put, name, self.fault(Verb::Put, &key, &e)))?;
        if answer.e_tag().is_none() {
            // No server that stored something answers like that: an error in the guise of a success, or a stranger between.
            let cause = "the answer names no ETag: whether the object was stored is unknown";
            return Err(self.error(Verb::Put, name, Fault::new(StoreErrorKind::Unavailable, cause)));
        }
        self.seen();
        Ok(())
    }

    async fn read(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = self.key(Verb::Get, name)?;
        let fail = |kind, cause: String| Err(self.error(Verb::Get, name, Fault::new(kind, cause)));
        if let Some(Range { start, end }) = range
            && (start >= end || end - start > OBJECT_MAX as u64 || end > i64::MAX.unsigned_abs())
        {
            return fail(StoreErrorKind::Invalid, format!("bytes {start} to {end}, and an object has at most {OBJECT_MAX}"));
        }
        let header = range.as_ref().map(|r| format!("bytes={}-{}", r.start, r.end - 1));
        let whole = header.is_none();
        let request = self.client(Verb::Get, name).await?.get_object().bucket(&self.bucket.name).key(&key).set_range(header);
        // Asked for behind the SDK's back, which would sum the body itself, and hide what did not fit behind a broken stream.
        let request = request.customize().mutate_request(move |request| {
            if whole {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            }
        });
        let answer = request.send().await.map_err(|e| self.error(Verb::Get, name, self.fault(Verb::Get, &key, &e)))?;
        self.seen();
        let told = answer.content_length().and_then(|n| u64::try_from(n).ok());
        let expected = match (&range, told) {
            (Some(r), _) => {
                let Some((first, last, size)) = answer.content_range().and_then(content_range) else {
                    return fail(StoreErrorKind::Invalid, "the server does not answer ranges as such".into());
                };
                if r.end > size {
                    return fail(StoreErrorKind::Invalid, format!("bytes {} to {} of an object of {size}", r.start, r.end));
                }
                if (first, last.checked_add(1)) != (r.start, Some(r.end)) {
                    return fail(StoreErrorKind::Corrupt, format!("asked for {r:?}, and bytes {first} to {last} came"));
                }
                r.end - r.start
            }
            (None, Some(size)) if size > OBJECT_MAX as u64 => {
                // Nobody puts such an object: it is foreign or damaged, and memory is not spent on it.
                return fail(StoreErrorKind::Corrupt, format!("{size} bytes, and an object has at most {OBJECT_MAX}"));
            }
            (None, Some(size)) => size,
            (None, None) => return fail(StoreErrorKind::Corrupt, "the answer does not say how long it is".into()),
        };
        if told.is_some_and(|told| told != expected) {
            return fail(StoreErrorKind::Corrupt, format!("{expected} bytes asked for, {} announced", told.unwrap_or_default()));
        }
        let sum = answer.checksum_crc64_nvme().filter(|_| whole).map(str::to_owned);
        let bytes = self.body(name, answer.body, usize::try_from(expected).unwrap_or(OBJECT_MAX)).await?;
        // A sum of parts, told by its dash, is none of the whole.
        if let Some(stored) = sum.filter(|sum| !sum.contains('-')) {
            let body = bytes.clone();
            let came = self.env.cpu(move || BASE64.encode(crc_fast::checksum(Crc64Nvme, &body).to_be_bytes())).await;
            if came != stored {
                return fail(StoreErrorKind::Corrupt, format!("its CRC-64 is {stored}, and what came has {came}"));
            }
        }
        Ok(bytes)
    }

    /// Collects exactly `expected` bytes.
    async fn body(&self, name: &ObjectName, mut body: ByteStream, expected: usize) -> Result<Bytes, StoreError> {
        let fail = |kind, cause: String| self.error(Verb::Get, name, Fault::new(kind, cause));
        let mut all = buffers::body(expected);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| {
                let text = chain(&e);
                let kind = if text.contains("throughput") { StoreErrorKind::TimedOut } else { StoreErrorKind::Unavailable };
                fail(kind, format!("broke off after {} of {expected} bytes: {text}", all.len()))
            })?;
            if all.len() + piece.len() > expected {
                return Err(fail(StoreErrorKind::Corrupt, format!("more than the {expected} bytes that were announced")));
            }
            all.push(piece);
        }
        if all.len() != expected {
            return Err(fail(StoreErrorKind::Corrupt, format!("{} bytes came instead of {expected}", all.len())));
        }
        Ok(all.freeze())
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectInfo>, StoreError> {
        let key = self.key(Verb::Stat, name)?;
        let client = self.client(Verb::Stat, name).await?;
        match client.head_object().bucket(&self.bucket.name).key(&key).send().await {
            Ok(answer) => {
                self.seen();
                let size = answer.content_length().and_then(|n| u64::try_from(n).ok());
                let size = size.ok_or_else(|| {
                    self.error(Verb::Stat, name, Fault::new(StoreErrorKind::Corrupt, "the answer does not say how long it is"))
                })?;
                Ok(Some(ObjectInfo { name: name.clone(), size, modified: time(answer.last_modified()) }))
            }
            Err(e) => match self.fault(Verb::Stat, &key, &e) {
                // Expired credentials, a wrong clock, a missing permission: which one it is, only a body can say.
                fault if matches!(fault.kind, StoreErrorKind::Invalid | StoreErrorKind::Denied) => {
                    let asked = client.get_object().bucket(&self.bucket.name).key(&key).range("bytes=0-0").send().await;
                    let said = asked.err().map(|e| self.fault(Verb::Stat, &key, &e));
                    let said = said.filter(|said| said.kind == fault.kind || said.kind == StoreErrorKind::Denied);
                    Err(self.error(Verb::Stat, name, said.unwrap_or(fault)))
                }
                fault if fault.kind != StoreErrorKind::NotFound => Err(self.error(Verb::Stat, name, fault)),
                _ if self.bucket_seen.load(Ordering::Relaxed) => Ok(None),
                _ => self.absent(name, &key).await,
            },
        }
    }

    /// A HEAD said 404, which has no words: a GET of one byte says whether it is the object or the bucket that is absent.
    async fn absent(&self, name: &ObjectName, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        // What is there by now is for the next attempt to look at, and so is what nobody can tell.
        let doubtful = |cause: String| Err(self.error(Verb::Stat, name, Fault::new(StoreErrorKind::Unavailable, cause)));
        match self.client(Verb::Stat, name).await?.get_object().bucket(&self.bucket.name).key(key).range("bytes=0-0").send().await
        {
            Ok(_) => doubtful("a HEAD says that it is absent, and a GET that it is there".into()),
            Err(e) if e.code() == Some("NoSuchKey") => {
                self.seen();
                Ok(None)
            }
            Err(e) => match (self.fault(Verb::Stat, key, &e), e.code()) {
                (fault, Some("InvalidRange")) => doubtful(format!("a HEAD says that it is absent; {}", fault.cause)),
                (fault, code) if fault.kind == StoreErrorKind::NotFound && code != Some("NoSuchBucket") => {
                    doubtful(format!("whether the object or the bucket is absent is not told: {}", fault.cause))
                }
                (fault, _) => Err(self.error(Verb::Stat, name, fault)),
            },
        }
    }

    /// One page of a listing: keys that follow `last`, in order, or an error.
    async fn page(&self, prefix: &str, mut at: Pages) -> Result<Pages, StoreError> {
        let fail = |kind, cause: String| self.error(Verb::List, &prefix, Fault::new(kind, cause));
        let Some(whole) = self.bucket.key_of(prefix) else {
            // No name is that long.
            at.end();
            return Ok(at);
        };
        let client = self.client(Verb::List, &prefix).await?;
        let request = client.list_objects_v2().bucket(&self.bucket.name).prefix(&whole).max_keys(PAGE as i32);
        let answer = request.set_continuation_token(at.marker.clone()).send().await;
        let answer = answer.map_err(|e| self.error(Verb::List, &prefix, self.fault(Verb::List, &whole, &e)))?;
        self.seen();
        let more = answer.is_truncated().unwrap_or(false);
        let next = answer.next_continuation_token().filter(|_| more).map(str::to_owned);
        if more && next.is_none() {
            return Err(fail(StoreErrorKind::Corrupt, "a page that is not the last, and does not say how to go on".into()));
        }
        if !at.turn(next) {
            return Err(fail(StoreErrorKind::Corrupt, "a page that leads to itself".into()));
        }
        for object in answer.contents() {
            let key = object.key().unwrap_or_default();
            if !at.follows(key, &whole) {
                let cause = "names out of order; directory buckets (S3 Express) are not supported";
                return Err(fail(StoreErrorKind::Invalid, cause.into()));
            }
            // What is not a name of ours was not put by us.
            if let Some(name) = self.bucket.object(key) {
                let size = object.size().and_then(|n| u64::try_from(n).ok());
                let size = size.ok_or_else(|| fail(StoreErrorKind::Corrupt, format!("no size of {name}")))?;
                at.push(ObjectInfo { name, size, modified: time(object.last_modified()) });
            }
        }
        Ok(at)
    }

    /// Removes at most [`PAGE`] objects in one request.
    async fn remove(&self, names: &[ObjectName], failed: &mut Vec<(ObjectName, StoreError)>) {
        // A name too long for the bucket names nothing in it.
        let keys: BTreeMap<String, &ObjectName> = names.iter().filter_map(|n| Some((self.bucket.key(n)?, n))).collect();
        let all = |fault: &Fault| -> Vec<_> {
            keys.values().map(|name| ((*name).clone(), self.error(Verb::Delete, name, fault.clone()))).collect()
        };
        if keys.is_empty() {
            return;
        }
        let objects: Result<Vec<_>, _> = keys.keys().map(|key| ObjectIdentifier::builder().key(key).build()).collect();
        let batch = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).quiet(true).build());
        let batch = match batch {
            Ok(batch) => batch,
            Err(e) => return failed.extend(all(&Fault::new(StoreErrorKind::Invalid, e.to_string()))),
        };
        let client = match self.clients.current().await {
            Ok(client) => client,
            Err(fault) => return failed.extend(all(&fault)),
        };
        let answer = match client.delete_objects().bucket(&self.bucket.name).delete(batch).send().await {
            Ok(answer) => answer,
            Err(e) => {
                let first = keys.keys().next().map_or("", String::as_str);
                return failed.extend(all(&self.fault(Verb::Delete, first, &e)));
            }
        };
        self.seen();
        for refused in answer.errors() {
            match refused.key().and_then(|key| keys.get_key_value(key)) {
                Some((key, name)) => match self.refusal(key, refused) {
                    fault if fault.kind == StoreErrorKind::NotFound => {}
                    fault => failed.push(((*name).clone(), self.error(Verb::Delete, name, fault))),
                },
                // An error about nothing that was asked for: then nothing is sure.
                None => return failed.extend(all(&self.refusal("", refused))),
            }
        }
    }

    fn refusal(&self, key: &str, refused: &Error) -> Fault {
        let answer = Answer { code: refused.code(), message: refused.message(), ..Answer::default() };
        classify(answer, self.asked(Verb::Delete, key), self.env.now())
    }
}

impl Store for S3Store {
    fn label(&self) -> &str {
        &self.label
    }

    fn put<'a>(&'a self, name: &'a ObjectName, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.create(name, bytes))
    }

    fn get<'a>(&'a self, name: &'a ObjectName, range: Option<Range<u64>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.read(name, range))
    }

    fn stat<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(self.head(name))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        pages::listing(move |at| self.page(prefix, at))
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        Box::pin(async move {
            let mut failed = Vec::new();
            for batch in names.chunks(PAGE) {
                self.remove(batch, &mut failed).await;
            }
            failed
        })
    }
}

/// First, last and size from `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// In whole seconds: a HEAD says no more, and one object must look alike wherever it is seen.
fn time(at: Option<&DateTime>) -> Time {
    Time(at.map_or(0, |at| at.secs().saturating_mul(1_000_000_000)))
}
