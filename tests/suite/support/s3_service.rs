//! The operations of S3 over the buckets in memory: what `s3s` has read from a request becomes a change or an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as TOKEN;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3, S3Request, S3Response, S3Result, dto, s3_error};

use crate::support::rights::AwsRights;
use crate::support::s3_bucket::{Bucket, Lock, Refusal, Version};

/// Most keys in a page, whatever a client wants.
const PAGE: usize = 1000;

/// All buckets of a server. A clone is another handle on them.
#[derive(Clone, Default)]
pub struct Service {
    buckets: Arc<Mutex<BTreeMap<String, Bucket>>>,
    rights: Arc<Mutex<Option<AwsRights>>>,
}

fn refused(refusal: Refusal) -> s3s::S3Error {
    match refusal {
        Refusal::NoSuchKey => s3_error!(NoSuchKey, "The specified key does not exist."),
        Refusal::NoSuchVersion => s3_error!(NoSuchVersion, "The specified version does not exist."),
        Refusal::PreconditionFailed => s3_error!(PreconditionFailed, "At least one of the preconditions did not hold."),
        Refusal::AccessDenied => s3_error!(AccessDenied, "Access Denied because object protected by object lock."),
    }
}

impl Service {
    pub fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on whoever comes has these rights; `None`: all.
    pub fn enforce(&self, rights: Option<AwsRights>) {
        *self.rights.lock().unwrap_or_else(PoisonError::into_inner) = rights;
    }

