//! The push, on the node that the client talks to. Each function is one step; the registry asks the metadata between
//! them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use registry_core::decide::placement::{NoPair, UploadPair, choose_upload_pair};
use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};
use registry_core::vocabulary::limits::{PACK_BLOB_BYTES_MAX, PLACE_TIMEOUT_MS};
use tracing::Instrument as _;

use crate::blob::store::{BlobKey, Pressure, StoreError};
use crate::ground::traces::traced_within;

use super::holder::Open;
use super::intake::Intake;
use super::leg::Leg;
use super::volumes::{At as _, blocking};
use super::wire::{self, proto};
use super::{
    Append, Appended, BlobSource, Body, Holders, Mirrored, Placed, Seal, Staged, Transfer, TransferError,
    TransferResult,
};

/// Verifying and syncing a whole upload may take long; that the holder is alive is watched by its connection.
const PLACE_TIMEOUT: Duration = Duration::from_millis(PLACE_TIMEOUT_MS);
/// A proxy waits longer than the primary waits for its backup, so that the primary can still say that this one was
/// lost.
const PROXY_PATIENCE: u32 = 3;

impl Transfer {
    /// Chooses who holds a new upload: this node if its store takes new blobs, and one in another zone (§5.3, 1). Where
    /// too few have room enough, also those whose volume is nearly full (§5.7).
    ///
    /// Errors: `NoPair`.
    pub fn choose_holders(&self, upload: UploadId) -> TransferResult<Holders> {
        self.choose(upload, None)
    }

    /// Chooses a new pair for an upload of which only `survivor` is left; the survivor is its primary.
    ///
    /// Errors: `NoPair`, `NodeUnknown` for a survivor that has no store in the directory.
    pub fn choose_partner(&self, upload: UploadId, survivor: NodeId) -> TransferResult<Holders> {
        let directory = self.inner.peers.directory();
        let store = directory.topology().stores().find(|store| store.node == survivor);
        self.choose(upload, Some(store.ok_or(TransferError::NodeUnknown(survivor))?.id))
    }

    fn choose(&self, upload: UploadId, survivor: Option<StoreId>) -> TransferResult<Holders> {
        match self.choose_below(Pressure::Full, upload, survivor) {
            // What is nearly full takes what nobody else can, until it refuses.
            Err(TransferError::NoPair(NoPair::Full)) => self.choose_below(Pressure::Refuse, upload, survivor),
            chosen => chosen,
        }
    }

    fn choose_below(&self, mark: Pressure, upload: UploadId, survivor: Option<StoreId>) -> TransferResult<Holders> {
        let (peers, local) = (&self.inner.peers, self.inner.holder.node);
        let topology = peers.live_topology(mark);
        let node_of = |store| topology.store(store).map(|place| place.node).ok_or(TransferError::StoreUnknown(store));
        let is_reachable = |store| node_of(store).is_ok_and(|node| peers.is_reachable(node));
        let UploadPair { primary, backup } = choose_upload_pair(&topology, local, &upload, survivor, is_reachable)?;
        Ok(Holders { primary: node_of(primary)?, backup: backup.map(node_of).transpose()? })
    }

    /// Appends a body: on this node if it is the primary, else through the primary. Reads the body no faster than both
    /// holders take it; at its end both hold the bytes or [`Appended::backup`] says why not.
    ///
    /// Both holders first truncate to the shorter one's end, which is at least what was acknowledged last.
    ///
    /// Errors: `Store` (`OffsetMismatch`, `Busy` while another writer runs, `Fenced`, `Sealed`, `UploadUnknown`,
    /// `Full`, `NoSpace`, …), `Unreachable` (the primary is lost: probe), `EpochUnknown`, `Overloaded`, `Body`.
    pub async fn append(&self, append: Append, body: Body) -> TransferResult<Appended> {
        let Append { upload, epoch, holders, algorithm, acknowledged, offset, owner } = append;
        let open = Open { upload, epoch, algorithm, acknowledged, offset, owner };
        if holders.primary == self.inner.holder.node {
            let here = async { self.inner.holder.open_primary(open, holders.backup).await?.run(body).await };
            return here.instrument(traced_within!("append", portolan.primary = "here")).await;
        }
        let message = open.message(proto::Role::Primary, holders.backup);
        let patience = self.inner.holder.patience * PROXY_PATIENCE;
        let leg = Leg::open(self.inner.peers.get(holders.primary)?, message, patience).await?;
        proxy(leg, holders, body).instrument(traced_within!("append", portolan.primary = %holders.primary)).await
    }

