//! Integration tests against real processes: one binary, linked once.

mod failover;
mod support;
