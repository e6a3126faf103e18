//! Copies between regions: the change stream that a source serves, and the intake that a destination applies it with.
//!
//! What it is: [`Replication`], one per node. As a source every node serves changes, manifests and blobs to other
//! regions, each of which gets what a rule sends it and nothing else, whatever it asks for. As a destination the
//! leader follows each region that is known: it takes changes in log order for each repository, brings what they name
//! bottom-up (blobs, child manifests, the manifest, its tags), and moves its cursor behind what was applied, never
//! ahead of it.
//!
//! Both sides tell each other where they serve clients of their own that asked the other one for a blob (`locate.rs`).
//!
//! What it never does: decide which of two records wins (the core does, by rank), hold a change in memory only (a
//! cursor that lags asks again, and applying twice does no harm), or serve clients.
//!
//! Where to start: `receive.rs` for the destination, `serve.rs` for the source, `peers.rs` for who may call; the wire
//! is `region.proto`. Source: reference "consensus and faults" §6.1, §6.4.

mod account;
mod arrive;
mod backfill;
mod client;
mod compare;
mod fill;
mod flight;
mod images;
mod locate;
mod peers;
mod receive;
mod retry;
mod sample;
mod serve;
mod stream;
mod through;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use raft::TlsSource;
use registry_core::metadata::parked::ParkedId;
use registry_core::metadata::peer::{self, PeerRow};
use registry_core::metadata::region_link::{self, RegionLinkRow};
use registry_core::vocabulary::names::RegionName;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use compare::{ComparisonReport, ComparisonState, Found};
pub use images::{Arrival, ImageStatus};
pub use receive::{SourceState, SourceStatus};
pub use retry::Retried;
pub use sample::SampleReport;

use crate::blob::transfer::Transfer;
use crate::ground::Shutdown;
use crate::ground::sockets::ListenError;
use crate::metadata::{Metadata, View};
use crate::registry::{Received, Registry, Visit};
use client::Source;
use compare::Comparisons;
use flight::Flights;
use locate::Locating;
use peers::Peers;
use receive::Receiver;
use retry::Retrier;
use through::{Asking, Through};

/// The name under which another region acts in the log.
fn principal(region: &RegionName) -> String {
    format!("region/{region}")
}

/// Makes the link for a client that a region sends here; `None` while there is no cluster.
pub type GuestLinks = Arc<dyn Fn(&RegionName, &Visit, &Received) -> Option<String> + Send + Sync>;

/// How this node meets other regions.
#[derive(Clone)]
pub struct Config {
    /// Where it answers them; `None`: it doesn't.
    pub listen: Option<SocketAddr>,
    /// Address that every outgoing socket binds.
    pub bind_source: Option<IpAddr>,
    /// This node's certificate. Without one it meets no other region.
    pub tls: Option<TlsSource>,
    /// Where blobs lie that clients read while they come from another region; the files have no names.
    pub spool: PathBuf,
    /// Who makes links for clients of other regions.
    pub guest_links: GuestLinks,
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
    transfer: Transfer,
    /// Blobs and manifests that clients wait for.
    flights: Arc<Flights>,
    asking: Asking,
    /// Questions where clients of other regions are served.
    locating: Locating,
    sources: Mutex<BTreeMap<u16, Known>>,
    followed: Mutex<BTreeMap<u16, Followed>>,
}

/// What is known of a region, and what is wanted of the link to it.
type Wanted = (PeerRow, RegionLinkRow);

/// A region that may be asked, by this node and for as long as it is known so.
struct Known {
    wanted: Wanted,
    source: Arc<Source>,
}

/// A region that is followed.
struct Followed {
    wanted: Wanted,
    status: Arc<SourceStatus>,
    comparisons: Arc<Comparisons>,
    retrier: Retrier,
    stop: CancellationToken,
    task: JoinHandle<()>,
    comparer: JoinHandle<()>,
    backfiller: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
        self.comparer.abort();
        self.backfiller.abort();
    }
}

