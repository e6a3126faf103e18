use std::num::NonZeroU32;

use proptest::prelude::*;

use super::super::topology::{NodePlace, draw};
use super::*;

fn digest(number: u32) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

fn stores(choices: &[Choice]) -> Vec<u64> {
    choices.iter().map(|choice| choice.store.0).collect()
}

fn zones(choices: &[Choice]) -> String {
    let mut zones: Vec<_> = choices.iter().map(|choice| choice.zone.as_str()).collect();
    zones.sort_unstable();
    zones.concat()
}

// What each shape of topology gives a new blob: zones of the copies, and what waits.
#[test]
fn shapes() {
    for (text, want_zones, want_waiting) in [
        ("a: 1=s10; b: 2=s20; c: 3=s30", "abc", 0),
        ("a: 1=s10, 4=s40; b: 2=s20; c: 3=s30", "abc", 0),
        ("a: 1=s10", "a", 0),
        ("a: 1=s10 s11 s12", "a", 0),
        ("a: 1=s10, 2=s20", "aa", 0),
        ("a: 1=s10, 2=s20, 3=s30, 4=s40", "aaa", 0),
        ("a: 1=s10; b: 2=s20", "ab", 0),
        ("a: 1=s10, 3=s30; b: 2=s20", "aab", 0),
        ("a: 1=s10(full); b: 2=s20; c: 3=s30", "bc", 1),
        ("a: 1=s10(full), 4=s40; b: 2=s20; c: 3=s30", "abc", 0),
        ("a: 1=s10(draining); b: 2=s20, 4=s40; c: 3=s30, 5=s50", "bc", 1),
        ("a: 1=s10(full), 3=s30(full); b: 2=s20, 4=s40, 5=s50", "bb", 1),
        ("a: 1=s10(full)", "", 1),
        ("a: 1=s10(full); b: 2=s20(full); c: 3=s30(full)", "", 3),
        ("", "", 0),
    ] {
        for number in 0..50 {
            let assignment = assign(&draw(text), &digest(number), &[]);
            assert_eq!(zones(&assignment.add), want_zones, "{text}");
            assert_eq!(assignment.waiting.len(), want_waiting, "{text}: {:?}", assignment.waiting);
            assert!(assignment.keep.is_empty() && assignment.surplus.is_empty() && assignment.leaving.is_empty());
        }
    }
}

// Four zones share three copies, and a zone that is full gives its share to the others.
#[test]
fn more_zones_than_copies() {
    let topology = draw("a: 1=s10; b: 2=s20; c: 3=s30; d: 4=s40");
    let mut counts = BTreeMap::new();
    for number in 0..4000 {
        for store in stores(&assign(&topology, &digest(number), &[]).add) {
            *counts.entry(store).or_insert(0u32) += 1;
        }
    }
    assert!(counts.values().all(|count| (2850..3150).contains(count)), "{counts:?}");
    let topology = draw("a: 1=s10(full); b: 2=s20; c: 3=s30; d: 4=s40");
    let assignment = assign(&topology, &digest(1), &[]);
    assert_eq!((zones(&assignment.add).as_str(), assignment.waiting.len()), ("bcd", 0));
}

// Copies stay where an upload put them; the hash adds only what is missing.
#[test]
fn held_copies_stay() {
    let topology = draw("a: 1=s10, 4=s40; b: 2=s20, 5=s50; c: 3=s30, 6=s60");
    for number in 0..200 {
        let fresh = assign(&topology, &digest(number), &[]);
        for held in [[10, 20], [40, 50], [10, 50]] {
            let held = held.map(StoreId);
            let assignment = assign(&topology, &digest(number), &held);
            assert_eq!(assignment.keep.len(), 2);
            assert_eq!((zones(&assignment.add).as_str(), assignment.surplus.len()), ("c", 0));
            let of_zone_c = fresh.add.iter().find(|choice| choice.zone.as_str() == "c").unwrap();
            assert_eq!(assignment.add[0].store, of_zone_c.store, "the zone's winner does not depend on the others");
        }
    }
}

