//! Other regions: what this one tells them of itself, and which of them it knows.
//!
//! Two regions meet when each has been given the other's card: name, number, cluster, addresses and the certificates of
//! its authority. A card holds no secret; whoever hands it over should be believed.

use registry_core::decide::replication::rules::Rule;
use registry_core::metadata::backfill::{self, BackfillRow};
use registry_core::metadata::cluster;
use registry_core::metadata::conflict::{self, Conflict};
use registry_core::metadata::cursor::{self, CursorRow};
use registry_core::metadata::node::{self, NodeState};
use registry_core::metadata::parked::{self, ParkedId, ParkedRow};
use registry_core::metadata::peer::{self, DeletePeer, PeerRow, PutPeer};
use registry_core::metadata::places::{self, PlacesRow, PutPlaces};
use registry_core::metadata::region_link::{self, RegionLinkRow, SetRegionLink, TakeOverRegion};
use registry_core::metadata::replication_rules::{self, PutReplicationRules, RulesRow};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::{ClusterId, RegistryId, Revision};
use registry_core::vocabulary::limits::PEER_ENDPOINTS_MAX;
use registry_core::vocabulary::names::RegionName;

use super::Cluster;
use crate::ground::tls::Trust;

/// What a region tells others of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionCard {
    /// Its name.
    pub region: RegionName,
    /// Its number in versions.
    pub number: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Addresses (`host:port`) at which its nodes answer other regions.
    pub endpoints: Vec<String>,
    /// Certificates of its authority, PEM.
    pub ca_pem: String,
}

/// Another region, and how far changes have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRegion {
    /// Its number in versions.
    pub number: u16,
    /// What is known of it.
    pub row: PeerRow,
    /// How far its changes are applied here.
    pub taken: Option<CursorRow>,
    /// How far it has said that it applied changes made here.
    pub given: Option<CursorRow>,
    /// What operators want of the link.
    pub link: RegionLinkRow,
    /// How much of what it held before its rules is here.
    pub backfill: Option<BackfillRow>,
}

/// The door of this node for other regions.
#[derive(Clone)]
pub struct RegionDoor {
    /// The port that it listens on; the nodes of a region are expected to listen on the same.
    pub port: u16,
    /// Certificates of the cluster's authority as they are now, PEM.
    pub ca_pem: std::sync::Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

impl std::fmt::Debug for RegionDoor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "RegionDoor({})", self.port)
    }
}

/// The address with another port; the host may be an IPv6 address in brackets.
fn with_port(address: &str, port: u16) -> Option<String> {
    address.rsplit_once(':').map(|(host, _)| format!("{host}:{port}"))
}

impl Cluster {
    /// What this region tells others of itself; `None` where the asked node has no door for them.
    pub fn region_card(&self) -> Option<RegionCard> {
        let door = self.region_door.as_ref()?;
        let (own, nodes) = self.metadata.peek(|view| (cluster::read(view), node::list(view)));
        let own = own?;
        let nodes = nodes.into_iter().filter(|(_, row)| row.state != NodeState::Removed);
        let endpoints = nodes.filter_map(|(_, row)| with_port(&row.blob_address, door.port)).take(PEER_ENDPOINTS_MAX);
        Some(RegionCard {
            region: RegionName::parse(&own.region).ok()?,
            number: own.region_number,
            cluster: own.cluster,
            endpoints: endpoints.collect(),
            ca_pem: String::from_utf8_lossy(&(door.ca_pem)()).into_owned(),
        })
    }

    /// Whether this node leads, and so follows other regions.
    pub fn leads(&self) -> bool {
        self.metadata.leadership().is_leader
    }

    /// The other regions that are known.
    pub fn regions(&self) -> Vec<KnownRegion> {
        self.metadata.peek(|view| {
            let known = |(number, row)| {
                let (taken, given) = (cursor::of_source(view, number), cursor::of_destination(view, number));
                let (link, backfill) = (region_link::read(view, number), backfill::of_source(view, number));
                KnownRegion { number, row, taken, given, link, backfill }
            };
            peer::list(view).into_iter().map(known).collect()
        })
    }

