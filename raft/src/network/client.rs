//! openraft's outgoing calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Status, Streaming};

use super::net::{Class, Net};
use super::proto::{Frame, Reply};
use super::send;
use super::wire::{self, kind};
use crate::metrics;
use crate::snapshot::SnapshotHandle;
use crate::types::{LogId, Peer, Position, Snapshot, Types, Vote};

/// Opening a stream may need a connection and a handshake.
const STREAM_OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Entries were sent and none of the answers came: the follower's disk may be slow, or the connection hangs.
const STREAM_STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// For telling a follower what it has lost.
const LOST_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections for openraft.
#[derive(Clone, Debug)]
pub(crate) struct Network(pub(crate) Arc<Net>);

impl Network {
    fn link(&self, target: u64, node: &Peer, class: Class) -> Link {
        Link { net: self.0.clone(), target, addr: node.raft_addr.clone(), class }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, Class::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, Class::Pulse)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, Class::Snapshot)
    }
}

/// Calls to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    net: Arc<Net>,
    target: u64,
    addr: String,
    class: Class,
}

impl Link {
    fn failed(&self, status: &Status, action: RPCTypes, limit: Duration) -> RPCError<Types> {
        let target = self.target;
        match status.code() {
            Code::DeadlineExceeded => {
                RPCError::Timeout(Timeout { action, id: self.net.node_id, target, timeout: limit })
            }
            Code::Unavailable | Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated => {
                RPCError::Unreachable(Unreachable::from_string(status))
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => RPCError::Network(NetworkError::from_string(status)),
        }
    }

    async fn ask(
        &self,
        class: Class,
        question: (u32, Bytes),
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<Bytes, RPCError<Types>> {
        let limit = option.soft_ttl();
        let answer = self.net.call((self.target, &self.addr), class, question, limit).await;
        answer.map_err(|status| self.failed(&status, action, limit))
    }

    /// A follower that lacks what it has acknowledged must not be fed from there: the engine takes acknowledged entries
    /// for kept, and so has counted them. It is suspect, and once this leader has recorded that, it may come back
    /// shorter once.
    fn has_lost(&self, term: u64, at: Option<LogId>) -> Option<RPCError<Types>> {
        let at = at.map(Position::from)?;
        if !self.net.memory.has_lost(self.target, term, at) {
            return None;
        }
        let target = self.target;
        if self.net.permits.take(target, term) {
            tracing::warn!(%at, "suspect node {target:016x} comes back with a shorter log, and is fed from there");
            self.net.memory.forget_acks(target);
            return None;
        }
        metrics::refused("reverted");
        tracing::error!(%at, "node {target:016x} has lost entries that it had acknowledged; it is told, and not fed");
        self.tell_lost();
        Some(RPCError::Unreachable(Unreachable::from_string("it has lost entries that it had acknowledged")))
    }

    /// Tells the follower what it has acknowledged, in case it does not know that it is suspect.
    fn tell_lost(&self) {
        let mut known = BytesMut::new();
        self.net.memory.of(self.target).put(&mut known);
        let (net, target, addr) = (self.net.clone(), self.target, self.addr.clone());
        tokio::spawn(async move {
            let told = net.call((target, &addr), Class::Pulse, (kind::LOST, known.freeze()), LOST_TIMEOUT).await;
            if let Err(status) = told {
                tracing::info!(%status, "node {target:016x} could not be told that it is suspect");
            }
        });
    }

    fn unreadable(error: &crate::codec::CodecError) -> RPCError<Types> {
        RPCError::Network(NetworkError::new(error))
    }

    /// Requests and answers in flight together over one stream.
    async fn pipeline<'s, S>(
        &'s self,
        mut input: S,
    ) -> Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        // The engine pauses after a failure inside this stream, before the first request comes out of it. A stream that
        // is opened before that, at a peer that refuses, would knock again at once, thousands of times a second.
        let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
        let slots = Arc::new(Semaphore::new(self.net.append_messages.saturating_sub(1)));
        let input = stream::iter([first]).chain(paced(input, slots.clone()));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let sent = Arc::new(parking_lot::Mutex::new(VecDeque::new()));
        let outgoing = {
            let (net, target) = (self.net.clone(), self.target);
            let (unanswered, sent) = (unanswered.clone(), sent.clone());
            input.map(move |request| {
                unanswered.fetch_add(1, Ordering::AcqRel);
                sent.lock().push_back(Sent::new(&request));
                net.frame(target, kind::APPEND, wire::append_request(&request))
            })
        };
        let failed = |status: Status| self.failed(&status, RPCTypes::AppendEntries, STREAM_OPEN_TIMEOUT);
        let mut client = self.net.client(self.target, &self.addr, Class::Append).map_err(failed)?;
        let opening = client.append(Request::new(outgoing));
        let opened = tokio::time::timeout(STREAM_OPEN_TIMEOUT, opening).await;
        let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the stream did not open")));
        let answers = Answers::new(self, opened.map_err(failed)?.into_inner(), slots, unanswered, sent);
        Ok(stream::unfold(Some(answers), Answers::next).boxed())
    }
}

