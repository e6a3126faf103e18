//! Reads: the best copy first, another one from the block where the first fails.
//!
//! Candidates are an own disk, the own zone, then the rest by round trip and failures; nodes out of reach come last but
//! are tried. Every block is checked on this node after it arrived, and the bytes handed out are the buffer that was
//! checked. Whose copy was bad is told to the observer by the node that owns the store.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use metrics::Counter;
use registry_core::vocabulary::ids::{NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::blob::store::{BlobKey, Blocks, StoreError};
use crate::ground::traces::traced_within;

use super::source::{self, Span};
use super::{Inner, Transfer, TransferError, TransferResult};

/// Times that one copy is tried when it is merely out of reach or busy.
const TRIES_MAX: u32 = 2;

/// A blob and where its copies are, as the metadata records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSource {
    /// Which bytes.
    pub key: BlobKey,
    /// How many.
    pub size_bytes: u64,
    /// The stores that hold them.
    pub replicas: Vec<StoreId>,
}

/// The bytes of a blob, each verified on this node. An error is final: the connection to the client must be cut, never
/// ended cleanly.
pub struct BlobStream {
    bytes: BoxStream<'static, TransferResult<Bytes>>,
    remaining_bytes: u64,
}

impl BlobStream {
    /// Bytes still to come.
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }
}

impl Stream for BlobStream {
    type Item = TransferResult<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.bytes.poll_next_unpin(context));
        if let Some(Ok(bytes)) = &item {
            self.remaining_bytes -= bytes.len() as u64;
        }
        Poll::Ready(item)
    }
}

impl Transfer {
    /// Opens `range` of a blob (`0..size_bytes` for all of it) for streaming. When it returns, the first bytes are here
    /// and verified, so an answer can begin. Dropping the stream ends all work for it. An empty range asks no copy.
    ///
    /// Errors: `NoCopy`; `Store(OutOfRange)` for a range outside the blob.
    pub async fn fetch(&self, blob: BlobSource, range: Range<u64>) -> TransferResult<BlobStream> {
        if range.start > range.end || range.end > blob.size_bytes {
            let error = StoreError::OutOfRange { size_bytes: blob.size_bytes };
            return Err(TransferError::Store { node: self.inner.holder.node, error });
        }
        let blob_bytes = blob.size_bytes;
        let mut reader = Reader::new(Arc::clone(&self.inner), blob, &range);
        if !range.is_empty() {
            reader.open().instrument(traced_within!("open copy", portolan.bytes = blob_bytes)).await?;
        }
        let bytes = stream::unfold(reader, |mut reader| async { reader.next().await.map(|item| (item, reader)) });
        Ok(BlobStream { bytes: bytes.boxed(), remaining_bytes: range.end - range.start })
    }

    /// Reads a whole blob of at most `limit` bytes: a manifest that isn't inline.
    ///
    /// Errors: `NoCopy`; `Store(TooLarge)`.
    pub async fn read(&self, blob: BlobSource, limit: usize) -> TransferResult<Bytes> {
        let size_bytes = blob.size_bytes;
        let Some(len) = usize::try_from(size_bytes).ok().filter(|len| *len <= limit) else {
            let error = StoreError::TooLarge { max: limit as u64 };
            return Err(TransferError::Store { node: self.inner.holder.node, error });
        };
        let mut stream = self.fetch(blob, 0..size_bytes).await?;
        let first = stream.next().await.transpose()?.unwrap_or_default();
        if first.len() == len {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&first);
        while let Some(part) = stream.next().await.transpose()? {
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }
}

#[derive(Clone, Debug)]
struct Candidate {
    store: StoreId,
    node: NodeId,
    zone: Option<ZoneName>,
    tries: u32,
}

/// An open copy.
struct Copy {
    candidate: Candidate,
    blocks: BoxStream<'static, TransferResult<Blocks>>,
}

type Attempt = BoxFuture<'static, (Candidate, TransferResult<(Blocks, Copy)>)>;

struct Reader {
    inner: Arc<Inner>,
    blob: BlobSource,
    at: u64,
    until: u64,
    /// Copies to be tried, the best one first.
    waiting: VecDeque<Candidate>,
    /// Copies that did not answer that they have nothing.
    unsure: usize,
    current: Option<Copy>,
    /// Blocks that came with the opening.
    first: Option<Blocks>,
    /// Counts bytes by the place they come from.
    fetched: Counter,
}

impl Reader {
    fn new(inner: Arc<Inner>, blob: BlobSource, range: &Range<u64>) -> Reader {
        let waiting = candidates(&inner, &blob.replicas);
        let unsure = blob.replicas.len();
        let (at, until, fetched) = (range.start, range.end, Counter::noop());
        Reader { inner, blob, at, until, waiting, unsure, current: None, first: None, fetched }
    }

