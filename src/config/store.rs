//! What a `[[store]]` section, or a `--store` flag, means.

use std::ops::Range;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::file::{CredentialsSection, StoreSection};
use crate::config::resolve::{Place, bad_name};
use crate::config::{ConfigError, Environment, StoreChoice, absolute};
use crate::store::credentials::{Credentials, SecretSource, TokenSource};
use crate::store::settings::{ProviderSettings, StoreSettings};
use crate::store::url::{self, StoreUrl};

/// First segments of the names of what is large: everything else stays in the bucket's default class, since it is read at
/// every start.
const DATA: &str = "data";
const META: &str = "meta";

/// A store from its section.
pub(super) fn of_section(
    place: &Place<'_>,
    section: &StoreSection,
    environment: &Environment,
) -> Result<StoreChoice, ConfigError> {
    let name = section.name.get_ref();
    if let Some(reason) = bad_name(name) {
        return Err(place.at(section.name.span(), reason));
    }
    let url = StoreUrl::parse(section.url.get_ref(), place.folder).map_err(|e| place.at(section.url.span(), e))?;
    let default = StoreSettings::default();
    let connections = match &section.connections {
        Some(n) if !(1..=1024).contains(n.get_ref()) => return Err(place.at(n.span(), "must be 1 to 1024")),
        Some(n) => *n.get_ref(),
        None => default.connections,
    };
    let request_limit = match &section.request_limit {
        Some(n) if *n.get_ref() == 0 => return Err(place.at(n.span(), "must be at least 1")),
        n => n.as_ref().map(|n| *n.get_ref()),
    };
    let settings = StoreSettings {
        connections,
        upload_limit: section.upload_limit.map(|s| s.0),
        download_limit: section.download_limit.map(|s| s.0),
        request_limit,
        timeout: section.timeout.map_or(default.timeout, |s| s.0),
        retries: section.retries.unwrap_or(default.retries),
        provider: provider(place, section, &url, environment)?,
    };
    Ok(StoreChoice { name: name.clone(), url, settings })
}

/// Which settings a provider knows: a setting that would do nothing is refused, since somebody relies on it.
fn provider(
    place: &Place<'_>,
    section: &StoreSection,
    url: &StoreUrl,
    environment: &Environment,
) -> Result<ProviderSettings, ConfigError> {
    let kind = url.place();
    let cloud = !matches!(kind, url::Place::Directory(_));
    let s3 = matches!(kind, url::Place::S3(_));
    let named = |span: Option<Range<usize>>, name: &str, fits: bool| match span {
        Some(span) if !fits => Err(place.at(span, format!("{name} means nothing to {url}"))),
        _ => Ok(()),
    };
    let span = |value: &Option<toml::Spanned<String>>| value.as_ref().map(toml::Spanned::span);
    named(span(&section.endpoint), "endpoint", cloud)?;
    named(span(&section.region), "region", s3)?;
    named(span(&section.storage_class), "storage_class", cloud)?;
    named(span(&section.meta_storage_class), "meta_storage_class", cloud)?;
    named(span(&section.kms_key), "kms_key", cloud)?;
    named(section.ca_file.as_ref().map(toml::Spanned::span), "ca_file", cloud && !matches!(kind, url::Place::Gcs(_)))?;
    named(section.credentials.as_ref().map(toml::Spanned::span), "credentials", cloud)?;
    if let Some(endpoint) = &section.endpoint {
        url::verify_endpoint(endpoint.get_ref()).map_err(|e| place.at(endpoint.span(), e))?;
    }
    let text = |value: &Option<toml::Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
    let mut storage_classes = std::collections::BTreeMap::new();
    for (first, class) in [(DATA, &section.storage_class), (META, &section.meta_storage_class)] {
        if let Some(class) = class {
            storage_classes.insert(first.to_owned(), class.get_ref().clone());
        }
    }
    Ok(ProviderSettings {
        endpoint: text(&section.endpoint),
        region: text(&section.region),
        storage_classes,
        kms_key: text(&section.kms_key),
        ca_file: section.ca_file.as_ref().map(|p| absolute(place.folder, p.get_ref())),
        credentials: match &section.credentials {
            Some(section) => {
                let named = credentials(place.folder, section.get_ref(), kind, environment);
                found(named.map_err(|message| place.at(section.span(), message))?, kind, environment)
            }
            None => found(Credentials::default(), kind, environment),
        },
    })
}

/// Who gives tokens to whoever asks on the machine, by `token_from`.
const GOOGLE: &str = "google-metadata-server";

/// Whom tokens are made out to that AWS and Azure accept, unless `audience` says otherwise.
const STS: &str = "sts.amazonaws.com";
const ENTRA: &str = "api://AzureADTokenExchange";

/// The kinds of each provider, for messages.
const S3_KINDS: &str = "found, anonymous, profile, access-key, role, web-identity, credential-process";
const GCS_KINDS: &str = "found, anonymous, file, metadata-server, impersonated, access-token";
const AZURE_KINDS: &str = "found, anonymous, managed-identity, workload-identity, client-secret, cli, account-key, sas";

