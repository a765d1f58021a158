//! The three providers' servers behind one door, each with the proxy in front of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast::clock::Env;
use holdfast::store::credentials::Credentials;
use holdfast::store::settings::{ProviderSettings, StoreSettings};
use holdfast::store::url::StoreUrl;
use holdfast::store::{OpenStore, open};
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::azure_server::{self, AzureServer};
use crate::support::gcs_server::{self, GcsServer};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::rights::{AwsRights, AzureRights, GcpRights, policies, rendered};
use crate::support::s3_server::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY};

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provider {
    /// Amazon S3.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// The clouds of three replicas.
pub const THREE: [Provider; 3] = [Provider::S3, Provider::Gcs, Provider::Azure];

/// A kind of request, as it looks on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Create.
    Put,
    /// Read.
    Get,
    /// Size.
    Stat,
    /// A page of a listing.
    List,
    /// Removal.
    Delete,
}

impl Provider {
    /// Whether the SDK needs HTTP/2.
    fn speaks_http2(self) -> bool {
        match self {
            Provider::S3 | Provider::Azure => false,
            Provider::Gcs => true,
        }
    }

    /// Whether this kind of request is a call of gRPC, whose answers have codes of their own.
    pub fn by_grpc(self, request: Request) -> bool {
        self == Provider::Gcs && matches!(request, Request::Stat | Request::List | Request::Delete)
    }

    /// What its server calls a kind of request.
    pub fn operation(self, request: Request) -> &'static str {
        match (self, request) {
            (Provider::S3, Request::Put) => "PutObject",
            (Provider::S3, Request::Get) => "GetObject",
            (Provider::S3, Request::Stat) => "HeadObject",
            (Provider::S3, Request::List) => "ListObjectsV2",
            (Provider::S3, Request::Delete) => "DeleteObjects",
            (Provider::Gcs, Request::Put) => "put",
            (Provider::Gcs, Request::Get) => "get",
            (Provider::Gcs, Request::Stat) => "stat",
            (Provider::Gcs, Request::List) => "list",
            (Provider::Gcs, Request::Delete) => "delete",
            (Provider::Azure, Request::Put) => "PutBlob",
            (Provider::Azure, Request::Get) => "GetBlob",
            (Provider::Azure, Request::Stat) => "HeadBlob",
            (Provider::Azure, Request::List) => "ListBlobs",
            (Provider::Azure, Request::Delete) => "DeleteBlob",
        }
    }

    /// Method, and part of path and query, of a kind of request.
    pub fn wire(self, request: Request) -> (&'static str, &'static str) {
        match (self, request) {
            (Provider::S3, Request::Put) => ("PUT", ""),
            (Provider::S3, Request::Get) => ("GET", "x-id=GetObject"),
            (Provider::S3, Request::Stat) => ("HEAD", ""),
            (Provider::S3, Request::List) => ("GET", "list-type=2"),
            (Provider::S3, Request::Delete) => ("POST", "delete"),
            (Provider::Gcs, Request::Put) => ("POST", "uploadType=multipart"),
            (Provider::Gcs, Request::Get) => ("GET", "alt=media"),
            (Provider::Gcs, Request::Stat) => ("POST", "Storage/GetObject"),
            (Provider::Gcs, Request::List) => ("POST", "Storage/ListObjects"),
            (Provider::Gcs, Request::Delete) => ("POST", "Storage/DeleteObject"),
            (Provider::Azure, Request::Put) => ("PUT", ""),
            // A listing is one of the container itself, behind whose name no slash stands.
            (Provider::Azure, Request::Get) => ("GET", "/container/"),
            (Provider::Azure, Request::Stat) => ("HEAD", ""),
            (Provider::Azure, Request::List) => ("GET", "comp=list"),
            (Provider::Azure, Request::Delete) => ("DELETE", ""),
        }
    }
}

enum Server {
    S3(S3Server),
    Gcs(GcsServer),
    Azure(AzureServer),
}

/// A provider's server with a proxy before it.
pub struct Cloud {
    /// Which provider.
    pub provider: Provider,
    /// The store's name, for messages.
    pub name: String,
    /// What stands between.
    pub proxy: Proxy,
    ca_file: Option<PathBuf>,
    server: Server,
    anonymous: bool,
}

