//! What can go wrong between nodes, by remedy.

use std::sync::Arc;

use registry_core::decide::placement::NoPair;
use registry_core::vocabulary::ids::{NodeId, StoreId};

use crate::blob::store::StoreError;

use super::BodyError;

/// Why bytes did not move.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    /// A holder answered: its store said no.
    #[error("{node}: {error}")]
    Store {
        /// Which holder.
        node: NodeId,
        /// What its store said.
        error: StoreError,
    },
    /// The node can't be reached, went away or made no progress. Whether the act happened is unknown; all acts here may
    /// be repeated.
    #[error("node {node} is out of reach: {detail}")]
    Unreachable {
        /// Which node.
        node: NodeId,
        /// What was seen.
        detail: Arc<str>,
    },
    /// The directory does not know the node or the store: the topology has moved on, or this node's view is old.
    #[error("node {0} is not in the directory")]
    NodeUnknown(NodeId),
    /// As before, for a store.
    #[error("store {0} is not in the directory")]
    StoreUnknown(StoreId),
    /// The node refused to talk: another cluster, another node under this address, or a message it can't read.
    #[error("node {node} refused the call: {detail}")]
    Rejected {
        /// Which node.
        node: NodeId,
        /// Its words.
        detail: Arc<str>,
    },
    /// As many streams are open as the node takes; nothing happened. Answer 503, retry later.
    #[error("node {node} has no room for another stream")]
    Overloaded {
        /// Which node.
        node: NodeId,
    },
    /// Whoever sends this upload has as many under way at its primary as one may have; nothing happened. Answer 429.
    #[error("node {node} stages as many uploads of this user as one may have")]
    ShareUsedUp {
        /// Which node.
        node: NodeId,
    },
    /// After its restart the holder could not learn the upload's epoch. Nothing was appended; retry later.
    #[error("node {node} can't learn the upload's epoch: no quorum")]
    EpochUnknown {
        /// Which holder.
        node: NodeId,
    },
    /// No pair of holders can be formed now.
    #[error(transparent)]
    NoPair(#[from] NoPair),
    /// No replica of the blob is good and within reach.
    #[error("no good copy of the blob is within reach")]
    NoCopy {
        /// All replicas answered, none has it.
        is_missing: bool,
    },
    /// The request's body failed: the client went away, or broke a limit. What was acknowledged stays.
    #[error("the body ended early: {error}")]
    Body {
        /// The body's own error.
        error: BodyError,
        /// How many bytes both holders have, as far as is known.
        offset: Option<u64>,
    },
}

impl TransferError {
    /// The store's own answer, if a holder gave one.
    pub fn store_error(&self) -> Option<&StoreError> {
        match self {
            TransferError::Store { error, .. } => Some(error),
            TransferError::Unreachable { .. }
            | TransferError::NodeUnknown(_)
            | TransferError::StoreUnknown(_)
            | TransferError::Rejected { .. }
            | TransferError::Overloaded { .. }
            | TransferError::ShareUsedUp { .. }
            | TransferError::EpochUnknown { .. }
            | TransferError::NoPair(_)
            | TransferError::NoCopy { .. }
            | TransferError::Body { .. } => None,
        }
    }

    /// Whether a holder answered that it has nothing of the upload.
    pub fn is_upload_unknown(&self) -> bool {
        matches!(self.store_error(), Some(StoreError::UploadUnknown))
    }

    /// Whether what the holder's store stands on does not answer. Its bytes are where they were, and another holder
    /// would be no better off.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.store_error(), Some(StoreError::Unavailable { .. }))
    }

    /// Whether the holder is lost to its upload for now: the other one should be given a new partner. True when it is
    /// out of reach, has no staging any more, or its volume takes no writes.
    pub fn is_holder_lost(&self) -> bool {
        match self {
            TransferError::Unreachable { .. } | TransferError::NodeUnknown(_) | TransferError::Rejected { .. } => true,
            TransferError::Store { error, .. } => matches!(
                error,
                StoreError::UploadUnknown
                    | StoreError::NoSpace
                    | StoreError::Full { .. }
                    | StoreError::VolumeFailed { .. }
                    | StoreError::Io { .. }
            ),
            TransferError::StoreUnknown(_)
            | TransferError::Overloaded { .. }
            | TransferError::ShareUsedUp { .. }
            | TransferError::EpochUnknown { .. }
            | TransferError::NoPair(_)
            | TransferError::NoCopy { .. }
            | TransferError::Body { .. } => false,
        }
    }
}
