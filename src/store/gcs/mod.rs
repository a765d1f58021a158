//! A store in a bucket of Google Cloud Storage.
//!
//! Bytes go over the JSON API, names over gRPC (`google.storage.v2`): so the official SDK divides them between its two clients.
//! An object is one upload, on condition that there is none of its generation 0 yet, with a CRC32C that the server compares.
//! Each call is one attempt: the SDK's own retries, its resuming of reads and its uploads in parts are off. Both clients
//! connect when they are first asked; opening a store asks nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::{Storage, StorageControl};
use google_cloud_storage::model::Object;
use google_cloud_storage::model_ext::ReadRange;
use google_cloud_storage::read_object::ReadObjectResponse;
use google_cloud_storage::read_resume_policy::NeverResume;

use crate::clock::{Env, Time};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Asked, Fault, Verb};
use crate::store::gcs::fault::{failed, names_object};
use crate::store::name::ObjectName;
use crate::store::pages::{self, Pages};
use crate::store::settings::StoreSettings;
use crate::store::url::Bucket;
use crate::store::{OBJECT_MAX, ObjectInfo, Store, admit, buffers};

mod credentials;
mod fault;
mod inspect;

/// Objects per page of a listing: what GCS admits.
const PAGE: i32 = 1000;

/// From this size on a sum is taken on the CPU's threads, in bytes.
const LARGE: usize = 256 << 10;

/// A store in a bucket.
pub struct GcsStore {
    label: String,
    env: Env,
    bucket: Bucket,
    // The bucket as both APIs name it.
    resource: String,
    bodies: Storage,
    names: StorageControl,
    classes: BTreeMap<String, String>,
    kms_key: Option<String>,
    // The way of logging in, in words, and where.
    shown: String,
    endpoint: Option<String>,
    // How long a body may stand still.
    stall: Duration,
    // Removals under way at once: GCS takes them one by one.
    removals: usize,
    // Whether the bucket was ever seen to exist: an answer about something absent may mean the object or the bucket.
    bucket_seen: AtomicBool,
}

