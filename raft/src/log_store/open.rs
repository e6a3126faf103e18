//! Opening the log, and every reason not to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, IteratorMode, Options};
use tokio::sync::{Semaphore, watch};

use super::bound::BoundFile;
use super::rescue::{finish, kept, rescue};
use super::sync::{SyncThread, bound_path};
use super::tail::Tail;
use super::{
    CF_LOG, CF_META, Db, Edges, FORMAT, Inner, KEY_FORMAT, KEY_PURGED, KEY_VOTE, LogSettings, LogStore, Rocks, key,
};
use crate::codec::{self, Kind};
use crate::files;
use crate::suspect::Why;
use crate::types::Position;

/// The log is not fit to vote with. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    /// A record in the middle is damaged, or files are missing.
    #[error("the log is damaged and may have lost acknowledged entries: {0}")]
    Damaged(String),
    /// It ends before a position that was made durable.
    #[error(
        "the log ends at {recovered:?}, but entries up to {bound} had been made durable: acknowledged entries are lost"
    )]
    Short {
        /// Where it ends.
        recovered: Option<Position>,
        /// Where it ended at least.
        bound: Position,
    },
    /// A newer program wrote it.
    #[error("the log has a format this program does not know")]
    Format,
    /// The directory cannot be read or written.
    #[error("the log cannot be opened: {0}")]
    Io(#[from] io::Error),
}

impl LogOpenError {
    /// Why a node with such a log is suspect; `None` if it's something else than a log that has lost entries.
    pub(crate) fn makes_suspect(&self) -> Option<Why> {
        match self {
            LogOpenError::Damaged(_) => Some(Why::Damaged),
            LogOpenError::Short { .. } => Some(Why::Short),
            LogOpenError::Format | LogOpenError::Io(_) => None,
        }
    }
}

pub(super) fn damaged(error: impl std::fmt::Display) -> LogOpenError {
    LogOpenError::Damaged(error.to_string())
}

/// Only what RocksDB itself calls corruption is damage: a lock that is held, or a disk that does not answer, loses
/// nothing.
fn refused(error: rocksdb::Error) -> LogOpenError {
    if error.kind() == rocksdb::ErrorKind::Corruption {
        damaged(error)
    } else {
        LogOpenError::Io(io::Error::other(error.to_string()))
    }
}

pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // a torn tail was never acknowledged; anything else that is wrong must not silently shorten the log
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_manual_wal_flush(false);
    options.set_max_total_wal_size(512 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_open_files(512);
    options.set_paranoid_checks(true);
    options
}

fn family(name: &str) -> ColumnFamilyDescriptor {
    let mut options = Options::default();
    options.set_write_buffer_size(64 << 20);
    options.set_compression_type(DBCompressionType::None);
    ColumnFamilyDescriptor::new(name, options)
}

pub(super) fn families() -> [ColumnFamilyDescriptor; 3] {
    ["default", CF_LOG, CF_META].map(family)
}

impl LogStore {
    /// Opens what is left of a log that [`LogStore::open`] found damaged or short. The node must be marked suspect by
    /// then.
    pub(crate) fn open_what_is_left(settings: LogSettings) -> Result<LogStore, LogOpenError> {
        let last = rescue(&settings.dir)?;
        let (last, kept) = (last.map_or("nothing".to_owned(), |last| last.to_string()), kept(&settings.dir));
        tracing::warn!(%last, kept = %kept.display(), "what is left of the log was copied; the damaged one is kept");
        LogStore::open(settings)
    }

