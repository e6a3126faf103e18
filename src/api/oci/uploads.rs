//! `/v2/<name>/blobs/uploads/`: every way to push a blob, and mounting one from elsewhere.
//!
//! The last element of an upload's path is an opaque token of the registry, renewed by every answer. Locations are
//! relative: they hold behind any proxy, under any name (H8).

use axum::body::Body;
use axum::http::header::{LOCATION, RANGE};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use registry_core::decide::permit::Permit;
use registry_core::decide::policy::scope::{ScopeAction, ScopeResource};
use registry_core::vocabulary::limits::UPLOAD_CHUNK_BYTES_MIN;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::answer::{self, CHUNK_MIN_LENGTH, UPLOAD_UUID};
use super::error::Failure;
use super::exchange::{Change, Exchange};
use super::range::{self, Chunk};
use crate::auth::{Action, Challenge, ChallengeError, Freshness, Refused};
use crate::registry::{At, BlobInfo, ByteStream, MountSource, UploadProgress};

/// `POST`: mounts a blob, takes a whole one, or begins an upload.
pub(super) async fn begin(exchange: &Exchange<'_>, name: &str, body: Body) -> Result<Response<Body>, Failure> {
    let query = exchange.query();
    let (wanted, whole) = (query.digest("mount"), query.digest("digest"));
    let named = wanted.as_ref().ok().or(whole.as_ref().ok()).copied().flatten();
    let resource = named.map(|digest| format!("@{digest}")).unwrap_or_default();
    let act = match (&wanted, &whole) {
        (Ok(Some(_)), _) => "blob.mount",
        (_, Ok(None)) => "upload.begin",
        (_, Ok(Some(_)) | Err(_)) => "blob.push",
    };
    let change = exchange.change(Action::Push, act, name, resource).await?;
    change.step(exchange.registry().may_write(&change.permit))?;
    if let Some(done) = change.step(at_once(exchange, &change, wanted, whole, body).await)? {
        change.accepted(done.revision);
        return Ok(created(&change.permit, &done));
    }
    let change = change.renamed("upload.begin");
    let upload = change.step(exchange.registry().begin_upload(&change.permit).await)?;
    change.accepted(change.caller.revision());
    let mut response = under_way(StatusCode::ACCEPTED, &change.permit, &upload);
    response.headers_mut().insert(CHUNK_MIN_LENGTH, answer::value(UPLOAD_CHUNK_BYTES_MIN));
    Ok(response)
}

/// Mounts the blob that is wanted, or takes the whole one that is sent. `None` if neither is asked for, or the mount
/// can't be.
async fn at_once(
    exchange: &Exchange<'_>,
    change: &Change<'_>,
    wanted: Result<Option<Digest>, Refusal>,
    whole: Result<Option<Digest>, Refusal>,
    body: Body,
) -> Result<Option<At<BlobInfo>>, Failure> {
    if let Some(wanted) = wanted?
        && let Some(mounted) = mount(exchange, change, &wanted).await?
    {
        return Ok(Some(mounted));
    }
    let Some(digest) = whole? else { return Ok(None) };
    Ok(Some(exchange.registry().push_blob(&change.permit, &digest, bytes_of(body, None)).await?))
}

/// Mounts a blob from `?from=`, or from wherever the caller may pull. `None` when it may not or there is none: the
/// client uploads it then, and cannot tell one from the other (A1), whoever it is. Only a token that reaches less far
/// than its owner is asked for more.
async fn mount(exchange: &Exchange<'_>, change: &Change<'_>, digest: &Digest) -> Result<Option<At<BlobInfo>>, Failure> {
    let (auth, registry) = (exchange.auth(), exchange.registry());
    let (caller, permit) = (&change.caller, &change.permit);
    let may_pull = |name: &RepositoryName| auth.permit(caller, Action::Pull, permit.registry, name);
    // An unreadable name is one that nobody may pull from.
    let named = exchange.query().one("from").unwrap_or_default();
    if let Some(named) = named {
        let Ok(name) = RepositoryName::parse(&named) else { return Ok(None) };
        return match may_pull(&name) {
            Ok(source) => Ok(registry.mount_blob(permit, digest, MountSource::Repository(&source)).await?),
            Err(Refused::Unauthenticated(challenge)) if challenge.error.is_some() => Err(wider(challenge, permit)),
            Err(_) => Ok(None),
        };
    }
    let out_of_scope = parking_lot::Mutex::new(None);
    let visible = |name: &RepositoryName| match may_pull(name) {
        Ok(_) => true,
        Err(Refused::Unauthenticated(challenge)) if challenge.error.is_some() => {
            out_of_scope.lock().get_or_insert(challenge);
            false
        }
        Err(_) => false,
    };
    let mounted = registry.mount_blob(permit, digest, MountSource::Anywhere(&visible)).await?;
    match (mounted, out_of_scope.into_inner()) {
        (None, Some(challenge)) => Err(wider(challenge, permit)),
        (mounted, _) => Ok(mounted),
    }
}

