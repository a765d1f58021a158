//! Looks at one store: what the identity may do there, and what the provider says. Nothing is left behind: what exists is
//! created once more, which must be refused, and what does not exist is removed.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Env;
use crate::doctor::facts::{Provider, Rights, Seen, StoreFacts, Tried};
use crate::replica::Replica;
use crate::repository::error::{Fault, RepositoryError};
use crate::repository::layout::{self, Class};
use crate::repository::open::refuses;
use crate::repository::probe::examine;
use crate::store;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::inspect::{Facts, Names, PlaceFacts};
use crate::store::name::ObjectName;
use crate::store::settings::StoreSettings;
use crate::store::url::{Bucket, Place, StoreUrl};
use crate::store::{Inspected, Store};
use futures::StreamExt;

/// How long one store may take as a whole.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often a request is sent again at most: who asks is waiting.
const RETRIES: u32 = 2;

/// Looks at the store `name`. With `probe`, tries what it may do besides reading.
pub async fn look(env: &Env, name: &str, url: &StoreUrl, settings: &StoreSettings, probe: bool) -> StoreFacts {
    let settings = StoreSettings { retries: settings.retries.min(RETRIES), ..settings.clone() };
    let looking = async {
        match store::open_to_inspect(env, name, url, &settings).await {
            Ok(inspected) => see(env, name, url, inspected, probe).await,
            Err(e) => Err(unreachable(&e)),
        }
    };
    let seen = env.timeout(PATIENCE, looking).await.unwrap_or_else(|| {
        Err((Fault::Failed, format!("store {name}: no end of looking at it within {} s", PATIENCE.as_secs())))
    });
    let endpoint = settings.provider.endpoint.as_deref();
    let of =
        |kind: &str, bucket: &Bucket| format!("{kind} {} {}", bucket.endpoint.as_deref().or(endpoint).unwrap_or(""), bucket.name);
    let (provider, bucket, prefix) = match url.place() {
        Place::Directory(path) => (Provider::Directory, path.display().to_string(), String::new()),
        Place::S3(bucket) => (Provider::S3, of("s3", bucket), bucket.prefix.clone()),
        Place::Gcs(bucket) => (Provider::Gcs, of("gs", bucket), bucket.prefix.clone()),
        Place::Azure { account, container } => {
            (Provider::Azure, of(&format!("az {account}"), container), container.prefix.clone())
        }
    };
    StoreFacts {
        name: name.to_owned(),
        url: url.to_string(),
        provider,
        bucket,
        prefix,
        classes: settings.provider.storage_classes,
        seen,
    }
}

fn unreachable(e: &StoreError) -> (Fault, String) {
    (RepositoryError::from_kind(e.kind), e.story())
}

/// A name that no object has: no content has a hash of zeros that anybody could find. A removal of it is the only one that no
/// record of a log stands behind: it can take nothing away.
fn nobodys() -> ObjectName {
    layout::hashed(Class::DataPack, &[0; 32])
}

async fn see(env: &Env, name: &str, url: &StoreUrl, inspected: Inspected, probe: bool) -> Result<Seen, (Fault, String)> {
    let Inspected { open, asking, inspect } = inspected;
    let replica = Replica { index: 0, name: name.to_owned(), url: url.to_string(), store: open.store, meter: open.meter };
    let mut rights = rights(env, &replica, probe).await?;
    let (absent, present) = (nobodys(), layout::descriptor());
    let told = inspect.inspect(&asking, Names { absent: &absent, present: &present, probe }).await;
    if probe {
        rights.remove = remove(&*replica.store, &told).await;
    }
    Ok(Seen { rights, told })
}

/// What may be done, as far as it is tried; an error when there is nobody to ask, or nobody is let in at all.
async fn rights(env: &Env, replica: &Replica, probe: bool) -> Result<Rights, (Fault, String)> {
    let descriptor = layout::descriptor();
    let stored = match replica.store.get(&descriptor, None).await {
        Ok(stored) => Ok(Some(stored)),
        // The object, or the whole bucket?
        Err(e) if e.kind == StoreErrorKind::NotFound => match replica.store.stat(&descriptor).await {
            Ok(_) => Ok(None),
            Err(e) if e.kind == StoreErrorKind::Denied => Err(e),
            Err(e) => return Err(unreachable(&e)),
        },
        Err(e) if e.kind == StoreErrorKind::Denied => Err(e),
        Err(e) => return Err(unreachable(&e)),
    };
    let list = match replica.store.list(descriptor.as_str()).next().await {
        None | Some(Ok(_)) => Tried::Works,
        Some(Err(e)) => came_to(&e),
    };
    let untried = |why: &str| Tried::Untried(why.to_owned());
    let left_out = "probing was left out";
    let remove = untried(left_out);
    match stored {
        Err(e) => {
            if let Tried::Refused(_) = &list {
                return Err(unreachable(&e));
            }
            let create = untried("nothing can be read there that could be created once more");
            Ok(Rights { repository: false, read: Tried::Refused(e.story()), list, create, remove })
        }
        Ok(None) => {
            let create = untried("there is no repository to try it on: `holdfast init` tries it");
            Ok(Rights { repository: false, read: Tried::Works, list, create, remove })
        }
        Ok(Some(stored)) => {
            let read = read(env, replica, &descriptor, &stored).await;
            let create = match probe {
                true => create(replica, &descriptor, &stored).await,
                false => untried(left_out),
            };
            Ok(Rights { repository: true, read, list, create, remove })
        }
    }
}

fn came_to(e: &StoreError) -> Tried {
    match e.kind {
        StoreErrorKind::Denied => Tried::Refused(e.story()),
        _ => Tried::Failed(e.story()),
    }
}

/// Reads the descriptor in every way.
async fn read(env: &Env, replica: &Replica, name: &ObjectName, stored: &Bytes) -> Tried {
    match examine(env, replica, name, stored).await {
        Ok(_) => Tried::Works,
        Err(e) if e.fault == Fault::Unsupported => Tried::Wrong(e.message),
        // It was read a moment ago: what is refused is the listing, which has a finding of its own.
        Err(e) if e.fault == Fault::Denied => Tried::Works,
        Err(e) => Tried::Failed(crate::repository::open::story(&e)),
    }
}

/// Creates the descriptor once more, with its own bytes: a store that ignores the condition overwrites it with itself.
async fn create(replica: &Replica, name: &ObjectName, stored: &Bytes) -> Tried {
    match refuses(replica, name, stored).await {
        Ok(true) => Tried::Works,
        Ok(false) => Tried::Wrong(format!("{name} was created although it is there")),
        Err(e) => came_to(&e),
    }
}

/// Removes what is not there.
async fn remove(store: &dyn Store, told: &Facts) -> Tried {
    if let PlaceFacts::Directory(facts) = &told.place {
        // A system says of what is not there that it is not there, to everybody: only the trial tells.
        return match &facts.trial {
            Some(Ok(_)) => Tried::Works,
            Some(Err(why)) => Tried::Refused(why.clone()),
            None => Tried::Untried("probing was left out".into()),
        };
    }
    let name = nobodys();
    match store.stat(&name).await {
        Ok(None) => {}
        Ok(Some(_)) => return Tried::Untried(format!("there is an object {name}, which cannot be")),
        Err(e) => return Tried::Untried(format!("whether {name} is there cannot be told: {}", e.story())),
    }
    match store.delete(std::slice::from_ref(&name)).await.into_iter().next() {
        None => Tried::Works,
        Some((_, e)) => came_to(&e),
    }
}
