//! Where the copies of a blob live inside a region.
//!
//! A pure function of (digest, topology, copies that exist): it returns stores *and the reason*. It never knows who is
//! reachable: what is chosen, and what 201 means, follow the configured topology. Nothing moves merely because the hash
//! would choose differently today; the hash decides only new copies.
//!
//! Start at [`assign`]; [`Topology`] is the input, [`write_rule`] says when a write is durable,
//! [`choose_upload_pair`] who holds an upload; `race` ranks the stores.
//!
//! Source: consensus-and-faults §5.2, §5.3, §5.6.

mod assign;
mod quorum;
mod race;
mod topology;
mod upload;

pub use assign::{Assignment, Choice, PassedOver, Reason, Waiting, assign};
pub use quorum::{Degradation, WriteRule, write_rule};
pub use topology::{NodePlace, StorePlace, StoreState, Topology, TopologyError};
pub use upload::{NoPair, UploadPair, choose_upload_pair};
