//! The inventory, removal, compaction.

use std::collections::BTreeSet;

use super::{Subject, World, assert_refused, content, push, read_all, stage, upload_id};
use crate::blob::store::{BlobKey, BlobStore, StoreError, WalkCursor};

fn walk(store: &dyn BlobStore, page: usize) -> Vec<BlobKey> {
    let (mut keys, mut after) = (Vec::new(), None::<WalkCursor>);
    loop {
        let found = store.walk(after.as_ref(), page).unwrap();
        assert!(found.entries.len() <= page);
        for entry in &found.entries {
            assert_eq!(store.stat(&entry.key).unwrap().map(|stat| stat.size_bytes), Some(entry.size_bytes));
        }
        keys.extend(found.entries.iter().map(|entry| entry.key));
        match found.next {
            None => return keys,
            next => after = next,
        }
    }
}

fn fill(store: &dyn BlobStore, count: u128) -> BTreeSet<BlobKey> {
    (0..count).map(|i| push(store, i, &content(i as u64, if i % 3 == 0 { 70_000 } else { 3000 })).unwrap().0).collect()
}

// A walk lists each stored blob once, in pages of any size, before and after a restart; stagings aren't blobs.
pub(in crate::blob::store) fn walk_lists_all_once<S: Subject>() {
    let mut subject = S::new(&World::with(|settings| settings.segment_bytes_max = 20_000));
    assert_eq!(walk(&*subject.store(), 10), vec![]);
    let all = fill(&*subject.store(), 40);
    stage(&*subject.store(), upload_id(99), &content(99, 100_000), 100_000).unwrap();
    for _ in 0..2 {
        for page in [1, 2, 7, 1000] {
            let walked = walk(&*subject.store(), page);
            assert_eq!(walked.len(), all.len(), "pages of {page}");
            assert_eq!(walked.into_iter().collect::<BTreeSet<_>>(), all);
        }
        subject.crash();
    }
}

// A removed blob is neither found nor listed, and its space is free; removing what isn't there says so.
pub(in crate::blob::store) fn removed_is_gone<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let mut left = fill(&*store, 20);
    let gone: Vec<BlobKey> = left.iter().copied().step_by(2).collect();
    for key in gone {
        let held = store.lock(&key.digest);
        assert!(store.remove(&held, key.generation).unwrap());
        assert!(!store.remove(&held, key.generation).unwrap());
        drop(held);
        left.remove(&key);
        assert_refused!(store.open(&key), StoreError::NotFound);
    }
    assert_eq!(walk(&*store, 3).into_iter().collect::<BTreeSet<_>>(), left);
    for key in left {
        read_all(&*store, &key, 1 << 20).unwrap();
    }
}

// Compaction drops what nobody names, keeps what lives readable through it and after a restart.
pub(in crate::blob::store) fn compaction_keeps_what_lives<S: Subject>() {
    let mut subject = S::new(&World::with(|settings| settings.segment_bytes_max = 20_000));
    let store = subject.store();
    let mut keys = Vec::new();
    for i in 0..60u64 {
        let bytes = content(i, 2000);
        keys.push(push(&*store, u128::from(i), &bytes).unwrap().0);
    }
    let live: BTreeSet<BlobKey> =
        keys.iter().copied().enumerate().filter(|(i, _)| i % 4 == 0).map(|(_, k)| k).collect();
    let reader = store.open(&keys[0]).unwrap();
    let done = store.compact(100, usize::MAX, &mut |key| live.contains(key)).unwrap();
    assert!(done.dropped > 30 && done.freed_bytes > 0 && done.damaged == 0, "{done:?}");
    assert_eq!(reader.read_blocks(0, 2000).unwrap().bytes, content(0, 2000));
    drop((reader, store));
    for _ in 0..2 {
        let store = subject.store();
        for (i, key) in keys.iter().enumerate().filter(|(_, key)| live.contains(key)) {
            assert_eq!(read_all(&*store, key, 1 << 20).unwrap(), content(i as u64, 2000));
        }
        let walked = walk(&*store, 9);
        assert!(live.is_subset(&walked.iter().copied().collect()));
        assert_eq!(walked.len(), walked.iter().collect::<BTreeSet<_>>().len());
        assert!(walked.len() < 30, "most of the dead are gone: {}", walked.len());
        drop(store);
        subject.crash();
    }
}
