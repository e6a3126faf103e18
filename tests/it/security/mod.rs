//! The security cases, each a test named by its id (`src/docs/security-cases.md`), by real requests to real processes.
//!
//! What destroys nothing uses the shared cluster, with repositories and users named like the test. [`people`] is for who
//! asks and what the audit says, [`routes`] for every path there is, [`repo`] for requests in few words, [`wire`] for
//! bytes in odd ways.

mod audit;
mod authorization;
mod inside;
mod people;
#[allow(dead_code, reason = "the cases of manifests and uploads come to use the rest")]
mod repo;
mod rights;
mod routes;
mod tokens;
#[allow(dead_code, reason = "the cases of HTTP come to use the rest")]
mod wire;
