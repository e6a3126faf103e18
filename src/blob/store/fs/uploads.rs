//! All staged uploads of a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

use super::note::{self, Note};
use super::upload::{Finish, Remains, Upload, Writer};
use super::volume::Volume;
use crate::blob::store::{Pressure, StoreError, StoreResult, UploadStatus};

pub(super) struct Uploads {
    volume: Arc<Volume>,
    all: RwLock<BTreeMap<UploadId, Arc<Upload>>>,
    /// One upload begins at a time, so that two beginnings of one id make one file.
    beginning: Mutex<()>,
}

impl Uploads {
    /// Finds what an earlier life staged, and frees what nobody can go on with.
    pub(super) fn recover(volume: &Arc<Volume>) -> StoreResult<Uploads> {
        let staging = &volume.staging;
        let names = staging.names().map_err(|error| staging.error("list", ".", error))?;
        let ids: BTreeSet<UploadId> = names.iter().filter_map(|name| UploadId::parse(name)).collect();
        let mut all = BTreeMap::new();
        for name in &names {
            let kept = match UploadId::parse(name) {
                Some(id) => match recover_one(volume, id)? {
                    Some(upload) => all.insert(id, Arc::new(upload)).is_none(),
                    None => false,
                },
                None => name.strip_suffix(".note").and_then(UploadId::parse).is_some_and(|id| ids.contains(&id)),
            };
            if !kept {
                volume.drop_file(staging, name);
            }
        }
        Ok(Uploads { volume: Arc::clone(volume), all: RwLock::new(all), beginning: Mutex::new(()) })
    }

    pub(super) fn get(&self, id: UploadId) -> StoreResult<Arc<Upload>> {
        self.all.read().get(&id).cloned().ok_or(StoreError::UploadUnknown)
    }

    pub(super) fn len(&self) -> usize {
        self.all.read().len()
    }

    pub(super) fn begin(&self, id: UploadId, epoch: u64, algorithm: Algorithm) -> StoreResult<UploadStatus> {
        if let Ok(upload) = self.get(id) {
            return upload.note_epoch(epoch);
        }
        self.volume.admit(Pressure::Refuse)?;
        let _one = self.beginning.lock();
        if let Ok(upload) = self.get(id) {
            return upload.note_epoch(epoch);
        }
        let max = self.volume.options.settings.uploads_max;
        if self.len() >= max {
            return Err(StoreError::TooManyUploads { max });
        }
        // The note first: a staging without one would count as epoch 1.
        let note = Note { epoch, algorithm };
        if note != Note::DEFAULT {
            note::write(&self.volume, id, note)?;
        }
        let (staging, name) = (&self.volume.staging, id.to_string());
        staging.create(&name).map_err(|error| staging.error("create", &name, error))?;
        let upload = Arc::new(Upload::new(&self.volume, id, note, 0, self.volume.now_ms()));
        let status = upload.status();
        self.all.write().insert(id, upload);
        status
    }

    pub(super) fn writer(&self, id: UploadId, epoch: u64) -> StoreResult<Writer> {
        self.get(id)?.writer(epoch)
    }

    /// Verifies the staged bytes and ends appending; frees them if they are not what the digest says.
    pub(super) fn seal(&self, id: UploadId, epoch: u64, digest: Digest) -> StoreResult<u64> {
        let upload = self.get(id)?;
        let (leased, finish, len) = upload.finish(Some(epoch))?;
        let tally = match finish {
            Finish::Sealed(sealed, _) if sealed == digest => return Ok(len),
            Finish::Sealed(actual, _) => return Err(StoreError::DigestMismatch { actual }),
            Finish::Receiving(tally) => tally,
        };
        let file = upload.open_file()?;
        // A failed append may have left bytes behind the end.
        file.set_len(len).map_err(|error| StoreError::io("cut a staging file", error))?;
        let tally = upload.hashed(&file, tally, digest.algorithm(), len)?;
        let (actual, sums) = tally.finish();
        if actual == digest {
            upload.sealed(&leased, digest, sums)?;
            return Ok(len);
        }
        upload.end(Some(&leased), Remains::Free)?;
        self.forget(&upload);
        Err(StoreError::DigestMismatch { actual })
    }

    /// Frees an upload; false if there is none.
    pub(super) fn discard(&self, id: UploadId) -> StoreResult<bool> {
        let Ok(upload) = self.get(id) else { return Ok(false) };
        match upload.end(None, Remains::Free) {
            Ok(()) => {
                self.forget(&upload);
                Ok(true)
            }
            Err(StoreError::UploadUnknown) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops an ended upload from the list. Only after its files are gone, or a new beginning would lose its own.
    pub(super) fn forget(&self, upload: &Arc<Upload>) {
        let mut all = self.all.write();
        if all.get(&upload.id).is_some_and(|listed| Arc::ptr_eq(listed, upload)) {
            all.remove(&upload.id);
        }
    }

    pub(super) fn list(&self, mut after: Option<UploadId>, limit: usize) -> Vec<UploadStatus> {
        loop {
            let page = self.page(after, limit);
            let listed: Vec<UploadStatus> = page.iter().filter_map(|upload| upload.status().ok()).collect();
            match page.last() {
                // All of them ended meanwhile: an empty page would be taken for the end.
                Some(last) if listed.is_empty() => after = Some(last.id),
                Some(_) | None => return listed,
            }
        }
    }

    fn page(&self, after: Option<UploadId>, limit: usize) -> Vec<Arc<Upload>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.read().range((from, Bound::Unbounded)).take(limit).map(|(_, upload)| Arc::clone(upload)).collect()
    }

    pub(super) fn expire(&self, idle_ms: u64, limit: usize) -> Vec<UploadId> {
        const PAGE: usize = 1024;
        let now_ms = self.volume.now_ms();
        let mut expired = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(after, PAGE);
            let Some(last) = page.last() else { return expired };
            after = Some(last.id);
            for upload in page {
                if expired.len() == limit {
                    return expired;
                }
                if upload.end_idle(now_ms, idle_ms) {
                    self.forget(&upload);
                    expired.push(upload.id);
                }
            }
        }
    }
}

fn recover_one(volume: &Arc<Volume>, id: UploadId) -> StoreResult<Option<Upload>> {
    let name = id.to_string();
    let stat = volume.staging.stat(&name).map_err(|error| volume.staging.error("stat", &name, error))?;
    // Two links: a power cut split the rename on a file system that doesn't journal it. The blob keeps its name, and a
    // staging that shares its bytes must not be written to.
    let Some(stat) = stat.filter(|stat| stat.is_file && stat.links == 1) else { return Ok(None) };
    let Some(note) = note::read(volume, id)? else {
        tracing::warn!(upload = %id, "the note of a staged upload is damaged; its epoch is unknown, so it is dropped");
        volume.drop_file(&volume.staging, &note::note_name(id));
        return Ok(None);
    };
    let touched_at_ms = stat.modified_at_ms.min(volume.now_ms());
    Ok(Some(Upload::new(volume, id, note, stat.size_bytes, touched_at_ms)))
}
