//! Which faults a mixed run has, and when: pure, from the seed alone. A swarm: each run draws its own kinds, their
//! weights and their pace, so that runs differ more than one fixed mixture ever would.

use std::time::Duration;

use clap::ValueEnum as _;

use super::kind::FaultKind;
use super::quorum::Draw;

/// Faults of one run at most.
const ENTRIES_MAX: usize = 10_000;
/// Kinds that a run draws at least.
const KINDS_MIN: usize = 4;
/// Shortest and longest mean pause between two faults.
const PAUSE_MS: (u64, u64) = (1000, 6000);
/// The first fault: the load has to be under way.
const FIRST_MS: u64 = 2000;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When it begins, at the earliest, since the load began.
    pub(crate) at: Duration,
    pub(crate) kind: FaultKind,
    /// How long it lasts.
    pub(crate) lasts: Duration,
    pub(crate) draw: Draw,
}

/// The faults of a run, in order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) kinds: Vec<FaultKind>,
    pub(crate) entries: Vec<Entry>,
}

/// The kinds of the run: those that were asked for, else what is drawn.
pub(crate) fn kinds(seed: u64, only: &[FaultKind], is_safe: bool) -> Vec<FaultKind> {
    if !only.is_empty() {
        return only.to_vec();
    }
    let mut random = fastrand::Rng::with_seed(seed ^ 0x006b_696e_6473);
    let allowed = FaultKind::value_variants().iter().filter(|kind| kind.is_quorum_safe() || !is_safe);
    let mut all: Vec<FaultKind> = allowed.copied().collect();
    random.shuffle(&mut all);
    let count = random.usize(KINDS_MIN..=all.len());
    all.truncate(count);
    all.sort_unstable();
    all
}

/// Faults of `kinds` for a run of `lasts`. Each kind is there once before any is there twice.
pub(crate) fn schedule(seed: u64, kinds: &[FaultKind], lasts: Duration) -> Schedule {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x0073_7761_726d);
    let weights: Vec<u64> = kinds.iter().map(|_| random.u64(1..=10)).collect();
    // faults of a short run are short, so that each has its turn
    let share = lasts.as_millis() as f64 / kinds.len().max(1) as f64 / 10_000.0;
    let pace = random.u64(50..=100) as f64 / 100.0 * share.clamp(0.3, 1.0);
    let mean_pause_ms = (random.u64(PAUSE_MS.0..=PAUSE_MS.1) as f64 * pace) as u64;
    let mut first: Vec<FaultKind> = kinds.to_vec();
    random.shuffle(&mut first);
    let mut at_ms = FIRST_MS;
    let mut entries = Vec::new();
    while entries.len() < first.len() || (Duration::from_millis(at_ms) < lasts && !kinds.is_empty()) {
        if entries.len() == ENTRIES_MAX {
            break;
        }
        let kind = first.get(entries.len()).copied().unwrap_or_else(|| kinds[weighted(&weights, &mut random)]);
        let (shortest, longest) = kind.lasts_ms();
        let longest = shortest.max((longest as f64 * pace) as u64);
        let entry = Entry {
            at: Duration::from_millis(at_ms),
            kind,
            lasts: Duration::from_millis(random.u64(shortest..=longest)),
            draw: Draw { prefers_leader: random.bool(), random: random.u64(..) },
        };
        entries.push(entry);
        at_ms += random.u64(0..=2 * mean_pause_ms);
    }
    Schedule { kinds: kinds.to_vec(), entries }
}

fn weighted(weights: &[u64], random: &mut fastrand::Rng) -> usize {
    let mut left = random.u64(0..weights.iter().sum());
    for (at, weight) in weights.iter().enumerate() {
        if left < *weight {
            return at;
        }
        left -= weight;
    }
    weights.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(600);

    // The seed gives the run: the same one twice, another one for another seed.
    #[test]
    fn from_the_seed() {
        let of = |seed| {
            let kinds = kinds(seed, &[], true);
            (schedule(seed, &kinds, MINUTES), kinds)
        };
        assert_eq!(of(5), of(5));
        let different: std::collections::BTreeSet<_> = (0..20).map(|seed| format!("{:?}", of(seed))).collect();
        assert_eq!(different.len(), 20);
    }

    // Every kind that the run is for comes, also in a short run; in order of time, as long as it may last.
    #[test]
    fn each_kind_comes() {
        for seed in 0..200 {
            let kinds = kinds(seed, &[], false);
            assert!(kinds.len() >= KINDS_MIN);
            for lasts in [Duration::from_secs(10), MINUTES] {
                let made = schedule(seed, &kinds, lasts);
                assert!(kinds.iter().all(|kind| made.entries.iter().any(|entry| entry.kind == *kind)));
                assert!(made.entries.windows(2).all(|pair| pair[0].at <= pair[1].at));
                for entry in &made.entries {
                    let (shortest, longest) = entry.kind.lasts_ms();
                    let lasts_ms = u64::try_from(entry.lasts.as_millis()).unwrap();
                    assert!((shortest..=longest).contains(&lasts_ms), "{entry:?}");
                }
            }
        }
        let leaders = schedule(1, &[FaultKind::Kill], MINUTES).entries;
        let wanted = leaders.iter().filter(|entry| entry.draw.prefers_leader).count();
        assert!(wanted * 3 > leaders.len() && wanted * 3 < 2 * leaders.len(), "{wanted} of {}", leaders.len());
    }

    // What takes a majority is never drawn for a run whose availability is judged; what is asked for is taken as it is.
    #[test]
    fn kinds_of_a_run() {
        for seed in 0..200 {
            assert!(kinds(seed, &[], true).iter().all(|kind| kind.is_quorum_safe()));
        }
        assert!((0..200).any(|seed| kinds(seed, &[], false).contains(&FaultKind::PowercutAll)));
        assert_eq!(kinds(1, &[FaultKind::Pause], true), [FaultKind::Pause]);
        assert!(schedule(1, &[], MINUTES).entries.is_empty());
    }
}