fn credentials(
    folder: &Path,
    section: &CredentialsSection,
    place: &url::Place,
    environment: &Environment,
) -> Result<Credentials, String> {
    let mut rest = Fields { folder, environment, left: section.clone() };
    let kinds = match place {
        url::Place::S3(_) => S3_KINDS,
        url::Place::Gcs(_) => GCS_KINDS,
        url::Place::Azure { .. } => AZURE_KINDS,
        url::Place::Directory(_) => return Err("a directory needs no credentials".into()),
    };
    let kind = section.kind.as_str();
    if !kinds.split(", ").any(|known| known == kind) {
        return Err(format!("credentials of kind {kind:?} are not known for this provider; there are: {kinds}"));
    }
    let found = match kind {
        "found" => Credentials::Found,
        "anonymous" => Credentials::Anonymous,
        "profile" => Credentials::Profile(rest.needed("profile", |s| s.profile.take())?),
        "access-key" => Credentials::AccessKey {
            id: rest.needed("access_key_id", |s| s.access_key_id.take())?,
            session_token: match rest.left.session_token_env.take() {
                Some(variable) => Some(rest.variable(&variable)?),
                None => None,
            },
            secret: rest.secret()?,
        },
        "role" => Credentials::Role {
            arn: rest.needed("role", |s| s.role.take())?,
            external_id: rest.left.external_id.take(),
            profile: rest.left.profile.take(),
        },
        "web-identity" => Credentials::WebIdentity {
            arn: rest.needed("role", |s| s.role.take())?,
            token: rest.token(STS)?.ok_or("credentials of kind \"web-identity\" need one of token_file and token_from")?,
        },
        "credential-process" => Credentials::CredentialProcess(rest.needed("command", |s| s.command.take())?),
        "file" => Credentials::File(absolute(folder, &rest.needed("file", |s| s.file.take())?)),
        "metadata-server" => Credentials::MetadataServer,
        "impersonated" => Credentials::Impersonated(rest.needed("account", |s| s.account.take())?),
        "access-token" => Credentials::AccessToken(rest.secret()?),
        "managed-identity" => Credentials::ManagedIdentity { client_id: rest.left.client_id.take() },
        "workload-identity" => {
            let token = rest.token(ENTRA)?;
            let (mut tenant_id, mut client_id) = (rest.left.tenant_id.take(), rest.left.client_id.take());
            if let Some(TokenSource::MetadataServer { .. }) = token {
                // With a file, Azure's library looks for what is missing.
                tenant_id =
                    Some(tenant_id.or_else(|| text(environment, "AZURE_TENANT_ID")).ok_or_else(|| rest.missing("tenant_id"))?);
                client_id =
                    Some(client_id.or_else(|| text(environment, "AZURE_CLIENT_ID")).ok_or_else(|| rest.missing("client_id"))?);
            }
            Credentials::WorkloadIdentity { tenant_id, client_id, token }
        }
        "client-secret" => Credentials::ClientSecret {
            tenant_id: rest.needed("tenant_id", |s| s.tenant_id.take())?,
            client_id: rest.needed("client_id", |s| s.client_id.take())?,
            secret: rest.secret()?,
        },
        "cli" => Credentials::Cli,
        "account-key" => Credentials::AccountKey(rest.secret()?),
        "sas" => Credentials::Sas(rest.secret()?),
        _ => return Err(format!("credentials of kind {kind:?} are not known")),
    };
    match rest.unused() {
        Some(name) => Err(format!("{name} has no part in credentials of kind {kind:?}")),
        None => Ok(found),
    }
}

/// What the environment says about an Azure account where nothing else is said: its key, a shared access signature, a client
/// secret, a workload identity, in this order. The other providers' SDKs read theirs by themselves.
fn found(named: Credentials, place: &url::Place, environment: &Environment) -> Credentials {
    let (Credentials::Found, url::Place::Azure { account, .. }) = (&named, place) else { return named };
    let text = |name: &str| text(environment, name);
    let secret = |name: &str| text(name).map(|value| SecretSource::Value(Zeroizing::new(value)));
    // A key or a signature is one account's: with several accounts the variable says whose it is.
    let ours = text("AZURE_STORAGE_ACCOUNT").is_none_or(|name| name == *account);
    let key = secret("AZURE_STORAGE_KEY").filter(|_| ours).map(Credentials::AccountKey);
    let signature = || secret("AZURE_STORAGE_SAS_TOKEN").filter(|_| ours).map(Credentials::Sas);
    let (tenant, client) = (text("AZURE_TENANT_ID"), text("AZURE_CLIENT_ID"));
    let application = || {
        let secret = secret("AZURE_CLIENT_SECRET")?;
        Some(Credentials::ClientSecret { tenant_id: tenant.clone()?, client_id: client.clone()?, secret })
    };
    let workload = || {
        let (tenant_id, client_id) = (Some(tenant.clone()?), Some(client.clone()?));
        let token = Some(TokenSource::File(text("AZURE_FEDERATED_TOKEN_FILE")?.into()));
        Some(Credentials::WorkloadIdentity { tenant_id, client_id, token })
    };
    key.or_else(signature).or_else(application).or_else(workload).unwrap_or(named)
}

