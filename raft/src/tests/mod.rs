//! Nodes over real sockets, on real disks.

mod cluster;
mod fatal;
mod faults;
mod identity;
mod members;
mod recover;
mod reinstall;
mod snapshots;
mod suspect;
mod tls;
