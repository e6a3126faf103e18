//! What the store costs: rates, and CPU per operation. Prints; asserts nothing, for machines differ.
//!
//! `cargo test -p portolan --lib blob::store::fs::tests::throughput -- --ignored --nocapture --test-threads=1`;
//! `PORTOLAN_BENCH_DIR` names another file system than that of the temporary files.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::blob::store::suite::{content, upload_id};

const MIB: usize = 1 << 20;

struct Meter {
    at: Instant,
    cpu_ms: f64,
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

impl Meter {
    fn start() -> Meter {
        Meter { at: Instant::now(), cpu_ms: cpu_ms() }
    }

    fn report(&self, what: &str, count: f64, unit: &str) {
        let (seconds, cpu) = (self.at.elapsed().as_secs_f64(), cpu_ms() - self.cpu_ms);
        println!("{what:<44} {:>10.0} {unit}/s {:>8.3} ms CPU/{unit}", count / seconds, cpu / count);
    }
}

fn store() -> (tempfile::TempDir, FsStore) {
    let dir = match std::env::var("PORTOLAN_BENCH_DIR") {
        Ok(path) => tempfile::tempdir_in(path).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    let options = Options::new(Arc::new(|| 0));
    let store = FsStore::open(&dir.path().join("v"), CLUSTER, Identity::FirstUse(STORE), options).unwrap();
    (dir, store)
}

#[test]
#[ignore = "a benchmark"]
fn large() {
    let (_dir, store) = store();
    for (size, part) in [(100 * MIB, MIB), (100 * MIB, MIB / 4), (500 * MIB, MIB)] {
        let bytes = content(1, size);
        let id = upload_id((size + part) as u128);
        let label = format!("{} MiB in parts of {} KiB", size / MIB, part / 1024);
        let meter = Meter::start();
        store.begin_upload(id, 1, Algorithm::Sha256).unwrap();
        let mut writer = store.write_upload(id, 1).unwrap();
        for at in (0..size).step_by(part) {
            writer.append(at as u64, &[bytes.slice(at..at + part)]).unwrap();
        }
        drop(writer);
        meter.report(&format!("append {label}"), size as f64 / MIB as f64, "MiB");
        let digest = Digest::sha256(&bytes);
        let finish = Meter::start();
        store.seal_upload(id, 1, digest).unwrap();
        store.place_upload(id, digest).unwrap();
        finish.report("  seal and place", 1.0, "blob");
        let reader = store.open(&BlobKey::new(digest, id)).unwrap();
        for _ in 0..2 {
            let meter = Meter::start();
            for at in (0..size).step_by(part) {
                assert_eq!(reader.read_blocks(at as u64, part).unwrap().bytes.len(), part);
            }
            meter.report(&format!("read {label}"), size as f64 / MIB as f64, "MiB");
        }
    }
}

#[test]
#[ignore = "a benchmark"]
fn small() {
    const EACH: u64 = 300;
    let (_dir, store) = store();
    for threads in [1, 32, 64] {
        let meter = Meter::start();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..EACH {
                        let number = threads * 1_000_000 + thread * EACH + i;
                        let bytes = content(number, 1024);
                        let key = BlobKey::new(Digest::sha256(&bytes), upload_id(number.into()));
                        store.put(&key, &bytes).unwrap();
                    }
                });
            }
        });
        meter.report(&format!("put 1 KiB, {threads} callers, synced"), (threads * EACH) as f64, "blob");
    }
    let keys: Vec<BlobKey> = store.walk(None, 100_000).unwrap().entries.iter().map(|entry| entry.key).collect();
    let meter = Meter::start();
    for key in &keys {
        store.open(key).unwrap().read_blocks(0, 1024).unwrap();
    }
    meter.report("open and read 1 KiB", keys.len() as f64, "blob");
}
