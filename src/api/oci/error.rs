//! How a no is told: status, code, message and detail for every refusal there is.
//!
//! Codes are those of the OCI distribution specification 1.1, "Error Codes"; where it has none, those that distribution
//! and ECR use and clients know (`TAG_INVALID`, `RANGE_INVALID`, `PAGINATION_NUMBER_INVALID`, `UNAVAILABLE`).

use axum::body::Body;
use axum::http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::{Digest, Refusal};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer;
use crate::auth::{Auth, Challenge, ChallengeError, Refused};
use crate::http::RequestInfo;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// 401: who asks must say, or say again with more.
    Unauthenticated(Challenge),
    /// 401 of the token service: who asks must show an access key.
    KeyWanted(Challenge),
    /// An expected no.
    Refusal(Refusal),
    /// No endpoint has this path.
    NoSuchEndpoint,
    /// The endpoint does not know the method.
    MethodNotAllowed {
        /// Those it knows.
        allow: &'static str,
    },
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        if refusal == Refusal::Unauthenticated {
            Failure::Unauthenticated(Challenge::default())
        } else {
            Failure::Refusal(refusal)
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::Unauthenticated(challenge) => Failure::Unauthenticated(challenge),
            Refused::Refusal(refusal) => refusal.into(),
        }
    }
}

/// One entry of an error body.
#[derive(Serialize)]
struct Entry {
    code: &'static str,
    message: String,
    detail: Value,
}

#[derive(Serialize)]
struct Document {
    errors: Vec<Entry>,
}

impl Failure {
    /// The answer.
    pub(super) fn into_response(self, auth: &Auth, info: &RequestInfo) -> Response<Body> {
        match self {
            Failure::Refusal(refusal) => of_refusal(&refusal),
            Failure::Unauthenticated(challenge) => {
                unauthenticated(&challenge, auth.challenge(&challenge, &info.origin()))
            }
            Failure::KeyWanted(challenge) => unauthenticated(&challenge, auth.challenge_for_key(&info.origin())),
            Failure::NoSuchEndpoint => {
                let message = "there is no such endpoint".to_owned();
                render(StatusCode::NOT_FOUND, vec![Entry { code: "UNSUPPORTED", message, detail: Value::Null }])
            }
            Failure::MethodNotAllowed { allow } => {
                let message = "the endpoint does not support this method".to_owned();
                let entry = Entry { code: "UNSUPPORTED", message, detail: json!({ "allow": allow }) };
                let mut response = render(StatusCode::METHOD_NOT_ALLOWED, vec![entry]);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
                response
            }
        }
    }
}

fn unauthenticated(challenge: &Challenge, header: HeaderValue) -> Response<Body> {
    let message = match challenge.error {
        None => "authentication required",
        Some(ChallengeError::InvalidToken) => "the credential does not hold: it is wrong, expired or withdrawn",
        Some(ChallengeError::InsufficientScope) => "the token does not reach far enough for this",
    };
    let entry = Entry { code: "UNAUTHORIZED", message: message.to_owned(), detail: Value::Null };
    let mut response = render(StatusCode::UNAUTHORIZED, vec![entry]);
    response.headers_mut().insert(WWW_AUTHENTICATE, header);
    response
}

fn render(status: StatusCode, errors: Vec<Entry>) -> Response<Body> {
    let body = serde_json::to_vec(&Document { errors }).expect("strings and numbers serialise");
    answer::json(status, body)
}

