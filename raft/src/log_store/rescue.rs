//! What is left of a log that is damaged or too short: copied into a new instance, up to the first entry that can't be
//! trusted. The damaged one is kept beside it, for whoever wants to know what happened; it is never written to.
//!
//! The node must have been marked suspect, durably, before: what comes out of this opens without a complaint.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{DBRecoveryMode, IteratorMode, WriteBatch};

use super::bound::BoundFile;
use super::open::{LogOpenError, damaged, families, open_read_only, options};
use super::sync::bound_path;
use super::{
    CF_LOG, CF_META, Db, FORMAT, KEY_COMMITTED, KEY_FORMAT, KEY_MEMBERS, KEY_PURGED, KEY_VOTE, PREFIX_FORMER,
    PREFIX_HEARD, Rocks, key,
};
use crate::codec::{self, Kind};
use crate::files;
use crate::types::{Entry, LogId, Payload, Position, StoredMembership, Vote};

/// What can be read of a log.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) vote: Option<Vote>,
    pub(crate) last: Option<Position>,
    /// The newest members that an entry tells.
    pub(crate) membership: Option<StoredMembership>,
    pub(crate) heard: Vec<(u64, Bytes)>,
    /// There was more.
    pub(crate) damaged: bool,
}

/// Bytes of entries written together.
const BATCH_BYTES: usize = 4 << 20;

fn rescued(dir: &Path) -> PathBuf {
    dir.with_extension("rescued")
}

/// Where the damaged instance is kept; the one before it goes.
pub(super) fn kept(dir: &Path) -> PathBuf {
    dir.with_extension("damaged")
}

