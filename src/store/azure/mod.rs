//! A store in a container of Azure Blob Storage, on the official SDK.
//!
//! An object is one conditional Put Blob with a CRC-64 that the server compares and keeps as metadata. Each call is one
//! attempt: the SDK's own retries are off. Accounts with a hierarchical namespace (Data Lake) are refused: in them folders are
//! objects, and names have another order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;

use azure_core::error::Error;
use azure_core::http::headers::Headers;
use azure_core::http::policies::Policy;
use azure_core::http::response::AsyncResponseBody;
use azure_core::http::{ClientMethodOptions, ClientOptions, Context, RetryOptions, Transport, Url};
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientUploadOptions, BlobContainerClientListBlobsOptions, ListBlobsResponse,
};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions, BlobServiceClient, BlobServiceClientOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use zeroize::Zeroizing;

use crate::clock::{Env, Time};
use crate::store::azure::credentials::Identity;
use crate::store::azure::fault::{Answer, Listed, classify, failed};
use crate::store::azure::wire::{KEPT_SUM, Line, OneRequest, RANGE, SharedKey, Sum, Whole, timed_out};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Asked, Fault, Verb, chain};
use crate::store::name::ObjectName;
use crate::store::pages::{self, Pages};
use crate::store::settings::StoreSettings;
use crate::store::url::Bucket;
use crate::store::{OBJECT_MAX, ObjectInfo, Store, admit, buffers};

mod credentials;
mod fault;
mod inspect;
mod wire;

/// Names per page of a listing.
const PAGE: i32 = 1000;

/// What is said of accounts that cannot be used.
const NAMESPACE: &str = "accounts with a hierarchical namespace (Data Lake) are not supported";

/// Removals under way at once: there is no request for many of them.
const REMOVALS: usize = 8;

/// A store in a container.
pub struct AzureStore {
    label: String,
    env: Env,
    bucket: Bucket,
    /// Account and container, for messages.
    place: String,
    client: BlobContainerClient,
    /// The account, for its settings.
    service: BlobServiceClient,
    /// The way of logging in, in words, and where.
    shown: String,
    endpoint: Option<String>,
    tiers: BTreeMap<String, String>,
    scope: Option<String>,
    /// What no message may hold, in each of its spellings.
    hidden: Vec<Zeroizing<String>>,
}

impl fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureStore").field("label", &self.label).field("place", &self.place).finish_non_exhaustive()
    }
}

/// Where the container is: the provider's own place, or `endpoint`. An endpoint that does not name the account in its host
/// gets it as its path, as emulators want it, unless it has a path already.
fn address(account: &str, container: &str, endpoint: Option<&str>) -> Result<Url, String> {
    let own = format!("https://{account}.blob.core.windows.net");
    let endpoint = endpoint.unwrap_or(&own);
    let mut url = Url::parse(endpoint).map_err(|e| format!("the endpoint {endpoint}: {e}"))?;
    let named = url.host_str().is_some_and(|host| host.starts_with(&format!("{account}."))) || url.path() != "/";
    let mut path = url.path_segments_mut().map_err(|()| format!("the endpoint {endpoint} is no server's address"))?;
    path.pop_if_empty();
    if !named {
        path.push(account);
    }
    path.push(container);
    drop(path);
    Ok(url)
}