    /// Opens the log, makes it if there is none, and reads all of it once: every entry must be whole and follow the one
    /// before.
    pub(crate) fn open(settings: LogSettings) -> Result<LogStore, LogOpenError> {
        finish(&settings.dir)?;
        files::make_dir(&settings.dir)?;
        let rocks = Rocks::open_cf_descriptors(&options(), &settings.dir, families()).map_err(refused)?;
        let db = Arc::new(Db::new(rocks));
        check_format(&db)?;
        let mut tail = Tail::new(settings.tail_entries, settings.tail_bytes);
        let edges = recover(&db, &mut tail)?;
        let (bound_file, bound) = BoundFile::open(&bound_path(&settings.dir))?;
        let recovered = edges.last.or(edges.purged).map(Position::from);
        if let Some(bound) = bound.filter(|bound| recovered < Some(*bound)) {
            return Err(LogOpenError::Short { recovered, bound });
        }
        files::make_dir(&settings.dir)?;
        // what was recovered from the tail may live in the page cache only
        db.flush_wal(true).map_err(|error| io::Error::other(error.to_string()))?;
        let (flushed, receiver) = watch::channel(recovered);
        let sync = SyncThread::start(db.clone(), bound_file, flushed)?;
        let depth = Arc::new(Semaphore::new(settings.depth.max(1)));
        let (edges, tail, keeps_all) = (Mutex::new(edges), Mutex::new(tail), AtomicBool::new(false));
        Ok(LogStore(Arc::new(Inner { db, settings, edges, tail, depth, sync, flushed: receiver, keeps_all })))
    }
}

/// Opens an instance that is there, without changing anything in it.
pub(super) fn open_read_only(dir: &Path, mode: DBRecoveryMode) -> Result<Db, LogOpenError> {
    let mut options = options();
    options.set_wal_recovery_mode(mode);
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    let rocks = Rocks::open_cf_descriptors_read_only(&options, dir, families(), false).map_err(damaged)?;
    let db = Db::new(rocks);
    let meta = db.cf_handle(CF_META).expect("opened with this family");
    match db.get_cf(&meta, KEY_FORMAT).map_err(damaged)? {
        Some(format) if format != FORMAT => return Err(LogOpenError::Format),
        Some(_) | None => {}
    }
    drop(meta);
    Ok(db)
}

fn check_format(db: &Db) -> Result<(), LogOpenError> {
    let meta = db.cf_handle(CF_META).expect("made when opened");
    match db.get_cf(&meta, KEY_FORMAT).map_err(damaged)? {
        Some(format) if format == FORMAT => Ok(()),
        Some(_) => Err(LogOpenError::Format),
        None => db.put_cf(&meta, KEY_FORMAT, FORMAT).map_err(|error| io::Error::other(error.to_string()).into()),
    }
}

pub(super) fn recover(db: &Db, tail: &mut Tail) -> Result<Edges, LogOpenError> {
    let (log, meta) = (db.cf_handle(CF_LOG), db.cf_handle(CF_META));
    let (log, meta) = (log.expect("made when opened"), meta.expect("made when opened"));
    let read = |name: &[u8]| db.get_cf(&meta, name).map(|found| found.map(Bytes::from)).map_err(damaged);
    let vote = read(KEY_VOTE)?.map(codec::vote).transpose().map_err(damaged)?;
    let purged = read(KEY_PURGED)?.map(|bytes| codec::log_id(bytes, Kind::LogId)).transpose().map_err(damaged)?;
    let mut edges = Edges { vote, purged, last: None };
    let mut next = purged.map_or(0, |purged| purged.index + 1);
    let mut first_may_be_later = purged.is_none();
    let start = key(next);
    for item in db.iterator_cf(&log, IteratorMode::From(&start, rocksdb::Direction::Forward)) {
        let (at, value) = item.map_err(damaged)?;
        let entry = codec::entry(Bytes::from(value)).map_err(damaged)?;
        let index = entry.log_id.index;
        if *at != key(index) {
            return Err(damaged(format!("entry {index} lies in the place of another")));
        }
        if index != next && !first_may_be_later {
            return Err(damaged(format!("entry {next} is missing before {index}")));
        }
        if edges.last.is_some_and(|last| last.leader_id > entry.log_id.leader_id) {
            return Err(damaged(format!("the term falls at entry {index}")));
        }
        first_may_be_later = false;
        next = index + 1;
        edges.last = Some(entry.log_id);
        tail.push(entry);
    }
    Ok(edges)
}