impl fmt::Debug for GcsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsStore").field("label", &self.label).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl GcsStore {
    /// Prepares the store `label` in `bucket`. Asks no server; `Invalid` when the settings cannot work (a way to log in that is
    /// not Google's, unreadable credentials, credentials over plain http).
    pub async fn open(env: &Env, label: &str, bucket: &Bucket, settings: &StoreSettings) -> Result<GcsStore, StoreError> {
        let refuse = |cause: String| {
            StoreError::new(StoreErrorKind::Invalid, label, format!("opening the bucket {}", bucket.name)).because(cause)
        };
        let provider = &settings.provider;
        if provider.ca_file.is_some() {
            return Err(refuse("ca_file cannot be used here: name the file with SSL_CERT_FILE in the environment".into()));
        }
        let endpoint = bucket.endpoint.as_deref().or(provider.endpoint.as_deref()).map(|text| text.trim_end_matches('/'));
        // Half of an attempt's time: what comes of it must be told before the attempt is over.
        let login = credentials::login(env, &provider.credentials, endpoint, settings.timeout / 2).await.map_err(refuse)?;
        let mut bodies = Storage::builder()
            .with_credentials(login.identity.clone())
            .with_universe_domain(&login.universe)
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume)
            .with_resumable_upload_threshold(OBJECT_MAX + 1)
            .with_grpc_subchannel_count(1_usize);
        let mut names = StorageControl::builder()
            .with_credentials(login.identity)
            .with_universe_domain(&login.universe)
            .with_retry_policy(NeverRetry);
        if let Some(endpoint) = endpoint {
            bodies = bodies.with_endpoint(endpoint);
            names = names.with_endpoint(endpoint);
        }
        Ok(GcsStore {
            label: label.to_owned(),
            env: env.clone(),
            bucket: bucket.clone(),
            resource: format!("projects/_/buckets/{}", bucket.name),
            bodies: bodies.build().await.map_err(|e| refuse(e.to_string()))?,
            names: names.build().await.map_err(|e| refuse(e.to_string()))?,
            classes: provider.storage_classes.clone(),
            kms_key: provider.kms_key.clone(),
            shown: login.shown,
            endpoint: endpoint.map(str::to_owned),
            stall: settings.timeout,
            removals: settings.connections.max(1),
            bucket_seen: AtomicBool::new(false),
        })
    }

    fn error(&self, verb: Verb, name: &dyn fmt::Display, fault: Fault) -> StoreError {
        StoreError::new(fault.kind, &self.label, format!("{verb} {name}")).because(fault.cause)
    }

    fn key(&self, verb: Verb, name: &ObjectName) -> Result<String, StoreError> {
        let cause = "the name and the store's prefix are longer than GCS takes";
        self.bucket.key(name).ok_or_else(|| self.error(verb, name, Fault::new(StoreErrorKind::Invalid, cause)))
    }

    /// What the SDK says, classed.
    fn fault(&self, verb: Verb, key: &str, error: &google_cloud_storage::Error) -> Fault {
        let asked = Asked { verb, bucket: &self.bucket.name, key, kms: self.kms_key.is_some() };
        failed(error, asked, self.env.now())
    }

    fn seen(&self) {
        self.bucket_seen.store(true, Ordering::Relaxed);
    }

    async fn create(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        admit(&self.label, name, bytes.len())?;
        let key = self.key(Verb::Put, name)?;
        let (size, summed) = (bytes.len() as u64, bytes.clone());
        let sum = move || crc_fast::checksum(Crc32Iscsi, &summed);
        let sum = if bytes.len() < LARGE { sum() } else { self.env.cpu(sum).await };
        // The algorithm has 32 bits.
        let sum = u32::try_from(sum).unwrap_or(u32::MAX);
        let mut request =
            self.bodies.write_object(&self.resource, &key, bytes).set_if_generation_match(0_i64).with_known_crc32c(sum);
        if let Some(class) = self.classes.get(name.first()) {
            request = request.set_storage_class(class);
        }
        if let Some(kms_key) = &self.kms_key {
            request = request.set_kms_key(kms_key);
        }
        let object = request.send_unbuffered().await;
        let object = object.map_err(|e| self.error(Verb::Put, name, self.fault(Verb::Put, &key, &e)))?;
        if object.generation <= 0 || u64::try_from(object.size).ok() != Some(size) {
            // No server that stored this answers like that: an error in the guise of a success, or a stranger between.
            let cause = "the answer names neither generation nor right size: whether the object was stored is unknown";
            return Err(self.error(Verb::Put, name, Fault::new(StoreErrorKind::Unavailable, cause)));
        }
        self.seen();
        Ok(())
    }

    async fn read(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = self.key(Verb::Get, name)?;
        let fail = |kind, cause: String| Err(self.error(Verb::Get, name, Fault::new(kind, cause)));
        let mut request = self.bodies.read_object(&self.resource, &key);
        if let Some(Range { start, end }) = range {
            if start >= end || end - start > OBJECT_MAX as u64 || end > i64::MAX.unsigned_abs() {
                return fail(StoreErrorKind::Invalid, format!("bytes {start} to {end}, and an object has at most {OBJECT_MAX}"));
            }
            request = request.set_read_range(ReadRange::segment(start, end - start));
        }
        let answer = request.send().await.map_err(|e| self.error(Verb::Get, name, self.fault(Verb::Get, &key, &e)))?;
        self.seen();
        let Ok(size) = u64::try_from(answer.object().size) else {
            return fail(StoreErrorKind::Corrupt, "the answer does not say how long it is".into());
        };
        let expected = match range {
            // Of a range past the end GCS sends what there is.
            Some(r) if r.end > size => {
                return fail(StoreErrorKind::Invalid, format!("bytes {} to {} of an object of {size}", r.start, r.end));
            }
            Some(r) => r.end - r.start,
            // Nobody puts such an object: it is foreign or damaged, and memory is not spent on it.
            None if size > OBJECT_MAX as u64 => {
                return fail(StoreErrorKind::Corrupt, format!("{size} bytes, and an object has at most {OBJECT_MAX}"));
            }
            None => size,
        };
        self.body(name, &key, answer, usize::try_from(expected).unwrap_or(OBJECT_MAX)).await
    }

    /// Collects exactly `expected` bytes. Of a whole object the SDK compares the CRC32C, at the end.
    async fn body(
        &self,
        name: &ObjectName,
        key: &str,
        mut answer: ReadObjectResponse,
        expected: usize,
    ) -> Result<Bytes, StoreError> {
        let fail = |kind, cause: String| self.error(Verb::Get, name, Fault::new(kind, cause));
        let mut all = buffers::body(expected);
        loop {
            let came = all.len();
            let Some(piece) = self.env.timeout(self.stall, answer.next()).await else {
                return Err(fail(
                    StoreErrorKind::TimedOut,
                    format!("nothing came for {:?}, after {came} of {expected} bytes", self.stall),
                ));
            };
            let piece = match piece {
                None => break,
                Some(Ok(piece)) => piece,
                Some(Err(e)) => {
                    let Fault { kind, cause } = self.fault(Verb::Get, key, &e);
                    return Err(fail(kind, format!("broke off after {came} of {expected} bytes: {cause}")));
                }
            };
            if came + piece.len() > expected {
                return Err(fail(StoreErrorKind::Corrupt, format!("more than the {expected} bytes that were asked for")));
            }
            all.push(piece);
        }
        let bytes = all.freeze();
        match bytes.len() == expected {
            true => Ok(bytes),
            false => Err(fail(StoreErrorKind::Corrupt, format!("{} bytes came instead of {expected}", bytes.len()))),
        }
    }

    async fn look(&self, name: &ObjectName) -> Result<Option<ObjectInfo>, StoreError> {
        let key = self.key(Verb::Stat, name)?;
        match self.names.get_object().set_bucket(&self.resource).set_object(&key).send().await {
            Ok(object) => {
                self.seen();
                self.info(Verb::Stat, name.clone(), &object).map(Some)
            }
            Err(e) => {
                self.absent(Verb::Stat, name, &key, self.fault(Verb::Stat, &key, &e)).await?;
                Ok(None)
            }
        }
    }

    fn info(&self, verb: Verb, name: ObjectName, object: &Object) -> Result<ObjectInfo, StoreError> {
        let Ok(size) = u64::try_from(object.size) else {
            let fault = Fault::new(StoreErrorKind::Corrupt, format!("a size of {} bytes", object.size));
            return Err(self.error(verb, &name, fault));
        };
        let at = object.create_time.as_ref();
        let nanoseconds = at.map_or(0, |at| at.seconds().saturating_mul(1_000_000_000).saturating_add(at.nanos().into()));
        Ok(ObjectInfo { name, size, modified: Time(nanoseconds) })
    }

    /// Returns if `fault` means that the object is absent. If it may mean the bucket, a listing of the one name tells.
    async fn absent(&self, verb: Verb, name: &ObjectName, key: &str, fault: Fault) -> Result<(), StoreError> {
        if fault.kind != StoreErrorKind::NotFound {
            return Err(self.error(verb, name, fault));
        }
        if !names_object(&fault) && !self.bucket_seen.load(Ordering::Relaxed) {
            let probe = self.names.list_objects().set_parent(&self.resource).set_prefix(key).set_page_size(1).send().await;
            probe.map_err(|e| self.error(verb, name, self.fault(Verb::List, key, &e)))?;
        }
        self.seen();
        Ok(())
    }

    /// One page of a listing: names that follow `last`, in order, or an error.
    async fn page(&self, prefix: &str, mut at: Pages) -> Result<Pages, StoreError> {
        let fail = |kind, cause: &str| self.error(Verb::List, &prefix, Fault::new(kind, cause));
        let Some(whole) = self.bucket.key_of(prefix) else {
            // No name is that long.
            at.end();
            return Ok(at);
        };
        let token = at.marker.clone().unwrap_or_default();
        let request = self.names.list_objects().set_parent(&self.resource).set_prefix(&whole).set_page_size(PAGE);
        let answer = request.set_page_token(token).send().await;
        let answer = answer.map_err(|e| self.error(Verb::List, &prefix, self.fault(Verb::List, &whole, &e)))?;
        self.seen();
        if !at.turn(Some(answer.next_page_token).filter(|token| !token.is_empty())) {
            return Err(fail(StoreErrorKind::Corrupt, "a page that leads to itself"));
        }
        for object in &answer.objects {
            let key = object.name.as_str();
            if !at.follows(key, &whole) {
                return Err(fail(StoreErrorKind::Corrupt, "names out of order, or others than were asked for"));
            }
            // What is not a name of ours was not put by us.
            if let Some(name) = self.bucket.object(key) {
                at.push(self.info(Verb::List, name, object)?);
            }
        }
        Ok(at)
    }

    async fn remove(&self, name: &ObjectName) -> Result<(), StoreError> {
        // A name too long for the bucket names nothing in it.
        let Some(key) = self.bucket.key(name) else { return Ok(()) };
        match self.names.delete_object().set_bucket(&self.resource).set_object(&key).send().await {
            Ok(()) => {
                self.seen();
                Ok(())
            }
            Err(e) => self.absent(Verb::Delete, name, &key, self.fault(Verb::Delete, &key, &e)).await,
        }
    }
}

impl Store for GcsStore {
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
        Box::pin(self.look(name))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        pages::listing(move |at| self.page(prefix, at))
    }

    fn delete<'a>(&'a self, names: &'a [ObjectName]) -> BoxFuture<'a, Vec<(ObjectName, StoreError)>> {
        type Removal<'a> = BoxFuture<'a, Option<(ObjectName, StoreError)>>;
        let one = move |name: &'a ObjectName| -> Removal<'a> {
            Box::pin(async move { self.remove(name).await.err().map(|e| (name.clone(), e)) })
        };
        let failed = stream::iter(names).map(one).buffer_unordered(self.removals);
        Box::pin(failed.filter_map(std::future::ready).collect())
    }
}
