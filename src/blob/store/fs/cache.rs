//! Blob files kept open with their sums, the least recently used going first.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::open_blob::OpenBlob;
use crate::blob::store::BlobKey;

pub(super) struct Cache {
    files_max: usize,
    sums_bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    blobs: HashMap<BlobKey, Cached>,
    sums_bytes: usize,
    clock: u64,
    removals: u64,
}

struct Cached {
    blob: Arc<OpenBlob>,
    used_at: u64,
}

/// Taken before a file is opened: if anything was removed since, the file is not kept.
#[derive(Clone, Copy)]
pub(super) struct Before(u64);

impl Cache {
    pub(super) fn new(files_max: usize, sums_bytes_max: usize) -> Cache {
        Cache { files_max, sums_bytes_max, inner: Mutex::default() }
    }

    pub(super) fn get(&self, key: &BlobKey) -> Result<Arc<OpenBlob>, Before> {
        let mut inner = self.inner.lock();
        inner.clock += 1;
        let (now, removals) = (inner.clock, inner.removals);
        match inner.blobs.get_mut(key) {
            Some(cached) => {
                cached.used_at = now;
                Ok(Arc::clone(&cached.blob))
            }
            None => Err(Before(removals)),
        }
    }

    pub(super) fn insert(&self, blob: &Arc<OpenBlob>, before: Before) {
        let mut inner = self.inner.lock();
        // A removed file that stayed open here would keep its space and go on being served.
        if inner.removals != before.0 || weight(blob) > self.sums_bytes_max {
            return;
        }
        inner.clock += 1;
        let used_at = inner.clock;
        inner.sums_bytes += weight(blob);
        if let Some(old) = inner.blobs.insert(blob.key, Cached { blob: Arc::clone(blob), used_at }) {
            inner.sums_bytes -= weight(&old.blob);
        }
        while inner.blobs.len() > self.files_max || inner.sums_bytes > self.sums_bytes_max {
            let Some(oldest) = inner.blobs.iter().min_by_key(|(_, cached)| cached.used_at).map(|(key, _)| *key) else {
                return;
            };
            inner.evict(&oldest);
        }
    }

    pub(super) fn remove(&self, key: &BlobKey) {
        let mut inner = self.inner.lock();
        inner.removals += 1;
        inner.evict(key);
    }
}

impl Inner {
    fn evict(&mut self, key: &BlobKey) {
        if let Some(cached) = self.blobs.remove(key) {
            self.sums_bytes -= weight(&cached.blob);
        }
    }
}

fn weight(blob: &OpenBlob) -> usize {
    blob.sums.sums.len() * size_of::<u64>()
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::digest::Digest;
    use registry_core::vocabulary::ids::UploadId;

    use super::super::shared::{Shared, SharedRoom};
    use super::super::sums::Sums;
    use super::*;

    fn blob(number: u128, sums: usize) -> Arc<OpenBlob> {
        let key = BlobKey::new(Digest::sha256(b"x"), UploadId { tick: 0, random: number });
        let sums = Sums { size_bytes: 0, sums: vec![0; sums] };
        let shared = Shared::new(SharedRoom::default());
        Arc::new(OpenBlob { key, file: tempfile::tempfile().unwrap(), sums, shared })
    }

    fn put(cache: &Cache, blob: &Arc<OpenBlob>) {
        if let Err(before) = cache.get(&blob.key) {
            cache.insert(blob, before);
        }
    }

    // The least recently used goes when there are too many files, or too many sums.
    #[test]
    fn bounded() {
        let cache = Cache::new(3, 100 * 8);
        let blobs: Vec<_> = (0..5).map(|number| blob(number, 10)).collect();
        blobs[..3].iter().for_each(|blob| put(&cache, blob));
        assert!(cache.get(&blobs[0].key).is_ok());
        put(&cache, &blobs[3]);
        let held: Vec<bool> = blobs.iter().map(|blob| cache.get(&blob.key).is_ok()).collect();
        assert_eq!(held, [true, false, true, true, false]);
        put(&cache, &blob(10, 95));
        assert_eq!(cache.inner.lock().sums_bytes, 95 * 8);
        put(&cache, &blob(11, 101));
        assert!(cache.get(&blob(11, 0).key).is_err(), "larger than the whole cache");
    }

    // A file that was opened before a removal isn't kept after it.
    #[test]
    fn removal_wins() {
        let cache = Cache::new(3, 800);
        let opened = blob(1, 1);
        let Err(before) = cache.get(&opened.key) else { panic!("empty") };
        cache.remove(&opened.key);
        cache.insert(&opened, before);
        assert!(cache.get(&opened.key).is_err());
    }
}