    /// Seals an upload on its holders: each verifies `digest` by itself and makes the bytes durable. A repeat only
    /// confirms, also after a crash of this node. When one holder was lost, a node that could have been chosen instead
    /// copies the blob from the other one: the placed bytes are final, so this needs no takeover.
    ///
    /// Errors when nobody placed it: `Store` (`DigestMismatch`: the bytes are freed; `Busy`; `Fenced`; …),
    /// `Unreachable`.
    pub async fn seal_and_place(&self, seal: Seal) -> TransferResult<Placed> {
        let wanted = if mutants::is_on(Mutant::OneZone) { 1 } else { usize::MAX };
        let answers =
            seal.holders.nodes().take(wanted).map(|node| async move { (node, self.place_on(node, seal).await) });
        let mut placed = Placed::join(self.gather(answers).instrument(traced_within!("place")).await)?;
        // Whatever the other one said: the bytes are right, so it has lost some if they hash to something else there.
        if let (&[survivor], [_]) = (placed.stores.as_slice(), placed.failed.as_slice()) {
            let key = BlobKey::new(seal.digest, seal.upload);
            let blob = BlobSource { key, size_bytes: placed.size_bytes, replicas: vec![survivor] };
            match self.copy_to_another(blob, survivor).await {
                Ok(store) => placed.stores.push(store),
                Err(error) => tracing::warn!(blob = %key, %error, "no other node could copy a blob that lost a holder"),
            }
        }
        Ok(placed)
    }

    /// Makes the node that the placement would pair with `survivor` copy a blob from there.
    async fn copy_to_another(&self, blob: BlobSource, survivor: StoreId) -> TransferResult<StoreId> {
        let pair = self.choose(blob.key.generation, Some(survivor))?;
        let node = pair.backup.ok_or(TransferError::NoPair(NoPair::Unreachable))?;
        if node == self.inner.holder.node {
            return self.replicate_anywhere_here(blob).await;
        }
        let peer = self.inner.peers.get(node)?;
        let request = proto::ReplicateRequest {
            blob: Some(wire::blob_request(survivor, &blob.key)),
            size_bytes: blob.size_bytes,
        };
        Ok(StoreId(peer.call(PLACE_TIMEOUT, peer.control().replicate(request)).await?.store))
    }

    async fn place_on(&self, node: NodeId, seal: Seal) -> TransferResult<(StoreId, u64)> {
        let Seal { upload, epoch, digest, acknowledged, .. } = seal;
        if node == self.inner.holder.node {
            return self.inner.holder.place(upload, epoch, digest, acknowledged).await;
        }
        let peer = self.inner.peers.get(node)?;
        let digest = digest.to_string();
        let request = proto::PlaceRequest { upload: Some(upload.into()), epoch, digest, acknowledged };
        let reply = peer.call(PLACE_TIMEOUT, peer.control().place(request)).await?;
        Ok((StoreId(reply.store), reply.size_bytes))
    }

