//! The security cases, each a test named by its id (`src/docs/security-cases.md`), by real requests to real processes.
//!
//! What destroys nothing uses the shared cluster, with repositories and users named like the test; what damages files
//! or kills nodes is in `damage`, on a cluster of its own; what needs settings that others could not live with starts
//! one node (`one`). [`people`] is for who asks and what the audit says, [`routes`] for every path there is, [`repo`]
//! for requests in few words, [`wire`] and [`http2`] for bytes in odd ways.

mod audit;
mod authorization;
mod damage;
mod http;
mod http2;
mod inside;
mod limits;
mod listing;
mod manifests;
mod one;
mod people;
mod repo;
mod rights;
mod routes;
mod tokens;
mod uploads;
mod wire;
