//! Rows of the system slot.

use super::super::absence::{AbsenceRow, Stage};
use super::super::apply::{RequestRow, StateDigest};
use super::super::backfill::BackfillRow;
use super::super::clock::ClockRow;
use super::super::cluster::{AskedRow, ClusterRow, DigestNote};
use super::super::cursor::CursorRow;
use super::super::gc::GcRow;
use super::super::keys::{self, table};
use super::super::node::{NodeRow, NodeState, StoreRow, TopologyRow};
use super::super::offer::OfferRow;
use super::super::peer::{PeerRow, PeersRow};
use super::super::principal::{self, ANONYMOUS, AuthVersion, KeyRow, PolicyRow, UserRow};
use super::super::region_link::RegionLinkRow;
use super::super::replication_rules::RulesRow;
use super::super::reply::Outcome;
use super::super::tables::TablesRead;
use super::super::upgrade::UpgradeRow;
use super::{Found, ensure, get, unreadable, value};
use crate::decide::placement::StoreState;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{NODES_MAX, PEERS_MAX, STORES_MAX};

pub(super) fn row(tables: &impl TablesRead, table: u8, key: &[u8], bytes: &[u8]) -> Found {
    match table {
        table::CLUSTER => value::<ClusterRow>(bytes).map(drop),
        table::CLOCK => value::<ClockRow>(bytes).map(drop),
        table::NODE => {
            keys::node_in(key).ok_or_else(unreadable)?;
            value::<NodeRow>(bytes).map(drop)
        }
        table::STORE => {
            let row: StoreRow = value(bytes)?;
            let id = keys::store_in(key).ok_or_else(unreadable)?;
            let node: Option<NodeRow> = get(tables, &keys::node(row.node));
            let node = node.ok_or_else(|| format!("store {id} of node {}, which is not registered", row.node))?;
            let topology: TopologyRow = get(tables, &keys::system(table::TOPOLOGY)).unwrap_or_default();
            let is_placed = topology.stores.iter().any(|(store, ..)| *store == id);
            ensure(is_placed == (node.state != NodeState::Removed), || {
                format!("store {id} and the topology do not fit")
            })
        }
        table::TOPOLOGY => {
            let row: TopologyRow = value(bytes)?;
            ensure(row == topology(tables), || "the topology is not the one that nodes and stores make".to_owned())
        }
        table::USER => value::<UserRow>(bytes).map(drop),
        table::KEY => access_key(tables, key, bytes),
        table::KEY_OF => key_of(tables, key),
        table::POLICY => policy(tables, key, bytes),
        table::AUTH_VERSION => value::<AuthVersion>(bytes).map(drop),
        table::REQUEST => {
            let row: RequestRow = value(bytes)?;
            keys::request_index(key).ok_or_else(unreadable)?;
            Outcome::decode(&row.reply).map(drop).map_err(|error| error.to_string())
        }
        table::STATE_DIGEST => value::<StateDigest>(bytes).map(drop),
        table::DIGEST_ASKED => value::<AskedRow>(bytes).map(drop),
        table::UPGRADE => value::<UpgradeRow>(bytes).map(drop),
        table::GC => value::<GcRow>(bytes).map(drop),
        table::ABSENCE => {
            value::<AbsenceRow>(bytes)?;
            let id = keys::node_in(key).ok_or_else(unreadable)?;
            let node: Option<NodeRow> = get(tables, &keys::node(id));
            ensure(node.is_some_and(|row| row.state != NodeState::Removed), || {
                format!("node {id} is missed, and no member")
            })
        }
        table::PEERS => {
            let PeersRow(numbers) = value(bytes)?;
            let stored = tables.prefix(&keys::system(table::PEER), PEERS_MAX + 1);
            let stored: Vec<u16> = stored.iter().filter_map(|(key, _)| keys::region_in(key)).collect();
            ensure(stored == numbers && !numbers.is_empty(), || {
                format!("regions {numbers:?} are listed, {stored:?} are there")
            })
        }
        table::PEER => {
            value::<PeerRow>(bytes)?;
            let number = keys::region_in(key).ok_or_else(unreadable)?;
            let listed: Option<PeersRow> = get(tables, &keys::system(table::PEERS));
            ensure(listed.is_some_and(|listed| listed.0.contains(&number)), || format!("region {number} is not listed"))
        }
        table::REPLICATION_RULES => {
            keys::registry_in(key).ok_or_else(unreadable)?;
            value::<RulesRow>(bytes).map(drop)
        }
        table::SOURCE_CURSOR | table::DESTINATION_CURSOR => of_region(tables, table, key, bytes),
        table::OWN_DIGEST | table::DIGEST_REPORT => value::<DigestNote>(bytes).map(drop),
        _ => Err(format!("table {table:#04x} does not exist")),
    }
}