impl AzureStore {
    /// Prepares the store `label` in the container `bucket` of `account`. Asks no server; `Invalid` when the settings cannot
    /// work (a way to log in that is not Azure's, a token over plain http, unreadable certificates).
    pub async fn open(
        env: &Env,
        label: &str,
        account: &str,
        bucket: &Bucket,
        settings: &StoreSettings,
    ) -> Result<AzureStore, StoreError> {
        let place = format!("{account}/{}", bucket.name);
        let refuse =
            |cause: String| StoreError::new(StoreErrorKind::Invalid, label, format!("opening az://{place}")).because(cause);
        let provider = &settings.provider;
        let endpoint = bucket.endpoint.as_deref().or(provider.endpoint.as_deref());
        let url = address(account, &bucket.name, endpoint).map_err(refuse)?;
        let pem = provider.certificates(env).await.map_err(refuse)?;
        let pem = pem.as_deref();
        let identity = credentials::identity(env, &provider.credentials, pem, settings.timeout).await.map_err(refuse)?;
        let mut policies: Vec<Arc<dyn Policy>> = vec![Arc::new(OneRequest)];
        let (mut token, mut signature) = (None, None);
        match identity {
            Identity::Nobody => {}
            Identity::Token(_) if url.scheme() != "https" => {
                let fix = "tokens are sent over https only: give an https endpoint, an account key or a shared access signature";
                return Err(refuse(fix.into()));
            }
            Identity::Token(credential) => token = Some(credential),
            // Behind all that changes headers: what is sent is what is signed.
            Identity::Key(key) => {
                policies.push(Arc::new(SharedKey { env: env.clone(), account: account.to_owned(), key }));
            }
            Identity::Signature(query) => signature = Some(query),
        }
        let hidden = signature.as_ref().map_or_else(Vec::new, |query| spellings(query));
        let line = Line::new(pem, settings.timeout, signature).map_err(refuse)?;
        let client_options = ClientOptions {
            per_try_policies: policies,
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(line))),
            ..ClientOptions::default()
        };
        let mut service = url.clone();
        if let Ok(mut path) = service.path_segments_mut() {
            path.pop();
        }
        let options = BlobServiceClientOptions { client_options: client_options.clone(), ..BlobServiceClientOptions::default() };
        let service = BlobServiceClient::new(service, token.clone(), Some(options)).map_err(|e| refuse(chain(&e)))?;
        let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
        Ok(AzureStore {
            service,
            shown: provider.credentials.shown(),
            endpoint: endpoint.map(str::to_owned),
            label: label.to_owned(),
            env: env.clone(),
            bucket: bucket.clone(),
            client: BlobContainerClient::new(url, token, Some(options)).map_err(|e| refuse(chain(&e)))?,
            tiers: provider.storage_classes.clone(),
            scope: provider.kms_key.clone(),
            hidden,
            place,
        })
    }

    fn error(&self, verb: Verb, name: &dyn fmt::Display, fault: Fault) -> StoreError {
        let cause = self.hidden.iter().fold(fault.cause, |text, secret| text.replace(secret.as_str(), "(hidden)"));
        StoreError::new(fault.kind, &self.label, format!("{verb} {name}")).because(cause)
    }

    fn key(&self, verb: Verb, name: &ObjectName) -> Result<String, StoreError> {
        let cause = "the name and the store's prefix are longer than Azure takes";
        self.bucket.key(name).ok_or_else(|| self.error(verb, name, Fault::new(StoreErrorKind::Invalid, cause)))
    }

    fn asked<'a>(&'a self, verb: Verb, key: &'a str) -> Asked<'a> {
        Asked { verb, bucket: &self.place, key, kms: self.scope.is_some() }
    }

    /// What the SDK says, classed.
    fn fault(&self, verb: Verb, key: &str, error: &Error) -> Fault {
        failed(error, self.asked(verb, key), self.env.now())
    }

    /// The sum of a body, as Azure writes it.
    async fn sum(&self, bytes: &Bytes) -> String {
        // Sums of small objects are quicker done than handed over.
        let sum = match bytes.len() {
            0..=0xffff => crc_fast::checksum(Crc64Nvme, bytes),
            _ => {
                let bytes = bytes.clone();
                self.env.cpu(move || crc_fast::checksum(Crc64Nvme, &bytes)).await
            }
        };
        BASE64.encode(sum.to_le_bytes())
    }

    async fn create(&self, name: &ObjectName, bytes: Bytes) -> Result<(), StoreError> {
        admit(&self.label, name, bytes.len())?;
        let key = self.key(Verb::Put, name)?;
        let sum = self.sum(&bytes).await;
        let context = Context::new().with_value(Sum(sum.clone()));
        let options = BlobClientUploadOptions {
            // One request, whatever the size.
            partition_size: NonZero::new(OBJECT_MAX as u64),
            parallel: NonZero::new(1),
            tier: self.tiers.get(name.first()).map(|tier| tier.parse().unwrap_or_else(|e: std::convert::Infallible| match e {})),
            encryption_scope: self.scope.clone(),
            method_options: ClientMethodOptions { context },
            ..BlobClientUploadOptions::default()
        };
        let answer = self.client.blob_client(&key).upload(bytes.into(), Some(options.if_not_exists())).await;
        let answer = answer.map_err(|e| self.error(Verb::Put, name, self.fault(Verb::Put, &key, &e)))?;
        let fail = |kind, cause: String| Err(self.error(Verb::Put, name, Fault::new(kind, cause)));
        if answer.etag.is_none() {
            // No server that stored something answers like that: an error in the guise of a success, or a stranger between.
            return fail(
                StoreErrorKind::Unavailable,
                "the answer names no ETag: whether the object was stored is unknown".into(),
            );
        }
        match answer.content_crc64.map(|came| BASE64.encode(came)) {
            Some(stored) if stored != sum => {
                fail(StoreErrorKind::Corrupt, format!("what was stored has the CRC-64 {stored}, and what was sent {sum}"))
            }
            _ => Ok(()),
        }
    }

    async fn read(&self, name: &ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let key = self.key(Verb::Get, name)?;
        let fail = |kind, cause: String| Err(self.error(Verb::Get, name, Fault::new(kind, cause)));
        if let Some(Range { start, end }) = range
            && (start >= end || end - start > OBJECT_MAX as u64 || end > i64::MAX.unsigned_abs())
        {
            return fail(StoreErrorKind::Invalid, format!("bytes {start} to {end}, and an object has at most {OBJECT_MAX}"));
        }
        let whole = range.is_none();
        let context = if whole { Context::new().with_value(Whole) } else { Context::new() };
        let options = BlobClientDownloadOptions {
            partition_size: NonZero::new(OBJECT_MAX),
            parallel: NonZero::new(1),
            range: range.clone().map(Into::into),
            method_options: ClientMethodOptions { context },
            ..BlobClientDownloadOptions::default()
        };
        let answer = self.client.blob_client(&key).download(Some(options)).await;
        let answer = answer.map_err(|e| self.error(Verb::Get, name, self.fault(Verb::Get, &key, &e)))?;
        let told = length(&answer.headers);
        let expected = match (&range, told) {
            (Some(r), _) => {
                let place = header(&answer.headers, RANGE).and_then(content_range);
                let size = place.map(|(_, _, size)| size).or(told);
                if let Some(size) = size.filter(|size| r.end > *size) {
                    return fail(StoreErrorKind::Invalid, format!("bytes {} to {} of an object of {size}", r.start, r.end));
                }
                let Some((first, last, _)) = place else {
                    return fail(StoreErrorKind::Invalid, "the server does not answer ranges as such".into());
                };
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
        let kept = header(&answer.headers, KEPT_SUM).filter(|_| whole).map(str::to_owned);
        let bytes = self.body(name, answer.body, usize::try_from(expected).unwrap_or(OBJECT_MAX)).await?;
        if let Some(kept) = kept {
            let came = self.sum(&bytes).await;
            if came != kept {
                return fail(StoreErrorKind::Corrupt, format!("its CRC-64 is {kept}, and what came has {came}"));
            }
        }
        Ok(bytes)
    }

    /// Collects exactly `expected` bytes.
    async fn body(&self, name: &ObjectName, mut body: AsyncResponseBody, expected: usize) -> Result<Bytes, StoreError> {
        let fail = |kind, cause: String| self.error(Verb::Get, name, Fault::new(kind, cause));
        let mut all = buffers::body(expected);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| {
                let kind = if timed_out(&e) { StoreErrorKind::TimedOut } else { StoreErrorKind::Unavailable };
                fail(kind, format!("broke off after {} of {expected} bytes: {}", all.len(), chain(&e)))
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
        let blob = self.client.blob_client(&key);
        let error = match blob.get_properties(None).await {
            Ok(answer) => {
                let size = length(answer.headers()).ok_or_else(|| {
                    self.error(Verb::Stat, name, Fault::new(StoreErrorKind::Corrupt, "the answer does not say how long it is"))
                })?;
                let modified = header(answer.headers(), "last-modified").and_then(|at| jiff::fmt::rfc2822::parse(at).ok());
                let modified = modified.map_or(0, |at| at.timestamp().as_second());
                return Ok(Some(ObjectInfo { name: name.clone(), size, modified: time(modified) }));
            }
            Err(e) => e,
        };
        match Answer::of(&error).map(|answer| answer.object_is_absent()) {
            Some(Some(true)) => Ok(None),
            // A 404 without a word of what is absent: a GET has more to say.
            Some(None) => {
                let options = BlobClientDownloadOptions { range: Some((0..1u64).into()), ..BlobClientDownloadOptions::default() };
                match blob.download(Some(options)).await {
                    Ok(_) => {
                        let cause = "a HEAD says that it is absent, and a GET that it is there";
                        Err(self.error(Verb::Stat, name, Fault::new(StoreErrorKind::Unavailable, cause)))
                    }
                    Err(e) if Answer::of(&e).and_then(|a| a.object_is_absent()) == Some(true) => Ok(None),
                    Err(e) => Err(self.error(Verb::Stat, name, self.fault(Verb::Stat, &key, &e))),
                }
            }
            _ => Err(self.error(Verb::Stat, name, self.fault(Verb::Stat, &key, &error))),
        }
    }

    /// One page of a listing: names that follow the last one, in order, or an error.
    async fn page(&self, prefix: &str, mut at: Pages) -> Result<Pages, StoreError> {
        let fail = |kind, cause: String| self.error(Verb::List, &prefix, Fault::new(kind, cause));
        let Some(whole) = self.bucket.key_of(prefix) else {
            // No name is that long.
            at.end();
            return Ok(at);
        };
        let options = BlobContainerClientListBlobsOptions {
            prefix: Some(whole.clone()).filter(|whole| !whole.is_empty()),
            maxresults: Some(PAGE),
            marker: at.marker.clone(),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let asking = async {
            let mut pages = Box::pin(self.client.list_blobs(Some(options))?.into_pages());
            pages.next().await.transpose()
        };
        let wrong = |e: &Error| self.error(Verb::List, &prefix, self.fault(Verb::List, &whole, e));
        let page = asking.await.map_err(|e| wrong(&e))?.ok_or_else(|| fail(StoreErrorKind::Corrupt, "no page came".into()))?;
        // The SDK takes whatever is XML for a page, and what is none for an empty one.
        match Listed::of(page.body()) {
            Listed::Page => {}
            Listed::Folders => return Err(fail(StoreErrorKind::Invalid, NAMESPACE.into())),
            Listed::Refusal(answer) => {
                let fault = classify(&answer, self.asked(Verb::List, &whole), self.env.now());
                return Err(self.error(Verb::List, &prefix, fault));
            }
        }
        let page: ListBlobsResponse = page.into_model().map_err(|e| wrong(&e))?;
        if !at.turn(page.next_marker.filter(|marker| !marker.is_empty())) {
            return Err(fail(StoreErrorKind::Corrupt, "a page that leads to itself".into()));
        }
        for object in page.blob_items {
            let key = object.name.unwrap_or_default();
            if !at.follows(&key, &whole) {
                return Err(fail(StoreErrorKind::Invalid, format!("names out of order; {NAMESPACE}")));
            }
            // What is not a name of ours was not put by us.
            if let Some(name) = self.bucket.object(&key) {
                let properties = object.properties.unwrap_or_default();
                let size = properties.content_length;
                let size = size.ok_or_else(|| fail(StoreErrorKind::Corrupt, format!("no size of {name}")))?;
                let modified = properties.last_modified.map_or(0, |at| at.unix_timestamp());
                at.push(ObjectInfo { name, size, modified: time(modified) });
            }
        }
        Ok(at)
    }

    async fn remove(&self, name: ObjectName) -> Option<(ObjectName, StoreError)> {
        // A name too long for the container names nothing in it.
        let key = self.bucket.key(&name)?;
        let error = self.client.blob_client(&key).delete(None).await.err()?;
        if Answer::of(&error).and_then(|answer| answer.object_is_absent()) == Some(true) {
            return None;
        }
        let error = self.error(Verb::Delete, &name, self.fault(Verb::Delete, &key, &error));
        Some((name, error))
    }
}

impl Store for AzureStore {
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
            let each: BTreeSet<ObjectName> = names.iter().cloned().collect();
            let removals: Vec<_> = each.into_iter().map(|name| self.remove(name)).collect();
            stream::iter(removals).buffer_unordered(REMOVALS).filter_map(std::future::ready).collect().await
        })
    }
}

