//! The numbers of a listener.

use std::time::Duration;

use super::proxy::Network;

/// How one listener behaves. Values, not components: what configuration turns into.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the listener is called in metrics and logs (`public`, `admin`).
    pub name: &'static str,
    /// Addresses whose `X-Forwarded-*` and `X-Request-Id` are believed. Default: none (T19).
    pub trusted_proxies: Vec<Network>,
    /// Names the listener answers to, without port, in lower case; empty for any (H8).
    pub hosts: Vec<String>,
    /// How long a client may take from one request to the end of the next one's headers, and for a TLS handshake (H7).
    /// An idle HTTP/1.1 connection is closed after it, so it is longer than clients pause between requests.
    pub header_timeout: Duration,
    /// How long a transfer may stand still before its connection is closed (B15).
    pub stall_timeout: Duration,
    /// How long an HTTP/2 connection may stay without a request.
    pub idle_timeout: Duration,
    /// How long requests under way may take once the listener was told to stop.
    pub drain_timeout: Duration,
    /// Open connections; the next one is closed at once.
    pub connections_max: usize,
    /// Open connections of one address, trusted proxies excepted.
    pub connections_per_address_max: usize,
    /// Requests under way, their bodies included; the next one is answered with 503 before its body is read.
    pub requests_max: usize,
    /// Whether each request writes a line to the log target `access`.
    pub access_log: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: "public",
            trusted_proxies: Vec::new(),
            hosts: Vec::new(),
            header_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            requests_max: 4_096,
            access_log: true,
        }
    }
}
