//! Which nodes, where: pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use registry_core::vocabulary::names::ZoneName;

use crate::cli::error::CliError;
use crate::config::Door;

/// A cluster to run on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Directory of everything.
    pub(super) dir: PathBuf,
    /// Name of the region.
    pub(super) name: String,
    /// Number of the region.
    pub(super) region: u8,
    /// The nodes; the first founds the cluster.
    pub(super) nodes: Vec<PlannedNode>,
    port: u16,
}

/// A node to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedNode {
    /// `<zone>-<number in its zone>`.
    pub(super) name: String,
    /// Its zone.
    pub(super) zone: String,
    /// Its own address.
    pub(super) ip: Ipv4Addr,
    /// Its own directory.
    pub(super) dir: PathBuf,
}

impl Plan {
    /// Spreads nodes over zones in turn, at `127.<region>.<zone>.<number in its zone>`.
    pub(super) fn new(dir: PathBuf, nodes: u8, zones: &[String], region: u8, port: u16) -> Result<Plan, CliError> {
        let mut seen = Vec::new();
        for zone in zones {
            let told = || CliError::usage(format!("{zone:?} is no zone; use lower-case letters, digits and dashes"));
            ZoneName::parse(zone).map_err(|_| told())?;
            if seen.contains(&zone) {
                return Err(CliError::usage(format!("zone {zone} stands twice in --zones")));
            }
            seen.push(zone);
        }
        let zones = &zones[..zones.len().min(usize::from(nodes))];
        let numbered = (0..nodes).map(|index| {
            let count = u8::try_from(zones.len()).unwrap_or(u8::MAX);
            let (zone, number) = (index % count, index / count + 1);
            let name = format!("{}-{number}", zones[usize::from(zone)]);
            PlannedNode {
                zone: zones[usize::from(zone)].clone(),
                ip: Ipv4Addr::new(127, region, zone + 1, number),
                dir: dir.join("nodes").join(&name),
                name,
            }
        });
        Ok(Plan { nodes: numbered.collect(), dir, name: "dev".to_owned(), region, port })
    }

    /// The same under another name.
    pub(super) fn named(self, name: String) -> Plan {
        Plan { name, ..self }
    }

    /// A door of a node.
    pub(super) fn address(&self, node: &PlannedNode, door: Door) -> SocketAddr {
        let offset = match door {
            Door::Public => 0,
            Door::Raft => 1,
            Door::Blob => 2,
            Door::Admin => 3,
        };
        SocketAddr::new(IpAddr::V4(node.ip), self.port + offset)
    }

    /// Where a node answers other regions.
    pub(super) fn region_address(&self, node: &PlannedNode) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(node.ip), self.port + 4)
    }

    /// The first access key.
    pub(super) fn root_key_file(&self) -> PathBuf {
        self.dir.join("root-key")
    }

    /// The authority of the cluster.
    pub(super) fn certs_dir(&self) -> PathBuf {
        self.dir.join("certs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: u8, zones: &[&str]) -> Result<Plan, CliError> {
        let zones: Vec<String> = zones.iter().map(|zone| (*zone).to_owned()).collect();
        Plan::new("/d".into(), nodes, &zones, 9, 7400)
    }

    // Nodes go to zones in turn; each has its own address, name and directory, the same at every start.
    #[test]
    fn spreads() {
        let five = plan(5, &["a", "b", "c"]).unwrap();
        let names: Vec<&str> = five.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["a-1", "b-1", "c-1", "a-2", "b-2"]);
        let addresses: Vec<String> = five.nodes.iter().map(|node| node.ip.to_string()).collect();
        assert_eq!(addresses, ["127.9.1.1", "127.9.2.1", "127.9.3.1", "127.9.1.2", "127.9.2.2"]);
        assert_eq!(five.address(&five.nodes[3], Door::Admin).to_string(), "127.9.1.2:7403");
        assert_eq!(plan(3, &["a", "b", "c"]).unwrap().nodes, five.nodes[..3]);
        assert_eq!(plan(2, &["a", "b", "c"]).unwrap().nodes.len(), 2);
    }

    // A zone that is no name, or stands twice, is told.
    #[test]
    fn refusals() {
        assert!(plan(3, &["a", "B"]).unwrap_err().to_string().contains("\"B\" is no zone"));
        assert!(plan(3, &["a", "a"]).unwrap_err().to_string().contains("twice"));
        assert!(plan(3, &[""]).is_err());
    }
}
