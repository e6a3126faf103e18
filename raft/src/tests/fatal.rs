//! Errors after which the process must not go on. Each runs in a process of its own, which has to die.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::testing::{Counters, PATIENCE, add};
use crate::{Committed, Effect, Group, GroupConfig, MachineError, Member, StateMachine};

/// Says to a test that it is the process that has to die.
const VICTIM: &str = "PORTOLAN_RAFT_TEST_VICTIM";

/// A state whose apply goes wrong in one of several ways.
struct Failing {
    counters: Counters,
    how: &'static str,
}

impl StateMachine for Failing {
    fn apply(&self, entries: &[Committed], meta: &[u8]) -> Result<Vec<Effect>, MachineError> {
        let effects = self.counters.apply(entries, meta)?;
        if entries.iter().all(|entry| entry.payload.is_empty()) {
            return Ok(effects);
        }
        match self.how {
            "panics" => panic!("on purpose"),
            "fails" => Err(MachineError::new("on purpose")),
            _ => Ok(Vec::new()),
        }
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, MachineError> {
        self.counters.meta()
    }

    fn checkpoint(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.counters.checkpoint(dir)
    }

    fn inspect(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.counters.inspect(dir)
    }

    fn verify(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        self.counters.verify(dir)
    }

    fn install(&self, dir: &Path) -> Result<(), MachineError> {
        self.counters.install(dir)
    }
}

/// Runs this test again in another process, which must end by SIGABRT after its last words. `before` runs in its shell.
fn dies(before: &str, test: &str, words: &str) {
    use std::os::unix::process::ExitStatusExt;
    let this = std::env::current_exe().unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{before}exec \"$0\" \"$@\"")).arg(this).args(["--exact", test, "--nocapture"]);
    let ended = shell.env(VICTIM, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(6), "it ended with {:?} and said:\n{said}", ended.status);
    assert!(said.contains(words), "it said:\n{said}");
}

fn is_victim() -> bool {
    std::env::var_os(VICTIM).is_some()
}

fn propose_to(how: &'static str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let machine = Failing { counters: Counters::open(&dir.path().join("state")).unwrap(), how };
        let config = GroupConfig::new(1, 1, 1, dir.path().join("raft"), "127.0.0.1:0".parse().unwrap());
        let group = Group::start(config, Arc::new(machine)).await.unwrap();
        let member = Member { node_id: 1, raft_addr: "127.0.0.1:1".into(), ..Member::default() };
        group.initialize(member).await.unwrap();
        let proposed = group.propose(add("x", 1), PATIENCE).await;
        panic!("the node went on: {proposed:?}");
    });
}

// A node whose apply panics, fails or breaks its contract ends at once: it may have applied half a batch.
#[test]
fn a_panic_in_apply_ends_the_process() {
    if is_victim() {
        propose_to("panics");
    }
    dies("", "tests::fatal::a_panic_in_apply_ends_the_process", "apply panicked");
}

#[test]
fn an_error_of_apply_ends_the_process() {
    if is_victim() {
        propose_to("fails");
    }
    dies("", "tests::fatal::an_error_of_apply_ends_the_process", "apply failed");
}

#[test]
fn a_reply_too_few_ends_the_process() {
    if is_victim() {
        propose_to("forgets");
    }
    dies("", "tests::fatal::a_reply_too_few_ends_the_process", "apply broke its contract");
}

// A log that can't be written ends the process, and nothing written after is acknowledged: no retry could tell what is
// on the disk. The limit on file sizes stands for a full disk: RocksDB's write fails with EFBIG.
#[test]
fn a_failed_write_of_the_log_ends_the_process() {
    if is_victim() {
        use crate::codec::tests::normal;
        use crate::log_store::{LogSettings, LogStore};
        use openraft::storage::RaftLogStorageExt;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut log = LogStore::open(LogSettings::new(dir.path().join("log"))).unwrap();
            for index in 0..10_000 {
                log.blocking_append([normal(1, index, &[7; 1000])]).await.unwrap();
            }
        });
        panic!("10 MB went into a file of at most 512 KiB");
    }
    // without the trap the signal that comes with the limit would end the process in another way
    dies(
        "trap '' XFSZ; ulimit -f 512; ",
        "tests::fatal::a_failed_write_of_the_log_ends_the_process",
        "the log cannot be",
    );
}
