//! One staged upload: who may write, how far it is, what it hashes to.
//!
//! The state is locked for short acts and for appends, so that an epoch once noted has no older append still running.
//! Long acts (hashing an earlier life's bytes, syncing) hold a *lease* instead: others are told `Busy` at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

use super::note::{self, Note};
use super::staged;
use super::sums::Sums;
use super::volume::Volume;
use crate::blob::store::tally::Tally;
use crate::blob::store::{
    BLOCK_BYTES, READ_BYTES_MAX, StoreError, StoreResult, UploadPhase, UploadStatus, UploadWriter, block_sum,
};

/// Idle uploads up to this size keep no hash state: hashing them again costs less than remembering.
const REHASH_BYTES_MAX: u64 = 256 << 10;

pub(super) struct Upload {
    pub(super) id: UploadId,
    volume: Arc<Volume>,
    state: Mutex<State>,
}

struct State {
    note: Note,
    len: u64,
    touched_at_ms: u64,
    lease: Option<Lease>,
    leases: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Lease {
    number: u64,
    work: Work,
}

/// What a lease is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Appending: a higher epoch or a discard ends it.
    Writing,
    /// Sealing or placing: runs to its end.
    Finishing,
}

enum Stage {
    Receiving(Option<Box<Tally>>),
    Sealed { digest: Digest, sums: Sums },
    Gone,
}

/// What finishing starts from.
pub(super) enum Finish {
    /// The hash state, if it is known.
    Receiving(Option<Box<Tally>>),
    Sealed(Digest, Sums),
}

/// Frees the upload for the next one when dropped.
pub(super) struct Leased {
    upload: Arc<Upload>,
    number: u64,
}

impl Upload {
    pub(super) fn new(volume: &Arc<Volume>, id: UploadId, note: Note, len: u64, touched_at_ms: u64) -> Upload {
        // Nothing staged yet: the hash state is known. Else an earlier life wrote it, and it is hashed when needed.
        let tally = (len == 0).then(|| Box::new(Tally::new(note.algorithm)));
        let state = State { note, len, touched_at_ms, lease: None, leases: 0, stage: Stage::Receiving(tally) };
        Upload { id, volume: Arc::clone(volume), state: Mutex::new(state) }
    }

    pub(super) fn status(&self) -> StoreResult<UploadStatus> {
        self.status_of(&self.state.lock())
    }

    fn status_of(&self, state: &State) -> StoreResult<UploadStatus> {
        let phase = match &state.stage {
            Stage::Receiving(_) => UploadPhase::Receiving,
            Stage::Sealed { digest, .. } => UploadPhase::Sealed(*digest),
            Stage::Gone => return Err(StoreError::UploadUnknown),
        };
        let (epoch, algorithm) = (state.note.epoch, state.note.algorithm);
        Ok(UploadStatus { id: self.id, epoch, offset: state.len, algorithm, phase, touched_at_ms: state.touched_at_ms })
    }

    pub(super) fn note_epoch(&self, epoch: u64) -> StoreResult<UploadStatus> {
        let mut state = self.enter()?;
        self.take_epoch(&mut state, epoch)?;
        state.touched_at_ms = self.volume.now_ms();
        self.status_of(&state)
    }

    /// Refuses an older epoch, and makes a newer one durable before anything is done under it.
    fn take_epoch(&self, state: &mut State, epoch: u64) -> StoreResult<()> {
        if epoch < state.note.epoch {
            return Err(StoreError::Fenced { current: state.note.epoch });
        }
        if epoch > state.note.epoch {
            let note = Note { epoch, ..state.note };
            note::write(&self.volume, self.id, note)?;
            state.note = note;
            if state.lease.is_some_and(|lease| lease.work == Work::Writing) {
                state.lease = None;
                state.rest();
            }
        }
        Ok(())
    }

