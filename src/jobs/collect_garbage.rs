//! Collects garbage while everything goes on: takes from repositories what nothing names, condemns records that nobody
//! uses, and after a grace time sweeps them. The files themselves are each node's business
//! ([`free_files`](super::free_files)).
//!
//! A cycle walks over all slots once for each phase, a bounded batch at a time, and rests after each, longest while
//! clients are served. Where it is stands in the state now and then, so that the next leader goes on there.
//! What it proposes is conditional: whatever has changed since it looked stays as it is. An error ends the cycle, and
//! one that would condemn too much stops and asks. Source: consensus-and-faults §5.5.

mod cycle;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::decide::fuse::Fuse;
use registry_core::metadata::clock;
use registry_core::metadata::command::Command;
use registry_core::metadata::gc::{self, Ended, Ending, GcRow, NoteGc, UnderWay};
use registry_core::metadata::keys;
use registry_core::metadata::reply::Reply;
use registry_core::metadata::untagged::Wish;
use registry_core::metadata::upgrade;
use tokio::time::Instant;

use self::cycle::{Batch, Cycle, Plan, Portion};
use super::driver::{Reconciler, Step, StepFuture};
use super::pace::{Pace, Rests, pause};
use crate::ground::clock::whole_ms;
use crate::ground::traffic::Traffic;
use crate::metadata::{Metadata, ProposeError};

/// How often it is looked whether a cycle is due or wanted.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest and longest time between two cycles; between these it is a tick, in which nothing can become due.
const PERIOD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3600));
/// How often a cycle under way writes down where it is.
const NOTE_PERIOD: Duration = Duration::from_secs(10);
/// How often the end of a cycle that found nothing is written down.
const IDLE_NOTE_PERIOD: Duration = Duration::from_secs(600);
/// While nobody is served, what comes first finds it at work for a batch at most.
const RESTS: Rests = Rests { busy: 9.0, quiet: 0.1 };
/// While clients are served a batch holds none of them up for much more than half a millisecond.
const PORTION_BUSY: Portion = Portion { rows: 64, page: 16 };
/// The same while nobody is served: some milliseconds.
const PORTION_QUIET: Portion = Portion { rows: 1024, page: 512 };

/// What an operator tunes; the leader's counts.
#[derive(Clone, Copy, Debug)]
pub struct CollectionSettings {
    /// How much one cycle may condemn without asking.
    pub fuse: Fuse,
    /// Age from which on manifests go that no tag and no index names; `None` keeps them.
    pub untagged: Option<Duration>,
    /// Age from which on manifests go whose subject is not here; `None` keeps them.
    pub orphaned: Option<Duration>,
}

/// Leader's job: collects garbage.
#[derive(Debug)]
pub struct CollectGarbage {
    metadata: Metadata,
    settings: CollectionSettings,
    principal: String,
    /// The cycle of this leader, and when its last one ended.
    state: Mutex<State>,
    pace: Mutex<Pace>,
    /// Entries that this job has written: not what clients want.
    written: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    cycle: Option<Cycle>,
    ended: Option<Instant>,
    noted_end: Option<Instant>,
}

impl CollectGarbage {
    /// For the node that calls itself `principal`.
    pub fn new(
        metadata: Metadata,
        settings: CollectionSettings,
        traffic: Traffic,
        principal: String,
    ) -> CollectGarbage {
        let (pace, written) = (Mutex::new(Pace::new(traffic, RESTS)), AtomicU64::default());
        CollectGarbage { metadata, settings, principal, state: Mutex::default(), pace, written }
    }

    fn plan(&self, allow_percent: Option<u8>) -> Plan {
        let tick_ms = self.metadata.peek(|view| clock::read(view)).tick_ms.max(1);
        // a tick that has begun does not count
        let ticks = |age: Duration| whole_ms(age).div_ceil(tick_ms);
        let CollectionSettings { fuse, untagged, orphaned } = self.settings;
        Plan {
            fuse: Fuse { percent: allow_percent.unwrap_or(fuse.percent), ..fuse },
            wish: Wish { untagged_ticks: untagged.map(ticks), orphaned_ticks: orphaned.map(ticks) },
            applied_index: self.metadata.applied_index(),
            portion: if self.pace.lock().is_busy() { PORTION_BUSY } else { PORTION_QUIET },
        }
    }

    /// Time between two cycles.
    fn cycle_period(&self) -> Duration {
        let tick_ms = self.metadata.peek(|view| clock::read(view)).tick_ms;
        Duration::from_millis(tick_ms).clamp(PERIOD.0, PERIOD.1)
    }

    /// The cycle to go on with, if one is due.
    fn take(&self, row: &GcRow) -> Option<Cycle> {
        let mut state = self.state.lock();
        // an operator's word ends what went on before
        let going_on = state.cycle.take().filter(|cycle| cycle.version == row.version);
        if going_on.is_some() {
            return going_on;
        }
        let now_ms = self.metadata.peek(|view| clock::read(view)).now_ms;
        if let Some(allow_percent) = row.asked {
            return Some(Cycle::begin(row.version, allow_percent, now_ms, true));
        }
        if let Some(under_way) = &row.under_way {
            tracing::info!(
                phase = under_way.phase.name(),
                slot = under_way.slot,
                "collection goes on where it stopped"
            );
            return Some(Cycle::resume(row.version, under_way.clone()));
        }
        let is_due = state.ended.is_none_or(|at| at.elapsed() >= self.cycle_period());
        is_due.then(|| Cycle::begin(row.version, None, now_ms, false))
    }

