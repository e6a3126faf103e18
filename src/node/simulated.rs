//! A node of the simulator: the server's own parts, joined as [`run`](super::run) joins them, over a log, a network and
//! a disk that a seed decides. Compiled into tests only (feature `sim`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_core::decide::fuse::Fuse;
use registry_core::metadata::absence::Patience;
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;

use super::blobs;
use crate::blob::store::BlobStore;
use crate::blob::transfer::{self, Transfer, Wire};
use crate::cluster::registration::Seat;
use crate::cluster::{Cluster, feed};
use crate::ground::traffic::Traffic;
use crate::ground::{Clock, Shutdown};
use crate::jobs::Driver;
use crate::jobs::clock_tick::ClockTick;
use crate::jobs::collect_garbage::{CollectGarbage, CollectionSettings};
use crate::jobs::compact_packs::CompactPacks;
use crate::jobs::drop_replicas::DropReplicas;
use crate::jobs::forget_uploads::ForgetUploads;
use crate::jobs::free_files::{FreeFiles, Freed};
use crate::jobs::free_stagings::FreeStagings;
use crate::jobs::purge_quarantine::PurgeQuarantine;
use crate::jobs::purge_repositories::PurgeRepositories;
use crate::jobs::rebalance_replicas::{RebalanceReplicas, RebalanceSettings};
use crate::jobs::repair_replicas::{RepairReplicas, Repairs};
use crate::jobs::review_needs::ReviewNeeds;
use crate::jobs::settle_uses::SettleUses;
use crate::jobs::watch_nodes::WatchNodes;
use crate::metadata::Metadata;
use crate::registry::Registry;

/// Collection stops and asks above this share only: a simulated registry is mostly garbage.
const FUSE_PERCENT: u8 = 100;
/// Copies move to a volume that lacks a few of the simulated blobs, a few in a second.
const REBALANCE: RebalanceSettings = RebalanceSettings { bytes_per_s: 1 << 20, floor_bytes: 150_000 };
/// How often a node looks for changes of the topology.
const LOOK: Duration = Duration::from_millis(50);

/// What stands in the place of the world.
pub struct World {
    /// Whose cluster it is.
    pub cluster: ClusterId,
    /// Who it is.
    pub node: NodeId,
    /// Where it stands.
    pub zone: ZoneName,
    /// Its volume.
    pub store: Arc<dyn BlobStore>,
    /// Its way to consensus, with the state that the log is applied to.
    pub metadata: Metadata,
    /// Its way to the other nodes.
    pub wire: Arc<dyn Wire>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// For how long it waits for nodes and zones that are not heard.
    pub patience: Patience,
}

/// A running node.
#[derive(Clone)]
pub struct SimulatedNode {
    /// Its door to consensus.
    pub metadata: Metadata,
    /// Its use cases.
    pub registry: Registry,
    /// Its bytes.
    pub transfer: Transfer,
    shutdown: Shutdown,
}

impl SimulatedNode {
    /// Starts the parts of a node and its jobs. Must be called inside the simulator's runtime.
    pub fn start(world: World) -> SimulatedNode {
        let World { cluster, node, zone, store, metadata, wire, clock, patience } = world;
        let listen = SocketAddr::from(([127, 0, 0, 1], 1));
        let settings = transfer::Settings::default();
        let told = Arc::clone(&clock);
        let config = transfer::Config { cluster, node, listen, bind_source: None, tls: None, clock: told, settings };
        let (epochs, observer) = blobs::asked_and_told(&metadata, node);
        let transfer = Transfer::simulated(config, vec![Arc::clone(&store)], epochs, observer, wire);
        let registry = Registry::new(metadata.clone(), transfer.clone());
        let parts = SimulatedNode { metadata, registry, transfer, shutdown: Shutdown::new() };
        parts.start_jobs(node, zone.clone(), &store, clock);
        parts.start_repair(node, zone, store.store_id(), patience);
        parts
    }

    fn start_jobs(&self, node: NodeId, zone: ZoneName, store: &Arc<dyn BlobStore>, clock: Arc<dyn Clock>) {
        let SimulatedNode { metadata, transfer, shutdown, .. } = self;
        let (principal, driver, stop) =
            (Cluster::principal(node), Driver::new(Traffic::default()), || shutdown.clone());
        let seat = seat(node, zone.clone(), store.store_id());
        tokio::spawn(seat.keep(metadata.clone(), stop()));
        tokio::spawn(feed(metadata.clone(), transfer.clone(), stop()));
        let wish =
            CollectionSettings { fuse: Fuse { percent: FUSE_PERCENT, floor_bytes: 0 }, untagged: None, orphaned: None };
        driver.start(ClockTick::new(metadata.clone(), principal.clone()), stop());
        driver.start(CollectGarbage::new(metadata.clone(), wish, Traffic::default(), principal.clone()), stop());
        let free =
            FreeFiles::new(metadata.clone(), Arc::clone(store), Freed::new(), Traffic::default(), principal.clone());
        driver.start(free, stop());
        driver.start(CompactPacks::new(metadata.clone(), Arc::clone(store)), stop());
        driver.start(PurgeQuarantine::new(Arc::clone(store), clock), stop());
        driver.start(ForgetUploads::new(metadata.clone(), principal.clone()), stop());
        driver.start(FreeStagings::new(Arc::clone(store)), stop());
        driver.start(PurgeRepositories::new(metadata.clone(), principal.clone()), stop());
        driver.start(ReviewNeeds::new(metadata.clone(), principal.clone()), stop());
        driver.start(SettleUses::new(metadata.clone(), principal.clone()), stop());
    }

    fn start_repair(&self, node: NodeId, zone: ZoneName, store: StoreId, patience: Patience) {
        let SimulatedNode { metadata, transfer, shutdown, .. } = self;
        let (principal, driver) = (Cluster::principal(node), Driver::new(Traffic::default()));
        let told = Repairs::default();
        let (metadata, transfer) = (|| metadata.clone(), || transfer.clone());
        let (principal, stop) = (|| principal.clone(), || shutdown.clone());
        driver.start(WatchNodes::new(metadata(), transfer(), node, patience, principal()), stop());
        let stores = Arc::from([store]);
        let repair = RepairReplicas::new(metadata(), transfer(), zone, stores, principal(), told.clone());
        driver.start(repair, stop());
        driver.start(DropReplicas::new(metadata(), transfer(), principal()), stop());
        let rebalance = RebalanceReplicas::new(metadata(), transfer(), store, REBALANCE, principal(), told);
        driver.start(rebalance, stop());
    }

    /// Its tasks end where they are, as those of a killed process do.
    pub fn kill(&self) {
        self.shutdown.request();
    }

    /// Ends what the kill of a node leaves behind.
    pub async fn bury(&self) {
        self.transfer.shutdown().await;
    }
}

/// Hands the topology on. Looks for changes by itself: in which order two waiters of one watch wake no seed decides.
async fn feed(metadata: Metadata, transfer: Transfer, shutdown: Shutdown) {
    let mut known = None;
    while !shutdown.is_requested() {
        let (nodes, topology) = feed::read(&metadata);
        if known.as_ref() != Some(&nodes) || *transfer.directory().topology() != topology {
            blobs::set_directory(&transfer, nodes.clone(), &topology);
            known = Some(nodes);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn seat(node: NodeId, zone: ZoneName, store: StoreId) -> Seat {
    let address = format!("node-{}:1", node.0);
    Seat {
        node,
        zone,
        raft_address: address.clone(),
        blob_address: address.clone(),
        public_url: format!("http://{address}"),
        store,
        weight: 100,
    }
}
