//! What this node knows of the nodes' clocks, and the time by which it stamps changes while it leads.
//!
//! Stamps go by the time since boot and what was last found to be right to add to it, so that a wall clock that jumps
//! is not followed before others were asked (decision 14). Who asks and judges again and again is the composition root.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use registry_core::decide::clock_skew::{self, Standing};
use registry_core::vocabulary::ids::NodeId;

use crate::ground::Clock;
use crate::ground::clock::epoch_ms;

/// The clocks, as known here. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Clocks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Arc<dyn Clock>,
    /// What the time since boot lacks to the time of stamps, milliseconds.
    stamps_by: AtomicI64,
    look: Mutex<Look>,
}

/// What the last look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// How this node's clock stands to the voters' ones.
    pub standing: Standing,
    /// By how much each clock is ahead of the median of the voters' clocks, milliseconds; below 0: behind. Empty while
    /// there is no median.
    pub ahead_ms: BTreeMap<NodeId, i64>,
    /// What stamps went by when a median was known last.
    held: Option<i64>,
}

impl Look {
    /// Whether anything was ever known of the others' clocks, or none was needed.
    pub fn is_settled(&self) -> bool {
        self.held.is_some()
    }
}

impl Clocks {
    /// With this node's own clock, which counts until others were heard.
    pub fn new(own: Arc<dyn Clock>) -> Clocks {
        let stamps_by = AtomicI64::new(epoch_ms(&*own));
        Clocks(Arc::new(Inner { own, stamps_by, look: Mutex::default() }))
    }

    /// Time for the stamp of a change, milliseconds since 1970. May go back by what clocks are corrected by; the log
    /// raises it.
    pub fn stamp_ms(&self) -> u64 {
        // one number that stands for nothing else: no order with other memory is needed
        let stamps_by = self.0.stamps_by.load(Ordering::Relaxed);
        self.0.own.boot_ms().saturating_add_signed(stamps_by)
    }

    /// Judges this node, `node`, by what was `heard` of the others: their wall clocks' time less the own time since
    /// boot, milliseconds. Stamps follow from now on.
    pub fn judge(&self, node: NodeId, voters: &[NodeId], heard: &BTreeMap<NodeId, i64>) -> Look {
        let own = epoch_ms(&*self.0.own);
        let shown = |voter: &NodeId| if *voter == node { Some(own) } else { heard.get(voter).copied() };
        let votes: Vec<Option<i64>> = voters.iter().map(shown).collect();
        let median = clock_skew::median(&votes);
        let mut look = self.0.look.lock();
        let stamps_by = clock_skew::stamps_by(own, median, look.held);
        self.0.stamps_by.store(stamps_by, Ordering::Relaxed);
        let others = heard.iter().filter(|(other, _)| **other != node);
        let all = others.map(|(other, shown)| (*other, *shown)).chain([(node, own)]);
        let less = |median: i64| all.map(|(one, shown)| (one, shown.saturating_sub(median))).collect();
        *look = Look {
            standing: clock_skew::stand(own, median),
            ahead_ms: median.map(less).unwrap_or_default(),
            held: if median.is_some() { Some(stamps_by) } else { look.held },
        };
        look.clone()
    }

    /// What the last look found.
    pub fn look(&self) -> Look {
        self.0.look.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wall clock that jumps beside a time since boot that does not.
    #[derive(Debug, Default)]
    struct Jumping {
        boot_ms: Mutex<u64>,
        wall_ahead_ms: Mutex<i64>,
    }

    impl Clock for Jumping {
        fn wall_ms(&self) -> u64 {
            (*self.boot_ms.lock() + START).saturating_add_signed(*self.wall_ahead_ms.lock())
        }

        fn monotonic_ms(&self) -> u64 {
            *self.boot_ms.lock()
        }

        fn boot_ms(&self) -> u64 {
            *self.boot_ms.lock()
        }
    }

    const START: u64 = 1_800_000_000_000;
    const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    // A jump reaches no stamp: before a look none knows of it, after it the median counts; with one other voter that
    // says otherwise the time goes on as before. A clock that is set right again counts as it is.
    #[test]
    fn a_jump_reaches_no_stamp() {
        let own = Arc::new(Jumping::default());
        let clocks = Clocks::new(own.clone());
        assert_eq!((clocks.stamp_ms(), clocks.look().is_settled()), (START, false));
        let right = START as i64;
        let all = BTreeMap::from([(NodeId(2), right + 20), (NodeId(3), right - 20)]);
        let one = BTreeMap::from([(NodeId(2), right)]);
        assert_eq!(clocks.judge(NodeId(1), &VOTERS, &all).standing, Standing::Agrees);

        *own.wall_ahead_ms.lock() = 3_600_000;
        assert_eq!(clocks.stamp_ms(), START, "nobody has looked yet");
        assert_eq!(clocks.judge(NodeId(1), &VOTERS, &one).standing, Standing::Unknown);
        *own.boot_ms.lock() = 7_000;
        assert_eq!(clocks.stamp_ms(), START + 7_000, "two clocks of three contradict each other: as before");
        let look = clocks.judge(NodeId(1), &VOTERS, &all);
        assert_eq!((look.standing, look.ahead_ms[&NodeId(1)]), (Standing::Ahead, 3_600_000 - 20));
        assert_eq!((look.ahead_ms[&NodeId(2)], look.ahead_ms[&NodeId(3)]), (0, -40));
        assert_eq!(clocks.stamp_ms(), START + 7_020, "the median");

        *own.wall_ahead_ms.lock() = -3_600_000;
        assert_eq!(clocks.judge(NodeId(1), &VOTERS, &all).standing, Standing::Behind);
        assert_eq!(clocks.stamp_ms(), START + 7_000 - 20);
        *own.wall_ahead_ms.lock() = 100;
        assert_eq!(clocks.judge(NodeId(1), &VOTERS, &all), clocks.look());
        assert_eq!((clocks.stamp_ms(), clocks.look().standing), (START + 7_100, Standing::Agrees));
    }

    // A node that hears of nobody goes by its own clock, wherever that is set, and so does one that is alone.
    #[test]
    fn nobody_is_heard() {
        for voters in [&VOTERS[..], &VOTERS[..1]] {
            let own = Arc::new(Jumping::default());
            let clocks = Clocks::new(own.clone());
            for ahead_ms in [0, 3_600_000, -3_600_000] {
                *own.wall_ahead_ms.lock() = ahead_ms;
                let look = clocks.judge(NodeId(1), voters, &BTreeMap::new());
                assert_eq!(look.is_settled(), voters.len() == 1);
                assert_eq!(clocks.stamp_ms(), START.saturating_add_signed(ahead_ms), "{voters:?}");
            }
        }
    }
}
