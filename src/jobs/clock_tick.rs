//! Moves the replicated tick: the leader proposes one per tick length of its own monotonic time, begun anew with each
//! leadership, so that no clock jump and no change of leader frees anything early.

use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::clock::{self, Tick};
use tokio::time::Instant;

use super::driver::{Reconciler, Step, StepFuture};
use crate::metadata::Metadata;

/// Shortest tick, whatever the grace time.
const TICK_MS_MIN: u64 = 100;

/// Proposes ticks while this node leads.
#[derive(Debug)]
pub struct ClockTick {
    metadata: Metadata,
    /// The term this node began to lead in, and when the present tick began.
    since: Mutex<Option<(u64, Instant)>>,
    principal: String,
}

impl ClockTick {
    /// For the node that calls itself `principal`.
    pub fn new(metadata: Metadata, principal: String) -> ClockTick {
        ClockTick { metadata, since: Mutex::new(None), principal }
    }

    /// Whether a whole tick has passed under this leadership.
    fn due(&self, tick: Duration) -> bool {
        let leadership = self.metadata.leadership();
        let mut since = self.since.lock();
        if !leadership.is_leader {
            *since = None;
            return false;
        }
        match *since {
            Some((term, began)) if term == leadership.term => began.elapsed() >= tick,
            Some(_) | None => {
                *since = Some((leadership.term, Instant::now()));
                false
            }
        }
    }
}

impl Reconciler for ClockTick {
    fn name(&self) -> &'static str {
        "clock_tick"
    }

    fn period(&self) -> Duration {
        let tick_ms = self.metadata.peek(|view| clock::read(view)).tick_ms.max(TICK_MS_MIN);
        Duration::from_millis((tick_ms / 4).clamp(50, 5000))
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let clock = self.metadata.peek(|view| clock::read(view));
            if clock.tick_ms == 0 || !self.due(Duration::from_millis(clock.tick_ms.max(TICK_MS_MIN))) {
                return Step::IDLE;
            }
            match self.metadata.propose(&self.principal, vec![Tick { expected: clock.tick }.into()]).await {
                Ok(_) => {
                    if let Some((_, began)) = self.since.lock().as_mut() {
                        *began = Instant::now();
                    }
                    Step { done: 1, failed: 0, more: false }
                }
                Err(error) => {
                    tracing::debug!(%error, "a tick was not made");
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}
