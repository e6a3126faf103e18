use registry_core::vocabulary::ids::{ClusterId, StoreId, UploadId};

use super::*;
use crate::blob::store::Options;
use crate::blob::store::fs::{FsStore, Identity};

fn store(dir: &std::path::Path) -> FsStore {
    let options = Options::new(Arc::new(|| 7));
    FsStore::open(dir, ClusterId(1), Identity::FirstUse(StoreId(1)), options).unwrap()
}

fn put(store: &FsStore, number: u128, bytes: &[u8]) -> BlobKey {
    let key = BlobKey::new(Digest::sha256(bytes), UploadId { tick: 0, random: number });
    store.put(&key, bytes).unwrap();
    key
}

// Only what no command can name again goes: deleted if somebody said so, set aside if nobody knows why it is here.
#[test]
fn fates() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let all = [Fate::Named, Fate::Extra, Fate::Pending, Fate::Closed, Fate::Expired];
    let keys: Vec<BlobKey> = (0u8..).zip(all).map(|(number, _)| put(&store, number.into(), &[number])).collect();
    let (held, busy) = lock(&store, keys.clone()).unwrap();
    assert!(busy.is_empty());
    let freed = Freed::new();
    assert_eq!(free(&store, held.into_iter().zip(all).collect(), &freed).unwrap(), 2);
    let here: Vec<bool> = keys.iter().map(|key| store.stat(key).unwrap().is_some()).collect();
    assert_eq!(here, [true, true, true, false, false]);
    assert_eq!((freed.files(), freed.bytes(), freed.quarantined()), (1, 1, 1));
    assert_eq!(std::fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
}

// A digest that somebody works on is left for later; what is not here is nobody's business.
#[test]
fn busy_digests_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (one, two) = (put(&store, 1, b"one"), put(&store, 2, b"two"));
    let absent = BlobKey::new(one.digest, UploadId { tick: 0, random: 9 });
    let placing = store.lock(&one.digest);
    let (held, busy) = lock(&store, vec![one, two]).unwrap();
    assert_eq!((held.len(), busy), (1, vec![one]));
    drop((placing, held));
    assert!(lock(&store, vec![absent]).unwrap().0.is_empty());
}
