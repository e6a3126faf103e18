//! Where the copies of a blob lie, for operators who ask whether enough of them are there; and whether they are good.

use std::collections::BTreeSet;

use registry_core::decide::permit::Permit;
use registry_core::metadata::blob::{self, BlobRow, BlobState, UnconfirmReplica};
use registry_core::metadata::{link, manifest, need, node};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;
use registry_core::vocabulary::{Digest, Refusal};

use super::{At, Consistency, Registry, find};
use crate::blob::store::BlobKey;
use crate::blob::transfer::Verified;
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

/// What reading and hashing all copies of a blob came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckedCopies {
    /// Copies whose bytes hash to the digest.
    pub good: u32,
    /// Copies that were damaged or not there: they are off their record, and others are made.
    pub bad: u32,
    /// Copies that could not be read now.
    pub unread: u32,
}

impl CheckedCopies {
    /// Whether a copy is bad, or none is left at all.
    pub fn is_bad(&self) -> bool {
        self.bad > 0 || self.is_lost()
    }

    /// Whether no copy is left.
    pub fn is_lost(&self) -> bool {
        self.good == 0 && self.unread == 0
    }

    /// Whether a copy is bad, and nobody knows of a good one.
    pub fn is_doubtful(&self) -> bool {
        self.bad > 0 && self.good == 0 && self.unread > 0
    }

    /// Whether any copy was judged.
    pub fn is_read(&self) -> bool {
        self.good > 0 || self.bad > 0
    }
}

impl Registry {
    /// Has all copies of a blob that a repository holds read and hashed. Bad ones go off its record, as by the nodes'
    /// scrub; those that are not there at all this takes off. `None` if the repository does not hold it, and no
    /// manifest of it says that it should.
    pub async fn check_copies(&self, permit: &Permit, digest: &Digest) -> Result<Option<CheckedCopies>, Refusal> {
        self.metadata().ready(Consistency::Linearizable).await?;
        let found = self.metadata().peek(|view| {
            let (repository, _) = find(view, permit).ok()?;
            let row = link::read(view, &repository, digest).map(|_| blob::read(view, digest));
            // without a link, nobody can pull what its manifests name
            row.or_else(|| manifest::holder(view, &repository, digest).map(|_| None))
        });
        let Some(row) = found else { return Ok(None) };
        let mut checked = CheckedCopies::default();
        let Some(BlobRow { generation, stores, .. }) = row else { return Ok(Some(checked)) };
        let (mut rotten, mut off) = (0, Vec::new());
        for (store, verified) in self.transfer().verify(BlobKey::new(*digest, generation), &stores).await {
            match verified {
                Ok(Verified::Good) => checked.good += 1,
                // its node takes it off the record: by the time that all have answered, a good one may be in its place
                Ok(Verified::Bad) => rotten += 1,
                Ok(Verified::Missing) => off.push(store),
                Err(error) => {
                    tracing::debug!(%digest, %store, %error, "a copy could not be hashed");
                    checked.unread += 1;
                }
            }
        }
        if !off.is_empty() {
            // a node that is behind would take what was let go for a loss
            self.metadata().ready(Consistency::Linearizable).await?;
        }
        // what was let go meanwhile is not missing
        let row = self.metadata().peek(|view| blob::read(view, digest)).filter(|row| row.generation == generation);
        off.retain(|store| row.as_ref().is_some_and(|row| row.stores.contains(store)));
        let is_new = |store: &&StoreId| !stores.contains(store);
        let new = row.as_ref().map_or(0, |row| row.stores.iter().filter(is_new).count());
        checked.unread += u32::try_from(new).unwrap_or(u32::MAX);
        checked.bad = rotten + u32::try_from(off.len()).unwrap_or(u32::MAX);
        if off.is_empty() {
            let is_known = row.is_some() || checked.bad > 0;
            return Ok(is_known.then_some(checked));
        }
        let off = off.into_iter().map(|store| UnconfirmReplica { digest: *digest, generation, store }.into());
        self.metadata().propose(&permit.principal, off.collect()).await?;
        Ok(Some(checked))
    }

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
