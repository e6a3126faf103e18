//! B7 on a file system that is really full: `PORTOLAN_TEST_SMALL_VOLUME` names a directory on one of 20 to 200 MiB.

use super::*;
use crate::blob::store::suite::{content, push, read_all, upload_id};

// Where no watermark stops it, a full file system refuses the append with the staging as it was, the packs too; reads
// go on, and space that comes back is used.
#[test]
#[ignore = "wants a small file system of its own"]
fn really_full() {
    let Ok(path) = std::env::var("PORTOLAN_TEST_SMALL_VOLUME") else { panic!("PORTOLAN_TEST_SMALL_VOLUME is not set") };
    let world = World::with(|settings| (settings.refuse_percent, settings.urgent_percent) = (101, 101));
    let dir = tempfile::tempdir_in(path).unwrap();
    let mut subject = Fs { dir, store: None, world };
    subject.crash();
    let store = subject.store();
    let ballast = content(1, 8 << 20);
    let (ballast_key, _) = push(&*store, 1, &ballast).unwrap();
    let (id, part) = (upload_id(2), content(2, 1 << 20));
    store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
    let mut writer = store.write_upload(id, 1).unwrap();
    let mut parts = 0;
    let refused = loop {
        match writer.append(parts << 20, std::slice::from_ref(&part)) {
            Ok(_) => parts += 1,
            Err(error) => break error,
        }
        assert!(parts < 300, "not a small volume");
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert_eq!((writer.offset(), store.upload(id).unwrap().offset), (parts << 20, parts << 20));
    // The last pages go to small blobs, until they are refused as clearly.
    let mut small = Vec::new();
    let refused = loop {
        let bytes = content(small.len() as u64, 60_000);
        match store.put(&BlobKey::new(Digest::sha256(&bytes), upload_id(100 + small.len() as u128)), &bytes) {
            Ok(_) => small.push(bytes),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert_eq!(read_all(&*store, &ballast_key, 1 << 20).unwrap(), ballast);
    assert!(store.remove(&store.lock(&ballast_key.digest), ballast_key.generation).unwrap());
    for _ in 0..3 {
        writer.append(parts << 20, std::slice::from_ref(&part)).unwrap();
        parts += 1;
    }
    drop(writer);
    let whole = Bytes::from(part.repeat(parts as usize));
    let digest = Digest::sha256(&whole);
    store.seal_upload(id, 1, digest).unwrap();
    store.place_upload(id, digest).unwrap();
    assert_eq!(store.health().failed, None);
    drop(store);
    subject.crash();
    assert_eq!(read_all(&*subject.store(), &BlobKey::new(digest, id), 1 << 20).unwrap(), whole);
    for (number, bytes) in small.iter().enumerate() {
        let key = BlobKey::new(Digest::sha256(bytes), upload_id(100 + number as u128));
        assert_eq!(read_all(&*subject.store(), &key, 1 << 20).unwrap(), bytes);
    }
}
