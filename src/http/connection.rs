//! One connection: which protocol it speaks, and how long it may take for what.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use registry_core::vocabulary::limits::{HEADERS_BYTES_MAX, KIB, MIB};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::App;
use super::activity::{Activity, Patience, Still, Watched, supervise};
use super::front::{Front, Shared};
use super::listener::TlsSource;
use super::slots::ConnectionSlot;
use crate::ground::certs;

/// First byte of a TLS record that carries a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// What an HTTP/2 connection without TLS begins with (RFC 9113 §3.4); no method of HTTP/1.1 does.
const H2_PREFACE: &[u8] = b"PRI";
/// The name of HTTP/2 in ALPN.
const ALPN_H2: &[u8] = b"h2";
/// Pause before looking again at a first packet that held less than [`H2_PREFACE`].
const PEEK_PAUSE: Duration = Duration::from_millis(5);
/// Answer to a client that speaks the wrong protocol; at once, or docker waits for a time-out before it falls back.
const WRONG_PROTOCOL: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 53\r\n\r\nthis port speaks the other of HTTP and HTTPS, not it\n";

/// Read and write buffer of an HTTP/1.1 connection.
const BUFFER_BYTES: usize = 256 * KIB;
/// Streams of one HTTP/2 connection at once.
const H2_STREAMS_MAX: u32 = 128;
/// Streams that a client opened and reset before we took them (rapid reset, H1); one more closes the connection.
const H2_RESETS_PENDING_MAX: usize = 20;
/// Streams we had to reset for a client's errors; one more closes the connection (H1).
const H2_RESETS_LOCAL_MAX: usize = 256;
/// What a client may send on one HTTP/2 stream, and on all of a connection, before we take it up.
const H2_STREAM_WINDOW_BYTES: u32 = MIB as u32;
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * MIB as u32;
/// What is buffered for one HTTP/2 stream whose client does not read.
const H2_SEND_BUFFER_BYTES: usize = 256 * KIB;
/// Pings that find out whether an HTTP/2 client is still there.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<TlsSource>,
    pub(super) slot: ConnectionSlot,
}

/// What the first bytes of a connection say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Tls,
    Http1,
    Http2,
}

/// Serves a connection to its end.
pub(super) async fn serve_connection<A: App>(
    connection: Connection,
    app: A,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let Connection { mut stream, peer, tls, slot } = connection;
    let gauge = metrics::gauge!("portolan_http_connections", "listener" => shared.settings.name);
    gauge.increment(1);
    let header_timeout = shared.settings.header_timeout;
    let opening = tokio::select! {
        opening = timeout(header_timeout, opening_of(&stream)) => opening.ok().flatten(),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    if let (Some(opening), Ok(local)) = (opening, stream.local_addr()) {
        // Answers are written whole; waiting for more would only delay them.
        drop(stream.set_nodelay(true));
        let activity = Arc::new(Activity::default());
        let (is_tls, identity) = (tls.is_some(), None);
        let front = Front { app, shared, peer, local, is_tls, identity, activity: Arc::clone(&activity) };
        match (tls, opening) {
            (None, Opening::Http1) => drive(Watched::new(stream, activity), front, false, stopped).await,
            (None, Opening::Http2) => drive(Watched::new(stream, activity), front, true, stopped).await,
            (Some(tls), Opening::Tls) => {
                let acceptor = TlsAcceptor::from(tls());
                match timeout(header_timeout, acceptor.accept(Watched::new(stream, activity))).await {
                    Ok(Ok(stream)) => {
                        let session = stream.get_ref().1;
                        let is_h2 = session.alpn_protocol() == Some(ALPN_H2);
                        // The handshake has verified the chain, where the listener asks for one.
                        let chain = session.peer_certificates().unwrap_or_default();
                        let identity = chain.first().and_then(|own| certs::identity(own).ok());
                        drive(stream, Front { identity, ..front }, is_h2, stopped).await;
                    }
                    Ok(Err(error)) => refused("tls", peer, &error),
                    Err(elapsed) => refused("tls", peer, &elapsed),
                }
            }
            (None, Opening::Tls) | (Some(_), Opening::Http1 | Opening::Http2) => {
                let answered = timeout(header_timeout, stream.write_all(WRONG_PROTOCOL)).await;
                refused("protocol", peer, &format_args!("{answered:?}"));
            }
        }
    }
    gauge.decrement(1);
    drop(slot);
}

/// Looks at the first bytes without taking them; `None` when the client leaves.
async fn opening_of(stream: &TcpStream) -> Option<Opening> {
    let mut first = [0; H2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await.ok()?;
        match &first[..seen] {
            [] => return None,
            [TLS_HANDSHAKE, ..] => return Some(Opening::Tls),
            H2_PREFACE => return Some(Opening::Http2),
            part if H2_PREFACE.starts_with(part) => tokio::time::sleep(PEEK_PAUSE).await,
            _ => return Some(Opening::Http1),
        }
    }
}

fn refused(reason: &'static str, peer: SocketAddr, detail: &dyn std::fmt::Display) {
    metrics::counter!("portolan_http_connections_refused_total", "reason" => reason).increment(1);
    tracing::debug!(reason, %peer, %detail, "a connection was refused");
}

/// Serves requests until the client leaves, stands still, or the listener stops.
async fn drive<A, T>(stream: T, front: Front<A>, is_h2: bool, stopped: watch::Receiver<bool>)
where
    A: App,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let settings = &front.shared.settings;
    let (name, peer) = (settings.name, front.peer);
    let (stall, idle, head) = (settings.stall_timeout, settings.idle_timeout, settings.header_timeout);
    front.activity.begin();
    let watching = supervise(Arc::clone(&front.activity), Patience { stall, idle, head: (!is_h2).then_some(head) });
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| front.clone().handle(request));
    if is_h2 {
        let connection = http2_builder().serve_connection(io, service);
        finish(connection, http2::Connection::graceful_shutdown, watching, stopped, name, peer).await;
    } else {
        let connection = http1_builder().serve_connection(io, service);
        finish(connection, http1::Connection::graceful_shutdown, watching, stopped, name, peer).await;
    }
}

/// Polls a connection beside its supervisor and the order to stop.
async fn finish<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    graceful_shutdown: impl Fn(std::pin::Pin<&mut C>),
    watching: impl Future<Output = Still>,
    mut stopped: watch::Receiver<bool>,
    listener: &'static str,
    peer: SocketAddr,
) {
    let (mut connection, mut watching) = (pin!(connection), pin!(watching));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "a connection ended with an error");
                }
                return;
            }
            still = &mut watching => {
                metrics::counter!("portolan_http_connections_closed_total", "listener" => listener, "reason" => still.label())
                    .increment(1);
                return;
            }
            _ = stopped.wait_for(|stopped| *stopped), if !is_stopping => {
                is_stopping = true;
                graceful_shutdown(connection.as_mut());
            }
        }
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Hyper's header time-out would count the pause between requests as well; our supervisor tells them apart.
    builder.header_read_timeout(None).max_header_size(HEADERS_BYTES_MAX).max_buf_size(BUFFER_BYTES);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(H2_RESETS_LOCAL_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX as u32)
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .keep_alive_interval(H2_PING_INTERVAL);
    builder
}

const _: () = assert!(HEADERS_BYTES_MAX < BUFFER_BYTES);
