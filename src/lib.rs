//! Portolan's server.
//!
//! The rooms, and which way they look (checked by `tests/tidy.rs`):
//!
//! - [`ground`]: the world's edge: clocks, randomness, secrets, TLS, logs, the wish to stop
//! - [`config`]: settings, parsed and checked
//! - [`metadata`]: the only door to consensus
//! - [`blob`]: bytes on this node (`store`) and between nodes (`transfer`)
//! - [`cluster`]: this node among the others
//! - [`auth`]: who is asking, and may they
//! - [`registry`]: the use cases, one file per noun
//! - [`replication`]: copies between regions
//! - [`jobs`]: what makes recorded wishes true
//! - [`http`]: listeners, limits, what every request meets
//! - `api`: one room per protocol: parse, ask, render
//! - `node`: builds all of this and joins it
//!
//! `src/core` is a package of its own: vocabulary, metadata, decisions, all pure. `raft/` is consensus.

pub mod api;
pub mod auth;
pub mod blob;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod ground;
pub mod http;
pub mod jobs;
pub mod metadata;
pub mod node;
pub mod registry;
pub mod replication;
