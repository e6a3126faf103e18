//! B5: a real process, killed at each step of its work. What it acknowledged is there; what it did not is whole or
//! absent; and the work can be done again from the beginning.
//!
//! The parent test starts this test binary again; `worker` below then does the work and kills itself at the step that
//! the environment names. What it acknowledged it has told on its standard output before.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::blob::store::suite::{content, push, read_all, upload_id};
use crate::blob::store::{Settings, Step, StepHook};

const ROOT: &str = "PORTOLAN_TEST_KILL_ROOT";
const STEP: &str = "PORTOLAN_TEST_KILL_STEP";
const LARGE: usize = 300_000;
const SMALL: usize = 3000;
const ROUNDS: u128 = 6;

struct KillAt {
    step: Step,
    left: AtomicU32,
}

impl StepHook for KillAt {
    fn before(&self, step: Step) -> std::io::Result<()> {
        if step == self.step && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
            std::thread::park();
        }
        Ok(())
    }
}

fn options() -> Options {
    let mut options = Options::new(Arc::new(|| 1));
    options.settings = Settings { segment_bytes_max: 8000, ..Settings::default() };
    options
}

fn tell(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).unwrap();
}

/// The bytes of a key of the work, by the number in its generation.
fn bytes_of(number: u128) -> Bytes {
    content(number as u64, if number % 3 == 1 { SMALL } else { LARGE })
}

fn key_of(number: u128) -> BlobKey {
    BlobKey::new(Digest::sha256(&bytes_of(number)), upload_id(number))
}

/// Pushes, imports and removes, repeating what an earlier life may have done already.
fn work(store: &dyn BlobStore, mut tell: impl FnMut(String)) {
    for round in 0..ROUNDS {
        for number in [10 * round, 10 * round + 1] {
            let key = key_of(number);
            match store.place_upload(key.generation, key.digest) {
                Ok(_) => {}
                Err(_) => {
                    store.discard_upload(key.generation).unwrap();
                    store.begin_upload(key.generation, 1, Algorithm::Sha256).unwrap();
                    store.note_epoch(key.generation, 2).unwrap();
                    store.discard_upload(key.generation).unwrap();
                    push(store, number, &bytes_of(number)).unwrap();
                }
            }
            tell(format!("placed {number}"));
        }
        let copy = key_of(10 * round + 2);
        if let Ok(mut import) = store.import(&copy, bytes_of(10 * round + 2).len() as u64) {
            import.append(&[bytes_of(10 * round + 2)]).unwrap();
            import.finish().unwrap();
        }
        store.confirm(&copy).unwrap();
        tell(format!("placed {}", 10 * round + 2));
        let gone = key_of(10 * round);
        tell(format!("removing {}", 10 * round));
        store.remove(&store.lock(&gone.digest), gone.generation).unwrap();
        tell(format!("removed {}", 10 * round));
    }
    store.compact(100, usize::MAX, &mut |key| key.generation.random % 10 == 1).unwrap();
}

#[test]
#[ignore = "the process that is killed; started by `killed_at_each_step`"]
fn worker() {
    let (Ok(root), Ok(kill_at)) = (std::env::var(ROOT), std::env::var(STEP)) else { return };
    let (step, left) = kill_at.split_once(' ').unwrap();
    let step = Step::ALL.into_iter().find(|known| format!("{known:?}") == step).unwrap();
    let hook = KillAt { step, left: AtomicU32::new(left.parse().unwrap()) };
    let options = options().with_hook(Arc::new(hook));
    let store = FsStore::open(Path::new(&root), CLUSTER, Identity::FirstUse(STORE), options).unwrap();
    work(&store, tell);
    tell("done".to_owned());
}

/// Runs the worker; returns what it told, and whether it was killed.
fn run_worker(root: &Path, step: Step, occurrence: u32) -> (Vec<String>, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "blob::store::fs::tests::kill::worker", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .env(STEP, format!("{step:?} {occurrence}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    let killed = !child.wait().unwrap().success();
    (lines, killed)
}

fn check(store: &dyn BlobStore, told: &[String], context: &str) {
    let numbers = |what: &str| -> Vec<u128> {
        told.iter().filter_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok()).collect()
    };
    let (removing, removed) = (numbers("removing"), numbers("removed"));
    for number in numbers("placed") {
        let is_small = number % 3 == 1;
        match store.confirm(&key_of(number)) {
            Ok(_) => assert_eq!(read_all(store, &key_of(number), 1 << 20).unwrap(), bytes_of(number), "{context}"),
            Err(StoreError::NotFound) if removing.contains(&number) => {}
            // Packs are compacted at the end; what isn't named then goes.
            Err(StoreError::NotFound) if is_small && number % 10 != 1 => {}
            Err(error) => panic!("{context}: {number} was acknowledged: {error}"),
        }
        // A removed file is gone; a removed record may come back until its segment is compacted.
        if removed.contains(&number) && !is_small {
            assert_eq!(store.stat(&key_of(number)).unwrap(), None, "{context}");
        }
    }
    for entry in store.walk(None, 1000).unwrap().entries {
        let bytes = read_all(store, &entry.key, 1 << 20).unwrap();
        assert_eq!(Digest::sha256(&bytes), entry.key.digest, "{context}: visible and not whole");
    }
    assert_eq!(store.health(), Health { failed: None, damaged_pack_regions: 0 }, "{context}");
}

// B5: killed at every step, at its first, second and fourth occurrence, the store keeps what it acknowledged, shows
// nothing that is not whole, and does the same work again to the end.
#[test]
fn killed_at_each_step() {
    for step in Step::ALL {
        let mut kills = 0;
        for occurrence in [1, 2, 4] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("volume");
            let context = format!("{step:?} {occurrence}");
            let (told, killed) = run_worker(&root, step, occurrence);
            assert!(killed != told.iter().any(|line| line == "done"), "{context}: {told:?}");
            kills += u32::from(killed);
            let store = FsStore::open(&root, CLUSTER, Identity::FirstUse(STORE), options()).unwrap();
            check(&store, &told, &context);
            work(&store, |_| {});
            drop(store);
            let store = FsStore::open(&root, CLUSTER, Identity::Known(STORE), options()).unwrap();
            let all: Vec<String> = (0..ROUNDS).map(|round| format!("placed {}", 10 * round + 2)).collect();
            check(&store, &all, &context);
        }
        assert!(kills > 0, "{step:?} never came: this test would prove nothing about it");
    }
}