/// Finishes an exchange that a crash has cut in two.
pub(super) fn finish(dir: &Path) -> io::Result<()> {
    if !dir.exists() && rescued(dir).exists() {
        fs::rename(rescued(dir), dir)?;
        files::sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Puts what is left of the log in `dir` in its place. Returns where it ends.
pub(super) fn rescue(dir: &Path) -> Result<Option<Position>, LogOpenError> {
    let new = rescued(dir);
    files::remove_dir(&new)?;
    let last = copy(dir, &new)?;
    let parent = dir.parent().unwrap_or(Path::new("."));
    // a bound above the new end would find the loss a second time
    BoundFile::open(&bound_path(dir))?.0.lower(last)?;
    files::remove_dir(&kept(dir))?;
    fs::rename(dir, kept(dir))?;
    fs::rename(&new, dir)?;
    files::sync_dir(parent)?;
    Ok(last)
}

/// Copies what can be read; the new instance is durable when this returns.
fn copy(from: &Path, to: &Path) -> Result<Option<Position>, LogOpenError> {
    // all up to the first bad record of the write-ahead log, and nothing after it
    let old = open_read_only(from, DBRecoveryMode::PointInTime)?;
    let new = Rocks::open_cf_descriptors(&options(), to, families()).map_err(io::Error::other)?;
    let purged = copy_meta(&old, &new)?;
    let last = copy_entries(&old, &new, purged)?;
    for name in [CF_META, CF_LOG] {
        new.flush_cf(&new.cf_handle(name).expect("made when opened")).map_err(io::Error::other)?;
    }
    new.flush_wal(true).map_err(io::Error::other)?;
    drop(new);
    files::sync_tree(to)?;
    Ok(last.or(purged).map(Position::from))
}

/// What a stopped node's log holds up to the first record that can't be trusted. Changes nothing.
pub(crate) fn left(dir: &Path) -> Result<Left, LogOpenError> {
    // an exchange that was cut in two left it aside
    let dir = if !dir.exists() && rescued(dir).exists() { rescued(dir) } else { dir.to_owned() };
    let damaged = open_read_only(&dir, DBRecoveryMode::TolerateCorruptedTailRecords).is_err();
    let db = open_read_only(&dir, DBRecoveryMode::PointInTime)?;
    let meta = db.cf_handle(CF_META).expect("opened with this family");
    let purged = purged(&db)?;
    let vote = db.get_cf(&meta, KEY_VOTE).ok().flatten().and_then(|bytes| codec::vote(Bytes::from(bytes)).ok());
    let mut membership = None;
    let last = readable(&db, purged, |entry, _| {
        if let Payload::Membership(found) = &entry.payload {
            membership = Some(StoredMembership::new(Some(entry.log_id), found.clone()));
        }
        Ok(())
    })?;
    let heard = db.prefix_iterator_cf(&meta, PREFIX_HEARD).map_while(Result::ok);
    let heard = heard.filter_map(|(name, value)| {
        let id = name.strip_prefix(PREFIX_HEARD)?.try_into().ok()?;
        Some((u64::from_be_bytes(id), Bytes::from(value)))
    });
    let heard = heard.collect();
    let last = last.or(purged).map(Position::from);
    let bound = BoundFile::peek(&bound_path(&dir))?;
    let damaged = damaged || bound.is_some_and(|bound| last < Some(bound));
    Ok(Left { vote, last, membership, heard, damaged })
}

fn purged(db: &Db) -> Result<Option<LogId>, LogOpenError> {
    let meta = db.cf_handle(CF_META).expect("opened with this family");
    let bytes = db.get_cf(&meta, KEY_PURGED).map_err(damaged)?.map(Bytes::from);
    bytes.map(|bytes| codec::log_id(bytes, Kind::LogId)).transpose().map_err(damaged)
}

/// Whether a record can be read.
type IsWhole = fn(Bytes) -> bool;

/// Copies all but the entries. Only the purge marker must be readable: without it nobody knows where the log begins.
fn copy_meta(old: &Db, new: &Rocks) -> Result<Option<LogId>, LogOpenError> {
    let meta = old.cf_handle(CF_META).expect("opened with this family");
    let target = new.cf_handle(CF_META).expect("made when opened");
    let purged = purged(old)?;
    let mut batch = WriteBatch::default();
    batch.put_cf(&target, KEY_FORMAT, FORMAT);
    if let Some(purged) = purged {
        batch.put_cf(&target, KEY_PURGED, codec::log_id_record(Kind::LogId, &purged));
    }
    let records: [(&[u8], IsWhole); 3] = [
        (KEY_VOTE, |vote| codec::vote(vote).is_ok()),
        (KEY_COMMITTED, |at| codec::log_id(at, Kind::LogId).is_ok()),
        (KEY_MEMBERS, |members| codec::meta(members).is_ok()),
    ];
    for (name, is_whole) in records {
        let record = old.get_cf(&meta, name).ok().flatten().map(Bytes::from);
        if let Some(record) = record.filter(|record| is_whole(record.clone())) {
            batch.put_cf(&target, name, record);
        }
    }
    for prefix in [PREFIX_HEARD, PREFIX_FORMER] {
        // what can't be read of these is heard or learned again
        for (name, value) in old.prefix_iterator_cf(&meta, prefix).map_while(Result::ok) {
            let readable = prefix == PREFIX_FORMER || codec::open_v1(Bytes::from(value.to_vec()), Kind::Heard).is_ok();
            if name.starts_with(prefix) && readable {
                batch.put_cf(&target, name, value);
            }
        }
    }
    new.write(batch).map_err(io::Error::other)?;
    Ok(purged)
}

/// Copies entries up to the first one that can't be trusted.
fn copy_entries(old: &Db, new: &Rocks, purged: Option<LogId>) -> Result<Option<LogId>, LogOpenError> {
    let target = new.cf_handle(CF_LOG).expect("made when opened");
    let mut batch = WriteBatch::default();
    let last = readable(old, purged, |entry, bytes| {
        batch.put_cf(&target, key(entry.log_id.index), bytes);
        if batch.size_in_bytes() < BATCH_BYTES {
            return Ok(());
        }
        new.write(std::mem::take(&mut batch)).map_err(io::Error::other)
    })?;
    new.write(batch).map_err(io::Error::other)?;
    Ok(last)
}

/// Visits entries up to the first one that is missing, damaged, or out of its place. Returns the last one.
fn readable(
    db: &Db,
    purged: Option<LogId>,
    mut visit: impl FnMut(&Entry, &[u8]) -> io::Result<()>,
) -> io::Result<Option<LogId>> {
    let log = db.cf_handle(CF_LOG).expect("opened with this family");
    let mut last: Option<LogId> = None;
    let start = key(purged.map_or(0, |purged| purged.index + 1));
    for item in db.iterator_cf(&log, IteratorMode::From(&start, rocksdb::Direction::Forward)) {
        let Ok((at, value)) = item else { break };
        let Ok(entry) = codec::entry(Bytes::from(value.to_vec())) else { break };
        let id = entry.log_id;
        let before = last.or(purged);
        let follows =
            before.is_none_or(|before| before.index + 1 == id.index && before.leader_id.term <= id.leader_id.term);
        if *at != key(id.index) || !follows {
            break;
        }
        visit(&entry, &value)?;
        last = Some(id);
    }
    Ok(last)
}
