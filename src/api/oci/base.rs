//! `GET /v2/`: this is the API, and the credential holds.

use axum::body::Body;
use axum::http::{Response, StatusCode};

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use crate::auth::Freshness;

/// 200 with a credential that holds, 401 without: `docker login` would take any password else.
pub(super) async fn check(exchange: &Exchange<'_>) -> Result<Response<Body>, Failure> {
    let caller = exchange.caller(Freshness::Linearizable).await?;
    exchange.auth().permit_base(&caller)?;
    Ok(answer::json(StatusCode::OK, "{}"))
}
