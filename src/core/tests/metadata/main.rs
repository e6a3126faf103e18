//! The metadata core from outside: random workloads, readable traces, golden bytes.
//!
//! One binary. `UPDATE_TRACES=1` and `UPDATE_GOLDEN=1` rewrite what is compared; review the difference.

#![allow(missing_docs, reason = "tests")]

mod collect;
mod costs;
mod files;
mod fuzz;
mod golden;
mod quotas;
mod random;
mod regions;
mod script;
mod traces;
mod upgrade;
