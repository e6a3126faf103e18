//! Consensus: openraft behind our own types, a log on RocksDB, a network on tonic.
//!
//! The package replicates opaque entries onto a [`StateMachine`] that the server implements. It knows nothing about
//! what they mean, and nothing outside it names a type of openraft. Start reading at [`Group`], the one handle a server
//! holds; then `state` (how entries are applied), `log_store` (how they become durable) and [`network`].
//!
//! The rules this package must keep, and the test of each, are the table in `raft/README.md`.

/// The target under which the engine writes its own log lines: many, and long, from "info" on.
pub const ENGINE_LOG_TARGET: &str = "openraft";

mod change;
mod codec;
mod config;
mod core;
mod fatal;
mod files;
mod former;
mod gate;
mod group;
mod identity;
mod inspect;
mod log_store;
mod machine;
mod metrics;
pub mod network;
mod propose;
mod read_index;
mod recover;
mod reinstall;
mod room;
mod snapshot;
mod state;
mod stores;
mod suspect;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod types;

pub use change::ChangeError;
pub use codec::CodecError;
pub use config::{Clock, GroupConfig, Limits, StartError, Timing};
pub use core::Leadership;
pub use group::{Group, InitializeError, Lifetime, State, Status};
pub use identity::IdentityError;
pub use inspect::{Inspection, Owner, inspect};
pub use log_store::LogOpenError;
#[cfg(feature = "mutants")]
pub use log_store::skip_syncs;
pub use machine::{Committed, Effect, MachineError, StateMachine};
#[cfg(feature = "mutants")]
pub use network::hasty::acknowledge_at_send;
pub use network::transport::{NodeTls, TlsSource};
pub use propose::{ProposeError, Proposed};
pub use read_index::Unavailable;
pub use recover::{NewLife, Other, RecoverError, Survey, recover, restore, survey};
pub use reinstall::{condemn, condemned};
pub use suspect::{Suspicion, Why};
pub use types::{Member, Position};
