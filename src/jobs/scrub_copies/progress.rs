//! Where the verification of a volume stands: for status, for metrics, and in a file for the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::vocabulary::ids::StoreId;
use serde::{Deserialize, Serialize};

use crate::ground::clock::Clock;
use crate::ground::files::{self, PRIVATE_FILE_MODE};

/// Time between the beginnings of two rounds, and by how much volumes differ in it.
const ROUND_MS: u64 = 25 * 24 * 3600 * 1000;
const ROUND_SPREAD_MS: u64 = 10 * 24 * 3600 * 1000;
/// How often the position is written down.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// What a round has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// When the one under way, or the last one, began; milliseconds since 1970, 0 for never.
    pub began_at_ms: u64,
    /// When the last one ended; 0 for never.
    pub ended_at_ms: u64,
    /// One is under way.
    pub under_way: bool,
    /// Nothing is read until it is resumed.
    pub paused: bool,
    /// Copies that were good in this round.
    pub good: u64,
    /// Their bytes.
    pub good_bytes: u64,
    /// Copies that had rotted in this round.
    pub bad: u64,
    /// Copies that the state counted on and that were not here.
    pub missing: u64,
    /// Files up to here were read.
    cursor: Option<String>,
    /// The inventory goes on at this slot; from [`SLOTS`] on it is over.
    inventory: Slot,
}

/// Where it stands. Cheap to clone.
#[derive(Clone)]
pub struct Scrub(Arc<Inner>);

struct Inner {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    progress: Progress,
    asked: bool,
    kept: Instant,
}

impl std::fmt::Debug for Scrub {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.progress().fmt(out)
    }
}

impl Scrub {
    /// Goes on where the file at `path` says; without one, or with a damaged one, from the beginning. The inventory is
    /// taken at every start: files may have gone while nobody looked.
    pub fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Scrub {
        let read = std::fs::read(&path).ok();
        let progress: Progress = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let progress = Progress { inventory: 0, ..progress };
        let state = Mutex::new(State { progress, asked: false, kept: Instant::now() });
        Scrub(Arc::new(Inner { path, clock, state }))
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.0.state.lock().progress.clone()
    }

    /// Begins a round soon, from the beginning.
    pub fn ask(&self) {
        self.0.state.lock().asked = true;
    }

    /// Stops reading, or goes on.
    pub fn set_paused(&self, paused: bool) {
        self.change(true, |progress| progress.paused = paused);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0.state.lock().progress.paused
    }

    /// Whether there is something to do for this volume now; begins a round that is due.
    pub(super) fn begins_or_goes_on(&self, store: StoreId) -> bool {
        let now_ms = self.0.clock.wall_ms();
        let asked = std::mem::take(&mut self.0.state.lock().asked);
        let Progress { paused, under_way, began_at_ms, inventory, .. } = self.progress();
        let is_due = now_ms.saturating_sub(began_at_ms) >= ROUND_MS + store.0 % ROUND_SPREAD_MS;
        if asked || (!paused && !under_way && is_due) {
            self.change(true, |progress| {
                let Progress { rounds, ended_at_ms, .. } = *progress;
                let begun =
                    Progress { rounds, ended_at_ms, began_at_ms: now_ms, under_way: true, ..Progress::default() };
                *progress = begun;
            });
            return true;
        }
        !paused && (under_way || inventory < SLOTS)
    }

    pub(super) fn inventory_at(&self) -> Option<Slot> {
        Some(self.progress().inventory).filter(|slot| *slot < SLOTS)
    }

    pub(super) fn inventoried(&self, to: Slot) {
        self.change(false, |progress| progress.inventory = to);
    }

    pub(super) fn cursor(&self) -> Option<String> {
        self.progress().cursor
    }

    pub(super) fn good(&self, size_bytes: u64) {
        metrics::counter!("portolan_scrub_copies_total", "result" => "good").increment(1);
        metrics::counter!("portolan_scrub_bytes_total").increment(size_bytes);
        self.change(false, |progress| {
            progress.good += 1;
            progress.good_bytes += size_bytes;
        });
    }

    pub(super) fn bad(&self) {
        metrics::counter!("portolan_scrub_copies_total", "result" => "bad").increment(1);
        self.change(true, |progress| progress.bad += 1);
    }

    pub(super) fn missing(&self, copies: u64) {
        metrics::counter!("portolan_scrub_copies_total", "result" => "missing").increment(copies);
        self.change(true, |progress| progress.missing += copies);
    }

    /// The round under way goes on behind a page of files, or ends; whether it goes on.
    pub(super) fn advance(&self, next: Option<String>) -> bool {
        let goes_on = next.is_some();
        let now_ms = self.0.clock.wall_ms();
        self.change(!goes_on, |progress| {
            progress.cursor = next;
            if !goes_on {
                (progress.under_way, progress.ended_at_ms) = (false, now_ms);
                progress.rounds += 1;
            }
        });
        goes_on
    }

    fn change(&self, keeps: bool, change: impl FnOnce(&mut Progress)) {
        let mut state = self.0.state.lock();
        change(&mut state.progress);
        if !keeps && state.kept.elapsed() < KEEP_EVERY {
            return;
        }
        state.kept = Instant::now();
        let written = serde_json::to_vec(&state.progress).map_err(std::io::Error::from);
        let kept = written.and_then(|bytes| files::write_atomic(&self.0.path, &bytes, PRIVATE_FILE_MODE));
        if let Err(error) = kept {
            tracing::debug!(%error, "where the verification of copies stands was not written down");
        }
    }
}
