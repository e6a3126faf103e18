//! `GET /v2/<name>/referrers/<digest>`: what is attached to a manifest, as an image index.

use axum::body::Body;
use axum::http::header::{HeaderValue, LINK};
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::limits::{REFERRERS_PAGE_BYTES_MAX, REFERRERS_PAGE_ENTRIES_MAX};
use registry_core::vocabulary::{Digest, MediaType, Refusal};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::answer::{self, FILTERS_APPLIED};
use super::error::Failure;
use super::exchange::{self, Exchange};
use super::page::Paging;
use crate::auth::Action;
use crate::registry::{At, ReferrerInfo, Referrers};

/// The only filter the specification knows.
const ARTIFACT_TYPE: &str = "artifactType";

/// A page of referrers. A subject that nobody knows, or a repository that is not there, has none: a client that
/// supports the API never sees 404 here (specification, "Listing Referrers").
pub(super) async fn list(exchange: &Exchange<'_>, name: &str, digest: &str) -> Result<Response<Body>, Failure> {
    let permit = match exchange.permit(exchange.freshness(false)?, Action::Pull, "referrer.list", name).await {
        Ok((_, permit)) => Some(permit),
        Err(Failure::Refusal(Refusal::RepositoryUnknown { .. })) => None,
        Err(failure) => return Err(failure),
    };
    let subject = exchange::digest(digest)?;
    let query = exchange.query();
    let filter = query.one(ARTIFACT_TYPE)?;
    let paging = Paging::read(query, REFERRERS_PAGE_ENTRIES_MAX, |last| Digest::parse(last).is_ok())?;
    let after = paging.after.as_deref().and_then(|after| Digest::parse(after).ok());
    let found = match permit {
        None => None,
        Some(permit) => {
            let (registry, filter) = (exchange.registry(), filter.as_deref());
            match registry.referrers(&permit, &subject, filter, after.as_ref(), paging.limit).await {
                Ok(found) => Some(found),
                Err(Refusal::RepositoryUnknown { .. }) => None,
                Err(refusal) => return Err(refusal.into()),
            }
        }
    };
    Ok(render(name, &subject, &paging, filter.as_deref(), found))
}

fn render(
    name: &str,
    subject: &Digest,
    paging: &Paging,
    filter: Option<&str>,
    found: Option<At<Referrers>>,
) -> Response<Body> {
    let (page, revision) = match found {
        Some(found) => (found.value, Some(found.revision)),
        None => (Referrers { items: Vec::new(), next: None }, None),
    };
    let (index, shown) = index(&page.items);
    let content_type = answer::media_type_value(&MediaType::OCI_INDEX);
    let mut response = answer::document(StatusCode::OK, content_type, index);
    if filter.is_some() {
        response.headers_mut().insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    // what had no room on the page begins the next one
    let cut = page.items.get(shown).and(page.items[..shown].last()).map(|last| last.info.digest);
    if let Some(last) = cut.or(page.next) {
        let path = format!("/v2/{name}/referrers/{subject}");
        let filter = filter.map(|value| (ARTIFACT_TYPE, value));
        response.headers_mut().insert(LINK, paging.next(&path, &last.to_string(), filter));
    }
    if let Some(revision) = revision {
        answer::mark_revision(&mut response, revision);
    }
    response
}

/// A descriptor of the list (image specification, "OCI Content Descriptors").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_map")]
    annotations: &'a [(String, String)],
}

fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// The index, and how many of the referrers it has room for: at least one, then as many as a manifest may have bytes.
fn index(referrers: &[ReferrerInfo]) -> (Vec<u8>, usize) {
    const TAIL: &[u8] = b"]}";
    let mut body =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#.to_vec();
    let mut shown = 0;
    for referrer in referrers {
        let descriptor = Descriptor {
            media_type: referrer.info.media_type.as_str(),
            digest: referrer.info.digest.to_string(),
            size: referrer.info.size_bytes,
            artifact_type: referrer.artifact_type.as_deref(),
            annotations: &referrer.annotations,
        };
        let before = body.len();
        if shown > 0 {
            body.push(b',');
        }
        serde_json::to_writer(&mut body, &descriptor).expect("strings and numbers serialise into memory");
        if shown > 0 && body.len() + TAIL.len() > REFERRERS_PAGE_BYTES_MAX {
            body.truncate(before);
            break;
        }
        shown += 1;
    }
    body.extend_from_slice(TAIL);
    (body, shown)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::ManifestInfo;

    fn referrer(seed: u8, artifact_type: Option<&str>, annotations: &[(&str, &str)]) -> ReferrerInfo {
        ReferrerInfo {
            info: ManifestInfo { digest: Digest::sha256(&[seed]), media_type: MediaType::OCI_MANIFEST, size_bytes: 7 },
            artifact_type: artifact_type.map(str::to_owned),
            annotations: annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    // clients §7: an index with artifact type and annotations of each referrer; an empty one is whole as well.
    #[test]
    fn index_is_rendered() {
        let parse = |body: Vec<u8>| serde_json::from_slice::<Value>(&body).unwrap();
        let (empty, shown) = index(&[]);
        assert_eq!(shown, 0);
        assert_eq!(
            parse(empty),
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []})
        );
        let (body, shown) = index(&[referrer(1, Some("a/b"), &[("k", "v\"\n<")]), referrer(2, None, &[])]);
        assert_eq!(shown, 2);
        assert_eq!(
            parse(body)["manifests"],
            json!([
                {"mediaType": MediaType::OCI_MANIFEST.as_str(), "digest": Digest::sha256(&[1]).to_string(), "size": 7,
                 "artifactType": "a/b", "annotations": {"k": "v\"\n<"}},
                {"mediaType": MediaType::OCI_MANIFEST.as_str(), "digest": Digest::sha256(&[2]).to_string(), "size": 7},
            ])
        );
    }

    // M12: a page has no more bytes than clients read, but always one entry, so that paging ends.
    #[test]
    fn pages_are_bounded_in_bytes() {
        let large = "x".repeat(REFERRERS_PAGE_BYTES_MAX / 2);
        let three: Vec<_> = (0..3).map(|seed| referrer(seed, None, &[("k", &large)])).collect();
        let (body, shown) = index(&three);
        assert_eq!(shown, 1);
        assert!(body.len() <= REFERRERS_PAGE_BYTES_MAX);
        let huge = "x".repeat(REFERRERS_PAGE_BYTES_MAX);
        assert_eq!(index(&[referrer(1, None, &[("k", &huge)]), referrer(2, None, &[])]).1, 1);
    }
}