    /// `AccessDenied` unless the rights in force allow the action on a key, or on the bucket if there is none. Whoever comes is
    /// taken to come over TLS: the bucket's policy admits nobody else.
    fn may(&self, action: &str, bucket: &str, key: Option<&str>, facts: &[(&str, &str)]) -> S3Result<()> {
        let rights = self.rights.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = key.map_or(format!("arn:aws:s3:::{bucket}"), |key| format!("arn:aws:s3:::{bucket}/{key}"));
        let facts = [facts, &[("aws:SecureTransport", "true"), ("s3:TlsVersion", "1.3")]].concat();
        match rights.as_ref().is_none_or(|rights| rights.allow(action, &resource, &facts)) {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "User is not authorized to perform: {action} on resource: {resource}")),
        }
    }

    /// That there is no such key is told only to whoever may list the bucket; others are refused (Amazon S3, "GetObject", permissions).
    /// Nobody says which prefix such a request lists, so here it lists none.
    fn or_denied<T>(&self, bucket: &str, found: S3Result<T>) -> S3Result<T> {
        match &found {
            Err(_) => self.may("s3:ListBucket", bucket, None, &[]).and(found),
            Ok(_) => found,
        }
    }

    /// Whether a deletion is allowed: a version's is another thing than a marker's.
    fn may_delete(&self, bucket: &str, key: &str, id: Option<&str>, bypass: bool) -> S3Result<()> {
        if bypass {
            self.may("s3:BypassGovernanceRetention", bucket, Some(key), &[])?;
        }
        self.may(if id.is_some() { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" }, bucket, Some(key), &[])
    }

    /// `work` on one bucket, in one step for everybody else.
    fn within<T>(&self, bucket: &str, work: impl FnOnce(&mut Bucket) -> S3Result<T>) -> S3Result<T> {
        match self.buckets().get_mut(bucket) {
            Some(bucket) => work(bucket),
            None => Err(s3_error!(NoSuchBucket, "The specified bucket does not exist.")),
        }
    }
}

/// Compares the sums that a client sent, in headers or behind the body, with the body. `BadDigest` if one differs.
fn verified(sent: &[(&'static str, Option<String>)], body: &Bytes) -> S3Result<BTreeMap<&'static str, String>> {
    let mut hasher = ChecksumHasher {
        crc32: Some(Crc32::new()),
        crc32c: Some(Crc32c::new()),
        sha1: Some(Sha1::new()),
        sha256: Some(Sha256::new()),
        crc64nvme: Some(Crc64Nvme::new()),
    };
    hasher.update(body);
    let sums = hasher.finalize();
    let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::checksum(body));
    let mut kept = BTreeMap::new();
    for (name, sent) in sent {
        let Some(sent) = sent else { continue };
        let right = match *name {
            "content-md5" => Some(&md5),
            "x-amz-checksum-crc32" => sums.checksum_crc32.as_ref(),
            "x-amz-checksum-crc32c" => sums.checksum_crc32c.as_ref(),
            "x-amz-checksum-crc64nvme" => sums.checksum_crc64nvme.as_ref(),
            "x-amz-checksum-sha1" => sums.checksum_sha1.as_ref(),
            "x-amz-checksum-sha256" => sums.checksum_sha256.as_ref(),
            _ => None,
        };
        if right != Some(sent) {
            return Err(s3_error!(BadDigest, "The {name} you specified did not match the calculated checksum."));
        }
        if *name != "content-md5" {
            kept.insert(*name, sent.clone());
        }
    }
    Ok(kept)
}

async fn whole(body: Option<dto::StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let pieces: Vec<Bytes> = body.try_collect().await.map_err(|e| s3_error!(IncompleteBody, "{e}"))?;
    let mut all = BytesMut::new();
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    Ok(all.freeze())
}

fn etag(version: &Version) -> dto::ETag {
    dto::ETag::Strong(version.etag.clone())
}

fn size(version: &Version) -> i64 {
    version.body.as_ref().map_or(0, |b| i64::try_from(b.len()).unwrap())
}

fn sum(version: &Version, name: &str, wanted: bool) -> Option<String> {
    version.sums.get(name).filter(|_| wanted).cloned()
}

fn visible(version: &Version) -> Option<String> {
    (version.id != "null").then(|| version.id.clone())
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn put_object(&self, req: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let (mut input, trailers) = (req.input, req.trailing_headers);
        let announced = input.content_length;
        let body = whole(input.body.take()).await?;
        if announced.is_some_and(|n| n != i64::try_from(body.len()).unwrap()) {
            return Err(s3_error!(IncompleteBody));
        }
        let trailer = |name: &str| {
            let read = |headers: &hyper::HeaderMap| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            trailers.as_ref().and_then(|t| t.read(read)).flatten()
        };
        let sent = [
            ("content-md5", input.content_md5),
            ("x-amz-checksum-crc32", input.checksum_crc32.or_else(|| trailer("x-amz-checksum-crc32"))),
            ("x-amz-checksum-crc32c", input.checksum_crc32c.or_else(|| trailer("x-amz-checksum-crc32c"))),
            ("x-amz-checksum-crc64nvme", input.checksum_crc64nvme.or_else(|| trailer("x-amz-checksum-crc64nvme"))),
            ("x-amz-checksum-sha1", input.checksum_sha1.or_else(|| trailer("x-amz-checksum-sha1"))),
            ("x-amz-checksum-sha256", input.checksum_sha256.or_else(|| trailer("x-amz-checksum-sha256"))),
        ];
        let sums = verified(&sent, &body)?;
        let retention = match (input.object_lock_mode, input.object_lock_retain_until_date) {
            (Some(mode), Some(until)) => Some((mode.as_str().to_owned(), moment(until))),
            (None, None) => None,
            _ => return Err(s3_error!(InvalidRequest, "retention needs a mode and a date")),
        };
        let legal_hold = input.object_lock_legal_hold_status.is_some_and(|s| s.as_str() == "ON");
        let version = Version {
            id: String::new(),
            etag: hex::encode(Md5::checksum(&body)),
            body: Some(body),
            modified: now(),
            sums,
            class: input.storage_class.map(|c| c.as_str().to_owned()),
            kms_key: input.ssekms_key_id,
            lock: Lock { retention, legal_hold },
        };
        let (absent, matching) = (input.if_none_match, input.if_match);
        let creation = ("s3:ObjectCreationOperation", "true");
        let facts = if absent.is_some() { vec![creation, ("s3:if-none-match", "*")] } else { vec![creation] };
        self.may("s3:PutObject", &input.bucket, Some(&input.key), &facts)?;
        if absent.as_ref().is_some_and(|c| !c.is_any()) || matching.is_some() {
            return Err(s3_error!(NotImplemented, "only If-None-Match: * is known here"));
        }
        self.within(&input.bucket, |bucket| {
            let stored = bucket.put(&input.key, absent.is_some(), version).map_err(refused)?;
            Ok(S3Response::new(dto::PutObjectOutput {
                e_tag: Some(etag(stored)),
                version_id: visible(stored),
                checksum_crc64nvme: sum(stored, "x-amz-checksum-crc64nvme", true),
                checksum_crc32c: sum(stored, "x-amz-checksum-crc32c", true),
                ..Default::default()
            }))
        })
    }

    async fn get_object(&self, req: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let input = req.input;
        self.may("s3:GetObject", &input.bucket, Some(&input.key), &[])?;
        let found = self.within(&input.bucket, |b| b.version(&input.key, input.version_id.as_deref()).cloned().map_err(refused));
        let version = self.or_denied(&input.bucket, found)?;
        let Some(body) = version.body.clone() else { return Err(s3_error!(MethodNotAllowed)) };
        let length = u64::try_from(body.len()).unwrap();
        let (body, content_range) = match input.range {
            Some(range) => {
                let part = range.check(length)?;
                let told = format!("bytes {}-{}/{length}", part.start, part.end - 1);
                (body.slice(usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()), Some(told))
            }
            None => (body, None),
        };
        let wanted = content_range.is_none() && input.checksum_mode.is_some_and(|m| m.as_str() == "ENABLED");
        Ok(S3Response::new(dto::GetObjectOutput {
            content_length: Some(i64::try_from(body.len()).unwrap()),
            body: Some(dto::StreamingBlob::from(s3s::Body::from(body))),
            content_range,
            e_tag: Some(etag(&version)),
            last_modified: Some(version.modified.into()),
            version_id: visible(&version),
            checksum_crc64nvme: sum(&version, "x-amz-checksum-crc64nvme", wanted),
            checksum_crc32c: sum(&version, "x-amz-checksum-crc32c", wanted),
            checksum_crc32: sum(&version, "x-amz-checksum-crc32", wanted),
            storage_class: version.class.map(dto::StorageClass::from),
            ssekms_key_id: version.kms_key,
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<dto::HeadObjectInput>) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let input = req.input;
        self.may("s3:GetObject", &input.bucket, Some(&input.key), &[])?;
        let found = self.within(&input.bucket, |bucket| {
            let version = bucket.version(&input.key, input.version_id.as_deref()).map_err(refused)?;
            let retention = version.lock.retention.clone();
            Ok(S3Response::new(dto::HeadObjectOutput {
                content_length: Some(size(version)),
                e_tag: Some(etag(version)),
                last_modified: Some(version.modified.into()),
                version_id: visible(version),
                storage_class: version.class.clone().map(dto::StorageClass::from),
                object_lock_mode: retention.as_ref().map(|(mode, _)| dto::ObjectLockMode::from(mode.clone())),
                object_lock_retain_until_date: retention.map(|(_, until)| until.into()),
                ..Default::default()
            }))
        });
        self.or_denied(&input.bucket, found)
    }

    async fn delete_object(&self, req: S3Request<dto::DeleteObjectInput>) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let input = req.input;
        let bypass = input.bypass_governance_retention.unwrap_or(false);
        self.may_delete(&input.bucket, &input.key, input.version_id.as_deref(), bypass)?;
        self.within(&input.bucket, |bucket| {
            let marker = bucket.delete(&input.key, input.version_id.as_deref(), SystemTime::now(), bypass).map_err(refused)?;
            Ok(S3Response::new(dto::DeleteObjectOutput { delete_marker: marker.then_some(true), ..Default::default() }))
        })
    }

    async fn delete_objects(&self, req: S3Request<dto::DeleteObjectsInput>) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        let input = req.input;
        if input.delete.objects.len() > PAGE {
            return Err(s3_error!(MalformedXML, "more than {PAGE} keys"));
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let bypass = input.bypass_governance_retention.unwrap_or(false);
        self.within(&input.bucket, |bucket| {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for object in &input.delete.objects {
                let (key, id) = (object.key.clone(), object.version_id.as_deref());
                let may = self.may_delete(&input.bucket, &key, id, bypass);
                match may.and_then(|()| bucket.delete(&key, id, SystemTime::now(), bypass).map_err(refused)) {
                    Ok(_) if quiet => {}
                    Ok(marker) => {
                        let marker = marker.then_some(true);
                        deleted.push(dto::DeletedObject { key: Some(key), delete_marker: marker, ..Default::default() });
                    }
                    Err(e) => {
                        errors.push(dto::Error {
                            code: Some(e.code().as_str().to_owned()),
                            message: e.message().map(str::to_owned),
                            key: Some(key),
                            version_id: object.version_id.clone(),
                        });
                    }
                }
            }
            Ok(S3Response::new(dto::DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..Default::default() }))
        })
    }

    async fn list_objects_v2(&self, req: S3Request<dto::ListObjectsV2Input>) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let input = req.input;
        if input.delimiter.is_some() || input.encoding_type.is_some() {
            return Err(s3_error!(NotImplemented, "neither delimiters nor encoded keys"));
        }
        let token = input.continuation_token.as_ref().map(|token| {
            let key = TOKEN.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
        });
        let after = token.transpose()?.or(input.start_after);
        let most = input.max_keys.map_or(PAGE, |n| usize::try_from(n).unwrap_or(0).min(PAGE));
        let prefix = input.prefix.unwrap_or_default();
        self.may("s3:ListBucket", &input.bucket, None, &[("s3:prefix", &prefix)])?;
        self.within(&input.bucket, |bucket| {
            let (page, more) = bucket.page(&prefix, after.as_deref(), most);
            let next = page.last().filter(|_| more).map(|(key, _)| TOKEN.encode(key));
            let object = |(key, version): &(&str, &Version)| dto::Object {
                key: Some((*key).to_owned()),
                size: Some(size(version)),
                e_tag: Some(etag(version)),
                last_modified: Some(version.modified.into()),
                ..Default::default()
            };
            Ok(S3Response::new(dto::ListObjectsV2Output {
                name: Some(input.bucket.clone()),
                key_count: Some(i32::try_from(page.len()).unwrap()),
                max_keys: Some(i32::try_from(most).unwrap()),
                is_truncated: Some(more),
                next_continuation_token: next,
                contents: Some(page.iter().map(object).collect()),
                prefix: Some(prefix.clone()),
                ..Default::default()
            }))
        })
    }

    async fn list_object_versions(
        &self,
        req: S3Request<dto::ListObjectVersionsInput>,
    ) -> S3Result<S3Response<dto::ListObjectVersionsOutput>> {
        let prefix = req.input.prefix.unwrap_or_default();
        self.may("s3:ListBucketVersions", &req.input.bucket, None, &[("s3:prefix", &prefix)])?;
        self.within(&req.input.bucket, |bucket| {
            let (mut versions, mut markers) = (Vec::new(), Vec::new());
            for (key, version, latest) in bucket.versions(&prefix) {
                let (key, id, modified) = (Some(key.to_owned()), Some(version.id.clone()), Some(version.modified.into()));
                if version.body.is_some() {
                    versions.push(dto::ObjectVersion {
                        key,
                        version_id: id,
                        last_modified: modified,
                        is_latest: Some(latest),
                        size: Some(size(version)),
                        ..Default::default()
                    });
                } else {
                    markers.push(dto::DeleteMarkerEntry {
                        key,
                        version_id: id,
                        last_modified: modified,
                        is_latest: Some(latest),
                        ..Default::default()
                    });
                }
            }
            Ok(S3Response::new(dto::ListObjectVersionsOutput {
                versions: Some(versions),
                delete_markers: Some(markers),
                is_truncated: Some(false),
                ..Default::default()
            }))
        })
    }

    async fn put_object_retention(
        &self,
        req: S3Request<dto::PutObjectRetentionInput>,
    ) -> S3Result<S3Response<dto::PutObjectRetentionOutput>> {
        let input = req.input;
        self.may("s3:PutObjectRetention", &input.bucket, Some(&input.key), &[])?;
        let retention = input.retention.and_then(|r| Some((r.mode?.as_str().to_owned(), moment(r.retain_until_date?))));
        self.within(&input.bucket, |bucket| {
            let change = |lock: &mut Lock| lock.retention = retention;
            bucket.relock(&input.key, input.version_id.as_deref(), SystemTime::now(), change).map_err(refused)?;
            Ok(S3Response::new(dto::PutObjectRetentionOutput::default()))
        })
    }

    async fn put_object_legal_hold(
        &self,
        req: S3Request<dto::PutObjectLegalHoldInput>,
    ) -> S3Result<S3Response<dto::PutObjectLegalHoldOutput>> {
        let input = req.input;
        self.may("s3:PutObjectLegalHold", &input.bucket, Some(&input.key), &[])?;
        let on = input.legal_hold.and_then(|h| h.status).is_some_and(|s| s.as_str() == "ON");
        self.within(&input.bucket, |bucket| {
            let change = |lock: &mut Lock| lock.legal_hold = on;
            bucket.relock(&input.key, input.version_id.as_deref(), SystemTime::now(), change).map_err(refused)?;
            Ok(S3Response::new(dto::PutObjectLegalHoldOutput::default()))
        })
    }

    async fn head_bucket(&self, req: S3Request<dto::HeadBucketInput>) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.may("s3:ListBucket", &req.input.bucket, None, &[])?;
        self.within(&req.input.bucket, |_| Ok(S3Response::new(dto::HeadBucketOutput::default())))
    }

    async fn put_bucket_versioning(
        &self,
        req: S3Request<dto::PutBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::PutBucketVersioningOutput>> {
        self.may("s3:PutBucketVersioning", &req.input.bucket, None, &[])?;
        let on = req.input.versioning_configuration.status.is_some_and(|s| s.as_str() == "Enabled");
        self.within(&req.input.bucket, |bucket| {
            bucket.versioned = on;
            Ok(S3Response::new(dto::PutBucketVersioningOutput::default()))
        })
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<dto::GetBucketVersioningInput>,
    ) -> S3Result<S3Response<dto::GetBucketVersioningOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let status = match (bucket.versioned, bucket.settings.suspended) {
                (true, _) => Some(dto::BucketVersioningStatus::from_static(dto::BucketVersioningStatus::ENABLED)),
                (false, true) => Some(dto::BucketVersioningStatus::from_static(dto::BucketVersioningStatus::SUSPENDED)),
                (false, false) => None,
            };
            Ok(S3Response::new(dto::GetBucketVersioningOutput { status, ..Default::default() }))
        })
    }

    async fn get_object_lock_configuration(
        &self,
        req: S3Request<dto::GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetObjectLockConfigurationOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let told = bucket.settings.lock.clone().ok_or_else(|| s3_error!(ObjectLockConfigurationNotFoundError))?;
            Ok(S3Response::new(dto::GetObjectLockConfigurationOutput { object_lock_configuration: Some(told) }))
        })
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        req: S3Request<dto::GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLifecycleConfigurationOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let rules = Some(bucket.settings.rules.clone()).filter(|rules| !rules.is_empty());
            let rules = Some(rules.ok_or_else(|| s3_error!(NoSuchLifecycleConfiguration))?);
            Ok(S3Response::new(dto::GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
        })
    }

    async fn get_public_access_block(
        &self,
        req: S3Request<dto::GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<dto::GetPublicAccessBlockOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let absent = || s3s::S3Error::new(s3s::S3ErrorCode::Custom("NoSuchPublicAccessBlockConfiguration".into()));
            let absent = || {
                let mut e = absent();
                e.set_status_code(hyper::StatusCode::NOT_FOUND);
                e
            };
            let told = bucket.settings.block.clone().ok_or_else(absent)?;
            Ok(S3Response::new(dto::GetPublicAccessBlockOutput { public_access_block_configuration: Some(told) }))
        })
    }

    async fn get_bucket_policy(
        &self,
        req: S3Request<dto::GetBucketPolicyInput>,
    ) -> S3Result<S3Response<dto::GetBucketPolicyOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let policy = bucket.settings.policy.clone().ok_or_else(|| s3_error!(NoSuchBucketPolicy))?;
            Ok(S3Response::new(dto::GetBucketPolicyOutput { policy: Some(policy.to_string()) }))
        })
    }

    async fn get_bucket_policy_status(
        &self,
        req: S3Request<dto::GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<dto::GetBucketPolicyStatusOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let policy = bucket.settings.policy.as_ref().ok_or_else(|| s3_error!(NoSuchBucketPolicy))?;
            let open = |statement: &serde_json::Value| statement["Effect"] == "Allow" && statement["Principal"] == "*";
            let is_public = Some(policy["Statement"].as_array().is_some_and(|all| all.iter().any(open)));
            Ok(S3Response::new(dto::GetBucketPolicyStatusOutput { policy_status: Some(dto::PolicyStatus { is_public }) }))
        })
    }

    async fn get_bucket_encryption(
        &self,
        req: S3Request<dto::GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<dto::GetBucketEncryptionOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let told = bucket.settings.encryption.clone();
            let told = told.ok_or_else(|| s3_error!(ServerSideEncryptionConfigurationNotFoundError))?;
            Ok(S3Response::new(dto::GetBucketEncryptionOutput { server_side_encryption_configuration: Some(told) }))
        })
    }

    async fn get_bucket_ownership_controls(
        &self,
        req: S3Request<dto::GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<dto::GetBucketOwnershipControlsOutput>> {
        self.within(&req.input.bucket, |bucket| {
            let told = bucket.settings.ownership.clone().ok_or_else(|| s3_error!(OwnershipControlsNotFoundError))?;
            Ok(S3Response::new(dto::GetBucketOwnershipControlsOutput { ownership_controls: Some(told) }))
        })
    }
}

fn moment(at: dto::Timestamp) -> SystemTime {
    let mut text = Vec::new();
    at.format(dto::TimestampFormat::EpochSeconds, &mut text).unwrap();
    let seconds: f64 = String::from_utf8(text).unwrap().parse().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

/// In whole seconds: a HEAD cannot say more, and S3's listings do not.
fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
