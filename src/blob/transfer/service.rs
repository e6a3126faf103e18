//! The blob service of this node: reads messages, calls the holder, writes answers.

use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _};
use raft::network::identity::Identity;
use raft::network::transport::PeerInfo;
use registry_core::vocabulary::ids::NodeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::chunk::run_backup;
use super::holder::{Holder, Open};
use super::intake::body_of;
use super::relay::RelayAnswer;
use super::source::{self, Span};
use super::wire::proto::blob_server::Blob;
use super::wire::proto::{self, append_reply, append_request};
use super::wire::{self, Route, status_of};
use super::{Appended, BlobSource, Mirrored, Transfer, TransferError, TransferResult};

/// Serves what one node holds.
pub(super) struct Service {
    holder: Arc<Holder>,
    transfer: Transfer,
}

impl Service {
    pub(super) fn new(transfer: Transfer) -> Service {
        Service { holder: Arc::clone(&transfer.inner.holder), transfer }
    }
}

/// Refuses calls that are meant for another cluster or node, and calls by nodes that are not in the directory. With TLS
/// (`must_show`) the certificate says who calls, never the message.
pub(super) fn check_route(holder: &Holder, must_show: bool, request: Request<()>) -> Result<Request<()>, Status> {
    let reject = |detail: String| status_of(&TransferError::Rejected { node: holder.node, detail: detail.into() });
    let route = Route::read(request.metadata()).ok_or_else(|| reject("the call does not say where it goes".into()))?;
    if route.cluster != holder.peers.cluster {
        return Err(reject(format!("this is cluster {}, not {}", holder.peers.cluster, route.cluster)));
    }
    if route.to != holder.node {
        return Err(reject(format!("this is node {}, not {}", holder.node, route.to)));
    }
    if must_show {
        let shown = request.extensions().get::<PeerInfo>().and_then(|peer| peer.identity.as_ref());
        let is_same = |shown: &Identity| shown.cluster_id == route.cluster.0 && shown.node_id() == Some(route.from.0);
        if !shown.is_some_and(|shown| is_same(shown)) {
            return Err(reject(format!("the certificate does not name node {}", route.from)));
        }
    }
    if holder.peers.directory().node(route.from).is_none() {
        return Err(reject(format!("node {} is not a member", route.from)));
    }
    Ok(request)
}

fn answer<T, M>(result: TransferResult<T>, message: impl FnOnce(T) -> M) -> Result<Response<M>, Status> {
    result.map(|value| Response::new(message(value))).map_err(|error| status_of(&error))
}

fn place_reply((store, size_bytes): (registry_core::vocabulary::ids::StoreId, u64)) -> proto::PlaceReply {
    proto::PlaceReply { store: store.0, size_bytes }
}

#[tonic::async_trait]
impl Blob for Service {
    async fn ping(&self, _request: Request<proto::PingRequest>) -> Result<Response<proto::PingReply>, Status> {
        let stores = self.holder.peers.own().iter().map(wire::store_usage).collect();
        let peers = &self.holder.peers;
        let (log_is_short, is_closing) = (peers.is_log_short(), peers.is_closing());
        let (wall_ms, is_full) = (peers.clock.wall_ms(), peers.crowd.is_full());
        Ok(Response::new(proto::PingReply { stores, log_is_short, is_closing, wall_ms, is_full }))
    }

    async fn begin(&self, request: Request<proto::BeginRequest>) -> Result<Response<proto::Staged>, Status> {
        let request = request.into_inner();
        let (upload, algorithm) = (wire::upload_id(request.upload)?, wire::algorithm(request.algorithm)?);
        answer(self.holder.begin(upload, request.epoch, algorithm).await, Into::into)
    }

    async fn status(&self, request: Request<proto::UploadRequest>) -> Result<Response<proto::Staged>, Status> {
        let upload = wire::upload_id(request.into_inner().upload)?;
        answer(self.holder.status(upload).await, Into::into)
    }

