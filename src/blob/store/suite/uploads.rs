//! Uploads: offsets, writers, epochs, seals.

use bytes::Bytes;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

use super::{SIZES, Subject, World, assert_refused, content, push, read_all, stage, upload_id};
use crate::blob::store::{BlobKey, StoreError, UploadPhase};

// Whatever was appended, in whatever cuts, comes back byte for byte; repeating seal or place only confirms.
pub(in crate::blob::store) fn pushed_bytes_come_back<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let mut number = 0;
    for size in SIZES {
        for step in [5000, 65_536, 1 << 20] {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                number += 1;
                let (id, bytes) = (upload_id(number), content(number as u64, size));
                let digest = Digest::of(algorithm, &bytes);
                store.begin_upload(id, 1, algorithm).unwrap();
                stage(&*store, id, &bytes, step).unwrap();
                assert_eq!(store.upload(id).unwrap().offset, size as u64);
                assert_eq!(store.stat(&BlobKey::new(digest, id)).unwrap(), None, "invisible before it is placed");
                assert_eq!(store.seal_upload(id, 1, digest).unwrap(), size as u64);
                assert_eq!(store.seal_upload(id, 1, digest).unwrap(), size as u64);
                assert_eq!(store.upload(id).unwrap().phase, UploadPhase::Sealed(digest));
                let stat = store.place_upload(id, digest).unwrap();
                assert_eq!(stat.size_bytes, size as u64);
                assert_eq!(store.place_upload(id, digest).unwrap(), stat);
                assert_eq!(store.seal_upload(id, 1, digest).unwrap(), size as u64);
                assert_refused!(store.upload(id), StoreError::UploadUnknown);
                // The same again, from the beginning: confirmed, and nothing is left of it.
                stage(&*store, id, &bytes, step).unwrap();
                store.seal_upload(id, 1, digest).unwrap();
                assert_eq!(store.place_upload(id, digest).unwrap(), stat);
                assert_refused!(store.upload(id), StoreError::UploadUnknown);
                let key = BlobKey::new(digest, id);
                assert_eq!(store.stat(&key).unwrap(), Some(stat));
                assert_eq!(store.confirm(&key).unwrap(), stat);
                assert_eq!(read_all(&*store, &key, 100_000).unwrap(), bytes, "{size} by {step}");
            }
        }
    }
    assert_eq!(store.usage().unwrap().uploads, 0);
}

// B4: bytes that hash to something else are refused, nothing is readable and the bytes are freed at once.
pub(in crate::blob::store) fn wrong_digest_frees<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.capacity_bytes = Some(10 << 20)));
    let store = subject.store();
    let free = store.usage().unwrap().free_bytes;
    for (number, size) in [(1, 10), (2, 500_000)] {
        let (id, bytes) = (upload_id(number), content(1, size));
        let wrong = Digest::sha256(b"something else");
        stage(&*store, id, &bytes, 100_000).unwrap();
        match store.seal_upload(id, 1, wrong) {
            Err(StoreError::DigestMismatch { actual }) => assert_eq!(actual, Digest::sha256(&bytes)),
            other => panic!("{other:?}"),
        }
        assert_refused!(store.upload(id), StoreError::UploadUnknown);
        assert_refused!(store.place_upload(id, wrong), StoreError::UploadUnknown);
        assert_refused!(store.open(&BlobKey::new(wrong, id)), StoreError::NotFound);
        assert_refused!(store.open(&BlobKey::new(Digest::sha256(&bytes), id)), StoreError::NotFound);
    }
    assert_eq!(store.usage().unwrap().free_bytes, free);
}

