//! Whether a node's clock agrees with those of the voters, and by which time it stamps changes.
//!
//! Pure: all times are on one scale that no clock's jump moves, that of the node's own time since boot. The median of a
//! majority of the voters is right while fewer than half of them are wrong. Two clocks that contradict each other say
//! nothing about which is wrong: then nobody is judged, and what was in force stays. Source: consensus-and-faults §6.3.

use crate::vocabulary::limits::{CLOCK_READING_ERROR_MS_MAX, CLOCK_SKEW_MS_MAX};

/// What another node's clock was heard to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its time less the own time since boot at the same moment, milliseconds.
    pub epoch_ms: i64,
    /// How far that may be wrong: half of the round trip in which it was heard, milliseconds.
    pub error_ms: u64,
}

impl Reading {
    /// From an answer that said `wall_ms` and came between two moments of the own time since boot: the best guess is
    /// that it was said half-way.
    pub fn of_answer(wall_ms: u64, asked_ms: u64, answered_ms: u64) -> Reading {
        let round_ms = answered_ms.saturating_sub(asked_ms);
        let epoch_ms = epoch(wall_ms, asked_ms.saturating_add(round_ms / 2));
        // whole milliseconds are cut off on both sides
        Reading { epoch_ms, error_ms: round_ms.div_ceil(2).saturating_add(1) }
    }

    /// Whether it says enough to be counted.
    pub fn counts(&self) -> bool {
        self.error_ms < CLOCK_READING_ERROR_MS_MAX
    }
}

/// A wall clock's time on the scale of the time since boot.
pub fn epoch(wall_ms: u64, boot_ms: u64) -> i64 {
    let whole = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    whole(wall_ms).saturating_sub(whole(boot_ms))
}

/// How a clock stands to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Too few were heard, or they contradict each other.
    #[default]
    Unknown,
    /// It is as good as theirs.
    Agrees,
    /// It runs ahead of the median by more than is borne.
    Ahead,
    /// It is behind the median by more than that.
    Behind,
}

impl Standing {
    /// Its name, as operators read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Unknown => "unknown",
            Standing::Agrees => "agrees",
            Standing::Ahead => "ahead",
            Standing::Behind => "behind",
        }
    }
}

/// The median of the voters' clocks; `None` unless a majority of them was heard and says the same about the middle.
///
/// `voters`: one for each, the own one included if it votes; `None` for one that was not heard lately.
pub fn median(voters: &[Option<i64>]) -> Option<i64> {
    let mut heard: Vec<i64> = voters.iter().flatten().copied().collect();
    if heard.len() * 2 <= voters.len() {
        return None;
    }
    heard.sort_unstable();
    let (low, high) = (heard[(heard.len() - 1) / 2], heard[heard.len() / 2]);
    // of an even number the two in the middle: if they differ, either half may be right
    (!is_off(low, high)).then(|| low.midpoint(high))
}

/// Whether two clocks differ by more than is borne.
pub fn is_off(one: i64, other: i64) -> bool {
    one.abs_diff(other) > CLOCK_SKEW_MS_MAX
}

/// How the own clock stands to the median.
pub fn stand(own: i64, median: Option<i64>) -> Standing {
    match median {
        None => Standing::Unknown,
        Some(median) if !is_off(own, median) => Standing::Agrees,
        Some(median) if own > median => Standing::Ahead,
        Some(_) => Standing::Behind,
    }
}

