//! Packs: append-only segments of small blobs, so that each costs one record instead of a file, an inode and two syncs.
//!
//! Whether a record lives is the metadata's knowledge alone: a remove only takes it out of the index in memory, and a
//! restart brings it back until the inventory has judged it again or its segment was compacted away.
//!
//! Start at [`Packs`]; `record.rs` maps the bytes, `writer.rs` is the one thread that writes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::RwLock;
use registry_core::vocabulary::ids::StoreId;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use self::listed::Listed;
use self::record::Entry;
use self::segment::Segment;
pub(super) use self::stopped::StoppedPacks;
use self::writer::{Record, Request, Writer};
use super::volume::Volume;
use super::wait::Wait;
use crate::blob::store::{BlobKey, BlobStat, Home, StoreError, StoreResult};

mod compact;
mod listed;
mod open;
mod record;
mod scan;
mod segment;
mod stopped;
mod writer;

/// Requests that may wait for the writer; more block their callers.
const QUEUED_MAX: usize = 1024;

/// All packs of a volume.
pub(super) struct Packs {
    shared: Arc<Shared>,
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
    listed: Listed,
}

/// What readers and the writer share.
struct Shared {
    volume: Arc<Volume>,
    index: RwLock<HashMap<Fingerprint, Location>>,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    damaged: AtomicU64,
}

/// 128 bits in place of a key of up to 89 bytes: the index holds one entry per small blob. The record's header has the
/// whole key, and is compared before anything is served.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint(u128);

impl Fingerprint {
    fn of(store: StoreId, key: &BlobKey) -> Fingerprint {
        let mut bytes = [0; 89];
        let raw = key.digest.raw();
        bytes[0] = key.digest.algorithm() as u8;
        bytes[1..=raw.len()].copy_from_slice(raw);
        bytes[65..].copy_from_slice(&key.generation.key_bytes());
        Fingerprint(xxh3_128_with_seed(&bytes, store.0))
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Location {
    segment: u32,
    offset: u32,
    len: u32,
}

impl Location {
    fn of(segment: u32, entry: &Entry) -> Location {
        Location { segment, offset: entry.offset, len: entry.len }
    }

    fn entry(&self, key: &BlobKey) -> Entry {
        Entry { key: *key, offset: self.offset, len: self.len }
    }

    fn stat(&self) -> BlobStat {
        BlobStat { size_bytes: u64::from(self.len), home: Home::Pack }
    }
}

/// What a read of the packs came to.
pub(super) enum Packed {
    /// The whole blob, checked.
    Here(Bytes),
    /// It is no pack's.
    Absent,
    /// It is not in memory, and the caller does not wait.
    WouldWait,
}

impl Packs {
    /// Finds all records and starts the writer.
    pub(super) fn open(volume: &Arc<Volume>) -> StoreResult<Packs> {
        let (shared, last) = open::recover(volume)?;
        let shared = Arc::new(shared);
        let (requests, queue) = sync_channel(QUEUED_MAX);
        let writer = Writer::new(Arc::clone(&shared), last);
        let thread = std::thread::Builder::new()
            .name("blob-pack".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| StoreError::io("start the pack writer", error))?;
        Ok(Packs { shared, requests: Some(requests), thread: Some(thread), listed: Listed::default() })
    }

    pub(super) fn stat(&self, key: &BlobKey) -> Option<BlobStat> {
        self.shared.find(key).map(|location| location.stat())
    }

    /// The whole blob, checked.
    pub(super) fn read(&self, key: &BlobKey, wait: Wait) -> StoreResult<Packed> {
        self.shared.read(key, wait)
    }

    /// Stores a blob durably. The caller has checked the bytes and holds the digest's lock.
    pub(super) fn put(&self, key: &BlobKey, bytes: Bytes) -> StoreResult<BlobStat> {
        if let Some(location) = self.shared.find(key) {
            return Ok(location.stat());
        }
        let size_bytes = bytes.len() as u64;
        let answer = self.request(key, bytes)?;
        answer.recv().unwrap_or(Err(closed()))?;
        metrics::counter!("portolan_blob_stored_total", "home" => "pack").increment(1);
        metrics::counter!("portolan_blob_stored_bytes_total", "home" => "pack").increment(size_bytes);
        Ok(BlobStat { size_bytes, home: Home::Pack })
    }

    /// Asks the writer for a record, whatever the index says; the answer comes when it is synced.
    fn request(&self, key: &BlobKey, bytes: Bytes) -> StoreResult<Receiver<StoreResult<()>>> {
        let (reply, answer) = sync_channel(1);
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.send(Request::Write(Record { key: *key, bytes, reply })).map_err(|_| closed())?;
        Ok(answer)
    }

    /// Has the writer go on in another segment if it still writes to this one.
    fn finish(&self, segment: u32) -> StoreResult<()> {
        let (done, answer) = sync_channel(1);
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.send(Request::Finish(segment, done)).map_err(|_| closed())?;
        answer.recv().map_err(|_| closed())
    }

    /// Forgets a record; false if it isn't here. The caller holds the digest's lock.
    pub(super) fn remove(&self, key: &BlobKey) -> bool {
        self.shared.forget(key)
    }

    /// The bytes of a record as they are, damaged or not.
    pub(super) fn read_unchecked(&self, key: &BlobKey) -> Option<Vec<u8>> {
        let location = self.shared.find(key)?;
        let segment = self.shared.segment(location.segment)?;
        segment.read_unchecked(location.offset, location.len)
    }

    /// The file that holds a record, and where its blob begins in it.
    #[cfg(test)]
    pub(super) fn find_bytes(&self, key: &BlobKey) -> Option<(String, u64)> {
        let found = self.shared.find(key)?;
        Some((segment::segment_name(found.segment), u64::from(found.offset) + record::HEADER_BYTES as u64))
    }

    /// Bytes of all segments, and how many of them belong to records that were removed or replaced since open.
    pub(super) fn usage(&self) -> (u64, u64) {
        let segments = self.shared.segments.read();
        segments
            .values()
            .fold((0, 0), |(all, dead), segment| (all + segment.len(), dead + segment.dead.load(Ordering::Relaxed)))
    }

    /// Damaged regions found at open.
    pub(super) fn damaged(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }

    /// The first segment numbered `from` or higher.
    pub(super) fn segment_from(&self, from: u32) -> Option<u32> {
        self.shared.segments.read().range(from..).next().map(|(number, _)| *number)
    }

    /// Live records of a segment after its first `skip`, out of at most `limit`; and how many were looked at.
    pub(super) fn list(&self, segment: u32, skip: usize, limit: usize) -> StoreResult<(Vec<(BlobKey, u64)>, usize)> {
        let Some(segment) = self.shared.segment(segment) else { return Ok((Vec::new(), 0)) };
        let page = self.listed.page(&segment, skip, limit)?;
        let live = page.iter().filter(|entry| self.shared.is_at(&segment, entry));
        Ok((live.map(|entry| (entry.key, u64::from(entry.len))).collect(), page.len()))
    }
}

impl Drop for Packs {
    fn drop(&mut self) {
        // The writer ends when nobody can ask it any more.
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the pack writer panicked");
        }
    }
}

impl Shared {
    fn fingerprint(&self, key: &BlobKey) -> Fingerprint {
        Fingerprint::of(self.volume.store_id, key)
    }

