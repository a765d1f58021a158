//! What a bucket of Google Cloud Storage holds and promises, without any wire: creates on condition of a generation, sums that
//! are compared, pages in the order of names. `gcs_json` and `gcs_grpc` speak of it in their ways.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use crate::support::gcs_settings::Settings;

/// Longest name of an object, in bytes.
const NAME_MAX: usize = 1024;

/// Most objects of one page.
pub const PAGE_MAX: usize = 1000;

const CLASSES: [&str; 7] =
    ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY"];

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct Object {
    pub bytes: Bytes,
    pub crc32c: u32,
    /// Whether its writer sent the sum along.
    pub summed: bool,
    pub generation: i64,
    pub created: jiff::Timestamp,
    pub class: String,
    pub content_type: Option<String>,
    pub kms_key: Option<String>,
}

/// An object as somebody wants it to be.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub bytes: Bytes,
    /// The sum that the bytes must have.
    pub crc32c: Option<u32>,
    pub class: Option<String>,
    pub content_type: Option<String>,
    pub kms_key: Option<String>,
}

/// Why not: the HTTP status, the reason and the words of the JSON API, the code of gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: &'static str,
    pub code: u8,
    pub message: String,
}

impl Refusal {
    pub fn invalid(message: impl Into<String>) -> Refusal {
        Refusal { status: 400, reason: "invalid", code: 3, message: message.into() }
    }
    pub fn condition() -> Refusal {
        let message = "At least one of the pre-conditions you specified did not hold.".into();
        Refusal { status: 412, reason: "conditionNotMet", code: 9, message }
    }
    pub fn no_bucket() -> Refusal {
        Refusal { status: 404, reason: "notFound", code: 5, message: "The specified bucket does not exist.".into() }
    }
    pub fn no_object(bucket: &str, name: &str) -> Refusal {
        Refusal { status: 404, reason: "notFound", code: 5, message: format!("No such object: {bucket}/{name}") }
    }
    pub fn no_login(given: bool) -> Refusal {
        let (reason, message) = match given {
            true => ("authError", "Invalid Credentials"),
            false => ("required", "Anonymous caller does not have the access that is needed here."),
        };
        Refusal { status: 401, reason, code: 16, message: message.into() }
    }
    pub fn forbidden(permission: &str, resource: &str) -> Refusal {
        let message = format!("somebody does not have {permission} access to the Google Cloud Storage object {resource}.");
        Refusal { status: 403, reason: "forbidden", code: 7, message }
    }
    pub fn unknown(what: &str) -> Refusal {
        Refusal { status: 501, reason: "notImplemented", code: 12, message: format!("not known here: {what}") }
    }
}

/// A bucket's objects by their names.
#[derive(Default)]
pub struct Bucket {
    pub objects: BTreeMap<String, Object>,
    /// What it says of itself. Nothing here acts on it.
    pub settings: Settings,
}

/// One page of a listing.
pub struct Page {
    pub objects: Vec<(String, Object)>,
    /// The last name of the page, if more follow.
    pub next: Option<String>,
}

/// The sum that GCS works with.
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).expect("32 bits")
}

/// A sum as texts carry it.
pub fn told(sum: u32) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, sum.to_be_bytes())
}

/// The sum that a text carries.
pub fn heard(text: &str) -> Result<u32, Refusal> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).ok();
    let sum = bytes.and_then(|b| <[u8; 4]>::try_from(b).ok()).map(u32::from_be_bytes);
    sum.ok_or_else(|| Refusal::invalid(format!("Invalid crc32c: {text:?}")))
}

impl Bucket {
    /// Creates or replaces `name`, if its generation is `condition` (0: absent; `None`: whatever it is).
    pub fn put(&mut self, name: &str, draft: Draft, condition: Option<i64>) -> Result<Object, Refusal> {
        static GENERATION: AtomicI64 = AtomicI64::new(1_700_000_000_000_000);
        if name.is_empty() || name.len() > NAME_MAX || name.contains(['\r', '\n']) || matches!(name, "." | "..") {
            return Err(Refusal::invalid("Invalid object name."));
        }
        let class = draft.class.unwrap_or_else(|| "STANDARD".into());
        if !CLASSES.contains(&class.as_str()) {
            return Err(Refusal::invalid(format!("The specified storage class {class} is not valid.")));
        }
        let sum = crc32c(&draft.bytes);
        if let Some(given) = draft.crc32c.filter(|given| *given != sum) {
            let (given, sum) = (told(given), told(sum));
            return Err(Refusal::invalid(format!("Provided CRC32C \"{given}\" doesn't match calculated CRC32C \"{sum}\".")));
        }
        let now = self.objects.get(name).map_or(0, |o| o.generation);
        if condition.is_some_and(|expected| expected != now) {
            return Err(Refusal::condition());
        }
        let object = Object {
            bytes: draft.bytes,
            crc32c: sum,
            summed: draft.crc32c.is_some(),
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            created: jiff::Timestamp::now(),
            class,
            content_type: draft.content_type,
            kms_key: draft.kms_key,
        };
        self.objects.insert(name.to_owned(), object.clone());
        Ok(object)
    }

    /// Removes `name`; `false` if it is not there.
    pub fn remove(&mut self, name: &str, condition: Option<i64>) -> Result<bool, Refusal> {
        let Some(object) = self.objects.get(name) else { return Ok(false) };
        if condition.is_some_and(|expected| expected != object.generation) {
            return Err(Refusal::condition());
        }
        self.objects.remove(name);
        Ok(true)
    }

    /// The objects from `start` on whose names begin with `prefix` and come after `after`; at most `size` of them.
    pub fn page(&self, prefix: &str, start: &str, after: &str, size: usize) -> Page {
        let from = prefix.max(start).max(after);
        let mut fitting = self.objects.range(from.to_owned()..).filter(|(name, _)| name.as_str() > after || after.is_empty());
        let mut objects: Vec<(String, Object)> = Vec::new();
        let mut next = None;
        for (name, object) in fitting.by_ref() {
            if !name.starts_with(prefix) {
                break;
            }
            if objects.len() == size {
                next = objects.last().map(|(name, _)| name.clone());
                break;
            }
            objects.push((name.clone(), object.clone()));
        }
        Page { objects, next }
    }
}
