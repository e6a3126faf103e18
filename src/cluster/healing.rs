//! How far the cluster is from having all copies: what is missing, which nodes are not heard, which are being emptied.
//!
//! Counted from this node's state, on a thread of its own, and not again before a while has passed: a large registry
//! with much to repair takes seconds to count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_core::metadata::absence::{self, AbsenceRow};
use registry_core::metadata::census::{self, OnNode, ZoneNeeds};
use registry_core::metadata::clock;
use registry_core::metadata::node::{self, NodeState};
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::limits::NEEDS_COUNTED_MAX;
use registry_core::vocabulary::names::ZoneName;
use tokio::sync::Mutex;

use super::Cluster;
use crate::metadata::Metadata;

/// An answer serves so long, and at least so many times as long as it took to count.
const FRESH: Duration = Duration::from_secs(1);
const REST: u32 = 20;
/// Over which time the rate is told.
const WINDOW: Duration = Duration::from_secs(60);

/// A node that is not as it should be, as far as copies are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patient {
    /// Its id.
    pub node: NodeId,
    /// Its failure domain.
    pub zone: ZoneName,
    /// It is being emptied: what still stands there.
    pub leaving: Option<OnNode>,
    /// It is not heard.
    pub absence: Option<AbsenceRow>,
}

/// What is missing, and how fast that becomes less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healing {
    /// By zone.
    pub zones: Vec<ZoneNeeds>,
    /// For how long at least the oldest copy has been missing, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Nodes that are being emptied, or not heard.
    pub nodes: Vec<Patient>,
    /// By how many bytes a second the queue has become shorter lately, over all zones; `None` while it does not.
    pub rate_bytes_per_s: Option<u64>,
}

impl Healing {
    /// Bytes of all copies that are missing.
    pub fn bytes(&self) -> u64 {
        self.zones.iter().map(|zone| zone.bytes).sum()
    }

    /// When nothing will be missing any more, if it goes on like this; in seconds.
    pub fn seconds_left(&self) -> Option<u64> {
        let rate = self.rate_bytes_per_s.filter(|rate| *rate > 0)?;
        (self.bytes() > 0).then(|| self.bytes().div_ceil(rate))
    }
}

/// The last answer, and how the queue has been lately.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<Option<Count>>);

#[derive(Debug)]
struct Count {
    healing: Arc<Healing>,
    at: Instant,
    took: Duration,
    lately: VecDeque<(Instant, u64)>,
}

impl Cluster {
    /// What is missing. Never waits for a quorum; `None` while the runtime ends.
    pub async fn healing(&self) -> Option<Arc<Healing>> {
        let mut last = self.healing.0.lock().await;
        if let Some(count) = last.as_ref().filter(|count| count.at.elapsed() < FRESH.max(count.took * REST)) {
            return Some(Arc::clone(&count.healing));
        }
        let (metadata, began) = (self.metadata.clone(), Instant::now());
        let mut healing = tokio::task::spawn_blocking(move || count(&metadata)).await.ok()?;
        let now = Instant::now();
        let mut lately = last.take().map_or_else(VecDeque::new, |count| count.lately);
        lately.push_back((now, healing.bytes()));
        healing.rate_bytes_per_s = rate(&mut lately, now);
        let healing = Arc::new(healing);
        *last = Some(Count { healing: Arc::clone(&healing), at: now, took: now.duration_since(began), lately });
        Some(healing)
    }
}

/// By how much a queue has become shorter a second since it was longest.
fn rate(lately: &mut VecDeque<(Instant, u64)>, now: Instant) -> Option<u64> {
    while lately.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
        lately.pop_front();
    }
    let (_, bytes) = lately.back()?;
    let (since, most) = lately.iter().rev().max_by_key(|(_, bytes)| *bytes)?;
    let span = now.duration_since(*since).as_secs_f64();
    let less = most.checked_sub(*bytes).filter(|less| *less > 0 && span > 0.0)?;
    Some((less as f64 / span) as u64)
}

fn count(metadata: &Metadata) -> Healing {
    metadata.peek(|view| {
        let zones = census::needs(view, NEEDS_COUNTED_MAX);
        let clock = clock::read(view);
        let oldest = zones.iter().filter_map(|zone| zone.oldest_tick).min();
        let oldest_ms = oldest.map(|tick| clock.tick.saturating_sub(tick).saturating_mul(clock.tick_ms));
        let mut leaving = census::leaving(view);
        let nodes = node::list(view).into_iter().filter(|(_, row)| row.state != NodeState::Removed);
        let patient = |(id, row): (NodeId, node::NodeRow)| {
            let (leaving, absence) = (leaving.remove(&id), absence::read(view, id));
            let is_well = leaving.is_none() && absence.is_none();
            (!is_well).then_some(Patient { node: id, zone: row.zone, leaving, absence })
        };
        let nodes = nodes.filter_map(patient).collect();
        Healing { zones, oldest_ms, nodes, rate_bytes_per_s: None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // The rate is told since the queue was longest, within the window; a queue that does not shrink has none.
    #[test]
    fn rates() {
        let began = Instant::now();
        let at = |s: u64| began + Duration::from_secs(s);
        let told = |points: &[(u64, u64)], now: u64| {
            let mut lately = points.iter().map(|(s, bytes)| (at(*s), *bytes)).collect();
            rate(&mut lately, at(now))
        };
        assert_eq!(told(&[], 0), None);
        assert_eq!(told(&[(0, 5)], 0), None);
        assert_eq!(told(&[(0, 100), (10, 60)], 10), Some(4));
        assert_eq!(told(&[(0, 100), (10, 160)], 10), None);
        assert_eq!(told(&[(0, 100), (10, 160), (20, 60)], 20), Some(10));
        assert_eq!(told(&[(0, 9000), (30, 100), (80, 50)], 80), Some(1));
        let healing = Healing { zones: vec![], oldest_ms: None, nodes: vec![], rate_bytes_per_s: Some(3) };
        assert_eq!(healing.seconds_left(), None);
    }
}
