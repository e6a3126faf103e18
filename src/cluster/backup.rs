//! Backups that this node has made and holds until they were fetched: few, and not for long.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::vocabulary::limits::{BACKUP_PIECE_BYTES_MAX, BACKUPS_HELD_MAX};
use tokio::time::Instant;

use super::Cluster;
use crate::ground::{files, random};
pub use crate::metadata::backup::{BackupError, Contents, Part};

/// A backup from which nobody has read for so long is removed when the next one is made.
const HELD_FOR: Duration = Duration::from_secs(600);

/// The backups that are held.
#[derive(Debug)]
pub(super) struct Backups {
    root: PathBuf,
    held: Mutex<BTreeMap<String, Held>>,
    /// Only one is made at a time.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Held {
    contents: Arc<Contents>,
    used: Instant,
}

impl Backups {
    /// Below `root`, which is for this alone, on the file system of the state; what an earlier run has left there goes.
    pub(super) fn new(root: PathBuf) -> Backups {
        remove(&root);
        Backups { root, held: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    fn contents(&self, id: &str) -> Option<Arc<Contents>> {
        let mut held = self.held.lock();
        let found = held.get_mut(id)?;
        found.used = Instant::now();
        Some(found.contents.clone())
    }

    /// Removes what nobody fetches; true when there is room for another one.
    fn make_room(&self) -> bool {
        let mut held = self.held.lock();
        let old: Vec<String> =
            held.iter().filter(|(_, held)| held.used.elapsed() > HELD_FOR).map(|(id, _)| id.clone()).collect();
        for id in old {
            remove(&self.root.join(&id));
            held.remove(&id);
        }
        held.len() < BACKUPS_HELD_MAX
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, dir = %dir.display(), "a backup that is not needed any more can't be removed");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum NoBackup {
    /// Others are held or being made.
    #[error(
        "this node holds as many backups as it may, or makes one; wait until they were fetched, or ask another node"
    )]
    Busy,
    /// It went wrong.
    #[error(transparent)]
    Failed(#[from] BackupError),
}

impl Cluster {
    /// Makes a backup: everything that was acknowledged anywhere before the call is in it. It is held until it is
    /// dropped, or not read for ten minutes.
    pub async fn back_up(&self) -> Result<(String, Arc<Contents>), NoBackup> {
        let backups = &self.backups;
        let Ok(_one) = backups.making.try_lock() else { return Err(NoBackup::Busy) };
        if !backups.make_room() {
            return Err(NoBackup::Busy);
        }
        let id = format!("{:016x}", random::number64());
        let dir = backups.root.join(&id);
        let io = |error| NoBackup::Failed(BackupError::Io { path: backups.root.clone(), error });
        files::create_private_dir(&backups.root).map_err(io)?;
        match self.metadata.back_up(dir.clone()).await {
            Ok(contents) => {
                let contents = Arc::new(contents);
                backups.held.lock().insert(id.clone(), Held { contents: contents.clone(), used: Instant::now() });
                Ok((id, contents))
            }
            Err(error) => {
                remove(&dir);
                Err(error.into())
            }
        }
    }

    /// A piece of a file of a backup, by the file's place in its contents; empty at its end. `None` for a backup or a
    /// file that isn't held.
    pub async fn read_backup(&self, id: &str, file: usize, offset: u64) -> Option<io::Result<Vec<u8>>> {
        let contents = self.backups.contents(id)?;
        let part = contents.files.get(file)?;
        let path = self.backups.root.join(id).join(&part.path);
        let left = part.size_bytes.saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(BACKUP_PIECE_BYTES_MAX);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; count];
            File::open(path)?.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        });
        Some(read.await.map_err(io::Error::other).flatten())
    }

    /// Removes a backup; false if it isn't held.
    pub fn drop_backup(&self, id: &str) -> bool {
        let was_held = self.backups.held.lock().remove(id).is_some();
        if was_held {
            remove(&self.backups.root.join(id));
        }
        was_held
    }
}
