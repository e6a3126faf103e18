//! Nodes over real sockets, on real disks.

mod cluster;
mod faults;
mod identity;
mod members;
mod snapshots;
mod tls;
