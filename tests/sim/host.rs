//! The machines: each has a volume that outlives its processes, and a state that a restart finds as it was some time
//! ago.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use portolan::blob::store::memory::{MemoryDisk, MemoryStore};
use portolan::blob::store::{BlobStore, Options};
use portolan::ground::Clock;
use portolan::metadata::Metadata;
use portolan::metadata::machine::MetadataMachine;
use portolan::metadata::tables::State;
use portolan::metadata::watch::Watch;
use portolan::node::simulated::{SimulatedNode, World};
use raft::StateMachine as _;
use registry_core::metadata::absence::Patience;
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;
use tokio::time::Instant;

use crate::consensus::{EPOCH_MS, Log, Stand};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::network::{Network, Port};
use crate::oracle::Oracle;
use crate::trace::Trace;

/// The cluster of every run.
pub(crate) const CLUSTER: ClusterId = ClusterId(1);

/// The time of the run, for what asks a clock. The real ones jump; what may free bytes asks none.
#[derive(Debug)]
struct RunClock(Instant);

impl Clock for RunClock {
    fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn boot_ms(&self) -> u64 {
        self.monotonic_ms()
    }
}

/// All machines. Clones share them.
#[derive(Clone)]
pub(crate) struct Hosts(Arc<Inner>);

struct Inner {
    dice: Dice,
    network: Network,
    log: Log,
    oracle: Oracle,
    trace: Trace,
    began: Instant,
    patience: Patience,
    state: Mutex<Machines>,
}

#[derive(Default)]
struct Machines {
    hosts: BTreeMap<NodeId, Host>,
    lives: u64,
}

struct Host {
    zone: ZoneName,
    store: StoreId,
    disk: MemoryDisk,
    /// Entries that its state has applied for good.
    kept: u64,
    running: Option<(u64, SimulatedNode)>,
}

impl Hosts {
    pub(crate) fn new(
        dice: Dice,
        network: Network,
        log: Log,
        oracle: Oracle,
        trace: Trace,
        patience: Patience,
    ) -> Hosts {
        let (began, state) = (Instant::now(), Mutex::default());
        Hosts(Arc::new(Inner { dice, network, log, oracle, trace, began, patience, state }))
    }

    /// A new machine, with an empty disk, that does not run yet.
    pub(crate) fn add(&self, node: NodeId, store: StoreId, zone: &str) {
        let disk = MemoryDisk::new();
        self.0.oracle.disk(store, Some(disk.clone()));
        self.0.log.add(node);
        let zone = ZoneName::parse(zone).expect("a name of a zone");
        self.0.state.lock().hosts.insert(node, Host { zone, store, disk, kept: 0, running: None });
    }

    /// The nodes, running or not.
    pub(crate) fn all(&self) -> Vec<NodeId> {
        self.0.state.lock().hosts.keys().copied().collect()
    }

    /// The volume of a node.
    pub(crate) fn store(&self, node: NodeId) -> Option<StoreId> {
        Some(self.0.state.lock().hosts.get(&node)?.store)
    }

    /// The running node, and its life.
    pub(crate) fn running(&self, node: NodeId) -> Option<(u64, SimulatedNode)> {
        self.0.state.lock().hosts.get(&node)?.running.clone()
    }

    /// Starts a node on what its machine has.
    pub(crate) fn start(&self, node: NodeId) {
        let inner = &*self.0;
        let (life, store, zone, disk, kept) = {
            let mut state = inner.state.lock();
            state.lives += 1;
            let life = state.lives;
            let Some(host) = state.hosts.get(&node).filter(|host| host.running.is_none()) else { return };
            (life, host.store, host.zone.clone(), host.disk.clone(), host.kept)
        };
        inner.trace.note(format!("{node} starts from entry {kept}"));
        let tables = Arc::new(State::in_memory().expect("memory is there"));
        let watch = Arc::new(Watch::default());
        MetadataMachine::new(Arc::clone(&tables), Arc::default())
            .apply(&inner.log.prefix(kept), b"sim")
            .expect("what was applied once is applied again");
        let machine = MetadataMachine::new(Arc::clone(&tables), Arc::clone(&watch));
        inner.network.join(node, life);
        let member = inner.log.start(node, life, Stand { machine, state: Arc::clone(&tables) }, kept);
        let clock = Arc::new(RunClock(inner.began));
        let asked = Arc::clone(&clock);
        let options = Options::new(Arc::new(move || asked.wall_ms()));
        let store = MemoryStore::open(&disk, store, options);
        let store: Arc<dyn BlobStore> = Arc::new(Disk { store, oracle: inner.oracle.clone() });
        let wire = Arc::new(Port { network: inner.network.clone(), life });
        let metadata = Metadata::simulated(member, tables, watch);
        let patience = inner.patience;
        let world = World { cluster: CLUSTER, node, zone, store, metadata, wire, clock, patience };
        let started = SimulatedNode::start(world);
        inner.network.serve(node, started.transfer.clone());
        if let Some(host) = inner.state.lock().hosts.get_mut(&node) {
            host.running = Some((life, started));
        }
    }

    /// Cuts the power of a machine, or kills its process only: then the disk keeps what was written.
    pub(crate) fn stop(&self, node: NodeId, is_power_cut: bool) {
        let inner = &*self.0;
        let applied = inner.log.applied(node);
        let (started, disk) = {
            let mut state = inner.state.lock();
            let Some(host) = state.hosts.get_mut(&node) else { return };
            let Some((_, started)) = host.running.take() else { return };
            // the state is never synced: what it had applied may be gone
            let applied = applied.unwrap_or(0).max(host.kept);
            host.kept = if is_power_cut { inner.dice.between(host.kept, applied) } else { applied };
            (started, host.disk.clone())
        };
        inner.trace.note(format!("{node} stops{}", if is_power_cut { ": power cut" } else { "" }));
        inner.network.leave(node);
        inner.log.stop(node);
        started.kill();
        tokio::spawn(async move { started.bury().await });
        if is_power_cut {
            let (dice, again) = (inner.dice.clone(), inner.dice.clone());
            let mut keep = |_, len: u64| match dice.below(3) {
                0 => None,
                1 => Some(dice.between(0, len)),
                _ => Some(len),
            };
            disk.crash(&mut keep, &mut |_| again.percent(50));
        }
    }

    /// A machine is lost with all it had; its node is removed, and never comes back.
    pub(crate) fn lose(&self, node: NodeId) -> Option<ZoneName> {
        self.stop(node, true);
        let host = self.0.state.lock().hosts.remove(&node)?;
        self.0.oracle.disk(host.store, None);
        self.0.log.remove(node);
        self.0.trace.note(format!("{node} is lost with its disk"));
        Some(host.zone)
    }
}
