//! Which node a client is best served by, and how it gets there.

use std::net::IpAddr;
use std::sync::Arc;

use registry_core::decide::clock_skew;
use registry_core::decide::nearest::{self, Asked, Candidate, Choice, Why};
use registry_core::decide::permit::Permit;
use registry_core::metadata::places::{self, PlacesRow};
use registry_core::metadata::{cluster, node};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::{NodeId, RepositoryId};
use registry_core::vocabulary::names::{RegionName, ZoneName};
use registry_core::vocabulary::network::Network;

use super::blobs::BlobContent;
use super::{Consistency, Registry, find};
use crate::blob::transfer::BlobSource;

/// What was decided for a client and a blob, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The client's region, if its network is known and that is another one.
    pub region: Option<RegionName>,
    /// The client's zone in this region, if its network is known.
    pub zone: Option<ZoneName>,
    /// Where the bytes come from.
    pub choice: Choice,
    /// The nodes that were looked at.
    pub candidates: Vec<Candidate>,
}

/// Where the clients of a network are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spot {
    /// The region, if it is another one.
    region: Option<RegionName>,
    /// The zone, of this region.
    zone: Option<ZoneName>,
}

/// Places as they were said, read for looking up.
#[derive(Debug, Default)]
pub(super) struct Places {
    row: PlacesRow,
    /// Networks of clients; those that fix more bits first.
    clients: Vec<(Network, Spot)>,
    addresses: Vec<(Network, NodeId, String)>,
}

impl Places {
    fn read(row: PlacesRow, region: &str) -> Places {
        let network = |text: &str| Network::parse(text);
        let client = |place: &places::PlaceRow| {
            // clients of other regions are known as such: none of this one's zones is theirs
            let zone = place.zone.as_deref().filter(|_| place.region == region);
            let zone = zone.and_then(|zone| ZoneName::parse(zone).ok());
            let region = Some(&place.region).filter(|named| *named != region);
            let region = region.and_then(|region| RegionName::parse(region).ok());
            Some((network(&place.network)?, Spot { region, zone }))
        };
        let address = |row: &places::AddressRow| Some((network(&row.network)?, row.node, row.url.clone()));
        let mut clients: Vec<_> = row.clients.iter().filter_map(client).collect();
        let mut addresses: Vec<_> = row.addresses.iter().filter_map(address).collect();
        clients.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix()));
        addresses.sort_by_key(|(network, _, _)| std::cmp::Reverse(network.prefix()));
        Places { row, clients, addresses }
    }

    fn spot(&self, client: IpAddr) -> Option<&Spot> {
        self.clients.iter().find(|(network, _)| network.contains(client)).map(|(_, spot)| spot)
    }

    fn address(&self, node: NodeId, client: IpAddr) -> Option<&str> {
        let found = self.addresses.iter().find(|(network, of, _)| *of == node && network.contains(client));
        found.map(|(_, _, url)| url.as_str())
    }
}

/// Whether two origins are the same one to a client: neither case nor the scheme's own port makes a difference.
pub(super) fn is_same_origin(one: &str, other: &str) -> bool {
    let plain = |origin: &str| {
        let origin = origin.to_ascii_lowercase();
        let port = if origin.starts_with("https://") { ":443" } else { ":80" };
        origin.strip_suffix(port).unwrap_or(&origin).to_owned()
    };
    plain(one) == plain(other)
}

impl Registry {
    /// What is said about places now.
    fn places(&self) -> Arc<Places> {
        let known = Arc::clone(&self.0.places.lock());
        let changed = self.metadata().peek(|view| {
            let region = || cluster::read(view).map_or_else(String::new, |row| row.region);
            let row = places::read(view);
            (row != known.row).then(|| Arc::new(Places::read(row, &region())))
        });
        let Some(changed) = changed else { return known };
        *self.0.places.lock() = Arc::clone(&changed);
        changed
    }

