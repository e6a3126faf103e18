//! Which stores shall hold a blob, given which hold it now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::race;
use super::topology::{StorePlace, StoreState, Topology};
use crate::vocabulary::Digest;
use crate::vocabulary::ids::{NodeId, StoreId};
use crate::vocabulary::limits::REPLICAS_TARGET;
use crate::vocabulary::names::ZoneName;

/// What to do about one blob. Copies first, deletes later: whoever acts on it drops `surplus` and `leaving` only once
/// the rest is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Copies that stay where they are.
    pub keep: Vec<Choice>,
    /// Copies to make, best first.
    pub add: Vec<Choice>,
    /// Copies beyond what the rule wants.
    pub surplus: Vec<StoreId>,
    /// Copies on stores that are draining or no longer registered: they do not count.
    pub leaving: Vec<StoreId>,
    /// Copies on stores of nodes that are taken for lost: they do not count until the node returns.
    pub absent: Vec<StoreId>,
    /// Copies that the configured topology wants and no store can take now.
    pub waiting: Vec<Waiting>,
    /// Stores that come earlier in the hash order than the last one chosen, and why they were not.
    pub passed_over: Vec<(StoreId, PassedOver)>,
}

/// A store that holds or shall hold a copy, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The store.
    pub store: StoreId,
    /// Its node.
    pub node: NodeId,
    /// Its zone.
    pub zone: ZoneName,
    /// Why this one.
    pub reason: Reason,
}

/// Why a store was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is first by weighted hash among the stores of a zone without a copy.
    FirstOfZone {
        /// Its rank among all stores of the region, from 1.
        rank: usize,
    },
    /// There are fewer zones than copies: it is the next by weighted hash on a node without a copy.
    FirstOfNode {
        /// Its rank among all stores of the region, from 1.
        rank: usize,
    },
    /// A zone is lost and only one copy is left: a second one, wherever there is room, until the zone returns.
    Spare {
        /// Its rank among all stores of the region, from 1.
        rank: usize,
    },
}

/// Why a store was not chosen though it comes early in the hash order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOver {
    /// Above its watermark.
    Full,
    /// Being emptied.
    Draining,
    /// On a node that is taken for lost.
    Absent,
    /// Its zone has its share of copies.
    ZoneServed,
    /// Its node has a copy.
    NodeServed,
}

impl Assignment {
    /// Whether the copies that stay are all that the configured topology wants.
    pub fn is_met(&self) -> bool {
        !self.keep.is_empty() && self.add.is_empty() && self.waiting.is_empty()
    }

    /// Whether this copy may go, as far as the rule is concerned: others are all that is wanted.
    pub fn can_spare(&self, store: StoreId) -> bool {
        self.is_met() && (self.surplus.contains(&store) || self.leaving.contains(&store))
    }
}

/// A copy that nobody can take now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// No store of this zone takes new copies; the copy waits for the zone rather than going where it protects less.
    Zone(ZoneName),
    /// No further node takes new copies.
    Node,
}

/// Copies that a blob has while a zone is lost, wherever they stand.
const COPIES_WITHOUT_A_ZONE: usize = 2;

/// Decides the copies of a blob: one per zone in as many zones as there are copies, by weighted hash; with fewer
/// configured zones also further nodes of them; never two on one node.
///
/// `held` are the stores that hold a good copy. They stay, whatever the hash says, unless the rule has no use for them.
pub fn assign(topology: &Topology, digest: &Digest, held: &[StoreId]) -> Assignment {
    let ranked = race::rank(&digest.key_bytes(), topology.stores());
    let mut plan = Plan::new(topology);
    let held: BTreeSet<StoreId> = held.iter().copied().collect();
    let counts = |state: StoreState| matches!(state, StoreState::Up | StoreState::Full);
    let holds = |store: &StorePlace| held.contains(&store.id) && counts(store.state);
    let takes = |store: &StorePlace| !held.contains(&store.id) && store.state == StoreState::Up;
    plan.fill(&ranked, holds);
    plan.fill_spare(&ranked, holds);
    let keep = std::mem::take(&mut plan.chosen);
    plan.fill(&ranked, takes);
    plan.fill_spare(&ranked, takes);
    let add = std::mem::take(&mut plan.chosen);

    let is_kept = |id: &StoreId| keep.iter().any(|choice| choice.store == *id);
    let is_leaving = |id: &StoreId| topology.store(*id).is_none_or(|store| store.state == StoreState::Draining);
    let (leaving, staying): (Vec<_>, Vec<_>) = held.iter().copied().partition(is_leaving);
    let is_absent = |id: &StoreId| topology.store(*id).is_some_and(|store| store.state.is_absent());
    let (absent, present): (Vec<_>, Vec<_>) = staying.into_iter().partition(is_absent);
    let surplus = present.into_iter().filter(|id| !is_kept(id)).collect();
    let waiting = plan.waiting();
    let passed_over = plan.passed_over(&ranked, &add);
    Assignment { keep, add, surplus, leaving, absent, waiting, passed_over }
}

/// The greedy choice along the hash order, under the rule of zones and nodes.
struct Plan<'t> {
    topology: &'t Topology,
    zones: BTreeSet<&'t ZoneName>,
    copies: usize,
    per_zone: BTreeMap<&'t ZoneName, usize>,
    nodes: BTreeSet<NodeId>,
    chosen: Vec<Choice>,
}

