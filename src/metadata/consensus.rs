//! What the metadata needs of consensus: the group of this node, or the simulator's log in its place.

use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "sim")]
use futures_util::future::BoxFuture;
use raft::{Group, Leadership, ProposeError, Proposed, Unavailable};

/// Consensus as this node reaches it.
pub(super) enum Consensus {
    /// The real one.
    Group(Group),
    /// A log that a seed decides.
    #[cfg(feature = "sim")]
    Simulated(std::sync::Arc<dyn SimulatedLog>),
}

/// A log with the promises of [`Group`], one handle for each life of a node. What each method promises stands there.
#[cfg(feature = "sim")]
pub trait SimulatedLog: Send + Sync + 'static {
    /// As [`Group::propose`].
    fn propose(&self, payload: Bytes, limit: Duration) -> BoxFuture<'_, Result<Proposed, ProposeError>>;
    /// As [`Group::linearize`].
    fn linearize(&self, limit: Duration) -> BoxFuture<'_, Result<u64, Unavailable>>;
    /// As [`Group::wait_applied`].
    fn wait_applied(&self, index: u64, limit: Duration) -> BoxFuture<'_, Result<(), Unavailable>>;
    /// As [`Group::applied_index`].
    fn applied_index(&self) -> u64;
    /// As [`Group::confirmed_age_ms`].
    fn confirmed_age_ms(&self) -> u64;
    /// What [`Group::watch_leader`] shows.
    fn leadership(&self) -> Leadership;
    /// The voters.
    fn voters(&self) -> Vec<u64>;
}

impl Consensus {
    pub(super) async fn propose(&self, payload: Bytes, limit: Duration) -> Result<Proposed, ProposeError> {
        match self {
            Consensus::Group(group) => group.propose(payload, limit).await,
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.propose(payload, limit).await,
        }
    }

    pub(super) async fn linearize(&self, limit: Duration) -> Result<u64, Unavailable> {
        match self {
            Consensus::Group(group) => group.linearize(limit).await,
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.linearize(limit).await,
        }
    }

    pub(super) async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Unavailable> {
        match self {
            Consensus::Group(group) => group.wait_applied(index, limit).await,
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.wait_applied(index, limit).await,
        }
    }

    pub(super) fn applied_index(&self) -> u64 {
        match self {
            Consensus::Group(group) => group.applied_index(),
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.applied_index(),
        }
    }

    pub(super) fn confirmed_age_ms(&self) -> u64 {
        match self {
            Consensus::Group(group) => group.confirmed_age_ms(),
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.confirmed_age_ms(),
        }
    }

    pub(super) fn leadership(&self) -> Leadership {
        match self {
            Consensus::Group(group) => *group.watch_leader().borrow(),
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.leadership(),
        }
    }

    pub(super) fn voters(&self) -> Vec<u64> {
        match self {
            Consensus::Group(group) => group.status().voters,
            #[cfg(feature = "sim")]
            Consensus::Simulated(log) => log.voters(),
        }
    }

    /// The real one.
    ///
    /// # Panics
    /// In a simulated node, whose log has no group.
    pub(super) fn group(&self) -> &Group {
        match self {
            Consensus::Group(group) => group,
            #[cfg(feature = "sim")]
            Consensus::Simulated(_) => panic!("a simulated node was asked for its group"),
        }
    }
}