    /// Which node a client is best served a blob by. Asks those that may be nearer whether they are there, if they have
    /// not said so a moment ago.
    pub async fn nearest(&self, client: IpAddr, content: &BlobContent) -> Nearest {
        let places = self.places();
        let directory = self.transfer().directory();
        let own = self.transfer().node();
        let Spot { region, zone } = places.spot(client).cloned().unwrap_or_default();
        let decided = |choice: Choice, candidates: Vec<Candidate>| {
            let (region, zone) = (region.clone(), zone.clone());
            Nearest { region, zone, choice, candidates }
        };
        let here = |why: Why| decided(Choice::Here(why), Vec::new());
        let Some(own_zone) = directory.node(own).map(|seat| &seat.zone) else { return here(Why::NoPlace) };
        let (size_bytes, bytes_min) = (content.info.size_bytes, places.row.redirect_bytes_min);
        let asked = Asked { region: region.as_ref(), zone: zone.as_ref(), own: own_zone, size_bytes, bytes_min };
        if let Some(choice) = nearest::settled(&asked) {
            return decided(choice, Vec::new());
        }
        let Some(source) = content.copies() else { return here(Why::NoCopy) };
        let candidates = self.candidates(source, zone.as_ref()).await;
        decided(nearest::choose(&asked, &candidates), candidates)
    }

    /// The client's zone in this region, if its network is known.
    pub(super) fn zone_of(&self, client: IpAddr) -> Option<ZoneName> {
        self.places().spot(client).and_then(|spot| spot.zone.clone())
    }

    /// The nodes of this region; whether they are fit, and full, is asked of those that have a copy, in one zone if one
    /// is named.
    pub(super) async fn candidates(&self, source: &BlobSource, zone: Option<&ZoneName>) -> Vec<Candidate> {
        let directory = self.transfer().directory();
        let health = self.transfer().peers();
        let health_of = |node: NodeId| health.iter().find(|peer| peer.node == node);
        let own_clock = health_of(self.node()).and_then(|peer| peer.clock_epoch_ms);
        let holders: Vec<NodeId> =
            source.replicas.iter().filter_map(|store| directory.node_of(*store)).map(|seat| seat.id).collect();
        let looked_at = directory.nodes().map(|seat| {
            let peer = health_of(seat.id);
            let rtt_us = peer.map_or(u64::MAX, |peer| peer.rtt_us);
            // a clock that can't be read says nothing against a node: it answers, or is not chosen
            let clocks = own_clock.zip(peer.and_then(|peer| peer.clock_epoch_ms));
            let is_on_time = clocks.is_none_or(|(own, there)| !clock_skew::is_off(own, there));
            let is_near = zone.is_none_or(|zone| *zone == seat.zone);
            let (node, has_copy) = (seat.id, holders.contains(&seat.id));
            let zone = seat.zone.clone();
            let candidate = Candidate { node, zone, has_copy, is_fit: false, is_on_time, is_full: false, rtt_us };
            async move {
                let is_fit = is_near && has_copy && self.transfer().answers_now(node).await;
                // as it says now, and not before it was asked
                let is_full = is_fit && self.transfer().is_full(node);
                Candidate { is_fit, is_full, ..candidate }
            }
        });
        futures_util::future::join_all(looked_at).await
    }

    /// Scheme, host and port by which a client reaches a node; `None` if it is known by no name of its own.
    pub fn address_of(&self, node: NodeId, client: IpAddr) -> Option<String> {
        if let Some(url) = self.places().address(node, client) {
            return Some(url.to_owned());
        }
        let directory = self.transfer().directory();
        self.metadata().peek(|view| {
            let url = |node: NodeId| node::read(view, node).map(|row| row.public_url);
            let there = url(node)?;
            // several of them behind one name: none of those has an address of its own
            let is_own = directory.nodes().all(|seat| seat.id == node || url(seat.id).as_ref() != Some(&there));
            is_own.then_some(there)
        })
    }

    /// By which address a client comes back to this node; nothing that a request says is in it.
    pub fn own_address(&self, client: IpAddr) -> Option<String> {
        let own = self.node();
        if let Some(url) = self.places().address(own, client) {
            return Some(url.to_owned());
        }
        self.metadata().peek(|view| node::read(view, own)).map(|row| row.public_url)
    }