// Draining and unknown stores count for nothing and are named; a full one keeps what it has; too many are surplus.
#[test]
fn held_states() {
    let topology = draw("a: 1=s10(draining), 4=s40; b: 2=s20(full); c: 3=s30, 6=s60");
    let assignment = assign(&topology, &digest(1), &[10, 20, 30, 99].map(StoreId));
    assert_eq!((zones(&assignment.keep).as_str(), stores(&assignment.add)), ("bc", vec![40]));
    assert_eq!(assignment.leaving, [StoreId(10), StoreId(99)]);
    assert!(assignment.surplus.is_empty() && assignment.waiting.is_empty());

    let assignment = assign(&topology, &digest(1), &[20, 30, 40, 60].map(StoreId));
    assert_eq!(zones(&assignment.keep), "abc");
    assert_eq!(assignment.surplus.len(), 1, "two copies in zone c are one too many");
    assert!(assignment.add.is_empty());
}

// A zone that was lost and came back: the copy that stood in for it is surplus only when the zone has its own.
#[test]
fn surplus_stands_in() {
    let topology = draw("a: 1=s10, 4=s40; b: 2=s20(full); c: 3=s30(full)");
    let assignment = assign(&topology, &digest(1), &[10, 40].map(StoreId));
    assert_eq!((assignment.keep.len(), assignment.surplus.len(), assignment.waiting.len()), (1, 1, 2));
}

// The answer explains itself.
#[test]
fn reasons() {
    let topology = draw("a: 1=s10*1000000(full), 4=s40; b: 2=s20; c: 3=s30");
    let assignment = assign(&topology, &digest(3), &[]);
    assert!(assignment.passed_over.contains(&(StoreId(10), PassedOver::Full)), "{assignment:?}");
    let text: Vec<_> = assignment.add.iter().map(|choice| choice.reason.to_string()).collect();
    assert!(text.iter().all(|text| text.starts_with("first of its zone")), "{text:?}");
    let topology = draw("a: 1=s10; b: 2=s20(full); c: 3=s30");
    let waiting = &assign(&topology, &digest(3), &[]).waiting;
    assert_eq!(waiting[0].to_string(), "a copy waits for a store in zone b that takes new copies");
}

// Draining one store moves only its own copies; the same digest elsewhere keeps its stores.
#[test]
fn minimal_movement() {
    let before = draw("a: 1=s10, 4=s40, 7=s70; b: 2=s20, 5=s50; c: 3=s30, 6=s60");
    let after = draw("a: 1=s10(draining), 4=s40, 7=s70; b: 2=s20, 5=s50; c: 3=s30, 6=s60");
    let mut moved = 0;
    for number in 0..3000 {
        let old = stores(&assign(&before, &digest(number), &[]).add);
        let new = stores(&assign(&after, &digest(number), &[]).add);
        let lost: Vec<_> = old.iter().filter(|store| !new.contains(store)).collect();
        assert!(lost.is_empty() || lost == [&10], "{old:?} {new:?}");
        moved += lost.len();
    }
    assert!((900..1100).contains(&moved), "{moved}");
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let store = (1u32..5, 0u8..4);
    let node = prop::collection::vec(store, 0..3);
    let zone = prop::collection::vec(node, 0..4);
    prop::collection::vec(zone, 0..5).prop_map(|zones| {
        let (mut nodes, mut stores) = (Vec::new(), Vec::new());
        for (zone, list) in zones.iter().enumerate() {
            for (at, list) in list.iter().enumerate() {
                let node = NodeId((zone * 10 + at) as u64);
                nodes.push(NodePlace { id: node, zone: ZoneName::parse(&format!("z{zone}")).unwrap() });
                for (at, (weight, state)) in list.iter().enumerate() {
                    let state =
                        [StoreState::Up, StoreState::Up, StoreState::Draining, StoreState::Full][usize::from(*state)];
                    let weight = NonZeroU32::new(*weight).unwrap();
                    stores.push(StorePlace { id: StoreId(node.0 * 10 + at as u64), node, weight, state });
                }
            }
        }
        Topology::new(nodes, stores).unwrap()
    })
}

/// How many copies the best choice of all has: every set of up to three stores is tried against the rule as written.
fn rival(topology: &Topology) -> (usize, usize) {
    let all: Vec<_> = topology.stores().filter(|store| store.state == StoreState::Up).collect();
    let zones = topology.zones().len();
    let mut best = (0, 0);
    for set in 0u32..1 << all.len().min(12) {
        let set: Vec<_> = (0..all.len().min(12)).filter(|at| set >> at & 1 == 1).map(|at| all[at]).collect();
        let nodes: BTreeSet<_> = set.iter().map(|store| store.node).collect();
        let used: BTreeSet<_> = set.iter().map(|store| topology.zone_of_node(store.node)).collect();
        let reserved = zones.min(REPLICAS_TARGET).saturating_sub(used.len());
        let is_legal = nodes.len() == set.len() && set.len() + reserved <= REPLICAS_TARGET;
        if is_legal {
            best = best.max((used.len(), set.len()));
        }
    }
    best
}