/// What is known of a request that waits for its answer.
#[derive(Clone, Copy)]
struct Sent {
    term: u64,
    /// Its last entry.
    #[cfg(feature = "mutants")]
    last: Option<LogId>,
}

impl Sent {
    fn new(request: &AppendEntriesRequest<Types>) -> Sent {
        Sent {
            term: request.vote.leader_id.term,
            #[cfg(feature = "mutants")]
            last: request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id),
        }
    }
}

/// The answers of a stream.
struct Answers<'s> {
    link: &'s Link,
    answers: Streaming<Reply>,
    slots: Arc<Semaphore>,
    unanswered: Arc<AtomicUsize>,
    sent: Arc<parking_lot::Mutex<VecDeque<Sent>>>,
    /// Requests that were counted as answered before they were.
    #[cfg(feature = "mutants")]
    early: usize,
}

impl<'s> Answers<'s> {
    fn new(
        link: &'s Link,
        answers: Streaming<Reply>,
        slots: Arc<Semaphore>,
        unanswered: Arc<AtomicUsize>,
        sent: Arc<parking_lot::Mutex<VecDeque<Sent>>>,
    ) -> Answers<'s> {
        Answers {
            link,
            answers,
            slots,
            unanswered,
            sent,
            #[cfg(feature = "mutants")]
            early: 0,
        }
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        // nobody will give slots back any more: whoever waits for one ends
        self.slots.close();
    }
}

/// The requests, each only once there is a slot for it. The engine makes a request of all there is to send when it is
/// asked for the next one, so what comes meanwhile is sent together.
fn paced<S: Stream + Unpin + Send>(input: S, slots: Arc<Semaphore>) -> impl Stream<Item = S::Item> + Send
where
    S::Item: Send,
{
    stream::unfold((input, slots), |(mut input, slots)| async move {
        slots.acquire().await.ok()?.forget();
        let request = input.next().await?;
        Some((request, (input, slots)))
    })
}

impl<'s> Answers<'s> {
    async fn next(
        state: Option<Answers<'s>>,
    ) -> Option<(Result<StreamAppendResult<Types>, RPCError<Types>>, Option<Answers<'s>>)> {
        let mut answers = state?;
        match answers.receive().await {
            Ok(None) => None,
            Ok(Some(result)) => {
                let last = result.is_err();
                Some((Ok(result), (!last).then_some(answers)))
            }
            Err(error) => Some((Err(error), None)),
        }
    }

    /// How long an answer is waited for.
    fn patience(&self) -> Duration {
        #[cfg(feature = "mutants")]
        if super::hasty::is_on() {
            return super::hasty::PATIENCE;
        }
        STREAM_STALL_TIMEOUT
    }