    /// Stores a blob of at most `PACK_BLOB_BYTES_MAX` bytes durably on both holders at once, without a staging. The
    /// bytes are hashed here before anything is sent, and by each holder.
    ///
    /// Errors: as [`Transfer::seal_and_place`], and `TooLarge`.
    pub async fn put_small(&self, key: BlobKey, bytes: Bytes, holders: Holders) -> TransferResult<Placed> {
        let own = |error| TransferError::Store { node: self.inner.holder.node, error };
        if bytes.len() > PACK_BLOB_BYTES_MAX {
            return Err(own(StoreError::TooLarge { max: PACK_BLOB_BYTES_MAX as u64 }));
        }
        // At most 64 KiB: too little for a thread of its own.
        let actual = Digest::of(key.digest.algorithm(), &bytes);
        if actual != key.digest {
            return Err(own(StoreError::DigestMismatch { actual }));
        }
        let answers = holders.nodes().map(|node| {
            let bytes = bytes.clone();
            async move { (node, self.put_small_on(node, key, bytes).await) }
        });
        Placed::join(self.gather(answers).instrument(traced_within!("put small")).await)
    }

    /// What holders answer, asked all at once; on a shared bucket one by one, so that the second finds what the first
    /// has sent.
    async fn gather<T>(&self, answers: impl Iterator<Item: Future<Output = T>>) -> Vec<T> {
        if !self.inner.holder.volumes.share_bytes() {
            return join_all(answers).await;
        }
        let mut gathered = Vec::new();
        for answer in answers {
            gathered.push(answer.await);
        }
        gathered
    }

    async fn put_small_on(&self, node: NodeId, key: BlobKey, bytes: Bytes) -> TransferResult<(StoreId, u64)> {
        if node == self.inner.holder.node {
            return self.inner.holder.put_small(key, bytes).await;
        }
        let peer = self.inner.peers.get(node)?;
        let request =
            proto::PutSmallRequest { digest: key.digest.to_string(), generation: Some(key.generation.into()), bytes };
        let reply = peer.call(self.inner.holder.patience, peer.control().put_small(request)).await?;
        Ok((StoreId(reply.store), reply.size_bytes))
    }

    /// Frees an upload on its holders; per holder whether it had one. Placed blobs stay.
    pub async fn discard(&self, upload: UploadId, holders: Holders) -> Vec<(NodeId, TransferResult<bool>)> {
        let discard = |node| async move {
            if node == self.inner.holder.node {
                return self.inner.holder.discard(upload).await;
            }
            let peer = self.inner.peers.get(node)?;
            let request = proto::UploadRequest { upload: Some(upload.into()) };
            let reply = peer.call(self.inner.holder.patience, peer.control().discard(request)).await?;
            Ok(reply.was_staged)
        };
        join_all(holders.nodes().map(|node| async move { (node, discard(node).await) })).await
    }

    /// What each holder has of an upload now, primary first. The acknowledged end is the shortest (`GET` of an upload).
    pub async fn probe(&self, upload: UploadId, holders: Holders) -> Vec<(NodeId, TransferResult<Staged>)> {
        let probe = |node| async move {
            if node == self.inner.holder.node {
                return self.inner.holder.status(upload).await;
            }
            let peer = self.inner.peers.get(node)?;
            let request = proto::UploadRequest { upload: Some(upload.into()) };
            let reply = peer.call(self.inner.holder.patience, peer.control().status(request)).await?;
            wire::staged(node, reply)
        };
        join_all(holders.nodes().map(|node| async move { (node, probe(node).await) })).await
    }

    /// Makes the empty staging on both holders, so that an upload is there before its first byte. Optional: an append
    /// with nothing acknowledged does it too.
    pub async fn begin(&self, append: Append) -> Vec<(NodeId, TransferResult<Staged>)> {
        let Append { upload, epoch, algorithm, .. } = append;
        let begin = |node| async move {
            if node == self.inner.holder.node {
                return self.inner.holder.begin(upload, epoch, algorithm).await;
            }
            let peer = self.inner.peers.get(node)?;
            let request = proto::BeginRequest { upload: Some(upload.into()), epoch, algorithm: algorithm as u32 };
            wire::staged(node, peer.call(self.inner.holder.patience, peer.control().begin(request)).await?)
        };
        join_all(append.holders.nodes().map(|node| async move { (node, begin(node).await) })).await
    }