impl Replication {
    /// Nothing is served or followed yet.
    pub fn new(config: Config, metadata: Metadata, registry: Registry, transfer: Transfer) -> Replication {
        let peers = Arc::new(Peers::new(metadata.clone(), config.tls.clone()));
        let (sources, followed) = (Mutex::default(), Mutex::default());
        let flights = Arc::new(Flights::new(config.spool.clone()));
        let (asking, locating) = (Asking::default(), Locating::default());
        let inner = Inner { config, metadata, registry, peers, transfer, flights, asking, locating, sources, followed };
        Replication(Arc::new(inner))
    }

    /// From now on pulls of what has not arrived are answered from where it comes from, and other nodes of this region
    /// are handed on what this one brings for that.
    pub fn read_through(&self) {
        let through = || Arc::new(Through(Arc::downgrade(&self.0)));
        self.0.registry.set_elsewhere(through());
        self.0.transfer.set_relay(through());
    }

    /// Answers other regions until shutdown, as soon as there is one.
    ///
    /// # Errors
    /// When the address can't be listened on; it is tried at once.
    pub fn serve(&self, shutdown: Shutdown) -> Result<(), ListenError> {
        let (Some(listen), Some(_)) = (self.0.config.listen, &self.0.config.tls) else { return Ok(()) };
        let listener = crate::ground::sockets::listen(listen, "listen.region")?;
        let (peers, links) = (Arc::clone(&self.0.peers), Arc::clone(&self.0.config.guest_links));
        tokio::spawn(serve::serve(listener, peers, self.0.registry.clone(), links, shutdown));
        Ok(())
    }

    /// The regions that are known, and what is wanted of the links to them.
    fn wanted(&self) -> BTreeMap<u16, Wanted> {
        let wanted = |view: &View<'_>| {
            let link = |(number, row)| (number, (row, region_link::read(view, number)));
            peer::list(view).into_iter().map(link).collect()
        };
        self.0.metadata.peek(wanted)
    }

    /// A region to be asked; `None` if it is not known, or this node has no certificate.
    fn source(&self, number: u16) -> Option<Arc<Source>> {
        let wanted = self.wanted().remove(&number)?;
        self.source_of(number, &wanted)
    }

    fn source_of(&self, number: u16, wanted: &Wanted) -> Option<Arc<Source>> {
        let tls = self.0.config.tls.as_ref()?;
        let mut sources = self.0.sources.lock();
        if let Some(known) = sources.get(&number).filter(|known| known.wanted == *wanted) {
            return Some(Arc::clone(&known.source));
        }
        let source = Arc::new(Source::new(number, wanted, tls, self.0.config.bind_source));
        sources.insert(number, Known { wanted: wanted.clone(), source: Arc::clone(&source) });
        Some(source)
    }

    /// Follows every region that is known and not paused, with what is known of it now; forgets the others. For the
    /// leader.
    pub fn follow(&self) {
        let mut wanted = self.wanted();
        self.0.sources.lock().retain(|number, _| wanted.contains_key(number));
        wanted.retain(|_, (_, link)| !link.is_paused);
        let mut followed = self.0.followed.lock();
        followed.retain(|number, present| wanted.get(number) == Some(&present.wanted) && !present.task.is_finished());
        for (number, wanted) in wanted {
            if followed.contains_key(&number) {
                continue;
            }
            let Some(source) = self.source_of(number, &wanted) else { return };
            let stop = CancellationToken::new();
            let flights = Arc::clone(&self.0.flights);
            let receiver = Receiver::new(self.0.metadata.clone(), self.0.registry.clone(), source, flights);
            let (status, comparisons) = (receiver.status(), receiver.comparisons());
            let retrier = receiver.retrier();
            let comparer = tokio::spawn(receiver.comparer().run(stop.clone()));
            let backfiller = tokio::spawn(receiver.backfiller().run(stop.clone()));
            let task = tokio::spawn(receiver.run(stop.clone()));
            followed
                .insert(number, Followed { wanted, status, comparisons, retrier, stop, task, comparer, backfiller });
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
