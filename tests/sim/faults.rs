//! What goes wrong: nodes die, pause and lose what was not synced, links are cut, leaders change, copies rot, a machine
//! is lost. Which of it, and how often, each seed decides anew.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan::blob::store::BlobKey;
use registry_core::metadata::check::stored::records;
use registry_core::metadata::node;
use registry_core::metadata::node::{NodeState, SetNodeState};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::consensus::Log;
use crate::dice::Dice;
use crate::host::Hosts;
use crate::network::Network;
use crate::oracle::{Copy, Oracle};
use crate::trace::Trace;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed; its machine keeps what was written.
    Kill,
    /// The power of a machine is cut.
    PowerCut,
    /// The power of all machines is cut.
    PowerCutAll,
    /// A node is alone.
    Isolate,
    /// Nothing gets from one node to another; the other way is open.
    CutOneWay,
    /// A node stands still.
    Pause,
    /// The leader steps down.
    Depose,
    /// Consensus takes up nothing for some seconds, in which a node is killed and comes back: what it placed before
    /// is not committed yet.
    Stall,
    /// Everything is slow, and messages are lost.
    Degrade,
    /// A copy rots.
    Rot,
    /// A machine is lost, and another one takes its place.
    Lose,
}

const ALL: [Fault; 11] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::Isolate,
    Fault::CutOneWay,
    Fault::Pause,
    Fault::Depose,
    Fault::Stall,
    Fault::Degrade,
    Fault::Rot,
    Fault::Lose,
];

/// Whoever makes things go wrong.
pub(crate) struct Nemesis {
    dice: Dice,
    /// The faults of this run; some stand here several times.
    mix: Vec<Fault>,
    rest_ms: u64,
    hosts: Hosts,
    network: Network,
    log: Log,
    oracle: Oracle,
    trace: Trace,
    /// The next new machine.
    next: u64,
    may_lose: bool,
}

impl Nemesis {
    pub(crate) fn new(dice: Dice, hosts: Hosts, network: Network, log: Log, oracle: Oracle, trace: Trace) -> Nemesis {
        let weighted = |fault: &Fault| std::iter::repeat_n(*fault, dice.below(4) as usize).collect::<Vec<_>>();
        let mix = ALL.iter().flat_map(weighted).collect();
        let (rest_ms, may_lose) = (*dice.pick(&[300, 1500, 4000]), dice.percent(30));
        Nemesis { dice, mix, rest_ms, hosts, network, log, oracle, trace, next: 100, may_lose }
    }

    /// Goes on until the run is over; what is broken then stays broken.
    pub(crate) async fn rage(mut self, is_over: watch::Receiver<bool>) {
        while !self.mix.is_empty() && !*is_over.borrow() {
            sleep(self.dice.wait(self.rest_ms / 4, self.rest_ms * 2)).await;
            let fault = *self.dice.pick(&self.mix);
            self.strike(fault).await;
        }
    }

    fn node(&self) -> NodeId {
        // the leader half of the time
        match self.log.leader().filter(|_| self.dice.percent(50)) {
            Some(leader) => leader,
            None => *self.dice.pick(&self.hosts.all()),
        }
    }

