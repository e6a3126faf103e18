//! The one thread that makes writes durable and then completes them, in the order they were written.
//!
//! While one fsync runs, the next jobs gather: one fsync covers them all.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::bound::BoundFile;
use super::{CF_LOG, Db, keys};
use crate::fatal;
use crate::metrics;
use crate::types::{Position, Types};

/// Jobs taken together at most.
const JOBS_MAX: usize = 1024;

/// Something written before, to be made durable, or done once all before it is.
pub(super) enum Job {
    /// Entries up to `last` were written.
    Append { last: Position, done: IOFlushed<Types>, slot: OwnedSemaphorePermit },
    /// Something small was written (vote, what peers said).
    Written { done: oneshot::Sender<()> },
    /// Entries above `to` will be removed: the bound must go first.
    Truncate { to: Option<Position>, done: oneshot::Sender<()> },
    /// Entries up to `upto` were purged: their files may go once the marker is durable.
    Reclaim { upto: u64 },
}

/// Sends jobs to the thread; the thread ends when the last sender is gone.
#[derive(Debug)]
pub(super) struct SyncThread(mpsc::Sender<Job>);

impl SyncThread {
    pub(super) fn start(
        db: Arc<Db>,
        bound: BoundFile,
        flushed: watch::Sender<Option<Position>>,
    ) -> io::Result<SyncThread> {
        let (jobs, receiver) = mpsc::channel();
        thread::Builder::new().name("raft-sync".into()).spawn(move || run(&db, &bound, &flushed, &receiver))?;
        Ok(SyncThread(jobs))
    }

    pub(super) fn send(&self, job: Job) {
        // the thread ends only after its last sender, or with the process
        let _gone = self.0.send(job).is_err();
    }

    /// Waits until all that was written is durable.
    pub(super) async fn written(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(Job::Written { done });
        wait.await.map_err(|_| io::Error::other("the log is closed"))
    }

    /// Waits until the bound allows a truncation.
    pub(super) async fn lowered(&self, to: Option<Position>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.send(Job::Truncate { to, done });
        wait.await.map_err(|_| io::Error::other("the log is closed"))
    }
}

fn run(db: &Db, bound: &BoundFile, flushed: &watch::Sender<Option<Position>>, jobs: &mpsc::Receiver<Job>) {
    let mut taken = Vec::with_capacity(JOBS_MAX);
    while let Ok(first) = jobs.recv() {
        taken.push(first);
        taken.extend(jobs.try_iter().take(JOBS_MAX - 1));
        let began = std::time::Instant::now();
        #[cfg(any(test, feature = "testing"))]
        crate::testing::wait_for_disk(db.path());
        if let Err(error) = db.flush_wal(syncs()) {
            fatal::abort("the log cannot be made durable", &error);
        }
        metrics::synced(began.elapsed(), taken.len());
        for job in taken.drain(..) {
            complete(db, bound, flushed, job);
        }
    }
}

/// Whether what was written is synced: always, but for a fault that is put in on purpose.
#[cfg(not(feature = "mutants"))]
const fn syncs() -> bool {
    true
}

#[cfg(feature = "mutants")]
fn syncs() -> bool {
    !SKIPS.load(std::sync::atomic::Ordering::Acquire)
}

#[cfg(feature = "mutants")]
static SKIPS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on no log of this process is synced any more.
#[cfg(feature = "mutants")]
pub fn skip_syncs() {
    SKIPS.store(true, std::sync::atomic::Ordering::Release);
}

fn complete(db: &Db, bound: &BoundFile, flushed: &watch::Sender<Option<Position>>, job: Job) {
    match job {
        Job::Append { last, done, slot } => {
            // a bound that can't be written is only a weaker check at the next start
            if let Err(error) = bound.raise(last) {
                tracing::warn!(%error, "the bound of the log cannot be written");
            }
            flushed.send_replace(Some(last));
            done.io_completed(Ok(()));
            drop(slot);
        }
        Job::Written { done } => {
            let _nobody_waits = done.send(()).is_err();
        }
        Job::Truncate { to, done } => {
            if let Err(error) = bound.lower(to) {
                fatal::abort("the bound of the log cannot be lowered", &error);
            }
            flushed.send_replace(to);
            let _nobody_waits = done.send(()).is_err();
        }
        Job::Reclaim { upto } => reclaim(db, upto),
    }
}

/// Gives the disk space of purged entries back; what is left is removed by compaction.
fn reclaim(db: &Db, upto: u64) {
    let Some(log) = db.cf_handle(CF_LOG) else { return };
    let (from, to) = keys(0..=upto);
    if let Err(error) = db.delete_file_in_range_cf(&log, from.as_slice(), to.as_slice()) {
        tracing::warn!(%error, "files of purged entries could not be removed");
    }
}

/// Where the bound lies, beside the instance.
pub(super) fn bound_path(dir: &Path) -> std::path::PathBuf {
    dir.with_extension("bound")
}
