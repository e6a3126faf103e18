//! Who this node is: `identity.toml` in its data directory, written once, synced, never changed.
//!
//! A node id is never used twice. An empty directory under the id of a node that the cluster knows would vote twice in
//! a term, so consensus refuses it; a wiped node joins anew.

use std::path::{Path, PathBuf};

use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, StoreId};
use serde::{Deserialize, Serialize};

use crate::ground::{files, random};

const FILE: &str = "identity.toml";

/// Version of the file's own layout.
const FORMAT: u32 = 1;

/// Who this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The life of that cluster's log it was made in. Consensus keeps which one it is in now.
    pub lineage: Lineage,
    /// Itself.
    pub node: NodeId,
    /// The blob volume it was made with.
    pub store: StoreId,
}

/// What is known about a node before its directory is read: from its certificate, or from the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The node.
    pub node: Option<NodeId>,
    /// The blob volume that is here already: a new node on an old volume goes on with its copies. Only for a directory
    /// that holds no identity yet.
    pub store: Option<StoreId>,
}

/// A data directory that this node can't be started on. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not one of ours.
    #[error(
        "{path} can't be read as a node's identity: {detail}; restore it, or join as a new node with an empty directory"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The directory belongs to somebody else.
    #[error(
        "{path} belongs to node {found_node} of cluster {found_cluster}, but the certificate or configuration says \
         {claimed}: give each node its own data directory"
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found_node: NodeId,
        /// Of which cluster.
        found_cluster: ClusterId,
        /// What was expected.
        claimed: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    cluster: String,
    lineage: String,
    node: String,
    store: String,
}

impl Identity {
    /// Reads the identity of a data directory, or makes one from the claim. The second value tells whether it was made
    /// now, in a directory that held nothing.
    pub fn load_or_create(dir: &Path, claim: Claim) -> Result<(Identity, bool), IdentityError> {
        let path = dir.join(FILE);
        match Identity::read(dir)? {
            Some(identity) => {
                let is_same = claim.cluster.is_none_or(|cluster| cluster == identity.cluster)
                    && claim.node.is_none_or(|node| node == identity.node);
                if is_same {
                    return Ok((identity, false));
                }
                let node = claim.node.map(|node| format!("node {node}"));
                let cluster = claim.cluster.map(|cluster| format!("cluster {cluster}"));
                let claimed = node.into_iter().chain(cluster).collect::<Vec<_>>().join(" of ");
                let (found_node, found_cluster) = (identity.node, identity.cluster);
                Err(IdentityError::Foreign { path, found_node, found_cluster, claimed })
            }
            None => {
                let cluster = claim.cluster.unwrap_or_else(random::cluster_id);
                let identity = Identity {
                    cluster,
                    lineage: Lineage::first(cluster),
                    node: claim.node.unwrap_or_else(random::node_id),
                    store: claim.store.unwrap_or_else(random::store_id),
                };
                let text = render(&identity);
                files::create_new(&path, text.as_bytes(), 0o600).map_err(|error| IdentityError::Io { path, error })?;
                Ok((identity, true))
            }
        }
    }

    /// Reads the identity of a data directory; `None` if it has none. Makes nothing.
    pub fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => match parse(&text) {
                Ok(identity) => Ok(Some(identity)),
                Err(detail) => Err(IdentityError::Damaged { path, detail }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(IdentityError::Io { path, error }),
        }
    }
}

fn render(identity: &Identity) -> String {
    let Identity { cluster, lineage, node, store } = identity;
    let stored = Stored {
        format: FORMAT,
        cluster: cluster.to_string(),
        lineage: lineage.to_string(),
        node: node.to_string(),
        store: store.to_string(),
    };
    let body = toml::to_string(&stored).expect("text fields serialize");
    format!("# Who this node is. Never edit or copy: two nodes under one id lose data.\n{body}")
}

fn parse(text: &str) -> Result<Identity, String> {
    let stored: Stored = toml::from_str(text).map_err(|error| error.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("format {}, this binary knows {FORMAT}", stored.format));
    }
    let bad = |field: &str| format!("{field} is not an id");
    Ok(Identity {
        cluster: ClusterId::parse(&stored.cluster).ok_or_else(|| bad("cluster"))?,
        lineage: Lineage::parse(&stored.lineage).ok_or_else(|| bad("lineage"))?,
        node: NodeId::parse(&stored.node).ok_or_else(|| bad("node"))?,
        store: StoreId::parse(&stored.store).ok_or_else(|| bad("store"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // An identity is made once; another claim on the same directory, or a damaged file, is refused.
    #[test]
    fn made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (made, is_new) = Identity::load_or_create(dir.path(), Claim::default()).unwrap();
        assert!(is_new);
        let same = Claim { cluster: Some(made.cluster), node: Some(made.node), store: Some(StoreId(1)) };
        assert_eq!(Identity::load_or_create(dir.path(), same).unwrap(), (made, false));
        let on_old_volume = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load_or_create(on_old_volume.path(), same).unwrap().0.store, StoreId(1));
        let other = Claim { node: Some(NodeId(1)), ..same };
        assert!(matches!(Identity::load_or_create(dir.path(), other), Err(IdentityError::Foreign { .. })));
        std::fs::write(dir.path().join(FILE), "format = 1\nnode = \"x\"\n").unwrap();
        assert!(matches!(Identity::load_or_create(dir.path(), same), Err(IdentityError::Damaged { .. })));
    }
}
