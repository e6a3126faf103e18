//! Compaction: what is still alive in a mostly dead segment moves to the open one, then the segment goes.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::record::{Entry, HEAD_BYTES};
use super::segment::{Contents, Segment, segment_name};
use super::{Packs, closed};
use crate::blob::store::lock::{DigestLock, DigestLocks};
use crate::blob::store::{BlobKey, Compaction, Step, StoreResult};

/// Records moved under one group commit. Their digests are locked meanwhile.
const BATCH_RECORDS: usize = 64;

/// Records on their way to the open segment. The writer switches the index when they are synced, while we hold the
/// locks.
#[derive(Default)]
struct Moving(Vec<(DigestLock, Receiver<StoreResult<()>>)>);

impl Moving {
    fn wait(&mut self) -> StoreResult<()> {
        // All answers are taken, so that no lock goes before its record has settled.
        let answers: Vec<StoreResult<()>> =
            self.0.iter().map(|(_, answer)| answer.recv().unwrap_or(Err(closed()))).collect();
        self.0.clear();
        answers.into_iter().collect()
    }
}

impl Packs {
    pub(in crate::blob::store::fs) fn compact(
        &self,
        locks: &DigestLocks,
        live_percent: u8,
        segments: usize,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
        damaged: &mut dyn FnMut(&BlobKey),
    ) -> StoreResult<Compaction> {
        let all: Vec<_> = self.shared.segments.read().values().cloned().collect();
        let mut done = Compaction::default();
        let open =
            all.last().filter(|segment| !segment.is_finished() && is_so_dead(segment, segment.len(), live_percent));
        if let Some(open) = open {
            self.finish(open.place.segment)?;
        }
        for segment in all.iter().filter(|segment| is_worth_it(segment, live_percent)).take(segments) {
            self.empty(segment, locks, is_live, damaged, &mut done)?;
            done.damaged += self.drop_segment(segment)?;
            done.segments += 1;
            done.freed_bytes += segment.len();
        }
        Ok(done)
    }

    /// Moves what lives out of a segment.
    fn empty(
        &self,
        segment: &Segment,
        locks: &DigestLocks,
        is_live: &mut dyn FnMut(&BlobKey) -> bool,
        damaged: &mut dyn FnMut(&BlobKey),
        done: &mut Compaction,
    ) -> StoreResult<()> {
        let mut moving = Moving::default();
        for entry in &segment.entries()? {
            if moving.0.len() == BATCH_RECORDS {
                moving.wait()?;
            }
            // Never waits for a lock while it holds others, its own among them.
            let held = match locks.try_lock(&entry.key.digest) {
                Some(held) => held,
                None => {
                    moving.wait()?;
                    locks.lock(&entry.key.digest)
                }
            };
            if !self.shared.is_at(segment, entry) {
                continue;
            }
            if !is_live(&entry.key) {
                self.shared.forget(&entry.key);
                done.dropped += 1;
                continue;
            }
            match self.move_record(segment, entry) {
                Ok(answer) => {
                    moving.0.push((held, answer));
                    done.copied += 1;
                }
                Err(error) if error.is_damage() => {
                    damaged(&entry.key);
                    self.shared.forget(&entry.key);
                    done.damaged += 1;
                }
                Err(error) => {
                    moving.wait()?;
                    return Err(error);
                }
            }
        }
        moving.wait()
    }

    fn move_record(&self, segment: &Segment, entry: &Entry) -> StoreResult<Receiver<StoreResult<()>>> {
        self.request(&entry.key, segment.read(entry)?)
    }

    /// Unlinks a segment that the index no longer names. Readers that have it open go on.
    /// Returns how many records the index still named: those that neither footer nor scan has shown.
    fn drop_segment(&self, segment: &Segment) -> StoreResult<usize> {
        let volume = &self.shared.volume;
        let number = segment.place.segment;
        let name = segment_name(number);
        let lost = {
            let mut index = self.shared.index.write();
            let before = index.len();
            index.retain(|_, location| location.segment != number);
            before - index.len()
        };
        self.shared.segments.write().remove(&number);
        volume
            .before(Step::PackUnlink)
            .and_then(|()| volume.packs.unlink(&name))
            .map_err(|error| volume.packs.error("unlink", &name, error))?;
        volume.release(segment.len());
        Ok(lost)
    }
}

/// Whether so little of a finished segment lives that moving it pays.
fn is_worth_it(segment: &Segment, live_percent: u8) -> bool {
    let Contents::Finished(trailer) = &*segment.contents.lock() else { return false };
    is_so_dead(segment, u64::from(trailer.offset), live_percent)
}

/// Whether at most this share of the records before `end` lives.
fn is_so_dead(segment: &Segment, end: u64, live_percent: u8) -> bool {
    let records = end.saturating_sub(HEAD_BYTES as u64);
    let dead = segment.dead.load(Ordering::Relaxed);
    // a segment without a record is written to next
    records > 0 && records.saturating_sub(dead).saturating_mul(100) <= records.saturating_mul(u64::from(live_percent))
}
