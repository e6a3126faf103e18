//! How much a job does at a time, and how long it rests then: little and long while clients want something.

use std::time::Duration;

use tokio::time::Instant;

use crate::ground::traffic::Traffic;

/// Records that a walk over all slots looks at under one view.
pub(super) const RECORDS_PER_PAGE: usize = 256;
/// Records that a step of such a walk looks at, as [`cost`] counts them.
pub(super) const RECORDS_PER_STEP: usize = 512;

/// What a page counts for: an empty slot costs a look as well.
pub(super) fn cost(records: usize) -> usize {
    records.max(4)
}

/// Longest rest.
const REST_MAX: Duration = Duration::from_secs(1);
/// Shortest rest: a timer is not finer, so what is shorter is owed until it adds up.
const REST_MIN: Duration = Duration::from_millis(1);
/// Time over which it is counted what clients want.
const WINDOW: Duration = Duration::from_millis(250);
/// Requests to this node a second from which on clients are served.
const BUSY_REQUESTS_PER_S: f64 = 20.0;
/// The same of log entries of others: clients push through other nodes. The nodes' own ticks and notes stay below it.
const BUSY_ENTRIES_PER_S: f64 = 100.0;

/// A job rests so many times as long as it worked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rests {
    /// While clients are served. With nine it takes a tenth of one processor at most; with three, the slowest pulls of
    /// a node with two processors took twice as long.
    pub(super) busy: f64,
    /// While nobody is.
    pub(super) quiet: f64,
}

/// What clients want of the cluster, as this node sees it.
#[derive(Debug)]
pub(super) struct Pace {
    rests: Rests,
    /// Requests to this node.
    traffic: Traffic,
    began: Instant,
    requests: u64,
    /// Log entries of clients, through whichever node they push.
    entries: u64,
    is_busy: bool,
    /// Rest that was too short to take.
    owed: Duration,
}

impl Pace {
    /// Somebody is served until shown otherwise.
    pub(super) fn new(traffic: Traffic, rests: Rests) -> Pace {
        let (began, owed) = (Instant::now(), Duration::ZERO);
        Pace { rests, traffic, began, requests: 0, entries: 0, is_busy: true, owed }
    }

    /// Whether clients are served.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The rest after what took `worked`, at a node that has applied so many log entries of clients, or which doesn't
    /// know; none where it is too short.
    pub(super) fn rest(&mut self, worked: Duration, entries: Option<u64>) -> Option<Duration> {
        self.look(entries.unwrap_or(self.entries));
        self.owed += worked.mul_f64(if self.is_busy { self.rests.busy } else { self.rests.quiet });
        (self.owed >= REST_MIN).then(|| std::mem::take(&mut self.owed).min(REST_MAX))
    }

    /// Clients are there as soon as as many have come as busy clients send in a window, and gone when fewer came in a
    /// whole one: those who find a job at full work are few.
    fn look(&mut self, entries: u64) {
        let (requests, elapsed) = (self.traffic.total(), self.began.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.max(WINDOW).as_secs_f64();
        let is_busy =
            per_s(requests, self.requests) >= BUSY_REQUESTS_PER_S || per_s(entries, self.entries) >= BUSY_ENTRIES_PER_S;
        if is_busy || elapsed >= WINDOW {
            self.is_busy = is_busy;
            (self.began, self.requests, self.entries) = (Instant::now(), requests, entries);
        }
    }
}

/// Rests, or lets others go first where that is too short for a timer.
pub(super) async fn pause(rest: Option<Duration>) {
    match rest {
        Some(rest) => tokio::time::sleep(rest).await,
        None => tokio::task::yield_now().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTS: Rests = Rests { busy: 9.0, quiet: 0.1 };
    const WORKED: Duration = Duration::from_millis(10);
    const MUCH: Option<Duration> = Some(Duration::from_millis(90));
    const LITTLE: Option<Duration> = Some(Duration::from_millis(1));

    async fn rest_after(pace: &mut Pace, entries: u64) -> Option<Duration> {
        tokio::time::advance(WINDOW).await;
        pace.rest(WORKED, Some(entries))
    }

    // Requests here and entries through other nodes make it rest at once; a tick now and then doesn't.
    #[tokio::test(start_paused = true)]
    async fn makes_room_for_clients() {
        let traffic = Traffic::default();
        let mut pace = Pace::new(traffic.clone(), RESTS);
        assert_eq!(pace.rest(WORKED, None), MUCH, "nothing is known yet");
        rest_after(&mut pace, 1000).await;
        assert_eq!(rest_after(&mut pace, 1002).await, LITTLE);
        assert!(!pace.is_busy());
        assert_eq!(pace.rest(WORKED, Some(1026)), LITTLE);
        assert_eq!(pace.rest(WORKED, Some(1032)), MUCH, "others push");
        assert!(pace.is_busy());
        assert_eq!(rest_after(&mut pace, 1032).await, LITTLE);
        (0..4).for_each(|_| traffic.note());
        assert_eq!(pace.rest(WORKED, None), LITTLE, "an operator looks");
        traffic.note();
        assert_eq!(pace.rest(WORKED, None), MUCH, "others ask, and it does not wait for the window");
        assert_eq!(pace.rest(WORKED, None), MUCH, "nor takes them for gone before it is over");
        assert_eq!(pace.rest(Duration::from_secs(9), None), Some(REST_MAX));
    }

    // A rest that no timer can keep is not lost, and not stretched either.
    #[tokio::test(start_paused = true)]
    async fn short_rests_add_up() {
        let mut pace = Pace::new(Traffic::default(), RESTS);
        assert_eq!(rest_after(&mut pace, 0).await, LITTLE);
        let worked = Duration::from_millis(4);
        assert_eq!((pace.rest(worked, None), pace.rest(worked, None)), (None, None));
        assert_eq!(pace.rest(worked, None), Some(Duration::from_micros(1200)));
        assert_eq!(pace.rest(worked, None), None);
    }
}
