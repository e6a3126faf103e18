//! The directories of one volume, whether it still takes writes, and how much room it has.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::ids::{ClusterId, StoreId};

use super::dir::Dir;
use super::marker::{self, Identity};
use crate::blob::store::error::is_full;
use crate::blob::store::settings::Options;
use crate::blob::store::{BlobKey, OpenError, Pressure, Step, StoreError, StoreResult};
use crate::ground::files::FileLock;

/// One of the 256 directories of blob files.
struct Shard {
    dir: Dir,
    /// Whether the names that an earlier life left are durable: it may have been killed between rename and sync.
    settled: AtomicBool,
}

/// An open volume.
pub(super) struct Volume {
    pub(super) store_id: StoreId,
    pub(super) options: Options,
    pub(super) staging: Dir,
    pub(super) packs: Dir,
    pub(super) quarantine: Dir,
    root: Dir,
    shards: Vec<Shard>,
    failed: OnceLock<Arc<str>>,
    /// Bytes stored, counted only under a configured capacity.
    used_bytes: AtomicU64,
    /// Keeps other processes out.
    _marker: FileLock,
}

impl Volume {
    pub(super) fn open(
        path: &Path,
        cluster: ClusterId,
        identity: Identity,
        options: Options,
    ) -> Result<Volume, OpenError> {
        let root = open_root(path, identity)?;
        let (store_id, marker) = marker::claim(&root, path, cluster, identity)?;
        let rooms = (|| {
            root.make_private()?;
            let blobs = root.make("blobs")?;
            let shard =
                |number| Ok(Shard { dir: blobs.make(&format!("{number:02x}"))?, settled: AtomicBool::new(false) });
            let shards = (0..=u8::MAX).map(shard).collect::<io::Result<Vec<_>>>()?;
            let rooms = (root.make("staging")?, root.make("pack")?, root.make("quarantine")?, shards);
            // Names that outlived a killed process count from now on as durable, so they have to be; those of blobs
            // are settled when they are first asked for.
            for dir in [&blobs, &root, &rooms.0, &rooms.1] {
                dir.sync()?;
            }
            Ok(rooms)
        })();
        let (staging, packs, quarantine, shards) = rooms.map_err(|error| root.error("prepare", ".", error))?;
        let volume = Volume {
            store_id,
            options,
            staging,
            packs,
            quarantine,
            root,
            shards,
            failed: OnceLock::new(),
            used_bytes: AtomicU64::new(0),
            _marker: marker,
        };
        if volume.options.settings.capacity_bytes.is_some() {
            volume.count_used()?;
        }
        Ok(volume)
    }

    /// The directory of a blob's file.
    pub(super) fn shard(&self, key: &BlobKey) -> &Dir {
        self.shard_at(key.shard())
    }

    /// One of the 256 directories.
    pub(super) fn shard_at(&self, shard: u8) -> &Dir {
        &self.shards[usize::from(shard)].dir
    }

    /// Makes the names that an earlier life left in a directory durable, once: then whatever is visible in it and not
    /// locked is durable.
    pub(super) fn settle(&self, shard: u8) -> StoreResult<()> {
        self.writable()?;
        let Shard { dir, settled } = &self.shards[usize::from(shard)];
        if !settled.load(Ordering::Acquire) {
            dir.sync().map_err(|error| self.fail(&format!("sync directory {}", dir.path()), &error))?;
            settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.options.clock)()
    }

    pub(super) fn before(&self, step: Step) -> io::Result<()> {
        self.options.steps.before(step)
    }

    // ---- failure -------------------------------------------------------------------------------------------------