    async fn note_epoch(&self, request: Request<proto::NoteEpochRequest>) -> Result<Response<proto::Staged>, Status> {
        let request = request.into_inner();
        let upload = wire::upload_id(request.upload)?;
        answer(self.holder.note_epoch(upload, request.epoch).await, Into::into)
    }

    type AppendStream = BoxStream<'static, Result<proto::AppendReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(self.holder.patience, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no opening message"))??;
        let Some(append_request::Part::Open(message)) = first.and_then(|frame| frame.part) else {
            return Err(Status::invalid_argument("an append begins with its opening message"));
        };
        let open = Open {
            upload: wire::upload_id(message.upload)?,
            epoch: message.epoch,
            algorithm: wire::algorithm(message.algorithm)?,
            acknowledged: message.acknowledged,
            offset: message.offset,
            owner: message.owner,
        };
        let replies = match message.role() {
            proto::Role::Primary => self.append_primary(open, message.backup.map(NodeId), frames).await,
            proto::Role::Backup => self.append_backup(open, frames).await,
            proto::Role::Unspecified => return Err(Status::invalid_argument("a holder is primary or backup")),
        };
        answer(replies, |replies| ReceiverStream::new(replies).boxed())
    }

    async fn place(&self, request: Request<proto::PlaceRequest>) -> Result<Response<proto::PlaceReply>, Status> {
        let request = request.into_inner();
        let (upload, digest) = (wire::upload_id(request.upload)?, wire::digest(&request.digest)?);
        answer(self.holder.place(upload, request.epoch, digest, request.acknowledged).await, place_reply)
    }

    async fn discard(&self, request: Request<proto::UploadRequest>) -> Result<Response<proto::DiscardReply>, Status> {
        let upload = wire::upload_id(request.into_inner().upload)?;
        answer(self.holder.discard(upload).await, |was_staged| proto::DiscardReply { was_staged })
    }

    async fn put_small(&self, request: Request<proto::PutSmallRequest>) -> Result<Response<proto::PlaceReply>, Status> {
        let request = request.into_inner();
        let digest = wire::digest(&request.digest)?;
        let key = crate::blob::store::BlobKey::new(digest, wire::upload_id(request.generation)?);
        answer(self.holder.put_small(key, request.bytes).await, place_reply)
    }

    async fn confirm(&self, request: Request<proto::BlobRequest>) -> Result<Response<proto::ConfirmReply>, Status> {
        let (store, key) = wire::blob(request.into_inner())?;
        answer(self.holder.confirm(store, key).await, |size| proto::ConfirmReply {
            is_here: size.is_some(),
            size_bytes: size.unwrap_or(0),
        })
    }

    async fn verify(&self, request: Request<proto::BlobRequest>) -> Result<Response<proto::VerifyReply>, Status> {
        let (store, key) = wire::blob(request.into_inner())?;
        answer(self.holder.verify(store, key).await, wire::verify_reply)
    }

    type FetchStream = BoxStream<'static, Result<proto::BlocksReply, Status>>;

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let (store, key) = wire::blob(request.blob.unwrap_or_default())?;
        if request.offset >= request.until || request.until > request.size_bytes {
            return Err(Status::invalid_argument("the range is not inside the blob"));
        }
        let span = Span { key, size_bytes: request.size_bytes, at: request.offset, until: request.until };
        let blocks = serve_blocks(Arc::clone(&self.holder), store, span).await;
        blocks.map(Response::new).map_err(|error| status_of(&error))
    }

    async fn refill(&self, request: Request<proto::RefillRequest>) -> Result<Response<proto::Staged>, Status> {
        let request = request.into_inner();
        let upload = wire::upload_id(request.upload)?;
        answer(self.holder.refill(upload, request.epoch, NodeId(request.partner)).await, Into::into)
    }

    async fn replicate(
        &self,
        request: Request<proto::ReplicateRequest>,
    ) -> Result<Response<proto::PlaceReply>, Status> {
        let request = request.into_inner();
        let size_bytes = request.size_bytes;
        let (from, key) = wire::blob(request.blob.unwrap_or_default())?;
        let blob = BlobSource { key, size_bytes, replicas: vec![from] };
        answer(self.transfer.replicate_anywhere_here(blob).await, |store| place_reply((store, size_bytes)))
    }

    type RelayStream = RelayAnswer;

    async fn relay(&self, request: Request<proto::RelayRequest>) -> Result<Response<Self::RelayStream>, Status> {
        self.transfer.relay_to(request.into_inner()).await.map(Response::new)
    }
}

