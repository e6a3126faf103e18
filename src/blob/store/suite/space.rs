//! Full volumes: clear refusals, nothing lost, recovery by itself.

use registry_core::vocabulary::digest::{Algorithm, Digest};

use super::{Subject, World, assert_refused, content, push, read_all, stage, upload_id};
use crate::blob::store::{BlobKey, BlobStore, Pressure, StoreError};

const CAPACITY: u64 = 10 << 20;

fn pressure(store: &dyn BlobStore) -> Pressure {
    store.usage().unwrap().pressure
}

// B7: from 85 % the store asks for no placements, from 92 % it refuses uploads, from 95 % imports; reads and removes go
// on, and room made is room to write.
pub(in crate::blob::store) fn watermarks<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.capacity_bytes = Some(CAPACITY)));
    let store = subject.store();
    let mut number = 0;
    let mut fill = |to_percent: u64| {
        number += 1;
        let used = CAPACITY - store.usage().unwrap().free_bytes;
        let bytes = content(number, (CAPACITY * to_percent / 100 - used) as usize);
        let key = BlobKey::new(Digest::sha256(&bytes), upload_id(u128::from(number)));
        let mut import = store.import(&key, bytes.len() as u64).unwrap();
        import.append(&[bytes]).unwrap();
        import.finish().unwrap();
        key
    };
    assert_eq!(pressure(&*store), Pressure::None);
    let first = fill(86);
    assert_eq!(pressure(&*store), Pressure::Full);
    let small = content(50, 10);
    store.put(&BlobKey::new(Digest::sha256(&small), upload_id(50)), &small).unwrap();
    stage(&*store, upload_id(51), &small, 10).unwrap();
    let second = fill(93);
    assert_eq!(pressure(&*store), Pressure::Refuse);
    assert_refused!(
        store.begin_upload(upload_id(60), 1, Algorithm::Sha256),
        StoreError::Full { limit_percent: 92, .. }
    );
    let other = content(61, 10);
    let other_key = BlobKey::new(Digest::sha256(&other), upload_id(61));
    assert_refused!(store.put(&other_key, &other), StoreError::Full { limit_percent: 92, .. });
    // What has begun may end.
    store.seal_upload(upload_id(51), 1, Digest::sha256(&small)).unwrap();
    store.place_upload(upload_id(51), Digest::sha256(&small)).unwrap();
    fill(96);
    assert_eq!(pressure(&*store), Pressure::Urgent);
    assert_refused!(store.import(&other_key, 10), StoreError::Full { limit_percent: 95, .. });
    read_all(&*store, &first, 1 << 20).unwrap();
    for key in [first, second] {
        assert!(store.remove(&store.lock(&key.digest), key.generation).unwrap());
    }
    assert_eq!(pressure(&*store), Pressure::None);
    store.put(&other_key, &other).unwrap();
}

// B7: an append for which there is no room is refused whole; the staging ends where it ended, and goes on once there
// is room again.
pub(in crate::blob::store) fn no_space_in_the_middle<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.capacity_bytes = Some(CAPACITY)));
    let store = subject.store();
    let (big, _) = push(&*store, 1, &content(1, 6 << 20)).unwrap();
    let (id, bytes) = (upload_id(2), content(2, 5 << 20));
    store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut writer = store.write_upload(id, 1).unwrap();
    let mut offset = 0;
    let refused = loop {
        let part = bytes.slice(offset as usize..(offset as usize + (1 << 20)).min(bytes.len()));
        match writer.append(offset, &[part]) {
            Ok(end) => offset = end,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert_eq!(writer.offset(), offset);
    assert_eq!(store.upload(id).unwrap().offset, offset);
    read_all(&*store, &big, 1 << 20).unwrap();
    assert!(store.remove(&store.lock(&big.digest), big.generation).unwrap());
    writer.append(offset, &[bytes.slice(offset as usize..)]).unwrap();
    drop(writer);
    let digest = Digest::sha256(&bytes);
    store.seal_upload(id, 1, digest).unwrap();
    store.place_upload(id, digest).unwrap();
    assert_eq!(read_all(&*store, &BlobKey::new(digest, id), 1 << 20).unwrap(), bytes);
}

// B8: no more uploads are staged than the setting says; each one that ends makes room for another.
pub(in crate::blob::store) fn uploads_are_bounded<S: Subject>() {
    let subject = S::new(&World::with(|settings| settings.uploads_max = 3));
    let store = subject.store();
    for number in 0..3 {
        store.begin_upload(upload_id(number), 1, Algorithm::Sha256).unwrap();
    }
    assert_refused!(store.begin_upload(upload_id(9), 1, Algorithm::Sha256), StoreError::TooManyUploads { max: 3 });
    store.begin_upload(upload_id(1), 1, Algorithm::Sha256).unwrap();
    store.discard_upload(upload_id(1)).unwrap();
    store.begin_upload(upload_id(9), 1, Algorithm::Sha256).unwrap();
}