    /// Refuses writes once a sync has failed.
    pub(super) fn writable(&self) -> StoreResult<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::VolumeFailed { reason: Arc::clone(reason) }),
        }
    }

    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failed.get().cloned()
    }

    /// Takes the volume out of service for writes. After a failed sync the kernel may have dropped the dirty pages and
    /// a second sync would lie, so there is no second one.
    pub(super) fn fail(&self, what: &str, error: &io::Error) -> StoreError {
        let reason = self.failed.get_or_init(|| {
            tracing::error!(volume = self.root.path(), what, %error, "the blob volume failed and takes no more writes");
            format!("{what}: {error}").into()
        });
        StoreError::VolumeFailed { reason: Arc::clone(reason) }
    }

    /// Syncs a file whose bytes can still be given up. Lack of space is then no failure of the volume; anything else
    /// is.
    pub(super) fn sync_file(&self, step: Step, file: &File, what: &str) -> StoreResult<()> {
        let sync = || if mutants::is_on(Mutant::SkipBlobSync) { Ok(()) } else { rustix::fs::fdatasync(file) };
        let synced = self.before(step).and_then(|()| Ok(sync()?));
        synced.map_err(|error| if is_full(&error) { StoreError::NoSpace } else { self.fail(what, &error) })
    }

    /// Makes names durable; there is nothing to give up when this fails.
    pub(super) fn sync_dir(&self, step: Step, dir: &Dir) -> StoreResult<()> {
        self.before(step)
            .and_then(|()| dir.sync())
            .map_err(|error| self.fail(&format!("sync directory {}", dir.path()), &error))
    }

    // ---- room ----------------------------------------------------------------------------------------------------

    /// Size and free bytes of what the store may use.
    pub(super) fn space(&self) -> StoreResult<(u64, u64)> {
        let (total, free) = self.root.space().map_err(|error| self.root.error("statvfs", ".", error))?;
        match self.options.settings.capacity_bytes {
            None => Ok((total, free)),
            Some(capacity) => {
                let left = capacity.saturating_sub(self.used_bytes.load(Ordering::Relaxed));
                Ok((capacity, left.min(free)))
            }
        }
    }

    /// Refuses new bytes from `from` on.
    pub(super) fn admit(&self, from: Pressure) -> StoreResult<()> {
        self.writable()?;
        let settings = &self.options.settings;
        let (total, free) = self.space()?;
        let used_percent = crate::blob::store::status::used_percent(total, free);
        settings.admit(used_percent, from)
    }

    /// Takes `bytes` of the configured capacity.
    pub(super) fn reserve(&self, bytes: u64) -> StoreResult<()> {
        let Some(capacity) = self.options.settings.capacity_bytes else { return Ok(()) };
        let take = |used: u64| used.checked_add(bytes).filter(|used| *used <= capacity);
        match self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::NoSpace),
        }
    }

    /// Gives `bytes` of it back.
    pub(super) fn release(&self, bytes: u64) {
        if self.options.settings.capacity_bytes.is_some() {
            let give = |used: u64| Some(used.saturating_sub(bytes));
            // The closure always answers.
            let _ = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
        }
    }

    fn count_used(&self) -> StoreResult<()> {
        let mut used = 0;
        for dir in self.shards.iter().map(|shard| &shard.dir).chain([&self.staging, &self.packs, &self.quarantine]) {
            for name in dir.names().map_err(|error| dir.error("list", ".", error))? {
                let stat = dir.stat(&name).map_err(|error| dir.error("stat", &name, error))?;
                used += stat.map_or(0, |stat| stat.size_bytes);
            }
        }
        self.used_bytes.store(used, Ordering::Relaxed);
        Ok(())
    }
}

fn open_root(path: &Path, identity: Identity) -> Result<Dir, OpenError> {
    match Dir::open_root(path) {
        Ok(root) => Ok(root),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match identity {
            Identity::Known(expected) => Err(OpenError::MarkerMissing { path: path.display().to_string(), expected }),
            Identity::FirstUse(_) => std::fs::create_dir(path)
                .and_then(|()| Dir::open_root(path))
                .map_err(|error| marker::root_error(path, error)),
        },
        Err(error) => Err(marker::root_error(path, error)),
    }
}
