//! Weighted rendezvous hashing in whole numbers.
//!
//! Each store draws u = hash(key, store) / 2^64 and arrives at −ln(u) / weight, which is an exponential race: a store
//! is first with probability weight / sum of weights, a change of one store's weight moves only what enters or leaves
//! that store, and the first arrival of each zone is that zone's own winner. `argmax weight / −ln(u)` is the same
//! order.
//!
//! Floating-point logarithms differ between machines and library versions, and placement must not. So −log2 is computed
//! bit by bit in 64-bit fixed point (the base of the logarithm does not change the order), and two arrivals are
//! compared by cross-multiplication, without a division. Changing anything here moves data: the test has golden
//! values.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::topology::StorePlace;
use crate::vocabulary::ids::StoreId;

/// Fraction bits of the logarithm.
const FRACTION_BITS: u32 = 40;

/// A store's place in the race for one key. Smaller is earlier.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    negative_log: u64,
    weight: u32,
    store: StoreId,
}

impl Arrival {
    fn of(key: &[u8], store: &StorePlace) -> Arrival {
        let mut input = Vec::with_capacity(key.len() + 8);
        input.extend_from_slice(key);
        input.extend_from_slice(&store.id.0.to_be_bytes());
        Arrival { negative_log: negative_log2(xxh3_64(&input)), weight: store.weight.get(), store: store.id }
    }

    /// Exact: each side is a product of at most 47 and 32 bits. Equal arrivals go by store id.
    fn order(&self, other: &Arrival) -> Ordering {
        let own = u128::from(self.negative_log) * u128::from(other.weight);
        let theirs = u128::from(other.negative_log) * u128::from(self.weight);
        own.cmp(&theirs).then(self.store.cmp(&other.store))
    }
}

/// −log2(hash / 2^64) with [`FRACTION_BITS`] fraction bits; a hash of 0 counts as 1.
fn negative_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let shift = hash.leading_zeros();
    // One integer bit, 63 fraction bits: a number in [1, 2). Squaring it doubles its logarithm; each time it passes 2
    // the next bit of the logarithm is 1.
    let mut mantissa = hash << shift;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let passed_two = square >> 64 != 0;
        mantissa = if passed_two { (square >> 1) as u64 } else { square as u64 };
        fraction = (fraction << 1) | u64::from(passed_two);
    }
    let log = (u64::from(63 - shift) << FRACTION_BITS) | fraction;
    (64 << FRACTION_BITS) - log
}

/// The stores in the order they arrive for this key.
pub(super) fn rank<'t>(key: &[u8], stores: impl IntoIterator<Item = &'t StorePlace>) -> Vec<&'t StorePlace> {
    let mut arrivals: Vec<_> = stores.into_iter().map(|store| (Arrival::of(key, store), store)).collect();
    arrivals.sort_by(|(one, _), (other, _)| one.order(other));
    arrivals.into_iter().map(|(_, store)| store).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::topology::StoreState;
    use super::*;
    use crate::vocabulary::Digest;
    use crate::vocabulary::ids::NodeId;

    fn store(id: u64, weight: u32) -> StorePlace {
        StorePlace {
            id: StoreId(id),
            node: NodeId(id),
            weight: NonZeroU32::new(weight).unwrap(),
            state: StoreState::Up,
        }
    }

    fn key(number: u32) -> Vec<u8> {
        Digest::sha256(&number.to_be_bytes()).key_bytes()
    }

    // The fixed-point logarithm agrees with the machine's to ten digits, falls with its argument, and never wraps.
    #[test]
    fn logarithm() {
        let float = |hash: u64| 64.0 - (hash as f64).log2();
        let fixed = |hash: u64| negative_log2(hash) as f64 / (1u64 << FRACTION_BITS) as f64;
        for hash in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) | (0x9e37_79b9_7f4a_7c15 >> (63 - bit))]) {
            assert!((float(hash) - fixed(hash)).abs() < 1e-10, "{hash}: {} {}", float(hash), fixed(hash));
        }
        assert_eq!(negative_log2(0), 64 << FRACTION_BITS);
        assert_eq!(negative_log2(1 << 63), 1 << FRACTION_BITS);
        assert!(negative_log2(u64::MAX) <= 1);
    }

    // Placement is for ever: these orders may not change with a compiler, a machine or a library.
    #[test]
    fn golden_orders() {
        let stores = [store(1, 1), store(2, 1), store(3, 2), store(u64::MAX, 5)];
        let order = |number| rank(&key(number), &stores).iter().map(|store| store.id.0).collect::<Vec<_>>();
        assert_eq!(xxh3_64(&key(0)), 0x45a5_92c6_4c43_27a9);
        assert_eq!(negative_log2(0x45a5_92c6_4c43_27a9), 2_064_899_814_269);
        let orders: Vec<_> = (0..4).map(order).collect();
        let last = u64::MAX;
        assert_eq!(orders, [[last, 1, 3, 2], [1, last, 3, 2], [last, 2, 3, 1], [2, last, 1, 3]]);
    }

    // The naive formula in floating point chooses alike but for ties too close for it.
    #[test]
    fn agrees_with_floating_point() {
        let stores: Vec<_> = (1..=9).map(|id| store(id, id as u32 * 37)).collect();
        let naive = |key: &[u8]| {
            let score = |store: &StorePlace| {
                let mut input = key.to_vec();
                input.extend_from_slice(&store.id.0.to_be_bytes());
                f64::from(store.weight.get()) / -((xxh3_64(&input) as f64 / 2f64.powi(64)).ln())
            };
            stores.iter().max_by(|one, other| score(one).total_cmp(&score(other))).unwrap().id
        };
        let differing = (0..20_000).filter(|number| rank(&key(*number), &stores)[0].id != naive(&key(*number))).count();
        assert_eq!(differing, 0);
    }

    // Each store wins in proportion to its weight.
    #[test]
    fn balance() {
        let stores = [store(1, 1), store(2, 2), store(3, 4), store(4, 1)];
        let mut wins = [0u32; 5];
        for number in 0..80_000 {
            wins[rank(&key(number), &stores)[0].id.0 as usize] += 1;
        }
        for store in &stores {
            let (got, want) = (wins[store.id.0 as usize], 10_000 * store.weight.get());
            // Six standard deviations of the binomial: sure to hold, and far inside two per cent of the total.
            assert!(got.abs_diff(want) < 6 * 150, "store {}: {got}, wanted {want}", store.id);
        }
    }

    // A new or heavier store only takes; a lost or lighter one only gives; nothing else moves.
    #[test]
    fn minimal_movement() {
        let before: Vec<_> = (1..=6).map(|id| store(id, 10)).collect();
        let mut added = before.clone();
        added.push(store(7, 10));
        let mut heavier = before.clone();
        heavier[2] = store(3, 20);
        let (mut to_new, mut to_heavier) = (0, 0);
        for number in 0..7000 {
            let first = |stores: &[StorePlace]| rank(&key(number), stores)[0].id;
            let old = first(&before);
            let new = first(&added);
            assert!(new == old || new == StoreId(7));
            to_new += u32::from(new != old);
            let new = first(&heavier);
            assert!(new == old || new == StoreId(3));
            to_heavier += u32::from(new != old);
        }
        // A seventh takes a seventh; doubling one of six takes its share from 1/6 to 2/7.
        assert!((850..1150).contains(&to_new), "{to_new}");
        assert!((680..990).contains(&to_heavier), "{to_heavier}");
    }
}
