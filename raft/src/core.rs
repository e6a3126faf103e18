//! What all parts of a running node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::config::{Clock, Limits, Timing};
use crate::former::Former;
use crate::gate::Gate;
use crate::identity::Directory;
use crate::log_store::LogStore;
use crate::network::net::Net;
use crate::network::receive::Receiver;
use crate::propose::Forwarder;
use crate::read_index::Reads;
use crate::reinstall::Lent;
use crate::room::Room;
use crate::suspect::Reported;
use crate::types::{Position, Raft, RaftMetrics};

/// A running node. Lives on the runtime of consensus.
pub(crate) struct Core {
    pub(crate) net: Arc<Net>,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) directory: Arc<Directory>,
    pub(crate) reported: Reported,
    /// This node, as the leader, records suspect nodes in the log.
    pub(crate) records_suspects: AtomicBool,
    pub(crate) lent: Lent,
    pub(crate) gate: Arc<Gate>,
    pub(crate) receiver: Receiver,
    pub(crate) applied: watch::Receiver<Option<Position>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) reads: Reads,
    pub(crate) forwarder: Forwarder,
    pub(crate) room: Arc<Room>,
    pub(crate) former: Arc<Former>,
    pub(crate) proposing: AtomicUsize,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    /// Becomes true when the group is told to end.
    pub(crate) ending: watch::Sender<bool>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Core({:016x})", self.net.node_id)
    }
}

/// Who leads, as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Its leader, once known.
    pub leader: Option<u64>,
    /// This node leads, and has applied all that was committed before it did.
    pub is_self_ready: bool,
}

/// A leader and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// This node.
    Here,
    /// Another one.
    There { node_id: u64, addr: String },
}

impl Core {
    pub(crate) fn metrics(&self) -> RaftMetrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Who leads now, if that is known.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let node_id = metrics.current_leader?;
        if node_id == self.net.node_id {
            return Some(Leader::Here);
        }
        let addr = metrics.membership_config.get_node(&node_id)?.raft_addr.clone();
        Some(Leader::There { node_id, addr })
    }

    /// Waits for another leader than was known, but not long: a leader may also take up again what it refused.
    pub(crate) async fn await_leader_change(&self) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let pause = Duration::from_millis((self.timing.heartbeat_ms / 4).max(5));
        let _either = tokio::time::timeout(pause, leadership.changed()).await;
    }

    /// Whether this node has ever been told who the members are.
    pub(crate) fn knows_members(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().next().is_some()
    }

    pub(crate) fn is_member(&self, node_id: u64) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&node_id).is_some()
    }
}

/// Milliseconds since boot, suspended time included: what bounds the age of a state must not stand still with a paused
/// machine.
pub(crate) fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}
