//! Who asks Google Cloud Storage, and by which way of logging in.
//!
//! Without a word in the settings the surroundings are asked in the order of Google's own libraries ("application default
//! credentials"): the file that `GOOGLE_APPLICATION_CREDENTIALS` names; the one that `gcloud auth application-default login` left
//! (`~/.config/gcloud/application_default_credentials.json`); the metadata server (`GCE_METADATA_HOST` names another one). A file
//! may be a service account's key, a person's login, an external account (workload identity federation by file, URL, executable
//! or AWS) or an impersonation. Whatever expires is renewed in mid-run by whoever gave it.
//!
//! Tokens open all that their owner may open, so over plain `http://` they go to this machine alone (loopback). What is merely
//! *found* never goes over plain http at all: such a server is asked as nobody.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_auth::credentials::{
    Builder as Found, CacheableResource, Credentials as Identity, CredentialsProvider, EntityTag,
};
use google_cloud_auth::credentials::{external_account, impersonated, mds, service_account, user_account};
use google_cloud_auth::errors::CredentialsError;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::clock::Env;
use crate::store::credentials::{Credentials, SecretSource};
use crate::store::fault::words;
use crate::store::url::Line;

/// Where Google's services live, unless a key file says that they live elsewhere.
const UNIVERSE: &str = "googleapis.com";

/// How long it may take to be given a first token: a metadata server may need a moment after its machine has started.
const LOGIN_MAX: Duration = Duration::from_secs(15);

/// Pause between two looks at a login that has failed for now.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// An identity, and the universe that it belongs to.
pub(crate) struct Login {
    /// Who asks.
    pub identity: Identity,
    /// Where, such as `googleapis.com`.
    pub universe: String,
    /// The way of logging in, and as whom where that is known, in words.
    pub shown: String,
}

/// The identity that the settings ask for, towards `endpoint` (Google itself if `None`). Asks no server. The error says what to
/// mend, and holds no secret. `patience` is how long one request may wait for a token.
pub(crate) async fn login(
    env: &Env,
    credentials: &Credentials,
    endpoint: Option<&str>,
    patience: Duration,
) -> Result<Login, String> {
    let line = Line::to(endpoint);
    let mut shown = credentials.shown();
    let nobody = || Login {
        identity: anonymous::Builder::new().build(),
        universe: UNIVERSE.into(),
        shown: Credentials::Anonymous.shown(),
    };
    let (identity, universe) = match credentials {
        Credentials::Anonymous => return Ok(nobody()),
        Credentials::Found if line != Line::Encrypted => return Ok(nobody()),
        _ if line == Line::Open => {
            return Err(
                "credentials are not sent over plain http to another machine: write https:// in the endpoint, or log in as \
                        `anonymous`"
                    .into(),
            );
        }
        Credentials::Found => (found()?, None),
        Credentials::File(path) => {
            let source = SecretSource::File(path.clone());
            let text = env.blocking(move || source.load()).await?;
            let found = from_file(&text).map_err(|e| format!("the credentials in {}: {e}", path.display()))?;
            if let Some(account) = account(&text) {
                shown = format!("{account}, by {shown}");
            }
            found
        }
        Credentials::MetadataServer => (mds::Builder::default().with_universe_domain(UNIVERSE).build().map_err(said)?, None),
        Credentials::Impersonated(account) => {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '.' | '-' | '_');
            if !account.contains('@') || !account.chars().all(fits) {
                return Err(format!("{account:?} names no service account; it looks like name@project.iam.gserviceaccount.com"));
            }
            let builder = impersonated::Builder::from_source_credentials(found()?).with_target_principal(account);
            (builder.with_universe_domain(UNIVERSE).build().map_err(said)?, None)
        }
        Credentials::AccessToken(secret) => {
            let secret = secret.clone();
            let token = env.blocking(move || secret.load()).await?;
            (Bearer::new(&token)?.into(), None)
        }
        other => return Err(format!("{} is not a way to log in to Google Cloud Storage", kind(other))),
    };
    let universe = universe.unwrap_or_else(|| UNIVERSE.to_owned());
    let patience = patience.min(LOGIN_MAX);
    let patient =
        Patient { env: env.clone(), inner: identity, universe: universe.clone(), patience, known: AtomicBool::new(false) };
    Ok(Login { identity: patient.into(), universe, shown })
}

