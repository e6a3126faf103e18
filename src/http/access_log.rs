//! What remains of a request when it is over: one line in the log target `access`, and its metrics.

use std::borrow::Cow;
use std::time::Instant;

use axum::http::{Method, StatusCode};

use super::activity::Underway;
use super::request::RequestInfo;
use super::slots::RequestSlot;
use crate::ground::traces;

/// What uploads are noted as (`api/oci/route.rs`).
const UPLOAD_ROUTE: &str = "upload";

/// A request that is answered, until the last byte of its answer is gone.
pub(super) struct Completion {
    pub(super) info: RequestInfo,
    pub(super) started_at: Instant,
    pub(super) listener: &'static str,
    pub(super) method: Method,
    /// Path without the query, which may carry secrets (T10); only if the log is on.
    pub(super) path: Option<String>,
    pub(super) status: StatusCode,
    pub(super) underway: Underway,
    pub(super) slot: Option<RequestSlot>,
    /// Ends with the answer's last byte.
    pub(super) span: tracing::Span,
}

impl Completion {
    /// Bytes of the answer went by.
    pub(super) fn moved(&self, bytes: usize) {
        self.underway.moved(bytes);
    }

    /// Whether the answer has no body on the wire whatever its app said.
    pub(super) fn is_bodiless(&self) -> bool {
        self.method == Method::HEAD || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// The source of the answer failed: the client's connection is cut, so that it cannot take the part for the whole.
    pub(super) fn failed(self, sent_bytes: u64, error: &axum::Error) {
        tracing::warn!(
            request.id = self.info.id(),
            sent_bytes,
            error = %error,
            "an answer broke off: its connection is cut"
        );
        metrics::counter!("portolan_http_responses_broken_total", "listener" => self.listener).increment(1);
        self.finished(sent_bytes, false);
    }

    /// The answer is out, or its client is gone.
    pub(super) fn finished(self, sent_bytes: u64, is_whole: bool) {
        let elapsed = self.started_at.elapsed();
        drop(self.underway);
        drop(self.slot);
        let (route, method, status) = (self.info.route(), method_class(&self.method), status_class(self.status));
        let (listener, received_bytes) = (self.listener, self.info.received_bytes());
        if !self.span.is_none() {
            traces::rename(&self.span, format!("{method} {route}"));
            self.span.record("http.route", route);
            self.span.record("http.response.status_code", self.status.as_u16());
            self.span.record("portolan.sent_bytes", sent_bytes);
            if self.status.is_server_error() || !is_whole {
                self.span.record("otel.status_code", "ERROR");
            }
        }
        metrics::counter!(
            "portolan_http_requests_total",
            "listener" => listener, "route" => route, "method" => method, "status" => status
        )
        .increment(1);
        metrics::histogram!("portolan_http_request_seconds", "listener" => listener, "route" => route, "method" => method)
            .record(elapsed.as_secs_f64());
        if received_bytes > 0 {
            metrics::counter!("portolan_http_received_bytes_total", "listener" => listener).increment(received_bytes);
        }
        if sent_bytes > 0 {
            metrics::counter!("portolan_http_sent_bytes_total", "listener" => listener).increment(sent_bytes);
        }
        if let Some(path) = self.path.as_deref().map(|path| shown(path, route)) {
            tracing::info!(
                target: "access",
                {
                    request.id = self.info.id(),
                    listener,
                    client = %self.info.client(),
                    peer = %self.info.peer(),
                    principal = self.info.principal().unwrap_or("-"),
                    method = self.method.as_str(),
                    route,
                    path = &*path,
                    status = self.status.as_u16(),
                    received_bytes,
                    sent_bytes,
                    is_whole,
                    elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
                },
                "request"
            );
        }
    }
}

/// A path as it is written down. The last part of an upload's is a sealed text that continues the upload: not for logs
/// (T10).
fn shown<'p>(path: &'p str, route: &str) -> Cow<'p, str> {
    match path.rsplit_once('/') {
        Some((front, _)) if route == UPLOAD_ROUTE => Cow::Owned(format!("{front}/***")),
        Some(_) | None => Cow::Borrowed(path),
    }
}

/// Labels for methods: those we know, and one for all others (H12).
fn method_class(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

/// Labels for statuses.
fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // T10: the sealed text of an upload is not written down; all other paths are, whole.
    #[test]
    fn paths_are_shown_without_uploads() {
        assert_eq!(shown("/v2/a/blobs/uploads/AQGOk3SK", UPLOAD_ROUTE), "/v2/a/blobs/uploads/***");
        assert_eq!(shown("/v2/a/blobs/uploads/", "uploads"), "/v2/a/blobs/uploads/");
        assert_eq!(shown("/v2/a/blobs/sha256:aa", "blob"), "/v2/a/blobs/sha256:aa");
    }

    // H12: whatever a client sends, labels come from a short list.
    #[test]
    fn labels_are_bounded() {
        assert_eq!(method_class(&Method::from_bytes(b"X-MADE-UP-7").unwrap()), "other");
        assert_eq!(method_class(&Method::PATCH), "PATCH");
        for (code, class) in [(200, "2xx"), (304, "3xx"), (416, "4xx"), (503, "5xx"), (999, "5xx")] {
            assert_eq!(status_class(StatusCode::from_u16(code).unwrap()), class);
        }
    }
}
