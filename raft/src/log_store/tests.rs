//! The log against openraft's suite, and against what disks do.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::*;
use crate::codec::tests::normal;
use crate::snapshot::Snapshots;
use crate::state::Adapter;
use crate::testing::Counters;
use crate::types::{Entry, Types};

struct Builder;

impl StoreBuilder<Types, LogStore, Adapter, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Adapter), openraft::StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(LogSettings::new(dir.path().join("log"))).unwrap();
        let machine = Arc::new(Counters::open(&dir.path().join("state")).unwrap());
        let snapshots = Arc::new(Snapshots::open(dir.path().join("snapshots"), machine.clone()).unwrap());
        // the suite applies entries that it never wrote to the log
        let far = Position { term: u64::MAX, index: u64::MAX };
        let (_, flushed) = watch::channel(Some(far));
        let adapter = Adapter::open(machine, snapshots, flushed).unwrap();
        Ok((dir, log, adapter.skipping()))
    }
}

// The stores keep the contract that openraft states for them.
#[test]
fn openraft_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

fn settings(dir: &Path) -> LogSettings {
    LogSettings { tail_entries: 4, ..LogSettings::new(dir.join("log")) }
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(settings(dir)).unwrap()
}

async fn close(log: LogStore) {
    let lifetime = log.lifetime();
    drop(log);
    while lifetime.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry> + Send) {
    let entries: Vec<Entry> = entries.into_iter().collect();
    log.blocking_append(entries).await.unwrap();
}

fn run(term: u64, indexes: RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| normal(term, index, b"some payload of an entry")).collect()
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

// All that was acknowledged is there after a restart, in memory or not.
#[tokio::test]
async fn acknowledged_entries_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, run(1, 0..=9)).await;
    log.save_vote(&Vote::new_committed(3, 4)).await.unwrap();
    log.save_committed(Some(Position { term: 1, index: 5 }.into())).await.unwrap();
    close(log).await;
    let mut log = open(dir.path());
    assert_eq!(indexes(&mut log).await, (0..=9).collect::<Vec<_>>());
    assert_eq!(log.limited_get_log_entries(2, 5).await.unwrap(), run(1, 2..=4));
    assert_eq!(log.vote(), Some(Vote::new_committed(3, 4)));
    assert_eq!(log.read_committed().await.unwrap().unwrap().index, 5);
    assert_eq!(*log.flushed().borrow(), Some(Position { term: 1, index: 9 }));
}

// A cut tail stays cut, entries of a later term take its place, and the bound follows, down and up.
#[tokio::test]
async fn a_cut_tail_stays_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, run(1, 0..=9)).await;
    log.truncate_after(Some(Position { term: 1, index: 4 }.into())).await.unwrap();
    assert_eq!(log.last(), Some(Position { term: 1, index: 4 }));
    close(log).await;
    // between cutting and writing the log is shorter than it was, which is no loss
    let mut log = open(dir.path());
    append(&mut log, run(2, 5..=6)).await;
    close(log).await;
    let mut log = open(dir.path());
    assert_eq!(indexes(&mut log).await, (0..=6).collect::<Vec<_>>());
    assert_eq!(log.last(), Some(Position { term: 2, index: 6 }));
}

// A node that leads finds every entry that it sends, or its disk is broken and the process ends. One whose leadership
// is over may still read for its followers what the next leader has cut off, or what a state that is being installed
// goes beyond: it finds nothing, which is no reason to end.
#[tokio::test]
async fn only_leaders_miss_entries() {
    const OWN: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(LogSettings { node: Some(OWN), ..settings(dir.path()) }).unwrap();
    append(&mut log, run(1, 0..=9)).await;
    assert!(log.limited_get_log_entries(10, 12).await.is_err());
    log.save_vote(&Vote::new_committed(1, OWN)).await.unwrap();
    assert!(log.limited_get_log_entries(10, 12).await.is_err());
    log.save_vote(&Vote::new_committed(2, OWN + 1)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(10, 12).await.unwrap(), []);
    log.truncate_after(Some(Position { term: 1, index: 4 }.into())).await.unwrap();
    assert_eq!(log.limited_get_log_entries(6, 10).await.unwrap(), []);
    assert_eq!(log.limited_get_log_entries(4, 10).await.unwrap(), run(1, 4..=4));
    close(log).await;
}

