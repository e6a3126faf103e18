//! Deletes from this node's volume what the state has let go.
//!
//! A file goes only under its digest's lock (nobody places or confirms it meanwhile), after a round to the leader
//! that began under the lock, if no record names it and no command can name it any more. What was let go by a
//! sweep, a replacement or an end without use is deleted; what nobody remembers goes to the quarantine for a week. A
//! copy that its record does not name, and that the placement does not want, is fenced before it is deleted: no
//! confirmation of it that is still under way may bring it back on record (decision 9).
//! Without a quorum nothing is deleted. Which files to look at the state's changes tell; whatever was not told (the
//! node was down, a snapshot came) a walk over the volume finds, at the start and once a day. Source:
//! consensus-and-faults §5.5, Files.

mod progress;
mod walk;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::command::Command;
use registry_core::metadata::replica::{self, FenceCopy};
use registry_core::metadata::reply::Reply;
use registry_core::metadata::sweep::{self, Fate};
use registry_core::metadata::{keys, upgrade};
use registry_core::vocabulary::Digest;
use tokio::sync::watch;
use tokio::time::Instant;

use self::walk::Walk;
use super::driver::{Reconciler, Step, StepFuture};
use super::pace::{Pace, Rests, pause};
use super::volume::blocking;
use crate::blob::store::{BlobKey, BlobStore, DigestLock, StoreError, StoreResult};
use crate::ground::traffic::Traffic;
use crate::metadata::{Consistency, Metadata};

pub use progress::Freed;

/// How often it is looked without a signal.
const PERIOD: Duration = Duration::from_secs(5);
/// Files judged after one round to the leader; their digests are locked meanwhile.
const FILES_PER_ROUND: usize = 64;
/// Between two rounds pushes and pulls need the disk as well.
const RESTS: Rests = Rests { busy: 9.0, quiet: 1.0 };
/// Told of at once.
const TOLD_PER_STEP: usize = 1024;

/// Every node's job: deletes what the state has let go.
pub struct FreeFiles {
    metadata: Metadata,
    store: Arc<dyn BlobStore>,
    principal: String,
    freed: Freed,
    state: Mutex<State>,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct State {
    /// To be judged under their locks.
    due: VecDeque<BlobKey>,
    walk: Walk,
}

/// A file with its size, whose digest is locked.
struct Held {
    lock: DigestLock,
    key: BlobKey,
    size_bytes: u64,
}

impl std::fmt::Debug for FreeFiles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("FreeFiles")
    }
}

impl FreeFiles {
    /// For this volume of the node that calls itself `principal`; what comes of it is told in `freed`.
    pub fn new(
        metadata: Metadata,
        store: Arc<dyn BlobStore>,
        freed: Freed,
        traffic: Traffic,
        principal: String,
    ) -> FreeFiles {
        let pace = Mutex::new(Pace::new(traffic, RESTS));
        FreeFiles { metadata, store, principal, freed, state: Mutex::default(), pace }
    }

    /// What the state's changes told of, as far as it lies here; whether there may be more.
    async fn take_told(&self) -> StoreResult<bool> {
        let (told, some_were_lost) = self.metadata.watch().take_freed(TOLD_PER_STEP);
        if some_were_lost {
            self.state.lock().walk.begin_anew();
        }
        let more = told.len() == TOLD_PER_STEP;
        if told.is_empty() {
            return Ok(false);
        }
        let here = blocking(&self.store, move |store| {
            let keys = told.into_iter().map(|(digest, generation)| BlobKey::new(digest, generation));
            keys.filter_map(|key| match store.stat(&key) {
                Ok(None) => None,
                Ok(Some(_)) => Some(Ok(key)),
                Err(error) => Some(Err(error)),
            })
            .collect::<StoreResult<Vec<BlobKey>>>()
        });
        let here = here.await?;
        self.state.lock().due.extend(here);
        Ok(more)
    }

    /// The next files to judge, each of another digest.
    fn next_round(&self) -> Vec<BlobKey> {
        let mut state = self.state.lock();
        let (mut round, mut digests, mut later) = (Vec::new(), BTreeSet::<Digest>::new(), VecDeque::new());
        while round.len() < FILES_PER_ROUND
            && let Some(key) = state.due.pop_front()
        {
            if digests.insert(key.digest) {
                round.push(key);
            } else {
                later.push_back(key);
            }
        }
        state.due.extend(later);
        round
    }

    /// Judges files under their locks and deletes those that may go. Those whose digest is in use wait.
    async fn judge(&self, round: Vec<BlobKey>) -> Result<Round, Failure> {
        let (held, busy) = blocking(&self.store, move |store| lock(store, round)).await?;
        self.state.lock().due.extend(busy);
        let judged = held.len();
        if held.is_empty() {
            return Ok(Round::default());
        }
        // the round to the leader begins while the digests are locked
        let ready = self.metadata.ready(Consistency::Linearizable).await;
        if ready.is_err() {
            let keys = held.into_iter().map(|held| held.key);
            self.state.lock().due.extend(keys);
            return Err(Failure::NoQuorum);
        }
        let store = self.store.store_id();
        let fates: Vec<(Held, Fate)> = self.metadata.peek(|view| {
            let fate = |held: &Held| sweep::fate(view, &held.key.digest, &held.key.generation, store);
            held.into_iter().map(|held| (fate(&held), held)).map(|(fate, held)| (held, fate)).collect()
        });
        let fates = self.fence(fates).await;
        let freed = self.freed.clone();
        let done = blocking(&self.store, move |store| free(store, fates, &freed)).await?;
        Ok(Round { done, judged })
    }

