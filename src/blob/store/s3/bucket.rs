//! The requests this driver makes of a bucket, with deadlines and repeats, and what their answers mean.
//!
//! Every call blocks. Slow-downs and lost answers are repeated by the SDK; what a repeat of something that had
//! succeeded answers is made sense of by the callers. When nobody answers, the next calls fail at once for a moment,
//! so that reads go on to a node that has the blob in its cache.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::BucketAddress;
use super::gate::Gate;
use crate::blob::store::{StoreError, StoreResult};

/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(2);
/// Deadline of one try, and of all tries, where a reader may wait: questions, deletes, and reads of a piece.
const QUICK: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(8));
/// The same where much is sent.
const BULK: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(90));
/// Tries of one request.
const TRIES: u32 = 5;
/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Threads that drive the connections.
const THREADS: usize = 2;

/// A bucket below one cluster's prefix.
pub(super) struct Bucket {
    quick: Client,
    bulk: Client,
    runtime: Own,
    name: String,
    gate: Gate,
}

/// The runtime of the requests, of its own: calls that are under way when the node stops outlive the node's, whose
/// timers panic then.
struct Own(Option<Runtime>);

impl Own {
    fn new() -> std::io::Result<Own> {
        Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map(Some)
            .map(Own)
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("it is taken by drop alone").block_on(future)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // the last owner may be an async task, which must not wait for threads
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a question about an object found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) size_bytes: u64,
    /// SHA-256 of the whole as the server tells it, base64; objects sent in parts have none.
    pub(super) sha256: Option<String>,
}

/// An object in a list.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) changed: Option<SystemTime>,
}

/// An upload in parts that was neither completed nor aborted.
pub(super) struct OpenUpload {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) begun: Option<SystemTime>,
}

/// Why a request did not do what it asked for.
#[derive(Debug)]
pub(super) struct Refused {
    what: &'static str,
    status: u16,
    code: String,
    detail: String,
    /// Nobody answered.
    is_outage: bool,
}

impl Refused {
    /// The object isn't there.
    pub(super) fn is_absent(&self) -> bool {
        self.status == 404
    }

    /// `If-None-Match: *` found an object.
    pub(super) fn is_there_already(&self) -> bool {
        self.status == 412 || self.code == "ConditionalRequestConflict"
    }
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> StoreError {
        let Refused { what, status, code, detail, .. } = refused;
        let text = if code.is_empty() { detail } else { format!("{status} {code}: {detail}") };
        unavailable(what, text)
    }
}

/// An answer; `None` where the thing asked about is not there.
fn unless_absent<T>(answer: Result<T, Refused>) -> StoreResult<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(refused) if refused.is_absent() => Ok(None),
        Err(refused) => Err(refused.into()),
    }
}

/// The bucket's answer is none that anything can be done with.
pub(super) fn unavailable(what: &str, detail: String) -> StoreError {
    StoreError::Unavailable { what: format!("bucket: {what}").into(), detail: detail.into() }
}

/// SHA-256 as the protocol writes it.
fn sha256_base64(bytes: &[u8]) -> String {
    BASE64.encode(&Sha256::digest(bytes))
}

fn judge<E>(what: &'static str, error: SdkError<E, HttpResponse>) -> Refused
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let is_outage = matches!(error, SdkError::TimeoutError(_) | SdkError::DispatchFailure(_));
    let code = error.code().unwrap_or_default().to_owned();
    Refused { what, status, code, detail: DisplayErrorContext(&error).to_string(), is_outage }
}

