//! Integration tests against real processes: one binary, linked once.

mod backfill;
mod bench;
mod check;
mod clocks;
mod cluster;
mod consensus;
mod drift;
mod durability;
mod failover;
mod form;
mod gc;
mod healing;
mod history;
mod join;
mod nearest;
mod oci_edges;
mod recovery;
mod regions;
mod s3;
mod scrub;
mod security;
mod server;
mod support;
mod through;
mod traces;
mod wire;