    /// After `TakeUpload` was applied: makes `survivor` refuse every lower epoch, durably, and tells what it has.
    /// Nothing may be served under the new epoch before this succeeded (§5.3, 4).
    pub async fn fence(&self, survivor: NodeId, upload: UploadId, epoch: u64) -> TransferResult<Staged> {
        if survivor == self.inner.holder.node {
            return self.inner.holder.note_epoch(upload, epoch).await;
        }
        let peer = self.inner.peers.get(survivor)?;
        let request = proto::NoteEpochRequest { upload: Some(upload.into()), epoch };
        wire::staged(survivor, peer.call(self.inner.holder.patience, peer.control().note_epoch(request)).await?)
    }

    /// After [`Transfer::fence`]: copies what the survivor staged to the new partner, which hashes it anew. Answers
    /// what the partner has then; equal to the survivor's offset. May be repeated.
    pub async fn refill(
        &self,
        survivor: NodeId,
        partner: NodeId,
        upload: UploadId,
        epoch: u64,
    ) -> TransferResult<Staged> {
        if survivor == self.inner.holder.node {
            return self.inner.holder.refill(upload, epoch, partner).await;
        }
        let peer = self.inner.peers.get(survivor)?;
        let request = proto::RefillRequest { upload: Some(upload.into()), epoch, partner: partner.0 };
        wire::staged(partner, peer.call(PLACE_TIMEOUT, peer.control().refill(request)).await?)
    }

    /// Whether blobs lie in a bucket that all nodes share.
    pub fn shares_bytes(&self) -> bool {
        self.inner.holder.volumes.share_bytes()
    }

    /// Lets this life of the cluster delete what an earlier one has stored where this node's stores are.
    pub async fn adopt(&self) -> TransferResult<()> {
        let volumes = self.inner.holder.volumes.clone();
        blocking(move || volumes.adopt()).await.at(self.inner.holder.node)
    }

    /// Asks stores, all at once, whether they have a blob *now* (§5.3, 5): its size, or `None`.
    pub async fn confirm(&self, key: BlobKey, stores: &[StoreId]) -> Vec<(StoreId, TransferResult<Option<u64>>)> {
        let directory = self.inner.peers.directory();
        let confirm = |store: StoreId| {
            let node = directory.node_of(store).map(|seat| seat.id);
            async move {
                if self.inner.holder.volumes.get(store).is_some() {
                    return self.inner.holder.confirm(store, key).await;
                }
                let peer = self.inner.peers.get(node.ok_or(TransferError::StoreUnknown(store))?)?;
                let request = wire::blob_request(store, &key);
                let reply = peer.call(self.inner.holder.patience, peer.control().confirm(request)).await?;
                Ok(reply.is_here.then_some(reply.size_bytes))
            }
        };
        let asked = stores.iter().map(|store| {
            let answer = confirm(*store);
            async move { (*store, answer.await) }
        });
        join_all(asked).await
    }
}

/// Streams a body to the primary, which answers for both holders.
async fn proxy(mut leg: Leg, holders: Holders, body: Body) -> TransferResult<Appended> {
    let mut intake = Intake::new(body);
    let mut at = leg.offset;
    while let Some(batch) = intake.next().await {
        match batch {
            Ok(batch) => {
                let len: u64 = batch.iter().map(|part| part.len() as u64).sum();
                leg.send(at, batch).await?;
                at += len;
            }
            Err(error) => {
                let offset = match leg.finish(false).await {
                    Err(TransferError::Body { offset, .. }) => offset,
                    Ok(_) | Err(_) => None,
                };
                return Err(TransferError::Body { error, offset });
            }
        }
    }
    let done = leg.finish(true).await?;
    let backup = match (done.backup_failure, holders.backup) {
        (Some(failure), Some(backup)) => Mirrored::Lost(
            wire::error_of_failure(backup, &failure)
                .unwrap_or(TransferError::Unreachable { node: backup, detail: failure.text.into() }),
        ),
        (_, None) => Mirrored::Alone,
        (None, Some(_)) => Mirrored::Equal,
    };
    Ok(Appended { offset: done.offset, backup })
}