/// The challenge for a mount asks for both ends of it.
fn wider(mut challenge: Challenge, target: &Permit) -> Failure {
    let resource = ScopeResource::Repository(target.repository.clone());
    challenge.scopes.insert(resource.clone(), ScopeAction::Pull);
    challenge.scopes.insert(resource, ScopeAction::Push);
    challenge.error.get_or_insert(ChallengeError::InsufficientScope);
    Failure::Unauthenticated(challenge)
}

/// `PATCH`: appends a chunk, or a stream of any length.
pub(super) async fn append(
    exchange: &Exchange<'_>,
    name: &str,
    token: &str,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let change = exchange.change(Action::Push, "upload.append", name, String::new()).await?;
    let chunk = change.step(range::chunk(&exchange.parts.headers))?;
    let (offset, stream) = (chunk.map(|chunk| chunk.offset), bytes_of(body, chunk));
    match exchange.registry().append_upload(&change.permit, token, offset, stream).await {
        Err(Refusal::RangeInvalid { offset }) => Ok(out_of_order(exchange, &change, token, offset).await),
        appended => {
            let upload = change.step(appended)?;
            change.accepted(change.caller.revision());
            Ok(under_way(StatusCode::ACCEPTED, &change.permit, &upload))
        }
    }
}

/// `PUT`: takes the last bytes, or all of them, or none, and makes the upload a blob.
pub(super) async fn finish(
    exchange: &Exchange<'_>,
    name: &str,
    token: &str,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let digest = exchange.query().digest("digest");
    let resource = digest.as_ref().ok().copied().flatten().map(|digest| format!("@{digest}")).unwrap_or_default();
    let change = exchange.change(Action::Push, "blob.push", name, resource).await?;
    let missing = || Refusal::DigestInvalid { detail: "'digest' is missing".to_owned() };
    let digest = change.step(digest.and_then(|digest| digest.ok_or_else(missing)))?;
    let chunk = change.step(range::chunk(&exchange.parts.headers))?;
    let (offset, stream) = (chunk.map(|chunk| chunk.offset), bytes_of(body, chunk));
    match exchange.registry().finish_upload(&change.permit, token, &digest, offset, stream).await {
        Err(Refusal::RangeInvalid { offset }) => Ok(out_of_order(exchange, &change, token, offset).await),
        done => Ok(created(&change.permit, &change.settle(done)?)),
    }
}

/// `GET`: how far the upload is.
pub(super) async fn progress(exchange: &Exchange<'_>, name: &str, token: &str) -> Result<Response<Body>, Failure> {
    let (_, permit) = exchange.permit(Freshness::Linearizable, Action::Push, "upload.get", name).await?;
    let upload = exchange.registry().upload_progress(&permit, token).await?;
    Ok(under_way(StatusCode::NO_CONTENT, &permit, &upload))
}

