//! The log on RocksDB: entries, vote, purge marker and commit hint in one instance, so in one order.
//!
//! A write goes to RocksDB's log at once and is readable then; one thread ([`sync`]) makes it durable and only then
//! completes it, in order. What is not durable is never acknowledged. An error of any write ends the process.
//!
//! It never holds state-machine data: a compaction there must not stall an append here. Start reading at [`LogStore`].

mod bound;
mod inspect;
mod open;
mod reader;
mod rescue;
mod storage;
mod sync;
mod tail;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{BoundColumnFamily, DBWithThreadMode, MultiThreaded};
use tokio::sync::{Semaphore, watch};

use crate::types::{LogId, Position, Vote};

pub(crate) use inspect::inspect;
pub use open::LogOpenError;
pub(crate) use rescue::left;
use sync::SyncThread;
#[cfg(feature = "mutants")]
pub use sync::skip_syncs;
use tail::Tail;

/// RocksDB as this room uses it.
type Rocks = DBWithThreadMode<MultiThreaded>;

/// An open instance, and a sign of it that goes after it.
struct Db {
    rocks: Rocks,
    open: Arc<()>,
}

impl Db {
    fn new(rocks: Rocks) -> Db {
        Db { rocks, open: Arc::new(()) }
    }
}

impl std::ops::Deref for Db {
    type Target = Rocks;

    fn deref(&self) -> &Rocks {
        &self.rocks
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Db({})", self.rocks.path().display())
    }
}

/// Entries by index, big-endian.
const CF_LOG: &str = "log";
/// Vote, purge marker, commit hint, format and what peers were heard to say.
const CF_META: &str = "meta";
const KEY_FORMAT: &[u8] = b"format";
const KEY_VOTE: &[u8] = b"vote";
const KEY_PURGED: &[u8] = b"purged";
const KEY_COMMITTED: &[u8] = b"committed";
const KEY_MEMBERS: &[u8] = b"members";
const PREFIX_HEARD: &[u8] = b"heard/";
const PREFIX_FORMER: &[u8] = b"former/";
/// What the instance's layout is called; a newer one is refused.
const FORMAT: &[u8] = b"1";

/// How the log is kept.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    /// Where; made if it does not exist.
    pub(crate) dir: PathBuf,
    /// The node whose log it is; `None` where nobody leads by it.
    pub(crate) node: Option<u64>,
    /// Appends that may be written and not yet durable: while the next one waits, entries gather in it.
    pub(crate) depth: usize,
    /// Decoded entries kept in memory.
    pub(crate) tail_entries: usize,
    /// Bytes of decoded entries kept in memory.
    pub(crate) tail_bytes: usize,
    /// Bytes of entries read for one message.
    pub(crate) read_bytes: usize,
}

impl LogSettings {
    pub(crate) fn new(dir: PathBuf) -> LogSettings {
        LogSettings { dir, node: None, depth: 1, tail_entries: 10_000, tail_bytes: 64 << 20, read_bytes: 4 << 20 }
    }
}

/// The log. A cheap handle: clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Arc<Db>,
    settings: LogSettings,
    edges: Mutex<Edges>,
    tail: Mutex<Tail>,
    depth: Arc<Semaphore>,
    sync: SyncThread,
    flushed: watch::Receiver<Option<Position>>,
    /// Nothing is purged while this is set.
    keeps_all: AtomicBool,
}

/// What the ends of the log are, kept in memory: seeking across range tombstones is slow.
#[derive(Clone, Copy, Debug, Default)]
struct Edges {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl LogStore {
    /// The last position known to be on the disk. Apply waits for it, so that no state is ever ahead of its own log.
    pub(crate) fn flushed(&self) -> watch::Receiver<Option<Position>> {
        self.0.flushed.clone()
    }

    /// The last purged position.
    pub(crate) fn purged(&self) -> Option<Position> {
        self.0.edges.lock().purged.map(Position::from)
    }

    /// The last position of the log, durable or not.
    pub(crate) fn last(&self) -> Option<Position> {
        let edges = self.0.edges.lock();
        edges.last.or(edges.purged).map(Position::from)
    }

    /// Keeps all entries from now on, or lets them be purged again.
    pub(crate) fn keep_all(&self, keeps: bool) {
        self.0.keeps_all.store(keeps, Ordering::Release);
    }

    /// Whether a purge up to `upto` is put off. Behind a state that was installed the log must be cut all the same:
    /// what follows does not continue it.
    fn puts_purge_off(&self, upto: &LogId) -> bool {
        self.0.keeps_all.load(Ordering::Acquire) && self.0.edges.lock().last.is_some_and(|last| *upto <= last)
    }

    /// The vote as it is on the disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.0.edges.lock().vote
    }

    /// Becomes empty when the last handle is gone and the log is closed.
    pub(crate) fn lifetime(&self) -> std::sync::Weak<()> {
        Arc::downgrade(&self.0.db.open)
    }
}

impl Inner {
    fn log(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(CF_LOG).expect("made when opened")
    }

    fn meta(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(CF_META).expect("made when opened")
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// Range of keys for a range of indexes, end exclusive.
fn keys(range: RangeInclusive<u64>) -> ([u8; 8], Vec<u8>) {
    let end = match range.end().checked_add(1) {
        Some(end) => key(end).to_vec(),
        None => vec![0xff; 9],
    };
    (key(*range.start()), end)
}

#[cfg(test)]
pub(crate) mod tests;