impl Cloud {
    /// Starts both; over TLS if there is an authority, whose certificate is written into `folder`.
    pub async fn start(provider: Provider, name: &str, tls: Option<(&Authority, &Path)>) -> Cloud {
        let server = match provider {
            Provider::S3 => Server::S3(S3Server::start()),
            Provider::Gcs => Server::Gcs(GcsServer::start()),
            Provider::Azure => Server::Azure(AzureServer::start()),
        };
        Cloud::before(provider, server, name, tls, false).await
    }

    /// A provider that ignores the condition of a create. Anybody may ask, since what is signed cannot be left out on the way.
    pub async fn careless(provider: Provider, name: &str, tls: Option<(&Authority, &Path)>) -> Cloud {
        let server = match provider {
            Provider::S3 => Server::S3(S3Server::open_to_all()),
            Provider::Gcs => Server::Gcs(GcsServer::open_to_all()),
            Provider::Azure => Server::Azure(AzureServer::open_to_all()),
        };
        let cloud = Cloud::before(provider, server, name, tls, true).await;
        cloud.forget();
        cloud
    }

    /// From now on the condition of a create is lost on its way.
    pub fn forget(&self) {
        let condition = match self.provider {
            Provider::S3 | Provider::Azure => "if-none-match",
            Provider::Gcs => "ifGenerationMatch",
        };
        self.on(Request::Put, Rule::new(Fault::Without(condition)));
    }

    async fn before(provider: Provider, server: Server, name: &str, tls: Option<(&Authority, &Path)>, anonymous: bool) -> Cloud {
        let endpoint = match &server {
            Server::S3(server) => server.endpoint(),
            Server::Gcs(server) => server.endpoint(),
            Server::Azure(server) => server.endpoint(),
        };
        let address: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let proxy = Proxy::start(address, tls.map(|(authority, _)| authority.acceptor(provider.speaks_http2()))).await;
        let ca_file = tls.map(|(authority, folder)| authority.file(folder));
        // The SDK has no setting for it: a process that is to trust the authority has its file in SSL_CERT_FILE.
        let ca_file = ca_file.filter(|_| provider != Provider::Gcs);
        Cloud { provider, name: name.to_owned(), proxy, ca_file, server, anonymous }
    }

    /// From now on whoever comes has the rights of the role (`writer`, `pruner`, `reader`) that `terraform/` makes for a store
    /// below `prefix`; `None`: all rights.
    pub fn act_as(&self, role: Option<&str>, prefix: &str) {
        let prefix = format!("{prefix}/");
        let policy = |module: &str, name: &str, variables: serde_json::Value| {
            rendered(&policies(module).join(format!("{name}.json.tftpl")), &variables)
        };
        match &self.server {
            Server::S3(server) => server.enforce(role.map(|role| {
                let principal = format!("arn:aws:iam::111122223333:role/holdfast-{role}");
                let arn = format!("arn:aws:s3:::{BUCKET}");
                let own = json!({ "bucket_arn": arn, "prefix": prefix, "kms_arn": "" });
                let bucket = json!({ "bucket_arn": arn, "prefix": prefix, "role_arns": [principal] });
                AwsRights { identity: policy("aws", role, own), bucket: policy("aws", "bucket", bucket), principal }
            })),
            Server::Gcs(server) => server.enforce(role.map(|role| GcpRights {
                bindings: policy("gcp", role, json!({ "bucket": gcs_server::BUCKET, "prefix": prefix })),
            })),
            Server::Azure(server) => {
                server.enforce(role.map(|role| AzureRights { role: policy("azure", role, json!({ "prefix": prefix })) }));
            }
        }
    }

    /// The server's own address, past the proxy.
    pub fn endpoint(&self) -> String {
        match &self.server {
            Server::S3(server) => server.endpoint(),
            Server::Gcs(server) => server.endpoint(),
            Server::Azure(server) => server.endpoint(),
        }
    }

