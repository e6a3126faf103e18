//! Where the copies of a blob lie: for operators, who ask whether enough of them are there.

use std::collections::BTreeSet;

use registry_core::metadata::blob::{self, BlobState};
use registry_core::metadata::{need, node};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;
use registry_core::vocabulary::{Digest, Refusal};

use super::{At, Consistency, Registry};
use crate::metadata::revision;

/// A blob's record, as an operator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobCopies {
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// When it was committed, replicated milliseconds since 1970.
    pub committed_at_ms: u64,
    /// Whether nobody uses it any more.
    pub is_condemned: bool,
    /// The confirmed copies.
    pub copies: Vec<CopyPlace>,
    /// Zones where the placement wants another one.
    pub wanted: BTreeSet<ZoneName>,
}

/// Where a copy lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlace {
    /// The volume.
    pub store: StoreId,
    /// Who serves it, and in which zone; `None` for a volume that nobody serves: its node was removed.
    pub seat: Option<(NodeId, ZoneName)>,
}

impl Registry {
    /// Looks up where the copies of a blob lie. Refuses with `BlobUnknown`.
    pub async fn copies(&self, digest: &Digest, consistency: Consistency) -> Result<At<BlobCopies>, Refusal> {
        let found = self.metadata().read(consistency, |view| {
            let row = blob::read(view, digest)?;
            let topology = node::topology(view);
            let place = |store: &StoreId| {
                let node = topology.store(*store).map(|place| place.node);
                let seat = node.and_then(|id| Some((id, topology.zone_of_node(id)?.clone())));
                CopyPlace { store: *store, seat }
            };
            let value = BlobCopies {
                digest: *digest,
                size_bytes: row.size_bytes,
                committed_at_ms: row.committed_at_ms,
                is_condemned: matches!(row.state, BlobState::Condemned(_)),
                copies: row.stores.iter().map(place).collect(),
                wanted: need::wanted(&topology, digest, &row.stores),
            };
            Some(At { value, revision: revision(view) })
        });
        found.await?.ok_or(Refusal::BlobUnknown { digest: *digest })
    }
}
