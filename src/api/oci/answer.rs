//! Responses: the headers this surface may send, and the few shapes its answers have.
//!
//! Every header of an answer is set here or by a constant of this file, so what leaves is a short list (A20): no name
//! of another repository, no key of a store, no word of a node.

use std::fmt::Display;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION};
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::{Digest, MediaType};

use super::conditions;

/// Says that this is the registry API; clients may refuse to go on without.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// Digest of the content that is answered with, pushed or named.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Revision of the cluster's log that an answer was read or committed at; a client may send it back to read its own
/// write.
pub(super) const REVISION: HeaderName = HeaderName::from_static("portolan-revision");
/// `stale-ok`: the client takes an answer that may be as old as a pull by digest.
pub(super) const CONSISTENCY: HeaderName = HeaderName::from_static("x-consistency");
/// The upload, for people and logs.
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Smallest chunk a client should send, but for the last.
pub(super) const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// A tag that was set by a push.
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// The subject that a pushed manifest was attached to: says that the referrers API knows it now.
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The filters that a list of referrers went through.
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A value made of names, digests, numbers or tokens, all of which are visible ASCII by their grammar.
pub(super) fn value(text: impl Display) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).expect("grammars here leave visible ASCII only")
}

/// A media type as a header; its grammar allows nothing that could break one (M19).
pub(super) fn media_type_value(media_type: &MediaType) -> HeaderValue {
    HeaderValue::from_str(media_type.as_str()).expect("a media type is visible ASCII")
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// An answer with a document.
pub(super) fn document(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An answer with a JSON document.
pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    document(status, HeaderValue::from_static("application/json"), body)
}

/// What is known of content: its digest, and the entity tag made of it.
pub(super) fn mark_content(response: &mut Response<Body>, digest: &Digest) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_DIGEST, value(digest));
    headers.insert(ETAG, value(conditions::etag(digest)));
}

/// The digest of what was pushed, and where it is.
pub(super) fn mark_created(response: &mut Response<Body>, digest: &Digest, location: String) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_DIGEST, value(digest));
    headers.insert(LOCATION, value(location));
}

/// The revision of an answer.
pub(super) fn mark_revision(response: &mut Response<Body>, revision: Revision) {
    response.headers_mut().insert(REVISION, value(revision));
}

/// The version of the API: on every answer.
pub(super) fn mark_api_version(response: &mut Response<Body>) {
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
}
