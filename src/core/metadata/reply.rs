//! What a command answers when it succeeds. Stored in the exactly-once window, so replies are small and append-only.

use bincode::{Decode, Encode};

use super::codec::{self, CodecError};
use super::tag::Version;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RepositoryId, UploadId};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;

/// Answer of one command.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// It is so now; nothing more to say.
    Done,
    /// Nothing needed to change, or what it was about has moved on.
    Unchanged,
    /// The repository now has this id.
    Repository {
        /// Its internal id.
        id: RepositoryId,
        /// Whether this command made it.
        created: bool,
    },
    /// A manifest is there.
    Manifest {
        /// Whether it was not there before.
        created: bool,
        /// Each tag asked for, in order.
        tags: Vec<TagMove>,
    },
    /// A manifest or tag is gone.
    Deleted {
        /// The tags that went with it.
        tags: Vec<TagMove>,
    },
    /// The bytes of this generation are the blob now.
    Blob {
        /// Which upload's bytes the record names.
        generation: UploadId,
    },
    /// The upload is at this epoch now.
    Epoch(u32),
    /// So many rows went; more may be left.
    Purged(u32),
    /// What is here stays: it ranks above what came from another region.
    Superseded,
}

impl Reply {
    /// How many tags it tells of; an outcome's size is bounded by their sum.
    pub(crate) fn tags(&self) -> usize {
        match self {
            Reply::Manifest { tags, .. } | Reply::Deleted { tags } => tags.len(),
            Reply::Done
            | Reply::Unchanged
            | Reply::Repository { .. }
            | Reply::Blob { .. }
            | Reply::Epoch(_)
            | Reply::Purged(_)
            | Reply::Superseded => 0,
        }
    }
}

/// One tag that moved, or went.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TagMove {
    /// Which tag.
    pub tag: Tag,
    /// What it named before.
    pub previous: Option<Digest>,
    /// The version of this change.
    pub version: Version,
}

/// Result of a whole proposal: the replies in order, and the refusal that ended it, if any.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Outcome {
    /// Replies of the commands before the refusal.
    pub replies: Vec<Reply>,
    /// Why the envelope ended early.
    pub refusal: Option<Refusal>,
}

impl Outcome {
    /// The reply bytes handed back through consensus.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_bare(self)
    }

    /// Reads reply bytes.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, CodecError> {
        codec::decode_bare("outcome", bytes)
    }
}
