//! Finding all records when the store is opened.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::RwLock;

use super::Shared;
use super::record::{Entry, Place};
use super::scan;
use super::segment::{Contents, Segment, parse_segment_name, segment_name};
use super::writer::finish_segment;
use crate::blob::store::StoreResult;
use crate::blob::store::fs::volume::Volume;

/// Indexes all segments. Returns the last one too, if it can be written on.
pub(super) fn recover(volume: &Arc<Volume>) -> StoreResult<(Shared, Option<Arc<Segment>>)> {
    let dir = &volume.packs;
    let names = dir.names().map_err(|error| dir.error("list", ".", error))?;
    let numbers: Vec<u32> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    let shared = Shared {
        volume: Arc::clone(volume),
        index: RwLock::new(HashMap::new()),
        segments: RwLock::new(BTreeMap::new()),
        damaged: AtomicU64::new(0),
    };
    let mut open = None;
    for number in numbers {
        let name = segment_name(number);
        let (segment, entries, damaged) =
            recover_segment(volume, number).map_err(|error| dir.error("recover", &name, error))?;
        if damaged > 0 {
            tracing::warn!(segment = name, damaged, "a pack segment has damaged regions; their blobs will be repaired");
            shared.damaged.fetch_add(damaged, std::sync::atomic::Ordering::Relaxed);
        }
        let segment = Arc::new(segment);
        shared.segments.write().insert(number, Arc::clone(&segment));
        // Ascending numbers: where a compaction was interrupted, the copy wins over what it was copied from.
        entries.iter().for_each(|entry| shared.point(number, entry));
        open = (!segment.is_finished()).then_some(segment);
    }
    finish_left_over(&shared, open.as_ref());
    Ok((shared, open))
}

/// Segments that an earlier life could not finish, the last one apart, get their footer now; without it they only cost
/// another scan.
fn finish_left_over(shared: &Shared, open: Option<&Arc<Segment>>) {
    let segments: Vec<Arc<Segment>> = shared.segments.read().values().cloned().collect();
    for segment in segments {
        let is_open = open.is_some_and(|open| Arc::ptr_eq(open, &segment));
        if !is_open && !segment.is_finished() {
            finish_segment(&shared.volume, &segment);
        }
    }
}

fn recover_segment(volume: &Volume, number: u32) -> io::Result<(Segment, Vec<Entry>, u64)> {
    let place = Place { store: volume.store_id, segment: number };
    let file = volume.packs.open_write(&segment_name(number))?;
    let len = file.metadata()?.len();
    if let Some((trailer, entries)) = Segment::read_footer(place, &file, len)? {
        return Ok((Segment::new(place, file, len, Contents::Finished(trailer)), entries, 0));
    }
    let found = scan::scan(place, &file, len)?;
    cut_tail(place, &file, len, found.end)?;
    let end = file.metadata()?.len();
    let entries = found.entries.clone();
    Ok((Segment::new(place, file, end, Contents::Open(found.entries)), entries, found.damaged))
}

/// Cuts off what follows the last whole record: it was never synced as a whole, so nobody was told about it.
fn cut_tail(place: Place, file: &File, len: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    if end == 0 {
        file.set_len(0)?;
        file.write_all_at(&place.encode_head(), 0)?;
    } else if end < len {
        file.set_len(end)?;
    }
    // Also what an earlier life wrote and was killed before it could sync: from now on it counts.
    Ok(rustix::fs::fdatasync(file)?)
}