// B2: bytes are taken exactly where the staging ends; a gap or a repeat is told the true offset and changes nothing.
pub(in crate::blob::store) fn offsets_are_exact<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let (id, bytes) = (upload_id(1), content(3, 1000));
    store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut writer = store.write_upload(id, 1).unwrap();
    assert_eq!(writer.append(0, &[bytes.slice(..400)]).unwrap(), 400);
    for wrong in [0, 399, 401, u64::MAX] {
        match writer.append(wrong, &[bytes.slice(..100)]) {
            Err(StoreError::OffsetMismatch { expected }) => assert_eq!(expected, 400),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(writer.append(400, &[]).unwrap(), 400, "a chunk of nothing is harmless");
    assert_eq!(writer.append(400, &[Bytes::new(), bytes.slice(400..401), bytes.slice(401..)]).unwrap(), 1000);
    drop(writer);
    assert_eq!(store.seal_upload(id, 1, Digest::sha256(&bytes)).unwrap(), 1000);
}

// B3: an upload has one writer; a second one, a seal and a place are told so and disturb nothing.
pub(in crate::blob::store) fn one_writer<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let (id, bytes) = (upload_id(1), content(3, 100));
    let digest = Digest::sha256(&bytes);
    store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut writer = store.write_upload(id, 1).unwrap();
    assert_refused!(store.write_upload(id, 1), StoreError::Busy);
    assert_refused!(store.seal_upload(id, 1, digest), StoreError::Busy);
    assert_refused!(store.place_upload(id, digest), StoreError::Busy);
    writer.append(0, std::slice::from_ref(&bytes)).unwrap();
    drop(writer);
    assert_refused!(store.place_upload(id, digest), StoreError::NotSealed);
    let writer = store.write_upload(id, 1).unwrap();
    assert_eq!(writer.offset(), 100);
    drop(writer);
    assert_eq!(store.seal_upload(id, 1, digest).unwrap(), 100);
    assert_refused!(store.write_upload(upload_id(2), 1), StoreError::UploadUnknown);
}

// A noted epoch shuts out every older one, the writer at work included; no byte of it is taken afterwards.
pub(in crate::blob::store) fn epochs_fence<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let (id, bytes) = (upload_id(1), content(3, 100));
    store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut old = store.write_upload(id, 1).unwrap();
    old.append(0, &[bytes.slice(..50)]).unwrap();
    let status = store.note_epoch(id, 3).unwrap();
    assert_eq!((status.epoch, status.offset), (3, 50));
    assert_refused!(old.append(50, &[bytes.slice(50..)]), StoreError::Fenced { current: 3 });
    assert_refused!(old.truncate(0), StoreError::Fenced { current: 3 });
    let mut new = store.write_upload(id, 3).unwrap();
    drop(old);
    assert_refused!(store.write_upload(id, 3), StoreError::Busy);
    new.append(50, &[bytes.slice(50..)]).unwrap();
    drop(new);
    let digest = Digest::sha256(&bytes);
    for old in [0, 1, 2] {
        assert_refused!(store.begin_upload(id, old, Algorithm::Sha256), StoreError::Fenced { current: 3 });
        assert_refused!(store.note_epoch(id, old), StoreError::Fenced { current: 3 });
        assert_refused!(store.write_upload(id, old), StoreError::Fenced { current: 3 });
        assert_refused!(store.read_upload(id, old, 0, 1), StoreError::Fenced { current: 3 });
        assert_refused!(store.seal_upload(id, old, digest), StoreError::Fenced { current: 3 });
    }
    assert_eq!(store.note_epoch(id, 3).unwrap().epoch, 3);
    // A verb that comes with a newer epoch notes it first.
    drop(store.write_upload(id, 4).unwrap());
    assert_refused!(store.write_upload(id, 3), StoreError::Fenced { current: 4 });
    assert_eq!(store.seal_upload(id, 4, digest).unwrap(), 100);
}

