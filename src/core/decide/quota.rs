//! May this be held? The limits of repositories and registries, and how a registry's are dealt out over its slots.

use bincode::{Decode, Encode};

/// What is held: of a repository, or of all repositories of a registry in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Usage {
    /// Bytes of its distinct blobs and manifests.
    pub bytes: u64,
    /// Its tags.
    pub tags: u64,
}

impl Usage {
    /// So many bytes.
    pub const fn of_bytes(bytes: u64) -> Usage {
        Usage { bytes, tags: 0 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes.saturating_add(other.bytes), tags: self.tags.saturating_add(other.tags) }
    }

    /// What is left without `other`.
    #[must_use]
    pub fn minus(self, other: Usage) -> Usage {
        Usage { bytes: self.bytes.saturating_sub(other.bytes), tags: self.tags.saturating_sub(other.tags) }
    }
}

/// How much may be held; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Tags.
    pub tags: Option<u64>,
}

/// A limit that does not allow what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// What is limited.
    pub unit: &'static str,
    /// How much of it may be held.
    pub limit: u64,
}

const BYTES: &str = "bytes";
const TAGS: &str = "tags";

impl Limits {
    /// No limit.
    pub const NONE: Limits = Limits { bytes: None, tags: None };

    /// Whether `added` may come to what is held. What does not grow is never refused, also where a lowered limit lies
    /// below what is held already.
    pub fn allow(&self, used: Usage, added: Usage) -> Result<(), Excess> {
        allow(BYTES, self.bytes, used.bytes, added.bytes)?;
        allow(TAGS, self.tags, used.tags, added.tags)
    }
}

fn allow(unit: &'static str, limit: Option<u64>, used: u64, added: u64) -> Result<(), Excess> {
    match limit {
        Some(limit) if added > 0 && used.saturating_add(added) > limit => Err(Excess { unit, limit }),
        Some(_) | None => Ok(()),
    }
}

/// Deals a registry's limits out to slots that hold `used`, so that no slot gets less than it holds and all shares
/// together stay within the limits. The slot `asker` gets `wanted` beside what it holds, and half of what is left, for
/// whoever pushes one blob pushes the next; all have equal parts of the other half.
///
/// Refused if all together do not leave room for `wanted`.
pub fn deal(limits: &Limits, used: &[Usage], asker: usize, wanted: Usage) -> Result<Vec<Limits>, Excess> {
    let of = |read: fn(&Usage) -> u64| used.iter().map(read).collect::<Vec<u64>>();
    let bytes = deal_unit(BYTES, limits.bytes, &of(|usage| usage.bytes), asker, wanted.bytes)?;
    let tags = deal_unit(TAGS, limits.tags, &of(|usage| usage.tags), asker, wanted.tags)?;
    Ok(bytes.into_iter().zip(tags).map(|(bytes, tags)| Limits { bytes, tags }).collect())
}

fn deal_unit(
    unit: &'static str,
    limit: Option<u64>,
    used: &[u64],
    asker: usize,
    wanted: u64,
) -> Result<Vec<Option<u64>>, Excess> {
    let Some(limit) = limit else { return Ok(vec![None; used.len()]) };
    let total = used.iter().fold(0u64, |total, used| total.saturating_add(*used));
    allow(unit, Some(limit), total, wanted)?;
    // below what is held already there is nothing to deal out: everybody keeps what it holds
    let spare = limit.saturating_sub(total).saturating_sub(wanted);
    let part = (spare - spare / 2) / (used.len() as u64).max(1);
    let share = |(at, used): (usize, &u64)| {
        let own = if at == asker { wanted + spare / 2 } else { 0 };
        Some(used + own + part)
    };
    Ok(used.iter().enumerate().map(share).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(limit: u64) -> Limits {
        Limits { bytes: Some(limit), tags: None }
    }

    // B9: the limit itself may be reached, not passed; what does not grow is not refused above it either.
    #[test]
    fn table() {
        for (limit, used, added, allowed) in [
            (100, 0, 100, true),
            (100, 0, 101, false),
            (100, 90, 10, true),
            (100, 90, 11, false),
            (100, 200, 0, true),
            (100, 200, 1, false),
            (0, 0, 0, true),
            (0, 0, 1, false),
            (u64::MAX - 1, u64::MAX - 2, 5, false),
        ] {
            let answer = bytes(limit).allow(Usage::of_bytes(used), Usage::of_bytes(added));
            assert_eq!(answer.is_ok(), allowed, "{limit} {used} {added}");
        }
        let tags = Limits { bytes: None, tags: Some(3) };
        assert!(tags.allow(Usage { bytes: 9, tags: 3 }, Usage::of_bytes(1)).is_ok());
        assert_eq!(tags.allow(Usage { bytes: 9, tags: 3 }, Usage { bytes: 0, tags: 1 }).unwrap_err().unit, "tags");
        assert!(Limits::NONE.allow(Usage::of_bytes(u64::MAX), Usage::of_bytes(1)).is_ok());
    }

    proptest! {
        // Shares never add up to more than the limit, or than what is held where that is more; nobody's is smaller than
        // what it holds; the asker gets what it wants whenever there is that much.
        #[test]
        fn shares(
            limit in 0..2000u64,
            used in prop::collection::vec(0..200u64, 1..20),
            asker in 0..20usize,
            wanted in 0..400u64,
        ) {
            let asker = asker % used.len();
            let held: Vec<Usage> = used.iter().copied().map(Usage::of_bytes).collect();
            let total: u64 = used.iter().sum();
            match deal(&bytes(limit), &held, asker, Usage::of_bytes(wanted)) {
                Err(excess) => {
                    prop_assert!(wanted > 0 && total + wanted > limit);
                    prop_assert_eq!(excess, Excess { unit: "bytes", limit });
                }
                Ok(shares) => {
                    let shares: Vec<u64> = shares.iter().map(|share| share.bytes.unwrap()).collect();
                    prop_assert!(shares.iter().sum::<u64>() <= limit.max(total));
                    prop_assert!(shares.iter().zip(&used).all(|(share, used)| share >= used));
                    prop_assert!(shares[asker] >= used[asker] + wanted);
                }
            }
        }
    }
}
