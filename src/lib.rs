//! The server.

pub mod blob;