/// By which time changes are stamped: the own clock's while it agrees, the median's while it does not. While nobody
/// knows, as before (`held`; it goes on by the time since boot, which no jump moves); before anything was known, by the
/// own clock's, so that a node which hears of nobody never stops.
pub fn stamps_by(own: i64, median: Option<i64>, held: Option<i64>) -> i64 {
    match median {
        None => held.unwrap_or(own),
        Some(median) if is_off(own, median) => median,
        Some(_) => own,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const S: i64 = 1000;

    // One wrong clock of three or five is found, whichever way it is wrong; a tie, a minority or silence judges nobody.
    #[test]
    fn standings() {
        use Standing::{Agrees, Ahead, Behind, Unknown};
        let heard = |words: &str| -> Vec<Option<i64>> {
            words.split_whitespace().map(|word| word.parse::<i64>().ok().map(|seconds| seconds * S)).collect()
        };
        // the own clock comes first
        for (voters, standing) in [
            ("0", Agrees),
            ("3 0 0", Ahead),
            ("0 3 0", Agrees),
            ("-3 0 0", Behind),
            ("-3 0 3", Behind),
            ("3 0 -3", Ahead),
            ("0 3 -3", Agrees),
            ("0 3 3", Behind),
            ("3 0 ?", Unknown),
            ("0 3 ?", Unknown),
            ("0 0 ?", Agrees),
            ("9 ? ?", Unknown),
            ("9 0", Unknown),
            ("0 0 9 9", Unknown),
            ("9 0 0 0", Ahead),
            ("9 0 0 ?", Ahead),
            ("9 0 0 ? ?", Ahead),
            ("9 9 0 0 ?", Unknown),
            ("9 0 ? ? ?", Unknown),
            ("9 9 9 0 0", Agrees),
            ("0 9 9 9 0", Behind),
        ] {
            let voters = heard(voters);
            let own = voters[0].unwrap();
            assert_eq!(stand(own, median(&voters)), standing, "{voters:?}");
        }
        assert_eq!(stand(0, median(&[])), Unknown, "nobody votes yet");
        // half a second is borne, more is not
        let limit = CLOCK_SKEW_MS_MAX as i64;
        for (own, standing) in [(limit, Agrees), (limit + 1, Ahead), (-limit, Agrees), (-limit - 1, Behind)] {
            assert_eq!(stand(own, median(&[Some(own), Some(0), Some(0)])), standing, "{own}");
        }
        let names = [Unknown, Agrees, Ahead, Behind].map(Standing::as_str);
        assert_eq!(names, ["unknown", "agrees", "ahead", "behind"]);
    }

    // A jump that nobody confirms is not followed; without any evidence the own clock is, so that nothing stops.
    #[test]
    fn stamps() {
        assert_eq!(stamps_by(7, None, None), 7, "alone from the start");
        assert_eq!(stamps_by(3600 * S, None, Some(7)), 7, "a jump while the others are silent");
        assert_eq!(stamps_by(3600 * S, Some(7), Some(9)), 7);
        assert_eq!(stamps_by(-3600 * S, Some(7), Some(9)), 7);
        assert_eq!(stamps_by(300, Some(7), Some(9)), 300, "a clock that agrees counts as it is");
    }

    // The answer's time is that of the middle of its round trip; a slow one says too little.
    #[test]
    fn readings() {
        let quick = Reading::of_answer(5_000, 1_000, 1_010);
        assert_eq!(quick, Reading { epoch_ms: 3_995, error_ms: 6 });
        assert!(quick.counts() && !Reading::of_answer(5_000, 1_000, 1_250).counts());
        assert_eq!(Reading::of_answer(5_000, 1_000, 1_000).error_ms, 1);
        // what no honest node sends ends in a number all the same
        assert_eq!(Reading::of_answer(u64::MAX, u64::MAX, 0).epoch_ms, 0);
        assert_eq!(epoch(0, u64::MAX), -i64::MAX);
    }

    /// Clocks of up to nine voters of which fewer than half are wrong; some may be silent.
    fn voters() -> impl Strategy<Value = (Vec<i64>, Vec<i64>)> {
        (0_usize..5).prop_flat_map(|wrong| {
            let right = wrong + 1..=wrong + 4;
            (vec(-100_i64..=100, right), vec(-4_000_000_i64..4_000_000, wrong))
        })
    }

    proptest! {
        // While fewer than half are wrong, in whatever way, no right clock is judged wrong, every clock that is wrong
        // by a second is, and stamps of every node are within what right clocks differ by, or borne.
        #[test]
        fn right_clocks_win((right, wrong) in voters()) {
            let all: Vec<Option<i64>> = right.iter().chain(&wrong).copied().map(Some).collect();
            let median = median(&all);
            prop_assume!(median.is_some());
            for own in &right {
                prop_assert_eq!(stand(*own, median), Standing::Agrees);
            }
            for own in wrong.iter().filter(|own| own.abs() > S) {
                let standing = if *own > 0 { Standing::Ahead } else { Standing::Behind };
                prop_assert_eq!(stand(*own, median), standing);
            }
            for own in right.iter().chain(&wrong) {
                let bound = CLOCK_SKEW_MS_MAX + 100 + CLOCK_SKEW_MS_MAX / 2;
                prop_assert!(stamps_by(*own, median, None).unsigned_abs() <= bound);
            }
        }

        // An odd number of which fewer than half are wrong always has a median, between two right clocks.
        #[test]
        fn odd_numbers_know((right, wrong) in voters()) {
            let all: Vec<Option<i64>> = right.iter().chain(&wrong).copied().map(Some).collect();
            if all.len() % 2 == 1 {
                let found = median(&all).unwrap();
                prop_assert!(right.iter().min().unwrap() <= &found && &found <= right.iter().max().unwrap());
            }
        }

        // Neither the order of the voters nor what their clocks are counted from changes anything, no minority is
        // enough, and who is judged ahead knows a voter that agrees, to hand leadership to.
        #[test]
        fn judgements_hold(
            heard in vec(proptest::option::weighted(0.8, -4_000_i64..4_000), 0..8),
            by in -1_000_000_000_000_i64..1_000_000_000_000,
        ) {
            let found = median(&heard);
            let mut turned = heard.clone();
            turned.reverse();
            prop_assert_eq!(median(&turned), found);
            let moved: Vec<_> = heard.iter().map(|one| one.map(|one| one + by)).collect();
            // a half is rounded towards zero
            let back = median(&moved).map(|found| found - by);
            prop_assert_eq!(back.is_some(), found.is_some());
            prop_assert!(back.zip(found).is_none_or(|(one, other)| one.abs_diff(other) <= 1));
            let known: Vec<i64> = heard.iter().flatten().copied().collect();
            if known.len() * 2 <= heard.len() {
                prop_assert_eq!(found, None);
            }
            for own in &known {
                if matches!(stand(*own, found), Standing::Ahead | Standing::Behind) {
                    let others = known.iter().filter(|other| stand(**other, found) == Standing::Agrees);
                    prop_assert!(others.count() > 0);
                    prop_assert_eq!(stamps_by(*own, found, None), found.unwrap());
                }
            }
        }
    }
}