impl Bucket {
    pub(super) fn new(address: &BucketAddress) -> StoreResult<Bucket> {
        let runtime = Own::new().map_err(|error| StoreError::io("start the threads of the bucket", error))?;
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let secret = address.secret_key.expose().as_str();
        let credentials = Credentials::new(&address.access_key, secret, None, None, "configuration");
        let retry =
            RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(PAUSES.0).with_max_backoff(PAUSES.1);
        let client = |(attempt, whole): (Duration, Duration)| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(attempt)
                .operation_timeout(whole)
                .build();
            let mut config = aws_sdk_s3::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(address.region.clone()))
                .credentials_provider(credentials.clone())
                .http_client(http.clone())
                .force_path_style(address.path_style)
                .timeout_config(timeouts)
                .retry_config(retry.clone())
                // what is sent carries its SHA-256, and what comes is verified by us
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
            config.set_endpoint_url(address.endpoint.clone());
            Client::from_conf(config.build())
        };
        let name = address.bucket.clone();
        Ok(Bucket { quick: client(QUICK), bulk: client(BULK), runtime, name, gate: Gate::default() })
    }

    /// Waits for something that is no request.
    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.run(future)
    }

    /// Makes a request, and counts it.
    fn ask<T, E>(
        &self,
        what: &'static str,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Refused>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if !self.gate.is_open() {
            let detail = "the bucket did not answer a moment ago".to_owned();
            return Err(Refused { what, status: 0, code: String::new(), detail, is_outage: true });
        }
        let answer = self.runtime.run(request).map_err(|error| judge(what, error));
        let outcome = match &answer {
            Ok(_) => "done",
            Err(refused) if refused.is_outage => "no answer",
            Err(refused) if refused.status >= 500 => "failed",
            Err(_) => "refused",
        };
        metrics::counter!("portolan_bucket_requests_total", "request" => what, "outcome" => outcome).increment(1);
        self.gate.note(answer.as_ref().is_err_and(|refused| refused.is_outage));
        answer
    }

    /// Whether there is an object, and how large it is.
    pub(super) fn head(&self, key: &str) -> StoreResult<Option<Found>> {
        let request = self.quick.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let Some(found) = unless_absent(self.ask("head", request.send()))? else { return Ok(None) };
        let size_bytes = u64::try_from(found.content_length().unwrap_or_default()).unwrap_or_default();
        // a checksum of checksums ends in the number of parts
        let whole = found.checksum_sha256().filter(|sum| !sum.contains('-'));
        Ok(Some(Found { size_bytes, sha256: whole.map(str::to_owned) }))
    }

    /// The bytes `from .. from + len` of an object, exactly; `None` if there is no object.
    pub(super) fn read(&self, key: &str, from: u64, len: usize) -> StoreResult<Option<Bytes>> {
        if len == 0 {
            return Ok(self.head(key)?.map(|_| Bytes::new()));
        }
        let range = format!("bytes={from}-{}", from + len as u64 - 1);
        let bytes = self.get(key, Some(range), len)?;
        match bytes {
            Some(bytes) if bytes.len() != len => {
                let text = format!("{} bytes of {key} in place of {len} at {from}", bytes.len());
                Err(unavailable("read", text))
            }
            bytes => Ok(bytes),
        }
    }

    /// A whole small object; `None` if there is none.
    pub(super) fn read_all(&self, key: &str, most: usize) -> StoreResult<Option<Bytes>> {
        self.get(key, None, most)
    }

    fn get(&self, key: &str, range: Option<String>, most: usize) -> StoreResult<Option<Bytes>> {
        let request = self.quick.get_object().bucket(&self.name).key(key).set_range(range);
        let Some(answer) = unless_absent(self.ask("get", request.send()))? else { return Ok(None) };
        let told = answer.content_length().unwrap_or_default();
        if usize::try_from(told).map_or(true, |told| told > most) {
            let text = format!("{key} has {told} bytes, more than {most}");
            return Err(unavailable("read", text));
        }
        // The headers are here; the body has as long again.
        let body = self.runtime.run(async { tokio::time::timeout(QUICK.1, answer.body.collect()).await });
        let broken = |text: String| unavailable("read", text);
        match body {
            Ok(Ok(body)) => Ok(Some(body.into_bytes())),
            Ok(Err(error)) => Err(broken(format!("{key} broke off: {error}"))),
            Err(_) => Err(broken(format!("{key} did not come in time"))),
        }
    }

    /// Makes an object in one request. `is_new` refuses when there is one. Answers whether the server told its SHA-256.
    pub(super) fn put(&self, key: &str, bytes: Bytes, is_new: bool) -> Result<bool, Refused> {
        let (sum, len) = (sha256_base64(&bytes), i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        let request = self
            .bulk
            .put_object()
            .bucket(&self.name)
            .key(key)
            .checksum_sha256(&sum)
            .content_length(len)
            .set_if_none_match(is_new.then(|| "*".to_owned()))
            .body(ByteStream::from(bytes));
        Ok(self.ask("put", request.send())?.checksum_sha256() == Some(&sum))
    }

    /// Removes an object; also when there is none.
    pub(super) fn delete(&self, key: &str) -> StoreResult<()> {
        let request = self.quick.delete_object().bucket(&self.name).key(key);
        unless_absent(self.ask("delete", request.send())).map(|_| ())
    }

    // ---- in parts ------------------------------------------------------------------------------------------------

    /// Begins an upload in parts; answers its id.
    pub(super) fn begin_parts(&self, key: &str) -> Result<String, Refused> {
        let algorithm = ChecksumAlgorithm::Sha256;
        let request = self.quick.create_multipart_upload().bucket(&self.name).key(key).checksum_algorithm(algorithm);
        let begun = self.ask("begin_parts", request.send())?;
        Ok(begun.upload_id().unwrap_or_default().to_owned())
    }

    /// Sends part `number`, from 1 on; answers what completing names it by, and whether the server told its SHA-256.
    pub(super) fn send_part(
        &self,
        key: &str,
        id: &str,
        number: i32,
        bytes: Bytes,
    ) -> Result<(CompletedPart, bool), Refused> {
        let (sum, len) = (sha256_base64(&bytes), i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        let request = self
            .bulk
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(id)
            .part_number(number)
            .checksum_sha256(&sum)
            .content_length(len)
            .body(ByteStream::from(bytes));
        let sent = self.ask("put_part", request.send())?;
        let is_told = sent.checksum_sha256() == Some(&sum);
        let part = CompletedPart::builder().part_number(number).checksum_sha256(sum);
        Ok((part.set_e_tag(sent.e_tag().map(str::to_owned)).build(), is_told))
    }

    /// Makes the object of exactly these parts.
    pub(super) fn complete(&self, key: &str, id: &str, parts: Vec<CompletedPart>, is_new: bool) -> Result<(), Refused> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .bulk
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(id)
            .multipart_upload(parts)
            .set_if_none_match(is_new.then(|| "*".to_owned()));
        self.ask("complete_parts", request.send()).map(|_| ())
    }

    /// Gives an upload in parts up; also when there is none.
    pub(super) fn abort(&self, key: &str, id: &str) -> StoreResult<()> {
        let request = self.quick.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id);
        unless_absent(self.ask("abort_parts", request.send())).map(|_| ())
    }

    /// Uploads in parts below `prefix` that are open, as many as one answer names.
    pub(super) fn open_uploads(&self, prefix: &str) -> StoreResult<Vec<OpenUpload>> {
        let request = self.quick.list_multipart_uploads().bucket(&self.name).prefix(prefix);
        let answer = self.ask("list_parts", request.send())?;
        let open = |upload: &aws_sdk_s3::types::MultipartUpload| {
            let begun = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
            Some(OpenUpload { name: upload.key()?.to_owned(), id: upload.upload_id()?.to_owned(), begun })
        };
        Ok(answer.uploads().iter().filter_map(open).collect())
    }

    /// Objects below `prefix` behind `after`, in the order of their names, at most `limit`; whether there are more.
    pub(super) fn list(&self, prefix: &str, after: &str, limit: usize) -> StoreResult<(Vec<Listed>, bool)> {
        let most = i32::try_from(limit.clamp(1, 1000)).unwrap_or(1000);
        let after = (!after.is_empty()).then(|| after.to_owned());
        let request =
            self.quick.list_objects_v2().bucket(&self.name).prefix(prefix).set_start_after(after).max_keys(most);
        let answer = self.ask("list", request.send())?;
        let listed = |object: &aws_sdk_s3::types::Object| {
            let size_bytes = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
            let changed = object.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
            Some(Listed { name: object.key()?.to_owned(), size_bytes, changed })
        };
        Ok((answer.contents().iter().filter_map(listed).collect(), answer.is_truncated().unwrap_or_default()))
    }
}
