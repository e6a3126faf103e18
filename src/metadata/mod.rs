//! The only door to consensus: proposals go in, consistent views come out.
//!
//! Never knows HTTP, JSON or who is calling. Start at [`Metadata`]: [`propose`](Metadata::propose) changes the state,
//! [`read`](Metadata::read) looks at it; [`tables`] keeps it on disk, [`machine`] joins it to consensus, [`watch`]
//! wakes the reconcilers;
//! [`stopped`] looks at the state of a node that does not run, [`recover`] makes such a node the cluster,
//! [`backup`] copies the state.

pub mod backup;
mod consensus;
pub mod machine;
mod propose;
mod read;
pub mod recover;
pub mod stopped;
pub mod tables;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(feature = "sim")]
pub use consensus::SimulatedLog;
pub use propose::{Accepted, ProposeError};
pub use read::{Consistency, ReadError};
pub use tables::View;

use registry_core::vocabulary::ids::{NodeId, Revision};

use self::consensus::Consensus;
use self::tables::State;
use self::watch::Watch;

/// How long a request waits for consensus before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handle to the state of the cluster; cheap to clone.
#[derive(Clone)]
pub struct Metadata(Arc<Inner>);

struct Inner {
    consensus: Consensus,
    state: Arc<State>,
    watch: Arc<Watch>,
    /// Whether changes that make the state grow are taken.
    admits_growth: AtomicBool,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Metadata")
    }
}

impl Metadata {
    /// Joins a running group and the state it applies to.
    pub fn new(group: raft::Group, state: Arc<State>, watch: Arc<Watch>) -> Metadata {
        Metadata::over(Consensus::Group(group), state, watch)
    }

    /// Joins the simulator's log and the state it applies to.
    #[cfg(feature = "sim")]
    pub fn simulated(log: Arc<dyn SimulatedLog>, state: Arc<State>, watch: Arc<Watch>) -> Metadata {
        Metadata::over(Consensus::Simulated(log), state, watch)
    }

    fn over(consensus: Consensus, state: Arc<State>, watch: Arc<Watch>) -> Metadata {
        Metadata(Arc::new(Inner { consensus, state, watch, admits_growth: AtomicBool::new(true) }))
    }

    /// Takes changes that make the state grow from now on, or refuses them: a volume that is needed is nearly full.
    pub fn admit_growth(&self, admits: bool) {
        self.0.admits_growth.store(admits, Ordering::Release);
    }

    /// What wakes reconcilers.
    pub fn watch(&self) -> &Watch {
        &self.0.watch
    }

    /// Consensus itself, for the `cluster` room: status, membership, leadership.
    pub fn group(&self) -> &raft::Group {
        self.0.consensus.group()
    }

    /// Who leads, as this node knows.
    pub fn leadership(&self) -> Leadership {
        let seen = self.0.consensus.leadership();
        let is_leader = seen.is_self_ready;
        Leadership { term: seen.term, leader: seen.leader.map(NodeId), is_leader }
    }

    /// How far this node has applied the log.
    pub fn applied_index(&self) -> u64 {
        self.0.consensus.applied_index()
    }

    /// The voters, as this node knows.
    pub fn voters(&self) -> Vec<NodeId> {
        self.0.consensus.voters().into_iter().map(NodeId).collect()
    }

    /// Looks at the state as it is on this node, however old.
    pub fn peek<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        self.0.state.read(read)
    }
}

/// Who leads the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Its term.
    pub term: u64,
    /// Its id, if this node knows one.
    pub leader: Option<NodeId>,
    /// This node leads, and has applied everything committed before.
    pub is_leader: bool,
}

/// The revision of a view.
pub fn revision(view: &View<'_>) -> Revision {
    view.revision()
}
