//! Who holds an upload whose digest is not known yet: the node that was asked, and one in another zone.
//!
//! Unlike [`assign`](super::assign()) this looks at reachability, for an upload must go on now; but the pair still
//! satisfies the rule of 201, which reachability never lowers.

use super::quorum::write_rule;
use super::race;
use super::topology::{StorePlace, StoreState, Topology};
use crate::vocabulary::Refusal;
use crate::vocabulary::ids::{NodeId, StoreId, UploadId};
use crate::vocabulary::limits::RETRY_AFTER_MS;

/// The holders of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadPair {
    /// Appends first and answers.
    pub primary: StoreId,
    /// Holds the same bytes elsewhere; none only where one node is all that is configured.
    pub backup: Option<StoreId>,
}

/// Why there is no pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPair {
    /// Reachable stores would do, but they are full or draining.
    #[error("no store takes new blobs: free space or add a store")]
    Full,
    /// Too few stores are reachable.
    #[error("too few zones are reachable to store a blob safely")]
    Unreachable,
}

impl From<NoPair> for Refusal {
    fn from(error: NoPair) -> Refusal {
        match error {
            NoPair::Full => Refusal::StorageFull,
            NoPair::Unreachable => Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS },
        }
    }
}

/// Chooses the holders of an upload that `local` was asked to begin (or of one that lost its holders: then `survivor`
/// stays and is not asked whether it takes new blobs).
///
/// The primary is the survivor, else a store of this node, else of its zone, else any; the backup stands in another
/// zone where two are configured, else on another node. Among equals the weighted hash of the upload's id decides.
pub fn choose_upload_pair(
    topology: &Topology,
    local: NodeId,
    upload: &UploadId,
    survivor: Option<StoreId>,
    is_reachable: impl Fn(StoreId) -> bool,
) -> Result<UploadPair, NoPair> {
    let ranked = race::rank(&upload.key_bytes(), topology.stores().filter(|store| is_reachable(store.id)));
    let choose = |may: &dyn Fn(&StorePlace) -> bool| pair(topology, local, &ranked, survivor, may);
    // a store whose node was given up, though it answers again, takes blobs as soon as that is noted
    choose(&|store| store.state == StoreState::Up).ok_or_else(|| match choose(&|store| !store.state.is_absent()) {
        Some(_) => NoPair::Full,
        None => NoPair::Unreachable,
    })
}

