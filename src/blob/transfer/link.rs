//! Connections between nodes: mutual TLS and source addresses come from the consensus package, windows from here.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use raft::TlsSource;
use raft::network::transport::{self, Dial, Expect};
use registry_core::vocabulary::ids::{ClusterId, NodeId};
use registry_core::vocabulary::limits::{TRANSFER_STREAMS_MAX, TRANSFER_WINDOW_BYTES};
use tonic::transport::Server;
use tracing::Span;

use crate::ground::traces::{self, traced};

/// A connection that answers no ping for this long after one was sent is dead, and so are its streams: a new writer
/// must not wait for one whose node was cut off.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

// Both fit: asserted where the limits are.
const STREAM_WINDOW: u32 = TRANSFER_WINDOW_BYTES as u32;
const STREAMS: u32 = TRANSFER_STREAMS_MAX as u32;
/// Room for every stream of the connection: one slow reader must not stop the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// Fewer, larger frames cost less.
const HTTP2_FRAME_BYTES: u32 = 256 * 1024;

/// A connection to another node.
#[cfg(not(feature = "sim"))]
pub(super) type Link = tonic::transport::Channel;
#[cfg(feature = "sim")]
pub(super) use super::simulated::Link;

/// How this node connects to others.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) cluster: ClusterId,
    pub(super) bind_source: Option<IpAddr>,
    pub(super) tls: Option<TlsSource>,
}

impl Dialer {
    /// A channel that connects on first use and again after each loss. With TLS the certificate must name `node`.
    pub(super) fn connect(&self, node: NodeId, address: &str) -> io::Result<Link> {
        let dial = Dial {
            addr: address.to_owned(),
            bind_source: self.bind_source,
            tls: self.tls.clone(),
            expect: Some(Expect::Node(self.cluster.0, node.0)),
            connect_timeout: CONNECT_TIMEOUT,
        };
        let channel = transport::connect_with(dial, |endpoint| {
            endpoint
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(HTTP2_FRAME_BYTES)
        })?;
        #[cfg(feature = "sim")]
        let channel = Link::Channel(channel);
        Ok(channel)
    }
}

/// A server with the same settings.
pub(super) fn server() -> Server {
    Server::builder()
        .trace_fn(span)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_frame_size(HTTP2_FRAME_BYTES)
}

/// The span of a call by another node, in the trace of what it does there; none where it is in nobody's.
fn span(call: &tonic::codegen::http::Request<()>) -> Span {
    if !call.headers().contains_key(traces::TRACEPARENT) {
        return Span::none();
    }
    let method = call.uri().path().rsplit('/').next().unwrap_or_default();
    let name = format!("blob {method}");
    let span = traced!("blob", otel.kind = "server", otel.name = name.as_str(), rpc.method = method);
    traces::follow(&span, call.headers());
    span
}
