//! `/v2/<name>/manifests/<reference>`: pull, look, push and delete.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::limits::{MANIFEST_BYTES_MAX, TAGS_PER_PUSH_MAX};
use registry_core::vocabulary::reference::ReferenceError;
use registry_core::vocabulary::{MediaType, Reference, Refusal, Tag};

use super::answer::{self, OCI_SUBJECT, OCI_TAG};
use super::error::Failure;
use super::exchange::Exchange;
use super::query::Query;
use super::{conditions, range};
use crate::auth::Action;
use crate::registry::{Consistency, ManifestInfo, PutManifest};

/// What a read needs to know before it asks the registry.
async fn reader(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<(Permit, Reference, Consistency), Failure> {
    let freshness = exchange.freshness(text.contains(':'))?;
    let (caller, permit) = exchange.permit(freshness, Action::Pull, "manifest.get", name).await?;
    Ok((permit, reference(text)?, exchange.consistency(&caller)?))
}

/// Reads a reference. A digest that is none and a tag that is none have their own codes.
fn reference(text: &str) -> Result<Reference, Refusal> {
    Reference::parse(text).map_err(|error| match error {
        ReferenceError::Digest(error) => Refusal::DigestInvalid { detail: error.to_string() },
        ReferenceError::Tag(error) => Refusal::TagInvalid { detail: error.to_string() },
    })
}

/// A reference as it stands behind a name, for the audit.
fn separated(text: &str) -> String {
    format!("{}{text}", if text.contains(':') { '@' } else { ':' })
}

/// The manifest as it was pushed, with the type it was pushed with. `Accept` does not change it: a manifest is never
/// converted, and one whose type the client did not list is served as well, as ECR does (M4; clients §2).
pub(super) async fn get(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let (permit, reference, consistency) = reader(exchange, name, text).await?;
    let found = exchange.registry().pull_manifest(&permit, &reference, consistency).await?;
    let manifest = found.value;
    let mut response = if conditions::is_known(&exchange.parts.headers, &manifest.info.digest) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        answer::document(StatusCode::OK, answer::media_type_value(&manifest.info.media_type), manifest.bytes)
    };
    answer::mark_content(&mut response, &manifest.info.digest);
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}

/// What [`get`] would answer, without the bytes.
pub(super) async fn head(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let (permit, reference, consistency) = reader(exchange, name, text).await?;
    let found = exchange.registry().look_at_manifest(&permit, &reference, consistency).await?;
    let mut response = head_answer(&exchange.parts.headers, &found.value);
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}

fn head_answer(headers: &HeaderMap, info: &ManifestInfo) -> Response<Body> {
    let mut response = if conditions::is_known(headers, &info.digest) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = answer::document(StatusCode::OK, answer::media_type_value(&info.media_type), Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(info.size_bytes));
        response
    };
    answer::mark_content(&mut response, &info.digest);
    response
}

/// Stores a manifest, sets its tags: the one of the path and those of `?tag=`. All of it or nothing.
pub(super) async fn put(
    exchange: &Exchange<'_>,
    name: &str,
    text: &str,
    body: Body,
) -> Result<Response<Body>, Failure> {
    let change = exchange.change(Action::Push, "manifest.put", name, separated(text)).await?;
    let put = change.step(wish(exchange, text, body).await)?;
    let named = put.tags.clone();
    let done = change.settle(exchange.registry().put_manifest(&change.permit, put).await)?;
    let mut response = answer::empty(StatusCode::CREATED);
    let digest = done.value.digest;
    answer::mark_created(&mut response, &digest, format!("/v2/{}/manifests/{digest}", change.permit.repository));
    for tag in named {
        response.headers_mut().append(OCI_TAG, answer::value(tag));
    }
    if let Some(subject) = done.value.subject {
        response.headers_mut().insert(OCI_SUBJECT, answer::value(subject));
    }
    answer::mark_revision(&mut response, done.revision);
    Ok(response)
}

/// What a push wants: read and bounded, not judged.
async fn wish(exchange: &Exchange<'_>, text: &str, body: Body) -> Result<PutManifest, Refusal> {
    let headers = &exchange.parts.headers;
    let reference = reference(text)?;
    let tags = tags(exchange.query())?;
    let expected = conditions::expected(headers, &reference)?;
    let content_type = content_type(headers)?;
    let body = read(headers, body).await?;
    Ok(PutManifest { reference, content_type, body, tags, expected })
}

/// Further tags of a push, bounded in number.
fn tags(query: Query<'_>) -> Result<Vec<Tag>, Refusal> {
    let mut tags = Vec::new();
    for text in query.all("tag") {
        let tag = Tag::parse(&text?).map_err(|error| Refusal::TagInvalid { detail: error.to_string() })?;
        if tags.len() == TAGS_PER_PUSH_MAX {
            let allowed = TAGS_PER_PUSH_MAX as u64;
            return Err(Refusal::LimitReached { limit: "tags of one push".to_owned(), allowed });
        }
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

/// The type the client says the manifest has; the registry compares it with the manifest's own word (M2).
fn content_type(headers: &HeaderMap) -> Result<Option<MediaType>, Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let parsed = value.to_str().ok().map(MediaType::parse_header);
    match parsed {
        Some(Ok(media_type)) => Ok(Some(media_type)),
        Some(Err(error)) => Err(Refusal::ManifestInvalid { detail: format!("Content-Type: {error}") }),
        None => Err(Refusal::ManifestInvalid { detail: "Content-Type is no text".to_owned() }),
    }
}

/// The whole body, of which no byte behind the limit is read (M6).
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::ManifestTooLarge { allowed: MANIFEST_BYTES_MAX as u64 };
    if range::content_length(headers).is_some_and(|length| length > MANIFEST_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(body, MANIFEST_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Refusal::ManifestInvalid { detail: format!("the body broke off: {error}") }),
    }
}

