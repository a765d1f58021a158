//! Where a store lies, as a URL.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::store::name::{NAME_MAX, ObjectName};

/// Longest prefix inside a bucket, in bytes: the longest names of a repository (about 80) must fit behind it.
const PREFIX_MAX: usize = NAME_MAX - 128;

/// Where a store lies. Ordered by its canonical text, which holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreUrl {
    text: String,
    place: Place,
}

/// The same, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `file:///srv/backup`: an absolute directory.
    Directory(PathBuf),
    /// `s3://bucket/prefix?region=...&endpoint=...`.
    S3(Bucket),
    /// `gs://bucket/prefix?endpoint=...`.
    Gcs(Bucket),
    /// `az://account/container/prefix?endpoint=...`.
    Azure {
        /// The storage account.
        account: String,
        /// The container and the rest.
        container: Bucket,
    },
}

/// A bucket (or container) and the part of it that belongs to the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// What all object names begin with: empty, or segments that end with `/`.
    pub prefix: String,
    /// Region of the bucket, if the URL says so.
    pub region: Option<String>,
    /// Another server than the provider's own, if the URL says so.
    pub endpoint: Option<String>,
}

impl Bucket {
    /// The name of `object` in the bucket; `None` if the two together are longer than providers take.
    pub fn key(&self, object: &ObjectName) -> Option<String> {
        self.key_of(object.as_str())
    }
    /// The same for any beginning of a name.
    pub fn key_of(&self, text: &str) -> Option<String> {
        let key = format!("{}{text}", self.prefix);
        (key.len() <= NAME_MAX).then_some(key)
    }
    /// The object that a name in the bucket stands for; `None` for what no store of ours has put there.
    pub fn object(&self, key: &str) -> Option<ObjectName> {
        ObjectName::new(key.strip_prefix(&self.prefix)?).ok()
    }
}

/// A text that is no URL of a store.
#[derive(Debug, thiserror::Error)]
#[error("store url {text:?}: {reason}")]
pub struct StoreUrlError {
    text: String,
    reason: String,
}

impl StoreUrl {
    /// Reads `file:///absolute` and `file:relative`, the latter from `folder` on (the configuration file's, or the
    /// current one on the command line), `s3://bucket/prefix`, `gs://bucket/prefix` and `az://account/container/prefix`.
    /// `%20` and its like are decoded in directories. Touches no file, asks no server.
    pub fn parse(text: &str, folder: &Path) -> Result<StoreUrl, StoreUrlError> {
        let refuse = |reason: String| {
            // In a cloud's URL, what stands before an @ may be a password, and what follows a ? a signature.
            let local = text.starts_with("file:");
            let shown: String = text.chars().take_while(|c| local || *c != '?').take(200).collect();
            let shown = match shown.rsplit_once('@') {
                Some((_, rest)) if !local => format!("...@{rest}"),
                _ => shown,
            };
            StoreUrlError { text: shown, reason }
        };
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(refuse("has no scheme; a local directory is written file:///srv/backup or file:folder".into()));
        };
        let place = match scheme {
            "file" => directory(rest, folder).map(Place::Directory),
            "s3" => bucket(rest, &["region", "endpoint"]).map(Place::S3),
            "gs" => bucket(rest, &["endpoint"]).map(Place::Gcs),
            "az" => account(rest),
            _ => {
                let scheme: String = scheme.chars().take(20).collect();
                Err(format!("unknown scheme {scheme:?}; there are file:, s3:, gs: and az:"))
            }
        };
        let place = place.map_err(refuse)?;
        Ok(StoreUrl { text: canonical(&place), place })
    }

    /// The URL, taken apart.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

fn directory(rest: &str, folder: &Path) -> Result<PathBuf, String> {
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err("two slashes name a host; write file:///absolute or file:relative".into()),
        None => rest,
    };
    if path.contains(['?', '#']) {
        return Err("a local directory takes no parameters; write ? as %3F and # as %23".into());
    }
    let bytes = decoded(path).ok_or("a % begins two hexadecimal digits; write % itself as %25")?;
    if bytes.is_empty() || bytes.contains(&0) {
        return Err("names no directory".into());
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    // Two spellings of one place must compare alike: `.`, doubled and closing slashes go.
    Ok(folder.join(path).components().filter(|c| *c != Component::CurDir).collect())
}

