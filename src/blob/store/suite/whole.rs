//! Blobs that come in one go: small ones, and copies from other nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use registry_core::vocabulary::digest::Digest;

use super::{SIZES, Subject, World, assert_refused, content, push, read_all, upload_id};
use crate::blob::store::{BlobKey, Home, PACK_BLOB_BYTES_MAX, StoreError};

fn key(number: u128, bytes: &[u8]) -> BlobKey {
    BlobKey::new(Digest::sha256(bytes), upload_id(number))
}

// A small blob is there when the call returns; a repeat confirms; a wrong digest or a large blob is refused.
pub(in crate::blob::store) fn small_blobs<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for (number, size) in SIZES.into_iter().enumerate() {
        let bytes = content(number as u64, size);
        let key = key(number as u128, &bytes);
        if size > PACK_BLOB_BYTES_MAX {
            assert_refused!(store.put(&key, &bytes), StoreError::TooLarge { .. });
            continue;
        }
        let stat = store.put(&key, &bytes).unwrap();
        assert_eq!((stat.size_bytes, stat.home), (size as u64, Home::Pack));
        assert_eq!(store.put(&key, &bytes).unwrap(), stat);
        assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), bytes);
    }
    let lie = key(99, b"the truth");
    assert_refused!(store.put(&lie, b"a lie"), StoreError::DigestMismatch { .. });
    assert_eq!(store.stat(&lie).unwrap(), None);
}

// A copy from another node is verified like an upload and comes back byte for byte.
pub(in crate::blob::store) fn imports<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for (number, size) in SIZES.into_iter().enumerate() {
        let bytes = content(number as u64, size);
        let key = key(number as u128, &bytes);
        let mut import = store.import(&key, size as u64).unwrap();
        assert_refused!(store.import(&key, size as u64), StoreError::Busy);
        for part in bytes.chunks(130_000) {
            import.append(&[Bytes::copy_from_slice(part)]).unwrap();
            assert_eq!(store.stat(&key).unwrap(), None);
        }
        assert_eq!(import.finish().unwrap().size_bytes, size as u64);
        assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), bytes);
        assert_refused!(store.import(&key, size as u64), StoreError::Exists);
    }
}

// A copy that is too short, too long, of other bytes, or given up leaves nothing and can be tried again.
pub(in crate::blob::store) fn failed_imports_leave_nothing<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.capacity_bytes = Some(10 << 20)));
    let store = subject.store();
    let free = store.usage().unwrap().free_bytes;
    for (number, size) in [(1, 1000), (2, 500_000)] {
        let bytes = content(5, size);
        let key = key(number, &bytes);
        let short = store.import(&key, size as u64).unwrap();
        assert_refused!(short.finish(), StoreError::SizeMismatch { .. });
        let mut long = store.import(&key, size as u64).unwrap();
        long.append(std::slice::from_ref(&bytes)).unwrap();
        assert_refused!(long.append(&[Bytes::from_static(b"x")]), StoreError::TooLarge { .. });
        drop(long);
        let mut other = store.import(&key, size as u64).unwrap();
        other.append(&[content(6, size)]).unwrap();
        assert_refused!(other.finish(), StoreError::DigestMismatch { .. });
        assert_eq!(store.stat(&key).unwrap(), None);
        assert_eq!(store.usage().unwrap().free_bytes, free);
    }
    let bytes = content(5, 500_000);
    let mut again = store.import(&key(2, &bytes), 500_000).unwrap();
    again.append(std::slice::from_ref(&bytes)).unwrap();
    again.finish().unwrap();
}

// G8: two generations of one digest are two copies; removing one leaves the other.
pub(in crate::blob::store) fn generations_are_apart<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for size in [100, 200_000] {
        let bytes = content(8, size);
        let (one, _) = push(&*store, size as u128, &bytes).unwrap();
        let (two, _) = push(&*store, size as u128 + 1, &bytes).unwrap();
        assert_ne!(one, two);
        assert!(store.remove(&store.lock(&one.digest), one.generation).unwrap());
        assert!(!store.remove(&store.lock(&one.digest), one.generation).unwrap());
        assert_refused!(store.open(&one), StoreError::NotFound);
        assert_eq!(read_all(&*store, &two, 1 << 20).unwrap(), bytes);
    }
}

// Many writers of few keys at once: each key ends up there once, whole.
pub(in crate::blob::store) fn herd_of_equal_puts<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..20u64 {
                    let bytes = content(round, 500);
                    store.put(&key(1, &bytes), &bytes).unwrap();
                    push(&**store, 100 + u128::from(round) + 1000 * thread, &content(round, 70_000)).unwrap();
                }
            });
        }
    });
    let page = store.walk(None, 10_000).unwrap();
    assert_eq!(page.entries.iter().filter(|entry| entry.home == Home::Pack).count(), 20);
    assert_eq!(page.entries.iter().filter(|entry| entry.home == Home::File).count(), 160);
    for entry in page.entries {
        let bytes = read_all(&*store, &entry.key, 1 << 20).unwrap();
        assert_eq!(Digest::sha256(&bytes), entry.key.digest);
    }
}

// While somebody holds a digest's lock, no copy of it is placed or confirmed; other digests go on.
pub(in crate::blob::store) fn locks_exclude_placing<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let (bytes, other) = (content(1, 100), content(2, 100));
    let held = store.lock(&Digest::sha256(&bytes));
    assert!(store.try_lock(held.digest()).is_none());
    let placed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store.put(&key(1, &bytes), &bytes).unwrap();
            placed.store(true, Ordering::SeqCst);
        });
        store.put(&key(2, &other), &other).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!placed.load(Ordering::SeqCst));
        assert_eq!(store.stat(&key(1, &bytes)).unwrap(), None);
        drop(held);
    });
    assert!(placed.load(Ordering::SeqCst));
    store.confirm(&key(1, &bytes)).unwrap();
}
