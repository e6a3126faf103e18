//! `GET /v2/token`: the token service that 401 sends clients to. Source: distribution's token authentication; clients
//! §1.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::http::{Response, StatusCode};
use registry_core::decide::policy::scope::Scopes;
use registry_core::vocabulary::Refusal;
use serde::Serialize;

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use crate::auth::Freshness;

/// What clients read; some look for `token`, some for `access_token`.
#[derive(Serialize)]
struct Document<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: u64,
    issued_at: String,
}

/// A token for what of the scopes asked for the caller may do, which may be nothing. A credential that does not hold is
/// 401, so that `docker login` fails with a wrong password; without one the token is what anybody gets.
pub(super) async fn issue(exchange: &Exchange<'_>) -> Result<Response<Body>, Failure> {
    let caller = exchange.caller(Freshness::Linearizable).await.map_err(key_wanted)?;
    let mut asked = Vec::new();
    for scope in exchange.query().words("scope") {
        asked.push(scope?);
    }
    let asked = Scopes::parse(asked.iter().map(|scope| &**scope));
    let asked =
        asked.map_err(|error| Refusal::ParameterInvalid { parameter: "scope".into(), detail: error.to_string() })?;
    let issued = exchange.auth().issue(&caller, &asked).map_err(|refused| key_wanted(refused.into()))?;
    let document = Document {
        token: &issued.token,
        access_token: &issued.token,
        expires_in: issued.expires_in_s,
        issued_at: issued.issued_at.to_string(),
    };
    let body = serde_json::to_vec(&document).expect("strings and numbers serialise");
    let mut response = answer::json(StatusCode::OK, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The token service itself takes access keys; a token it has made does not get another one.
fn key_wanted(failure: Failure) -> Failure {
    match failure {
        Failure::Unauthenticated(challenge) => Failure::KeyWanted(challenge),
        Failure::KeyWanted(_) | Failure::Refusal(_) | Failure::NoSuchEndpoint | Failure::MethodNotAllowed { .. } => {
            failure
        }
    }
}