/// A variable that says something.
fn text(environment: &Environment, name: &str) -> Option<String> {
    let value = environment.get(name)?.into_string().ok()?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The fields of a section that nothing has asked for yet.
struct Fields<'a> {
    folder: &'a Path,
    environment: &'a Environment,
    left: CredentialsSection,
}

impl Fields<'_> {
    fn needed<T>(&mut self, name: &str, take: impl FnOnce(&mut CredentialsSection) -> Option<T>) -> Result<T, String> {
        take(&mut self.left).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> String {
        format!("credentials of kind {:?} need {name}", self.left.kind)
    }

    /// Where the token comes from by which others are logged in to, made out to `audience` if nothing else is said.
    fn token(&mut self, audience: &str) -> Result<Option<TokenSource>, String> {
        match (self.left.token_file.take(), self.left.token_from.take()) {
            (None, None) => Ok(None),
            (Some(file), None) => Ok(Some(TokenSource::File(absolute(self.folder, &file)))),
            (None, Some(from)) if from == GOOGLE => Ok(Some(TokenSource::MetadataServer {
                // As Google's own libraries have it.
                host: text(self.environment, "GCE_METADATA_HOST"),
                audience: self.left.audience.take().unwrap_or_else(|| audience.to_owned()),
            })),
            (None, Some(from)) => Err(format!("token_from {from:?} is not known; there is: {GOOGLE}")),
            (Some(_), Some(_)) => Err("token_file and token_from name more than one token: keep one".into()),
        }
    }

    fn variable(&self, name: &str) -> Result<SecretSource, String> {
        let value = self.environment.get(name).ok_or_else(|| format!("the variable {name} is not set"))?;
        match value.into_string() {
            Ok(value) if !value.trim().is_empty() => Ok(SecretSource::Value(Zeroizing::new(value.trim().to_owned()))),
            Ok(_) => Err(format!("the variable {name} is empty")),
            Err(_) => Err(format!("the variable {name} is not UTF-8")),
        }
    }

    fn secret(&mut self) -> Result<SecretSource, String> {
        match (self.left.secret_env.take(), self.left.secret_file.take(), self.left.secret_command.take()) {
            (Some(variable), None, None) => self.variable(&variable),
            (None, Some(file), None) => Ok(SecretSource::File(absolute(self.folder, &file))),
            (None, None, Some(command)) => Ok(SecretSource::Command(command)),
            (None, None, None) => {
                Err(format!("credentials of kind {:?} need one of secret_env, secret_file and secret_command", self.left.kind))
            }
            _ => Err("secret_env, secret_file and secret_command name more than one secret: keep one".into()),
        }
    }

    fn unused(&self) -> Option<&'static str> {
        let s = &self.left;
        let all = [
            ("profile", s.profile.is_some()),
            ("role", s.role.is_some()),
            ("external_id", s.external_id.is_some()),
            ("access_key_id", s.access_key_id.is_some()),
            ("session_token_env", s.session_token_env.is_some()),
            ("token_file", s.token_file.is_some()),
            ("token_from", s.token_from.is_some()),
            ("audience", s.audience.is_some()),
            ("file", s.file.is_some()),
            ("command", s.command.is_some()),
            ("account", s.account.is_some()),
            ("tenant_id", s.tenant_id.is_some()),
            ("client_id", s.client_id.is_some()),
            ("secret_env", s.secret_env.is_some()),
            ("secret_file", s.secret_file.is_some()),
            ("secret_command", s.secret_command.is_some()),
        ];
        all.into_iter().find_map(|(name, set)| set.then_some(name))
    }
}

pub(super) fn store_flag(text: &str, current: &Path, environment: &Environment) -> Result<StoreChoice, ConfigError> {
    let Some((name, url)) = text.split_once('=') else {
        return Err(ConfigError::new(format!("--store {text}: write NAME=URL, such as spare=file:///srv/backup")));
    };
    if let Some(reason) = bad_name(name) {
        return Err(ConfigError::new(format!("--store {text}: {reason}")));
    }
    let url = StoreUrl::parse(url, current).map_err(|e| ConfigError::new(format!("--store {text}: {e}")))?;
    let mut settings = StoreSettings::default();
    settings.provider.credentials = found(Credentials::default(), url.place(), environment);
    Ok(StoreChoice { name: name.to_owned(), url, settings })
}

/// Two names for one place would count one replica twice; one name for two places would hide one of them.
pub(super) fn distinct(stores: &[StoreChoice], at: impl Fn(usize, String) -> ConfigError) -> Result<(), ConfigError> {
    for (i, store) in stores.iter().enumerate() {
        for other in &stores[..i] {
            if other.name == store.name {
                return Err(at(i, format!("there is another store {:?}", store.name)));
            }
            if other.url == store.url {
                return Err(at(i, format!("stores {:?} and {:?} are the same place", other.name, store.name)));
            }
        }
    }
    Ok(())
}