// A noted epoch outlives the process, also for an upload that began under it.
pub(in crate::blob::store) fn epochs_survive_a_crash<S: Subject>() {
    let mut subject = S::new(&World::new());
    let store = subject.store();
    store.begin_upload(upload_id(1), 1, Algorithm::Sha256).unwrap();
    store.note_epoch(upload_id(1), 5).unwrap();
    store.begin_upload(upload_id(2), 6, Algorithm::Sha512).unwrap();
    drop(store);
    subject.crash();
    let store = subject.store();
    for (number, epoch, algorithm) in [(1, 5, Algorithm::Sha256), (2, 6, Algorithm::Sha512)] {
        // A power cut may take the staging, but never the fence of one that is still there.
        if let Ok(status) = store.upload(upload_id(number)) {
            assert_eq!((status.epoch, status.algorithm), (epoch, algorithm));
            assert_refused!(store.write_upload(upload_id(number), epoch - 1), StoreError::Fenced { .. });
        }
    }
}

// Going back to any offset and sending the rest again gives the blob, as if nothing had happened.
pub(in crate::blob::store) fn truncate_anywhere<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let bytes = content(9, 400_000);
    for (number, target) in [0, 1, 65_535, 65_536, 70_000, 131_072, 399_999, 400_000].into_iter().enumerate() {
        for reopen in [false, true] {
            let id = upload_id(2 * number as u128 + u128::from(reopen));
            stage(&*store, id, &bytes, 90_000).unwrap();
            let mut writer = store.write_upload(id, 1).unwrap();
            assert_refused!(writer.truncate(400_001), StoreError::OffsetMismatch { expected: 400_000 });
            writer.truncate(target as u64).unwrap();
            assert_eq!(writer.offset(), target as u64);
            if reopen {
                drop(writer);
                writer = store.write_upload(id, 1).unwrap();
            }
            writer.append(target as u64, &[bytes.slice(target..)]).unwrap();
            drop(writer);
            let digest = Digest::sha256(&bytes);
            store.seal_upload(id, 1, digest).unwrap();
            store.place_upload(id, digest).unwrap();
            assert_eq!(read_all(&*store, &BlobKey::new(digest, id), 1 << 20).unwrap(), bytes, "back to {target}");
        }
    }
}

// After a seal no byte is taken at any epoch, and another digest is refused without harm.
pub(in crate::blob::store) fn sealed_takes_no_bytes<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let (id, bytes) = (upload_id(1), content(3, 100_000));
    let digest = Digest::sha256(&bytes);
    stage(&*store, id, &bytes, 50_000).unwrap();
    store.seal_upload(id, 1, digest).unwrap();
    for epoch in [1, 2] {
        assert_refused!(store.write_upload(id, epoch), StoreError::Sealed);
    }
    let other = Digest::sha256(b"other");
    assert_refused!(store.seal_upload(id, 2, other), StoreError::DigestMismatch { .. });
    assert_refused!(store.place_upload(id, other), StoreError::DigestMismatch { .. });
    store.note_epoch(id, 9).unwrap();
    store.place_upload(id, digest).unwrap();
    assert_eq!(read_all(&*store, &BlobKey::new(digest, id), 1 << 20).unwrap(), bytes);
}

// The digest may be of another algorithm than the one hashed while streaming.
pub(in crate::blob::store) fn other_algorithm_at_the_seal<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    for (number, size) in [(1, 100), (2, 300_000)] {
        let (id, bytes) = (upload_id(number), content(3, size));
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        stage(&*store, id, &bytes, 70_000).unwrap();
        assert_eq!(store.seal_upload(id, 1, digest).unwrap(), size as u64);
        store.place_upload(id, digest).unwrap();
        assert_eq!(read_all(&*store, &BlobKey::new(digest, id), 1 << 20).unwrap(), bytes);
    }
}

