//! A server of S3 inside the test process, on a loopback port of its own.
//!
//! `S3Server::start()` gives a server with one empty bucket; it ends when it is dropped. `url` and `settings` open a store in
//! it (a real process can do the same with `environment`). In front of the service stands a `Door`: counts, headers, faults.

use std::sync::Arc;

use futures::future::FutureExt;
use holdfast::store::credentials::{Credentials, SecretSource};
use holdfast::store::settings::{ProviderSettings, StoreSettings};
use holdfast::store::url::StoreUrl;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use s3s::service::{S3Service, S3ServiceBuilder};

pub use crate::support::door::{Act, Fault};
use crate::support::door::{Body, Door, broken};
use crate::support::rights::AwsRights;
use crate::support::s3_bucket::Bucket;
use crate::support::s3_service::Service;

pub const BUCKET: &str = "bucket";
pub const REGION: &str = "eu-test-1";
pub const ACCESS_KEY: &str = "AKIDHOLDFASTTEST";
pub const SECRET_KEY: &str = "a-secret-that-no-message-may-hold";

impl Fault {
    /// A refusal in S3's form. An empty `code` gives an answer without a body.
    pub fn refusal(status: u16, code: &str) -> Fault {
        let message = "scripted";
        let body = match code {
            "" => String::new(),
            _ => format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"),
        };
        Fault::new(Act::Answer { status, headers: vec![("x-amz-request-id", "REQUEST7".into())], body })
    }
}

/// A running server.
pub struct S3Server {
    service: Service,
    door: Door,
}

struct Everybody;

#[async_trait::async_trait]
impl s3s::access::S3Access for Everybody {
    async fn check(&self, _: &mut s3s::access::S3AccessContext<'_>) -> s3s::S3Result<()> {
        Ok(())
    }
}

impl S3Server {
    /// A server that admits [`ACCESS_KEY`] only.
    pub fn start() -> S3Server {
        S3Server::with(false)
    }

    /// A server that asks nobody for a signature (a wrong one is still refused).
    pub fn open_to_all() -> S3Server {
        S3Server::with(true)
    }

    fn with(open: bool) -> S3Server {
        let service = Service::default();
        service.buckets().insert(BUCKET.into(), Bucket::default());
        let mut builder = S3ServiceBuilder::new(service.clone());
        builder.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        if open {
            builder.set_access(Everybody);
        }
        let s3 = builder.build();
        let answer = move |request| {
            let s3 = s3.clone();
            serve(s3, request).boxed()
        };
        S3Server { service, door: Door::open(None, operation, |_| Arc::new(answer)) }
    }

    /// URL of a store in the bucket, below `prefix` (which may be empty).
    pub fn url(&self, prefix: &str) -> StoreUrl {
        self.url_of(BUCKET, prefix)
    }
    /// The same in any bucket.
    pub fn url_of(&self, bucket: &str, prefix: &str) -> StoreUrl {
        let text = format!("s3://{bucket}/{prefix}?endpoint={}&region={REGION}", self.endpoint());
        StoreUrl::parse(&text, std::path::Path::new("/")).unwrap()
    }
    /// Settings with the key that the server knows.
    pub fn settings(&self) -> StoreSettings {
        let secret = SecretSource::Value(SECRET_KEY.to_owned().into());
        let credentials = Credentials::AccessKey { id: ACCESS_KEY.into(), secret, session_token: None };
        let provider = ProviderSettings { credentials, ..ProviderSettings::default() };
        StoreSettings { provider, ..StoreSettings::default() }
    }
    /// The same key for a process.
    pub fn environment(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }
    /// From now on whoever comes has these rights; `None`: all.
    pub fn enforce(&self, rights: Option<AwsRights>) {
        self.service.enforce(rights);
    }
    /// Looks at, or changes, the bucket behind everybody's back.
    pub fn bucket<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        work(self.service.buckets().get_mut(BUCKET).expect("the bucket of the tests"))
    }
}

/// Counts, faults and the rest are the door's.
impl std::ops::Deref for S3Server {
    type Target = Door;
    fn deref(&self) -> &Door {
        &self.door
    }
}

/// The operation that method, path and query stand for.
fn operation(request: &Request<Incoming>) -> &'static str {
    let of_object = request.uri().path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let query = request.uri().query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|q| q.split('=').next() == Some(name));
    let method = request.method();
    match (of_object, method) {
        (true, &Method::PUT) if !asks("retention") && !asks("legal-hold") => "PutObject",
        (true, &Method::GET) => "GetObject",
        (true, &Method::HEAD) => "HeadObject",
        (true, &Method::DELETE) => "DeleteObject",
        (false, &Method::POST) if asks("delete") => "DeleteObjects",
        (false, &Method::GET) if asks("list-type") => "ListObjectsV2",
        (false, &Method::GET) if asks("versions") => "ListObjectVersions",
        (false, &Method::HEAD) => "HeadBucket",
        (false, &Method::GET) if asks("versioning") => "GetBucketVersioning",
        (false, &Method::GET) if asks("object-lock") => "GetObjectLockConfiguration",
        (false, &Method::GET) if asks("lifecycle") => "GetBucketLifecycleConfiguration",
        (false, &Method::GET) if asks("publicAccessBlock") => "GetPublicAccessBlock",
        (false, &Method::GET) if asks("policy") => "GetBucketPolicy",
        (false, &Method::GET) if asks("policyStatus") => "GetBucketPolicyStatus",
        (false, &Method::GET) if asks("encryption") => "GetBucketEncryption",
        (false, &Method::GET) if asks("ownershipControls") => "GetBucketOwnershipControls",
        _ => "other",
    }
}

async fn serve(s3: S3Service, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let answer = s3.call(request.map(s3s::Body::from)).await.map_err(|e| broken(&format!("{e:?}")))?;
    Ok(answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
}
