//! A backup of the state: a copy of the tables at one index, and beside it a list of the blobs that it names.
//!
//! ```text
//! state/      the tables, as a node's state directory holds them
//! blobs.txt   a line for each record: digest, size in bytes, generation, volumes with a copy, used or unused
//! ```
//!
//! Blobs themselves are not in it: they lie on volumes, which outlive nodes, or are copied as files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use registry_core::metadata::check::stored;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::digest::{Algorithm, Hasher};
use registry_core::vocabulary::ids::{ClusterId, Lineage};

use super::stopped::StoppedState;
use super::tables::{self, StateError};
use super::{Metadata, ReadError};

/// The directory of the tables in a backup.
pub const STATE: &str = "state";
/// The list of the blobs in a backup.
pub const BLOBS: &str = "blobs.txt";
/// Bytes read at once for a hash.
const HASH_BYTES: usize = 1 << 20;

/// What a backup consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// In which life of its log.
    pub lineage: Lineage,
    /// Everything up to this log index is in it, and nothing after.
    pub index: u64,
    /// Records of blobs.
    pub blobs: u64,
    /// Bytes of the blobs that are in use.
    pub blob_bytes: u64,
    /// The files, sorted by path.
    pub files: Vec<Part>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Relative, with `/`.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// A backup was not made, or is none.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No quorum confirmed what it must contain.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tables can't be copied or opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// Reading or writing files failed.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The state belongs to no cluster yet.
    #[error("there is no cluster yet, and nothing to back up")]
    Unfounded,
    /// Rows of the copy can't be read.
    #[error("the copy can't be read: {0}")]
    Damaged(String),
}

fn told(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Io { path, error }
}

impl Metadata {
    /// Makes a backup in `dir`, which must not exist and lies on the file system of the state: everything that was
    /// acknowledged anywhere before the call is in it.
    pub async fn back_up(&self, dir: PathBuf) -> Result<Contents, BackupError> {
        self.ready(super::Consistency::Linearizable).await?;
        let metadata = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&dir).map_err(told(&dir))?;
            metadata.0.state.checkpoint(&dir.join(STATE))?;
            describe(&dir)
        });
        made.await.map_err(|error| BackupError::Damaged(error.to_string()))?
    }
}

/// Lists the blobs of the copy in `dir`, and hashes all its files. Blocking.
fn describe(dir: &Path) -> Result<Contents, BackupError> {
    let state = StoppedState::open_copy(&dir.join(STATE))?;
    let row = stored::cluster(&state).ok_or(BackupError::Unfounded)?;
    let (blobs, blob_bytes) = list_blobs(&state, &dir.join(BLOBS))?;
    if let Some(error) = state.errors().first() {
        return Err(BackupError::Damaged(error.clone()));
    }
    let index = state.applied()?;
    drop(state);
    let mut files = Vec::new();
    for path in tables::walk(dir).map_err(told(dir))? {
        let (size_bytes, digest) = hash(&dir.join(&path)).map_err(told(&dir.join(&path)))?;
        files.push(Part { path, size_bytes, digest });
    }
    Ok(Contents { cluster: row.cluster, lineage: row.lineage, index, blobs, blob_bytes, files })
}

fn list_blobs(state: &StoppedState, path: &Path) -> Result<(u64, u64), BackupError> {
    let mut out = BufWriter::new(File::create(path).map_err(told(path))?);
    let (mut blobs, mut bytes) = (0, 0);
    for record in stored::records(state) {
        blobs += 1;
        bytes += if record.used { record.row.size_bytes } else { 0 };
        writeln!(out, "{}", line(&record)).map_err(told(path))?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(told(path))?;
    Ok((blobs, bytes))
}

/// A blob as the list tells it.
pub fn line(record: &stored::Record) -> String {
    let stores: Vec<String> = record.row.stores.iter().map(ToString::to_string).collect();
    let stores = if stores.is_empty() { "-".to_owned() } else { stores.join(",") };
    let used = if record.used { "used" } else { "unused" };
    format!("{} {} {} {stores} {used}", record.digest, record.row.size_bytes, record.row.generation)
}

/// Size and SHA-256 of a file. Blocking.
pub fn hash(path: &Path) -> io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let (mut buffer, mut size_bytes) = (vec![0; HASH_BYTES], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size_bytes, hasher.finish())),
            count => {
                hasher.update(&buffer[..count]);
                size_bytes += count as u64;
            }
        }
    }
}