// What was purged does not come back, and the marker is the end of a log with nothing else.
#[tokio::test]
async fn purged_entries_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, run(1, 0..=9)).await;
    log.purge(Position { term: 1, index: 6 }.into()).await.unwrap();
    assert_eq!(indexes(&mut log).await, [7, 8, 9]);
    close(log).await;
    let mut log = open(dir.path());
    assert_eq!(indexes(&mut log).await, [7, 8, 9]);
    log.purge(Position { term: 2, index: 50 }.into()).await.unwrap();
    close(log).await;
    let mut log = open(dir.path());
    assert_eq!(indexes(&mut log).await, Vec::<u64>::new());
    assert_eq!(log.last(), Some(Position { term: 2, index: 50 }));
    append(&mut log, run(2, 51..=52)).await;
    assert_eq!(indexes(&mut log).await, [51, 52]);
}

// Completions come in the order of the appends, and none before the entries are durable: the bound file, written after
// the sync, has reached the entry by then.
#[tokio::test]
async fn completions_are_ordered_and_late() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(LogSettings { depth: 4, ..settings(dir.path()) }).unwrap();
    let mut waits = Vec::new();
    for index in 0..50 {
        let (done, wait) = Types::oneshot();
        let flushed = log.flushed();
        log.append(run(1, index..=index), IOFlushed::signal(done)).await.unwrap();
        assert_eq!(log.last(), Some(Position { term: 1, index }), "it can be read at once");
        waits.push((index, wait, flushed));
    }
    for (index, wait, flushed) in waits {
        wait.await.unwrap().unwrap();
        assert!(*flushed.borrow() >= Some(Position { term: 1, index }));
    }
}

// What is read for one message is bounded by bytes, from memory and from the disk, and never empty when there is an
// entry: one that is larger than the bound goes alone.
#[tokio::test]
async fn messages_are_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for tail_entries in [100, 1] {
        let dir = dir.path().join(tail_entries.to_string());
        let bounded = LogSettings { read_bytes: 1000, tail_entries, ..settings(&dir) };
        let mut log = LogStore::open(bounded).unwrap();
        append(&mut log, (0..20).map(|index| normal(1, index, &[0; 300]))).await;
        append(&mut log, [normal(1, 20, &[0; 5000])]).await;
        for from in 0..=20 {
            let found = log.limited_get_log_entries(from, 21).await.unwrap();
            let bytes: usize = found.iter().map(crate::codec::entry_size).sum();
            assert!(found.len() == 1 || bytes <= 1000, "{} entries, {bytes} bytes from {from}", found.len());
            assert!(from >= 18 || found.len() > 1, "they go one by one");
            assert_eq!(found[0].log_id.index, from);
        }
        close(log).await;
    }
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut wal: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).collect();
    wal.sort();
    wal.retain(|path| fs::metadata(path).unwrap().len() > 0);
    wal
}

async fn filled(dir: &Path) -> PathBuf {
    let mut log = open(dir);
    for index in 0..20 {
        append(&mut log, run(1, index..=index)).await;
    }
    close(log).await;
    wal_files(dir).pop().unwrap()
}

// A torn tail, never acknowledged, is dropped without a word.
#[tokio::test]
async fn a_torn_tail_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let wal = filled(dir.path()).await;
    fs::OpenOptions::new().append(true).open(wal).unwrap().write_all(&[0x5a; 3]).unwrap();
    assert_eq!(indexes(&mut open(dir.path())).await, (0..20).collect::<Vec<_>>());
}

