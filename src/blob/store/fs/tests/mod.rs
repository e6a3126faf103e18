//! The suite on a file system, and what only a file system can get wrong.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use registry_core::vocabulary::ids::{ClusterId, StoreId};

use super::*;
use crate::blob::store::Home;
use crate::blob::store::suite::{Subject, World, blob_store_suite};

mod damage;
mod kill;
mod model;
mod opening;
mod small_volume;
mod stopped;
mod throughput;

const CLUSTER: ClusterId = ClusterId(77);
const STORE: StoreId = StoreId(0xabc);

struct Fs {
    dir: tempfile::TempDir,
    store: Option<Arc<FsStore>>,
    world: World,
}

impl Fs {
    fn root(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn staging(&self, name: &str) -> PathBuf {
        self.root().join("staging").join(name)
    }

    /// The segments of the packs, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root().join("pack")).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn stop(&mut self) {
        self.store = None;
    }

    fn file(&self, key: &BlobKey) -> PathBuf {
        self.root().join("blobs").join(format!("{:02x}", key.shard())).join(key.file_name())
    }
}

impl Subject for Fs {
    fn new(world: &World) -> Fs {
        let dir = tempfile::tempdir().unwrap();
        let mut subject = Fs { dir, store: None, world: world.clone() };
        subject.crash();
        subject
    }

    fn store(&self) -> Arc<dyn BlobStore> {
        Arc::clone(self.store.as_ref().unwrap()) as Arc<dyn BlobStore>
    }

    fn crash(&mut self) {
        self.store = None;
        let open = || FsStore::open(&self.root(), CLUSTER, Identity::FirstUse(STORE), self.world.options());
        let mut opened = open();
        while matches!(opened, Err(OpenError::InUse { .. })) {
            // Another test has just forked: until its child executes, it holds our descriptors too.
            std::thread::sleep(std::time::Duration::from_millis(1));
            opened = open();
        }
        self.store = Some(Arc::new(opened.unwrap()));
    }

    fn damage(&self, key: &BlobKey, offset: u64) {
        let store = self.store.as_ref().unwrap();
        match store.stat(key).unwrap().unwrap().home {
            Home::File => flip(&self.file(key), offset),
            Home::Pack => {
                let (segment, at) = store.0.packs.find_bytes(key).unwrap();
                flip(&self.root().join("pack").join(segment), at + offset);
            }
        }
    }
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

mod suite {
    use super::*;
    blob_store_suite!(Fs);
}
