//! Who asks Azure, and by which way of logging in.
//!
//! Without a word in the settings the surroundings are asked in this order. First the environment, which belongs to `config`:
//! `AZURE_STORAGE_KEY`; `AZURE_STORAGE_SAS_TOKEN` (both unless `AZURE_STORAGE_ACCOUNT` names another account); a client secret
//! (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, `AZURE_CLIENT_SECRET`); a workload identity (`AZURE_FEDERATED_TOKEN_FILE` and the two
//! ids). Then, here, the machine's managed identity, and last whoever is logged in with `az`. Only by name: a federated token of
//! Google's metadata server, for a machine at Google. Tokens are renewed in mid-run by whoever gave them; they go over https only.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, ClientMethodOptions, ClientOptions, HttpClient, Request, RetryOptions, StatusCode, Transport,
};
use azure_identity::{
    AzureCliCredential, ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::clock::Env;
use crate::store::azure::fault::may_pass;
use crate::store::azure::wire::client;
use crate::store::credentials::{Credentials, SecretSource, TokenSource};
use crate::store::error::StoreErrorKind;
use crate::store::fault::Fault;
use crate::store::metadata_server::MetadataServer;

/// How long one request for a token may take.
const LOGIN_MAX: Duration = Duration::from_secs(30);

/// How long it may take to reach who gives out tokens to the machine itself: it is next door, or not there.
const NEXT_DOOR: Duration = Duration::from_secs(2);

/// How requests prove who asks.
pub(super) enum Identity {
    /// Not at all.
    Nobody,
    /// By a token, asked for and renewed as needed.
    Token(Arc<dyn TokenCredential>),
    /// By a signature with the account's key.
    Key(Zeroizing<Vec<u8>>),
    /// By a signature in the URL, as its query.
    Signature(Zeroizing<String>),
}

/// The identity that `credentials` stand for. Asks no server yet. The error says what to mend, and holds no secret.
/// `patience` is how long a request may take that waits for a login.
pub(super) async fn identity(
    env: &Env,
    credentials: &Credentials,
    pem: Option<&[u8]>,
    patience: Duration,
) -> Result<Identity, String> {
    let token = |found: azure_core::Result<Arc<dyn TokenCredential>>| found.map(Identity::Token).map_err(|e| e.to_string());
    match credentials {
        Credentials::Found => {
            let managed = managed(pem, None)?;
            let cli = AzureCliCredential::new(None).map_err(|e| e.to_string())?;
            Ok(Identity::Token(Arc::new(Surroundings { managed, cli, chosen: OnceLock::new() })))
        }
        Credentials::Anonymous => Ok(Identity::Nobody),
        Credentials::ManagedIdentity { client_id } => token(managed(pem, client_id.clone())?),
        Credentials::WorkloadIdentity { tenant_id, client_id, token: Some(TokenSource::MetadataServer { host, audience }) } => {
            let missing = |name: &str| format!("a token from Google's metadata server is for somebody: name {name}");
            let tenant_id = tenant_id.clone().ok_or_else(|| missing("tenant_id"))?;
            let client_id = client_id.clone().ok_or_else(|| missing("client_id"))?;
            let server = MetadataServer::new(env, host.as_deref(), audience, patience)?;
            let options = ClientAssertionCredentialOptions { client_options: options(pem)? };
            token(ClientAssertionCredential::new(tenant_id, client_id, Machine(server), Some(options)).map(|c| c as _))
        }
        Credentials::WorkloadIdentity { tenant_id, client_id, token: file } => {
            let file = match file {
                Some(TokenSource::File(path)) => Some(path.clone()),
                _ => None,
            };
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options: options(pem)? },
                tenant_id: tenant_id.clone(),
                client_id: client_id.clone(),
                token_file_path: file,
            };
            // It reads the file.
            token(env.blocking(move || Ok(WorkloadIdentityCredential::new(Some(options))? as _)).await)
        }
        Credentials::ClientSecret { tenant_id, client_id, secret } => {
            let secret = Secret::new(load(env, secret).await?.to_string());
            let options = ClientSecretCredentialOptions { client_options: options(pem)? };
            token(ClientSecretCredential::new(tenant_id, client_id.clone(), secret, Some(options)).map(|c| c as _))
        }
        Credentials::Cli => token(AzureCliCredential::new(None).map(|c| c as _)),
        Credentials::AccountKey(secret) => {
            let text = load(env, secret).await?;
            let key = BASE64.decode(text.as_bytes()).map_err(|_| "the account key is not base64: copy it whole".to_owned())?;
            Ok(Identity::Key(Zeroizing::new(key)))
        }
        Credentials::Sas(secret) => signature(&load(env, secret).await?).map(Identity::Signature),
        other => Err(format!("{} is not a way to log in to Azure", kind(other))),
    }
}

async fn load(env: &Env, secret: &SecretSource) -> Result<Zeroizing<String>, String> {
    let secret = secret.clone();
    env.blocking(move || secret.load()).await
}

