//! How nodes talk: our tonic service with opaque frames, one connection per class of traffic, identity from
//! certificates.
//!
//! The room carries bytes and names who speaks; it decides nothing about consensus. [`transport`] and [`identity`]
//! serve any node-to-node service. Start reading at [`wire`], then `client` and `server`.

pub(crate) mod client;
#[cfg(feature = "mutants")]
pub mod hasty;
pub mod identity;
pub(crate) mod net;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod server;
pub mod transport;
pub(crate) mod wire;

/// Generated from `proto/raft.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::wildcard_enum_match_arm)]
#[allow(let_underscore_drop, clippy::cast_lossless, clippy::large_futures, clippy::manual_let_else)]
pub(crate) mod proto {
    tonic::include_proto!("portolan.raft.v1");
}

/// Bytes of one message, both ways.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
