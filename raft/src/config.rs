//! What a group is started with, and the reasons it does not start.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::codec::CodecError;
use crate::identity::IdentityError;
use crate::log_store::LogOpenError;
use crate::machine::MachineError;
use crate::network::transport::TlsSource;
use crate::types::Position;

/// Milliseconds since 1970, by the wall.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a group is started with.
#[derive(Clone)]
pub struct GroupConfig {
    /// The cluster; random, made when it was founded.
    pub cluster_id: u128,
    /// The life of the cluster's log that a new directory begins in; one that was used knows its own. Nodes of another
    /// one are refused.
    pub lineage: u64,
    /// This node; random, made once with its data directory, never reused.
    pub node_id: u64,
    /// Directory of consensus: log, snapshots, identity. On the same file system as the state, which is copied by hard
    /// links.
    pub dir: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Source address of every outgoing socket.
    pub bind_source: Option<IpAddr>,
    /// Certificates, asked for at every new connection. `None` only when all nodes are on loopback.
    pub tls: Option<TlsSource>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Wall clock for the `at` of entries.
    pub clock: Clock,
    /// Bounds, and when to copy the state.
    pub limits: Limits,
}

impl std::fmt::Debug for GroupConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "GroupConfig(node {:016x} at {})", self.node_id, self.listen)
    }
}

impl GroupConfig {
    /// With default timing, limits and the system's clock, without TLS.
    pub fn new(cluster_id: u128, lineage: u64, node_id: u64, dir: PathBuf, listen: SocketAddr) -> GroupConfig {
        let (timing, limits) = (Timing::default(), Limits::default());
        let clock: Clock = Arc::new(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
        });
        GroupConfig { cluster_id, lineage, node_id, dir, listen, bind_source: None, tls: None, timing, clock, limits }
    }
}

/// Heartbeats and elections. A follower stands after the lease (`election_max_ms`) **plus** its own draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest draw.
    pub election_min_ms: u64,
    /// Longest draw, and the leader's lease.
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 }
    }
}

/// Bounds, and when to copy the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Copy the state after so many entries.
    pub snapshot_every: u64,
    /// Entries kept below the latest copy. Must cover what is written while a snapshot travels, or its receiver needs
    /// another.
    pub keep_entries: u64,
    /// Entries purged together.
    pub purge_batch: u64,
    /// Appends written and not yet durable; see `log_store`.
    pub append_depth: usize,
    /// Messages with entries on their way to one follower; while so many are, further entries gather for the next one.
    /// A follower syncs its log once for each: more of them would queue up as many small ones, each with a sync of its
    /// own, and a follower that fell behind once would stay behind.
    pub append_messages: usize,
    /// Entries in one message.
    pub message_entries: u64,
    /// Bytes of entries in one message, about.
    pub message_bytes: usize,
    /// Bytes of one proposal. A larger one is answered as unavailable: the caller should have refused it.
    pub proposal_bytes: usize,
    /// Proposals of this node without an answer; more are refused as busy.
    pub proposals: usize,
    /// Reads of this node that wait for a round; more are refused.
    pub reads: usize,
    /// Bytes of snapshot sent in a second, to one peer.
    pub snapshot_rate_bytes: u64,
    /// A learner may lag so many entries behind when it is made a voter.
    pub promotion_lag: u64,
    /// Room that should be free on the volume of the log; as much is held back by a file that is given away when the
    /// volume fills. At most a sixteenth of the volume; 0 for none.
    pub reserve_bytes: u64,
    /// Confirm this node's state at least so often, also when nobody reads.
    pub confirm_every_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            snapshot_every: 50_000,
            keep_entries: 100_000,
            purge_batch: 1_000,
            append_depth: 1,
            append_messages: 2,
            message_entries: 1_024,
            message_bytes: 4 << 20,
            proposal_bytes: 2 << 20,
            proposals: 4_096,
            reads: 65_536,
            snapshot_rate_bytes: 200 << 20,
            promotion_lag: 1_000,
            reserve_bytes: 0,
            confirm_every_ms: 5_000,
        }
    }
}

/// The group does not start. Nothing was changed that a later start could trip over.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the settings of consensus: {0}")]
    Settings(String),
    /// The directory is somebody else's, marked suspect, or unreadable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log is damaged, or has lost acknowledged entries.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// Entries between the state and the log are gone, and no other node has given its state in time.
    #[error(
        "the state ends at {applied:?}, but the log begins after {purged}: entries in between are gone here. The node \
         does not start over a gap, and no other member has a state that it could give. Start the others; if there \
         are none, restore a backup"
    )]
    Gap {
        /// The end of the state, or of the latest snapshot.
        applied: Option<Position>,
        /// What was purged from the log.
        purged: Position,
    },
    /// The state cannot be read.
    #[error("the state machine: {0}")]
    Machine(#[from] MachineError),
    /// What is kept for us beside the state, or in the log, cannot be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Without TLS only loopback may be used.
    #[error("{0} is not a loopback address, and no certificates are given")]
    Insecure(SocketAddr),
    /// The listener, a thread or a file.
    #[error("consensus: {0}")]
    Io(#[from] io::Error),
    /// openraft refuses what it found.
    #[error("consensus: {0}")]
    Engine(String),
}
