//! Who may ask the server of Azure Blob, checked from the request as it came, by rules written down apart from the store's own
//! signing: Azure's pages "Authorize with Shared Key" and "Create a service SAS".

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use sha2::Sha256;

/// Status, code, and why nobody was recognised.
pub type Nobody = (u16, &'static str, String);

/// A request, as far as its sender is in question.
pub struct Asking<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// What a shared access signature has to allow: one of these letters.
    pub needs: &'a str,
    /// Over TLS.
    pub secure: bool,
}

/// Whom the server knows.
pub struct Known {
    pub account: String,
    pub key: Vec<u8>,
    pub container: String,
    pub tokens: BTreeSet<String>,
    /// Nobody needs to say who he is.
    pub open: bool,
}

impl Known {
    /// Lets those pass who prove themselves; a wrong proof is refused even where none is needed.
    pub fn admit(&self, asking: &Asking<'_>) -> Result<(), Nobody> {
        let query = pairs(asking.uri.query().unwrap_or_default());
        let given = asking.headers.get("authorization").map(|v| v.to_str().unwrap_or_default());
        match given.map(|text| text.split_once(' ').unwrap_or((text, ""))) {
            Some(("SharedKey", proof)) => self.admit_key(asking, proof),
            Some(("Bearer", token)) if asking.secure && self.tokens.contains(token) => Ok(()),
            Some(("Bearer", _)) => Err((401, "InvalidAuthenticationInfo", "Lifetime validation failed.".into())),
            Some(_) => Err((400, "InvalidAuthenticationInfo", "an unknown scheme".into())),
            None if query.contains_key("sig") => self.admit_signature(&query, asking.needs),
            None if self.open => Ok(()),
            None => Err((401, "NoAuthenticationInformation", "none was given".into())),
        }
    }

    fn sign(&self, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(text.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }

    fn admit_key(&self, asking: &Asking<'_>, proof: &str) -> Result<(), Nobody> {
        let nobody = |detail: String| Err((403, "AuthenticationFailed", detail));
        let header = |name: &str| asking.headers.get(name).map_or("", |v| v.to_str().unwrap_or_default());
        let stated = jiff::fmt::rfc2822::parse(header("x-ms-date")).map(|at| SystemTime::from(at.timestamp()));
        let now = SystemTime::now();
        let skew = stated.map(|at| now.duration_since(at).or_else(|_| at.duration_since(now)).unwrap_or_default());
        if skew.is_ok_and(|skew| skew > Duration::from_secs(15 * 60)) || header("x-ms-date").is_empty() {
            return nobody(format!("Request date header too old: '{}'", header("x-ms-date")));
        }
        let length = header("content-length");
        let fixed = [
            asking.method.as_str(),
            header("content-encoding"),
            header("content-language"),
            if length == "0" { "" } else { length },
            header("content-md5"),
            header("content-type"),
            "",
            header("if-modified-since"),
            header("if-match"),
            header("if-none-match"),
            header("if-unmodified-since"),
            header("range"),
        ];
        let own: BTreeMap<&str, &str> =
            asking.headers.keys().map(|k| k.as_str()).filter(|k| k.starts_with("x-ms-")).map(|k| (k, header(k))).collect();
        let own: String = own.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let asked: String = pairs(asking.uri.query().unwrap_or_default())
            .iter()
            .map(|(name, value)| format!("\n{}:{value}", name.to_lowercase()))
            .collect();
        let text = format!("{}\n{own}/{}{}{asked}", fixed.join("\n"), self.account, asking.uri.path());
        match proof == format!("{}:{}", self.account, self.sign(&text)) {
            true => Ok(()),
            false => nobody(format!("The MAC signature is not the same as any computed one. Signed was: '{text}'")),
        }
    }

    /// A shared access signature for the container, with the letters of what it allows.
    pub fn signature(&self, letters: &str, expiry: &str) -> String {
        let signature = self.sign(&self.signed_by(letters, expiry));
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let parts = [("sv", VERSION), ("sr", "c"), ("sp", letters), ("se", expiry), ("spr", "https,http"), ("sig", &signature)];
        query.extend_pairs(parts).finish()
    }

    fn signed_by(&self, letters: &str, expiry: &str) -> String {
        let place = format!("/blob/{}/{}", self.account, self.container);
        // Permissions, start, expiry, resource, identifier, addresses, protocol, version, kind, snapshot, encryption scope, and
        // five headers of answers.
        [letters, "", expiry, &place, "", "", "https,http", VERSION, "c", "", "", "", "", "", "", ""].join("\n")
    }

    fn admit_signature(&self, query: &BTreeMap<String, String>, needs: &str) -> Result<(), Nobody> {
        let nobody = |detail: &str| Err((403, "AuthenticationFailed", detail.to_owned()));
        let part = |name: &str| query.get(name).map_or("", String::as_str);
        if part("sig") != self.sign(&self.signed_by(part("sp"), part("se"))) {
            return nobody("Signature did not match.");
        }
        let over = part("se").parse::<jiff::Timestamp>().is_ok_and(|until| until < jiff::Timestamp::now());
        if over {
            return nobody("Signature not valid in the specified time frame");
        }
        match part("sp").contains(|letter| needs.contains(letter)) {
            true => Ok(()),
            false => Err((403, "AuthorizationPermissionMismatch", String::new())),
        }
    }
}

const VERSION: &str = "2022-11-02";

/// The parts of a query, decoded, by name.
pub fn pairs(query: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}
