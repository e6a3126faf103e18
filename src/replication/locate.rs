//! Asks other regions where they serve clients of theirs: soon, or not at all.
//!
//! A client waits meanwhile, and is served here if the answer is late. A region that was late is left alone for some
//! seconds, and then asked by one before the others are: one that is dead, paused or too far away costs each node
//! little and seldom, and no pull.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use registry_core::decide::nearest::Declined;
use registry_core::vocabulary::limits::{LOCATE_PAUSE_MS, LOCATE_TIMEOUT_MS, LOCATES_MAX};
use tokio::sync::Semaphore;

use super::arrive::Problem;
use super::client::Source;
use crate::registry::{Located, Visit};

const PATIENCE: Duration = Duration::from_millis(LOCATE_TIMEOUT_MS);
const PAUSE: Duration = Duration::from_millis(LOCATE_PAUSE_MS);

/// Questions under way, and the regions that are left alone.
pub(super) struct Locating {
    turns: Arc<Semaphore>,
    quiet: Quiet,
}

impl Default for Locating {
    fn default() -> Locating {
        Locating { turns: Arc::new(Semaphore::new(LOCATES_MAX)), quiet: Quiet::default() }
    }
}

impl Locating {
    /// Where a region serves its client.
    pub(super) async fn ask(&self, source: Arc<Source>, visit: Visit) -> Result<Located, Declined> {
        let turn = Arc::clone(&self.turns).try_acquire_owned().map_err(|_| Declined::Silent)?;
        let (number, quiet) = (source.number, self.quiet.clone());
        if !quiet.may_ask(number, Instant::now()) {
            return Err(Declined::Silent);
        }
        let began = Instant::now();
        let noted = quiet.clone();
        // goes on if nobody waits any more: a connection that takes longer than that is there for the next question
        let asked = tokio::spawn(async move {
            let _turn = turn;
            let answer = source.locate(visit).await;
            match &answer {
                Ok(_) | Err(Problem::Moved) if began.elapsed() < PATIENCE => noted.answered(number),
                Ok(_) | Err(Problem::Moved) => {}
                Err(problem) => {
                    noted.was_silent(number, Instant::now());
                    let region = &source.region;
                    tracing::debug!(%region, %problem, "a region does not say where its client is served");
                }
            }
            answer
        });
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(located))) => located,
            Ok(Ok(Err(Problem::Moved))) => Err(Declined::Apart),
            Ok(Ok(Err(Problem::Passing(_) | Problem::Lasting(_))) | Err(_)) => Err(Declined::Silent),
            Err(_) => {
                quiet.was_silent(number, Instant::now());
                Err(Declined::Silent)
            }
        }
    }
}

/// Until when regions, by number, are not asked. Cheap to clone.
#[derive(Clone, Debug, Default)]
struct Quiet(Arc<Mutex<BTreeMap<u16, Instant>>>);

impl Quiet {
    /// Whether a region may be asked now. When its time is over one goes ahead, and the others wait for what it finds.
    fn may_ask(&self, number: u16, now: Instant) -> bool {
        match self.0.lock().get_mut(&number) {
            None => true,
            Some(until) if now < *until => false,
            Some(until) => {
                *until = now + PAUSE;
                true
            }
        }
    }

    fn answered(&self, number: u16) {
        self.0.lock().remove(&number);
    }

    fn was_silent(&self, number: u16, now: Instant) {
        self.0.lock().insert(number, now + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R18: a region that was silent is left alone, then asked by one; its answer lets everybody ask. Others are not
    // touched by it.
    #[test]
    fn r18_silent_regions_are_left_alone() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        let instant = Duration::from_millis(1);
        assert!(quiet.may_ask(2, now) && quiet.may_ask(2, now));
        quiet.was_silent(2, now);
        assert!(!quiet.may_ask(2, now) && !quiet.may_ask(2, now + PAUSE - instant));
        assert!(quiet.may_ask(3, now));
        let later = now + PAUSE;
        assert!(quiet.may_ask(2, later) && !quiet.may_ask(2, later), "one goes ahead");
        assert!(quiet.may_ask(2, later + PAUSE), "the next one, if that one never said what it found");
        quiet.answered(2);
        assert!(quiet.may_ask(2, later) && quiet.may_ask(2, later));
    }
}