/// A row about a region that is known.
pub(super) fn of_region(tables: &impl TablesRead, table: u8, key: &[u8], bytes: &[u8]) -> Found {
    match table {
        table::BACKFILL => value::<BackfillRow>(bytes).map(drop),
        table::REGION_LINK => value::<RegionLinkRow>(bytes).map(drop),
        table::OFFER => value::<OfferRow>(bytes).map(drop),
        _ => value::<CursorRow>(bytes).map(drop),
    }?;
    let number = keys::region_in(key).ok_or_else(unreadable)?;
    ensure(tables.contains(&keys::peer(number)), || format!("a row about region {number}, which is not known"))
}

/// The topology that the rows of nodes and stores make; what can't be read is left out.
fn topology(tables: &impl TablesRead) -> TopologyRow {
    let mut topology = TopologyRow::default();
    for (key, bytes) in tables.prefix(&keys::system(table::NODE), NODES_MAX) {
        let Some((node, row)) = keys::node_in(&key).zip(value::<NodeRow>(&bytes).ok()) else { continue };
        if row.state != NodeState::Removed {
            topology.nodes.push((node, row.zone));
        }
    }
    for (key, bytes) in tables.prefix(&keys::system(table::STORE), STORES_MAX) {
        let Some((store, row)) = keys::store_in(&key).zip(value::<StoreRow>(&bytes).ok()) else { continue };
        let absence: Option<AbsenceRow> = get(tables, &keys::absence(row.node));
        let state = match get::<NodeRow>(tables, &keys::node(row.node)).map(|node| node.state) {
            Some(NodeState::Active) => match absence.map(|row| row.stage) {
                None | Some(Stage::Missed) => StoreState::Up,
                Some(Stage::Replaced) => StoreState::Away,
                Some(Stage::Stranded) => StoreState::Stranded,
            },
            Some(NodeState::Draining) => StoreState::Draining,
            Some(NodeState::Removed) | None => continue,
        };
        topology.stores.push((store, row.node, row.weight, state));
    }
    topology
}

fn has_user(tables: &impl TablesRead, registry: RegistryId, name: &str) -> bool {
    get::<UserRow>(tables, &keys::user(registry, name)).is_some()
}

fn access_key(tables: &impl TablesRead, key: &[u8], bytes: &[u8]) -> Found {
    let row: KeyRow = value(bytes)?;
    let id = std::str::from_utf8(&key[3..]).ok().filter(|id| principal::key_id_valid(id)).ok_or_else(unreadable)?;
    ensure(has_user(tables, row.registry, &row.user), || format!("access key {id} of nobody"))?;
    ensure(tables.contains(&keys::key_of(row.registry, &row.user, id)), || {
        format!("access key {id} is not listed with its user")
    })
}

fn key_of(tables: &impl TablesRead, key: &[u8]) -> Found {
    let (registry, user, id) = keys::two_texts_in(key).ok_or_else(unreadable)?;
    let row: Option<KeyRow> = get(tables, &keys::access_key(id));
    ensure(row.is_some_and(|row| row.registry == registry && row.user == user), || {
        format!("access key {id} is listed with a user who does not have it")
    })
}

fn policy(tables: &impl TablesRead, key: &[u8], bytes: &[u8]) -> Found {
    value::<PolicyRow>(bytes)?;
    let (registry, principal, name) = keys::two_texts_in(key).ok_or_else(unreadable)?;
    ensure(principal == ANONYMOUS || has_user(tables, registry, principal), || format!("policy '{name}' of nobody"))
}
