//! Where clients are, by their networks, and by which addresses they reach the nodes.
//!
//! Said by operators; nothing here is guessed. It decides only where bytes of blobs come from, never who may have them.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::ids::NodeId;
use crate::vocabulary::limits::PLACES_MAX;
use crate::vocabulary::names::{RegionName, ZoneName};
use crate::vocabulary::network::{Network, is_origin};
use crate::vocabulary::refusal::Refusal;

/// Where the clients of a network are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PlaceRow {
    /// The network, as `10.0.0.0/8`.
    pub network: String,
    /// The region they are nearest to.
    pub region: String,
    /// The zone they are nearest to in it; `None` where that makes no difference.
    pub zone: Option<String>,
}

/// By which address clients of a network reach a node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddressRow {
    /// The node.
    pub node: NodeId,
    /// The network.
    pub network: String,
    /// Scheme, host and port.
    pub url: String,
}

/// Everything that is said about places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PlacesRow {
    /// Of clients; of networks that hold an address the smallest counts.
    pub clients: Vec<PlaceRow>,
    /// Of nodes, where it is not the URL that they tell themselves.
    pub addresses: Vec<AddressRow>,
    /// Blobs from this size on are redirected to a nearer node; `None`: none are.
    pub redirect_bytes_min: Option<u64>,
}

impl Stored for PlacesRow {}

/// What is said about places.
pub fn read(tables: &impl TablesRead) -> PlacesRow {
    tables.get(&keys::system(table::PLACES)).map_or(PlacesRow::default(), |bytes| codec::row(&bytes))
}

/// Says everything about places, in place of what was said before.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutPlaces {
    /// All of it.
    pub places: PlacesRow,
}

fn check(places: &PlacesRow) -> Result<(), Refusal> {
    let invalid = |detail: String| Refusal::ParameterInvalid { parameter: "places".to_owned(), detail };
    if places.clients.len() > PLACES_MAX || places.addresses.len() > PLACES_MAX {
        let limit = "networks of clients, and addresses of nodes".to_owned();
        return Err(Refusal::LimitReached { limit, allowed: PLACES_MAX as u64 });
    }
    let network = |text: &str| {
        let detail = || format!("'{text}' is no network: write 10.0.0.0/8, and no bits behind the prefix");
        Network::parse(text).map(drop).ok_or_else(|| invalid(detail()))
    };
    for PlaceRow { network: text, region, zone } in &places.clients {
        network(text)?;
        RegionName::parse(region).map_err(|error| invalid(format!("'{region}': {error}")))?;
        if let Some(zone) = zone {
            ZoneName::parse(zone).map_err(|error| invalid(format!("'{zone}': {error}")))?;
        }
    }
    for AddressRow { network: text, url, .. } in &places.addresses {
        network(text)?;
        if !is_origin(url) {
            return Err(invalid(format!("'{url}' is no scheme, host and port, as https://node-1.example.com:7400")));
        }
    }
    Ok(())
}

impl Apply for PutPlaces {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        check(&self.places)?;
        if read(tables) == self.places {
            return Ok(Reply::Unchanged);
        }
        let key = keys::system(table::PLACES);
        match self.places == PlacesRow::default() {
            true => tables.delete(key),
            false => tables.put(key, codec::encode(&self.places)),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing::World;

    fn client(network: &str, region: &str, zone: Option<&str>) -> PlaceRow {
        PlaceRow { network: network.to_owned(), region: region.to_owned(), zone: zone.map(str::to_owned) }
    }

    // What is said is kept whole; nonsense in any part of it is refused, and so is too much.
    #[test]
    fn places_are_checked() {
        let mut world = World::cluster();
        let url = |url: &str| AddressRow { node: NodeId(1), network: "::/0".to_owned(), url: url.to_owned() };
        let places = PlacesRow {
            clients: vec![client("10.0.0.0/8", "here", Some("a")), client("10.1.0.0/16", "there", None)],
            addresses: vec![url("https://node-1.example.com:7400")],
            redirect_bytes_min: Some(0),
        };
        world.ok(PutPlaces { places: places.clone() });
        assert_eq!(read(&world.tables), places);
        assert_eq!(world.ok(PutPlaces { places: places.clone() }), Reply::Unchanged);
        for bad in [
            PlacesRow { clients: vec![client("10.0.0.1/8", "here", None)], ..places.clone() },
            PlacesRow { clients: vec![client("10.0.0.0/8", "No Region", None)], ..places.clone() },
            PlacesRow { clients: vec![client("10.0.0.0/8", "here", Some("No Zone"))], ..places.clone() },
            PlacesRow { addresses: vec![url("ftp://x")], ..places.clone() },
            PlacesRow { addresses: vec![url("https://x/y")], ..places.clone() },
            PlacesRow { addresses: vec![url("https://")], ..places.clone() },
            PlacesRow { addresses: vec![url("https://x\r\ny")], ..places.clone() },
            PlacesRow { addresses: vec![url("https://x\\y")], ..places.clone() },
        ] {
            assert!(
                matches!(world.refused(PutPlaces { places: bad.clone() }), Refusal::ParameterInvalid { .. }),
                "{bad:?}"
            );
        }
        let many = PlacesRow { clients: vec![client("::1", "here", None); PLACES_MAX + 1], ..places };
        assert!(matches!(world.refused(PutPlaces { places: many }), Refusal::LimitReached { .. }));
        world.ok(PutPlaces { places: PlacesRow::default() });
        assert!(!world.tables.contains(&keys::system(table::PLACES)));
    }
}
