//! Which volumes are opened, and how.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::blob::store::suite::{content, push, read_all, stage, upload_id};

fn open(root: &Path, cluster: ClusterId, identity: Identity) -> Result<StoreId, OpenError> {
    FsStore::open(root, cluster, identity, World::new().options()).map(|store| store.store_id())
}

macro_rules! assert_open_refused {
    ($result:expr, $pattern:pat) => {
        let result = $result;
        assert!(matches!(result, Err($pattern)), "expected {}, got {result:?}", stringify!($pattern));
    };
}

// A volume is opened by the store it belongs to and refused when it is missing, empty, swapped, foreign, in use,
// unreadable, or full of something else.
#[test]
fn identity() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a");
    let (known, first) = (Identity::Known(STORE), Identity::FirstUse(STORE));
    assert_open_refused!(open(&root, CLUSTER, known), OpenError::MarkerMissing { .. });
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(root.join("lost+found")).unwrap();
    assert_open_refused!(open(&root, CLUSTER, known), OpenError::MarkerMissing { .. });
    assert_eq!(open(&root, CLUSTER, first).unwrap(), STORE);
    assert_eq!(open(&root, CLUSTER, known).unwrap(), STORE);
    // Found again by a node that was killed before it could register it.
    assert_eq!(open(&root, CLUSTER, Identity::FirstUse(StoreId(5))).unwrap(), STORE);
    assert_open_refused!(open(&root, CLUSTER, Identity::Known(StoreId(5))), OpenError::WrongStore { .. });
    assert_open_refused!(open(&root, ClusterId(78), known), OpenError::ForeignCluster { .. });
    let held = FsStore::open(&root, CLUSTER, known, World::new().options()).unwrap();
    assert_open_refused!(open(&root, CLUSTER, known), OpenError::InUse { .. });
    drop(held);
    assert_eq!(open(&root, CLUSTER, known).unwrap(), STORE);

    let full = dir.path().join("b");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("thesis.tex"), "").unwrap();
    assert_open_refused!(open(&full, CLUSTER, first), OpenError::NotEmpty { .. });
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1, "nothing was put beside it");

    for text in ["", "format = 2\nstore = \"0000000000000abc\"\ncluster = \"0000000000000000000000000000004d\"", "\0"] {
        std::fs::write(root.join("store.toml"), text).unwrap();
        assert_open_refused!(open(&root, CLUSTER, known), OpenError::Marker { .. });
    }
}

// Only the owner may look into the directories, also when they were made by hand.
#[test]
fn private() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volume");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    open(&root, CLUSTER, Identity::FirstUse(STORE)).unwrap();
    for name in ["", "blobs", "blobs/00", "blobs/ff", "staging", "pack", "quarantine"] {
        let mode = std::fs::metadata(root.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
}

// B13: a link in place of the root, a directory, a blob, its sums or a staging is never followed.
#[test]
fn links_are_not_followed() {
    let mut subject = Fs::new(&World::new());
    let outside = subject.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();

    let bytes = content(1, 100_000);
    let (key, _) = push(&*subject.store(), 1, &bytes).unwrap();
    let file = subject.file(&key);
    std::fs::rename(&file, outside.join("blob")).unwrap();
    symlink(outside.join("blob"), &file).unwrap();
    let error = subject.store().open(&key).err().unwrap();
    assert!(error.is_damage(), "{error}");
    assert!(subject.store().quarantine(&key).unwrap());
    assert_eq!(std::fs::read(outside.join("blob")).unwrap(), bytes, "the link went, not what it named");

    stage(&*subject.store(), upload_id(2), &bytes, 100_000).unwrap();
    let staging = subject.staging(&upload_id(2).to_string());
    std::fs::rename(&staging, outside.join("staging")).unwrap();
    symlink(outside.join("staging"), &staging).unwrap();
    assert!(subject.store().write_upload(upload_id(2), 1).is_err());
    subject.crash();
    assert!(matches!(subject.store().upload(upload_id(2)), Err(StoreError::UploadUnknown)));
    assert_eq!(std::fs::read(outside.join("staging")).unwrap(), bytes);

    subject.stop();
    let root = subject.root();
    for name in ["blobs/00", "pack", "staging"] {
        let path = root.join(name);
        let kept = root.join("kept");
        std::fs::rename(&path, &kept).unwrap();
        symlink(&outside, &path).unwrap();
        assert_open_refused!(open(&root, CLUSTER, Identity::Known(STORE)), OpenError::Store(_));
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&kept, &path).unwrap();
    }
    let link = subject.dir.path().join("link");
    symlink(&root, &link).unwrap();
    assert_open_refused!(open(&link, CLUSTER, Identity::Known(STORE)), OpenError::Store(_));
    assert_eq!(open(&root, CLUSTER, Identity::Known(STORE)).unwrap(), STORE);
}

// What a crash leaves half done is freed: copies on their way in, sums without a blob, notes without an upload, a
// staging whose epoch cannot be known, and one that shares its bytes with a blob.
#[test]
fn left_overs_are_freed() {
    let mut subject = Fs::new(&World::with(|settings| settings.capacity_bytes = Some(100 << 20)));
    let bytes = content(1, 100_000);
    let (key, _) = push(&*subject.store(), 1, &bytes).unwrap();
    let free = subject.store().usage().unwrap().free_bytes;
    for number in [2, 3] {
        subject.store().begin_upload(upload_id(number), 4, Algorithm::Sha512).unwrap();
    }
    subject.stop();
    let orphan = subject.file(&key).with_file_name(BlobKey::new(key.digest, upload_id(9)).file_name() + ".sum");
    std::fs::write(&orphan, "sums").unwrap();
    std::fs::write(subject.file(&key).with_file_name(key.file_name() + ".sum.new"), "half").unwrap();
    std::fs::write(subject.staging(&format!("{}.part", key.file_name())), "half a copy").unwrap();
    std::fs::write(subject.staging(&format!("{}.note", upload_id(8))), "nobody's").unwrap();
    std::fs::write(subject.staging("junk"), "junk").unwrap();
    std::fs::hard_link(subject.file(&key), subject.staging(&upload_id(7).to_string())).unwrap();
    flip(&subject.staging(&format!("{}.note", upload_id(3))), 9);
    subject.crash();
    let store = subject.store();
    let staged: Vec<UploadId> = store.uploads(None, 10).iter().map(|status| status.id).collect();
    assert_eq!(staged, [upload_id(2)]);
    assert_eq!(store.upload(upload_id(2)).unwrap().epoch, 4);
    assert_eq!(read_all(&*store, &key, 1 << 20).unwrap(), bytes);
    store.discard_upload(upload_id(2)).unwrap();
    assert_eq!(std::fs::read_dir(subject.root().join("staging")).unwrap().count(), 0);
    assert_eq!(store.walk(None, 100).unwrap().entries.len(), 1);
    assert!(!orphan.exists());
    drop(store);
    subject.crash();
    assert_eq!(subject.store().usage().unwrap().free_bytes, free);
}
