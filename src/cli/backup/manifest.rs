//! `backup.json`: what a backup consists of.

use std::path::{Component, Path};

use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::ClusterId;
use serde::{Deserialize, Serialize};

use crate::cli::error::CliError;

pub(super) const FILE: &str = "backup.json";
/// Version of the layout of a backup.
const FORMAT: u32 = 1;
/// Largest description that is read, bytes: some hundred thousand files.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a backup consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    pub(super) cluster: String,
    pub(super) lineage: String,
    /// Everything up to this log index is in it.
    pub(super) index: u64,
    /// When it was asked for, RFC 3339, by the clock of who fetched it: all that was acknowledged before is in it.
    pub(super) made_at: String,
    /// The node that made it.
    pub(super) node: String,
    /// Of its program.
    pub(super) version: String,
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    pub(super) files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) digest: String,
}

/// What a node says of a backup that it holds.
#[derive(Debug, Deserialize)]
pub(super) struct Held {
    pub(super) id: String,
    cluster: String,
    lineage: String,
    index: u64,
    node: String,
    version: String,
    blobs: u64,
    blob_bytes: u64,
    pub(super) files: Vec<Entry>,
}

impl Held {
    pub(super) fn manifest(self, made_at: String) -> Manifest {
        let Held { cluster, lineage, index, node, version, blobs, blob_bytes, files, .. } = self;
        Manifest { format: FORMAT, cluster, lineage, index, made_at, node, version, blobs, blob_bytes, files }
    }
}

impl Manifest {
    /// Reads the description of the backup in `dir`.
    pub(super) fn read(dir: &Path) -> Result<Manifest, CliError> {
        let path = dir.join(FILE);
        let told = |problem: String| CliError::failed(format!("{}: {problem}", path.display()));
        let size_bytes = std::fs::metadata(&path)
            .map_err(|error| told(format!("{error}; is {} a backup, and was it made to its end?", dir.display())))?;
        if size_bytes.len() > BYTES_MAX {
            return Err(told("it is too large".to_owned()));
        }
        let bytes = std::fs::read(&path).map_err(|error| told(error.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| told(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(told(format!("format {}, this program knows {FORMAT}", manifest.format)));
        }
        manifest.files.iter().try_for_each(Entry::check)?;
        Ok(manifest)
    }

    pub(super) fn cluster_id(&self) -> Result<ClusterId, CliError> {
        ClusterId::parse(&self.cluster).ok_or_else(|| CliError::failed(format!("{FILE} names no cluster")))
    }
}

impl Entry {
    /// Names come from elsewhere: they must stay inside the backup.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let is_inside = Path::new(&self.path).components().all(|part| matches!(part, Component::Normal(_)));
        if is_inside && !self.path.is_empty() && self.path != FILE {
            Ok(())
        } else {
            Err(CliError::failed(format!("the backup names the file '{}', which lies outside of it", self.path)))
        }
    }

    pub(super) fn digest(&self) -> Result<Digest, CliError> {
        let told = |_| CliError::failed(format!("the digest of {} is none", self.path));
        Digest::parse(&self.digest).map_err(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // No name in a backup leads out of it.
    #[test]
    fn names_stay_inside() {
        let entry = |path: &str| Entry { path: path.to_owned(), size_bytes: 0, digest: String::new() };
        for good in ["blobs.txt", "state/000012.sst"] {
            assert!(entry(good).check().is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "state/../../x", "backup.json"] {
            assert!(entry(bad).check().is_err(), "{bad}");
        }
    }
}
