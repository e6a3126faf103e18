//! How openraft's type parameters are filled, and the few aliases the package uses for them.
//!
//! Leaders are elected one per term (the paper's rule), so a log id is (term, index).

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;

use crate::machine::Effect;

openraft::declare_raft_types!(
    /// openraft, filled in.
    pub(crate) Types:
        D = Command,
        R = Effect,
        NodeId = u64,
        Node = Peer,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type LogId = openraft::LogId<openraft::vote::leader_id_std::CommittedLeaderId<u64>>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type Payload = openraft::alias::PayloadOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, crate::snapshot::SnapshotHandle>;
pub(crate) type Raft = openraft::Raft<Types, crate::state::Adapter>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<Types>;

/// What the log holds beside the engine's own entries.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// One proposal.
    Proposal {
        /// Wall time of the leader when it took the proposal, milliseconds since 1970.
        at_ms: u64,
        /// The proposer's bytes.
        payload: Bytes,
    },
    /// A leader's record that this node has lost what it acknowledged; see `suspect`.
    Suspect(u64),
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Proposal { payload, .. } => write!(out, "{} bytes", payload.len()),
            Command::Suspect(node_id) => write!(out, "suspect {node_id:016x}"),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// What the membership records of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) raft_addr: String,
    pub(crate) zone: String,
    pub(crate) meta: Bytes,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Random, made once with the data directory, never reused.
    pub node_id: u64,
    /// Where its consensus listener is reached, `host:port`.
    pub raft_addr: String,
    /// The failure domain it stands in; no zone should hold a majority of the voters.
    pub zone: String,
    /// Whatever the server wants to publish about the node; opaque here.
    pub meta: Bytes,
}

impl Member {
    pub(crate) fn split(self) -> (u64, Peer) {
        (self.node_id, Peer { raft_addr: self.raft_addr, zone: self.zone, meta: self.meta })
    }

    pub(crate) fn join(node_id: u64, peer: &Peer) -> Member {
        let Peer { raft_addr, zone, meta } = peer.clone();
        Member { node_id, raft_addr, zone, meta }
    }
}

/// A position in the log: ordered by term, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Index of the entry; the first one is 0 (the founding membership).
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.term, self.index)
    }
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Position {
        Position { term: id.leader_id.term, index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(position: Position) -> LogId {
        LogId::new_term_index(position.term, position.index)
    }
}