fn header<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get_optional_str(&name.into())
}

fn length(headers: &Headers) -> Option<u64> {
    header(headers, "content-length")?.parse().ok()
}

/// First, last and size from `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

fn time(seconds: i64) -> Time {
    Time(seconds.saturating_mul(1_000_000_000))
}

/// The signature of a shared access signature, as it stands in the query and as the server reads it.
fn spellings(query: &str) -> Vec<Zeroizing<String>> {
    let mut all = vec![Zeroizing::new(query.to_owned())];
    all.extend(query.split('&').filter_map(|part| part.strip_prefix("sig=")).map(|text| Zeroizing::new(text.to_owned())));
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name == "sig" {
            all.push(Zeroizing::new(value.into_owned()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use crate::store::azure::{address, content_range};

    #[test]
    fn addresses_name_the_account_once() {
        let table = [
            (None, "https://ours.blob.core.windows.net/box"),
            (Some("https://ours.blob.core.chinacloudapi.cn"), "https://ours.blob.core.chinacloudapi.cn/box"),
            (Some("https://ours.privatelink.blob.core.windows.net/"), "https://ours.privatelink.blob.core.windows.net/box"),
            (Some("http://127.0.0.1:10000"), "http://127.0.0.1:10000/ours/box"),
            (Some("http://127.0.0.1:10000/"), "http://127.0.0.1:10000/ours/box"),
            (Some("http://127.0.0.1:10000/ours"), "http://127.0.0.1:10000/ours/box"),
            (Some("https://storage.test/some/where/"), "https://storage.test/some/where/box"),
        ];
        for (endpoint, expected) in table {
            assert_eq!(address("ours", "box", endpoint).unwrap().as_str(), expected, "{endpoint:?}");
        }
    }

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, 100)));
        for text in ["bytes */100", "bytes 0-9/*", "0-9/100", "bytes 0-99999999999999999999/1", ""] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
