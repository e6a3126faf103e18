//! What walks over segments have read, kept between their pages: a footer can only be read and checked whole.

use std::sync::Arc;

use parking_lot::Mutex;

use super::record::Entry;
use super::segment::Segment;
use crate::blob::store::StoreResult;

/// Segments whose lists are kept: one for what frees files, one for what verifies them. A list takes some megabytes.
const KEPT_MAX: usize = 2;

/// The lists of the finished segments that were read last, the latest first.
#[derive(Default)]
pub(super) struct Listed(Mutex<Vec<(u32, Arc<[Entry]>)>>);

impl Listed {
    /// Up to `limit` records of a segment after its first `skip`, in the order they were written.
    pub(super) fn page(&self, segment: &Segment, skip: usize, limit: usize) -> StoreResult<Vec<Entry>> {
        if let Some(page) = segment.page_of_open(skip, limit) {
            return Ok(page);
        }
        let entries = self.entries(segment)?;
        let page = entries.get(skip..).unwrap_or_default();
        if page.is_empty() {
            // a walk has come to its end
            self.0.lock().retain(|(number, _)| *number != segment.place.segment);
        }
        Ok(page[..page.len().min(limit)].to_vec())
    }

    fn entries(&self, segment: &Segment) -> StoreResult<Arc<[Entry]>> {
        let wanted = segment.place.segment;
        if let Some((_, entries)) = self.0.lock().iter().find(|(number, _)| *number == wanted) {
            return Ok(Arc::clone(entries));
        }
        let entries: Arc<[Entry]> = segment.entries()?.into();
        let mut kept = self.0.lock();
        kept.retain(|(number, _)| *number != wanted);
        kept.insert(0, (wanted, Arc::clone(&entries)));
        kept.truncate(KEPT_MAX);
        Ok(entries)
    }
}