    /// The number of a region that is known.
    pub fn region_number(&self, region: &RegionName) -> Option<u16> {
        self.metadata.peek(|view| peer::named(view, region)).map(|(number, _)| number)
    }

    /// Up to `limit` changes of a region that were put aside, behind one of them.
    pub fn parked(&self, number: u16, after: Option<ParkedId>, limit: usize) -> Vec<(ParkedId, ParkedRow)> {
        self.metadata.peek(|view| parked::list(view, number, after, limit))
    }

    /// Makes a region known by its card, or changes what is known of it.
    pub async fn add_region(&self, principal: &str, card: RegionCard) -> Result<Revision, Refusal> {
        if let Err(detail) = Trust::of("ca_pem", card.ca_pem.as_bytes()) {
            return Err(Refusal::ParameterInvalid { parameter: "ca_pem".to_owned(), detail });
        }
        let RegionCard { region, number, cluster, endpoints, ca_pem } = card;
        let put = PutPeer { number, cluster, region, endpoints, ca_pem };
        Ok(self.metadata.propose(principal, vec![put.into()]).await?.revision)
    }

    /// Forgets a region; `None` if it is not known.
    pub async fn remove_region(&self, principal: &str, region: &RegionName) -> Result<Option<Revision>, Refusal> {
        let found = self.metadata.peek(|view| peer::named(view, region));
        let Some((number, _)) = found else { return Ok(None) };
        Ok(Some(self.metadata.propose(principal, vec![DeletePeer { number }.into()]).await?.revision))
    }

    /// Changes what is wanted of the link to a region; `None` if it is not known.
    pub async fn set_region_link(
        &self,
        principal: &str,
        region: &RegionName,
        is_paused: Option<bool>,
        bytes_per_second: Option<u64>,
    ) -> Result<Option<Revision>, Refusal> {
        let Some(number) = self.region_number(region) else { return Ok(None) };
        let set = SetRegionLink { number, is_paused, bytes_per_second };
        Ok(Some(self.metadata.propose(principal, vec![set.into()]).await?.revision))
    }

    /// Takes over from a region that is lost; `None` if it is not known. `complete_ms`: up to which time of its clock
    /// this node knows that everything is here.
    pub async fn take_over_region(
        &self,
        principal: &str,
        region: &RegionName,
        complete_ms: u64,
    ) -> Result<Option<Revision>, Refusal> {
        let Some(number) = self.region_number(region) else { return Ok(None) };
        let take_over = TakeOverRegion { number, complete_ms };
        Ok(Some(self.metadata.propose(principal, vec![take_over.into()]).await?.revision))
    }

    /// Up to `limit` settings of tags that were lost to those of other regions, behind a key of the same listing.
    pub fn conflicts(&self, after: Option<&[u8]>, limit: usize) -> Vec<Conflict> {
        self.metadata.peek(|view| conflict::list(view, after, limit))
    }

    /// What is said about places.
    pub fn places(&self) -> PlacesRow {
        self.metadata.peek(|view| places::read(view))
    }

    /// Says everything about places.
    pub async fn set_places(&self, principal: &str, places: PlacesRow) -> Result<Revision, Refusal> {
        Ok(self.metadata.propose(principal, vec![PutPlaces { places }.into()]).await?.revision)
    }

    /// The rules of replication of a registry.
    pub fn replication_rules(&self, registry: RegistryId) -> RulesRow {
        self.metadata.peek(|view| replication_rules::read(view, registry))
    }

    /// Sets all rules of replication of a registry.
    pub async fn set_replication_rules(
        &self,
        principal: &str,
        registry: RegistryId,
        rules: Vec<Rule>,
    ) -> Result<Revision, Refusal> {
        let put = PutReplicationRules { registry, rules };
        Ok(self.metadata.propose(principal, vec![put.into()]).await?.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only the port is another one.
    #[test]
    fn addresses() {
        for (address, other) in [("a.b:1", "a.b:7404"), ("10.0.0.1:7402", "10.0.0.1:7404"), ("[::1]:2", "[::1]:7404")] {
            assert_eq!(with_port(address, 7404).as_deref(), Some(other));
        }
        assert_eq!(with_port("nonsense", 7404), None);
    }
}