/// A shared access signature as it stands in a query; people copy it with its `?`, or behind a whole URL.
fn signature(text: &str) -> Result<Zeroizing<String>, String> {
    let query = text.split_once('?').map_or(text, |(_, query)| query);
    let fits = query.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>'));
    let signed = query.split('&').any(|part| part.strip_prefix("sig=").is_some_and(|signature| !signature.is_empty()));
    match fits && signed {
        true => Ok(Zeroizing::new(query.to_owned())),
        false => Err("the shared access signature is none: it is a query such as sv=...&sp=rcdl&sig=...".into()),
    }
}

/// This machine, which shows the directory a token of Google's.
#[derive(Debug)]
struct Machine(MetadataServer);

#[async_trait::async_trait]
impl ClientAssertion for Machine {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        match self.0.token().await {
            Ok(token) => Ok(token.to_string()),
            Err(Fault { kind: StoreErrorKind::Unavailable, cause }) => Err(Error::with_message(ErrorKind::Connection, cause)),
            Err(Fault { cause, .. }) => Err(Error::with_message(ErrorKind::Credential, cause)),
        }
    }
}

type Managed = azure_core::Result<Arc<dyn TokenCredential>>;

fn managed(pem: Option<&[u8]>, client_id: Option<String>) -> Result<Managed, String> {
    let user_assigned_id = client_id.map(UserAssignedId::ClientId);
    let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options: options(pem)? };
    Ok(ManagedIdentityCredential::new(Some(options)).map(|c| c as _))
}

/// How tokens are asked for. Asking again is for `retry`, as with everything.
fn options(pem: Option<&[u8]>) -> Result<ClientOptions, String> {
    let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|e| format!("preparing connections: {e}"));
    let door = Door {
        outside: build(client(pem, true)?.timeout(LOGIN_MAX))?,
        inside: build(client(None, true)?.timeout(LOGIN_MAX).connect_timeout(NEXT_DOOR).no_proxy())?,
    };
    Ok(ClientOptions { retry: RetryOptions::none(), transport: Some(Transport::new(Arc::new(door))), ..ClientOptions::default() })
}

/// The connections to those who give out tokens: the directory by https, the machine's own by http.
#[derive(Debug)]
struct Door {
    outside: reqwest::Client,
    inside: reqwest::Client,
}

#[async_trait::async_trait]
impl HttpClient for Door {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if request.url().scheme() == "https" {
            return self.outside.execute_request(request).await;
        }
        match self.inside.execute_request(request).await {
            // A machine without an identity has nobody there. Said as a refusal: the SDK would go on asking for a minute.
            Err(e) if *e.kind() == ErrorKind::Connection => {
                let text = "nobody gives out managed identities on this machine";
                Ok(AsyncRawResponse::from_bytes(StatusCode::Forbidden, Headers::new(), text.as_bytes()))
            }
            answer => answer,
        }
    }
}

/// Managed identity, else the command-line program: whoever answers first is asked from then on.
#[derive(Debug)]
struct Surroundings {
    managed: Managed,
    cli: Arc<AzureCliCredential>,
    chosen: OnceLock<bool>,
}

#[async_trait::async_trait]
impl TokenCredential for Surroundings {
    async fn get_token(&self, scopes: &[&str], options: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        if self.chosen.get() == Some(&false) {
            return self.cli.get_token(scopes, options).await;
        }
        let first = match &self.managed {
            Ok(managed) => match managed.get_token(scopes, options.clone()).await {
                Ok(token) => {
                    let _ = self.chosen.set(true);
                    return Ok(token);
                }
                // There is one, and it is in trouble: that is no reason to become somebody else.
                Err(e) if self.chosen.get().is_some() || may_pass(&e).is_some() => return Err(e),
                Err(e) => e.to_string(),
            },
            Err(e) => e.to_string(),
        };
        match self.cli.get_token(scopes, options).await {
            Ok(token) => {
                let _ = self.chosen.set(false);
                Ok(token)
            }
            Err(second) => Err(Error::with_message(ErrorKind::Credential, format!("{first}; {second}"))),
        }
    }
}

fn kind(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::Profile(_) => "a profile",
        Credentials::AccessKey { .. } => "an access key",
        Credentials::Role { .. } => "a role",
        Credentials::WebIdentity { .. } => "a web identity",
        Credentials::CredentialProcess(_) => "a credential process",
        Credentials::File(_) => "a service account's file",
        Credentials::MetadataServer => "the metadata server",
        Credentials::Impersonated(_) => "an impersonated service account",
        Credentials::AccessToken(_) => "an access token",
        _ => "this",
    }
}

#[cfg(test)]
mod tests {
    use crate::store::azure::credentials::signature;

    #[test]
    fn signatures_are_known_by_their_form() {
        for text in ["sv=1&sig=a%2Bb%3D", "?sv=1&sig=a%2Bb%3D", "https://x.blob.core.windows.net/box?sv=1&sig=a%2Bb%3D"] {
            assert_eq!(signature(text).unwrap().as_str(), "sv=1&sig=a%2Bb%3D");
        }
        for text in ["sv=1", "sv=1&sig=", "sv=1&sig=a b", "c2VjcmV0", "sv=1&sig=x#y"] {
            let refused = signature(text).unwrap_err();
            assert!(!refused.contains(text), "{refused}");
        }
    }
}
