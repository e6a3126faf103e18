//! What 201 needs: which stores must hold a blob durably before a push is acknowledged.

use std::collections::BTreeSet;
use std::fmt;

use super::topology::Topology;
use crate::mutants::{self, Mutant};
use crate::vocabulary::Refusal;
use crate::vocabulary::ids::StoreId;
use crate::vocabulary::limits::{REPLICAS_DURABLE_MIN, REPLICAS_TARGET};

/// When a write is durable, by the *configured* topology: a zone that is out of reach never lowers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRule {
    /// Distinct zones that must hold a copy.
    pub zones: usize,
    /// Distinct nodes that must hold a copy.
    pub nodes: usize,
    /// Copies wanted in the end.
    pub copies: usize,
    /// What is weaker than three copies in three zones, if anything.
    pub degradation: Option<Degradation>,
}

/// How the configured topology is weaker than three zones. Shown by `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degradation {
    /// No store is registered: nothing can be stored.
    NoStore,
    /// One node: one copy.
    OneNode,
    /// One zone with several nodes.
    OneZone,
    /// Two zones.
    TwoZones,
}

/// The rule for a topology.
pub fn write_rule(topology: &Topology) -> WriteRule {
    let (zones, nodes) = (topology.zones().len(), topology.storing_nodes().len());
    let degradation = match (zones, nodes) {
        (_, 0) => Some(Degradation::NoStore),
        (_, 1) => Some(Degradation::OneNode),
        (1, _) => Some(Degradation::OneZone),
        (2, _) => Some(Degradation::TwoZones),
        _ => None,
    };
    WriteRule {
        zones: zones.clamp(1, REPLICAS_DURABLE_MIN),
        nodes: nodes.clamp(1, REPLICAS_DURABLE_MIN),
        copies: nodes.min(REPLICAS_TARGET),
        degradation,
    }
}

impl WriteRule {
    /// Whether these stores suffice for 201. A store that is not registered makes the whole set invalid: a copy on it
    /// could not be found again.
    pub fn check(&self, topology: &Topology, stores: &[StoreId]) -> Result<(), Refusal> {
        let (mut zones, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for id in stores {
            let place = topology.store(*id).ok_or(Refusal::StoreUnknown { store: *id })?;
            nodes.insert(place.node);
            zones.extend(topology.zone_of_node(place.node));
        }
        let is_excused = mutants::is_on(Mutant::OneZone) && !stores.is_empty();
        if (zones.len() < self.zones || nodes.len() < self.nodes) && !is_excused {
            let detail = format!(
                "{} zones and {} nodes hold the blob, {} and {} are needed",
                zones.len(),
                nodes.len(),
                self.zones,
                self.nodes
            );
            return Err(Refusal::PlacementInvalid { detail });
        }
        Ok(())
    }
}

impl fmt::Display for Degradation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Degradation::NoStore => "no store is registered: nothing can be pushed",
            Degradation::OneNode => "one node: one copy of each blob, lost with its disk; add nodes in other zones",
            Degradation::OneZone => {
                "one zone: copies on different nodes of it, all lost with the zone; add nodes in other zones"
            }
            Degradation::TwoZones => "two zones: while one is down nothing can be pushed; add a node in a third zone",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::draw;
    use super::*;

    // 201 = min(2, configured zones), and at least two nodes where there are two, whatever the states of the stores.
    #[test]
    fn rules() {
        for (text, zones, nodes, copies, degradation) in [
            ("a: 1=s10; b: 2=s20; c: 3=s30", 2, 2, 3, None),
            ("a: 1=s10(full); b: 2=s20(draining); c: 3=s30", 2, 2, 3, None),
            ("a: 1=s10; b: 2=s20", 2, 2, 2, Some(Degradation::TwoZones)),
            ("a: 1=s10, 3=s30; b: 2=s20", 2, 2, 3, Some(Degradation::TwoZones)),
            ("a: 1=s10, 2=s20, 3=s30", 1, 2, 3, Some(Degradation::OneZone)),
            ("a: 1=s10, 2=s20; b: 3=", 1, 2, 2, Some(Degradation::OneZone)),
            ("a: 1=s10 s11", 1, 1, 1, Some(Degradation::OneNode)),
            ("", 1, 1, 0, Some(Degradation::NoStore)),
        ] {
            assert_eq!(write_rule(&draw(text)), WriteRule { zones, nodes, copies, degradation }, "{text}");
        }
    }

    // Two stores of one zone are not two zones, two stores of one node are not two nodes, unknown stores are refused.
    #[test]
    fn checks() {
        let three = draw("a: 1=s10 s11, 4=s40; b: 2=s20; c: 3=s30");
        let one = draw("a: 1=s10 s11, 4=s40");
        let check = |topology: &Topology, stores: &[u64]| {
            let stores: Vec<_> = stores.iter().copied().map(StoreId).collect();
            write_rule(topology).check(topology, &stores).is_ok()
        };
        for (stores, is_enough) in [
            (&[10, 20][..], true),
            (&[20, 30], true),
            (&[10, 40], false),
            (&[10], false),
            (&[], false),
            (&[10, 20, 99], false),
        ] {
            assert_eq!(check(&three, stores), is_enough, "{stores:?}");
        }
        for (stores, is_enough) in [(&[10, 40][..], true), (&[10, 11], false), (&[10], false)] {
            assert_eq!(check(&one, stores), is_enough, "{stores:?}");
        }
        assert!(check(&draw("a: 1=s10"), &[10]));
        assert!(!check(&draw(""), &[]));
    }
}
