//! `/v2/<name>/blobs/<digest>`: look, pull whole or in part, delete.

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};
use registry_core::vocabulary::Digest;

use super::answer;
use super::conditions;
use super::error::Failure;
use super::exchange::{self, Exchange};
use super::nearest::{self, Followed};
use super::range::{self, Part};
use crate::auth::Action;
use crate::registry::{At, BlobContent};

/// The headers of an answer about a blob. Its bytes are never encoded on the way: lengths and digests would not hold
/// (B12).
fn head_answer(headers: &HeaderMap, digest: &Digest, size_bytes: u64) -> Response<Body> {
    let mut response = if conditions::is_known(headers, digest) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size_bytes));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        response
    };
    answer::mark_content(&mut response, digest);
    response
}

/// The answer to a range that is not there.
fn unsatisfiable(digest: &Digest, size_bytes: u64) -> Response<Body> {
    let mut response = answer::empty(StatusCode::RANGE_NOT_SATISFIABLE);
    response.headers_mut().insert(CONTENT_RANGE, answer::value(format_args!("bytes */{size_bytes}")));
    answer::mark_content(&mut response, digest);
    response
}

/// Whether the repository holds the blob, and its size.
pub(super) async fn head(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let (_, permit) = exchange.permit(exchange.freshness(true)?, Action::Pull, "blob.get", name).await?;
    let digest = exchange::digest(text)?;
    let found = exchange.registry().stat_blob(&permit, &digest).await?;
    let mut response = head_answer(&exchange.parts.headers, &digest, found.value.size_bytes);
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}

/// The blob, or the part of it that is asked for. When its source fails midway the connection is cut: a client never
/// takes a part for the whole (B6).
pub(super) async fn get(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let link = exchange.query().one(nearest::LINK)?;
    if let Some(link) = link.as_deref().filter(|link| *link != nearest::NONE) {
        let answered = follow(exchange, name, text, link).await;
        nearest::count(&answered);
        return answered;
    }
    let (caller, permit) = exchange.permit(exchange.freshness(true)?, Action::Pull, "blob.get", name).await?;
    let digest = exchange::digest(text)?;
    let found = exchange.registry().pull_blob(&permit, &digest).await?;
    // who was sent back is not sent on again
    if link.is_none()
        && !conditions::is_known(&exchange.parts.headers, &digest)
        && let Some(response) = nearest::redirect(exchange, &caller, &permit, &found.value).await
    {
        return Ok(response);
    }
    whole_or_part(exchange, found, &digest).await
}

/// The blob for who was sent here.
async fn follow(exchange: &Exchange<'_>, name: &str, text: &str, link: &str) -> Result<Response<Body>, Failure> {
    let (found, back) = match nearest::follow(exchange, name, text, link).await? {
        Followed::Here(found, back) => (found, back),
        Followed::Back(location) => return Ok(nearest::to(location)),
    };
    let digest = found.value.info.digest;
    match (whole_or_part(exchange, *found, &digest).await, back) {
        (Ok(mut response), _) => {
            // there is a right in its address
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
            Ok(response)
        }
        (Err(_), Some(location)) => Ok(nearest::to(location)),
        (Err(failure), None) => Err(failure),
    }
}

async fn whole_or_part(
    exchange: &Exchange<'_>,
    found: At<BlobContent>,
    digest: &Digest,
) -> Result<Response<Body>, Failure> {
    let (content, headers) = (found.value, &exchange.parts.headers);
    let size_bytes = content.info.size_bytes;
    let mut response = head_answer(headers, digest, size_bytes);
    if response.status() == StatusCode::OK {
        match range::part(headers, size_bytes, &conditions::etag(digest)) {
            Part::Whole => *response.body_mut() = Body::from_stream(content.stream(0..size_bytes).await?),
            Part::Unsatisfiable => response = unsatisfiable(digest, size_bytes),
            Part::Range(range) => {
                let described = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
                let headers = response.headers_mut();
                headers.insert(CONTENT_RANGE, answer::value(described));
                headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                *response.body_mut() = Body::from_stream(content.stream(range).await?);
            }
        }
    }
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}

/// Takes the blob from the repository; refused while a manifest of it names the blob.
pub(super) async fn delete(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let change = exchange.change(Action::Delete, "blob.delete", name, format!("@{text}")).await?;
    let digest = change.step(exchange::digest(text))?;
    let done = change.settle(exchange.registry().delete_blob(&change.permit, &digest).await)?;
    let mut response = answer::empty(StatusCode::ACCEPTED);
    answer::mark_revision(&mut response, done.revision);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    // clients §2: the true length on HEAD, ranges announced, nothing encoded; 416 says how long the blob is.
    #[test]
    fn answers_describe_the_blob() {
        let digest = Digest::sha256(b"x");
        let whole = head_answer(&HeaderMap::new(), &digest, 1 << 40);
        for (name, value) in [
            ("content-length", "1099511627776"),
            ("content-type", "application/octet-stream"),
            ("accept-ranges", "bytes"),
            ("docker-content-digest", &digest.to_string()),
        ] {
            assert_eq!(whole.headers()[name], value, "{name}");
        }
        assert!(!whole.headers().contains_key("content-encoding"));
        let beyond = unsatisfiable(&digest, 7);
        assert_eq!(
            (beyond.status().as_u16(), &beyond.headers()["content-range"]),
            (416, &HeaderValue::from_static("bytes */7"))
        );
        assert_eq!(beyond.headers()["content-length"], "0");
    }
}
