//! Which blobs a comparison reads and hashes on both sides: a share of all of them, and a few where there are few.
//!
//! A lot is drawn for each blob from its digest and the comparison's seed: a blob that many images share takes part
//! once, and who knows the seed can draw again. Source: consensus-and-faults §6.5.

use std::collections::BTreeMap;

use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::{SAMPLED_BLOBS_MAX, SAMPLED_BLOBS_MIN, SAMPLED_ONE_IN};

/// Lots up to this one are drawn, however many there are.
const DRAWN: u64 = u64::MAX / SAMPLED_ONE_IN;

/// A draw that goes on. Holds no more than [`SAMPLED_BLOBS_MAX`] blobs, however many are offered.
#[derive(Clone, Debug)]
pub struct Sample<T> {
    seed: u64,
    /// By lot.
    held: BTreeMap<u64, T>,
}

impl<T> Sample<T> {
    /// Nothing is drawn yet.
    pub fn new(seed: u64) -> Sample<T> {
        Sample { seed, held: BTreeMap::new() }
    }

    /// Lets a blob take part, with what is to be known of it if it is drawn.
    pub fn offer(&mut self, digest: &Digest, about: impl FnOnce() -> T) {
        let lot = xxhash_rust::xxh3::xxh3_64_with_seed(&digest.key_bytes(), self.seed);
        let is_hopeless = || {
            let last = self.held.last_key_value().map(|(last, _)| *last);
            let wanted = if lot <= DRAWN { SAMPLED_BLOBS_MAX } else { SAMPLED_BLOBS_MIN };
            self.held.len() >= wanted && last.is_some_and(|last| lot > last)
        };
        if self.held.contains_key(&lot) || is_hopeless() {
            return;
        }
        self.held.insert(lot, about());
        let is_spare = |held: &BTreeMap<u64, T>| {
            let beyond = held.last_key_value().is_some_and(|(last, _)| *last > DRAWN);
            held.len() > if beyond { SAMPLED_BLOBS_MIN } else { SAMPLED_BLOBS_MAX }
        };
        while is_spare(&self.held) {
            self.held.pop_last();
        }
    }

    /// What was drawn, by lot.
    pub fn drawn(self) -> Vec<T> {
        self.held.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    fn drawn(seed: u64, numbers: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut sample = Sample::new(seed);
        numbers.for_each(|number| sample.offer(&digest(number), || number));
        sample.drawn()
    }

    // Few blobs are all drawn; of some a few are; of many one in ten thousand; of very many no more than the limit.
    #[test]
    fn how_many() {
        assert_eq!(drawn(1, 0..0), [0; 0]);
        assert_eq!(drawn(1, 0..SAMPLED_BLOBS_MIN as u64).len(), SAMPLED_BLOBS_MIN);
        assert_eq!(drawn(1, 0..100).len(), SAMPLED_BLOBS_MIN);
        let many = drawn(1, 0..20 * SAMPLED_ONE_IN).len();
        assert!((SAMPLED_BLOBS_MIN + 1..50).contains(&many), "{many}");
        // one that is full already, of lots that some blobs have lower ones than
        let step = DRAWN / SAMPLED_BLOBS_MAX as u64;
        let mut full = Sample::new(1);
        full.held = (1..=SAMPLED_BLOBS_MAX as u64).map(|at| (at * step, u64::MAX)).collect();
        (0..20 * SAMPLED_ONE_IN).for_each(|number| full.offer(&digest(number), || number));
        let drawn = full.drawn();
        let new = drawn.iter().filter(|number| **number != u64::MAX).count();
        assert!(drawn.len() == SAMPLED_BLOBS_MAX && new > 0, "{new} of {}", drawn.len());
    }

    // The same seed draws the same, in any order and however often a blob is named; another one draws others.
    #[test]
    fn drawn_again() {
        let first = drawn(7, 0..30_000);
        assert_eq!(drawn(7, (0..30_000).rev()), first);
        assert_eq!(drawn(7, (0..30_000).chain(0..30_000)), first);
        assert_ne!(drawn(8, 0..30_000), first);
    }

    // What is offered in vain costs nothing.
    #[test]
    fn only_what_is_drawn_is_made() {
        let (mut sample, mut made) = (Sample::new(3), 0);
        for number in 0..20_000 {
            sample.offer(&digest(number), || made += 1);
        }
        assert!(made < 200, "{made}");
    }
}
