//! Slow-downs, lost answers and outages, through a proxy; damage on either side.

use std::ops::ControlFlow;

use registry_core::vocabulary::limits::BUCKET_PART_BYTES;

use super::*;
use crate::blob::store::Scrubbed;
use crate::blob::store::suite::{content, push, read_all, stage, upload_id};

/// More than a part.
const LARGE: usize = BUCKET_PART_BYTES as usize * 2 + 77;

struct Broken {
    server: Server,
    bucket: String,
}

impl Broken {
    fn new() -> Broken {
        let server = Server::start();
        let bucket = server.bucket();
        Broken { server, bucket }
    }

    fn door(&self) -> Door {
        Door::open(&World::new(), &self.bucket, &self.server.proxy, u64::MAX)
    }

    /// Names of all files of the bucket: objects, and parts that are left.
    fn files(&self) -> Vec<String> {
        let (mut found, mut left) = (Vec::new(), vec![self.server.dir.join(&self.bucket)]);
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => left.push(entry.path()),
                    false => found.push(entry.file_name().into_string().unwrap()),
                }
            }
        }
        found.sort();
        found
    }
}

fn verified(door: &Door, key: &BlobKey) -> Scrubbed {
    door.s3().verify(key, &mut |_| ControlFlow::Continue(())).unwrap()
}

