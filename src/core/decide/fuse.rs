//! The fuse of garbage collection: a cycle that would take too much at once is more likely a mistake than garbage.

use crate::metadata::sweep::Survey;

/// How much one cycle may condemn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuse {
    /// Per cent of the bytes of all records that are not condemned yet; 100 for no limit.
    pub percent: u8,
    /// So many bytes are condemned without asking, whatever part of the whole they are.
    pub floor_bytes: u64,
}

impl Fuse {
    /// The bytes that a cycle may condemn of `bytes`.
    pub fn allowance(&self, bytes: u64) -> u64 {
        if self.percent >= 100 {
            return u64::MAX;
        }
        let share = u128::from(bytes) * u128::from(self.percent) / 100;
        // a share of a u64 below the whole fits into one
        u64::try_from(share).unwrap_or(u64::MAX).max(self.floor_bytes)
    }

    /// Whether what a survey found is too much to condemn without asking.
    pub fn holds(&self, survey: &Survey) -> bool {
        survey.unused_bytes > self.allowance(survey.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A fifth passes, a byte more asks; little passes always, and everything where somebody said so.
    #[test]
    fn table() {
        let fuse = |percent, floor_bytes| Fuse { percent, floor_bytes };
        let survey = |unused_bytes, bytes| Survey { bytes, unused_bytes, ..Survey::default() };
        for (fuse, unused, bytes, holds) in [
            (fuse(20, 0), 20, 100, false),
            (fuse(20, 0), 21, 100, true),
            (fuse(20, 50), 50, 100, false),
            (fuse(20, 50), 51, 100, true),
            (fuse(0, 0), 0, 100, false),
            (fuse(0, 0), 1, 100, true),
            (fuse(20, 0), 0, 0, false),
            (fuse(100, 0), u64::MAX, u64::MAX, false),
            (fuse(99, 0), u64::MAX, u64::MAX, true),
        ] {
            assert_eq!(fuse.holds(&survey(unused, bytes)), holds, "{fuse:?} {unused} of {bytes}");
        }
    }
}
