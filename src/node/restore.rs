//! Makes a node's empty data directory the beginning of a restored cluster.

use std::path::{Path, PathBuf};

use raft::Group;
use registry_core::vocabulary::ids::{ClusterId, Lineage};

use super::{NodeError, blobs, claim, join, member, seat, take_data_dir};
use crate::cluster::identity::Claim;
use crate::cluster::{Identity, IdentityError};
use crate::config::Settings;
use crate::ground::tls;
use crate::metadata::recover::{self, RecoverError};
use crate::metadata::tables::{self, StateError};

/// What was made of a backup.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// The node that begins.
    pub identity: Identity,
    /// The life of the log that begins.
    pub lineage: Lineage,
}

/// Nothing was restored. What was put into the data directory, if anything, is to be removed before another try.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The data directory is used, or can't be.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Who the node is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is something already.
    #[error(
        "{0} holds a node's state or log already; a backup is restored into an empty data directory only (a blob volume may \
         lie in it)"
    )]
    NotEmpty(PathBuf),
    /// The certificate is for another cluster.
    #[error(
        "the backup is of cluster {backup}, but this node's certificate is for cluster {certificate}: make one with the \
         authority of the cluster that was backed up"
    )]
    OtherCluster {
        /// Of the backup.
        backup: ClusterId,
        /// Of the certificate.
        certificate: ClusterId,
    },
    /// The state can't be put in place.
    #[error(transparent)]
    State(#[from] StateError),
    /// The new life can't be begun.
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// Puts the tables in `copy` in place and begins a new life of the log with this node as its one voter. The node is to
/// be started afterwards, others join it.
pub async fn restore(settings: &Settings, cluster: ClusterId, copy: &Path) -> Result<Restored, RestoreError> {
    let (dir, _lock) = take_data_dir(settings)?;
    join::unpack(settings)?;
    let named = settings.cluster_tls().map(|files| tls::load_node_files(&files)).transpose();
    let named = named.map_err(NodeError::Tls)?.map(|pems| pems.identity);
    let (raft_dir, state_dir) = (settings.raft_dir(), settings.state_dir());
    if Group::was_started(&raft_dir) || raft_dir.join("log").exists() || state_dir.join("CURRENT").exists() {
        return Err(RestoreError::NotEmpty(dir));
    }
    let claim = claim(settings, named);
    let claim = Claim { cluster: claim.cluster.or(Some(cluster)), ..claim };
    let (identity, _) = Identity::load_or_create(&dir, claim)?;
    if identity.cluster != cluster {
        return Err(RestoreError::OtherCluster { backup: cluster, certificate: identity.cluster });
    }
    // A volume that is here is taken, else one is made: the first start must find it.
    drop(blobs::open(settings, &identity, false).await?);
    let (seat, copy) = (seat(settings, &identity), copy.to_owned());
    let begun = tokio::task::spawn_blocking(move || {
        tables::bring_in(&state_dir, &copy)?;
        recover::restore(&raft_dir, &state_dir, cluster, member(&seat)).map_err(RestoreError::from)
    });
    let lineage = begun.await.map_err(|error| NodeError::Io(error.to_string()))??;
    Ok(Restored { identity, lineage })
}
