//! How one store is treated, and what its provider has to know beyond the URL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::credentials::Credentials;

/// How one store is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Most requests under way at once.
    pub connections: usize,
    /// Bytes per second sent, no limit if `None`.
    pub upload_limit: Option<u64>,
    /// Bytes per second received, no limit if `None`.
    pub download_limit: Option<u64>,
    /// Requests per second, no limit if `None`.
    pub request_limit: Option<u64>,
    /// How long one attempt may take, besides the time its bytes need on the slowest connection worth having.
    pub timeout: Duration,
    /// How many times a request is sent again after its first attempt.
    pub retries: u32,
    /// What the provider has to know. Directories ignore it.
    pub provider: ProviderSettings,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings {
            connections: 8,
            upload_limit: None,
            download_limit: None,
            request_limit: None,
            timeout: Duration::from_secs(60),
            retries: 5,
            provider: ProviderSettings::default(),
        }
    }
}

/// What a cloud provider has to know beyond bucket and prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Another server than the provider's own, such as `https://minio.example:9000`. `http://` only on purpose: it is
    /// not encrypted.
    pub endpoint: Option<String>,
    /// Region of the bucket (S3). A `region` parameter of the URL stands before it.
    pub region: Option<String>,
    /// Storage class (S3, GCS) or access tier (Azure) of new objects, by the first segment of their names; the bucket's
    /// own default where a segment is missing.
    pub storage_classes: BTreeMap<String, String>,
    /// Key at the provider's key service that encrypts new objects (S3: key id or ARN; GCS: resource name; Azure:
    /// encryption scope). The bucket's own default if `None`.
    pub kms_key: Option<String>,
    /// PEM file with certificates to trust instead of the system's (S3 and Azure; for GCS set `SSL_CERT_FILE`).
    pub ca_file: Option<PathBuf>,
    /// Who asks.
    pub credentials: Credentials,
}
