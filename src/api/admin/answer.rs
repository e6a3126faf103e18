//! Answers: JSON documents, times as RFC 3339, the revision in a header.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::Timestamp;
use registry_core::vocabulary::ids::Revision;
use serde::Serialize;

/// Revision of the cluster's log that an answer was read or committed at.
const REVISION: HeaderName = HeaderName::from_static("portolan-revision");

/// An answer with a JSON document.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(document).expect("documents of ours have text keys and finite numbers");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a change without anything to show.
pub(super) fn changed(revision: Revision) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    at(response, revision)
}

/// The answer, and the revision it belongs to.
pub(super) fn at(mut response: Response<Body>, revision: Revision) -> Response<Body> {
    let value = HeaderValue::try_from(revision.to_string()).expect("digits and a dot");
    response.headers_mut().insert(REVISION, value);
    response
}

/// Milliseconds since 1970 as people read them.
pub(super) fn time(ms: u64) -> String {
    Timestamp::from_ms(ms).to_string()
}
