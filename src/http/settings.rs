//! The numbers of a listener.

use std::time::Duration;

use crate::config::{HttpSection, Network};
use crate::ground::Crowd;
use crate::ground::traffic::Traffic;

/// How one listener behaves. Values, not components: what configuration turns into.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the listener is called in metrics and logs (`public`, `admin`).
    pub name: &'static str,
    /// Addresses whose `X-Forwarded-*` and `X-Request-Id` are believed. Default: none (T19).
    pub trusted_proxies: Vec<Network>,
    /// Names the listener answers to, without port, in lower case; empty for any (H8).
    pub hosts: Vec<String>,
    /// How long a client may take for the headers of a request once it began them, and for a TLS handshake (H7).
    pub header_timeout: Duration,
    /// How long a transfer may stand still before its connection is closed (B15).
    pub stall_timeout: Duration,
    /// How long a connection may stay without a request.
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
    /// Where its requests are counted for those who leave clients room.
    pub traffic: Traffic,
    /// Where it is noted whether nearly all its connections are taken, for those who send it clients.
    pub crowd: Crowd,
}

impl Settings {
    /// Those of the configuration, for the listener `name`.
    pub fn new(name: &'static str, section: &HttpSection, access_log: bool) -> Settings {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Settings {
            name,
            trusted_proxies: section.trusted_proxies.clone(),
            hosts: section.public_url.iter().map(|url| host_of(url.authority()).to_owned()).collect(),
            header_timeout: section.header_timeout,
            stall_timeout: section.stall_timeout,
            idle_timeout: section.idle_timeout,
            drain_timeout: section.drain_timeout,
            connections_max: count(section.max_connections),
            connections_per_address_max: count(section.max_connections_per_address),
            requests_max: count(section.max_requests),
            access_log,
            traffic: Traffic::default(),
            crowd: Crowd::default(),
        }
    }
}

/// A host without its port; the colons of an IPv6 address stay within their brackets.
pub fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}
