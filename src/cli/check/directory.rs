//! One data directory of a stopped node: opened read-only, kept from others, and compared with itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use registry_core::metadata::check::stored;
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, Revision, StoreId};
use rustix::fs::FlockOperation;

use super::report::Problems;
use crate::blob::store::OpenError;
use crate::blob::store::fs::StoppedVolume;
use crate::blob::store::s3;
use crate::cli::error::CliError;
use crate::config::Settings;
use crate::ground::files::{self, FileLock};
use crate::metadata::stopped::StoppedState;
use crate::node::{Identity, IdentityError};

/// Where a node keeps what.
pub(super) struct Paths {
    data: PathBuf,
    state: PathBuf,
    raft: PathBuf,
    blobs: PathBuf,
}

impl Paths {
    /// As configured.
    pub(super) fn of_settings(settings: &Settings) -> Paths {
        Paths {
            data: settings.node.data_dir.clone(),
            state: settings.state_dir(),
            raft: settings.raft_dir(),
            blobs: settings.blobs_dir(),
        }
    }

    /// As it is by default.
    pub(super) fn under(dir: &Path) -> Paths {
        let [state, raft, blobs] = ["state", "raft", "blobs"].map(|name| dir.join(name));
        Paths { data: dir.to_owned(), state, raft, blobs }
    }
}

/// An open directory. No node starts on it while this lives.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) identity: Option<Identity>,
    /// `None` if it can't be opened; that is told.
    pub(super) state: Option<StoppedState>,
    pub(super) applied: u64,
    pub(super) log: raft::Inspection,
    /// `None` if it can't be opened; that is told.
    pub(super) volume: Option<StoppedVolume>,
    _locks: (FileLock, Vec<File>),
}

impl Directory {
    /// Opens a directory; what is damaged is told and left out.
    ///
    /// Errors: it is no data directory, or a node runs on it.
    pub(super) fn open(paths: Paths, problems: &mut Problems) -> Result<Directory, CliError> {
        let path = paths.data.clone();
        let identity = match Identity::read(&path) {
            Ok(Some(identity)) => Some(identity),
            Ok(None) => return Err(CliError::usage(no_directory(&path))),
            Err(error @ IdentityError::Io { .. }) => return Err(CliError::usage(error.to_string())),
            Err(error) => {
                problems.add(Some(&path), "identity", "identity.toml", error.to_string());
                None
            }
        };
        let locks = lock(&paths)?;
        let volume = match StoppedVolume::open(&paths.blobs) {
            // the copies are in the bucket, and what lies here says nothing about them
            Ok(_) if s3::is_cache(&paths.blobs) => None,
            Ok(volume) => Some(volume),
            Err(OpenError::InUse { .. }) => return Err(CliError::usage(running(&path))),
            Err(error) => {
                problems.add(Some(&path), "volume", "", error.to_string());
                None
            }
        };
        let state = StoppedState::open(&paths.state);
        let state = state.map_err(|error| problems.add(Some(&path), "state", "", error.to_string())).ok();
        let applied = state.as_ref().map(StoppedState::applied).transpose();
        let meta = state.as_ref().map(StoppedState::meta).transpose();
        for error in [applied.as_ref().err(), meta.as_ref().err()].into_iter().flatten() {
            problems.add(Some(&path), "state", "", error.to_string());
        }
        let log = raft::inspect(&paths.raft, meta.ok().flatten().flatten());
        let applied = applied.ok().flatten().unwrap_or(0);
        let directory = Directory { path, identity, state, applied, log, volume, _locks: locks };
        directory.compare(problems);
        Ok(directory)
    }

    /// The volume's id.
    pub(super) fn store(&self) -> Option<StoreId> {
        let marked = self.volume.as_ref().map(StoppedVolume::store_id);
        marked.or(self.identity.map(|identity| identity.store))
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        let owner = self.log.owner.map(|owner| NodeId(owner.node_id));
        self.identity.map(|identity| identity.node).or(owner)
    }

    fn cluster(&self) -> Option<ClusterId> {
        let marked = self.volume.as_ref().map(StoppedVolume::cluster);
        self.identity.map(|identity| identity.cluster).or(marked)
    }

    /// How far its state is.
    pub(super) fn revision(&self) -> Option<Revision> {
        let lineage = stored::cluster(self.state.as_ref()?)?.lineage;
        Some(Revision { lineage, index: self.applied })
    }

