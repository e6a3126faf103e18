//! `[node]`

use std::net::IpAddr;
use std::path::PathBuf;

use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::names::{RegionName, ZoneName};

use crate::config::section::section;

/// The zone of a node of which nothing is said.
fn zone() -> ZoneName {
    ZoneName::parse("zone-a").expect("a lower-case label is a zone's name")
}

/// The region of a node of which nothing is said.
fn region() -> RegionName {
    RegionName::parse("local").expect("a lower-case label is a region's name")
}

section! {
    /// What this node is and where it stands.
    NodeSection "node"

    /// Directory for everything this node keeps, on a local disk; made at first start, for this user only.
    /// Left out: $XDG_STATE_HOME/portolan, else ~/.local/state/portolan.
    data_dir: PathBuf = PathBuf::new();

    /// Failure domain: nodes that lose power or network together share a zone. Copies of a blob go to different zones.
    zone: ZoneName = zone();

    /// Latency domain: one cluster. All nodes of a cluster have the same.
    region: RegionName = region();

    /// A number for the region, different from those of the regions it exchanges images with.
    region_number: u16 = 1 => 1..=4095;

    /// Host name or address by which clients and other nodes reach this node. Left out: the listeners' addresses.
    /// Needed when a listener has the address 0.0.0.0 or [::].
    advertise: Option<String> = None;

    /// Address that outgoing connections to other nodes come from. Left out: the kernel chooses.
    /// Set it when a machine has several, or several nodes share a machine.
    bind_source: Option<IpAddr> = None;

    /// This node's id. Left out, as it should be: taken from its certificate, else drawn at first start and kept in the
    /// data directory. An id is never used for a second data directory.
    id: Option<NodeId> = None;
}
