//! Health and metrics. Liveness, readiness and start-up are one word each and open: what is wrong in detail is
//! `GET /v1/cluster`, for who may ask (A28).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;

use super::Admin;
use super::error::Failure;
use super::exchange::Exchange;

/// For a node that must not take part; its log says more.
const EMPTIED: &str = "the data directory was emptied or is an old copy: this node takes no part\n";
/// For a node that is fed and must not vote; its log says more.
const SUSPECT: &str = "suspect: this node has lost what it had acknowledged, and waits until it is trusted again\n";

fn word(is_well: bool, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `GET /livez`: the process answers. It asks nothing of others, so that a cluster without quorum is not restarted.
pub(super) async fn live() -> Response<Body> {
    word(true, "ok\n")
}

/// `GET /startupz`: the node's state is open and it is part of a cluster, or waits for somebody to found one.
pub(super) async fn started(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let status = admin.cluster.status();
    if status.is_emptied {
        return word(false, EMPTIED);
    }
    match (&status.cluster, status.is_admitted) {
        // a restart would not help it
        _ if status.suspicion.is_some() => word(true, SUSPECT),
        (None, _) => word(true, "waiting for `portolan cluster init` or `join`\n"),
        (Some(_), false) => word(false, "waiting for a majority of the cluster\n"),
        (Some(_), true) => word(true, "ok\n"),
    }
}

/// `GET /readyz`: requests may be sent here. Without a leader pulls by digest go on and nothing else does, so the node
/// is not ready then; whether a balancer sends it something nevertheless is the balancer's rule.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response<Body> {
    if admin.shutdown.is_requested() {
        return word(false, "draining\n");
    }
    let status = admin.cluster.status();
    if status.is_emptied {
        return word(false, EMPTIED);
    }
    if status.suspicion.is_some() {
        return word(false, SUSPECT);
    }
    match (&status.cluster, status.is_admitted, status.leader) {
        (None, ..) => word(false, "no cluster yet\n"),
        (Some(_), false, _) => word(false, "waiting for a majority of the cluster\n"),
        (Some(_), true, None) => word(false, "no leader\n"),
        // before the first round after a start this node may know less than it has shown before
        (Some(_), true, Some(_)) if !status.is_fresh => {
            word(false, "no quorum has confirmed this node's state lately\n")
        }
        // until then no upload finds a place on it
        (Some(_), true, Some(_)) if !status.is_registered() => {
            word(false, "this node and its volume are not registered yet\n")
        }
        (Some(_), true, Some(_)) => word(true, "ok\n"),
    }
}

/// `GET /metrics`, in the Prometheus text format.
pub(super) async fn metrics(exchange: Exchange) -> Result<Response<Body>, Failure> {
    exchange.administrator(policy::Action::ReadCluster, "metrics.get").await?;
    let metrics = exchange.admin().metrics.as_ref().ok_or(Failure::NotFound)?;
    let mut response = Response::new(Body::from(metrics.render()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