    /// URL of a store below `prefix`, by way of `endpoint`.
    pub fn url(&self, endpoint: &str, prefix: &str) -> String {
        match &self.server {
            Server::S3(_) => format!("s3://{BUCKET}/{prefix}?endpoint={endpoint}&region={REGION}"),
            Server::Gcs(_) => format!("gs://{}/{prefix}?endpoint={endpoint}", gcs_server::BUCKET),
            Server::Azure(_) => {
                let (account, container) = (azure_server::ACCOUNT, azure_server::CONTAINER);
                format!("az://{account}/{container}/{prefix}?endpoint={endpoint}")
            }
        }
    }

    /// How the provider's store logs in here.
    pub fn provider_settings(&self) -> ProviderSettings {
        let settings = match &self.server {
            Server::S3(server) => server.settings().provider,
            Server::Gcs(server) => server.settings().provider,
            Server::Azure(server) => server.settings().provider,
        };
        let credentials = if self.anonymous { Credentials::Anonymous } else { settings.credentials };
        ProviderSettings { ca_file: self.ca_file.clone(), credentials, ..settings }
    }

    /// The same for a configuration file: a whole section.
    pub fn section(&self, prefix: &str) -> String {
        let name = &self.name;
        let url = self.url(&self.proxy.url(), prefix);
        let ca = self.ca_file.as_ref().map(|path| format!("ca_file = \"{}\"\n", path.display())).unwrap_or_default();
        let credentials = match &self.server {
            _ if self.anonymous => "{ kind = \"anonymous\" }".to_owned(),
            Server::S3(_) => {
                format!("{{ kind = \"access-key\", access_key_id = \"{ACCESS_KEY}\", secret_env = \"{S3_SECRET}\" }}")
            }
            Server::Gcs(_) => format!("{{ kind = \"access-token\", secret_env = \"{GCS_SECRET}\" }}"),
            Server::Azure(_) => format!("{{ kind = \"account-key\", secret_env = \"{AZURE_SECRET}\" }}"),
        };
        format!("[[store]]\nname = \"{name}\"\nurl = \"{url}\"\ncredentials = {credentials}\n{ca}")
    }

    /// What a process needs in its environment for [`Cloud::section`].
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match &self.server {
            Server::S3(_) => vec![(S3_SECRET, SECRET_KEY.into())],
            Server::Gcs(_) => vec![(GCS_SECRET, gcs_server::TOKEN.into())],
            Server::Azure(_) => vec![(AZURE_SECRET, azure_server::KEY.into())],
        }
    }

    /// A store below `prefix` through the proxy, and the same past it.
    pub async fn stores(&self, env: &Env, prefix: &str, settings: &StoreSettings) -> [OpenStore; 2] {
        let mut opened = Vec::new();
        for (endpoint, provider) in [
            (self.proxy.url(), self.provider_settings()),
            (self.endpoint(), ProviderSettings { ca_file: None, ..self.provider_settings() }),
        ] {
            let url = StoreUrl::parse(&self.url(&endpoint, prefix), Path::new("/")).expect("a URL");
            let settings = StoreSettings { provider, ..settings.clone() };
            opened.push(open(env, &self.name, &url, &settings, true).await.unwrap_or_else(|e| panic!("{e:?}")));
        }
        opened.try_into().unwrap_or_else(|_| unreachable!())
    }

    /// A rule for requests of this kind.
    pub fn on(&self, request: Request, rule: Rule) {
        let (method, path) = self.provider.wire(request);
        self.proxy.inject(rule.method(method).path(path));
    }

    /// How many requests of this kind came to the proxy since its last `take`.
    pub fn sent(&self, request: Request) -> usize {
        let (method, path) = self.provider.wire(request);
        self.proxy.count(method, path)
    }

    /// Requests that the server counted, by its own names.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        match &self.server {
            Server::S3(server) => server.counts(),
            Server::Gcs(server) => server.counts(),
            Server::Azure(server) => server.counts(),
        }
    }
}

/// Names the variable with the secret key for S3.
const S3_SECRET: &str = "HOLDFAST_SUITE_S3_SECRET";
/// Names the variable with the token for GCS.
const GCS_SECRET: &str = "HOLDFAST_SUITE_GCS_TOKEN";
/// Names the variable with the account's key for Azure.
const AZURE_SECRET: &str = "HOLDFAST_SUITE_AZURE_SECRET";