    /// Fences the extra copies among locked files that are of no use: those it succeeds for may go.
    async fn fence(&self, mut fates: Vec<(Held, Fate)>) -> Vec<(Held, Fate)> {
        let store = self.store.store_id();
        let fences: Vec<(usize, Command)> = self.metadata.peek(|view| {
            // an object in a bucket is every door's: it stays as long as its record
            if self.store.shares_bytes() || upgrade::level_of(view, keys::SYSTEM) < upgrade::LEVEL_2 {
                return Vec::new();
            }
            let extra = fates.iter().enumerate().filter(|(_, (_, fate))| *fate == Fate::Extra);
            let fence = |(at, (held, _)): (usize, &(Held, Fate))| {
                let BlobKey { digest, generation } = held.key;
                let is_useless = replica::is_unwanted(view, &digest, &generation, store);
                is_useless.then(|| (at, FenceCopy { digest, generation, store }.into()))
            };
            extra.filter_map(fence).collect()
        });
        if fences.is_empty() {
            return fates;
        }
        let (places, commands): (Vec<usize>, Vec<Command>) = fences.into_iter().unzip();
        match self.metadata.propose(&self.principal, commands).await {
            Ok(accepted) => {
                let fenced = places.into_iter().zip(accepted.replies).filter(|(_, reply)| *reply == Reply::Done);
                fenced.for_each(|(at, _)| fates[at].1 = Fate::Closed);
            }
            Err(error) => tracing::debug!(%error, "surplus copies were not fenced and stay; the next walk finds them"),
        }
        fates
    }

    async fn go_on(&self) -> Result<(Round, bool), Failure> {
        let more = self.take_told().await?;
        let round = self.next_round();
        let round = if round.is_empty() { self.walk_on().await? } else { self.judge(round).await? };
        Ok((round, more))
    }
}

/// What a look at some files came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    /// What was deleted, set aside or put on record.
    done: u64,
    /// What was judged, whatever came of it.
    judged: usize,
}

enum Failure {
    NoQuorum,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

/// Locks the digests of files that are here; those that somebody else has locked come back.
fn lock(store: &dyn BlobStore, round: Vec<BlobKey>) -> StoreResult<(Vec<Held>, Vec<BlobKey>)> {
    let (mut held, mut busy) = (Vec::new(), Vec::new());
    for key in round {
        let Some(lock) = store.try_lock(&key.digest) else {
            busy.push(key);
            continue;
        };
        if let Some(stat) = store.stat(&key)? {
            held.push(Held { lock, key, size_bytes: stat.size_bytes });
        }
    }
    Ok((held, busy))
}

/// Deletes what may go; how many files that were.
fn free(store: &dyn BlobStore, judged: Vec<(Held, Fate)>, freed: &Freed) -> StoreResult<u64> {
    let mut done = 0;
    for (Held { lock, key, size_bytes }, fate) in judged {
        match fate {
            // Nobody remembers it, so it is kept for a week. But a bucket has an owner, which an older view of the
            // cluster is not: there it goes at once.
            Fate::Expired if !store.shares_bytes() => {
                if store.set_aside(&lock, key.generation)? {
                    tracing::warn!(blob = %key, "nobody remembers what this file is for; it goes to the quarantine");
                    freed.set_aside(size_bytes);
                    done += 1;
                }
            }
            Fate::Closed | Fate::Expired => {
                if store.remove(&lock, key.generation)? {
                    freed.deleted(size_bytes);
                    done += 1;
                }
            }
            Fate::Named | Fate::Extra | Fate::Pending => {}
        }
    }
    Ok(done)
}

impl Reconciler for FreeFiles {
    fn name(&self) -> &'static str {
        "free_files"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().freed())
    }

    fn rests_itself(&self) -> bool {
        true
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let began = Instant::now();
            let ended = self.go_on().await;
            let (waiting, is_walking) = {
                let state = self.state.lock();
                (state.due.len(), state.walk.is_due())
            };
            self.freed.waiting(waiting);
            match ended {
                Ok((Round { done, judged }, more)) => {
                    let rest = self.pace.lock().rest(began.elapsed(), None);
                    pause(rest).await;
                    // where all that is left is in use, it is looked at again after a pause
                    let more = more || is_walking || waiting > 0 && judged > 0;
                    Step { done, failed: 0, more }
                }
                Err(Failure::NoQuorum) => Step { done: 0, failed: 1, more: false },
                Err(Failure::Store(error)) => {
                    tracing::warn!(%error, "files that were let go can't be deleted; it is tried again");
                    // what was looked at just now is not told again
                    self.state.lock().walk.begin_anew();
                    Step { done: 0, failed: 1, more: false }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
