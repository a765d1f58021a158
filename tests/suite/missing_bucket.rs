//! A bucket that does not exist is no empty place: nothing says "run init", which makes no buckets, and the fix is named.

use bytes::Bytes;
use holdfast::clock::Env;
use holdfast::replica::{Member, ReplicaSettings};
use holdfast::repository::error::{Fault, RepositoryError};
use holdfast::repository::init::{InitSettings, init};
use holdfast::repository::{Access, Repository};
use holdfast::seal::key::KdfParams;
use holdfast::store::error::StoreErrorKind;
use holdfast::store::open;
use holdfast::store::settings::StoreSettings;
use holdfast::store::url::StoreUrl;

use crate::support::azure_server::{self, AzureServer};
use crate::support::gcs_server::GcsServer;
use crate::support::name;
use crate::support::s3_server::{self, S3Server};
use crate::support::stage::{opening, unlock};

/// The class of a failure, and all that it says.
fn told(error: &RepositoryError) -> (Fault, String) {
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    (error.fault, causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
}

async fn member(env: &Env, label: &str, url: &StoreUrl, settings: &StoreSettings) -> Member {
    let settings = StoreSettings { retries: 0, ..settings.clone() };
    Member { name: label.into(), url: url.to_string(), store: open(env, label, url, &settings, false).await }
}

/// What opening for writing and `init` say of one store alone.
async fn asked(url: &StoreUrl, settings: &StoreSettings) -> [(Fault, String); 2] {
    let env = Env::real();
    let how = InitSettings { kdf: KdfParams::floor_for_tests(), lowered_kdf: true, ..InitSettings::default() };
    let members = async || vec![member(&env, "paris", url, settings).await];
    let opened = Repository::open(&env, members().await, opening(ReplicaSettings::default()), &unlock(), Access::Write).await;
    let opened = opened.err().expect("there is nothing to open");
    let made = init(&env, members().await, &how, &unlock()).await.map(drop);
    let made = made.err().map_or((Fault::Interrupted, "it was made".into()), |e| told(&e));
    [told(&opened), made]
}

#[tokio::test]
async fn a_missing_bucket_is_named_and_is_not_an_empty_one() {
    let (s3, gcs, azure) = (S3Server::start(), GcsServer::start(), AzureServer::start());
    let clouds = [
        (s3.url_of("missing", "repo"), s3.url("repo"), s3.settings(), "there is no bucket missing"),
        (gcs.url_of("missing", "repo"), gcs.url("repo"), gcs.settings(), "there is no bucket missing"),
        (azure.url_of("missing", "repo"), azure.url("repo"), azure.settings(), "there is no container"),
    ];
    for (missing, there, settings, says) in clouds {
        for (fault, text) in asked(&missing, &settings).await {
            assert_eq!(fault, Fault::Failed, "{missing}: {text}");
            assert!(text.contains("store paris") && text.contains(says), "{missing}: {text}");
            assert!(text.contains("make it first or mend the URL") && !text.contains("run `holdfast init`"), "{text}");
        }
        let [(fault, text), (made, why)] = asked(&there, &settings).await;
        assert_eq!(fault, Fault::NoRepository, "{there}: {text}");
        assert_eq!((made, why.as_str()), (Fault::Interrupted, "it was made"), "{there}");
    }
}

/// A directory is made by `init`: that is said, and also what else may be wrong.
#[tokio::test]
async fn a_missing_directory_is_said_to_be_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = StoreUrl::parse("file:stores/away", folder.path()).expect("a URL");
    let [(fault, text), (made, why)] = asked(&url, &StoreSettings::default()).await;
    assert_eq!(fault, Fault::NoRepository, "{text}");
    assert!(text.contains("stores/away") && text.contains("directory is missing") && text.contains("mounted"), "{text}");
    assert_eq!(made, Fault::Failed, "{why}");
    assert!(!folder.path().join("stores").exists());
}

/// A HEAD that says 404 and a GET that says otherwise: neither "absent" nor "no bucket".
#[tokio::test]
async fn what_head_and_get_do_not_agree_on_is_not_known() {
    let (refused, server) = (s3_server::Fault::refusal, S3Server::start());
    let settings = StoreSettings { retries: 0, ..server.settings() };
    let fresh = async || open(&Env::real(), "paris", &server.url("repo"), &settings, false).await.expect("opened").store;
    let there = name("data/there");
    fresh().await.put(&there, Bytes::from_static(b"here")).await.expect("put");
    server.fault(refused(404, "").on("HeadObject"));
    let error = fresh().await.stat(&there).await.expect_err("it is there");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", error.story());
    server.fault(refused(404, "").on("HeadObject"));
    server.fault(refused(404, "").on("GetObject"));
    let error = fresh().await.stat(&name("data/absent")).await.expect_err("nobody can tell");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", error.story());
    // The next attempt finds what is there.
    let settings = StoreSettings { retries: 2, ..server.settings() };
    server.fault(refused(404, "").on("HeadObject"));
    let store = open(&Env::real(), "paris", &server.url("repo"), &settings, false).await.expect("opened").store;
    assert_eq!(store.stat(&there).await.expect("told").map(|info| info.size), Some(4));

    let server = AzureServer::start();
    let settings = StoreSettings { retries: 0, ..server.settings() };
    let store = open(&Env::real(), "paris", &server.url("repo"), &settings, false).await.expect("opened").store;
    store.put(&there, Bytes::from_static(b"here")).await.expect("put");
    server.fault(azure_server::refusal(404, "").on("HeadBlob"));
    let error = store.stat(&there).await.expect_err("it is there");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "{}", error.story());
}
