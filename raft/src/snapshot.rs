//! Snapshots: directories with a copy of the state. One is kept beside the live state; others are on their way in.
//!
//! ```text
//! snapshots/<index>-<term>/    complete and durable; the log may be purged up to it
//! snapshots/building/          being copied from the live state
//! snapshots/installing/        about to be renamed into the state
//! snapshots/incoming/<id>/     being received: whole files, and parts of files
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::codec;
use crate::files;
use crate::machine::StateMachine;
use crate::metrics;
use crate::types::{Position, Snapshot, SnapshotMeta};

/// A snapshot that may be read; its directory goes with the last handle once a newer one has replaced it.
pub(crate) type SnapshotHandle = Arc<SnapshotDir>;

/// A complete copy of the state.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    meta: SnapshotMeta,
    meta_bytes: Bytes,
    manifest: OnceLock<Arc<Manifest>>,
    /// Received, so that installing may take the directory itself.
    received: bool,
    replaced: AtomicBool,
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = files::remove_dir(&self.dir)
        {
            tracing::warn!(%error, dir = %self.dir.display(), "an old snapshot could not be removed");
        }
    }
}

/// What a snapshot consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) files: Vec<ManifestFile>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    /// Relative, with `/`.
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: [u8; 32],
}

impl SnapshotDir {
    pub(crate) fn meta_bytes(&self) -> &Bytes {
        &self.meta_bytes
    }

    pub(crate) fn path(&self, file: &ManifestFile) -> PathBuf {
        self.dir.join(&file.path)
    }

    /// Hashes every file, once per snapshot. Blocking.
    pub(crate) fn manifest(&self) -> io::Result<Arc<Manifest>> {
        if let Some(manifest) = self.manifest.get() {
            return Ok(manifest.clone());
        }
        let mut described = Vec::new();
        for path in files::walk(&self.dir)? {
            let (size_bytes, sha256) = hash_file(&self.dir.join(&path))?;
            described.push(ManifestFile { path, size_bytes, sha256 });
        }
        Ok(self.manifest.get_or_init(|| Arc::new(Manifest { files: described })).clone())
    }
}

