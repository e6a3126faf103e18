//! What pings tell about the other nodes.

use registry_core::vocabulary::ids::{NodeId, StoreId};

use crate::blob::store::Pressure;
use crate::ground::Crowd;

use super::Transfer;

/// How another node is doing, as seen from here.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerHealth {
    /// The node.
    pub node: NodeId,
    /// Whether it answered lately. This node itself always does.
    pub is_reachable: bool,
    /// Smoothed round trip, in microseconds; 0 for this node, `u64::MAX` before the first answer.
    pub rtt_us: u64,
    /// Smoothed share of calls that did not come through, 0.0–1.0.
    pub error_share: f64,
    /// Its stores, as it told last.
    pub stores: Vec<StoreHealth>,
    /// The volume of its log is nearly full, as it told last.
    pub log_is_short: bool,
    /// Its wall clock's time less this node's time since boot, milliseconds; `None` if that was not heard lately, or
    /// too slowly to say anything.
    pub clock_epoch_ms: Option<i64>,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// The store.
    pub store: StoreId,
    /// Bytes it may use.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// What its watermarks say.
    pub pressure: Pressure,
    /// It takes no writes at all.
    pub is_failed: bool,
}

impl Transfer {
    /// Every node of the directory, by id.
    pub fn peers(&self) -> Vec<PeerHealth> {
        self.inner.peers.health()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.holder.node
    }

    /// Whether a node is there now, and goes on: as it said a moment ago, or says when it is asked.
    pub async fn answers_now(&self, node: NodeId) -> bool {
        node == self.node() || self.inner.peers.answers_now(node).await
    }

    /// From now on this node tells the others that it ends.
    pub fn set_closing(&self) {
        self.inner.peers.set_closing();
    }

    /// Tells the other nodes, with the next ping, whether the volume of this node's log is nearly full.
    pub fn set_log_short(&self, is_short: bool) {
        self.inner.peers.set_log_short(is_short);
    }

    /// Where the connections of clients are noted: with each ping the other nodes are told whether this one is full.
    pub fn crowd(&self) -> Crowd {
        self.inner.peers.crowd.clone()
    }

    /// Whether nearly all connections that a node takes from clients are taken, as it said last.
    pub fn is_full(&self, node: NodeId) -> bool {
        self.inner.peers.is_full(node)
    }

    /// Whether a node answered lately.
    pub fn is_reachable(&self, node: NodeId) -> bool {
        self.inner.peers.is_reachable(node)
    }
}
