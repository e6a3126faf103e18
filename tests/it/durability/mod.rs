//! What an acknowledgement is worth: what was synced before it left, what a killed node takes with it, what a full disk
//! does. Every test has nodes of its own, which it kills, fills and starts again.

mod alone;
mod full_disk;
mod kill;
mod push;
mod syscalls;
mod trace;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use self::push::{Pusher, Step};
use self::wire::Response;
use crate::support::Cluster;

/// Number of nodes, one per zone.
const NODES: u8 = 3;

/// Where a node's clients find it.
fn address(cluster: &Cluster, n: u8) -> SocketAddr {
    cluster.node(n).trim_start_matches("http://").parse().unwrap()
}

/// A question of the root user to a node's registry; a connection that breaks is an error.
fn get(cluster: &Cluster, n: u8, path: &str) -> std::io::Result<Response> {
    wire::get(address(cluster, n), Some(&cluster.key()), path)
}

/// A client of all nodes.
fn pusher<'a>(cluster: &Cluster, patience: Duration, at: impl FnMut(Step, u8, Option<&str>) + 'a) -> Pusher<'a> {
    let nodes = (1..=NODES).map(|n| address(cluster, n)).collect();
    Pusher::new(nodes, cluster.key(), patience, at)
}
