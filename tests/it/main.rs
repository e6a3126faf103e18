//! Integration tests against real processes: one binary, linked once.

mod failover;
mod oci_edges;
mod support;
mod wire;