fn of_refusal(refusal: &Refusal) -> Response<Body> {
    let (status, code) = words(refusal);
    let mut response = render(status, entries(refusal, code));
    if let Some(ms) = retry_after_ms(refusal) {
        let seconds = ms.div_ceil(1000).max(1);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Status and code. Total, so that a new refusal does not compile before it has words here.
fn words(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        // A quota as ECR has it: clients print the message and do not try again.
        Refusal::Denied { .. }
        | Refusal::LimitReached { .. }
        | Refusal::HomeElsewhere { .. }
        | Refusal::QuotaExceeded { .. }
        | Refusal::LastAdministrator => (StatusCode::FORBIDDEN, "DENIED"),
        Refusal::Throttled { .. } => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        // A stale epoch, a lost race and a placement that topology outran are over when the client comes back.
        Refusal::Unavailable { .. }
        | Refusal::StorageFull
        | Refusal::ProposalExpired
        | Refusal::Changed
        | Refusal::QuotaShare { .. }
        | Refusal::StaleEpoch { .. }
        | Refusal::PlacementInvalid { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Refusal::Unsupported { .. }
        | Refusal::FeatureLevel { .. }
        | Refusal::ManifestReferenced { .. }
        | Refusal::BlobReferenced { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        Refusal::ParameterInvalid { .. } | Refusal::PolicyInvalid { .. } => {
            (StatusCode::BAD_REQUEST, "PARAMETER_INVALID")
        }
        Refusal::PageInvalid => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
        Refusal::PreconditionFailed | Refusal::TagMoved { .. } => {
            (StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED")
        }
        Refusal::NameInvalid { .. } => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        Refusal::RepositoryUnknown { .. } => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Refusal::RepositoryExists { .. } | Refusal::RepositoryNotEmpty { .. } => (StatusCode::CONFLICT, "DENIED"),
        Refusal::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Refusal::ManifestInvalid { .. } | Refusal::ManifestTypeConflict { .. } | Refusal::ImageExists { .. } => {
            (StatusCode::BAD_REQUEST, "MANIFEST_INVALID")
        }
        Refusal::ManifestTooLarge { .. } | Refusal::BlobTooLarge { .. } => {
            (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID")
        }
        // The code is the specification's; 400 is what distribution answers and clients were tried with.
        Refusal::ManifestReferencesUnknown { .. } => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        Refusal::SizeMismatch { .. } => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        // As ECR has it; docker prints "tag invalid: " and the message.
        Refusal::TagInvalid { .. } | Refusal::TagImmutable { .. } => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
        Refusal::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        Refusal::DigestInvalid { .. } | Refusal::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        Refusal::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        Refusal::UploadInvalid { .. } => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        Refusal::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
        Refusal::RangeInvalid { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
        // Of other surfaces; here they would be a mistake of ours, not of the client.
        Refusal::PrincipalUnknown { .. }
        | Refusal::PrincipalExists { .. }
        | Refusal::PolicyUnknown
        | Refusal::ClusterInitialised
        | Refusal::NodeUnknown { .. }
        | Refusal::NodeExists { .. }
        | Refusal::StoreUnknown { .. }
        | Refusal::StoreExists { .. }
        | Refusal::CopiesNeeded { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

/// When the client may come back, if that helps.
fn retry_after_ms(refusal: &Refusal) -> Option<u32> {
    if let Refusal::Throttled { retry_after_ms } | Refusal::Unavailable { retry_after_ms } = refusal {
        return Some(*retry_after_ms);
    }
    (words(refusal).0 == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_MS)
}

/// One entry, or one for each thing that is missing.
fn entries(refusal: &Refusal, code: &'static str) -> Vec<Entry> {
    let Refusal::ManifestReferencesUnknown { blobs, manifests, more } = refusal else {
        return vec![Entry { code, message: refusal.to_string(), detail: detail(refusal) }];
    };
    let blob = |digest: &Digest| Entry {
        code,
        message: format!("blob unknown to the repository: {digest}"),
        detail: json!({ "digest": digest.to_string() }),
    };
    let manifest = |digest: &Digest| Entry {
        code: "MANIFEST_UNKNOWN",
        message: format!("manifest unknown to the repository: {digest}"),
        detail: json!({ "digest": digest.to_string() }),
    };
    let mut entries: Vec<Entry> = blobs.iter().map(blob).chain(manifests.iter().map(manifest)).collect();
    if *more > 0 || entries.is_empty() {
        entries.push(Entry { code, message: refusal.to_string(), detail: json!({ "more": more }) });
    }
    entries
}

/// What a program may want to know. Nothing that the caller did not send, but for sizes, offsets and digests of the
/// same repository.
fn detail(refusal: &Refusal) -> Value {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the message says it all; statuses and codes are matched in full"
    )]
    match refusal {
        Refusal::RepositoryUnknown { name, .. } => json!({ "name": name.as_str() }),
        Refusal::ManifestUnknown { reference } => json!({ "reference": reference.to_string() }),
        Refusal::ManifestTypeConflict { digest } | Refusal::BlobUnknown { digest } => {
            json!({ "digest": digest.to_string() })
        }
        Refusal::ManifestReferenced { digest, parent } => {
            json!({ "digest": digest.to_string(), "parent": parent.to_string() })
        }
        Refusal::BlobReferenced { digest, manifest } => {
            json!({ "digest": digest.to_string(), "manifest": manifest.to_string() })
        }
        Refusal::ManifestTooLarge { allowed } | Refusal::BlobTooLarge { allowed } => json!({ "allowed": allowed }),
        Refusal::SizeMismatch { digest, stored_bytes, claimed_bytes } => {
            json!({ "digest": digest.to_string(), "stored": stored_bytes, "claimed": claimed_bytes })
        }
        Refusal::DigestMismatch { claimed, actual } => {
            json!({ "claimed": claimed.to_string(), "actual": actual.to_string() })
        }
        Refusal::TagImmutable { tag, .. } | Refusal::TagMoved { tag } => json!({ "tag": tag.as_str() }),
        Refusal::RangeInvalid { offset } => json!({ "offset": offset }),
        Refusal::HomeElsewhere { home, .. } => json!({ "home": home }),
        Refusal::QuotaExceeded { unit, limit, .. } => json!({ "quota": limit, "unit": unit }),
        Refusal::ParameterInvalid { parameter, .. } => json!({ "parameter": parameter }),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use registry_core::vocabulary::ids::RegistryId;
    use registry_core::vocabulary::{Reference, RepositoryName, Tag};

    use super::*;

    async fn told(refusal: Refusal) -> (u16, Option<String>, Value) {
        let response = of_refusal(&refusal);
        let retry_after = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry_after, serde_json::from_slice(&body).unwrap())
    }

    // What clients act on: status and first code, and Retry-After where it helps. Changing a line changes the protocol.
    #[tokio::test]
    async fn words_table() {
        let (name, registry) = (RepositoryName::parse("a/b").unwrap(), RegistryId::from_number(123).unwrap());
        let (digest, tag) = (Digest::sha256(b"x"), Tag::parse("v1").unwrap());
        let reference = Reference::Tag(tag.clone());
        for (refusal, status, code, retry_after) in [
            (Refusal::Denied { detail: "no".into() }, 403, "DENIED", None),
            (Refusal::QuotaExceeded { holder: "x".into(), unit: "tags".into(), limit: 1 }, 403, "DENIED", None),
            (
                Refusal::HomeElsewhere { repository: name.clone(), home: "eu".into(), is_frozen: false },
                403,
                "DENIED",
                None,
            ),
            (Refusal::QuotaShare { bytes: 1, tags: 0 }, 503, "UNAVAILABLE", Some("1")),
            (Refusal::Throttled { retry_after_ms: 1500 }, 429, "TOOMANYREQUESTS", Some("2")),
            (Refusal::Unavailable { retry_after_ms: 0 }, 503, "UNAVAILABLE", Some("1")),
            (Refusal::StorageFull, 503, "UNAVAILABLE", Some("1")),
            (Refusal::Changed, 503, "UNAVAILABLE", Some("1")),
            (Refusal::Unsupported { detail: "x".into() }, 405, "UNSUPPORTED", None),
            (Refusal::PageInvalid, 400, "PAGINATION_NUMBER_INVALID", None),
            (Refusal::TagMoved { tag: tag.clone() }, 412, "PRECONDITION_FAILED", None),
            (Refusal::NameInvalid { detail: "x".into() }, 400, "NAME_INVALID", None),
            (Refusal::RepositoryUnknown { name: name.clone(), registry }, 404, "NAME_UNKNOWN", None),
            (Refusal::ManifestUnknown { reference }, 404, "MANIFEST_UNKNOWN", None),
            (Refusal::ManifestInvalid { detail: "x".into() }, 400, "MANIFEST_INVALID", None),
            (Refusal::ManifestTooLarge { allowed: 4 }, 413, "SIZE_INVALID", None),
            (Refusal::references_unknown([digest], []), 400, "MANIFEST_BLOB_UNKNOWN", None),
            (Refusal::references_unknown([], [digest]), 400, "MANIFEST_UNKNOWN", None),
            (Refusal::TagImmutable { tag, repository: name }, 400, "TAG_INVALID", None),
            (Refusal::BlobUnknown { digest }, 404, "BLOB_UNKNOWN", None),
            (Refusal::DigestInvalid { detail: "x".into() }, 400, "DIGEST_INVALID", None),
            (Refusal::DigestMismatch { claimed: digest, actual: Box::new(digest) }, 400, "DIGEST_INVALID", None),
            (Refusal::UploadUnknown, 404, "BLOB_UPLOAD_UNKNOWN", None),
            (Refusal::UploadInvalid { detail: "x".into() }, 400, "BLOB_UPLOAD_INVALID", None),
            (Refusal::UploadBusy, 409, "BLOB_UPLOAD_INVALID", None),
            (Refusal::RangeInvalid { offset: 7 }, 416, "RANGE_INVALID", None),
        ] {
            let (found_status, found_retry, body) = told(refusal.clone()).await;
            let first = &body["errors"][0];
            assert_eq!((found_status, first["code"].as_str().unwrap()), (status, code), "{refusal:?}");
            assert_eq!(found_retry.as_deref(), retry_after, "{refusal:?}");
            assert!(!first["message"].as_str().unwrap().is_empty(), "{refusal:?}");
            assert!(first.as_object().unwrap().contains_key("detail"), "{refusal:?}");
        }
    }

    // clients §12.10: each missing thing has its own entry, blobs and manifests with their own codes, and the rest
    // is counted.
    #[tokio::test]
    async fn missing_references_are_listed() {
        let digests: Vec<Digest> = (0..20_u8).map(|byte| Digest::sha256(&[byte])).collect();
        let (_, _, body) = told(Refusal::references_unknown(digests.clone(), [digests[0]])).await;
        let errors = body["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 17);
        assert_eq!(errors[0]["detail"]["digest"], digests[0].to_string());
        assert_eq!(errors[16]["detail"]["more"], 5);
        let (_, _, body) = told(Refusal::references_unknown([digests[1]], [digests[0]])).await;
        assert_eq!(body["errors"][1]["code"], "MANIFEST_UNKNOWN");
    }

    // Text that came from a client stays text in the answer.
    #[tokio::test]
    async fn messages_are_escaped() {
        let (_, _, body) = told(Refusal::ManifestInvalid { detail: "\"}]}\r\n<script>".into() }).await;
        assert_eq!(body["errors"][0]["message"], "invalid manifest: \"}]}\r\n<script>");
    }
}