    /// Everything that says whose directory this is must say the same.
    fn compare(&self, problems: &mut Problems) {
        for text in &self.log.problems {
            problems.add(Some(self), "log", "", text.clone());
        }
        if let Some(volume) = &self.volume {
            for (segment, text) in volume.damaged_packs() {
                problems.add(Some(self), "pack", segment, text.clone());
            }
        }
        let Some(identity) = self.identity else { return };
        let mut differ = |subject: &str, what: &str, found: String, expected: String| {
            if found != expected {
                let text = format!("it says {what} {found}, identity.toml says {expected}");
                problems.add(Some(self), "identity", subject, text);
            }
        };
        if let Some(raft::Owner { cluster_id, node_id, .. }) = self.log.owner {
            let subject = "raft/node.id";
            differ(subject, "cluster", ClusterId(cluster_id).to_string(), identity.cluster.to_string());
            differ(subject, "node", NodeId(node_id).to_string(), identity.node.to_string());
        }
        if let Some(volume) = &self.volume {
            let subject = "blobs/store.toml";
            differ(subject, "cluster", volume.cluster().to_string(), identity.cluster.to_string());
            differ(subject, "store", volume.store_id().to_string(), identity.store.to_string());
        }
        let Some(state) = &self.state else { return };
        let row = stored::cluster(state);
        if let Some(row) = &row {
            differ("state", "cluster", row.cluster.to_string(), identity.cluster.to_string());
        }
        if let Some(seat) = stored::seats(state).get(&identity.store) {
            differ("state", "that the store is of node", seat.node.to_string(), identity.node.to_string());
        }
        // a life that has just begun is in the log, and not in the state yet
        let lives = row.zip(self.log.owner).filter(|_| self.log.unapplied() == 0);
        if let Some((row, owner)) = lives.filter(|(row, owner)| row.lineage.0 != owner.lineage) {
            let lineage = Lineage(owner.lineage);
            let text = format!("its tables are of lineage {}, raft/node.id says {lineage}", row.lineage);
            problems.add(Some(self), "identity", "state", text);
        }
        let marked = self.log.applied.map_or(0, |position| position.index);
        if marked != self.applied {
            let text = format!("its tables are at {}, the mark of consensus beside them at {marked}", self.applied);
            problems.add(Some(self), "state", "", text);
        }
    }
}

impl AsRef<Path> for Directory {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

fn no_directory(path: &Path) -> String {
    let shown = path.display();
    format!(
        "{shown} is no node's data directory: it has no identity.toml; name the directory that node.data_dir is set to"
    )
}

fn running(path: &Path) -> String {
    format!("a node runs on {}; stop it first (a check while it runs would judge what it is changing)", path.display())
}

/// Keeps a node from starting on the directory, as its own databases would.
fn lock(paths: &Paths) -> Result<(FileLock, Vec<File>), CliError> {
    let live = std::fs::read_to_string(paths.state.join("CURRENT")).unwrap_or_default();
    let data = files::lock_dir(&paths.data);
    let data = data.map_err(|error| CliError::failed(format!("{} can't be locked: {error}", paths.data.display())))?;
    let data = data.ok_or_else(|| CliError::usage(running(&paths.data)))?;
    let mut locks = Vec::new();
    for dir in [paths.raft.join("log"), paths.state.join(live.trim())] {
        let Ok(file) = File::open(dir.join("LOCK")) else { continue };
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => locks.push(file),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                return Err(CliError::usage(running(&paths.data)));
            }
            Err(error) => {
                return Err(CliError::failed(format!("{} can't be locked: {error}", dir.join("LOCK").display())));
            }
        }
    }
    Ok((data, locks))
}

/// Copies can only be counted over nodes of one cluster, each given once.
pub(super) fn ensure_one_cluster(directories: &[Directory]) -> Result<(), CliError> {
    let clusters: BTreeSet<ClusterId> = directories.iter().filter_map(Directory::cluster).collect();
    if clusters.len() > 1 {
        let shown = clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(CliError::usage(format!(
            "these directories belong to different clusters ({shown}); check each alone"
        )));
    }
    let mut stores = BTreeSet::new();
    match directories.iter().find(|directory| directory.store().is_some_and(|store| !stores.insert(store))) {
        Some(twice) => Err(CliError::usage(format!(
            "{} is the directory of a node that was given before; name each node's directory once",
            twice.path.display()
        ))),
        None => Ok(()),
    }
}

/// Two states at one index must have come there by the same changes.
pub(super) fn compare_states(directories: &[Directory], problems: &mut Problems) {
    for (at, one) in directories.iter().enumerate() {
        let digest = |one: &Directory| one.state.as_ref().and_then(stored::state_digest);
        let differs = |other: &&Directory| other.applied == one.applied && digest(other) != digest(one);
        let is_told = one.state.is_some();
        if let Some(other) = directories[..at].iter().find(|other| is_told && other.state.is_some() && differs(other)) {
            let text = format!("its running hash at index {} is not that of {}", one.applied, other.path.display());
            problems.add(Some(one), "diverged", "", text);
        }
    }
}
