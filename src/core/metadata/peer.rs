//! Other regions: who they are, where they answer, whose certificates they show.
//!
//! As soon as one is known, changes of tags and manifests are noted for them ([`outbox`](super::outbox)) and deletes
//! are remembered ([`gone`](super::gone)). What a peer is sent is decided by rules
//! ([`rules`](super::replication_rules)).

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SYSTEM, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{backfill, cluster, cursor, offer, parked, region_link};
use crate::vocabulary::ids::ClusterId;
use crate::vocabulary::limits::{ADDRESS_BYTES_MAX, PEER_CA_BYTES_MAX, PEER_ENDPOINTS_MAX, PEERS_MAX};
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;

/// Another region.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerRow {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub region: RegionName,
    /// Addresses (`host:port`) at which its nodes answer other regions.
    pub endpoints: Vec<String>,
    /// Certificates of the authority that signs its nodes', PEM.
    pub ca_pem: String,
    /// When it was made known, replicated milliseconds since 1970.
    pub added_at_ms: u64,
}

impl Stored for PeerRow {}

/// Numbers of the regions that are known: one small row, because every change looks whether there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PeersRow(pub(crate) Vec<u16>);

impl Stored for PeersRow {}

fn numbers(tables: &impl TablesRead) -> PeersRow {
    tables.get(&keys::system(table::PEERS)).map_or(PeersRow::default(), |bytes| codec::row(&bytes))
}

/// Whether changes are to be noted for other regions, in a command at work.
pub(super) fn listens(tables: &impl TablesRead, context: &Context<'_>) -> bool {
    context.level >= LEVEL_3 && tables.contains(&keys::system(table::PEERS))
}

/// A region by its number.
pub fn read(tables: &impl TablesRead, number: u16) -> Option<PeerRow> {
    tables.get(&keys::peer(number)).map(|bytes| codec::row(&bytes))
}

/// All of them by number.
pub fn list(tables: &impl TablesRead) -> Vec<(u16, PeerRow)> {
    let row = |number: u16| Some((number, read(tables, number)?));
    numbers(tables).0.into_iter().filter_map(row).collect()
}

/// A region by its name.
pub fn named(tables: &impl TablesRead, region: &RegionName) -> Option<(u16, PeerRow)> {
    list(tables).into_iter().find(|(_, row)| row.region == *region)
}

/// Makes a region known, or changes where it answers and whose certificates it shows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutPeer {
    /// Its number in versions.
    pub number: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub region: RegionName,
    /// Addresses (`host:port`) at which its nodes answer other regions.
    pub endpoints: Vec<String>,
    /// Certificates of its authority, PEM.
    pub ca_pem: String,
}

impl PutPeer {
    fn check(&self, tables: &impl TablesRead) -> Result<(), Refusal> {
        let invalid =
            |parameter: &str, detail: String| Refusal::ParameterInvalid { parameter: parameter.to_owned(), detail };
        let limit =
            |limit: &str, allowed: usize| Refusal::LimitReached { limit: limit.to_owned(), allowed: allowed as u64 };
        if self.endpoints.is_empty() || self.endpoints.iter().any(|at| at.is_empty() || at.len() > ADDRESS_BYTES_MAX) {
            return Err(invalid("endpoints", "name at least one address (host:port) of the other region".to_owned()));
        }
        if self.endpoints.len() > PEER_ENDPOINTS_MAX {
            return Err(limit("addresses of one region", PEER_ENDPOINTS_MAX));
        }
        if self.ca_pem.len() > PEER_CA_BYTES_MAX {
            return Err(limit("bytes of a region's certificates", PEER_CA_BYTES_MAX));
        }
        let Some(own) = cluster::read(tables) else {
            return Err(invalid("region", "there is no cluster yet".to_owned()));
        };
        if own.cluster == self.cluster {
            return Err(invalid("cluster", "that is this cluster; a region is linked to another one".to_owned()));
        }
        if own.region == self.region.as_str() || own.region_number == self.number {
            let detail = format!(
                "this region is '{}', number {}: two regions of one name or number can't be linked, because their \
                 changes could not be told apart. Found one of them anew with another node.region and \
                 node.region_number",
                own.region, own.region_number
            );
            return Err(invalid("region", detail));
        }
        for (number, known) in list(tables) {
            let is_same = (number, known.cluster, &known.region) == (self.number, self.cluster, &self.region);
            let is_other = number != self.number && known.cluster != self.cluster && known.region != self.region;
            if !is_same && !is_other {
                let detail = format!(
                    "region '{}', number {number}, cluster {} is known already; remove it first if this is another one",
                    known.region, known.cluster
                );
                return Err(invalid("region", detail));
            }
        }
        if numbers(tables).0.len() >= PEERS_MAX && read(tables, self.number).is_none() {
            return Err(limit("other regions", PEERS_MAX));
        }
        Ok(())
    }
}