    /// Opens the best copy that answers, at the present offset; asks a second one as well when the first is slow.
    async fn open(&mut self) -> TransferResult<()> {
        let delay = self.inner.hedger.begin();
        let mut running = FuturesUnordered::new();
        // Whom `running` asks: a slow one that loses the race is no bad copy, and may be needed later.
        let mut asked: Vec<Candidate> = Vec::new();
        let mut may_hedge = true;
        let mut slow_zone = None;
        loop {
            if running.is_empty() {
                let Some(candidate) = self.waiting.pop_front() else {
                    return Err(TransferError::NoCopy { is_missing: self.unsure == 0 });
                };
                slow_zone.clone_from(&candidate.zone);
                asked.push(candidate.clone());
                running.push(self.attempt(candidate));
            }
            tokio::select! {
                biased;
                Some((candidate, result)) = running.next() => {
                    asked.retain(|other| other.store != candidate.store);
                    match result {
                        Ok((first, copy)) => {
                            self.waiting.extend(asked);
                            self.fetched = fetched_from(&self.inner, &copy.candidate);
                            self.first = Some(first);
                            self.current = Some(copy);
                            return Ok(());
                        }
                        Err(error) => self.fail(candidate, &error).await,
                    }
                }
                () = tokio::time::sleep(delay), if may_hedge && !self.waiting.is_empty() => {
                    may_hedge = false;
                    if self.inner.hedger.try_take() {
                        metrics::counter!("portolan_blob_fetch_hedges_total").increment(1);
                        let other_zone = self.waiting.iter().position(|candidate| candidate.zone != slow_zone);
                        if let Some(candidate) = self.waiting.remove(other_zone.unwrap_or(0)) {
                            asked.push(candidate.clone());
                            running.push(self.attempt(candidate));
                        }
                    }
                }
            }
        }
    }

    /// Opens one copy and has its first blocks.
    fn attempt(&self, candidate: Candidate) -> Attempt {
        let inner = Arc::clone(&self.inner);
        let (at, until) = (self.at, self.until);
        let span = Span { key: self.blob.key, size_bytes: self.blob.size_bytes, at, until };
        async move {
            let began = Instant::now();
            let opened = tokio::time::timeout(inner.holder.patience, open_copy(&inner, &candidate, span)).await;
            let result = match opened {
                Ok(Ok((first, blocks))) if is_good(&inner, &candidate, &first, at) => {
                    inner.hedger.record(began.elapsed());
                    Ok((first, Copy { candidate: candidate.clone(), blocks }))
                }
                Ok(Ok(_)) => Err(garbled(&inner, &candidate, span.key)),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(too_slow(&candidate, inner.holder.patience)),
            };
            (candidate, result)
        }
        .boxed()
    }

    /// A copy failed; it may be tried again later if it was only out of reach.
    async fn fail(&mut self, mut candidate: Candidate, error: &TransferError) {
        let is_own = candidate.node == self.inner.holder.node;
        metrics::counter!("portolan_blob_fetch_failovers_total").increment(1);
        tracing::debug!(store = %candidate.store, blob = %self.blob.key, offset = self.at, %error, "a copy failed");
        match error.store_error() {
            Some(store_error) => {
                if matches!(store_error, StoreError::NotFound) {
                    self.unsure -= 1;
                }
                if is_own {
                    self.inner.holder.report(candidate.store, self.blob.key, store_error).await;
                }
            }
            None if matches!(error, TransferError::Unreachable { .. } | TransferError::Overloaded { .. }) => {
                if !is_own && let Ok(peer) = self.inner.peers.get(candidate.node) {
                    peer.note(Some(error));
                }
                candidate.tries += 1;
                if candidate.tries < TRIES_MAX {
                    self.waiting.push_back(candidate);
                }
            }
            None => {}
        }
    }