    /// Reads staged bytes under the lock, so that a truncate cannot make good bytes look bad.
    pub(super) fn read(&self, epoch: u64, offset: u64, len: usize) -> StoreResult<Bytes> {
        let mut state = self.enter()?;
        self.take_epoch(&mut state, epoch)?;
        let len = (state.len.saturating_sub(offset)).min(len.min(READ_BYTES_MAX) as u64) as usize;
        let mut bytes = vec![0; len];
        self.open_file()?
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| self.volume.staging.error("read", &self.id.to_string(), error))?;
        let sums = match &state.stage {
            Stage::Receiving(tally) => tally.as_ref().map_or(&[][..], |tally| tally.whole_sums()),
            Stage::Sealed { sums, .. } => &sums.sums,
            Stage::Gone => &[],
        };
        if offset.is_multiple_of(BLOCK_BYTES as u64) {
            let known = sums.iter().skip((offset / BLOCK_BYTES as u64) as usize);
            if bytes.chunks_exact(BLOCK_BYTES).zip(known).any(|(block, sum)| block_sum(block) != *sum) {
                let error = io::Error::from(io::ErrorKind::InvalidData);
                return Err(self.volume.staging.error("check", &self.id.to_string(), error));
            }
        }
        Ok(bytes.into())
    }

    // ---- leases --------------------------------------------------------------------------------------------------

    /// The locked state of an upload that still exists.
    fn enter(&self) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match state.stage {
            Stage::Gone => Err(StoreError::UploadUnknown),
            Stage::Receiving(_) | Stage::Sealed { .. } => Ok(state),
        }
    }

    fn lease(self: &Arc<Upload>, state: &mut State, work: Work) -> StoreResult<Leased> {
        if state.lease.is_some() {
            return Err(StoreError::Busy);
        }
        state.leases += 1;
        state.lease = Some(Lease { number: state.leases, work });
        state.touched_at_ms = self.volume.now_ms();
        Ok(Leased { upload: Arc::clone(self), number: state.leases })
    }

    /// The locked state, if `number` still holds the lease.
    fn enter_leased(&self, number: u64) -> StoreResult<MutexGuard<'_, State>> {
        let state = self.enter()?;
        match state.lease {
            Some(lease) if lease.number == number => Ok(state),
            Some(_) | None => Err(StoreError::Fenced { current: state.note.epoch }),
        }
    }

    // ---- writing -------------------------------------------------------------------------------------------------

    pub(super) fn writer(self: &Arc<Upload>, epoch: u64) -> StoreResult<Writer> {
        self.volume.writable()?;
        let (leased, tally, len, algorithm) = {
            let mut state = self.enter()?;
            self.take_epoch(&mut state, epoch)?;
            if matches!(state.stage, Stage::Sealed { .. }) {
                return Err(StoreError::Sealed);
            }
            let leased = self.lease(&mut state, Work::Writing)?;
            (leased, state.take_tally(), state.len, state.note.algorithm)
        };
        let file = self.open_file()?;
        let tally = self.hashed(&file, tally, algorithm, len)?;
        let mut state = self.enter_leased(leased.number)?;
        state.stage = Stage::Receiving(Some(tally));
        drop(state);
        Ok(Writer { leased, file, offset: len })
    }

    /// The hash state at `len`: the known one if it is of this algorithm, else that of the bytes read again.
    pub(super) fn hashed(
        &self,
        file: &File,
        known: Option<Box<Tally>>,
        algorithm: Algorithm,
        len: u64,
    ) -> StoreResult<Box<Tally>> {
        if let Some(tally) = known
            && tally.algorithm() == algorithm
            && tally.offset() == len
        {
            return Ok(tally);
        }
        let mut tally = Box::new(Tally::new(algorithm));
        staged::feed(file, &mut tally, len)?;
        Ok(tally)
    }

    pub(super) fn open_file(&self) -> StoreResult<File> {
        let name = self.id.to_string();
        self.volume.staging.open_write(&name).map_err(|error| self.volume.staging.error("open", &name, error))
    }

    // ---- finishing -----------------------------------------------------------------------------------------------

    /// Begins to seal or place. `epoch` is `None` for placing: what is sealed no longer depends on it.
    pub(super) fn finish(self: &Arc<Upload>, epoch: Option<u64>) -> StoreResult<(Leased, Finish, u64)> {
        let mut state = self.enter()?;
        if let Some(epoch) = epoch {
            self.take_epoch(&mut state, epoch)?;
        }
        let leased = self.lease(&mut state, Work::Finishing)?;
        let finish = match &state.stage {
            Stage::Sealed { digest, sums } => Finish::Sealed(*digest, sums.clone()),
            Stage::Receiving(_) | Stage::Gone => Finish::Receiving(state.take_tally()),
        };
        Ok((leased, finish, state.len))
    }

    /// Puts the hash state back when there was nothing to finish.
    pub(super) fn give_back(&self, leased: &Leased, tally: Option<Box<Tally>>) {
        if let Ok(mut state) = self.enter_leased(leased.number) {
            state.stage = Stage::Receiving(tally);
        }
    }

    /// Ends appending for good.
    pub(super) fn sealed(&self, leased: &Leased, digest: Digest, sums: Vec<u64>) -> StoreResult<()> {
        let mut state = self.enter_leased(leased.number)?;
        let size_bytes = state.len;
        state.stage = Stage::Sealed { digest, sums: Sums { size_bytes, sums } };
        Ok(())
    }

    /// Makes the upload unknown and frees its bytes, unless it is being finished by another than `leased`.
    pub(super) fn end(&self, leased: Option<&Leased>, remains: Remains) -> StoreResult<()> {
        let mut state = self.enter()?;
        if let Some(lease) = state.lease
            && lease.work == Work::Finishing
            && leased.is_none_or(|leased| leased.number != lease.number)
        {
            return Err(StoreError::Busy);
        }
        self.end_locked(&mut state, remains);
        Ok(())
    }

    /// Ends the upload if nobody works on it or touched it for `idle_ms`.
    pub(super) fn end_idle(&self, now_ms: u64, idle_ms: u64) -> bool {
        let Ok(mut state) = self.enter() else { return false };
        if state.lease.is_some() || now_ms.saturating_sub(state.touched_at_ms) < idle_ms {
            return false;
        }
        self.end_locked(&mut state, Remains::Free);
        true
    }

    fn end_locked(&self, state: &mut State, remains: Remains) {
        let staging = &self.volume.staging;
        if remains == Remains::Free {
            let name = self.id.to_string();
            self.volume.drop_file(staging, &name);
            self.volume.release(state.len);
            self.volume.drop_sums(&name, state.len);
        }
        if state.note != Note::DEFAULT {
            self.volume.drop_file(staging, &note::note_name(self.id));
        }
        state.stage = Stage::Gone;
        state.lease = None;
    }
}

