//! Bytes on their way into a holder: bodies cut into batches, and the writer that takes them.

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::stream::{self, StreamExt as _};
use registry_core::vocabulary::limits::TRANSFER_BATCH_BYTES;
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::blob::store::{StoreError, StoreResult, UploadWriter};
use crate::ground::threads;

use super::volumes::joined;
use super::wire::proto::{AppendRequest, append_request::Part};
use super::{Body, BodyError};

/// Buffers that are written and sent together, at most [`TRANSFER_BATCH_BYTES`].
pub(super) type Batch = Vec<Bytes>;

/// A body cut into batches: full ones but for the last, so that system calls and messages are few.
pub(super) struct Intake {
    body: Body,
    rest: Bytes,
    /// How the body ended, told after the bytes before it.
    end: Option<Result<(), BodyError>>,
}

impl Intake {
    pub(super) fn new(body: Body) -> Intake {
        Intake { body, rest: Bytes::new(), end: None }
    }

    /// The next batch; `None` at the end. An error comes after every byte that arrived before it. Safe to cancel only
    /// together with the intake.
    pub(super) async fn next(&mut self) -> Option<Result<Batch, BodyError>> {
        let (mut batch, mut len) = (Batch::new(), 0);
        loop {
            if self.rest.is_empty() && self.end.is_none() {
                match self.body.next().await {
                    Some(Ok(part)) => self.rest = part,
                    Some(Err(error)) => self.end = Some(Err(error)),
                    None => self.end = Some(Ok(())),
                }
            }
            if !self.rest.is_empty() {
                let part = self.rest.split_to(self.rest.len().min(TRANSFER_BATCH_BYTES - len));
                len += part.len();
                batch.push(part);
            }
            if len == TRANSFER_BATCH_BYTES || (self.end.is_some() && len > 0) {
                return Some(Ok(batch));
            }
            match &self.end {
                Some(Ok(())) => return None,
                Some(Err(error)) => return Some(Err(error.clone())),
                None => {}
            }
        }
    }
}

/// The body inside the frames that another node sends. A stream that ends without saying so has broken off.
pub(super) fn body_of(frames: Streaming<AppendRequest>) -> Body {
    let parts = stream::unfold(Some(frames), |frames| async {
        let mut frames = frames?;
        match frames.message().await {
            Ok(Some(AppendRequest { part: Some(Part::Data(data)) })) => {
                Some((stream::iter(data.parts.into_iter().map(Ok)).left_stream(), Some(frames)))
            }
            Ok(Some(AppendRequest { part: Some(Part::End(end)) })) if end.is_complete => None,
            Ok(Some(_)) => Some((broken("the sender gave up"), None)),
            Ok(None) => Some((broken("the stream between the nodes broke off"), None)),
            Err(status) => Some((broken(status.message()), None)),
        }
    });
    parts.flatten().boxed()
}

fn broken<L>(detail: &str) -> Either<L, stream::Iter<std::array::IntoIter<Result<Bytes, BodyError>, 1>>> {
    Either::Right(stream::iter([Err(BodyError::new(detail))]))
}

/// Writes batches on a blocking thread, one behind: while one is written, the next one arrives.
pub(super) struct Appender {
    state: State,
    /// Where the next batch belongs.
    end: u64,
}

enum State {
    Idle(Box<dyn UploadWriter>),
    Writing(JoinHandle<StoreResult<Box<dyn UploadWriter>>>),
    /// A write failed: the writer is gone, the staging ends at the last good offset.
    Failed(StoreError),
}

impl Appender {
    pub(super) fn new(writer: Box<dyn UploadWriter>) -> Appender {
        Appender { end: writer.offset(), state: State::Idle(writer) }
    }

    /// The end of the bytes, with those that are being written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Waits for the write before, and begins to write `batch`. An error may be that of the write before.
    pub(super) async fn append(&mut self, batch: Batch) -> StoreResult<()> {
        let mut writer = self.settle().await?;
        let at = self.end;
        self.end += batch.iter().map(|part| part.len() as u64).sum::<u64>();
        self.state = State::Writing(threads::blocking(move || {
            writer.append(at, &batch)?;
            Ok(writer)
        }));
        Ok(())
    }

    /// Goes back to `offset`.
    pub(super) async fn truncate(&mut self, offset: u64) -> StoreResult<()> {
        let mut writer = self.settle().await?;
        self.end = offset;
        self.state = State::Writing(threads::blocking(move || {
            writer.truncate(offset)?;
            Ok(writer)
        }));
        self.finish().await.map(drop)
    }

    /// Waits until everything is written; the end.
    pub(super) async fn finish(&mut self) -> StoreResult<u64> {
        let writer = self.settle().await?;
        self.end = writer.offset();
        self.state = State::Idle(writer);
        Ok(self.end)
    }

    /// Takes the writer out, idle. Not cancelled half-way by its callers: they own the appender and drop both.
    async fn settle(&mut self) -> StoreResult<Box<dyn UploadWriter>> {
        let ended = State::Failed(StoreError::io("append", std::io::Error::other("the write was given up")));
        let result = match std::mem::replace(&mut self.state, ended) {
            State::Idle(writer) => return Ok(writer),
            State::Writing(write) => joined(write.await),
            State::Failed(error) => Err(error),
        };
        result.inspect_err(|error| self.state = State::Failed(error.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drain(mut intake: Intake) -> (Vec<usize>, usize, bool) {
        let (mut sizes, mut count) = (Vec::new(), 0);
        loop {
            match intake.next().await {
                None => return (sizes, count, true),
                Some(Err(_)) => return (sizes, count, false),
                Some(Ok(batch)) => {
                    count += batch.len();
                    sizes.push(batch.iter().map(Bytes::len).sum());
                }
            }
        }
    }

    // Batches are full but for the last; a failing body loses nothing that came before its error; the error stays.
    #[tokio::test]
    async fn batches() {
        const FULL: usize = TRANSFER_BATCH_BYTES;
        for (parts, fails, sizes) in [
            (&[][..], false, &[][..]),
            (&[0, 0], false, &[]),
            (&[5, 0, 6], false, &[11]),
            (&[FULL], false, &[FULL]),
            (&[FULL - 1, 2], false, &[FULL, 1]),
            (&[3 * FULL + 7], false, &[FULL, FULL, FULL, 7]),
            (&[FULL + 1], true, &[FULL, 1]),
            (&[], true, &[]),
        ] {
            let mut items: Vec<_> = parts.iter().map(|len| Ok(Bytes::from(vec![1; *len]))).collect();
            if fails {
                items.push(Err(BodyError::new("gone")));
            }
            let (seen, _, is_clean) = drain(Intake::new(stream::iter(items).boxed())).await;
            assert_eq!((seen.as_slice(), is_clean), (sizes, !fails), "{parts:?}");
        }
    }
}
