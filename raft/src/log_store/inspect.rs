//! The log of a stopped node, read and not changed.

use std::io;
use std::path::Path;

use rocksdb::DBRecoveryMode;

use super::bound::BoundFile;
use super::open::{LogOpenError, open_read_only, recover};
use super::sync::bound_path;
use super::tail::Tail;
use crate::types::Position;

/// What a log holds.
#[derive(Debug)]
pub(crate) struct LogContents {
    pub(crate) term: Option<u64>,
    pub(crate) last: Option<Position>,
    pub(crate) purged: Option<Position>,
    pub(crate) entries: u64,
    pub(crate) problems: Vec<String>,
}

/// Reads all of the log: every entry must be whole and follow the one before, and the last one must not lie before what
/// was made durable.
pub(crate) fn inspect(dir: &Path) -> Result<LogContents, LogOpenError> {
    if !dir.is_dir() {
        return Err(LogOpenError::Io(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", dir.display()))));
    }
    let db = open_read_only(dir, DBRecoveryMode::TolerateCorruptedTailRecords)?;
    let edges = recover(&db, &mut Tail::new(1, 0))?;
    let (last, purged) = (edges.last.map(Position::from), edges.purged.map(Position::from));
    let recovered = last.or(purged);
    let entries = match (last, purged) {
        (Some(last), Some(purged)) => last.index - purged.index,
        (Some(last), None) => last.index + 1,
        (None, _) => 0,
    };
    let mut problems = Vec::new();
    if let Some(bound) = BoundFile::peek(&bound_path(dir))?.filter(|bound| recovered < Some(*bound)) {
        problems.push(LogOpenError::Short { recovered, bound }.to_string());
    }
    let term = edges.vote.map(|vote| vote.leader_id.term);
    Ok(LogContents { term, last: recovered, purged, entries, problems })
}
