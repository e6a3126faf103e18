//! The harness's own balancer: TCP, health checks, nothing else.
//!
//! It forwards bytes and knows nothing of requests: a connection whose node dies is cut, and the client repeats. A
//! refused connection goes to the next node before the client sees anything. With no node healthy it tries all: during
//! an election every node is "not ready", and still answers pulls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cluster::{Seat, is_ready};
use crate::fault::{Fault, told};
use crate::workload::client::http;

/// Between two looks at a node.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a connection to a node may take.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

/// A node behind the balancer.
#[derive(Debug)]
struct Backend {
    seat: Seat,
    is_healthy: AtomicBool,
}

/// The balancer; ends when dropped.
#[derive(Debug)]
pub(super) struct Own {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Own {
    /// Listens on `address` and forwards to `seats` in turn.
    pub(super) async fn start(address: SocketAddr, seats: Vec<Seat>) -> Result<Own, Fault> {
        let listener = TcpListener::bind(address).await.map_err(told(&format!("the balancer at {address}")))?;
        let address = listener.local_addr().map_err(told("the balancer's address"))?;
        let backends: Arc<[Backend]> =
            seats.into_iter().map(|seat| Backend { seat, is_healthy: AtomicBool::new(true) }).collect();
        let mut tasks = JoinSet::new();
        let http = http(LOOK_EVERY * 2)?;
        for at in 0..backends.len() {
            tasks.spawn(look(Arc::clone(&backends), at, http.clone()));
        }
        tasks.spawn(accept(listener, backends));
        Ok(Own { address, _tasks: tasks })
    }

    /// Where clients go.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Looks at one node again and again.
async fn look(backends: Arc<[Backend]>, at: usize, http: reqwest::Client) {
    let backend = &backends[at];
    loop {
        backend.is_healthy.store(is_ready(&http, &backend.seat).await, Ordering::Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn accept(listener: TcpListener, backends: Arc<[Backend]>) {
    let turn = AtomicUsize::new(0);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX || connections.try_join_next().is_some() {
            if connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
        }
        match listener.accept().await {
            Ok((client, _)) => {
                let first = turn.fetch_add(1, Ordering::Relaxed);
                connections.spawn(forward(client, order(&backends, first)));
            }
            // the process is out of files for a moment: the client waits
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Whom to try, one after the other: the healthy in turn, then the others.
fn order(backends: &[Backend], first: usize) -> Vec<SocketAddr> {
    let turned = (0..backends.len()).map(|at| &backends[(first + at) % backends.len()]);
    let (healthy, others): (Vec<_>, Vec<_>) = turned.partition(|backend| backend.is_healthy.load(Ordering::Relaxed));
    healthy.into_iter().chain(others).map(|backend| backend.seat.public).collect()
}

async fn forward(mut client: TcpStream, order: Vec<SocketAddr>) {
    for address in order {
        if let Ok(Ok(mut node)) = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            let is_quick = client.set_nodelay(true).is_ok() && node.set_nodelay(true).is_ok();
            // either side closed, or was reset: the other sees the same by the drop of its stream
            let _copied = is_quick && tokio::io::copy_bidirectional(&mut client, &mut node).await.is_ok();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A node that answers each connection with its letter.
    async fn node(letter: u8) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(&[letter]).await.unwrap();
            }
        });
        address
    }

    fn seat(public: SocketAddr) -> Seat {
        Seat { name: public.to_string(), public, admin: "127.0.0.1:1".parse().unwrap() }
    }

    async fn ask(balancer: &Own) -> Vec<u8> {
        let mut said = Vec::new();
        TcpStream::connect(balancer.address()).await.unwrap().read_to_end(&mut said).await.unwrap();
        said
    }

    // Connections go to the nodes in turn; one that is refused goes to the next node instead; with no node left the
    // client is cut off.
    #[tokio::test]
    async fn refused_connections_go_on() {
        let (a, b) = (node(b'a').await, node(b'b').await);
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let balancer = Own::start(loopback, vec![seat(a), seat(gone), seat(b)]).await.unwrap();
        let mut said = Vec::new();
        for _ in 0..12 {
            said.extend(ask(&balancer).await);
        }
        assert_eq!(said.len(), 12, "no connection was lost: {said:?}");
        assert!(said.contains(&b'a') && said.contains(&b'b'), "{said:?}");
        let empty = Own::start(loopback, vec![seat(gone)]).await.unwrap();
        assert_eq!(ask(&empty).await, b"");
    }

    // Who is healthy comes first, and takes turns.
    #[test]
    fn healthy_first() {
        let at = |port: u16| seat(SocketAddr::from(([127, 0, 0, 1], port)));
        let backend = |port, is_healthy| Backend { seat: at(port), is_healthy: AtomicBool::new(is_healthy) };
        let backends = [backend(1, true), backend(2, false), backend(3, true)];
        let ports = |first| order(&backends, first).iter().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(0), [1, 3, 2]);
        assert_eq!(ports(1), [3, 1, 2]);
        assert_eq!(ports(2), [3, 1, 2]);
    }
}
