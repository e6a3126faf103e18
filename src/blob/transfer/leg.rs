//! The sending end of a push between two nodes: a proxy to the primary, a primary to its backup, a survivor to a new
//! partner. Time limits are on progress: a peer that takes nothing for that long is lost.

use std::sync::Arc;
use std::time::Duration;

use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::limits::TRANSFER_QUEUED_FRAMES_MAX;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::intake::Batch;
use super::peers::Peer;
use super::wire::proto::{
    AppendData, AppendDone, AppendEnd, AppendOpen, AppendReply, AppendRequest, append_reply, append_request,
};
use super::{TransferError, TransferResult, wire};

/// An open stream to a holder. Dropping it breaks the stream off: the holder keeps what it wrote.
pub(super) struct Leg {
    peer: Arc<Peer>,
    patience: Duration,
    frames: mpsc::Sender<AppendRequest>,
    replies: Streaming<AppendReply>,
    /// Where the holder's bytes end.
    pub(super) offset: u64,
}

fn frame(part: append_request::Part) -> AppendRequest {
    AppendRequest { part: Some(part) }
}

impl Leg {
    /// Opens a stream and waits until the holder is ready for bytes.
    pub(super) async fn open(peer: Arc<Peer>, open: AppendOpen, patience: Duration) -> TransferResult<Leg> {
        let result = Leg::try_open(&peer, open, patience).await;
        peer.note(result.as_ref().err());
        result
    }

    async fn try_open(peer: &Arc<Peer>, open: AppendOpen, patience: Duration) -> TransferResult<Leg> {
        let (frames, queue) = mpsc::channel(TRANSFER_QUEUED_FRAMES_MAX);
        // The queue is empty, so this doesn't wait.
        drop(frames.send(frame(append_request::Part::Open(open))).await);
        let mut client = peer.bulk();
        let begin = async {
            let mut replies = client.append(ReceiverStream::new(queue)).await?.into_inner();
            let first = replies.message().await?;
            Ok((replies, first))
        };
        let (replies, first) = match timeout(patience, begin).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(status)) => return Err(wire::error_of(peer.node, &status)),
            Err(_) => return Err(peer.unreachable("did not take up the upload in time")),
        };
        match first.and_then(|reply| reply.part) {
            Some(append_reply::Part::Opened(opened)) => {
                Ok(Leg { peer: Arc::clone(peer), patience, frames, replies, offset: opened.offset })
            }
            Some(append_reply::Part::Done(_)) | None => Err(peer.unreachable("ended the upload before it began")),
        }
    }

    /// The holder.
    pub(super) fn node(&self) -> NodeId {
        self.peer.node
    }

    /// Sends a batch; waits while the holder is slower.
    pub(super) async fn send(&mut self, offset: u64, parts: Batch) -> TransferResult<()> {
        self.push(append_request::Part::Data(AppendData { offset, parts })).await
    }

    async fn push(&mut self, part: append_request::Part) -> TransferResult<()> {
        match timeout(self.patience, self.frames.send(frame(part))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.failure().await),
            Err(_) => Err(self.noted(self.peer.unreachable("took no bytes for too long"))),
        }
    }

    /// Ends the stream, and waits for what the holder has then.
    pub(super) async fn finish(mut self, is_complete: bool) -> TransferResult<AppendDone> {
        self.push(append_request::Part::End(AppendEnd { is_complete })).await?;
        match timeout(self.patience, self.replies.message()).await {
            Ok(Ok(Some(AppendReply { part: Some(append_reply::Part::Done(done)) }))) => Ok(done),
            Ok(Ok(_)) => Err(self.noted(self.peer.unreachable("ended the upload without an answer"))),
            Ok(Err(status)) => Err(self.noted(wire::error_of(self.peer.node, &status))),
            Err(_) => Err(self.noted(self.peer.unreachable("did not say in time what it holds"))),
        }
    }

    /// Why the holder takes no more frames.
    async fn failure(&mut self) -> TransferError {
        let error = match timeout(self.patience, self.replies.message()).await {
            Ok(Err(status)) => wire::error_of(self.peer.node, &status),
            Ok(Ok(_)) | Err(_) => self.peer.unreachable("broke the upload off"),
        };
        self.noted(error)
    }

    fn noted(&self, error: TransferError) -> TransferError {
        self.peer.note(Some(&error));
        error
    }
}