    fn find(&self, key: &BlobKey) -> Option<Location> {
        self.index.read().get(&self.fingerprint(key)).copied()
    }

    fn segment(&self, number: u32) -> Option<Arc<Segment>> {
        self.segments.read().get(&number).cloned()
    }

    /// Whether the index names exactly this record.
    fn is_at(&self, segment: &Segment, entry: &Entry) -> bool {
        self.find(&entry.key) == Some(Location::of(segment.place.segment, entry))
    }

    fn read(&self, key: &BlobKey, wait: Wait) -> StoreResult<Packed> {
        loop {
            let Some(location) = self.find(key) else { return Ok(Packed::Absent) };
            // Not there: compacted away since; the index has a new place, or none.
            let Some(segment) = self.segment(location.segment) else { continue };
            let read = segment.read_with(&location.entry(key), wait)?;
            return Ok(read.map_or(Packed::WouldWait, Packed::Here));
        }
    }

    /// Points the index at a record; the one it named before is dead.
    fn point(&self, segment: u32, entry: &Entry) {
        let location = Location::of(segment, entry);
        let before = self.index.write().insert(self.fingerprint(&entry.key), location);
        if let Some(before) = before {
            self.count_dead(before);
        }
    }

    fn forget(&self, key: &BlobKey) -> bool {
        let before = self.index.write().remove(&self.fingerprint(key));
        if let Some(before) = before {
            self.count_dead(before);
        }
        before.is_some()
    }

    fn count_dead(&self, location: Location) {
        if let Some(segment) = self.segment(location.segment) {
            segment.dead.fetch_add(record::record_bytes(location.len), Ordering::Relaxed);
        }
    }
}

fn closed() -> StoreError {
    StoreError::VolumeFailed { reason: "the pack writer has ended".into() }
}