/// What becomes of the staged bytes when an upload ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// They are freed.
    Free,
    /// They have become a blob's file.
    Moved,
}

impl State {
    fn take_tally(&mut self) -> Option<Box<Tally>> {
        match &mut self.stage {
            Stage::Receiving(tally) => tally.take(),
            Stage::Sealed { .. } | Stage::Gone => None,
        }
    }

    /// Keeps little of an upload that waits for its next chunk.
    fn rest(&mut self) {
        let small = self.len <= REHASH_BYTES_MAX;
        if let Stage::Receiving(tally) = &mut self.stage {
            match tally {
                Some(_) if small && self.len > 0 => *tally = None,
                Some(tally) => tally.rest(),
                None => {}
            }
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let mut state = self.upload.state.lock();
        if state.lease.is_some_and(|lease| lease.number == self.number) {
            state.lease = None;
            state.rest();
        }
    }
}

/// The one writer.
pub(super) struct Writer {
    leased: Leased,
    file: File,
    offset: u64,
}

impl Writer {
    fn upload(&self) -> &Upload {
        &self.leased.upload
    }
}

impl UploadWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn append(&mut self, offset: u64, parts: &[Bytes]) -> StoreResult<u64> {
        let upload = self.upload();
        let mut state = upload.enter_leased(self.leased.number)?;
        if offset != state.len {
            return Err(StoreError::OffsetMismatch { expected: state.len });
        }
        let tally = state.take_tally();
        let mut tally = upload.hashed(&self.file, tally, state.note.algorithm, offset)?;
        let appended = staged::append(&upload.volume, &self.file, &mut tally, offset, parts);
        state.stage = Stage::Receiving(Some(tally));
        let end = appended?;
        state.len = end;
        state.touched_at_ms = upload.volume.now_ms();
        drop(state);
        self.offset = end;
        Ok(end)
    }

    fn truncate(&mut self, offset: u64) -> StoreResult<()> {
        let upload = self.upload();
        let mut state = upload.enter_leased(self.leased.number)?;
        if offset > state.len {
            return Err(StoreError::OffsetMismatch { expected: state.len });
        }
        upload.volume.writable()?;
        self.file.set_len(offset).map_err(|error| StoreError::io("truncate a staging file", error))?;
        upload.volume.release(state.len - offset);
        state.len = offset;
        state.touched_at_ms = upload.volume.now_ms();
        if let Some(mut tally) = state.take_tally() {
            tally.go_back(offset);
            staged::feed(&self.file, &mut tally, offset)?;
            state.stage = Stage::Receiving(Some(tally));
        }
        drop(state);
        self.offset = offset;
        Ok(())
    }
}