proptest! {
    // Against a stupid rival: no legal set of stores covers more zones, or with as many zones has more copies.
    #[test]
    fn no_better_choice_exists(topology in any_topology(), number: u32) {
        prop_assume!(topology.stores().filter(|store| store.state == StoreState::Up).count() <= 12);
        let assignment = assign(&topology, &digest(number), &[]);
        let used: BTreeSet<_> = assignment.add.iter().map(|choice| &choice.zone).collect();
        prop_assert_eq!((used.len(), assignment.add.len()), rival(&topology));
    }

    // Whatever is held, the result is legal, and acting on it leads to a state that wants nothing more.
    #[test]
    fn converges(topology in any_topology(), number: u32, held in prop::collection::vec(0u64..450, 0..5)) {
        let held: Vec<_> = held.into_iter().map(StoreId).collect();
        let first = assign(&topology, &digest(number), &held);
        let good = first.keep.iter().chain(&first.add);
        let nodes: BTreeSet<_> = good.clone().map(|choice| choice.node).collect();
        prop_assert_eq!(nodes.len(), first.keep.len() + first.add.len());
        prop_assert!(nodes.len() <= REPLICAS_TARGET);
        let now: Vec<_> = good.map(|choice| choice.store).collect();
        let second = assign(&topology, &digest(number), &now);
        let is_settled = second.add.is_empty() && second.surplus.is_empty() && second.leaving.is_empty();
        prop_assert!(is_settled, "{:?} {:?}", first, second);
        prop_assert_eq!(first.waiting, second.waiting);
    }
}

// A node that is taken for lost: another one of its zone gets its copy, and no other zone does. Its own copy counts
// again when it is back, and the hash decides which of two goes.
#[test]
fn lost_nodes() {
    let (here, away) = ("a: 1=s10; b: 2=s20; c: 3=s30, 4=s40", "a: 1=s10; b: 2=s20; c: 3=s30(away), 4=s40");
    let held = [10, 20, 30].map(StoreId);
    let mut kept = BTreeSet::new();
    for number in 0..50 {
        let digest = digest(number);
        let plan = assign(&draw(away), &digest, &held);
        assert_eq!((stores(&plan.add), &plan.absent[..], plan.is_met()), (vec![40], &held[2..], false));
        assert!(!held.iter().any(|store| plan.can_spare(*store)));
        let all = [10, 20, 30, 40].map(StoreId);
        let plan = assign(&draw(away), &digest, &all);
        assert!(plan.is_met() && plan.surplus.is_empty() && !plan.can_spare(StoreId(30)), "it may come back");
        let plan = assign(&draw(here), &digest, &all);
        assert!(plan.is_met() && plan.surplus.len() == 1 && plan.can_spare(plan.surplus[0]));
        kept.extend(plan.surplus);
        assert!(assign(&draw("a: 1=s10; b: 2=s20; c: 3=s30(away)"), &digest, &held).add.is_empty());
    }
    assert_eq!(kept.len(), 2, "sometimes the one, sometimes the other");
}

// A zone that is lost: a blob with two copies waits for it, one with a single copy gets a second where there is room,
// which goes again once the zone is back.
#[test]
fn lost_zones() {
    let lost = draw("a: 1=s10, 4=s40; b: 2=s20(full); c: 3=s30(stranded)");
    let away = draw("a: 1=s10, 4=s40; b: 2=s20(full); c: 3=s30(away)");
    let held = [StoreId(10), StoreId(30)];
    for number in 0..50 {
        let digest = digest(number);
        assert!(assign(&away, &digest, &held).add.is_empty());
        let plan = assign(&lost, &digest, &held);
        assert_eq!(stores(&plan.add), [40]);
        assert!(matches!(plan.add[0].reason, Reason::Spare { .. }), "{plan:?}");
        let plan = assign(&lost, &digest, &[10, 30, 40].map(StoreId));
        assert!(plan.add.is_empty() && plan.keep.len() == 2 && !plan.is_met());
        assert!(assign(&lost, &digest, &[10, 20].map(StoreId)).add.is_empty());
        let back = draw("a: 1=s10, 4=s40; b: 2=s20; c: 3=s30");
        let plan = assign(&back, &digest, &[10, 20, 30, 40].map(StoreId));
        assert!(plan.is_met() && [vec![StoreId(10)], vec![StoreId(40)]].contains(&plan.surplus));
    }
}
