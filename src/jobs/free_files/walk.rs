//! The walk over the volume: finds what was not told, and copies that were made and never confirmed, or are too many.

use std::ops::ControlFlow;
use std::time::Duration;

use registry_core::metadata::command::Command;
use registry_core::metadata::replica;
use registry_core::metadata::sweep::{self, Fate};
use tokio::time::Instant;

use super::super::volume::blocking;
use super::{Failure, FreeFiles, Round};
use crate::blob::store::{BlobKey, Scrubbed, StoreError, WalkCursor};
use crate::metadata::Consistency;

/// How often the volume is walked over, beside the starts.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// Entries read at once: while they are judged a thread serves nobody.
const ENTRIES_PER_PAGE: usize = 256;
/// The same while clients are served.
const ENTRIES_PER_PAGE_BUSY: usize = 32;

/// Where a walk is.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// It goes on behind here.
    after: Option<WalkCursor>,
    /// When the last one came to its end; `None`: one is due.
    ended: Option<Instant>,
    /// Something was not told while one was under way: another one follows.
    again: bool,
}

impl Walk {
    /// Something was not told: the whole volume is looked at from its beginning.
    pub(super) fn begin_anew(&mut self) {
        self.again = self.after.is_some();
        self.ended = None;
    }

    pub(super) fn is_due(&self) -> bool {
        self.ended.is_none_or(|at| at.elapsed() >= PERIOD)
    }

    /// Goes on behind a page; whether the walk has come to its end.
    fn advance(&mut self, next: Option<WalkCursor>) -> bool {
        self.after = next;
        let is_over = self.after.is_none();
        if is_over {
            self.ended = (!std::mem::take(&mut self.again)).then(Instant::now);
        }
        is_over
    }
}

impl FreeFiles {
    /// Looks at the next page of the volume, if a walk is due.
    pub(super) async fn walk_on(&self) -> Result<Round, Failure> {
        let after = {
            let state = self.state.lock();
            if !state.walk.is_due() {
                return Ok(Round::default());
            }
            state.walk.after.clone()
        };
        // what a state from before the start knows says nothing about files that came since
        if self.metadata.ready(Consistency::Linearizable).await.is_err() {
            return Err(Failure::NoQuorum);
        }
        let limit = if self.pace.lock().is_busy() { ENTRIES_PER_PAGE_BUSY } else { ENTRIES_PER_PAGE };
        let page = blocking(&self.store, move |store| store.walk(after.as_ref(), limit)).await?;
        let store = self.store.store_id();
        let (mut due, mut extra) = (Vec::new(), Vec::new());
        self.metadata.peek(|view| {
            for entry in &page.entries {
                match sweep::fate(view, &entry.key.digest, &entry.key.generation, store) {
                    Fate::Closed | Fate::Expired => due.push(entry.key),
                    // on a bucket another node's door to the same object
                    Fate::Extra if self.store.shares_bytes() => {}
                    Fate::Extra => {
                        let BlobKey { digest, generation } = entry.key;
                        let fence = replica::known_fence(view, &digest, &generation, store);
                        if fence.is_some() && replica::is_unwanted(view, &digest, &generation, store) {
                            due.push(entry.key);
                        } else {
                            extra.push((entry.key, fence));
                        }
                    }
                    Fate::Named | Fate::Pending => {}
                }
            }
        });
        let judged = page.entries.len();
        let done = self.confirm(extra).await?;
        let mut state = self.state.lock();
        state.due.extend(due);
        if state.walk.advance(page.next) {
            self.freed.walked();
        }
        Ok(Round { done, judged })
    }

    /// A copy of a record's own bytes that its zone lacks is not deleted: once it is found good it is put on record.
    async fn confirm(&self, extra: Vec<(BlobKey, Option<u64>)>) -> Result<u64, Failure> {
        let mut commands: Vec<Command> = Vec::new();
        for (key, fence) in extra {
            let verified =
                blocking(&self.store, move |store| store.verify(&key, &mut |_| ControlFlow::Continue(()))).await;
            match verified {
                Ok(Scrubbed::Good { .. }) => {
                    commands.push(replica::confirmation(key.digest, key.generation, self.store.store_id(), fence));
                }
                Ok(Scrubbed::Bad) => {
                    blocking(&self.store, move |store| store.quarantine(&key)).await?;
                }
                Ok(Scrubbed::Stopped) | Err(StoreError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if commands.is_empty() {
            return Ok(0);
        }
        let done = commands.len() as u64;
        match self.metadata.propose(&self.principal, commands).await {
            Ok(_) => Ok(done),
            Err(error) => {
                tracing::debug!(%error, "extra copies were not put on record; the next walk finds them again");
                Ok(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One walk at the start; one more after something was not told, also when that came in the midst of one.
    #[test]
    fn walks_begin_anew() {
        let mut walk = Walk::default();
        let page = || Some(WalkCursor("f:00:x".to_owned()));
        assert!(walk.is_due() && !walk.advance(page()) && walk.is_due());
        assert!(walk.advance(None) && !walk.is_due());
        walk.begin_anew();
        assert!(walk.is_due() && !walk.advance(page()));
        walk.begin_anew();
        assert!(walk.advance(None) && walk.is_due(), "another one follows");
        assert!(walk.advance(None) && !walk.is_due());
    }
}
