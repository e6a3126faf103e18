//! What happens to every request before and after its app: limits, identity, accounting.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::{Body as HttpBody, Incoming};
use registry_core::vocabulary::limits::{AUTHORIZATION_BYTES_MAX, HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::App;
use super::access_log::Completion;
use super::activity::{Activity, Underway};
use super::body::{RequestBody, ResponseBody, declared_bytes};
use super::proxy;
use super::request::{RequestIds, RequestInfo, adopted_id};
use super::settings::{Settings, host_of};
use super::slots::RequestSlots;
use crate::ground::certs::Identity;
use crate::ground::traces::{self, traced};

/// The header that carries the id of a request.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Seconds after which a client that met an overload may come back.
const OVERLOAD_RETRY_AFTER_S: u64 = 1;

/// What all connections of a listener share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) requests: Arc<RequestSlots>,
    ids: RequestIds,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Arc<Shared> {
        let requests = RequestSlots::new(settings.requests_max);
        Arc::new(Shared { settings, requests, ids: RequestIds::new() })
    }
}

/// One connection as its requests see it.
#[derive(Clone)]
pub(super) struct Front<A> {
    pub(super) app: A,
    pub(super) shared: Arc<Shared>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) is_tls: bool,
    /// Who the client is by its certificate, for listeners that ask for one.
    pub(super) identity: Option<Identity>,
    pub(super) activity: Arc<Activity>,
}

impl<A: App> Front<A> {
    /// Answers one request.
    pub(super) async fn handle(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let started_at = Instant::now();
        let settings = &self.shared.settings;
        settings.traffic.note();
        let info = self.info(&request);
        let slot = self.shared.requests.take();
        let span = span(settings.name, &request, &info);
        let mut completion = Completion {
            info: info.clone(),
            started_at,
            listener: settings.name,
            method: request.method().clone(),
            path: settings.access_log.then(|| request.uri().path().to_owned()),
            status: StatusCode::OK,
            underway: Underway::begin(Arc::clone(&self.activity)),
            slot: None,
            span: span.clone(),
        };
        let mut response = match (refuse(settings, &request), slot) {
            (Some(refusal), _) => refusal.into_response(),
            (None, None) => OVERLOADED.into_response(),
            (None, Some(slot)) => {
                completion.slot = Some(slot);
                self.app.respond(self.prepare(request, info.clone())).instrument(span).await
            }
        };
        completion.status = response.status();
        completion.underway.answer();
        let headers = response.headers_mut();
        if let Some(id) = info.id_header() {
            headers.insert(X_REQUEST_ID, id);
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let declared_bytes = declared_bytes(response.headers());
        Ok(response.map(|body| Body::new(ResponseBody::new(body, declared_bytes, completion))))
    }

    fn info(&self, request: &Request<Incoming>) -> RequestInfo {
        let settings = &self.shared.settings;
        // The authority of the target goes before the header (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
        let host = request.uri().authority().map(|authority| authority.as_str());
        let host = host.or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()));
        let peer = self.peer.ip();
        let provenance = proxy::provenance(&settings.trusted_proxies, peer, self.is_tls, host, request.headers());
        let adopted = if provenance.proxied { adopted_id(request.headers().get(X_REQUEST_ID)) } else { None };
        let id = adopted.unwrap_or_else(|| self.shared.ids.make());
        RequestInfo::new(id, self.peer, self.local, provenance)
    }

    fn prepare(&self, request: Request<Incoming>, info: RequestInfo) -> Request<Body> {
        let (mut parts, body) = request.into_parts();
        let body = if body.is_end_stream() {
            Body::empty()
        } else {
            let may_linger = parts.version < Version::HTTP_2 && !parts.headers.contains_key(EXPECT);
            let stall_timeout = self.shared.settings.stall_timeout;
            let activity = Arc::clone(&self.activity);
            Body::new(RequestBody::new(body, info.clone(), activity, stall_timeout, may_linger))
        };
        parts.extensions.insert(info);
        if let Some(identity) = &self.identity {
            parts.extensions.insert(identity.clone());
        }
        Request::from_parts(parts, body)
    }
}

/// The span of a request. A proxy that is trusted may have begun its trace; nobody else can have us record one.
fn span<B>(listener: &'static str, request: &Request<B>, info: &RequestInfo) -> Span {
    let span = traced!(
        "request",
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = request.method().as_str(),
        http.route = Empty,
        http.response.status_code = Empty,
        client.address = %info.client(),
        request.id = info.id(),
        portolan.listener = listener,
        portolan.sent_bytes = Empty,
    );
    if info.is_proxied() {
        traces::follow(&span, request.headers());
    }
    span
}

/// A no that needs no app. Its body has the shape that registry clients print.
struct FrontRefusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    retry_after_s: Option<u64>,
    /// Where the request ends is in doubt: nothing behind it is read.
    closes: bool,
}

const OVERLOADED: FrontRefusal = FrontRefusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "UNAVAILABLE",
    message: "too many requests are under way on this node; try again",
    retry_after_s: Some(OVERLOAD_RETRY_AFTER_S),
    closes: false,
};