/// Size and SHA-256 of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut hasher = Sha256::new();
    let size = io::copy(&mut fs::File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok((size, hasher.finalize().into()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The snapshots of this node.
pub(crate) struct Snapshots {
    root: PathBuf,
    machine: Arc<dyn StateMachine>,
    current: Mutex<Option<SnapshotHandle>>,
    building: Mutex<()>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Snapshots({})", self.root.display())
    }
}

impl Snapshots {
    /// Finds the snapshot of an earlier run and removes what was left half-done.
    pub(crate) fn open(root: PathBuf, machine: Arc<dyn StateMachine>) -> io::Result<Snapshots> {
        files::make_dir(&root)?;
        for unfinished in ["building", "installing", "incoming"] {
            files::remove_dir(&root.join(unfinished))?;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.as_bytes()[0].is_ascii_digit()) {
                found.push(entry.path());
            }
        }
        found.sort_unstable();
        let snapshots = Snapshots { root, machine, current: Mutex::new(None), building: Mutex::new(()) };
        if let Some(newest) = found.pop() {
            *snapshots.current.lock() = snapshots
                .look_at(newest, false)
                .inspect_err(|error| {
                    tracing::error!(%error, "the snapshot cannot be read; a new one will be made from the live state");
                })
                .ok()
                .map(Arc::new);
        }
        for older in found {
            files::remove_dir(&older)?;
        }
        Ok(snapshots)
    }

    fn look_at(&self, dir: PathBuf, received: bool) -> io::Result<SnapshotDir> {
        let meta_bytes = Bytes::from(self.machine.inspect(&dir).map_err(io::Error::other)?);
        let meta = codec::meta(meta_bytes.clone()).map_err(io::Error::other)?;
        let replaced = AtomicBool::new(false);
        Ok(SnapshotDir { dir, meta, meta_bytes, manifest: OnceLock::new(), received, replaced })
    }

    /// The snapshot that is complete now.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone().map(as_snapshot)
    }

    /// What the snapshot contains that is complete now.
    pub(crate) fn position(&self) -> Option<Position> {
        self.current.lock().as_ref().and_then(|current| current.meta.last_log_id).map(Position::from)
    }

    /// Copies the live state. The copy is durable, and says itself what it contains, before it counts. Blocking.
    pub(crate) fn build(&self) -> io::Result<Snapshot> {
        let _one_at_a_time = self.building.lock();
        let began = Instant::now();
        let building = self.root.join("building");
        files::remove_dir(&building)?;
        let meta_bytes = Bytes::from(self.machine.checkpoint(&building).map_err(io::Error::other)?);
        let meta = codec::meta(meta_bytes.clone()).map_err(io::Error::other)?;
        files::sync_tree(&building)?;
        let current = self.current.lock().clone();
        if let Some(current) = current.filter(|current| current.meta.last_log_id == meta.last_log_id) {
            files::remove_dir(&building)?;
            return Ok(as_snapshot(current));
        }
        let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
        let dir = self.root.join(format!("{index:020}-{term}"));
        files::remove_dir(&dir)?;
        fs::rename(&building, &dir)?;
        files::sync_dir(&self.root)?;
        let (manifest, replaced) = (OnceLock::new(), AtomicBool::new(false));
        let handle = Arc::new(SnapshotDir { dir, meta, meta_bytes, manifest, received: false, replaced });
        let old = self.current.lock().replace(handle.clone());
        if let Some(old) = old {
            old.replaced.store(true, Ordering::Release);
        }
        metrics::snapshot("built", began.elapsed());
        Ok(as_snapshot(handle))
    }

    /// Where to receive the snapshot of that id.
    pub(crate) fn incoming(&self, id: &str) -> PathBuf {
        self.root.join("incoming").join(id)
    }

    /// Removes what was received of any other snapshot than `id`.
    pub(crate) fn forget_incoming_but(&self, id: &str) -> io::Result<()> {
        let root = self.root.join("incoming");
        fs::create_dir_all(&root)?;
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if entry.file_name() != id {
                files::remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Accepts a received directory whose files have been checked: opens it and compares what it says with what the
    /// leader said. Blocking.
    pub(crate) fn received(&self, dir: PathBuf, meta_bytes: &Bytes) -> io::Result<Snapshot> {
        files::sync_tree(&dir)?;
        let found = self.look_at(dir, true)?;
        if found.meta_bytes != *meta_bytes {
            return Err(io::Error::other("the received snapshot contains another state than the leader said"));
        }
        Ok(as_snapshot(Arc::new(found)))
    }

    /// Reads a received copy whole, makes it the state, and keeps a copy of its own. For a node that has not started
    /// yet. Blocking.
    pub(crate) fn replace_state(&self, received: &SnapshotDir) -> io::Result<()> {
        self.machine.verify(&received.dir).map_err(io::Error::other)?;
        let dir = self.prepare_install(received)?;
        self.machine.install(&dir).map_err(io::Error::other)?;
        self.build().map(drop)
    }

    /// Removes the copies, which share files with a state that is rotten.
    pub(crate) fn discard(root: &Path) -> io::Result<()> {
        files::remove_dir(root)
    }

    /// A directory that the machine may take: the received one, or a copy of our own. Blocking.
    pub(crate) fn prepare_install(&self, snapshot: &SnapshotDir) -> io::Result<PathBuf> {
        let installing = self.root.join("installing");
        files::remove_dir(&installing)?;
        if snapshot.received {
            fs::rename(&snapshot.dir, &installing)?;
        } else {
            files::clone_tree(&snapshot.dir, &installing)?;
        }
        files::sync_dir(&self.root)?;
        Ok(installing)
    }
}

fn as_snapshot(handle: SnapshotHandle) -> Snapshot {
    Snapshot { meta: handle.meta.clone(), snapshot: handle }
}
