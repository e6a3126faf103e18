//! The suite on a real S3 server, twice: with room in the cache, and with none, where every read comes from the bucket.
//! Then what only a bucket can get wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::blob::store::suite::{Subject, World, blob_store_suite};

mod faults;
mod shared;

const CLUSTER: ClusterId = ClusterId(77);
const KEY: (&str, &str) = ("portolan", "portolan-secret");

/// A server over a directory, and a proxy before it that breaks on demand. Ends with this process.
struct Server {
    /// Its input keeps the server up.
    child: Child,
    dir: PathBuf,
    address: String,
    proxy: String,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap().keep();
        let free = || TcpListener::bind("127.0.180.1:0").unwrap().local_addr().unwrap().to_string();
        let (address, proxy) = (free(), free());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/serve.sh");
        // the directory goes when the server has ended, which it does when this process has
        let command = "\"$0\" \"$@\"; rm -rf \"$2\"";
        let mut child = Command::new("bash")
            .args(["-c", command, script, &address, dir.to_str().unwrap(), &proxy])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Server { child, dir, address, proxy }
    }

    /// The server that all tests share, each with a bucket of its own.
    fn shared() -> &'static Server {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Server::start)
    }

    /// Tells the proxy what to break.
    fn fault(&self, fault: &str) {
        self.control("POST /-/fault", fault);
    }

    fn control(&self, line: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.proxy).unwrap();
        let length = body.len();
        write!(stream, "{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// A new bucket.
    fn bucket(&self) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("bucket-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(self.dir.join(&name)).unwrap();
        name
    }

    fn ends(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn address(endpoint: &str, bucket: &str) -> BucketAddress {
    BucketAddress {
        endpoint: Some(format!("http://{endpoint}")),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
        prefix: "registry/".to_owned(),
        path_style: true,
        access_key: KEY.0.to_owned(),
        secret_key: Secret::new(KEY.1.to_owned()),
    }
}

/// A node's door to a bucket.
struct Door {
    dir: tempfile::TempDir,
    bucket: String,
    address: BucketAddress,
    settings: BucketSettings,
    store: Option<Arc<S3Store>>,
    world: World,
}

impl Door {
    fn open(world: &World, bucket: &str, endpoint: &str, cache_bytes: u64) -> Door {
        let settings = BucketSettings {
            cache_bytes,
            cache_percent: 100,
            parts_idle: Duration::from_secs(3600),
            scrub_percent: 100,
        };
        let mut door = Door {
            dir: tempfile::tempdir().unwrap(),
            bucket: bucket.to_owned(),
            address: address(endpoint, bucket),
            settings,
            store: None,
            world: world.clone(),
        };
        door.restart(1);
        door
    }

    /// Starts again on what is left, in a lineage.
    fn restart(&mut self, lineage: u64) {
        self.store = None;
        let open = || {
            let at = (&self.address, self.settings.clone());
            let identity = Identity::FirstUse(StoreId(0xabc));
            S3Store::open(&self.dir.path().join("volume"), CLUSTER, identity, self.world.options(), at)
        };
        let mut opened = open();
        while matches!(opened, Err(OpenError::InUse { .. })) {
            // Another test has just forked: until its child executes, it holds our descriptors too.
            std::thread::sleep(Duration::from_millis(1));
            opened = open();
        }
        let store = opened.unwrap();
        store.set_lineage(move || Lineage(lineage));
        self.store = Some(Arc::new(store));
    }

    fn s3(&self) -> &S3Store {
        self.store.as_ref().unwrap()
    }

    /// The file in which the server keeps an object.
    fn object(&self, key: &BlobKey) -> PathBuf {
        Server::shared().dir.join(&self.bucket).join(self.s3().0.name(key))
    }

    fn caches(&self, key: &BlobKey) -> bool {
        self.s3().0.local.stat(key).unwrap().is_some()
    }

    /// Takes a blob out of the cache, as if it had been evicted.
    fn forget(&self, key: &BlobKey) {
        let inner = &self.s3().0;
        inner.local.remove(&inner.local.lock(&key.digest), key.generation).unwrap();
        inner.cache.remove(key);
    }
}

fn flip(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// A door with room in its cache.
struct Warm(Door);

/// A door without: what was placed or read whole is evicted at once.
struct Cold(Door);

macro_rules! subject {
    ($name:ident, $cache_bytes:expr) => {
        impl Subject for $name {
            fn new(world: &World) -> $name {
                let server = Server::shared();
                $name(Door::open(world, &server.bucket(), &server.address, $cache_bytes))
            }

            fn store(&self) -> Arc<dyn BlobStore> {
                Arc::clone(self.0.store.as_ref().unwrap()) as Arc<dyn BlobStore>
            }

            fn crash(&mut self) {
                self.0.restart(1);
            }

            fn damage(&self, key: &BlobKey, offset: u64) {
                self.0.forget(key);
                flip(&self.0.object(key), offset);
            }
        }
    };
}

subject!(Warm, u64::MAX);
subject!(Cold, 0);

mod warm {
    use super::*;
    blob_store_suite!(Warm);
}

mod cold {
    use super::*;
    // The rest is about the local volume's room, or about packs, which an empty cache has not; and no server keeps an
    // object that was deleted for those who are reading it.
    blob_store_suite!(Cold:
        uploads::pushed_bytes_come_back, uploads::other_algorithm_at_the_seal,
        whole::small_blobs, whole::imports, whole::generations_are_apart, whole::herd_of_equal_puts,
        whole::locks_exclude_placing,
        reads::every_range, reads::damage_is_never_served,
        inventory::walk_lists_all_once, inventory::removed_is_gone,
        faults::crash_keeps_what_was_placed, faults::interrupted_upload_goes_on,
    );
}