// A log whose acknowledged end is missing is refused, although RocksDB opens it happily.
#[tokio::test]
async fn a_short_log_is_refused() {
    for cut in [1, 5, 20, 60, 100, 150, 300] {
        let dir = tempfile::tempdir().unwrap();
        let wal = filled(dir.path()).await;
        let file = fs::OpenOptions::new().write(true).open(&wal).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - cut).unwrap();
        let refused = LogStore::open(settings(dir.path()));
        let short = matches!(&refused, Err(LogOpenError::Short { bound, .. }) if bound.index == 19);
        assert!(short, "cut by {cut}: {refused:?}");
        let left = left(dir.path()).await;
        assert!((1..20).contains(&left.len()) && is_prefix(&left), "cut by {cut}: {left:?}");
    }
}

/// What is left when the node goes on as suspect. It opens without a complaint from then on.
async fn left(dir: &Path) -> Vec<u64> {
    let mut log = LogStore::open_what_is_left(settings(dir)).unwrap();
    let found = indexes(&mut log).await;
    close(log).await;
    let mut log = open(dir);
    assert_eq!(indexes(&mut log).await, found);
    append(&mut log, run(9, found.len() as u64..=30)).await;
    close(log).await;
    assert_eq!(indexes(&mut open(dir)).await, (0..=30).collect::<Vec<_>>());
    found
}

fn is_prefix(indexes: &[u64]) -> bool {
    indexes.iter().copied().eq(0..indexes.len() as u64)
}

// What is left of a log is copied at once or not at all: a crash between the two renames is made good.
#[tokio::test]
async fn a_rescue_that_was_cut_short_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    fs::rename(dir.path().join("log"), dir.path().join("log.rescued")).unwrap();
    assert_eq!(indexes(&mut open(dir.path())).await, (0..20).collect::<Vec<_>>());
}

// A flipped bit in the middle of the log is refused: what follows it had been acknowledged.
#[tokio::test]
async fn a_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = filled(dir.path()).await;
    let mut file = fs::OpenOptions::new().read(true).write(true).open(wal).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    let refused = LogStore::open(settings(dir.path()));
    assert!(matches!(refused, Err(LogOpenError::Damaged(_) | LogOpenError::Short { .. })), "{refused:?}");
    let left = left(dir.path()).await;
    assert!((1..20).contains(&left.len()) && is_prefix(&left), "{left:?}");
    assert!(dir.path().join("log.damaged").is_dir(), "the evidence is gone");
}

// A hole, an entry in another's place and a term that falls are found when the log is opened.
#[tokio::test]
async fn an_inconsistent_log_is_refused() {
    type Damage = fn(&LogStore);
    let put = |log: &LogStore, at: u64, entry: &Entry| {
        let mut bytes = bytes::BytesMut::new();
        crate::codec::put_entry(&mut bytes, entry);
        log.0.db.put_cf(&log.0.log(), key(at), &bytes).unwrap();
    };
    let damages: [Damage; 3] = [
        |log| log.0.db.delete_cf(&log.0.log(), key(5)).unwrap(),
        |log| {
            let bytes = log.0.db.get_cf(&log.0.log(), key(4)).unwrap().unwrap();
            log.0.db.put_cf(&log.0.log(), key(5), bytes).unwrap();
        },
        |log| log.0.db.put_cf(&log.0.log(), key(5), b"rubbish").unwrap(),
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        append(&mut log, run(2, 0..=9)).await;
        damage(&log);
        close(log).await;
        let refused = LogStore::open(settings(dir.path()));
        assert!(matches!(refused, Err(LogOpenError::Damaged(_))), "{refused:?}");
        assert_eq!(left(dir.path()).await, (0..5).collect::<Vec<_>>());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    append(&mut log, run(2, 0..=9)).await;
    put(&log, 10, &normal(1, 10, b"older"));
    close(log).await;
    assert!(matches!(LogStore::open(settings(dir.path())), Err(LogOpenError::Damaged(_))));
}
