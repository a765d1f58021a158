//! The client that asks S3, with a key that is good. Mostly the SDK sees to that. It knows tokens that lie in files, and no others:
//! what a machine at Google shows is traded for a key here, and the client made anew whenever that key comes to its end.

use std::io::Write;
use std::time::{Duration, SystemTime};

use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, Credentials as Key, ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

use crate::clock::{Env, Time};
use crate::store::error::StoreErrorKind;
use crate::store::fault::{Fault, chain};
use crate::store::metadata_server::MetadataServer;
use crate::store::s3::credentials::{LOGIN_MAX, SESSION};

/// A key is renewed so long before its end: no request is to be on its way when that comes.
const BEFORE_ITS_END: Duration = Duration::from_secs(60);

/// Words of the SDK and of STS for what will pass.
const PASSING: [&str; 6] =
    ["timed out", "dispatch failure", "IDPCommunicationError", "Throttling", "InternalFailure", "ServiceUnavailable"];

/// Who has a client.
pub(super) enum Clients {
    /// The SDK renews the key itself.
    Standing {
        /// The client.
        client: Client,
        /// Who knows the key; nobody if none is used.
        provider: Option<SharedCredentialsProvider>,
    },
    /// The key is got here.
    Exchanging {
        /// By whom.
        exchange: Box<Exchange>,
        /// A client but for its key.
        config: Box<Builder>,
        /// The last one.
        held: Mutex<Option<(Key, Client)>>,
    },
}

impl Clients {
    /// A client for `config`, by the key that it has, or by those of `exchange`. Asks nobody yet.
    pub(super) fn new(config: Builder, provider: Option<SharedCredentialsProvider>, exchange: Option<Exchange>) -> Clients {
        match exchange {
            None => Clients::Standing { client: Client::from_conf(config.build()), provider },
            Some(exchange) => {
                Clients::Exchanging { exchange: Box::new(exchange), config: Box::new(config), held: Mutex::new(None) }
            }
        }
    }

    /// The client to ask by now. The fault says what to mend, and holds no secret.
    pub(super) async fn current(&self) -> Result<Client, Fault> {
        match self {
            Clients::Standing { client, .. } => Ok(client.clone()),
            Clients::Exchanging { .. } => self.exchanged().await.map(|(_, client)| client),
        }
    }

    /// The key in use; `None` if none is.
    pub(super) async fn key(&self) -> Result<Option<Key>, Fault> {
        match self {
            Clients::Standing { provider: None, .. } => Ok(None),
            Clients::Standing { provider: Some(provider), .. } => {
                let key = provider.provide_credentials().await;
                key.map(Some).map_err(|e| Fault::new(StoreErrorKind::Denied, chain(&e)))
            }
            Clients::Exchanging { .. } => self.exchanged().await.map(|(key, _)| Some(key)),
        }
    }

    async fn exchanged(&self) -> Result<(Key, Client), Fault> {
        let Clients::Exchanging { exchange, config, held } = self else {
            return Err(Fault::new(StoreErrorKind::Invalid, "this key is the SDK's to renew"));
        };
        // Held over the exchange: one token is enough for all who wait.
        let mut held = held.lock().await;
        if let Some((key, client)) = held.as_ref().filter(|(key, _)| exchange.lasts(key)) {
            return Ok((key.clone(), client.clone()));
        }
        let key = exchange.key().await?;
        let client = Client::from_conf((**config).clone().credentials_provider(key.clone()).build());
        *held = Some((key.clone(), client.clone()));
        Ok((key, client))
    }
}

/// Trades tokens of Google's metadata server for keys of a role.
pub(super) struct Exchange {
    /// The clock, and work that waits for files.
    pub env: Env,
    /// Who gives tokens.
    pub server: MetadataServer,
    /// The role's ARN.
    pub arn: String,
    /// Region, certificates and connections, to reach STS.
    pub surroundings: ProviderConfig,
}

impl Exchange {
    fn lasts(&self, key: &Key) -> bool {
        let Some(end) = key.expiry() else { return true };
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(0).plus(end) > self.env.now().plus(BEFORE_ITS_END)
    }

    async fn key(&self) -> Result<Key, Fault> {
        let token = self.server.token().await?;
        // The SDK takes the token from a file: one that nobody else can read, and that is gone right after.
        let write = move || {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(token.as_bytes())?;
            Ok::<_, std::io::Error>(file)
        };
        let file = self.env.blocking(write).await.map_err(|e| {
            let cause = format!("writing a token to a temporary file, which TMPDIR says the place of: {e}");
            Fault::new(StoreErrorKind::Invalid, cause)
        })?;
        let identity = StaticConfiguration {
            web_identity_token_file: file.path().to_owned(),
            role_arn: self.arn.clone(),
            session_name: SESSION.into(),
        };
        let sts = WebIdentityTokenCredentialsProvider::builder().configure(&self.surroundings).static_configuration(identity);
        match self.env.timeout(LOGIN_MAX, sts.build().provide_credentials()).await {
            Some(Ok(key)) => Ok(key),
            Some(Err(e)) => Err(self.refused(&chain(&e))),
            None => Err(self.refused("timed out")),
        }
    }

    /// What STS said, or that it did not.
    fn refused(&self, text: &str) -> Fault {
        let text = format!("taking on the role {}: {text}", self.arn);
        if PASSING.iter().any(|word| text.contains(word)) {
            return Fault::new(StoreErrorKind::Unavailable, text);
        }
        let fix = "no usable credentials: the role's trust policy must admit accounts.google.com, with the unique id of this \
                   machine's service account as aud and sub, and the token's audience as oaud";
        Fault::new(StoreErrorKind::Denied, format!("{text}; {fix}"))
    }
}
