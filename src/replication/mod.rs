//! Copies between regions: the change stream that a source serves, and the intake that a destination applies it with.
//!
//! What it is: [`Replication`], one per node. As a source every node serves changes, manifests and blobs to other
//! regions, each of which gets what a rule sends it and nothing else, whatever it asks for. As a destination the
//! leader follows each region that is known: it takes changes in log order for each repository, brings what they name
//! bottom-up (blobs, child manifests, the manifest, its tags), and moves its cursor behind what was applied, never
//! ahead of it.
//!
//! What it never does: decide which of two records wins (the core does, by rank), hold a change in memory only (a
//! cursor that lags asks again, and applying twice does no harm), or serve clients.
//!
//! Where to start: `receive.rs` for the destination, `serve.rs` for the source, `peers.rs` for who may call; the wire
//! is `region.proto`. Source: reference "consensus and faults" §6.1, §6.4.

mod account;
mod arrive;
mod client;
mod compare;
mod peers;
mod receive;
mod retry;
mod serve;
mod stream;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use raft::TlsSource;
use registry_core::metadata::parked::ParkedId;
use registry_core::metadata::peer::{self, PeerRow};
use registry_core::vocabulary::names::RegionName;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use compare::{ComparisonReport, ComparisonState, Found};
pub use receive::{SourceState, SourceStatus};
pub use retry::Retried;

use crate::ground::Shutdown;
use crate::ground::sockets::ListenError;
use crate::metadata::Metadata;
use crate::registry::Registry;
use client::Source;
use compare::Comparisons;
use peers::Peers;
use receive::Receiver;
use retry::Retrier;

/// The name under which another region acts in the log.
fn principal(region: &RegionName) -> String {
    format!("region/{region}")
}

/// How this node meets other regions.
#[derive(Clone)]
pub struct Config {
    /// Where it answers them; `None`: it doesn't.
    pub listen: Option<SocketAddr>,
    /// Address that every outgoing socket binds.
    pub bind_source: Option<IpAddr>,
    /// This node's certificate. Without one it meets no other region.
    pub tls: Option<TlsSource>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Config({:?})", self.listen)
    }
}

/// The replication of one node. Cheap to clone.
#[derive(Clone)]
pub struct Replication(Arc<Inner>);

impl std::fmt::Debug for Replication {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Replication")
    }
}

struct Inner {
    config: Config,
    metadata: Metadata,
    registry: Registry,
    peers: Arc<Peers>,
    followed: Mutex<BTreeMap<u16, Followed>>,
}

/// A region that is followed.
struct Followed {
    row: PeerRow,
    status: Arc<SourceStatus>,
    comparisons: Arc<Comparisons>,
    retrier: Retrier,
    stop: CancellationToken,
    task: JoinHandle<()>,
    comparer: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
        self.comparer.abort();
    }
}

impl Replication {
    /// Nothing is served or followed yet.
    pub fn new(config: Config, metadata: Metadata, registry: Registry) -> Replication {
        let peers = Arc::new(Peers::new(metadata.clone(), config.tls.clone()));
        Replication(Arc::new(Inner { config, metadata, registry, peers, followed: Mutex::default() }))
    }

    /// Answers other regions until shutdown, as soon as there is one.
    ///
    /// # Errors
    /// When the address can't be listened on; it is tried at once.
    pub fn serve(&self, shutdown: Shutdown) -> Result<(), ListenError> {
        let (Some(listen), Some(_)) = (self.0.config.listen, &self.0.config.tls) else { return Ok(()) };
        let listener = crate::ground::sockets::listen(listen, "listen.region")?;
        tokio::spawn(serve::serve(listener, Arc::clone(&self.0.peers), self.0.registry.clone(), shutdown));
        Ok(())
    }

    /// Follows every region that is known, with what is known of it now; forgets the others. For the leader.
    pub fn follow(&self) {
        let Some(tls) = &self.0.config.tls else { return };
        let known: BTreeMap<u16, PeerRow> = self.0.metadata.peek(|view| peer::list(view)).into_iter().collect();
        let mut followed = self.0.followed.lock();
        followed.retain(|number, present| known.get(number) == Some(&present.row) && !present.task.is_finished());
        for (number, row) in known {
            followed.entry(number).or_insert_with(|| {
                let stop = CancellationToken::new();
                let source = Source::new(number, &row, tls, self.0.config.bind_source);
                let receiver = Receiver::new(self.0.metadata.clone(), self.0.registry.clone(), source);
                let (status, comparisons) = (receiver.status(), receiver.comparisons());
                let retrier = receiver.retrier();
                let comparer = tokio::spawn(receiver.comparer().run(stop.clone()));
                let task = tokio::spawn(receiver.run(stop.clone()));
                Followed { row, status, comparisons, retrier, stop, task, comparer }
            });
        }
    }

    /// Follows nobody any more: another node leads.
    pub fn rest(&self) {
        self.0.followed.lock().clear();
    }

    /// What came of comparing with each region that is followed, by number; empty where another node leads.
    pub fn comparisons(&self) -> Vec<(u16, ComparisonState)> {
        self.0.followed.lock().iter().map(|(number, followed)| (*number, followed.comparisons.state())).collect()
    }

    /// Compares everything with a region as soon as may be; whether this node follows it.
    pub fn compare(&self, number: u16) -> bool {
        let followed = self.0.followed.lock();
        let found = followed.get(&number);
        found.inspect(|followed| followed.comparisons.ask()).is_some()
    }

    /// Tries some of the changes of a region that were put aside, behind one of them; `None` if this node does not
    /// follow it.
    pub async fn retry_parked(&self, number: u16, after: Option<ParkedId>) -> Option<Retried> {
        let retrier = self.0.followed.lock().get(&number).map(|followed| followed.retrier.clone())?;
        Some(retrier.retry(after).await)
    }

    /// Where this node stands with each region that it follows, by number; empty where another node leads.
    pub fn states(&self) -> Vec<(u16, SourceState)> {
        self.0.followed.lock().iter().map(|(number, followed)| (*number, followed.status.state())).collect()
    }
}
