//! What Azure says about a container over the interface for its data. Much of the account's settings only the management plane
//! knows, which this program does not speak to: that is said, not guessed.

use azure_core::error::Error;
use azure_storage_blob::models::{BlobContainerClientGetPropertiesResultHeaders, BlobServiceProperties};
use futures::future::BoxFuture;

use crate::store::azure::AzureStore;
use crate::store::azure::fault::Answer;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::fault::{Fault, Verb, words};
use crate::store::inspect::{BucketFacts, Facts, Inspect, Lock, Names, PlaceFacts, Site, Told, Versioning};
use crate::store::name::ObjectName;
use crate::store::retry::Retrying;
use crate::store::url::Line;

/// What reading the container's settings takes.
const CONTAINER_RIGHT: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/read";

/// What reading the account's settings for blobs takes.
const SERVICE_RIGHT: &str = "Microsoft.Storage/storageAccounts/blobServices/read";

/// What reading an object takes.
const BLOB_RIGHT: &str = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read";

/// The scope that stands for the account's own key.
const OWN_SCOPE: &str = "$account-encryption-key";

/// What a container says of itself.
#[derive(Clone, Default)]
struct Container {
    public: Option<String>,
    held: Option<Lock>,
    scope: Option<String>,
}

/// What an object says of itself.
#[derive(Clone, Default)]
struct Blob {
    version: bool,
    tier: Option<String>,
}

fn management(setting: &str) -> String {
    format!("only the management plane says it ({setting}): look there, or in `az storage account show`")
}

impl AzureStore {
    fn refused(&self, right: &str, e: &Error) -> StoreError {
        self.error(Verb::Settings, &right, self.fault(Verb::Settings, right, e))
    }

    async fn container(&self) -> Result<Container, StoreError> {
        let wrong = |e: Error| self.refused(CONTAINER_RIGHT, &e);
        let answer = self.client.get_properties(None).await.map_err(wrong)?;
        let public = answer.access().map_err(wrong)?.map(|access| words(access.as_ref()));
        let mut held = Vec::new();
        if answer.has_immutability_policy().map_err(wrong)? == Some(true) {
            held.push("an immutability policy of the container");
        }
        if answer.has_legal_hold().map_err(wrong)? == Some(true) {
            held.push("a legal hold");
        }
        let every = !held.is_empty();
        if answer.is_immutable_storage_with_versioning_enabled().map_err(wrong)? == Some(true) {
            // For how long, if at all, only the account or each version says.
            held.push("immutability by version");
        }
        let held = (!held.is_empty()).then(|| Lock { shown: held.join(", "), every });
        let scope = answer.default_encryption_scope().map_err(wrong)?.filter(|scope| scope != OWN_SCOPE);
        Ok(Container { public, held, scope: scope.map(|s| words(&s)) })
    }

    async fn service_settings(&self) -> Result<BlobServiceProperties, StoreError> {
        let wrong = |e: Error| self.refused(SERVICE_RIGHT, &e);
        self.service.get_properties(None).await.map_err(wrong)?.into_model().map_err(wrong)
    }

    async fn blob(&self, present: &ObjectName) -> Result<Blob, StoreError> {
        let key = self.key(Verb::Stat, present)?;
        let answer = self.client.blob_client(&key).get_properties(None).await;
        let answer = answer.map_err(|e| self.error(Verb::Stat, present, self.fault(Verb::Stat, &key, &e)))?;
        let header = |name: &'static str| answer.headers().get_optional_str(&name.into());
        Ok(Blob { version: header("x-ms-version-id").is_some(), tier: header("x-ms-access-tier").map(words) })
    }

    /// The server's clock, from the header of a refusal: an object that is not there is asked for.
    async fn server_time(&self, absent: &ObjectName) -> Result<i64, StoreError> {
        let key = self.key(Verb::Stat, absent)?;
        let fault = match self.client.blob_client(&key).get_properties(None).await {
            Ok(_) => Fault::new(StoreErrorKind::Other, "there is an object that cannot be"),
            Err(e) => {
                let date = Answer::of(&e).map(|answer| answer.date.and_then(|text| jiff::fmt::rfc2822::parse(text.trim()).ok()));
                match date {
                    Some(Some(theirs)) => return Ok(theirs.timestamp().as_second() - self.env.now().seconds()),
                    Some(None) => Fault::new(StoreErrorKind::Invalid, "its answers have no date"),
                    None => self.fault(Verb::Stat, &key, &e),
                }
            }
        };
        Err(self.error(Verb::Stat, absent, fault))
    }

    async fn all(&self, asking: &Retrying, names: &Names<'_>) -> Facts {
        let container = Told::from(asking.ask("the container's settings", || self.container()).await, CONTAINER_RIGHT);
        let service = Told::from(asking.ask("the account's settings", || self.service_settings()).await, SERVICE_RIGHT);
        let blob = Told::from(asking.ask("stat", || self.blob(names.present)).await, BLOB_RIGHT);
        let mut bucket = BucketFacts::new(Line::to(self.endpoint.as_deref()));
        bucket.versioning = match blob.clone() {
            Told::Known(Blob { version: true, .. }) => Told::Known(Versioning::On),
            Told::Known(_) => Told::Untold(format!(
                "it was off when the object asked for was written; {}",
                management("isVersioningEnabled of the blob service")
            )),
            _ => Told::Untold(management("isVersioningEnabled of the blob service")),
        };
        bucket.soft_delete_days = service.map(|service| {
            let policy = service.delete_retention_policy.filter(|policy| policy.enabled == Some(true));
            policy.and_then(|policy| u32::try_from(policy.days?).ok()).unwrap_or(0)
        });
        bucket.lock = container.clone().map(|container| container.held);
        bucket.rules = Told::Untold(management("the lifecycle management policy of the account"));
        bucket.public = container.clone().map(|container| {
            container.public.map(|access| format!("the container's access level is {access}: anybody may read"))
        });
        bucket.closed = Told::Untold(management("allowBlobPublicAccess of the account"));
        bucket.encrypted_only = Told::Untold(management("supportsHttpsTrafficOnly and minimumTlsVersion of the account"));
        bucket.encryption = container.map(|container| {
            Some(container.scope.map_or("the account's key".into(), |scope| format!("the encryption scope {scope}")))
        });
        bucket.class = match blob.map(|blob| blob.tier) {
            Told::Known(Some(tier)) => Told::Known(tier),
            Told::Known(None) | Told::Failed(_) => Told::Untold(management("accessTier of the account")),
            other => other.map(Option::unwrap_or_default),
        };
        let account = self.place.split('/').next().unwrap_or_default().to_owned();
        let provider = self.endpoint.clone().unwrap_or_else(|| "Azure".into());
        Facts {
            identity: Told::Known(self.shown.clone()),
            ahead: Told::from(asking.ask("the server's clock", || self.server_time(names.absent)).await, BLOB_RIGHT),
            site: Told::Known(Site { provider, account, region: String::new() }),
            place: PlaceFacts::Bucket(Box::new(bucket)),
        }
    }
}

impl Inspect for AzureStore {
    fn inspect<'a>(&'a self, asking: &'a Retrying, names: Names<'a>) -> BoxFuture<'a, Facts> {
        Box::pin(async move { self.all(asking, &names).await })
    }
}
