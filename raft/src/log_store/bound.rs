//! A lower bound of what was made durable, kept beside RocksDB: a log recovered below it has lost acknowledged entries.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::codec::{self, Kind};
use crate::files;
use crate::types::Position;

/// The side file: one small record, rewritten in place. It fits a sector, so a power cut leaves one version of it.
#[derive(Debug)]
pub(super) struct BoundFile(File);

impl BoundFile {
    /// Reads what the file says without opening it for writing; nothing if there is none, or if it is damaged.
    pub(super) fn peek(path: &Path) -> io::Result<Option<Position>> {
        let bytes = files::read(path)?.unwrap_or_default();
        Ok(codec::log_id(Bytes::from(bytes), Kind::Bound).ok().map(Position::from))
    }

    /// Opens or makes the file and reads what it says; a damaged one says nothing.
    pub(super) fn open(path: &Path) -> io::Result<(BoundFile, Option<Position>)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(256)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let bound = match codec::log_id(Bytes::from(bytes.clone()), Kind::Bound) {
            Ok(id) => Some(id.into()),
            Err(error) => {
                if !bytes.is_empty() {
                    tracing::warn!(%error, path = %path.display(), "the bound of the log cannot be read, and is ignored");
                }
                None
            }
        };
        Ok((BoundFile(file), bound))
    }

    /// Notes a bound. It may be lost in a power cut: an older bound is a bound as well.
    pub(super) fn raise(&self, bound: Position) -> io::Result<()> {
        self.0.write_all_at(&codec::log_id_record(Kind::Bound, &bound.into()), 0)
    }

    /// Notes a lower bound, durably, before entries above it are removed.
    pub(super) fn lower(&self, bound: Option<Position>) -> io::Result<()> {
        match bound {
            Some(bound) => self.raise(bound)?,
            None => self.0.set_len(0)?,
        }
        self.0.sync_data()
    }
}