impl<'t> Plan<'t> {
    fn new(topology: &'t Topology) -> Plan<'t> {
        Plan {
            topology,
            zones: topology.zones(),
            copies: 0,
            per_zone: BTreeMap::new(),
            nodes: BTreeSet::new(),
            chosen: Vec::new(),
        }
    }

    /// Most copies of one zone: 1 with enough zones, so that a missing zone's copy waits instead of doubling another's.
    fn zone_share(&self) -> usize {
        REPLICAS_TARGET - self.zones.len().clamp(1, REPLICAS_TARGET) + 1
    }

    fn zone(&self, store: &StorePlace) -> &'t ZoneName {
        self.topology.zone_of_node(store.node).expect("a topology has the node of each of its stores")
    }

    fn in_zone(&self, store: &StorePlace) -> usize {
        self.per_zone.get(self.zone(store)).copied().unwrap_or(0)
    }

    /// Takes from the eligible ones: first of each new zone, then of each new node.
    fn fill(&mut self, ranked: &[&StorePlace], is_eligible: impl Fn(&StorePlace) -> bool) {
        for copies_before in 0..self.zone_share() {
            for (at, store) in ranked.iter().enumerate() {
                let is_free = self.in_zone(store) == copies_before && !self.nodes.contains(&store.node);
                if self.copies < REPLICAS_TARGET && is_free && is_eligible(store) {
                    self.take(store, at + 1);
                }
            }
        }
    }

    /// While a zone is lost, a blob has two copies even if they stand in one zone.
    fn fill_spare(&mut self, ranked: &[&StorePlace], is_eligible: impl Fn(&StorePlace) -> bool) {
        if self.copies >= COPIES_WITHOUT_A_ZONE || !self.topology.has_lost_zone() {
            return;
        }
        for (at, store) in ranked.iter().enumerate() {
            if self.copies < COPIES_WITHOUT_A_ZONE && !self.nodes.contains(&store.node) && is_eligible(store) {
                let rank = at + 1;
                self.put(store, Reason::Spare { rank });
            }
        }
    }

    fn take(&mut self, store: &StorePlace, rank: usize) {
        let is_first = self.in_zone(store) == 0;
        let reason = if is_first { Reason::FirstOfZone { rank } } else { Reason::FirstOfNode { rank } };
        self.put(store, reason);
    }

    fn put(&mut self, store: &StorePlace, reason: Reason) {
        let zone = self.zone(store);
        *self.per_zone.entry(zone).or_default() += 1;
        self.copies += 1;
        self.nodes.insert(store.node);
        self.chosen.push(Choice { store: store.id, node: store.node, zone: zone.clone(), reason });
    }

    /// What the configured topology could hold and does not: named by zone where a zone is without a copy.
    fn waiting(&self) -> Vec<Waiting> {
        let wanted = REPLICAS_TARGET.min(match self.zones.len() {
            zones if zones >= REPLICAS_TARGET => zones,
            _ => self.topology.storing_nodes().len(),
        });
        let missing = wanted.saturating_sub(self.copies);
        let empty_zones = self.zones.iter().filter(|zone| !self.per_zone.contains_key(**zone));
        let zones = empty_zones.map(|zone| Waiting::Zone((*zone).clone()));
        zones.chain(std::iter::repeat(Waiting::Node)).take(missing).collect()
    }

    fn passed_over(&self, ranked: &[&StorePlace], add: &[Choice]) -> Vec<(StoreId, PassedOver)> {
        let Some(last) = ranked.iter().rposition(|store| add.iter().any(|choice| choice.store == store.id)) else {
            return Vec::new();
        };
        let others = ranked[..last].iter().filter(|store| !add.iter().any(|choice| choice.store == store.id));
        others.map(|store| (store.id, self.why_not(store))).collect()
    }

    fn why_not(&self, store: &StorePlace) -> PassedOver {
        match store.state {
            StoreState::Full => PassedOver::Full,
            StoreState::Draining => PassedOver::Draining,
            StoreState::Away | StoreState::Stranded => PassedOver::Absent,
            StoreState::Up if self.nodes.contains(&store.node) => PassedOver::NodeServed,
            StoreState::Up => PassedOver::ZoneServed,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::FirstOfZone { rank } => {
                write!(out, "first of its zone by weighted hash (rank {rank} in the region)")
            }
            Reason::FirstOfNode { rank } => {
                write!(out, "fewer zones than copies: next node by weighted hash (rank {rank} in the region)")
            }
            Reason::Spare { rank } => {
                write!(
                    out,
                    "a zone is lost and one copy is left: next node by weighted hash (rank {rank} in the region)"
                )
            }
        }
    }
}

impl fmt::Display for PassedOver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            PassedOver::Full => "above its watermark",
            PassedOver::Draining => "being emptied",
            PassedOver::Absent => "on a node that has been away for too long",
            PassedOver::ZoneServed => "its zone has its copies",
            PassedOver::NodeServed => "its node has a copy",
        })
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Zone(zone) => write!(out, "a copy waits for a store in zone {zone} that takes new copies"),
            Waiting::Node => out.write_str("a copy waits for another node with a store that takes new copies"),
        }
    }
}

#[cfg(test)]
mod tests;