    /// Proposes a batch; what was done of it. A refusal is only expected of what settles uses.
    async fn propose(&self, commands: &[Command], may_refuse: bool) -> Result<Vec<Reply>, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.written.fetch_add(1, Ordering::Relaxed);
        match self.metadata.propose(&self.principal, commands.to_vec()).await {
            Ok(accepted) => Ok(accepted.replies),
            Err(ProposeError::Refused { replies, .. }) if may_refuse => Ok(replies),
            Err(error) => Err(error),
        }
    }

    /// Writes down where the cycle is; false if somebody else has written meanwhile.
    async fn note(&self, cycle: &mut Cycle, under_way: Option<UnderWay>, ended: Option<Ended>) -> bool {
        let takes_asked = std::mem::take(&mut cycle.takes_asked);
        let note = NoteGc { version: cycle.version, takes_asked, under_way, ended };
        match self.metadata.propose(&self.principal, vec![note.into()]).await {
            Ok(accepted) if accepted.replies.first() == Some(&Reply::Done) => {
                cycle.version += 1;
                cycle.is_noted = true;
                cycle.noted = Instant::now();
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "where collection stands was not written down");
                false
            }
        }
    }

    /// Ends a cycle, and writes that down if it tells anything.
    async fn end(&self, mut cycle: Cycle, row: &GcRow, ending: Ending) {
        tell(&cycle, ending);
        let ended_at_ms = self.metadata.peek(|view| clock::read(view)).now_ms;
        let ended = Ended { began_at_ms: cycle.began_at_ms, ended_at_ms, ending, tally: cycle.tally };
        let says_the_same = row.last.as_ref().is_some_and(|last| {
            last.ending == ending && last.tally.unused_bytes == ended.tally.unused_bytes && ended.tally.is_idle()
        });
        let is_recent = self.state.lock().noted_end.is_some_and(|at| at.elapsed() < IDLE_NOTE_PERIOD);
        if cycle.takes_asked || cycle.is_noted || !says_the_same || !is_recent {
            self.note(&mut cycle, None, Some(ended)).await;
            self.state.lock().noted_end = Some(Instant::now());
        }
        self.state.lock().ended = Some(Instant::now());
    }

    async fn run(&self, mut cycle: Cycle, row: &GcRow) -> Step {
        let began = Instant::now();
        if cycle.takes_asked || cycle.noted.elapsed() >= NOTE_PERIOD {
            let under_way = cycle.under_way();
            if !self.note(&mut cycle, Some(under_way), None).await {
                return Step { done: 0, failed: 1, more: false };
            }
        }
        let plan = self.plan(cycle.allow_percent);
        let Batch { commands, is_over } = self.metadata.peek(|view| cycle.batch(view, &plan));
        let phase = cycle.phase;
        let replies = match self.propose(&commands, cycle.may_refuse()).await {
            Ok(replies) => replies,
            Err(error) => {
                tracing::warn!(%error, phase = phase.name(), "collection gave up; the next cycle begins anew");
                self.end(cycle, row, Ending::Aborted).await;
                return Step { done: 0, failed: 1, more: false };
            }
        };
        let done = cycle.count(&commands, &replies);
        let ending = if is_over { cycle.advance(&plan.fuse) } else { None };
        match ending {
            Some(ending) => self.end(cycle, row, ending).await,
            None => {
                self.state.lock().cycle = Some(cycle);
                let of_others = self.metadata.applied_index().saturating_sub(self.written.load(Ordering::Relaxed));
                let rest = self.pace.lock().rest(began.elapsed(), Some(of_others));
                pause(rest).await;
            }
        }
        Step { done, failed: 0, more: ending.is_none() }
    }
}

fn tell(cycle: &Cycle, ending: Ending) {
    let tally = &cycle.tally;
    let seconds = cycle.began.elapsed().as_secs_f64();
    metrics::histogram!("portolan_gc_cycle_seconds").record(seconds);
    if ending == Ending::Held {
        tracing::warn!(
            unused_bytes = tally.unused_bytes,
            bytes = tally.bytes,
            "collection would condemn too much and stopped: look with `portolan gc status`, then say \
             `portolan gc run --allow-fraction`"
        );
    } else if !tally.is_idle() {
        tracing::info!(
            manifests = tally.manifests,
            links = tally.links,
            uses = tally.uses,
            condemned = tally.condemned,
            condemned_bytes = tally.condemned_bytes,
            swept = tally.swept,
            swept_bytes = tally.swept_bytes,
            seconds,
            "a cycle of collection ended"
        );
    }
}

impl Reconciler for CollectGarbage {
    fn name(&self) -> &'static str {
        "collect_garbage"
    }

    fn period(&self) -> Duration {
        self.cycle_period().min(LOOK)
    }

    fn rests_itself(&self) -> bool {
        true
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let row = self.metadata.peek(|view| gc::read(view));
            if !self.metadata.leadership().is_leader || row.paused {
                *self.state.lock() = State::default();
                return Step::IDLE;
            }
            // nothing is collected before the founding, nor while nodes of a release that can't serve the cluster
            if self.metadata.peek(|view| upgrade::level_of(view, keys::SYSTEM)) < upgrade::LEVEL_2 {
                return Step::IDLE;
            }
            match self.take(&row) {
                Some(cycle) => self.run(cycle, &row).await,
                None => Step::IDLE,
            }
        })
    }
}