/// Drops a tag, under `If-Match` only while it names that, and keeps what it named; or deletes a manifest with all
/// its tags.
pub(super) async fn delete(exchange: &Exchange<'_>, name: &str, text: &str) -> Result<Response<Body>, Failure> {
    let change = exchange.change(Action::Delete, "manifest.delete", name, separated(text)).await?;
    let reference = change.step(reference(text))?;
    let expected = change.step(conditions::expected_of_delete(&exchange.parts.headers, &reference))?;
    let done = change.settle(exchange.registry().delete_manifest(&change.permit, &reference, expected).await)?;
    let mut response = answer::empty(StatusCode::ACCEPTED);
    answer::mark_revision(&mut response, done.revision);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::Digest;

    use super::*;

    // M8, M15, M16: digest and tag are told apart by their form, and each nonsense has its own code.
    #[test]
    fn reference_table() {
        let digest = Digest::sha256(b"x");
        assert_eq!(reference(&digest.to_string()), Ok(Reference::Digest(digest)));
        assert_eq!(reference("v1"), Ok(Reference::Tag(Tag::parse("v1").unwrap())));
        for bad in ["sha256:baddigeststring", "md5:00", "a:b", ":"] {
            assert!(matches!(reference(bad), Err(Refusal::DigestInvalid { .. })), "{bad}");
        }
        for bad in ["", ".a", "-a", "a b", "a\n", &"a".repeat(129)] {
            assert!(matches!(reference(bad), Err(Refusal::TagInvalid { .. })), "{bad}");
        }
    }

    // Tags of a push are parsed, counted and taken once.
    #[test]
    fn tags_table() {
        let read = |query: &str| tags(Query::new(Some(query))).map(|tags| tags.len());
        assert_eq!(read(""), Ok(0));
        assert_eq!(read("tag=a&tag=b&ns=c"), Ok(2));
        assert_eq!(read("tag=a&tag=a"), Ok(1));
        assert!(matches!(read("tag="), Err(Refusal::TagInvalid { .. })));
        assert!(matches!(read("tag=a%2Fb"), Err(Refusal::TagInvalid { .. })));
        let many: Vec<String> = (0..=TAGS_PER_PUSH_MAX).map(|number| format!("tag=t{number}")).collect();
        assert_eq!(read(&many[1..].join("&")), Ok(TAGS_PER_PUSH_MAX));
        assert!(matches!(read(&many.join("&")), Err(Refusal::LimitReached { .. })));
    }

    // M6: exactly the limit is read, one byte more is refused, announced or not.
    #[tokio::test]
    async fn body_is_bounded() {
        let body = |size: usize| Body::from(vec![b' '; size]);
        assert_eq!(read(&HeaderMap::new(), body(MANIFEST_BYTES_MAX)).await.unwrap().len(), MANIFEST_BYTES_MAX);
        let too_large = Err(Refusal::ManifestTooLarge { allowed: MANIFEST_BYTES_MAX as u64 });
        assert_eq!(read(&HeaderMap::new(), body(MANIFEST_BYTES_MAX + 1)).await, too_large);
        let mut announced = HeaderMap::new();
        announced.insert(CONTENT_LENGTH, HeaderValue::from(MANIFEST_BYTES_MAX + 1));
        let unread = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&announced, unread).await, too_large, "refused before a byte is read");
    }

    // clients §2: HEAD says the true length, type and digest, and a client that knows the content is told so.
    #[test]
    fn head_answers() {
        let digest = Digest::sha256(b"x");
        let info = ManifestInfo { digest, media_type: MediaType::OCI_INDEX, size_bytes: 1234 };
        let response = head_answer(&HeaderMap::new(), &info);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-length"), "1234");
        assert_eq!(header("content-type"), MediaType::OCI_INDEX.as_str());
        assert_eq!(header("docker-content-digest"), digest.to_string());
        assert_eq!(header("etag"), format!("\"{digest}\""));
        let mut known = HeaderMap::new();
        known.insert("if-none-match", response.headers()["etag"].clone());
        assert_eq!(head_answer(&known, &info).status(), StatusCode::NOT_MODIFIED);
    }

    // M19: a type that could break a header does not come in.
    #[test]
    fn content_type_table() {
        let read = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
            content_type(&headers)
        };
        assert_eq!(content_type(&HeaderMap::new()), Ok(None));
        let index = MediaType::OCI_INDEX;
        assert_eq!(read(format!("{index}; charset=utf-8").as_bytes()), Ok(Some(index)));
        for bad in [&b""[..], b"a", b"a/b c", b"a/\xff", &[b'a'; 10_000]] {
            assert!(matches!(read(bad), Err(Refusal::ManifestInvalid { .. })), "{bad:?}");
        }
    }
}