// §5.8: an answer that is lost after the request was carried out is no failure and makes nothing twice; a slow-down
// is waited for. No parts stay behind.
#[test]
fn lost_answers_and_slow_downs() {
    let broken = Broken::new();
    let door = broken.door();
    let mut number = 0;
    let mut expected = vec!["owner".to_owned()];
    for size in [10, 2_000_000, LARGE] {
        for fault in [
            r#"{"kind":"lost-answer","method":"PUT","count":1}"#,
            r#"{"kind":"lost-answer","method":"POST","count":1}"#,
            r#"{"kind":"lost-answer","method":"POST","query":"uploadId","count":1}"#,
            r#"{"kind":"lost-answer","method":"PUT","query":"partNumber=2","count":1}"#,
            r#"{"kind":"lost-answer","method":"HEAD","count":1}"#,
            r#"{"kind":"slow-down","count":3}"#,
        ] {
            number += 1;
            broken.server.fault(fault);
            let bytes = content(number, size);
            let (key, _) =
                push(door.s3(), u128::from(number), &bytes).unwrap_or_else(|error| panic!("{fault}: {error}"));
            broken.server.fault(r#"{"kind":"none"}"#);
            door.forget(&key);
            assert_eq!(read_all(door.s3(), &key, 1 << 20).unwrap(), bytes, "{fault}");
            expected.push(key.file_name());
            if size > 1 << 20 {
                expected.push(format!("{}.sum", key.file_name()));
            }
        }
    }
    expected.sort();
    // a begin whose answer was lost was repeated: its first upload has no parts, and goes when it is old
    let open = door.s3().0.bucket.open_uploads("").unwrap();
    for upload in open {
        door.s3().0.bucket.abort(&upload.name, &upload.id).unwrap();
    }
    assert_eq!(broken.files(), expected);
    broken.server.ends();
}

// Show of deliver 8: while the bucket is out of reach nothing is placed and nothing lost, cached blobs are read, others
// fail soon; afterwards the same calls succeed.
#[test]
fn outage() {
    let broken = Broken::new();
    let door = broken.door();
    let cached = content(1, 3_000_000);
    let (here, _) = push(door.s3(), 1, &cached).unwrap();
    let (cold, _) = push(door.s3(), 2, &content(2, 2_000_000)).unwrap();
    door.forget(&cold);
    broken.server.fault(r#"{"kind":"outage"}"#);
    let bytes = content(3, LARGE);
    let (id, digest) = (upload_id(3), Digest::sha256(&bytes));
    stage(door.s3(), id, &bytes, 1 << 20).unwrap();
    door.s3().seal_upload(id, 1, digest).unwrap();
    for _ in 0..2 {
        assert!(matches!(door.s3().place_upload(id, digest), Err(StoreError::Unavailable { .. })));
    }
    assert_eq!(read_all(door.s3(), &here, 1 << 20).unwrap(), cached);
    let began = std::time::Instant::now();
    assert!(matches!(door.s3().open(&cold), Err(StoreError::Unavailable { .. })));
    assert!(matches!(door.s3().open(&cold), Err(StoreError::Unavailable { .. })));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(door.s3().confirm(&here).is_err());
    // what the bucket has not is not evicted
    door.s3().0.cache.settle(&here, false);
    door.s3().expire_uploads(1 << 40, 10).unwrap();
    assert_eq!(read_all(door.s3(), &here, 1 << 20).unwrap(), cached);
    broken.server.fault(r#"{"kind":"none"}"#);
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(door.s3().seal_upload(id, 1, digest).unwrap(), bytes.len() as u64);
    door.s3().place_upload(id, digest).unwrap();
    let key = BlobKey::new(digest, id);
    door.forget(&key);
    assert_eq!(read_all(door.s3(), &key, 1 << 20).unwrap(), bytes);
    door.s3().confirm(&here).unwrap();
    broken.server.ends();
}

// B6 with two places: what rotted in the cache is read from the bucket, also in the midst of a blob; what rotted in the
// bucket is made again from the cache; sums that are lost cost time only.
#[test]
fn damage_on_either_side() {
    let server = Server::shared();
    let door = Door::open(&World::new(), &server.bucket(), &server.address, u64::MAX);
    let bytes = content(1, 3_000_000);
    let (key, _) = push(door.s3(), 1, &bytes).unwrap();
    let cached = door.dir.path().join("volume/blobs").join(format!("{:02x}", key.shard())).join(key.file_name());
    let reader = door.s3().open(&key).unwrap();
    flip(&cached, 1_500_000);
    assert_eq!(reader.read_blocks(0, 10).unwrap().slice(0, 10), bytes.slice(0..10));
    assert_eq!(
        reader.read_blocks(1_500_000, 10).unwrap().slice(1_500_000, 1_500_010),
        bytes.slice(1_500_000..1_500_010)
    );
    assert_eq!(read_all(door.s3(), &key, 1 << 20).unwrap(), bytes);
    assert!(door.caches(&key), "reading it whole has cached it again");
    flip(&door.object(&key), 2_000_000);
    assert_eq!(verified(&door, &key), Scrubbed::Good { size_bytes: 3_000_000 });
    door.forget(&key);
    assert_eq!(read_all(door.s3(), &key, 1 << 20).unwrap(), bytes);
    door.forget(&key);
    std::fs::remove_file(format!("{}.sum", door.object(&key).display())).unwrap();
    assert_eq!(read_all(door.s3(), &key, 1 << 20).unwrap(), bytes);
    std::fs::remove_file(door.object(&key)).unwrap();
    assert_eq!(verified(&door, &key), Scrubbed::Good { size_bytes: 3_000_000 });
    assert!(door.object(&key).exists(), "what only the cache has is sent again");
}

// The cache stays within its bound; it evicts what was used least lately, and comes back from the bucket.
#[test]
fn cache_is_bounded() {
    let server = Server::shared();
    let mut door = Door::open(&World::new(), &server.bucket(), &server.address, 1_000_000);
    let keys: Vec<BlobKey> =
        (1..=6).map(|number| push(door.s3(), u128::from(number), &content(number, 300_000)).unwrap().0).collect();
    assert!(door.s3().0.cache.bytes() <= 1_000_000);
    assert!(!door.caches(&keys[0]) && door.caches(&keys[5]));
    // what an earlier life left is asked for before it is evicted
    door.restart(1);
    for (number, key) in (1..).zip(&keys) {
        assert_eq!(read_all(door.s3(), key, 1 << 20).unwrap(), content(number, 300_000));
    }
    assert!(door.s3().0.cache.bytes() <= 1_000_000);
}