impl Apply for PutPeer {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        self.check(tables)?;
        let before = read(tables, self.number);
        let PutPeer { number, cluster, region, endpoints, ca_pem } = self;
        let added_at_ms = before.as_ref().map_or(context.clock.now_ms, |row| row.added_at_ms);
        let row = PeerRow { cluster, region, endpoints, ca_pem, added_at_ms };
        if before.as_ref() == Some(&row) {
            return Ok(Reply::Unchanged);
        }
        if before.is_none() {
            let mut all = numbers(tables).0;
            all.push(number);
            all.sort_unstable();
            tables.put(keys::system(table::PEERS), codec::encode(&PeersRow(all)));
        }
        tables.put(keys::peer(number), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// Forgets a region: nothing is sent to it or taken from it any more. What came from it stays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeletePeer {
    /// Its number.
    pub number: u16,
}

impl Apply for DeletePeer {
    fn slot(&self) -> Slot {
        SYSTEM
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if read(tables, self.number).is_none() {
            return Ok(Reply::Unchanged);
        }
        let mut all = numbers(tables).0;
        all.retain(|number| *number != self.number);
        match all.is_empty() {
            true => tables.delete(keys::system(table::PEERS)),
            false => tables.put(keys::system(table::PEERS), codec::encode(&PeersRow(all))),
        }
        tables.delete(keys::peer(self.number));
        cursor::forget(tables, self.number);
        parked::forget(tables, self.number);
        backfill::forget(tables, self.number);
        region_link::forget(tables, self.number);
        offer::forget(tables, self.number);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing::{World, peer};

    // A region is known by name, number and cluster at once; its addresses change, it does not.
    #[test]
    fn who_is_who() {
        let mut world = World::cluster();
        let eu = peer(2, "eu");
        world.ok(eu.clone());
        assert_eq!(world.ok(eu.clone()), Reply::Unchanged);
        let moved = PutPeer { endpoints: vec!["[::1]:7404".into()], ..eu.clone() };
        world.ok(moved);
        assert_eq!(named(&world.tables, &eu.region).unwrap().1.endpoints, ["[::1]:7404"]);
        for bad in [
            PutPeer { number: 1, ..peer(3, "us") },
            PutPeer { region: RegionName::parse("here").unwrap(), ..peer(3, "us") },
            PutPeer { cluster: ClusterId(1), ..peer(3, "us") },
            PutPeer { number: 2, ..peer(3, "us") },
            PutPeer { region: eu.region.clone(), ..peer(3, "us") },
            PutPeer { cluster: eu.cluster, ..peer(3, "us") },
            PutPeer { endpoints: vec![], ..peer(3, "us") },
            PutPeer { endpoints: vec![String::new()], ..peer(3, "us") },
        ] {
            assert!(matches!(world.refused(bad.clone()), Refusal::ParameterInvalid { .. }), "{bad:?}");
        }
        for bad in [
            PutPeer { endpoints: vec!["a:1".into(); PEER_ENDPOINTS_MAX + 1], ..peer(3, "us") },
            PutPeer { ca_pem: "x".repeat(PEER_CA_BYTES_MAX + 1), ..peer(3, "us") },
        ] {
            assert!(matches!(world.refused(bad.clone()), Refusal::LimitReached { .. }), "{bad:?}");
        }
        world.ok(peer(3, "us"));
        assert_eq!(list(&world.tables).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3]);
    }

    // There are only so many, and one that goes makes room.
    #[test]
    fn regions_are_bounded() {
        let mut world = World::cluster();
        let number = |at: usize| u16::try_from(at + 2).unwrap();
        for at in 0..PEERS_MAX {
            world.ok(peer(number(at), &format!("r{at}")));
        }
        assert!(matches!(world.refused(peer(99, "more")), Refusal::LimitReached { .. }));
        assert_eq!(world.ok(DeletePeer { number: 99 }), Reply::Unchanged);
        world.ok(DeletePeer { number: number(3) });
        assert_eq!(read(&world.tables, number(3)), None);
        world.ok(peer(99, "more"));
        for (number, _) in list(&world.tables) {
            world.ok(DeletePeer { number });
        }
        assert!(!world.tables.contains(&keys::system(table::PEERS)));
    }
}
