//! Connections between nodes. The one place to change when they get certificates.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use registry_core::vocabulary::limits::{TRANSFER_STREAMS_MAX, TRANSFER_WINDOW_BYTES};
use tonic::transport::{Channel, Endpoint, Server};

/// A connection that answers no ping for this long after one was sent is dead, and so are its streams: a new writer must
/// not wait for one whose node was cut off.
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

/// A channel that connects on first use and again after each loss.
pub(super) fn connect(address: &str, bind_source: Option<IpAddr>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .local_address(bind_source)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME_BYTES);
    Ok(endpoint.connect_lazy())
}

/// A server with the same settings.
pub(super) fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_frame_size(HTTP2_FRAME_BYTES)
}

/// Listens; the address may name port 0.
pub(super) async fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await
}
