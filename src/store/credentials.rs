//! Who asks: how a store's identity is proved to its provider, and where the secrets for that come from.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

/// Longest secret in bytes (a service account's file included). What is longer was named by mistake.
pub const SECRET_MAX: usize = 64 << 10;

/// How a store's identity is proved. Each provider admits its own kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// What the surroundings offer, in the provider's documented order.
    #[default]
    Found,
    /// Nobody: public or unprotected servers.
    Anonymous,
    /// S3: a profile of the shared configuration files (which may name SSO, a role or a `credential_process`).
    Profile(String),
    /// S3: an access key.
    AccessKey {
        /// The key's id.
        id: String,
        /// Its secret.
        secret: SecretSource,
        /// Token of a temporary key.
        session_token: Option<SecretSource>,
    },
    /// S3: a role taken on by whoever the surroundings say we are.
    Role {
        /// The role's ARN.
        arn: String,
        /// What the role's owner asks for besides.
        external_id: Option<String>,
        /// Profile to start from; what the surroundings offer if `None`.
        profile: Option<String>,
    },
    /// S3: a role by a token (Kubernetes, CI, Google).
    WebIdentity {
        /// The role's ARN.
        arn: String,
        /// The token.
        token: TokenSource,
    },
    /// S3: a command that prints credentials as JSON, as `credential_process` does.
    CredentialProcess(String),
    /// GCS: a service account's or an external account's (workload identity federation) JSON file.
    File(PathBuf),
    /// GCS: the metadata server of the machine, even if the surroundings offer something else.
    MetadataServer,
    /// GCS: a service account impersonated by whoever the surroundings say we are.
    Impersonated(String),
    /// GCS: a ready access token; it is not renewed.
    AccessToken(SecretSource),
    /// Azure: the machine's managed identity.
    ManagedIdentity {
        /// Client id of a user-assigned one; the system-assigned one if `None`.
        client_id: Option<String>,
    },
    /// Azure: a federated token; what is missing comes from the environment.
    WorkloadIdentity {
        /// The tenant.
        tenant_id: Option<String>,
        /// The application.
        client_id: Option<String>,
        /// The token.
        token: Option<TokenSource>,
    },
    /// Azure: an application's secret.
    ClientSecret {
        /// The tenant.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// Its secret.
        secret: SecretSource,
    },
    /// Azure: whoever is logged in with the provider's command-line program.
    Cli,
    /// Azure: the storage account's key.
    AccountKey(SecretSource),
    /// Azure: a shared access signature.
    Sas(SecretSource),
}

impl Credentials {
    /// The way of logging in, and as whom, as far as the settings say it. Holds no secret.
    pub fn shown(&self) -> String {
        match self {
            Credentials::Found => "what the surroundings offer".into(),
            Credentials::Anonymous => "nobody".into(),
            Credentials::Profile(name) => format!("the profile {name}"),
            Credentials::AccessKey { id, .. } => format!("the access key {id}"),
            Credentials::Role { arn, .. } => format!("the role {arn}"),
            Credentials::WebIdentity { arn, token } => format!("the role {arn} by a web identity{}", token.shown()),
            Credentials::CredentialProcess(_) => "a credential process".into(),
            Credentials::File(path) => format!("the credentials in {}", path.display()),
            Credentials::MetadataServer => "the machine's service account".into(),
            Credentials::Impersonated(account) => format!("the impersonated {account}"),
            Credentials::AccessToken(_) => "a ready access token".into(),
            Credentials::ManagedIdentity { client_id: None } => "the machine's managed identity".into(),
            Credentials::ManagedIdentity { client_id: Some(id) } => format!("the managed identity {id}"),
            Credentials::WorkloadIdentity { client_id, token, .. } => {
                let by = token.as_ref().map_or("", TokenSource::shown);
                match client_id {
                    Some(id) => format!("the workload identity {id}{by}"),
                    None => format!("a workload identity{by}"),
                }
            }
            Credentials::ClientSecret { client_id, .. } => format!("the application {client_id}"),
            Credentials::Cli => "whoever is logged in with az".into(),
            Credentials::AccountKey(_) => "the storage account's key, which may do everything".into(),
            Credentials::Sas(_) => "a shared access signature".into(),
        }
    }
}

/// Where a token comes from that another provider knows somebody by. It is read or fetched anew whenever it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A file.
    File(PathBuf),
    /// Google's metadata server: the service account that the machine runs as (Cloud Run, GKE, Compute Engine).
    MetadataServer {
        /// Host, with its port if it has one; where it always is if `None`.
        host: Option<String>,
        /// Whom the token is made out to.
        audience: String,
    },
}

impl TokenSource {
    /// What follows the name of whoever logs in by it.
    fn shown(&self) -> &'static str {
        match self {
            TokenSource::File(_) => "",
            TokenSource::MetadataServer { .. } => ", as this machine's service account at Google",
        }
    }
}

/// Where a secret is. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The secret itself (from the environment).
    Value(Zeroizing<String>),
    /// A file that holds it; blanks and line endings around it do not belong to it.
    File(PathBuf),
    /// A command for `sh` that prints it; blanks and line endings around it do not belong to it.
    Command(String),
}

impl std::fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SecretSource::Value(_) => f.write_str("Value(..)"),
            SecretSource::File(path) => f.debug_tuple("File").field(path).finish(),
            SecretSource::Command(command) => f.debug_tuple("Command").field(command).finish(),
        }
    }
}

impl SecretSource {
    /// Reads the secret. Waits for a file or a command. The error says what to mend and never holds the secret.
    pub fn load(&self) -> Result<Zeroizing<String>, String> {
        let bytes = match self {
            SecretSource::Value(value) => return Ok(value.clone()),
            SecretSource::File(path) => {
                let failed = |e| format!("reading the secret in {}: {e}", path.display());
                let file = std::fs::File::open(path).map_err(failed)?;
                bounded(file).map_err(failed)?
            }
            SecretSource::Command(command) => {
                let failed = |e| format!("running the command for the secret ({command}): {e}");
                let mut child = Command::new("sh")
                    .args(["-c", command])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(failed)?;
                let out = bounded(child.stdout.take().expect("it is piped"));
                // Whoever prints without end is stopped by its closed pipe.
                let status = child.wait().map_err(failed)?;
                let out = out.map_err(failed)?;
                if !status.success() {
                    return Err(format!("the command for the secret ({command}) failed: {status}"));
                }
                out
            }
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| "the secret is not UTF-8 text".to_owned())?.trim();
        if text.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn bounded(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // At its full size from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX + 1));
    from.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > SECRET_MAX {
        true => Err(std::io::Error::other(format!("longer than {SECRET_MAX} bytes"))),
        false => Ok(bytes),
    }
}
