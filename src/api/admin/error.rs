//! How a no is told here: `{"error":{"code","message"}}`.

use axum::body::Body;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use registry_core::vocabulary::Refusal;
use serde::Serialize;

use super::answer;
use crate::auth::Refused;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// 401.
    Unauthenticated,
    /// An expected no.
    Refusal(Refusal),
    /// The body is not what this path takes; the text says what is wrong.
    Body(String),
    /// The request makes no sense in the present state of the cluster (409).
    Conflict(String),
    /// No such path, or no such thing under it.
    NotFound,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        if refusal == Refusal::Unauthenticated { Failure::Unauthenticated } else { Failure::Refusal(refusal) }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::Unauthenticated(_) => Failure::Unauthenticated,
            Refused::Refusal(refusal) => refusal.into(),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    error: Entry<'a>,
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'a str,
    message: &'a str,
}

fn render(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    answer::json(status, &Document { error: Entry { code, message } })
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        match self {
            Failure::Unauthenticated => {
                let message =
                    "an access key with the right to administer is needed: id and secret as Basic credentials";
                let mut response = render(StatusCode::UNAUTHORIZED, "unauthenticated", message);
                let challenge = HeaderValue::from_static("Basic realm=\"portolan-admin\",charset=\"UTF-8\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                response
            }
            Failure::Refusal(refusal) => {
                let (status, code) = words(&refusal);
                let mut response = render(status, code, &refusal.to_string());
                if let Refusal::Unavailable { retry_after_ms } | Refusal::Throttled { retry_after_ms } = refusal {
                    let seconds = retry_after_ms.div_ceil(1000).max(1);
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
            Failure::Body(message) => render(StatusCode::BAD_REQUEST, "invalid_body", &message),
            Failure::Conflict(message) => render(StatusCode::CONFLICT, "conflict", &message),
            Failure::NotFound => render(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path"),
        }
    }
}

/// For paths that do not exist.
pub(super) async fn no_such_path() -> Failure {
    Failure::NotFound
}

/// For methods that a path does not know.
pub(super) async fn no_such_method() -> Response<Body> {
    render(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not know the method")
}

/// The code alone, for the audit.
pub(super) fn words(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Refusal::Denied { .. } => (StatusCode::FORBIDDEN, "denied"),
        Refusal::Throttled { .. } => (StatusCode::TOO_MANY_REQUESTS, "throttled"),
        Refusal::Unavailable { .. } | Refusal::ProposalExpired | Refusal::QuotaShare { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
        Refusal::StorageFull => (StatusCode::SERVICE_UNAVAILABLE, "storage_full"),
        Refusal::LimitReached { .. } => (StatusCode::CONFLICT, "limit_reached"),
        Refusal::QuotaExceeded { .. } => (StatusCode::CONFLICT, "quota_exceeded"),
        Refusal::Unsupported { .. } => (StatusCode::METHOD_NOT_ALLOWED, "unsupported"),
        Refusal::ParameterInvalid { .. } => (StatusCode::BAD_REQUEST, "invalid_parameter"),
        Refusal::PageInvalid => (StatusCode::BAD_REQUEST, "invalid_page"),
        Refusal::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
        Refusal::FeatureLevel { .. } => (StatusCode::CONFLICT, "feature_level"),
        Refusal::Changed => (StatusCode::CONFLICT, "changed"),
        Refusal::NameInvalid { .. } => (StatusCode::BAD_REQUEST, "invalid_name"),
        Refusal::RepositoryUnknown { .. } => (StatusCode::NOT_FOUND, "repository_unknown"),
        Refusal::RepositoryExists { .. } => (StatusCode::CONFLICT, "repository_exists"),
        Refusal::RepositoryNotEmpty { .. } => (StatusCode::CONFLICT, "repository_not_empty"),
        Refusal::ManifestUnknown { .. } => (StatusCode::NOT_FOUND, "manifest_unknown"),
        Refusal::ManifestInvalid { .. } | Refusal::ManifestReferencesUnknown { .. } | Refusal::SizeMismatch { .. } => {
            (StatusCode::BAD_REQUEST, "manifest_invalid")
        }
        Refusal::ManifestTooLarge { .. } | Refusal::BlobTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Refusal::ManifestTypeConflict { .. } | Refusal::ManifestReferenced { .. } | Refusal::ImageExists { .. } => {
            (StatusCode::CONFLICT, "manifest_conflict")
        }
        Refusal::TagInvalid { .. } => (StatusCode::BAD_REQUEST, "invalid_tag"),
        Refusal::TagImmutable { .. } => (StatusCode::CONFLICT, "tag_immutable"),
        Refusal::TagMoved { .. } => (StatusCode::CONFLICT, "tag_moved"),
        Refusal::HomeElsewhere { .. } => (StatusCode::CONFLICT, "home_elsewhere"),
        Refusal::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "blob_unknown"),
        Refusal::BlobReferenced { .. } => (StatusCode::CONFLICT, "blob_referenced"),
        Refusal::DigestInvalid { .. } | Refusal::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, "invalid_digest"),
        Refusal::UploadUnknown => (StatusCode::NOT_FOUND, "upload_unknown"),
        Refusal::UploadInvalid { .. }
        | Refusal::RangeInvalid { .. }
        | Refusal::UploadBusy
        | Refusal::StaleEpoch { .. }
        | Refusal::PlacementInvalid { .. } => (StatusCode::CONFLICT, "upload_conflict"),
        Refusal::PrincipalUnknown { .. } => (StatusCode::NOT_FOUND, "principal_unknown"),
        Refusal::PrincipalExists { .. } => (StatusCode::CONFLICT, "principal_exists"),
        Refusal::LastAdministrator => (StatusCode::CONFLICT, "last_administrator"),
        Refusal::PolicyInvalid { .. } => (StatusCode::BAD_REQUEST, "policy_invalid"),
        Refusal::PolicyUnknown => (StatusCode::NOT_FOUND, "policy_unknown"),
        Refusal::ClusterInitialised => (StatusCode::CONFLICT, "cluster_initialised"),
        Refusal::NodeUnknown { .. } => (StatusCode::NOT_FOUND, "node_unknown"),
        Refusal::NodeExists { .. } => (StatusCode::CONFLICT, "node_exists"),
        Refusal::StoreUnknown { .. } => (StatusCode::NOT_FOUND, "store_unknown"),
        Refusal::StoreExists { .. } => (StatusCode::CONFLICT, "store_exists"),
        Refusal::CopiesNeeded { .. } => (StatusCode::CONFLICT, "copies_needed"),
    }
}
