//! Reading: ranges, removal under readers, damage.

use std::ops::ControlFlow;

use super::{Subject, World, assert_refused, content, push, read_all};
use crate::blob::store::{BLOCK_BYTES, READ_BYTES_MAX, Scrubbed, StoreError};

// Any range answers whole blocks that hold its first byte and are the blob's own; behind the end there is nothing.
pub(in crate::blob::store) fn every_range<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for size in [1, 40_000, 65_537, 2_000_000] {
        let bytes = content(1, size);
        let (key, _) = push(&*store, size as u128, &bytes).unwrap();
        let reader = store.open(&key).unwrap();
        assert_eq!((reader.key(), reader.size_bytes()), (&key, size as u64));
        for offset in [0, 1, size / 3, size / 2, BLOCK_BYTES - 1, BLOCK_BYTES, size - 1] {
            if offset >= size {
                continue;
            }
            for len in [0, 1, 2, BLOCK_BYTES, 700_000, READ_BYTES_MAX, usize::MAX] {
                let blocks = reader.read_blocks(offset as u64, len).unwrap();
                assert_eq!(blocks.first_damaged(), None);
                assert_eq!(blocks.offset % BLOCK_BYTES as u64, 0);
                assert!(blocks.offset <= offset as u64 && blocks.end() > offset as u64);
                assert!(blocks.bytes.len() <= READ_BYTES_MAX);
                let (from, until) = (blocks.offset as usize, blocks.end() as usize);
                assert_eq!(blocks.bytes, bytes.slice(from..until));
                assert!(until == size || until - from == READ_BYTES_MAX || until >= offset + len);
                if let Some(now) = reader.read_blocks_now(offset as u64, len) {
                    let now = now.unwrap();
                    assert_eq!((now.offset, &now.bytes, &now.sums), (blocks.offset, &blocks.bytes, &blocks.sums));
                }
            }
        }
        for behind in [size as u64, size as u64 + 1, u64::MAX] {
            assert_refused!(reader.read_blocks(behind, 1), StoreError::OutOfRange { .. });
        }
    }
}

// An open reader goes on after the blob was removed; a new one finds nothing.
pub(in crate::blob::store) fn readers_survive_removal<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for (number, size) in [(1, 100), (2, 1_500_000)] {
        let bytes = content(2, size);
        let (key, _) = push(&*store, number, &bytes).unwrap();
        let reader = store.open(&key).unwrap();
        drop(store.open(&key).unwrap());
        assert!(store.remove(&store.lock(&key.digest), key.generation).unwrap());
        assert_refused!(store.open(&key), StoreError::NotFound);
        assert_refused!(store.confirm(&key), StoreError::NotFound);
        let blocks = reader.read_blocks(0, READ_BYTES_MAX).unwrap();
        assert_eq!(blocks.bytes, bytes.slice(..size.min(READ_BYTES_MAX)));
    }
}

// B6: a flipped bit is named by its block and never served; good blocks still are; scrub sees it; quarantine takes the
// copy away, and a new copy heals it.
pub(in crate::blob::store) fn damage_is_never_served<S: Subject>() {
    let world = World::new();
    let subject = S::new(&world);
    let store = subject.store();
    let mut number = 0;
    for (size, offset) in [(500, 7), (65_536, 65_535), (70_000, 0), (2_000_000, 1_900_000), (2_000_000, 65_536)] {
        number += 1;
        let bytes = content(number as u64, size);
        let (key, _) = push(&*store, number, &bytes).unwrap();
        let mut pace = |_| ControlFlow::Continue(());
        assert_eq!(store.verify(&key, &mut pace).unwrap(), Scrubbed::Good { size_bytes: size as u64 });
        subject.damage(&key, offset);
        if let Some(Ok(reader)) = store.open_now(&key) {
            let now = reader.read_blocks_now(offset, 1);
            assert!(matches!(now, None | Some(Err(StoreError::Damaged { .. }))), "damage was served");
        }
        match read_all(&*store, &key, BLOCK_BYTES) {
            Err(StoreError::Damaged { key: named, offset: at, .. }) => {
                assert_eq!(*named, key);
                assert_eq!(at, offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64);
            }
            other => panic!("{other:?}"),
        }
        if size > 1_000_000 {
            let good = store.open(&key).unwrap().read_blocks(200_000, 10).unwrap();
            assert_eq!(good.slice(200_000, 200_010), bytes.slice(200_000..200_010));
        }
        assert_eq!(store.verify(&key, &mut pace).unwrap(), Scrubbed::Bad);
        assert!(store.quarantine(&key).unwrap());
        assert!(!store.quarantine(&key).unwrap());
        assert_eq!(store.stat(&key).unwrap(), None);
        assert_refused!(store.open(&key), StoreError::NotFound);
        assert_refused!(store.confirm(&key), StoreError::NotFound);
        let mut import = store.import(&key, size as u64).unwrap();
        import.append(std::slice::from_ref(&bytes)).unwrap();
        import.finish().unwrap();
        assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), bytes);
    }
    assert_eq!(store.purge_quarantine(999, 100).unwrap(), 0);
    world.pass(10);
    assert_eq!(store.purge_quarantine(1_000, 2).unwrap(), 2);
    assert_eq!(store.purge_quarantine(1_000, 100).unwrap(), 3);
}