fn found() -> Result<Identity, String> {
    Found::default().with_universe_domain(UNIVERSE).build().map_err(said)
}

fn said(error: google_cloud_auth::build_errors::Error) -> String {
    error.to_string()
}

/// The service account that a credentials file names.
fn account(text: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(words(json.get("client_email")?.as_str()?))
}

/// The identity in a credentials file of Google's, and its universe if it names one.
fn from_file(text: &str) -> Result<(Identity, Option<String>), String> {
    // The parser's own words could quote the secret.
    let json: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("no JSON (line {})", e.line()))?;
    let field = |name: &str| json.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let (kind, universe) = (field("type").ok_or("there is no `type` in them")?, field("universe_domain"));
    let identity = match kind.as_str() {
        "service_account" => service_account::Builder::new(json).build(),
        "authorized_user" => user_account::Builder::new(json).build(),
        "impersonated_service_account" => impersonated::Builder::new(json).build(),
        "external_account" => external_account::Builder::new(json).build(),
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(format!(
                "their type {other:?} is not known; there are service_account, external_account, impersonated_service_account and \
                 authorized_user"
            ));
        }
    };
    Ok((identity.map_err(said)?, universe))
}

/// A token as it is.
struct Bearer {
    header: HeaderValue,
    tag: EntityTag,
}

impl Bearer {
    fn new(token: &str) -> Result<Bearer, String> {
        let text = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&text).map_err(|_| "the access token holds signs that no token has".to_owned())?;
        header.set_sensitive(true);
        Ok(Bearer { header, tag: EntityTag::new() })
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(..)")
    }
}

type Headers = Result<CacheableResource<HeaderMap>, CredentialsError>;

impl CredentialsProvider for Bearer {
    async fn headers(&self, extensions: http::Extensions) -> Headers {
        if extensions.get::<EntityTag>() == Some(&self.tag) {
            return Ok(CacheableResource::NotModified);
        }
        let data = HeaderMap::from_iter([(AUTHORIZATION, self.header.clone())]);
        Ok(CacheableResource::New { entity_tag: self.tag.clone(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        Some(UNIVERSE.to_owned())
    }
}

/// An identity that is waited for, but not for ever: the SDK itself gives up at the first fault, or never.
struct Patient {
    env: Env,
    inner: Identity,
    universe: String,
    patience: Duration,
    // Whether it has ever given a token: then a fault will pass.
    known: AtomicBool,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient").field("universe", &self.universe).finish_non_exhaustive()
    }
}

impl CredentialsProvider for Patient {
    async fn headers(&self, extensions: http::Extensions) -> Headers {
        let began = self.env.elapsed();
        loop {
            let left = self.patience.saturating_sub(self.env.elapsed() - began);
            let known = self.known.load(Ordering::Relaxed);
            let error = match self.env.timeout(left, self.inner.headers(extensions.clone())).await {
                Some(Ok(headers)) => {
                    self.known.store(true, Ordering::Relaxed);
                    return Ok(headers);
                }
                Some(Err(error)) if !error.is_transient() => return Err(error),
                Some(Err(error)) => error,
                None => {
                    let text = format!("no token came within {:?}", self.patience);
                    return Err(CredentialsError::from_msg(known, text));
                }
            };
            if left <= LOGIN_PAUSE {
                return Err(CredentialsError::from_source(known, error));
            }
            self.env.sleep(LOGIN_PAUSE).await;
        }
    }

    async fn universe_domain(&self) -> Option<String> {
        Some(self.universe.clone())
    }
}

fn kind(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::Profile(_) => "an AWS profile",
        Credentials::AccessKey { .. } => "an access key",
        Credentials::Role { .. } => "an AWS role",
        Credentials::WebIdentity { .. } => "an AWS web identity",
        Credentials::CredentialProcess(_) => "a credential process",
        Credentials::ManagedIdentity { .. } => "a managed identity",
        Credentials::WorkloadIdentity { .. } => "an Azure workload identity",
        Credentials::ClientSecret { .. } => "a client secret",
        Credentials::Cli => "the Azure command-line program",
        Credentials::AccountKey(_) => "an account key",
        Credentials::Sas(_) => "a shared access signature",
        _ => "this",
    }
}