    async fn next(&mut self) -> Option<TransferResult<Bytes>> {
        while self.at < self.until {
            let failed = match self.take_blocks().await {
                Ok(bytes) => {
                    self.at += bytes.len() as u64;
                    self.fetched.increment(bytes.len() as u64);
                    return Some(Ok(bytes));
                }
                Err(error) => error,
            };
            if let Some(copy) = self.current.take() {
                self.fail(copy.candidate, &failed).await;
            }
            if let Err(error) = self.open().await {
                // After an error the stream is over.
                self.until = self.at;
                return Some(Err(error));
            }
        }
        None
    }

    /// The next checked bytes of the present copy.
    async fn take_blocks(&mut self) -> TransferResult<Bytes> {
        if let Some(first) = self.first.take() {
            return Ok(first.slice(self.at, self.until));
        }
        let patience = self.inner.holder.patience;
        let Some(Copy { candidate, blocks }) = &mut self.current else {
            return Err(TransferError::NoCopy { is_missing: false });
        };
        let blocks = match tokio::time::timeout(patience, blocks.next()).await {
            Ok(Some(blocks)) => blocks?,
            Ok(None) => {
                let detail = "ended before the last byte".into();
                return Err(TransferError::Unreachable { node: candidate.node, detail });
            }
            Err(_) => return Err(too_slow(candidate, patience)),
        };
        if is_good(&self.inner, candidate, &blocks, self.at) {
            return Ok(blocks.slice(self.at, self.until));
        }
        Err(garbled(&self.inner, candidate, self.blob.key))
    }
}

/// Whether blocks may be handed out. A store of this node has checked its own in this very process.
fn is_good(inner: &Inner, candidate: &Candidate, blocks: &Blocks, at: u64) -> bool {
    if candidate.node == inner.holder.node { source::is_in_place(blocks, at) } else { source::is_sound(blocks, at) }
}

async fn open_copy(
    inner: &Arc<Inner>,
    candidate: &Candidate,
    span: Span,
) -> TransferResult<(Blocks, BoxStream<'static, TransferResult<Blocks>>)> {
    let node = candidate.node;
    if node != inner.holder.node {
        return source::remote(inner.peers.get(node)?, candidate.store, span).await;
    }
    let store = inner.holder.volumes.get(candidate.store).ok_or(TransferError::StoreUnknown(candidate.store))?;
    let own = move |error| TransferError::Store { node, error };
    let (first, rest) = source::local(&inner.holder.reads, store, span).await.map_err(own)?;
    Ok((first, rest.map(move |blocks| blocks.map_err(own)).boxed()))
}

fn fetched_from(inner: &Inner, candidate: &Candidate) -> Counter {
    let from = match &candidate.zone {
        _ if candidate.node == inner.holder.node => "own disk".to_owned(),
        Some(zone) => zone.to_string(),
        None => "unknown".to_owned(),
    };
    metrics::counter!("portolan_blob_fetched_bytes_total", "from" => from)
}

fn garbled(inner: &Inner, candidate: &Candidate, key: BlobKey) -> TransferError {
    inner.holder.report_garbled(candidate.store, key);
    TransferError::Rejected { node: candidate.node, detail: "sent blocks that do not match their sums".into() }
}

fn too_slow(candidate: &Candidate, patience: Duration) -> TransferError {
    let detail = format!("sent no bytes for {} ms", patience.as_millis()).into();
    TransferError::Unreachable { node: candidate.node, detail }
}

/// The replicas in the order in which they are tried. Stores that nobody knows are left out.
fn candidates(inner: &Inner, replicas: &[StoreId]) -> VecDeque<Candidate> {
    let directory = inner.peers.directory();
    let own = inner.holder.node;
    let zone = |node| directory.node(node).map(|seat| seat.zone.clone());
    let own_zone = zone(own);
    let mut found: Vec<((u8, u64), Candidate)> = Vec::with_capacity(replicas.len());
    for &store in replicas {
        let node = match inner.holder.volumes.get(store) {
            Some(_) => own,
            None => match directory.node_of(store) {
                Some(seat) if seat.id != own => seat.id,
                Some(_) | None => continue,
            },
        };
        let candidate = Candidate { store, node, zone: zone(node), tries: 0 };
        let tier = match () {
            () if node == own => 0,
            () if !inner.peers.is_reachable(node) => 3,
            () if candidate.zone == own_zone => 1,
            () => 2,
        };
        found.push(((tier, inner.peers.distance(node)), candidate));
    }
    found.sort_by_key(|(rank, candidate)| (*rank, candidate.store));
    found.into_iter().map(|(_, candidate)| candidate).collect()
}
