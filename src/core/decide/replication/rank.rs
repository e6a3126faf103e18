//! The one merge rule between regions: of two records of a register the one of higher rank stays, whatever order they
//! arrive in and however often.
//!
//! `rank = (home epoch, base, first)`, from the record alone, never from local settings:
//!
//! | record | base | first |
//! |---|---|---|
//! | a tag that may move, set | its version | – |
//! | a tag that is fixed, set | version of the delete it follows, none for a first life | older is larger |
//! | a delete | its version | below every set |
//! | the end of a setting whose manifest was deleted | that setting's | just above that setting |
//!
//! So of settings that may move the newer wins; in one life of a fixed tag the first writer wins everywhere, and a
//! delete ends that life. Source: consensus-and-faults §6.3.

use std::cmp::Reverse;

use crate::vocabulary::version::Version;

/// Where a record stands among all records of its register; a total order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    home_epoch: u32,
    base: Version,
    /// `None`, the smallest, of a delete.
    first: Option<Reverse<Version>>,
}

impl Rank {
    /// Of a register that never was: below everything.
    pub const NEVER: Rank = Rank { home_epoch: 0, base: Version { home_epoch: 0, hlc: 0, region: 0 }, first: None };

    /// Of a setting. `base` is its own version if it may move, the version of the delete that it follows if it is
    /// fixed.
    pub fn of_set(version: Version, base: Version) -> Rank {
        Rank { home_epoch: version.home_epoch, base, first: Some(Reverse(version)) }
    }

    /// Of a setting that ended because the manifest it named was deleted: just above the setting.
    pub fn of_end(version: Version, base: Version) -> Rank {
        Rank { home_epoch: version.home_epoch, base, first: Some(Reverse(version.predecessor())) }
    }

    /// Of a delete.
    pub fn of_delete(version: Version) -> Rank {
        Rank { home_epoch: version.home_epoch, base: version, first: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(hlc: u64, region: u16) -> Version {
        Version { home_epoch: 0, hlc, region }
    }

    fn moving(hlc: u64, region: u16) -> Rank {
        Rank::of_set(version(hlc, region), version(hlc, region))
    }

    fn fixed(hlc: u64, region: u16, base: Version) -> Rank {
        Rank::of_set(version(hlc, region), base)
    }

    // What §6.3 says of each pair, the winner first.
    #[test]
    fn winners() {
        let never = Version::default();
        let table = [
            ("newer settings win", moving(2, 1), moving(1, 2)),
            ("regions break ties", moving(1, 2), moving(1, 1)),
            ("a delete ends what is older", Rank::of_delete(version(2, 1)), moving(1, 2)),
            ("a push after the delete stays", moving(3, 1), Rank::of_delete(version(2, 2))),
            ("the first writer of a fixed tag wins", fixed(1, 2, never), fixed(2, 1, never)),
            ("in the next life too", fixed(5, 1, version(4, 1)), fixed(6, 2, version(4, 1))),
            ("a delete ends a fixed tag's life", Rank::of_delete(version(4, 1)), fixed(9, 2, never)),
            ("and the next life follows it", fixed(9, 2, version(4, 1)), Rank::of_delete(version(4, 1))),
            ("what may move passes what was fixed in an older life", moving(9, 1), fixed(1, 2, never)),
            ("anything passes nothing", fixed(1, 1, never), Rank::NEVER),
        ];
        for (told, winner, loser) in table {
            assert!(winner > loser, "{told}");
        }
        let later = Version { home_epoch: 1, hlc: 1, region: 1 };
        assert!(Rank::of_set(later, later) > moving(99, 9), "a new home passes all that the old one accepted");
    }

    fn rank() -> impl Strategy<Value = (Rank, u8)> {
        let version =
            (0..2u32, 1..5u64, 1..4u16).prop_map(|(home_epoch, hlc, region)| Version { home_epoch, hlc, region });
        (version.clone(), version, 0..3u8).prop_map(|(version, base, kind)| {
            let rank = match kind {
                0 => Rank::of_set(version, version),
                1 => Rank::of_set(version, base.min(version)),
                _ => Rank::of_delete(version),
            };
            (rank, kind)
        })
    }

    proptest! {
        // Whatever order records arrive in, and however often, the same one is left.
        #[test]
        fn all_orders_agree(
            records in prop::collection::vec(rank(), 1..8),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            seed in any::<u64>(),
        ) {
            let merge = |order: &[(Rank, u8)]| order.iter().fold(Rank::NEVER, |present, (next, _)| present.max(*next));
            let mut other = records.clone();
            other.extend(again.iter().map(|at| records[at.index(records.len())]));
            let turn = usize::try_from(seed % other.len() as u64).unwrap_or_default();
            other.rotate_left(turn);
            other.reverse();
            prop_assert_eq!(merge(&records), merge(&other));
        }
    }
}
