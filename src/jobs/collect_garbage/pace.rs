//! How much collection does at a time, and how long it rests then: little and long while clients want something, much
//! and hardly while nobody does.

use std::time::Duration;

use tokio::time::Instant;

use super::cycle::Portion;
use crate::ground::traffic::Traffic;

/// While clients are served a cycle rests so many times as long as it worked: a tenth of one processor at most. With a
/// quarter, the slowest pulls of a node with two took twice as long.
const REST_BUSY: f64 = 9.0;
/// The same while nobody is served: what comes first finds it at work for a batch at most.
const REST_QUIET: f64 = 0.1;
/// While clients are served a batch holds none of them up for much more than half a millisecond.
const PORTION_BUSY: Portion = Portion { rows: 64, page: 16 };
/// The same while nobody is served.
const PORTION_QUIET: Portion = Portion { rows: 2048, page: 512 };
/// Longest rest after a batch.
const REST_MAX: Duration = Duration::from_secs(1);
/// Time over which it is counted what clients want.
const WINDOW: Duration = Duration::from_millis(250);
/// Requests to this node a second from which on clients are served.
const BUSY_REQUESTS_PER_S: f64 = 20.0;
/// The same of log entries of others: clients push through other nodes. The nodes' own ticks and notes stay below it.
const BUSY_ENTRIES_PER_S: f64 = 100.0;

/// What clients want of the cluster, as this node sees it.
#[derive(Debug)]
pub(super) struct Pace {
    /// Requests to this node.
    traffic: Traffic,
    began: Instant,
    requests: u64,
    /// Log entries, but for those that collection has written: through whichever node others push.
    entries: u64,
    own_entries: u64,
    is_busy: bool,
}

impl Pace {
    /// Somebody is served until shown otherwise.
    pub(super) fn new(traffic: Traffic) -> Pace {
        Pace { traffic, began: Instant::now(), requests: 0, entries: 0, own_entries: 0, is_busy: true }
    }

    /// Collection has written an entry.
    pub(super) fn wrote(&mut self) {
        self.own_entries += 1;
    }

    /// What the next batch is to do.
    pub(super) fn portion(&self) -> Portion {
        if self.is_busy { PORTION_BUSY } else { PORTION_QUIET }
    }

    /// The rest after a batch that took `worked`, at a node that has applied the log up to `applied_index`.
    pub(super) fn rest(&mut self, worked: Duration, applied_index: u64) -> Duration {
        let elapsed = self.began.elapsed();
        if elapsed >= WINDOW {
            let (requests, entries) = (self.traffic.total(), applied_index.saturating_sub(self.own_entries));
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64();
            self.is_busy = per_s(requests, self.requests) >= BUSY_REQUESTS_PER_S
                || per_s(entries, self.entries) >= BUSY_ENTRIES_PER_S;
            (self.began, self.requests, self.entries) = (Instant::now(), requests, entries);
        }
        worked.mul_f64(if self.is_busy { REST_BUSY } else { REST_QUIET }).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKED: Duration = Duration::from_millis(10);

    async fn rest_after(pace: &mut Pace, applied_index: u64) -> Duration {
        tokio::time::advance(WINDOW).await;
        pace.rest(WORKED, applied_index)
    }

    // Requests here and entries through other nodes make it rest; its own entries, and a tick now and then, don't.
    #[tokio::test(start_paused = true)]
    async fn makes_room_for_clients() {
        let traffic = Traffic::default();
        let mut pace = Pace::new(traffic.clone());
        let (much, little) = (WORKED.mul_f64(REST_BUSY), WORKED.mul_f64(REST_QUIET));
        assert_eq!(pace.rest(WORKED, 1000), much, "nothing is known yet");
        rest_after(&mut pace, 1000).await;
        assert_eq!(rest_after(&mut pace, 1002).await, little);
        assert_eq!(pace.portion(), PORTION_QUIET);
        (0..100).for_each(|_| pace.wrote());
        assert_eq!(rest_after(&mut pace, 1104).await, little);
        assert_eq!(rest_after(&mut pace, 1134).await, much, "others push");
        assert_eq!(pace.portion(), PORTION_BUSY);
        assert_eq!(rest_after(&mut pace, 1134).await, little);
        (0..20).for_each(|_| traffic.note());
        assert_eq!(rest_after(&mut pace, 1134).await, much, "others ask");
        assert_eq!(pace.rest(Duration::from_secs(9), 1134), REST_MAX);
    }
}
