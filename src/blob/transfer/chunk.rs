//! One chunk on its way through a holder.

use registry_core::vocabulary::ids::NodeId;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Streaming;

use crate::blob::store::StoreError;

use super::intake::{Appender, Batch, Intake};
use super::leg::Leg;
use super::volumes::At as _;
use super::wire::proto::{AppendRequest, append_request::Part};
use super::{Appended, Body, Mirrored, TransferError, TransferResult};

/// The primary's stream to its backup.
pub(super) enum Mirror {
    /// There is no backup.
    None,
    /// It takes bytes.
    Open(Leg),
    /// It was lost; the primary goes on alone.
    Lost(TransferError),
}

impl Mirror {
    /// Where the backup's bytes ended when it was opened.
    pub(super) fn offset(&self) -> Option<u64> {
        match self {
            Mirror::Open(leg) => Some(leg.offset),
            Mirror::None | Mirror::Lost(_) => None,
        }
    }

    /// Sends a batch, if the backup is still there. Errors only when the upload must not go on here.
    pub(super) async fn send(&mut self, offset: u64, batch: Batch) -> TransferResult<()> {
        let Mirror::Open(leg) = self else { return Ok(()) };
        match leg.send(offset, batch).await {
            Ok(()) => Ok(()),
            Err(error) => self.lose(error),
        }
    }

    fn lose(&mut self, error: TransferError) -> TransferResult<()> {
        // A backup that was fenced obeys a newer pair: this primary is no longer one.
        if matches!(error.store_error(), Some(StoreError::Fenced { .. })) {
            return Err(error);
        }
        tracing::warn!(%error, "an upload's backup was lost; the primary goes on alone");
        *self = Mirror::Lost(error);
        Ok(())
    }

    /// Ends the stream; whether the backup holds everything up to `offset`.
    async fn finish(mut self, offset: u64, is_complete: bool) -> TransferResult<Mirrored> {
        if let Mirror::Open(leg) = self {
            let peer = leg.node();
            let lost = match leg.finish(is_complete).await {
                Ok(done) if done.offset == offset => return Ok(Mirrored::Equal),
                Ok(done) => {
                    TransferError::Store { node: peer, error: StoreError::OffsetMismatch { expected: done.offset } }
                }
                Err(error) => error,
            };
            self = Mirror::None;
            self.lose(lost)?;
        }
        Ok(match self {
            Mirror::Lost(error) => Mirrored::Lost(error),
            Mirror::None | Mirror::Open(_) => Mirrored::Alone,
        })
    }
}

/// A chunk at the primary, opened on both holders.
pub(super) struct PrimaryChunk {
    pub(super) node: NodeId,
    pub(super) appender: Appender,
    pub(super) mirror: Mirror,
    pub(super) _room: OwnedSemaphorePermit,
}

impl PrimaryChunk {
    /// Where the chunk begins.
    pub(super) fn offset(&self) -> u64 {
        self.appender.end()
    }

    /// Takes the body, as fast as the slower holder.
    pub(super) async fn run(mut self, body: Body) -> TransferResult<Appended> {
        let mut intake = Intake::new(body);
        let mut broken = None;
        while let Some(batch) = intake.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            };
            let at = self.appender.end();
            let (sent, written) = tokio::join!(self.mirror.send(at, batch.clone()), self.appender.append(batch));
            written.at(self.node)?;
            sent?;
        }
        let offset = self.appender.finish().await.at(self.node)?;
        let backup = self.mirror.finish(offset, broken.is_none()).await?;
        match (broken, &backup) {
            (None, _) => Ok(Appended { offset, backup }),
            (Some(error), Mirrored::Alone | Mirrored::Equal) => {
                Err(TransferError::Body { error, offset: Some(offset) })
            }
            (Some(error), Mirrored::Lost(_)) => Err(TransferError::Body { error, offset: None }),
        }
    }
}

/// Takes the frames of a primary as its backup; the end of what is held.
pub(super) async fn run_backup(
    node: NodeId,
    mut appender: Appender,
    mut frames: Streaming<AppendRequest>,
) -> TransferResult<u64> {
    let mut is_first = true;
    // A stream that breaks off needs no word: who sent it is gone, and what arrived stays.
    while let Ok(Some(AppendRequest { part: Some(Part::Data(data)) })) = frames.message().await {
        if is_first && data.offset < appender.end() {
            appender.truncate(data.offset).await.at(node)?;
        }
        is_first = false;
        if data.offset != appender.end() {
            let error = StoreError::OffsetMismatch { expected: appender.end() };
            return Err(TransferError::Store { node, error });
        }
        if !data.parts.is_empty() {
            appender.append(data.parts).await.at(node)?;
        }
    }
    appender.finish().await.at(node)
}