impl FrontRefusal {
    fn into_response(self) -> Response<Body> {
        metrics::counter!("portolan_http_requests_refused_total", "reason" => self.code).increment(1);
        let body = format!(r#"{{"errors":[{{"code":"{}","message":"{}","detail":null}}]}}"#, self.code, self.message);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Limits that hold for every request, whatever it wants (T5, L9, H8).
fn refuse<B>(settings: &Settings, request: &Request<B>) -> Option<FrontRefusal> {
    let no = |status, code, message| Some(FrontRefusal { status, code, message, retry_after_s: None, closes: false });
    let headers = request.headers();
    if !is_plainly_chunked(headers) {
        let (code, message) = ("UNSUPPORTED", "the only transfer coding here is chunked, once");
        let status = StatusCode::BAD_REQUEST;
        return Some(FrontRefusal { status, code, message, retry_after_s: None, closes: true });
    }
    let target_bytes = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > REQUEST_TARGET_BYTES_MAX {
        return no(StatusCode::URI_TOO_LONG, "UNSUPPORTED", "the path and query of the request are too long");
    }
    if headers.len() > HEADERS_MAX {
        return no(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "UNSUPPORTED", "the request has too many headers");
    }
    if headers.get_all(AUTHORIZATION).iter().any(|value| value.len() > AUTHORIZATION_BYTES_MAX) {
        return no(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "UNAUTHORIZED", "the credential is too long");
    }
    if !settings.hosts.is_empty() && !is_our_host(&settings.hosts, request) {
        return no(StatusCode::MISDIRECTED_REQUEST, "UNSUPPORTED", "this listener does not answer to that host name");
    }
    None
}

/// Whether the transfer coding is one that every parser reads alike: none, or `chunked` and nothing beside it (B14).
/// Hyper takes any list that ends with it, and one coding less read by a proxy is a request more read behind it.
fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether every name by which a request calls us is ours; one that differs between target and header is a trick.
fn is_our_host<B>(hosts: &[String], request: &Request<B>) -> bool {
    let is_ours = |host: &str| hosts.iter().any(|known| known.eq_ignore_ascii_case(host_of(host)));
    let target = request.uri().authority().map(|authority| authority.as_str());
    let headers = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or(""));
    let mut names = target.into_iter().chain(headers).peekable();
    names.peek().is_some() && names.all(is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpSection;

    fn settings(hosts: &[&str]) -> Settings {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Settings { hosts, ..Settings::new("test", &HttpSection::default(), false) }
    }

    fn request(target: &str, headers: &[(HeaderName, String)]) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.clone(), value.parse().unwrap());
        }
        request
    }

    // T5, L9: a credential of 16 KiB passes, and what is longer than any client needs does not.
    #[test]
    fn limits_table() {
        let settings = settings(&[]);
        let status = |request: &Request<()>| refuse(&settings, request).map(|refusal| refusal.status.as_u16());
        let authorization = |bytes: usize| request("/v2/", &[(AUTHORIZATION, "a".repeat(bytes))]);
        assert_eq!(status(&authorization(AUTHORIZATION_BYTES_MAX)), None);
        assert_eq!(status(&authorization(AUTHORIZATION_BYTES_MAX + 1)), Some(431));
        let target = |bytes: usize| request(&format!("/{}", "a".repeat(bytes - 1)), &[]);
        assert_eq!(status(&target(REQUEST_TARGET_BYTES_MAX)), None);
        assert_eq!(status(&target(REQUEST_TARGET_BYTES_MAX + 1)), Some(414));
        let many = |count: usize| request("/", &vec![(X_REQUEST_ID, "x".to_owned()); count]);
        assert_eq!(status(&many(HEADERS_MAX)), None);
        assert_eq!(status(&many(HEADERS_MAX + 1)), Some(431));
    }

    // B14: lists of codings are refused, whatever they end with, and the connection with them.
    #[test]
    fn codings_table() {
        let settings = settings(&[]);
        for (codings, is_good) in [
            (&["chunked"][..], true),
            (&["Chunked "], true),
            (&[], true),
            (&["chunked, chunked"], false),
            (&["identity, chunked"], false),
            (&["identity", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["gzip"], false),
            (&["chunked;a=b"], false),
            (&[""], false),
        ] {
            let lines: Vec<_> = codings.iter().map(|coding| (TRANSFER_ENCODING, (*coding).to_owned())).collect();
            let refusal = refuse(&settings, &request("/v2/", &lines));
            assert_eq!(refusal.is_none(), is_good, "{codings:?}");
            assert!(refusal.is_none_or(|refusal| refusal.closes), "{codings:?}");
        }
    }

    // H8: with names configured, only these are answered to, in any case and with any port.
    #[test]
    fn hosts_table() {
        let settings = settings(&["reg.example", "[::1]"]);
        let passes = |request: Request<()>| refuse(&settings, &request).is_none();
        for good in ["reg.example", "REG.example:5000", "[::1]", "[::1]:5000"] {
            assert!(passes(request("/v2/", &[(HOST, good.to_owned())])), "{good}");
        }
        for bad in ["evil.example", "reg.example.evil", "", "reg.example:80@evil"] {
            assert!(!passes(request("/v2/", &[(HOST, bad.to_owned())])), "{bad}");
        }
        assert!(!passes(request("/v2/", &[])));
        assert!(passes(request("http://reg.example/v2/", &[])));
        assert!(!passes(request("http://reg.example/v2/", &[(HOST, "evil.example".to_owned())])));
        assert!(!passes(request("http://evil.example/v2/", &[(HOST, "reg.example".to_owned())])));
        let two = [(HOST, "reg.example".to_owned()), (HOST, "evil.example".to_owned())];
        assert!(!passes(request("/v2/", &two)));
    }
}
