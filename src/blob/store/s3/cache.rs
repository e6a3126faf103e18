//! Which blobs lie on this node's disk, which of them are known to be in the bucket, and which was used least lately.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use crate::blob::store::BlobKey;

/// The blobs on the local volume.
#[derive(Default)]
pub(super) struct Cache(Mutex<State>);

#[derive(Default)]
struct State {
    entries: HashMap<BlobKey, Entry>,
    /// By the number of the last use.
    by_use: BTreeMap<u64, BlobKey>,
    next: u64,
    bytes: u64,
}

struct Entry {
    size_bytes: u64,
    used: u64,
    /// Its object was seen, or made, in this life of the process: it may be taken from the disk.
    is_settled: bool,
}

impl State {
    fn touch(&mut self, key: &BlobKey) {
        let next = self.next;
        if let Some(entry) = self.entries.get_mut(key) {
            self.by_use.remove(&entry.used);
            entry.used = next;
            self.by_use.insert(next, *key);
            self.next += 1;
        }
    }
}

impl Cache {
    /// A blob lies here now.
    pub(super) fn insert(&self, key: &BlobKey, size_bytes: u64) {
        let mut state = self.0.lock();
        if !state.entries.contains_key(key) {
            state.bytes += size_bytes;
            let used = state.next;
            state.entries.insert(*key, Entry { size_bytes, used, is_settled: false });
        }
        state.touch(key);
    }

    /// It was used.
    pub(super) fn touch(&self, key: &BlobKey) {
        self.0.lock().touch(key);
    }

    /// It lies here no more.
    pub(super) fn remove(&self, key: &BlobKey) {
        let mut state = self.0.lock();
        if let Some(entry) = state.entries.remove(key) {
            state.bytes -= entry.size_bytes;
            state.by_use.remove(&entry.used);
        }
    }

    /// Its object is in the bucket, or is not any more.
    pub(super) fn settle(&self, key: &BlobKey, is_settled: bool) {
        if let Some(entry) = self.0.lock().entries.get_mut(key) {
            entry.is_settled = is_settled;
        }
    }

    /// Whether it is known that its object is in the bucket.
    pub(super) fn is_settled(&self, key: &BlobKey) -> bool {
        self.0.lock().entries.get(key).is_some_and(|entry| entry.is_settled)
    }

    /// The one that was used least lately, with its size.
    pub(super) fn oldest(&self) -> Option<(BlobKey, u64)> {
        let state = self.0.lock();
        let key = *state.by_use.values().next()?;
        Some((key, state.entries.get(&key)?.size_bytes))
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().bytes
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::digest::Digest;
    use registry_core::vocabulary::ids::UploadId;

    use super::*;

    // The least lately used comes first; bytes are those of what is here; nothing is settled by itself.
    #[test]
    fn order_and_bytes() {
        let key = |number: u8| BlobKey::new(Digest::sha256(&[number]), UploadId { tick: 1, random: 1 });
        let cache = Cache::default();
        (1..=3).for_each(|number| cache.insert(&key(number), u64::from(number)));
        cache.insert(&key(1), 1);
        assert_eq!((cache.bytes(), cache.len(), cache.oldest()), (6, 3, Some((key(2), 2))));
        cache.touch(&key(2));
        assert_eq!(cache.oldest(), Some((key(3), 3)));
        assert!(!cache.is_settled(&key(3)));
        cache.settle(&key(3), true);
        assert!(cache.is_settled(&key(3)));
        cache.remove(&key(3));
        cache.settle(&key(3), true);
        assert!(!cache.is_settled(&key(3)));
        assert_eq!((cache.bytes(), cache.oldest()), (3, Some((key(1), 1))));
    }
}
