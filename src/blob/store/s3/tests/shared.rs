//! Several nodes on one bucket, and several lives of a cluster.

use super::*;
use crate::blob::store::suite::{content, push, read_all, upload_id};

fn doors() -> (Door, Door) {
    let server = Server::shared();
    let bucket = server.bucket();
    let open = || Door::open(&World::new(), &bucket, &server.address, u64::MAX);
    (open(), open())
}

fn remove(door: &Door, key: &BlobKey) -> bool {
    door.s3().remove(&door.s3().lock(&key.digest), key.generation).unwrap()
}

// What one node placed another one confirms, imports without bytes, reads and removes; a second upload of the same
// generation sends nothing. A door that closes takes nothing from the others.
#[test]
fn doors_to_one_object() {
    let (one, two) = doors();
    for (number, size) in [(1, 500), (2, 2_000_000)] {
        let bytes = content(number, size);
        let (key, stat) = push(one.s3(), u128::from(number), &bytes).unwrap();
        assert_eq!(two.s3().confirm(&key).unwrap(), stat);
        assert!(matches!(two.s3().import(&key, size as u64), Err(StoreError::Exists)));
        let made = std::fs::metadata(one.object(&key)).unwrap().modified().unwrap();
        assert_eq!(push(two.s3(), u128::from(number), &bytes).unwrap(), (key, stat));
        assert_eq!(std::fs::metadata(one.object(&key)).unwrap().modified().unwrap(), made, "sent twice");
        two.forget(&key);
        assert_eq!(read_all(two.s3(), &key, 70_000).unwrap(), bytes);
        assert!(two.s3().quarantine(&key).unwrap());
        assert!(matches!(two.s3().open(&key), Err(StoreError::NotFound)));
        one.forget(&key);
        assert_eq!(read_all(one.s3(), &key, 1 << 20).unwrap(), bytes);
        one.forget(&key);
        assert!(remove(&two, &key) && !remove(&two, &key));
        assert!(matches!(one.s3().open(&key), Err(StoreError::NotFound)));
    }
}

// §5.8: another lineage reads and writes and deletes nothing, until an operator lets it adopt the bucket; then the
// first one deletes nothing any more.
#[test]
fn lineages() {
    let (mut one, mut two) = doors();
    let bytes = content(1, 1000);
    let (key, _) = push(one.s3(), 1, &bytes).unwrap();
    two.restart(2);
    assert_eq!(read_all(two.s3(), &key, 1 << 20).unwrap(), bytes);
    two.forget(&key);
    let (own, _) = push(two.s3(), 2, &content(2, 1000)).unwrap();
    two.forget(&own);
    assert!(!remove(&two, &key) && !remove(&two, &own));
    assert!(one.object(&key).exists() && one.object(&own).exists());
    two.s3().adopt().unwrap();
    assert!(remove(&two, &own) && !one.object(&own).exists());
    one.restart(1);
    one.forget(&key);
    assert!(!remove(&one, &key) && one.object(&key).exists());
}

// Parts and sums of which no object came go when they are old, and only then.
#[test]
fn leftovers_go_when_they_are_old() {
    let (mut door, _) = doors();
    let (kept, _) = push(door.s3(), 1, &content(1, 2_000_000)).unwrap();
    let lost = BlobKey::new(Digest::sha256(b"lost"), upload_id(9));
    let inner = &door.s3().0;
    inner.bucket.put(&inner.sums_name(&lost), Bytes::from_static(b"sums"), true).unwrap();
    let name = inner.name(&lost);
    let id = inner.bucket.begin_parts(&name).unwrap();
    inner.bucket.send_part(&name, &id, 1, Bytes::from_static(b"part")).unwrap();
    let sums = door.object(&lost).with_extension(format!("{}.sum", lost.generation));
    let tidy = |door: &Door| {
        door.s3().expire_uploads(1 << 40, 10).unwrap();
        let page = door.s3().walk(None, 100).unwrap();
        assert_eq!(page.entries.iter().map(|entry| entry.key).collect::<Vec<_>>(), [kept]);
        (door.s3().0.bucket.open_uploads("").unwrap().len(), sums.exists())
    };
    assert_eq!(tidy(&door), (1, true));
    door.settings.parts_idle = Duration::from_millis(10);
    std::thread::sleep(Duration::from_millis(1100));
    door.restart(1);
    assert_eq!(tidy(&door), (0, false));
    assert_eq!(read_all(door.s3(), &kept, 1 << 20).unwrap(), content(1, 2_000_000));
}
