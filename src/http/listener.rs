//! The accept loop: takes connections while there is room, and lets them finish when told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::App;
use super::connection::{Connection, serve_connection};
use super::front::Shared;
use super::settings::Settings;
use super::slots::ConnectionSlots;

/// Gives the TLS configuration for the next connection, so that a renewed certificate is used at once (H5).
pub type TlsSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// Pause after an accept that failed for lack of something (file descriptors, memory), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `stop`, then lets requests under way finish within the drain time-out.
pub async fn serve<A: App>(
    listener: TcpListener,
    app: A,
    settings: Settings,
    tls: Option<TlsSource>,
    stop: impl Future<Output = ()> + Send,
) {
    let (most, per_address) = (settings.connections_max, settings.connections_per_address_max);
    let slots = ConnectionSlots::new(most, per_address, settings.crowd.clone());
    let shared = Shared::new(settings);
    let (stopping, stopped) = watch::channel(false);
    let connections = TaskTracker::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Some((stream, peer)) = survive(accepted).await else { continue };
        let is_proxy = shared.settings.trusted_proxies.iter().any(|network| network.contains(peer.ip()));
        let slot = match slots.take(peer.ip().to_canonical(), is_proxy) {
            Ok(slot) => slot,
            Err(refused) => {
                metrics::counter!("portolan_http_connections_refused_total", "reason" => refused.label()).increment(1);
                continue;
            }
        };
        let connection = Connection { stream, peer, tls: tls.clone(), slot };
        connections.spawn(serve_connection(connection, app.clone(), Arc::clone(&shared), stopped.clone()));
    }
    drop(listener);
    stopping.send_replace(true);
    connections.close();
    if tokio::time::timeout(shared.settings.drain_timeout, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests were still under way after the drain time-out");
    }
}

/// An accept may fail because of one client, or because the process lacks something: neither ends the listener (H2).
async fn survive(accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<(TcpStream, SocketAddr)> {
    match accepted {
        Ok(connection) => Some(connection),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
