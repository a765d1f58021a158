//! Who asks S3, by which way of logging in, and in which region.
//!
//! Without a word in the settings the surroundings are asked in the order of AWS's own tools: keys in the environment
//! (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`); the profile (`AWS_PROFILE`, else `default`) of
//! `~/.aws/config` and `~/.aws/credentials`, which may name SSO, a role, a web identity or a `credential_process`; a web
//! identity token (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`); the container's role (ECS, EKS); the instance's role.
//! Whatever expires is renewed in mid-run by whoever gave it.

use std::time::Duration;

use aws_config::credential_process::CredentialProcessProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::identity::IdentityCache;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::{Credentials as Key, SharedHttpClient};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig};

use crate::clock::Env;
use crate::store::credentials::{Credentials, SecretSource, TokenSource};
use crate::store::metadata_server::MetadataServer;
use crate::store::s3::clients::Exchange;
use crate::store::settings::ProviderSettings;

/// Name under which a role taken on by us shows in the audit log.
pub(super) const SESSION: &str = "holdfast";

/// How long it may take to find out who we are. A login that waits for a person does not belong into a backup.
pub(super) const LOGIN_MAX: Duration = Duration::from_secs(60);

/// Region, identity and the rest of the surroundings, for a client of S3. `elsewhere` is another server than AWS, where a
/// region is only a word. With them comes who gets the keys, where the SDK cannot; `patience` is then how long a request may take
/// that waits for one. The error says what to mend, and holds no secret.
pub(super) async fn surroundings(
    env: &Env,
    provider: &ProviderSettings,
    region: Option<&str>,
    elsewhere: bool,
    pem: Option<&[u8]>,
    patience: Duration,
) -> Result<(SdkConfig, Option<Exchange>), String> {
    let region = find_region(&provider.credentials, region, elsewhere).await?;
    let client = pem.map(|pem| trusting(pem, true)).transpose()?;
    let loader = || {
        let loader = aws_config::defaults(BehaviorVersion::latest()).region(region.clone());
        match &client {
            Some(client) => loader.http_client(client.clone()),
            None => loader,
        }
    };
    let part = || {
        let part = ProviderConfig::without_region().with_region(Some(region.clone()));
        match &client {
            Some(client) => part.with_http_client(client.clone()),
            None => part,
        }
    };
    let mut exchange = None;
    let loader = match &provider.credentials {
        Credentials::Found => loader(),
        Credentials::Anonymous => loader().no_credentials(),
        Credentials::Profile(profile) => {
            let named = ProfileFileCredentialsProvider::builder().profile_name(profile).configure(&part());
            // Only this profile: keys that happen to stand in the environment are not asked for.
            loader().profile_name(profile).credentials_provider(named.build())
        }
        Credentials::AccessKey { id, secret, session_token } => {
            let secret = load(env, secret).await?;
            let token = match session_token {
                Some(token) => Some(load(env, token).await?.to_string()),
                None => None,
            };
            loader().credentials_provider(Key::new(id, secret.as_str(), token, None, "holdfast settings"))
        }
        Credentials::Role { arn, external_id, profile } => {
            let base = match profile {
                Some(profile) => loader().profile_name(profile),
                None => loader(),
            };
            let role = AssumeRoleProvider::builder(arn).session_name(SESSION).configure(&base.load().await);
            let role = match external_id {
                Some(id) => role.external_id(id),
                None => role,
            };
            loader().credentials_provider(role.build().await)
        }
        Credentials::WebIdentity { arn, token: TokenSource::MetadataServer { host, audience } } => {
            let server = MetadataServer::new(env, host.as_deref(), audience, patience)?;
            exchange = Some(Exchange { env: env.clone(), server, arn: arn.clone(), surroundings: part() });
            loader().no_credentials()
        }
        Credentials::WebIdentity { arn, token: TokenSource::File(token_file) } => {
            let token = StaticConfiguration {
                web_identity_token_file: token_file.clone(),
                role_arn: arn.clone(),
                session_name: SESSION.into(),
            };
            let identity = WebIdentityTokenCredentialsProvider::builder().configure(&part()).static_configuration(token);
            loader().credentials_provider(identity.build())
        }
        Credentials::CredentialProcess(command) => loader().credentials_provider(CredentialProcessProvider::new(command.clone())),
        other => return Err(format!("{} is not a way to log in to S3", kind(other))),
    };
    let cache = IdentityCache::lazy().load_timeout(LOGIN_MAX).build();
    Ok((loader.identity_cache(cache).load().await, exchange))
}

async fn load(env: &Env, secret: &SecretSource) -> Result<zeroize::Zeroizing<String>, String> {
    let secret = secret.clone();
    env.blocking(move || secret.load()).await
}

/// The region of the URL or the settings, else of the environment, else of the profile.
async fn find_region(credentials: &Credentials, given: Option<&str>, elsewhere: bool) -> Result<Region, String> {
    let profile = match credentials {
        Credentials::Profile(name) | Credentials::Role { profile: Some(name), .. } => Some(name.clone()),
        _ => None,
    };
    let mut file = ProfileFileRegionProvider::builder();
    if let Some(name) = profile {
        file = file.profile_name(name);
    }
    let found = RegionProviderChain::first_try(given.map(|text| Region::new(text.to_owned())))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(file.build())
        .or_else(elsewhere.then(|| Region::new("us-east-1")))
        .region()
        .await;
    found.ok_or_else(|| {
        "the region of the bucket is not known: write ?region=eu-west-3 in the store's URL, or `region` in its settings, or set \
         AWS_REGION, or name it in the profile"
            .to_owned()
    })
}

/// A client for HTTPS that trusts the issuers in `pem`, and, with `also_system`, those of the system.
pub(crate) fn trusting(pem: &[u8], also_system: bool) -> Result<SharedHttpClient, String> {
    let store = TrustStore::empty().with_native_roots(also_system).with_pem_certificate(pem);
    let context =
        TlsContext::builder().with_trust_store(store).build().map_err(|e| format!("the certificates in ca_file: {e}"))?;
    // As the SDK's own client, with this trust: the proxies that the environment names hold here, too.
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder =
            ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(context.clone());
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(Some(ProxyConfig::from_env()));
        builder.build()
    }))
}

fn kind(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::File(_) => "a service account's file",
        Credentials::MetadataServer => "the metadata server",
        Credentials::Impersonated(_) => "an impersonated service account",
        Credentials::AccessToken(_) => "an access token",
        Credentials::ManagedIdentity { .. } => "a managed identity",
        Credentials::WorkloadIdentity { .. } => "an Azure workload identity",
        Credentials::ClientSecret { .. } => "a client secret",
        Credentials::Cli => "the Azure command-line program",
        Credentials::AccountKey(_) => "an account key",
        Credentials::Sas(_) => "a shared access signature",
        _ => "this",
    }
}