fn account(rest: &str) -> Result<Place, String> {
    let missing = "write az://account/container/prefix";
    let rest = rest.strip_prefix("//").ok_or(missing)?;
    let (account, rest) = rest.split_once('/').ok_or(missing)?;
    let fits = (3..=24).contains(&account.len()) && account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !fits {
        return Err("a storage account is named by 3 to 24 lower-case letters and digits".into());
    }
    let container = bucket(&format!("//{rest}"), &["endpoint"])?;
    Ok(Place::Azure { account: account.to_owned(), container })
}

fn bucket(rest: &str, parameters: &[&str]) -> Result<Bucket, String> {
    let rest = rest.strip_prefix("//").ok_or("write two slashes before the bucket")?;
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    if rest.contains('#') {
        return Err("a # has no place here".into());
    }
    let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if !(3..=222).contains(&name.len()) || !name.bytes().all(plain) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(format!("{:?} names no bucket: lower-case letters, digits, '-', '.' and '_', at least 3", clipped(name)));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.len() > PREFIX_MAX {
        return Err(format!("the prefix has {} bytes, and names must fit behind it: at most {PREFIX_MAX}", prefix.len()));
    }
    let segment = |s: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'=' | b'+' | b'@');
        !s.is_empty() && s != "." && s != ".." && s.bytes().all(fits)
    };
    if !prefix.is_empty() && !prefix.split('/').all(segment) {
        return Err("a prefix has segments of letters, digits and . - _ = + @, parted by single slashes".into());
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let mut bucket = Bucket { name: name.to_owned(), prefix, region: None, endpoint: None };
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if !parameters.contains(&&*key) {
            let known = parameters.join(", ");
            return Err(format!("unknown parameter {:?}; there are: {known} (secrets never stand in a URL)", clipped(&key)));
        }
        let slot = if key == "region" { &mut bucket.region } else { &mut bucket.endpoint };
        if value.is_empty() || slot.replace(value.into_owned()).is_some() {
            return Err(format!("the parameter {key} is empty or stands there twice"));
        }
    }
    if let Some(endpoint) = &bucket.endpoint {
        verify_endpoint(endpoint)?;
    }
    Ok(bucket)
}

/// Refuses what is no server's address: `http` or `https`, a host, no user, no query.
pub fn verify_endpoint(endpoint: &str) -> Result<(), String> {
    let wrong = "an endpoint is written https://host:port";
    let url = url::Url::parse(endpoint).map_err(|e| format!("{wrong}: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong.into());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{wrong}, without user, parameters and the like"));
    }
    Ok(())
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Over TLS.
    Encrypted,
    /// In the clear, within this machine.
    Loopback,
    /// In the clear, over a network.
    Open,
}

impl Line {
    /// To `endpoint`; to the provider's own place if `None`.
    pub fn to(endpoint: Option<&str>) -> Line {
        let Some(url) = endpoint.map(url::Url::parse) else { return Line::Encrypted };
        let Ok(url) = url else { return Line::Open };
        let loopback = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match url.scheme() {
            "https" => Line::Encrypted,
            _ if loopback => Line::Loopback,
            _ => Line::Open,
        }
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

fn canonical(place: &Place) -> String {
    let path = |b: &Bucket| format!("{}/{}", b.name, b.prefix).trim_end_matches('/').to_owned();
    let (text, bucket) = match place {
        Place::Directory(path) => return format!("file://{}", encoded(path.as_os_str().as_bytes())),
        Place::S3(bucket) => (format!("s3://{}", path(bucket)), bucket),
        Place::Gcs(bucket) => (format!("gs://{}", path(bucket)), bucket),
        Place::Azure { account, container } => (format!("az://{account}/{}", path(container)), container),
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in [("endpoint", &bucket.endpoint), ("region", &bucket.region)] {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { text } else { format!("{text}?{query}") }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b => b,
        });
    }
    Some(out)
}

fn encoded(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' | b'+' | b'@' | b':' => out.push(b.into()),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
