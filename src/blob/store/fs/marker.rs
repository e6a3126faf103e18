//! `store.toml`: whose volume this is. Written once, first of all, and never changed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use registry_core::vocabulary::ids::{ClusterId, StoreId};
use serde::{Deserialize, Serialize};

use super::dir::Dir;
use crate::blob::store::{OpenError, StoreError};
use crate::ground::files::{self, FileLock};

const NAME: &str = "store.toml";
const TEMPORARY: &str = "store.toml.new";
const FORMAT: u32 = 1;
/// No marker of ours is longer.
const BYTES_MAX: u64 = 4096;

/// Which store the caller looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// This one and no other: the node has registered it.
    Known(StoreId),
    /// Nothing is registered yet: whatever store of the cluster is there, else a new one with this random id.
    FirstUse(StoreId),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    format: u32,
    store: String,
    cluster: String,
}

/// The store whose volume a directory is, if it is one, whosever it is: for who has no identity yet. Opening it checks.
pub fn marked(path: &Path) -> Option<StoreId> {
    let text = std::fs::read_to_string(path.join(NAME)).ok()?;
    StoreId::parse(&toml::from_str::<Marker>(&text).ok()?.store)
}

/// Finds or makes the marker in `root`; returns the store's id and the lock on the marker file, which keeps other
/// processes out until it is dropped.
pub(super) fn claim(
    root: &Dir,
    path: &Path,
    cluster: ClusterId,
    identity: Identity,
) -> Result<(StoreId, FileLock), OpenError> {
    let file = match root.open_read(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match identity {
            Identity::Known(expected) => {
                return Err(OpenError::MarkerMissing { path: root.path().to_owned(), expected });
            }
            Identity::FirstUse(fresh) => create(root, path, cluster, fresh)?,
        },
        Err(error) => return Err(root.error("open", NAME, error).into()),
    };
    let (store, found) = read(root, &file)?;
    if found != cluster {
        return Err(OpenError::ForeignCluster { path: root.path().to_owned(), found, expected: cluster });
    }
    if let Identity::Known(expected) = identity
        && store != expected
    {
        return Err(OpenError::WrongStore { path: root.path().to_owned(), found: store, expected });
    }
    Ok((store, lock(root, file)?))
}

/// Reads the marker of whatever volume is in `root`, and keeps other processes out until the lock is dropped.
pub(super) fn hold(root: &Dir) -> Result<(StoreId, ClusterId, FileLock), OpenError> {
    let file = root.open_read(NAME).map_err(|error| root.error("open", NAME, error))?;
    let (store, cluster) = read(root, &file)?;
    Ok((store, cluster, lock(root, file)?))
}

fn lock(root: &Dir, file: File) -> Result<FileLock, OpenError> {
    let locked = files::lock_file(file).map_err(|error| root.error("lock", NAME, error))?;
    locked.ok_or_else(|| OpenError::InUse { path: root.path().to_owned() })
}

fn create(root: &Dir, path: &Path, cluster: ClusterId, store: StoreId) -> Result<File, OpenError> {
    let names = root.names().map_err(|error| root.error("list", ".", error))?;
    if names.iter().any(|name| name != "lost+found" && name != TEMPORARY) {
        return Err(OpenError::NotEmpty { path: root.path().to_owned() });
    }
    let marker = Marker { format: FORMAT, store: store.to_string(), cluster: cluster.to_string() };
    let text = toml::to_string(&marker)
        .map_err(|error| OpenError::Marker { path: root.path().to_owned(), detail: error.to_string() })?;
    let made = (|| {
        let mut file = root.recreate(TEMPORARY)?;
        file.write_all(b"# Marks a blob volume. Do not edit, and do not copy to another volume.\n")?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        root.rename(TEMPORARY, root, NAME)?;
        root.sync()?;
        // The root itself may be new.
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all()?,
            _ => File::open(".")?.sync_all()?,
        }
        root.open_read(NAME)
    })();
    made.map_err(|error| root.error("create", NAME, error).into())
}

fn read(root: &Dir, file: &File) -> Result<(StoreId, ClusterId), OpenError> {
    let unreadable = |detail: String| OpenError::Marker { path: root.path().to_owned(), detail };
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    let marker: Marker = toml::from_str(&text).map_err(|error| unreadable(error.message().to_owned()))?;
    if marker.format != FORMAT {
        return Err(unreadable(format!("format {} is not known to this version", marker.format)));
    }
    let store = StoreId::parse(&marker.store).ok_or_else(|| unreadable("bad store id".to_owned()))?;
    let cluster = ClusterId::parse(&marker.cluster).ok_or_else(|| unreadable("bad cluster id".to_owned()))?;
    Ok((store, cluster))
}

/// A [`StoreError`] while the root is opened.
pub(super) fn root_error(path: &Path, error: std::io::Error) -> OpenError {
    OpenError::Store(StoreError::io(format!("open {} (a directory, not a link to one)", path.display()), error))
}