    async fn strike(&mut self, fault: Fault) {
        self.trace.note(format!("fault: {fault:?}"));
        let node = self.node();
        match fault {
            Fault::Kill | Fault::PowerCut => {
                self.hosts.stop(node, fault == Fault::PowerCut);
                sleep(self.dice.wait(10, 4000)).await;
                self.hosts.start(node);
            }
            Fault::PowerCutAll => {
                let all = self.hosts.all();
                all.iter().for_each(|node| self.hosts.stop(*node, true));
                for node in all {
                    sleep(self.dice.wait(1, 800)).await;
                    self.hosts.start(node);
                }
            }
            Fault::Isolate => {
                for other in self.hosts.all().into_iter().filter(|other| *other != node) {
                    self.network.cut(node, other);
                    self.network.cut(other, node);
                }
                self.then_heal().await;
            }
            Fault::CutOneWay => {
                let other = *self.dice.pick(&self.hosts.all());
                self.network.cut(node, other);
                self.then_heal().await;
            }
            Fault::Pause => {
                self.network.pause(node, true);
                sleep(self.dice.wait(100, 5000)).await;
                self.network.pause(node, false);
            }
            Fault::Depose => self.log.depose(),
            Fault::Stall => {
                self.log.stall(self.dice.wait(2000, 7000));
                sleep(self.dice.wait(200, 1500)).await;
                self.hosts.stop(node, self.dice.percent(50));
                sleep(self.dice.wait(10, 300)).await;
                self.hosts.start(node);
            }
            Fault::Degrade => {
                self.network.degrade(self.dice.between(20, 400), self.dice.between(0, 200));
                self.then_heal().await;
            }
            Fault::Rot => self.rot(),
            Fault::Lose => self.lose(node).await,
        }
    }

    async fn then_heal(&self) {
        sleep(self.dice.wait(200, 8000)).await;
        self.network.heal();
    }

    /// Copies that may be lost because enough others are good: another node and another zone would still serve them.
    fn is_spare(&self, store: StoreId, key: &BlobKey, named: &[StoreId]) -> bool {
        let others = named.iter().filter(|other| **other != store);
        self.oracle.facts(|facts| others.filter(|other| facts.copy(**other, key) == Some(Copy::Good)).count() >= 2)
    }

    fn rot(&self) {
        let records: Vec<_> = self.oracle.facts(|facts| records(&facts.rows).collect());
        if records.is_empty() {
            return;
        }
        let record = self.dice.pick(&records);
        let (key, named) = (BlobKey::new(record.digest, record.row.generation), &record.row.stores);
        if named.is_empty() {
            return;
        }
        let store = *self.dice.pick(named);
        let disk = self.oracle.facts(|facts| facts.disks.get(&store).cloned());
        let Some(disk) = disk.filter(|_| self.is_spare(store, &key, named)) else { return };
        if disk.damage(&key, self.dice.below(record.row.size_bytes.max(1))) {
            self.oracle.damaged(store, key);
            self.trace.note(format!("a copy of {} on {store} rots", key.digest));
        }
    }

    /// Loses a machine for ever, once in a run, if every record has two other good copies.
    async fn lose(&mut self, node: NodeId) {
        if !self.may_lose {
            return;
        }
        let Some(store) = self.hosts.store(node) else { return };
        let is_safe = self.oracle.facts(|facts| records(&facts.rows).collect::<Vec<_>>()).iter().all(|record| {
            let key = BlobKey::new(record.digest, record.row.generation);
            self.is_spare(store, &key, &record.row.stores)
        });
        let running: Vec<NodeId> =
            self.hosts.all().into_iter().filter(|id| self.hosts.running(*id).is_some()).collect();
        if !is_safe || running.len() < 3 || !running.contains(&node) {
            return;
        }
        self.may_lose = false;
        let Some(zone) = self.hosts.lose(node) else { return };
        self.next += 1;
        let (new, store) = (NodeId(self.next), StoreId(self.next));
        self.hosts.add(new, store, zone.as_str());
        self.hosts.start(new);
        for _ in 0..50 {
            let Some((_, other)) = self.hosts.running(*self.dice.pick(&self.hosts.all())) else { continue };
            let removal = SetNodeState { node, state: NodeState::Removed };
            if other.metadata.propose("operator", vec![removal.into()]).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Whether the state knows these nodes and no others.
pub(crate) fn are_registered(oracle: &Oracle, nodes: &[NodeId]) -> bool {
    let wanted: BTreeSet<NodeId> = nodes.iter().copied().collect();
    oracle.facts(|facts| node::topology(&facts.rows).storing_nodes()) == wanted
}
