//! The surfaces: each parses one protocol to typed values, asks auth, calls one method of the registry, and renders.
//!
//! No rule of the product stands here: what two surfaces have in common lives in `registry` or further in.

pub mod admin;
pub mod oci;
