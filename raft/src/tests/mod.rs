//! Nodes over real sockets, on real disks.

mod cluster;
mod fatal;
mod faults;
mod identity;
mod members;
mod snapshots;
mod tls;
