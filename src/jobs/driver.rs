//! Wakes reconcilers and keeps what an operator may ask about them.
//!
//! While clients are served a reconciler that has more to do rests first: the threads that it works on are theirs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::{Pace, Rests, pause};
use crate::ground::shutdown::Shutdown;
use crate::ground::traffic::Traffic;

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many things it made true.
    pub done: u64,
    /// How many it tried in vain; they are tried again after a pause.
    pub failed: u64,
    /// There is more to do at once.
    pub more: bool,
}

impl Step {
    /// Nothing to do.
    pub const IDLE: Step = Step { done: 0, failed: 0, more: false };
}

/// A future of one step.
pub type StepFuture<'a> = Pin<Box<dyn Future<Output = Step> + Send + 'a>>;

/// Makes one kind of wish true.
pub trait Reconciler: Send + Sync + 'static {
    /// Its name, for status and metrics.
    fn name(&self) -> &'static str;

    /// Pause after a step that found nothing to do, if no signal comes.
    fn period(&self) -> Duration;

    /// What wakes it before its period is over.
    fn signal(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// Whether its steps rest by themselves, or are worth more than the clients' comfort.
    fn rests_itself(&self) -> bool {
        false
    }

    /// One bounded step. Must be harmless when repeated, and when run on two nodes at once. While it looks at rows its
    /// thread serves nobody: a millisecond or two at most.
    fn step(&self) -> StepFuture<'_>;
}

/// What an operator may ask about a reconciler.
#[derive(Clone, Debug, Default)]
pub struct JobStatus {
    /// Its name.
    pub name: &'static str,
    /// Steps so far.
    pub steps: u64,
    /// Things made true so far.
    pub done: u64,
    /// Tries in vain so far.
    pub failed: u64,
    /// How long the last step took, milliseconds.
    pub last_step_ms: u64,
    /// Whether it is at work now.
    pub running: bool,
}

/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// For each time that a step has held a thread.
const RESTS: Rests = Rests { busy: 9.0, quiet: 0.0 };

/// Runs reconcilers until shutdown.
#[derive(Clone)]
pub struct Driver {
    traffic: Traffic,
    statuses: Arc<Mutex<Vec<JobStatus>>>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Driver")
    }
}

impl Driver {
    /// Nothing runs yet; what will makes room for the clients that `traffic` counts.
    pub fn new(traffic: Traffic) -> Driver {
        Driver { traffic, statuses: Arc::default() }
    }

    /// Every reconciler's status.
    pub fn statuses(&self) -> Vec<JobStatus> {
        self.statuses.lock().clone()
    }

    /// Starts a reconciler.
    pub fn start(&self, reconciler: impl Reconciler, shutdown: Shutdown) {
        let slot = {
            let mut statuses = self.statuses.lock();
            statuses.push(JobStatus { name: reconciler.name(), ..JobStatus::default() });
            statuses.len() - 1
        };
        let (statuses, pace) = (self.statuses.clone(), Pace::new(self.traffic.clone(), RESTS));
        tokio::spawn(async move { drive(reconciler, shutdown, pace, statuses, slot).await });
    }
}

async fn drive(
    reconciler: impl Reconciler,
    shutdown: Shutdown,
    mut pace: Pace,
    statuses: Arc<Mutex<Vec<JobStatus>>>,
    slot: usize,
) {
    let mut signal = reconciler.signal();
    let mut failures = 0u32;
    loop {
        statuses.lock()[slot].running = true;
        let began = Instant::now();
        let (step, held) = tokio::select! {
            biased;
            () = shutdown.requested() => return,
            done = measured(reconciler.step()) => done,
        };
        {
            let mut statuses = statuses.lock();
            let status = &mut statuses[slot];
            status.steps += 1;
            status.done += step.done;
            status.failed += step.failed;
            status.last_step_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            status.running = step.more;
        }
        metrics::counter!("portolan_job_done_total", "job" => reconciler.name()).increment(step.done);
        metrics::counter!("portolan_job_failed_total", "job" => reconciler.name()).increment(step.failed);
        failures = if step.failed > 0 && step.done == 0 { failures.saturating_add(1) } else { 0 };
        if failures > 0 {
            let pause = (Duration::from_secs(1) * 2u32.pow(failures.min(6) - 1)).min(PAUSE_MAX);
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        } else if step.more {
            if !reconciler.rests_itself() {
                pause(pace.rest(held, None)).await;
            }
        } else {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = woken(&mut signal) => {}
                () = tokio::time::sleep(reconciler.period()) => {}
            }
        }
    }
}

/// A step, and how long it held the threads that it ran on.
async fn measured(mut step: StepFuture<'_>) -> (Step, Duration) {
    let mut held = Duration::ZERO;
    let done = std::future::poll_fn(|context| {
        let began = Instant::now();
        let polled = step.as_mut().poll(context);
        held += began.elapsed();
        polled
    });
    (done.await, held)
}

async fn woken(signal: &mut Option<watch::Receiver<u64>>) {
    let is_woken = match signal {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => false,
    };
    if !is_woken {
        std::future::pending().await
    }
}