    async fn receive(&mut self) -> Result<Option<StreamAppendResult<Types>>, RPCError<Types>> {
        let failed = |status: &Status| self.link.failed(status, RPCTypes::AppendEntries, STREAM_STALL_TIMEOUT);
        loop {
            let waited_before = self.unanswered.load(Ordering::Acquire) > 0;
            let patience = self.patience();
            match tokio::time::timeout(patience, self.answers.message()).await {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(reply))) => {
                    self.unanswered.fetch_sub(1, Ordering::AcqRel);
                    self.slots.add_permits(1);
                    let term = self.sent.lock().pop_front().map(|sent| sent.term);
                    let result = wire::read_stream_result(reply.body).map_err(|error| Link::unreadable(&error))?;
                    #[cfg(feature = "mutants")]
                    if self.early > 0 {
                        self.early -= 1;
                        continue;
                    }
                    match (&result, term) {
                        (Ok(Some(matching)), Some(term)) => {
                            self.link.net.memory.heard_ack(self.link.target, term, Position::from(*matching));
                        }
                        (Err(StreamAppendError::Conflict(at)), Some(term)) => {
                            self.link.has_lost(term, Some(*at)).map_or(Ok(()), Err)?;
                        }
                        (Ok(None) | Err(StreamAppendError::HigherVote(_)), _) | (_, None) => {}
                    }
                    return Ok(Some(result));
                }
                Ok(Err(status)) => return Err(failed(&status)),
                #[cfg(feature = "mutants")]
                Err(_) if super::hasty::is_on() => {
                    let taken = self.sent.lock().get(self.early).map(|sent| sent.last);
                    if let Some(last) = taken {
                        self.early += 1;
                        return Ok(Some(Ok(last)));
                    }
                }
                Err(_) if waited_before => return Err(failed(&Status::deadline_exceeded("entries are not answered"))),
                Err(_) => {}
            }
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let question = (kind::APPEND, wire::append_request(&rpc));
        let answer = self.ask(self.class, question, RPCTypes::AppendEntries, &option).await?;
        let response = wire::read_append_response(answer).map_err(|error| Link::unreadable(&error))?;
        if response.is_conflict() {
            self.has_lost(rpc.vote.leader_id.term, rpc.prev_log_id).map_or(Ok(()), Err)?;
        }
        Ok(response)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        match self.class {
            Class::Append => Box::pin(self.pipeline(input)),
            // a heartbeat is one question: a stream for it would only cost
            Class::Pulse | Class::Snapshot | Class::Forward => stream_append_sequential(self, input, option),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let question = (kind::VOTE, wire::vote_request(&rpc));
        let answer = self.ask(Class::Pulse, question, RPCTypes::Vote, &option).await?;
        let response = wire::read_vote_response(answer).map_err(|error| Link::unreadable(&error))?;
        if response.is_granted_to(&rpc.vote) {
            // it has written this vote down: a later copy of it that has not is an older one
            self.net.memory.heard_term(self.target, rpc.vote.leader_id.term);
        }
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let question = (kind::PRE_VOTE, wire::vote_request(&rpc));
        let answer = self.ask(Class::Pulse, question, RPCTypes::Vote, &option).await?;
        wire::read_vote_response(answer).map_err(|error| Link::unreadable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = send::snapshot(&self.net, (self.target, &self.addr), vote, snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(status) => {
                    tracing::warn!(%status, to = self.target, "a snapshot could not be sent");
                    Err(self.failed(&status, RPCTypes::InstallSnapshot, Duration::ZERO).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let question = (kind::TRANSFER, wire::transfer_request(&req));
        let answer = self.ask(Class::Pulse, question, RPCTypes::TransferLeader, &option).await?;
        wire::read_transfer_response(answer).map_err(|error| Link::unreadable(&error))
    }
}

/// The frames of a stream whose length is not known before.
pub(crate) fn frames(frames: tokio::sync::mpsc::Receiver<Frame>) -> impl Stream<Item = Frame> + Send + 'static {
    tokio_stream::wrappers::ReceiverStream::new(frames)
}
