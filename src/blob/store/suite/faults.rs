//! Crashes and failing disks.

use std::io;

use registry_core::vocabulary::digest::{Algorithm, Digest};

use super::{Subject, World, assert_refused, content, push, read_all, stage, upload_id};
use crate::blob::store::{BlobKey, Step, StoreError};

// B5: what was placed is there, whole, after any number of crashes; what was only staged is never visible.
pub(in crate::blob::store) fn crash_keeps_what_was_placed<S: Subject>() {
    let mut subject = S::new(&World::new());
    let mut placed = Vec::new();
    for round in 0..4u128 {
        let store = subject.store();
        for i in 0..4u128 {
            let number = 10 * round + i;
            let bytes = content(number as u64, if i % 2 == 0 { 5000 } else { 150_000 });
            placed.push((push(&*store, number, &bytes).unwrap().0, bytes));
        }
        let (id, bytes) = (upload_id(1000 + round), content(1000 + round as u64, 80_000));
        stage(&*store, id, &bytes, 30_000).unwrap();
        if round % 2 == 0 {
            store.seal_upload(id, 1, Digest::sha256(&bytes)).unwrap();
        }
        drop(store);
        subject.crash();
        let store = subject.store();
        for (key, bytes) in &placed {
            assert_eq!(read_all(&*store, key, 1 << 20).unwrap(), bytes);
            store.confirm(key).unwrap();
        }
        assert_eq!(store.stat(&BlobKey::new(Digest::sha256(&bytes), id)).unwrap(), None);
        assert_eq!(store.walk(None, 1000).unwrap().entries.len(), placed.len());
    }
}

// After a crash an upload goes on from what is left of it, and the blob is right.
pub(in crate::blob::store) fn interrupted_upload_goes_on<S: Subject>() {
    let mut subject = S::new(&World::new());
    let (id, bytes) = (upload_id(1), content(4, 700_000));
    let digest = Digest::sha256(&bytes);
    subject.store().begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut rounds = 0;
    loop {
        let store = subject.store();
        let offset = match store.upload(id) {
            Ok(status) => status.offset as usize,
            Err(StoreError::UploadUnknown) => store.begin_upload(id, 1, Algorithm::Sha256).unwrap().offset as usize,
            Err(other) => panic!("{other}"),
        };
        let end = (offset + 170_000 + 20_000 * rounds).min(bytes.len());
        let mut writer = store.write_upload(id, 1).unwrap();
        writer.append(offset as u64, &[bytes.slice(offset..end)]).unwrap();
        drop(writer);
        if end == bytes.len() {
            assert_eq!(store.seal_upload(id, 1, digest).unwrap(), 700_000);
        }
        if end == bytes.len() && rounds > 5 {
            store.place_upload(id, digest).unwrap();
            assert_eq!(read_all(&*store, &BlobKey::new(digest, id), 1 << 20).unwrap(), bytes);
            return;
        }
        rounds += 1;
        assert!(rounds < 100);
        drop(store);
        subject.crash();
    }
}

// A failed sync is believed: nothing is acknowledged, the volume takes no more writes, and goes on serving reads.
pub(in crate::blob::store) fn failed_sync_ends_writes<S: Subject>() {
    for (step, size) in [(Step::FileSync, 200_000), (Step::DirSync, 200_000), (Step::PackSync, 2000)] {
        let world = World::new();
        let mut subject = S::new(&world);
        let store = subject.store();
        let good = content(1, 300_000);
        let (key, _) = push(&*store, 1, &good).unwrap();
        assert_eq!(store.health().failed, None);
        world.fail(step, io::ErrorKind::Other);
        assert_refused!(push(&*store, 2, &content(2, size)), StoreError::VolumeFailed { .. });
        assert!(store.health().failed.is_some(), "{step:?}");
        let lost = BlobKey::new(Digest::sha256(&content(2, size)), upload_id(2));
        assert_eq!(store.stat(&lost).unwrap(), None, "{step:?}");
        assert_refused!(push(&*store, 3, &content(3, 10)), StoreError::VolumeFailed { .. });
        assert_refused!(store.confirm(&key), StoreError::VolumeFailed { .. });
        assert_refused!(store.import(&key, 1), StoreError::VolumeFailed { .. });
        assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), good);
        // An operator looked, and started it again.
        drop(store);
        subject.crash();
        let store = subject.store();
        assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), good);
        push(&*store, 4, &content(4, size)).unwrap();
    }
}

// A failed write is told, leaves the staging as it was, and harms nothing else.
pub(in crate::blob::store) fn failed_write_changes_nothing<S: Subject>() {
    let world = World::new();
    let subject = S::new(&world);
    let store = subject.store();
    let (id, bytes) = (upload_id(1), content(1, 200_000));
    stage(&*store, id, &bytes.slice(..100_000), 100_000).unwrap();
    let mut writer = store.write_upload(id, 1).unwrap();
    for (kind, full) in [(io::ErrorKind::StorageFull, true), (io::ErrorKind::Other, false)] {
        world.fail(Step::StagingWrite, kind);
        let error = writer.append(100_000, &[bytes.slice(100_000..)]).unwrap_err();
        assert_eq!(matches!(error, StoreError::NoSpace), full, "{error}");
        assert_eq!(store.upload(id).unwrap().offset, 100_000);
    }
    writer.append(100_000, &[bytes.slice(100_000..)]).unwrap();
    drop(writer);
    assert_eq!(store.seal_upload(id, 1, Digest::sha256(&bytes)).unwrap(), 200_000);
    assert_eq!(store.health().failed, None);
}