type Replies = mpsc::Receiver<Result<proto::AppendReply, Status>>;

fn reply(part: append_reply::Part) -> proto::AppendReply {
    proto::AppendReply { part: Some(part) }
}

/// A channel that already carries the `opened` answer.
fn opened(offset: u64) -> (mpsc::Sender<Result<proto::AppendReply, Status>>, Replies) {
    let (sender, replies) = mpsc::channel(2);
    // There is room for two.
    drop(sender.try_send(Ok(reply(append_reply::Part::Opened(proto::AppendOpened { offset })))));
    (sender, replies)
}

impl Service {
    async fn append_primary(
        &self,
        open: Open,
        backup: Option<NodeId>,
        frames: Streaming<proto::AppendRequest>,
    ) -> TransferResult<Replies> {
        let chunk = self.holder.open_primary(open, backup).await?;
        let (sender, replies) = opened(chunk.offset());
        // Ends by itself when the frames do; they do when the connection dies.
        tokio::spawn(async move {
            let done =
                chunk.run(body_of(frames)).await.map(|appended| reply(append_reply::Part::Done(done(&appended))));
            // Whoever asked may be gone.
            drop(sender.send(done.map_err(|error| status_of(&error))).await);
        });
        Ok(replies)
    }

    async fn append_backup(&self, open: Open, frames: Streaming<proto::AppendRequest>) -> TransferResult<Replies> {
        let (appender, room) = self.holder.open_backup(open).await?;
        let (sender, replies) = opened(appender.end());
        let node = self.holder.node;
        tokio::spawn(async move {
            let held = run_backup(node, appender, frames).await;
            let done = |offset| reply(append_reply::Part::Done(proto::AppendDone { offset, backup_failure: None }));
            drop(sender.send(held.map(done).map_err(|error| status_of(&error))).await);
            drop(room);
        });
        Ok(replies)
    }
}

fn done(appended: &Appended) -> proto::AppendDone {
    let backup_failure = match &appended.backup {
        Mirrored::Alone | Mirrored::Equal => None,
        Mirrored::Lost(error) => Some(wire::failure(error)),
    };
    proto::AppendDone { offset: appended.offset, backup_failure }
}

async fn serve_blocks(
    holder: Arc<Holder>,
    store: registry_core::vocabulary::ids::StoreId,
    span: Span,
) -> TransferResult<BoxStream<'static, Result<proto::BlocksReply, Status>>> {
    let room = holder.admit_fetch()?;
    let volume = holder.volumes.get(store).ok_or(TransferError::StoreUnknown(store))?;
    let (first, rest) = match source::local(&holder.reads, volume, span).await {
        Ok(opened) => opened,
        Err(error) => {
            holder.report(store, span.key, &error).await;
            return Err(TransferError::Store { node: holder.node, error });
        }
    };
    let blocks = futures_util::stream::iter([Ok(first)]).chain(rest).then(move |blocks| {
        let holder = Arc::clone(&holder);
        // Lives as long as the stream.
        let _room = &room;
        async move {
            match blocks {
                Ok(blocks) => Ok(wire::blocks_reply(blocks)),
                Err(error) => {
                    holder.report(store, span.key, &error).await;
                    Err(status_of(&TransferError::Store { node: holder.node, error }))
                }
            }
        }
    });
    Ok(blocks.boxed())
}