// A discard frees the bytes and ends the writer; what was placed stays.
pub(in crate::blob::store) fn discard_ends_everything<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.capacity_bytes = Some(10 << 20)));
    let store = subject.store();
    let free = store.usage().unwrap().free_bytes;
    let (id, bytes) = (upload_id(1), content(3, 300_000));
    store.begin_upload(id, 2, Algorithm::Sha256).unwrap();
    let mut writer = store.write_upload(id, 2).unwrap();
    writer.append(0, std::slice::from_ref(&bytes)).unwrap();
    assert!(store.discard_upload(id).unwrap());
    assert_refused!(writer.append(300_000, std::slice::from_ref(&bytes)), StoreError::UploadUnknown);
    drop(writer);
    assert!(!store.discard_upload(id).unwrap());
    assert_eq!(store.usage().unwrap().free_bytes, free);
    // The id can begin again, at any epoch: nothing is left of it.
    assert_eq!(store.begin_upload(id, 1, Algorithm::Sha256).unwrap().offset, 0);
    assert!(store.discard_upload(id).unwrap());
    let (key, _) = push(&*store, 1, &bytes).unwrap();
    assert!(!store.discard_upload(id).unwrap());
    assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), bytes);
}

// B8: uploads that nobody touched for the time given go, sealed or not; one with a writer stays.
pub(in crate::blob::store) fn idle_uploads_expire<S: Subject>() {
    let world = World::new();
    let subject = S::new(&world);
    let store = subject.store();
    let bytes = content(1, 1000);
    for number in 1..=4 {
        stage(&*store, upload_id(number), &bytes, 1000).unwrap();
    }
    store.seal_upload(upload_id(2), 1, Digest::sha256(&bytes)).unwrap();
    let writer = store.write_upload(upload_id(3), 1).unwrap();
    world.pass(100);
    drop(store.write_upload(upload_id(4), 1).unwrap());
    assert_eq!(store.expire_uploads(101, 100).unwrap(), vec![]);
    world.pass(1);
    assert_eq!(store.expire_uploads(101, 100).unwrap(), vec![upload_id(1), upload_id(2)]);
    assert_refused!(store.upload(upload_id(1)), StoreError::UploadUnknown);
    drop(writer);
    world.pass(100);
    assert_eq!(store.expire_uploads(101, 1).unwrap(), vec![upload_id(3)]);
    assert_eq!(store.expire_uploads(101, 1).unwrap(), vec![upload_id(4)]);
    assert_eq!(store.usage().unwrap().uploads, 0);
}

// Every staged upload is listed once, in pages of any size.
pub(in crate::blob::store) fn listed_in_pages<S: Subject>() {
    let subject = S::new(&World::new());
    let store = subject.store();
    let ids: Vec<UploadId> = (0..23).map(|number| UploadId { tick: number % 3, random: u128::from(number) }).collect();
    for id in &ids {
        store.begin_upload(*id, 1, Algorithm::Sha256).unwrap();
    }
    let mut sorted = ids;
    sorted.sort();
    for page in [1, 7, 100] {
        let mut listed = Vec::new();
        loop {
            let more = store.uploads(listed.last().copied(), page);
            assert!(more.len() <= page);
            if more.is_empty() {
                break;
            }
            listed.extend(more.iter().map(|status| status.id));
        }
        assert_eq!(listed, sorted);
    }
}

// A survivor's prefix can be copied to a new partner, which then hashes to the same.
pub(in crate::blob::store) fn prefix_can_be_copied<S: Subject>() {
    let (from, to) = (S::new(&World::new()), S::new(&World::new()));
    let (from, to) = (from.store(), to.store());
    let (id, bytes) = (upload_id(1), content(3, 2_500_000));
    stage(&*from, id, &bytes.slice(..1_700_003), 400_000).unwrap();
    from.note_epoch(id, 2).unwrap();
    to.begin_upload(id, 2, Algorithm::Sha256).unwrap();
    let mut writer = to.write_upload(id, 2).unwrap();
    loop {
        let part = from.read_upload(id, 2, writer.offset(), usize::MAX).unwrap();
        if part.is_empty() {
            break;
        }
        writer.append(writer.offset(), &[part]).unwrap();
    }
    assert_eq!(writer.offset(), 1_700_003);
    writer.append(1_700_003, &[bytes.slice(1_700_003..)]).unwrap();
    drop(writer);
    assert_eq!(to.seal_upload(id, 2, Digest::sha256(&bytes)).unwrap(), 2_500_000);
}
