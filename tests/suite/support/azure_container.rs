//! A container in memory with the semantics of Azure Blob: conditional creates, pages, leases and holds. Pure but for the clock
//! handed in.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

/// A block blob.
#[derive(Clone, Debug)]
pub struct Blob {
    pub body: Bytes,
    pub modified: SystemTime,
    pub etag: String,
    pub tier: Option<String>,
    pub scope: Option<String>,
    /// By the name behind `x-ms-meta-`.
    pub metadata: BTreeMap<String, String>,
    /// Somebody holds a lease on it.
    pub leased: bool,
    /// A policy or a legal hold stands against its removal.
    pub held: bool,
    /// Shown as a folder, as accounts with a hierarchical namespace do.
    pub folder: bool,
}

impl Blob {
    pub fn new(body: Bytes, modified: SystemTime) -> Blob {
        Blob {
            body,
            modified,
            etag: String::new(),
            tier: None,
            scope: None,
            metadata: BTreeMap::new(),
            leased: false,
            held: false,
            folder: false,
        }
    }
}

/// Why a request is refused: status and Azure's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u16, pub &'static str);

/// Blobs under their names, in order.
pub type Named<'a> = Vec<(&'a str, &'a Blob)>;

/// What a container and its account say of themselves. Nothing here acts on it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `container` or `blob`: anybody may read.
    pub public: Option<&'static str>,
    pub immutable: bool,
    pub legal_hold: bool,
    pub scope: Option<&'static str>,
    /// Every blob has a version.
    pub versions: bool,
    /// Days in which what was deleted can be had back.
    pub soft_delete: Option<u32>,
}

/// A container.
#[derive(Default)]
pub struct Container {
    pub settings: Settings,
    drawn: u64,
    blobs: BTreeMap<String, Blob>,
}

impl Container {
    /// Writes a blob; with `if_absent` only where there is none.
    pub fn put(&mut self, name: &str, blob: Blob, if_absent: bool) -> Result<&Blob, Refusal> {
        match self.blobs.get(name) {
            Some(_) if if_absent => return Err(Refusal(409, "BlobAlreadyExists")),
            Some(old) if old.held => return Err(Refusal(409, "BlobImmutableDueToPolicy")),
            Some(old) if old.leased => return Err(Refusal(412, "LeaseIdMissing")),
            _ => {}
        }
        self.drawn += 1;
        let blob = Blob { etag: format!("\"0x8D{:013X}\"", self.drawn), ..blob };
        Ok(self.blobs.entry(name.to_owned()).insert_entry(blob).into_mut())
    }

    pub fn get(&self, name: &str) -> Result<&Blob, Refusal> {
        self.blobs.get(name).ok_or(Refusal(404, "BlobNotFound"))
    }

    /// The blob as it lies there, for tests that change it behind everybody's back.
    pub fn lying(&mut self, name: &str) -> &mut Blob {
        self.blobs.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub fn delete(&mut self, name: &str) -> Result<(), Refusal> {
        let blob = self.get(name)?;
        if blob.held {
            return Err(Refusal(409, "BlobImmutableDueToPolicy"));
        }
        if blob.leased {
            return Err(Refusal(412, "LeaseIdMissing"));
        }
        self.blobs.remove(name);
        Ok(())
    }

    /// Up to `most` blobs that begin with `prefix`, from the marker on, and the marker of the next page. A marker names where to
    /// go on, and nobody but the server reads it.
    pub fn page(&self, prefix: &str, marker: &str, most: usize) -> Result<(Named<'_>, String), Refusal> {
        let from = match marker.strip_prefix("2!") {
            None if marker.is_empty() => prefix.to_owned(),
            None => return Err(Refusal(400, "OutOfRangeInput")),
            Some(text) => {
                let name = BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                name.ok_or(Refusal(400, "OutOfRangeInput"))?
            }
        };
        let mut rest = self
            .blobs
            .range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, blob)| (name.as_str(), blob));
        let page = rest.by_ref().take(most).collect();
        let next = rest.next().map(|(name, _)| format!("2!{}", BASE64.encode(name))).unwrap_or_default();
        Ok((page, next))
    }
}
