//! `[http]`

use std::time::Duration;

use super::s;
use crate::config::section::section;
use crate::config::value::{Network, PublicUrl};

section! {
    /// Requests to the public and the admin listener.
    HttpSection "http"

    /// The URL that clients use, as "https://registry.example.com". Links are made from it, and the public listener
    /// refuses requests for another host. Left out: the host of each request is used.
    public_url: Option<PublicUrl> = None;

    /// Addresses of proxies whose X-Forwarded headers are believed; of nobody else's. Left out: of nobody.
    trusted_proxies: Vec<Network> = Vec::new();

    /// How long a client may take to send its headers.
    header_timeout: Duration = s(10) => s(1)..=s(300);

    /// How long a body may stand still, in either direction, before the connection is closed. A slow body that moves
    /// has no limit.
    stall_timeout: Duration = s(60) => s(1)..=s(3600);

    /// How long an idle connection is kept.
    idle_timeout: Duration = s(120) => s(1)..=s(3600);

    /// Connections at a time. Each costs about 30 KiB; the limit of open files must be above it.
    max_connections: u32 = 10_000 => 1..=1_000_000;

    /// Connections at a time from one address; trusted proxies don't count. Raise it for clients behind one NAT.
    max_connections_per_address: u32 = 1000 => 1..=1_000_000;

    /// Requests worked on at a time; further ones are told at once to come back (503).
    max_requests: u32 = 4096 => 1..=1_000_000;

    /// How long requests in flight may go on after SIGTERM; the node is gone within 3 s more. Most runtimes kill after
    /// 10 s: for large layers raise their time (stop_grace_period, TimeoutStopSec) together with this one.
    drain_timeout: Duration = s(7) => s(0)..=s(3600);
}
