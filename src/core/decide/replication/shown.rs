//! Which pieces of a blob a region has to show before what is here by others' doing is given to it.
//!
//! One at random in each part of the blob: a header that anybody can guess, or padding, is seldom in all of them. It is
//! no proof: who knows all but a little shows the right ones mostly. Source: security case R16.

use std::iter;
use std::ops::Range;

use crate::vocabulary::limits::{SHOWN_BYTES, SHOWN_PIECES};

/// The pieces as a seed draws them: in order, none with a byte of another one. Of a blob that is no larger than all of
/// them it is one, the whole.
pub fn pieces(seed: u64, size_bytes: u64) -> Vec<Range<u64>> {
    if size_bytes <= SHOWN_PIECES * SHOWN_BYTES {
        return iter::once(0..size_bytes).collect();
    }
    let part = size_bytes / SHOWN_PIECES;
    let piece = |number: u64| {
        let begin = number * part;
        // what the division leaves over is the last part's
        let end = if number + 1 == SHOWN_PIECES { size_bytes } else { begin + part };
        let lot = xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), seed);
        let start = begin + lot % (end - begin - SHOWN_BYTES + 1);
        start..start + SHOWN_BYTES
    };
    (0..SHOWN_PIECES).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocabulary::limits::BLOB_BYTES_MAX;

    const WHOLE_MAX: u64 = SHOWN_PIECES * SHOWN_BYTES;

    fn length(pieces: &[Range<u64>]) -> u64 {
        pieces.iter().map(|piece| piece.end - piece.start).sum()
    }

    // All of what is small is shown, and from the next byte on a piece of each part.
    #[test]
    fn small_ones() {
        for size in [0, 1, SHOWN_BYTES, WHOLE_MAX - 1, WHOLE_MAX] {
            assert_eq!(pieces(7, size), Vec::from_iter([(0, size)].map(|(start, end)| start..end)), "{size}");
        }
        let next = pieces(7, WHOLE_MAX + 1);
        assert_eq!(next.len() as u64, SHOWN_PIECES);
        assert_eq!(length(&next), WHOLE_MAX);
    }

    // The same seed draws the same places, another one others; those of the parts have nothing to do with each other.
    #[test]
    fn places() {
        let size = 1 << 30;
        assert_eq!(pieces(7, size), pieces(7, size));
        assert_ne!(pieces(7, size), pieces(8, size));
        let within: Vec<u64> = pieces(7, size).iter().map(|piece| piece.start % (size / SHOWN_PIECES)).collect();
        assert!(within.windows(2).all(|two| two[0] != two[1]), "{within:?}");
    }

    // Any byte may be asked for, the first and the last as well: nothing can be left out by who has not got it.
    #[test]
    fn all_places() {
        let size = WHOLE_MAX + SHOWN_PIECES * 3;
        let mut asked = vec![false; usize::try_from(size).unwrap()];
        for piece in (0..200).flat_map(|seed| pieces(seed, size)) {
            let (start, end) = (usize::try_from(piece.start).unwrap(), usize::try_from(piece.end).unwrap());
            asked[start..end].fill(true);
        }
        assert!(asked.iter().all(|is_asked| *is_asked));
    }

    // R16: who knows a header, or one half of the bytes, is asked for what it does not know.
    #[test]
    fn r16_a_part_is_not_enough() {
        let size = 64 << 20;
        for seed in 0..1000 {
            let drawn = pieces(seed, size);
            assert!(drawn.iter().any(|piece| piece.start >= size / 4 * 3));
            assert!(drawn.iter().any(|piece| piece.end <= size / 4));
        }
        // of every second run of 1 MiB, which no single piece would find mostly
        let mib = |at: u64| at >> 20;
        let is_known =
            |piece: &Range<u64>| mib(piece.start) == mib(piece.end - 1) && mib(piece.start).is_multiple_of(2);
        let passed = (0..10_000).filter(|seed| pieces(*seed, size).iter().all(is_known)).count();
        assert!((450..800).contains(&passed), "one in sixteen is let through: {passed}");
    }

    proptest! {
        // Of any size: one in each part, in order, apart, within the blob, and never more than is meant to cross.
        #[test]
        fn of_any_size(seed: u64, size in 0..=BLOB_BYTES_MAX) {
            let drawn = pieces(seed, size);
            prop_assert_eq!(length(&drawn), size.min(WHOLE_MAX));
            prop_assert!(drawn.iter().all(|piece| piece.start <= piece.end && piece.end <= size));
            prop_assert!(drawn.windows(2).all(|two| two[0].end <= two[1].start));
            if size > WHOLE_MAX {
                let part = size / SHOWN_PIECES;
                let parts: Vec<u64> = drawn.iter().map(|piece| (piece.start / part).min(SHOWN_PIECES - 1)).collect();
                prop_assert_eq!(parts, Vec::from_iter(0..SHOWN_PIECES));
            }
        }

        // Sizes about the limit of what is shown whole.
        #[test]
        fn of_small_sizes(seed: u64, size in 0..=2 * WHOLE_MAX) {
            let drawn = pieces(seed, size);
            prop_assert_eq!(length(&drawn), size.min(WHOLE_MAX));
            prop_assert!(drawn.windows(2).all(|two| two[0].end <= two[1].start));
            prop_assert!(drawn.last().is_some_and(|last| last.end <= size));
        }
    }
}