    /// Whether clients come to this region by an address: to one of its nodes, or to any that has that name.
    pub(super) fn is_own_address(&self, origin: &str) -> bool {
        let is_it = |url: &str| is_same_origin(url, origin);
        let directory = self.transfer().directory();
        self.places().addresses.iter().any(|(_, _, url)| is_it(url))
            || self.metadata().peek(|view| {
                directory.nodes().any(|seat| node::read(view, seat.id).is_some_and(|row| is_it(&row.public_url)))
            })
    }

    /// Whether a permit's repository is this one; a no is confirmed before it is given.
    pub async fn is_repository(&self, permit: &Permit, id: RepositoryId) -> Result<bool, Refusal> {
        let look = || self.repository_id(permit) == Some(id);
        if !look() {
            self.metadata().ready(Consistency::Linearizable).await?;
        }
        Ok(look())
    }

    /// The internal id of the repository a permit is for.
    pub fn repository_id(&self, permit: &Permit) -> Option<RepositoryId> {
        self.metadata().peek(|view| find(view, permit).ok()).map(|(key, _)| key.id)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.transfer().node()
    }
}

#[cfg(test)]
mod tests {
    use registry_core::metadata::places::{AddressRow, PlaceRow};

    use super::*;

    // What leads a client to the same place is the same, however it is written.
    #[test]
    fn same_origins() {
        for (one, other) in [
            ("https://eu.example.com", "https://eu.example.com"),
            ("https://eu.example.com", "https://EU.Example.com:443"),
            ("http://10.0.0.1:80", "http://10.0.0.1"),
        ] {
            assert!(is_same_origin(one, other) && is_same_origin(other, one), "{one} {other}");
        }
        for (one, other) in [
            ("https://eu.example.com", "http://eu.example.com"),
            ("https://eu.example.com", "https://us.example.com"),
            ("https://eu.example.com:80", "https://eu.example.com"),
            ("http://10.0.0.1:443", "http://10.0.0.1"),
        ] {
            assert!(!is_same_origin(one, other), "{one} {other}");
        }
    }

    // The network that says most of an address counts; other regions have zones of their own.
    #[test]
    fn lookups() {
        let client = |network: &str, region: &str, zone: Option<&str>| PlaceRow {
            network: network.to_owned(),
            region: region.to_owned(),
            zone: zone.map(str::to_owned),
        };
        let address =
            |network: &str, url: &str| AddressRow { node: NodeId(1), network: network.to_owned(), url: url.to_owned() };
        let row = PlacesRow {
            clients: vec![
                client("10.0.0.0/8", "here", Some("a")),
                client("10.1.0.0/16", "here", Some("b")),
                client("10.1.1.0/24", "there", Some("a")),
            ],
            addresses: vec![address("0.0.0.0/0", "https://out"), address("10.0.0.0/8", "https://in")],
            redirect_bytes_min: None,
        };
        let places = Places::read(row, "here");
        let spot = |text: &str| places.spot(text.parse().unwrap());
        let zone = |text: &str| spot(text).and_then(|spot| spot.zone.as_ref()).map(ZoneName::as_str);
        let region = |text: &str| spot(text).and_then(|spot| spot.region.as_ref()).map(RegionName::as_str);
        assert_eq!((zone("10.2.0.1"), zone("10.1.2.1"), zone("10.1.1.1")), (Some("a"), Some("b"), None));
        assert_eq!((zone("192.0.2.1"), zone("::ffff:10.2.0.1")), (None, Some("a")));
        assert_eq!((region("10.2.0.1"), region("10.1.1.1"), region("192.0.2.1")), (None, Some("there"), None));
        let reached = |node: u64, text: &str| places.address(NodeId(node), text.parse().unwrap());
        assert_eq!((reached(1, "10.9.9.9"), reached(1, "192.0.2.1")), (Some("https://in"), Some("https://out")));
        assert_eq!((reached(2, "10.9.9.9"), reached(1, "::1")), (None, None));
    }
}
