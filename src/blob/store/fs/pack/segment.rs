//! One segment file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::record::{Entry, HEADER_BYTES, Place, TRAILER_BYTES, Trailer};
use super::scan;
use crate::blob::store::error::is_of_now;
use crate::blob::store::fs::wait::{Wait, read_exact};
use crate::blob::store::{BlobKey, StoreError, StoreResult};

pub(super) struct Segment {
    pub(super) place: Place,
    pub(super) file: File,
    /// Synced bytes: where the next record goes, or all of a finished segment.
    pub(super) len: AtomicU64,
    /// Bytes of records that were removed or replaced since the store was opened.
    pub(super) dead: AtomicU64,
    pub(super) contents: Mutex<Contents>,
}

/// How a segment's records are found.
pub(super) enum Contents {
    /// Still written, or never finished: the list is kept in memory.
    Open(Vec<Entry>),
    /// The footer lists them.
    Finished(Trailer),
}

pub(super) fn segment_name(number: u32) -> String {
    format!("{number:08x}.seg")
}

pub(super) fn parse_segment_name(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

impl Segment {
    pub(super) fn new(place: Place, file: File, len: u64, contents: Contents) -> Segment {
        Segment { place, file, len: AtomicU64::new(len), dead: AtomicU64::new(0), contents: Mutex::new(contents) }
    }

    /// The blob of a record, checked as a whole before anyone sees it.
    pub(super) fn read(&self, entry: &Entry) -> StoreResult<Bytes> {
        let read = self.read_with(entry, Wait::Long)?;
        read.ok_or_else(|| StoreError::Damaged { key: Box::new(entry.key), offset: 0, detail: "unreadable" })
    }

    /// The same; `None` if it would have to be waited for.
    pub(super) fn read_with(&self, entry: &Entry, wait: Wait) -> StoreResult<Option<Bytes>> {
        let damaged = |detail| StoreError::Damaged { key: Box::new(entry.key), offset: 0, detail };
        let mut bytes = vec![0; HEADER_BYTES + entry.len as usize];
        match read_exact(&self.file, &mut bytes, u64::from(entry.offset), wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait == Wait::Never => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("segment is cut off")),
            Err(error) if is_of_now(&error) => return Err(StoreError::io("read a pack segment", error)),
            Err(_) => return Err(damaged("unreadable")),
        }
        if self.place.decode_header(entry.offset, &bytes).as_ref() != Some(entry) {
            return Err(damaged("record header"));
        }
        let bytes = Bytes::from(bytes).slice(HEADER_BYTES..);
        if !is_blob(&entry.key, &bytes) {
            return Err(damaged("record does not hash to its digest"));
        }
        Ok(Some(bytes))
    }

    /// Whether the record's header is where the index says, and its bytes lie inside the file.
    pub(super) fn check_header(&self, entry: &Entry) -> StoreResult<()> {
        let damaged = |detail| StoreError::Damaged { key: Box::new(entry.key), offset: 0, detail };
        let mut header = vec![0; HEADER_BYTES];
        if self.file.read_exact_at(&mut header, u64::from(entry.offset)).is_err() {
            return Err(damaged("unreadable"));
        }
        if self.place.decode_header(entry.offset, &header).as_ref() != Some(entry) {
            return Err(damaged("record header"));
        }
        if entry.end() > self.len() {
            return Err(damaged("segment is cut off"));
        }
        Ok(())
    }

    /// The bytes of a record as they are; `None` if they cannot be read.
    pub(super) fn read_unchecked(&self, offset: u32, len: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, u64::from(offset) + HEADER_BYTES as u64).ok()?;
        Some(bytes)
    }

    /// All records, in the order they were written. A footer that has rotted since it was read is replaced by a scan.
    pub(super) fn entries(&self) -> StoreResult<Vec<Entry>> {
        let trailer = match &*self.contents.lock() {
            Contents::Open(entries) => return Ok(entries.clone()),
            Contents::Finished(trailer) => *trailer,
        };
        let read = Segment::read_footer(self.place, &self.file, self.len());
        if let Ok(Some((_, entries))) = read {
            return Ok(entries);
        }
        scan::scan(self.place, &self.file, u64::from(trailer.offset))
            .map(|found| found.entries)
            .map_err(|error| StoreError::io("scan a pack segment", error))
    }

    /// Up to `limit` records after the first `skip` of a segment that is not finished.
    pub(super) fn page_of_open(&self, skip: usize, limit: usize) -> Option<Vec<Entry>> {
        match &*self.contents.lock() {
            Contents::Open(entries) => Some(entries.iter().skip(skip).take(limit).copied().collect()),
            Contents::Finished(_) => None,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(*self.contents.lock(), Contents::Finished(_))
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Reads the footer; `None` if there is no good one.
    pub(super) fn read_footer(place: Place, file: &File, len: u64) -> io::Result<Option<(Trailer, Vec<Entry>)>> {
        let Some(trailer_at) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut bytes = vec![0; TRAILER_BYTES];
        file.read_exact_at(&mut bytes, trailer_at)?;
        let Some(trailer) = place.decode_trailer(&bytes) else { return Ok(None) };
        if u64::from(trailer.offset) + trailer.entries_bytes() != trailer_at {
            return Ok(None);
        }
        bytes.resize((trailer_at - u64::from(trailer.offset)) as usize, 0);
        file.read_exact_at(&mut bytes, u64::from(trailer.offset))?;
        Ok(place.decode_entries(&trailer, &bytes).map(|entries| (trailer, entries)))
    }
}

/// Whether the bytes hash to the key's digest.
pub(super) fn is_blob(key: &BlobKey, bytes: &[u8]) -> bool {
    registry_core::vocabulary::digest::Digest::of(key.digest.algorithm(), bytes) == key.digest
}