fn pair(
    topology: &Topology,
    local: NodeId,
    ranked: &[&StorePlace],
    survivor: Option<StoreId>,
    may_take: &dyn Fn(&StorePlace) -> bool,
) -> Option<UploadPair> {
    let rule = write_rule(topology);
    let candidates = || ranked.iter().copied().filter(|store| may_take(store));
    let distance = |store: &StorePlace| match store.node == local {
        true => 0,
        false if topology.zone_of_node(store.node) == topology.zone_of_node(local) => 1,
        false => 2,
    };
    let primary = match survivor {
        Some(id) => *ranked.iter().find(|store| store.id == id)?,
        None => candidates().min_by_key(|store| distance(store))?,
    };
    if rule.nodes < 2 {
        return Some(UploadPair { primary: primary.id, backup: None });
    }
    let is_apart = |store: &&StorePlace| match rule.zones {
        0 | 1 => store.node != primary.node,
        _ => topology.zone_of_node(store.node) != topology.zone_of_node(primary.node),
    };
    // The node that was asked is the cheapest partner of a survivor; otherwise the hash spreads the load.
    let backup = candidates().filter(is_apart).min_by_key(|store| survivor.is_some() && store.node != local)?;
    Some(UploadPair { primary: primary.id, backup: Some(backup.id) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decide::placement::topology::draw;

    const THREE: &str = "a: 1=s10 s11, 4=s40; b: 2=s20, 5=s50; c: 3=s30";

    fn choose(text: &str, local: u64, number: u128, down: &[u64]) -> Result<(u64, Option<u64>), NoPair> {
        let upload = UploadId { tick: 1, random: number };
        let pair = choose_upload_pair(&draw(text), NodeId(local), &upload, None, |store| !down.contains(&store.0))?;
        Ok((pair.primary.0, pair.backup.map(|store| store.0)))
    }

    // Own store first, then another zone; every other zone is used.
    #[test]
    fn own_store_and_another_zone() {
        let mut backups = BTreeMap::new();
        for number in 0..300 {
            let (primary, backup) = choose(THREE, 1, number, &[]).unwrap();
            assert!([10, 11].contains(&primary), "{primary}");
            assert!([20, 50, 30].contains(&backup.unwrap()), "{backup:?}");
            *backups.entry(backup).or_insert(0) += 1;
        }
        assert!(backups.len() == 3 && backups.values().all(|count| *count > 60), "{backups:?}");
    }

    // Each shape, with stores that are full or out of reach: a pair that satisfies 201, or a clear no.
    #[test]
    fn shapes() {
        for (text, local, down, want) in [
            ("a: 1=s10", 1, &[][..], Ok((10, None))),
            ("a: 1=s10(full)", 1, &[], Err(NoPair::Full)),
            ("a: 1=s10(draining)", 1, &[], Err(NoPair::Full)),
            ("a: 1=s10", 1, &[10], Err(NoPair::Unreachable)),
            ("a: 1=s10 s11(full)", 1, &[], Ok((10, None))),
            ("a: 1=s10, 2=s20", 2, &[], Ok((20, Some(10)))),
            ("a: 1=s10, 2=s20", 2, &[10], Err(NoPair::Unreachable)),
            ("a: 1=s10; b: 2=s20", 1, &[], Ok((10, Some(20)))),
            ("a: 1=s10, 3=s30; b: 2=s20", 1, &[20], Err(NoPair::Unreachable)),
            ("a: 1=s10; b: 2=s20(full); c: 3=s30", 1, &[], Ok((10, Some(30)))),
            ("a: 1=s10; b: 2=s20(full); c: 3=s30", 1, &[30], Err(NoPair::Full)),
            ("a: 1=s10(full), 4=s40; b: 2=s20", 1, &[], Ok((40, Some(20)))),
            ("a: 1=s10(full); b: 2=s20; c: 3=s30(full)", 1, &[], Err(NoPair::Full)),
            ("a: 1=; b: 2=s20; c: 3=s30(full)", 1, &[], Err(NoPair::Full)),
            ("a: 1=s10; b: 2=s20(away)", 1, &[], Err(NoPair::Unreachable)),
            ("a: 1=s10; b: 2=s20(stranded); c: 3=s30(full)", 1, &[], Err(NoPair::Full)),
            ("", 1, &[], Err(NoPair::Unreachable)),
        ] {
            assert_eq!(choose(text, local, 7, down), want, "{text}");
        }
    }

    // A survivor of a lost pair stays, even on a full store, and gets a partner in another zone, here if possible.
    #[test]
    fn survivor_stays() {
        let topology = draw("a: 1=s10(full); b: 2=s20, 5=s50; c: 3=s30");
        for number in 0..50 {
            let upload = UploadId { tick: 1, random: number };
            let pair = choose_upload_pair(&topology, NodeId(3), &upload, Some(StoreId(10)), |_| true).unwrap();
            assert_eq!(pair, UploadPair { primary: StoreId(10), backup: Some(StoreId(30)) });
            let gone = choose_upload_pair(&topology, NodeId(3), &upload, Some(StoreId(10)), |store| store.0 != 10);
            assert_eq!(gone, Err(NoPair::Unreachable));
        }
    }

    // Every pair that is chosen satisfies the rule of 201.
    #[test]
    fn pairs_satisfy_the_rule() {
        for text in [THREE, "a: 1=s10, 2=s20", "a: 1=s10; b: 2=s20, 3=s30", "a: 1=s10"] {
            let topology = draw(text);
            for number in 0..100 {
                let (primary, backup) = choose(text, 1, number, &[]).unwrap();
                let stores: Vec<_> = [Some(primary), backup].into_iter().flatten().map(StoreId).collect();
                assert_eq!(write_rule(&topology).check(&topology, &stores), Ok(()), "{text}");
            }
        }
    }
}
