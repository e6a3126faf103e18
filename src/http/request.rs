//! What is known about a request before anybody looks at what it wants.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::http::{Extensions, HeaderValue};

use super::proxy::Provenance;
use crate::ground::random;

/// Longest request id taken over from a trusted proxy.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Identity and provenance of a request; cheap to clone. What is noted on it ends up in the access log and in metrics.
#[derive(Clone, Debug)]
pub struct RequestInfo(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    peer: SocketAddr,
    local: SocketAddr,
    provenance: Provenance,
    route: OnceLock<&'static str>,
    principal: OnceLock<Box<str>>,
    received_bytes: AtomicU64,
}

impl RequestInfo {
    pub(super) fn new(id: String, peer: SocketAddr, local: SocketAddr, provenance: Provenance) -> RequestInfo {
        let (route, principal, received_bytes) = (OnceLock::new(), OnceLock::new(), AtomicU64::new(0));
        RequestInfo(Arc::new(Inner { id, peer, local, provenance, route, principal, received_bytes }))
    }

    /// That of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&RequestInfo> {
        extensions.get()
    }

    /// The id of the request: in its logs, in its audit records, in `x-request-id` of its answer.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Who connected: the client, or the proxy before us.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// The address of the client, after the trusted-proxy rule.
    pub fn client(&self) -> IpAddr {
        self.0.provenance.client
    }

    /// Whether it came through a proxy that is trusted.
    pub(super) fn is_proxied(&self) -> bool {
        self.0.provenance.proxied
    }

    /// Whether the client used https, after the trusted-proxy rule.
    pub fn is_secure(&self) -> bool {
        self.0.provenance.secure
    }

    /// Scheme, host and port as the client used them, after the trusted-proxy rule: `https://registry.example:5000`.
    pub fn origin(&self) -> String {
        let scheme = if self.is_secure() { "https" } else { "http" };
        match &self.0.provenance.host {
            Some(host) => format!("{scheme}://{host}"),
            None => format!("{scheme}://{}", self.0.local),
        }
    }

    /// Notes which kind of request it is, for metrics and logs. Static, so that labels stay bounded (H12).
    pub fn note_route(&self, route: &'static str) {
        self.0.route.get_or_init(|| route);
    }

    /// Notes who asks, for logs.
    pub fn note_principal(&self, principal: &str) {
        self.0.principal.get_or_init(|| principal.into());
    }

    /// The kind of request, `other` if nobody noted one.
    pub fn route(&self) -> &'static str {
        self.0.route.get().copied().unwrap_or("other")
    }

    /// Who asks, if anybody noted it.
    pub fn principal(&self) -> Option<&str> {
        self.0.principal.get().map(|principal| &**principal)
    }

    /// Bytes of the request's body that were read so far.
    pub(super) fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, bytes: usize) {
        self.0.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn id_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0.id).ok()
    }
}

/// Makes request ids that no other process makes: 16 hexadecimal digits.
#[derive(Debug)]
pub(super) struct RequestIds {
    seed: u64,
    count: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> RequestIds {
        RequestIds { seed: random::number64(), count: AtomicU64::new(0) }
    }

    /// The next one.
    pub(super) fn make(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // splitmix64: a bijection, so ids of one process never repeat.
        let mut id = self.seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", id ^ (id >> 31))
    }
}

/// The id a trusted proxy gave, if it is one that a log line can carry.
pub(super) fn adopted_id(value: Option<&HeaderValue>) -> Option<String> {
    let text = value?.to_str().ok()?;
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_id = !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX && text.bytes().all(is_legal);
    is_id.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    // Ids are sixteen hexadecimal digits and differ.
    #[test]
    fn ids_differ() {
        let ids = RequestIds::new();
        let made: BTreeSet<String> = (0..1000).map(|_| ids.make()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }

    // An id from a proxy is taken over only if it cannot break a line.
    #[test]
    fn adopted_table() {
        for good in ["a", "7f3c-11.x_Y", &"a".repeat(64)] {
            assert_eq!(adopted_id(Some(&HeaderValue::from_str(good).unwrap())).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a\"b", "a=b", "\u{e9}", &"a".repeat(65)] {
            assert_eq!(adopted_id(HeaderValue::from_bytes(bad.as_bytes()).ok().as_ref()), None, "{bad:?}");
        }
        assert_eq!(adopted_id(None), None);
    }
}