/// `DELETE`: ends the upload and frees its bytes.
pub(super) async fn cancel(exchange: &Exchange<'_>, name: &str, token: &str) -> Result<Response<Body>, Failure> {
    let change = exchange.change(Action::Push, "upload.cancel", name, String::new()).await?;
    let cancelled = exchange.registry().cancel_upload(&change.permit, token).await;
    change.step(cancelled)?;
    change.accepted(change.caller.revision());
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

/// A blob is there.
fn created(permit: &Permit, done: &At<BlobInfo>) -> Response<Body> {
    let (mut response, digest) = (answer::empty(StatusCode::CREATED), done.value.digest);
    answer::mark_created(&mut response, &digest, format!("/v2/{}/blobs/{digest}", permit.repository));
    answer::mark_revision(&mut response, done.revision);
    response
}

/// An upload goes on at the location of this answer.
fn under_way(status: StatusCode, permit: &Permit, upload: &UploadProgress) -> Response<Body> {
    let mut response = answer::empty(status);
    mark_upload(&mut response, permit, &upload.token, upload.offset_bytes);
    response.headers_mut().insert(UPLOAD_UUID, answer::value(upload.id));
    response
}

/// A chunk that does not belong where the upload ends: says where that is, and changes nothing (B2).
async fn out_of_order(exchange: &Exchange<'_>, change: &Change<'_>, token: &str, offset: u64) -> Response<Body> {
    let permit = &change.permit;
    let refusal = Refusal::RangeInvalid { offset };
    change.refused(&refusal);
    let mut response = Failure::Refusal(refusal).into_response(exchange.auth(), exchange.info);
    match exchange.registry().upload_progress(permit, token).await {
        Ok(upload) => {
            mark_upload(&mut response, permit, &upload.token, upload.offset_bytes);
            response.headers_mut().insert(UPLOAD_UUID, answer::value(upload.id));
        }
        Err(_) => mark_upload(&mut response, permit, token, offset),
    }
    response
}

fn mark_upload(response: &mut Response<Body>, permit: &Permit, token: &str, offset_bytes: u64) {
    let location = format!("/v2/{}/blobs/uploads/{token}", permit.repository);
    let headers = response.headers_mut();
    // The token may be the client's own: one that is no header value is none of ours.
    if let Ok(location) = location.try_into() {
        headers.insert(LOCATION, location);
    }
    headers.insert(RANGE, answer::value(received(offset_bytes)));
}

/// The bytes received, inclusive as clients expect it; nothing at all is `0-0`, as distribution has it.
fn received(offset_bytes: u64) -> String {
    format!("0-{}", offset_bytes.saturating_sub(1))
}

/// The bytes of a request. A chunk that announced its length has exactly that many, or its stream fails.
fn bytes_of(body: Body, chunk: Option<Chunk>) -> ByteStream {
    let bytes = body.into_data_stream().map_err(into_io);
    match chunk {
        None => Box::pin(bytes),
        Some(chunk) => Box::pin(exactly(bytes, chunk.length)),
    }
}

fn into_io(error: axum::Error) -> std::io::Error {
    match error.into_inner().downcast::<std::io::Error>() {
        Ok(error) => *error,
        Err(error) => std::io::Error::other(error),
    }
}

fn exactly(
    bytes: impl Stream<Item = Result<Bytes, std::io::Error>> + Send,
    length: u64,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let wrong = |what: &str| {
        let text = format!("the chunk has {what} bytes than its Content-Range says");
        Some(Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text)))
    };
    // `None` behind the last item tells the end of the body.
    let bytes = bytes.map(Some).chain(stream::iter([None]));
    bytes.scan((length, false), move |(left, is_over), item| {
        let next = match item {
            _ if *is_over => None,
            None if *left > 0 => wrong("fewer"),
            None => None,
            Some(Ok(part)) if part.len() as u64 > *left => wrong("more"),
            Some(Ok(part)) => {
                *left -= part.len() as u64;
                Some(Ok(part))
            }
            Some(Err(error)) => Some(Err(error)),
        };
        *is_over = matches!(next, None | Some(Err(_)));
        std::future::ready(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // clients §3: without `bytes=`, inclusive, and `0-0` for nothing.
    #[test]
    fn received_table() {
        for (offset, text) in [(0, "0-0"), (1, "0-0"), (2, "0-1"), (1 << 40, "0-1099511627775")] {
            assert_eq!(received(offset), text);
        }
    }

    // B2: a chunk of another length than it announced fails as a stream, so nothing of it is acknowledged.
    #[tokio::test]
    async fn exactly_table() {
        for (parts, length, is_good) in [
            (&[&b"abc"[..], b"de"][..], 5, true),
            (&[b"abcde"], 5, true),
            (&[b"", b"abcde", b""], 5, true),
            (&[b"abc"], 5, false),
            (&[], 5, false),
            (&[b"abc", b"def"], 5, false),
            (&[b"abcdef"], 5, false),
        ] {
            let body = parts.iter().map(|part| Ok(Bytes::copy_from_slice(part)));
            let read: Result<Vec<Bytes>, _> = exactly(stream::iter(body), length).try_collect().await;
            assert_eq!(read.is_ok(), is_good, "{parts:?}");
            if is_good {
                assert_eq!(read.unwrap().concat(), parts.concat());
            }
        }
        let broken =
            [Ok(Bytes::from_static(b"ab")), Err(std::io::Error::other("gone")), Ok(Bytes::from_static(b"cde"))];
        let read: Vec<_> = exactly(stream::iter(broken), 5).collect().await;
        assert_eq!(read.len(), 2, "nothing is read behind an error");
    }
}
