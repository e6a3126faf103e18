//! Incoming calls: who may ask what is decided here, the rest is handed on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tonic::{Request, Response, Status, Streaming};

use super::MESSAGE_BYTES_MAX;
use super::identity::Role;
use super::net::reply;
use super::proto::consensus_server::{Consensus, ConsensusServer};
use super::proto::{Frame, Reply};
use super::receive::read_end;
use super::transport::PeerInfo;
use super::wire::{self, Change, Changed, kind};
use crate::change::USED_ID;
use crate::codec::CodecError;
use crate::core::{Core, Leader};
use crate::gate;
use crate::identity::Heard;
use crate::metrics;
use crate::types::Types;

/// For work on behalf of another node, when its own patience isn't known here.
const FORWARDED_LIMIT: Duration = Duration::from_secs(30);

/// The service on the consensus listener.
#[derive(Clone, Debug)]
pub(crate) struct Service(pub(crate) Arc<Core>);

impl Service {
    pub(crate) fn into_server(self) -> ConsensusServer<Service> {
        ConsensusServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn malformed(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn broken(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn refuse(reason: &'static str, status: Status) -> Status {
    metrics::refused(reason);
    tracing::warn!(reason, message = status.message(), "a call was refused");
    status
}

impl Core {
    /// Whether this frame is for this node, from who it says, and whether they may ask this.
    fn check(&self, frame: &Frame, peer: Option<&PeerInfo>) -> Result<(), Status> {
        let cluster_id = (u128::from(frame.cluster_high) << 64) | u128::from(frame.cluster_low);
        if cluster_id != self.net.cluster_id {
            return Err(refuse("cluster", Status::permission_denied("this is another cluster")));
        }
        if frame.lineage != self.net.lineage {
            return Err(refuse("lineage", Status::permission_denied("this cluster's log has another lineage")));
        }
        let to_whoever = frame.kind == kind::JOIN && frame.to == 0;
        if frame.to != self.net.node_id && !to_whoever {
            return Err(refuse("node", Status::permission_denied("another node has this address now")));
        }
        self.check_certificate(frame, peer)?;
        if self.former.contains(frame.from) {
            return Err(refuse(
                "former",
                Status::permission_denied("the caller was removed; its id is never used again"),
            ));
        }
        let term = self.log.vote().map_or(0, |vote| vote.leader_id.term);
        if frame.known_start > self.net.start || frame.known_term > term {
            self.gate.close_for_good(frame.from);
        }
        if frame.start < self.net.memory.of(frame.from).start {
            return Err(refuse("start", Status::permission_denied("the caller's directory went back in time")));
        }
        self.check_kind(frame)
    }

    fn check_certificate(&self, frame: &Frame, peer: Option<&PeerInfo>) -> Result<(), Status> {
        if self.net.tls.is_none() {
            return Ok(());
        }
        let identity = peer.and_then(|peer| peer.identity.as_deref());
        let named = identity.filter(|name| name.role == Role::Node && name.cluster_id == self.net.cluster_id);
        if named.and_then(|name| name.node_id()) == Some(frame.from) {
            Ok(())
        } else {
            Err(refuse("certificate", Status::unauthenticated("the certificate names somebody else")))
        }
    }

    fn check_kind(&self, frame: &Frame) -> Result<(), Status> {
        match frame.kind {
            // An empty directory may be one that was emptied: it would vote a second time in a term, and vouch for a
            // log it has lost. A new node needs no vote before a leader has fed it.
            kind::HELLO | kind::VOTE | kind::PRE_VOTE if !self.knows_members() => {
                Err(Status::failed_precondition("this node knows no members: it neither votes nor vouches for anybody"))
            }
            kind::HELLO | kind::JOIN => Ok(()),
            kind::PROPOSE | kind::READ_INDEX | kind::CHANGE if self.is_member(frame.from) => Ok(()),
            kind::PROPOSE | kind::READ_INDEX | kind::CHANGE => {
                Err(refuse("member", Status::permission_denied("the caller is not a member")))
            }
            // Consensus itself: a node that was away may not have heard yet that the caller has become a member, so
            // membership cannot be asked for here; the term and the log decide, as the protocol has it. Who has left is
            // refused above.
            _ if self.gate.is_open() => Ok(()),
            _ => Err(Status::failed_precondition("this node takes no part in consensus yet")),
        }
    }

    /// Reads a leader's request, and remembers that it leads this term: it has written its own vote down. The founder
    /// gives itself away by nothing else when its directory was emptied; fed from the first entry on, where it is the
    /// only voter, it would elect itself.
    fn read_append(&self, from: u64, body: Bytes) -> Result<AppendEntriesRequest<Types>, Status> {
        let request = wire::read_append_request(body).map_err(malformed)?;
        self.net.memory.heard_term(from, request.vote.leader_id.term);
        Ok(request)
    }

    async fn answer(self: &Arc<Self>, frame: Frame) -> Result<Bytes, Status> {
        let body = frame.body;
        match frame.kind {
            kind::VOTE => {
                let request = wire::read_vote_request(body).map_err(malformed)?;
                Ok(wire::vote_response(&self.raft.vote(request).await.map_err(broken)?))
            }
            kind::PRE_VOTE => {
                let request = wire::read_vote_request(body).map_err(malformed)?;
                Ok(wire::vote_response(&self.raft.pre_vote(request).await.map_err(broken)?))
            }
            kind::APPEND => {
                let request = self.read_append(frame.from, body)?;
                Ok(wire::append_response(&self.raft.append_entries(request).await.map_err(broken)?))
            }
            kind::TRANSFER => {
                let request = wire::read_transfer_request(body).map_err(malformed)?;
                Ok(wire::transfer_response(&self.raft.handle_transfer_leader(request).await.map_err(broken)?))
            }
            kind::HELLO => {
                let hello = wire::read(body, Heard::take).map_err(malformed)?;
                gate::answer(self, frame.from, hello).await.map_err(broken)
            }
            kind::PROPOSE => {
                let payloads = wire::read_proposals(body).map_err(malformed)?;
                Ok(wire::outcomes(&self.write_many(payloads).await))
            }
            kind::READ_INDEX => Ok(wire::index(self.read_index_as_leader().await)),
            kind::CHANGE => {
                let change = wire::read_change(body).map_err(malformed)?;
                Ok(wire::changed(&self.make_change(change).await))
            }
            kind::JOIN => self.let_join(frame.from, body).await,
            kind::SNAPSHOT_OFFER => {
                let offer = wire::read_offer(body).map_err(malformed)?;
                let core = self.clone();
                let offered = tokio::task::spawn_blocking(move || core.receiver.offered(offer)).await;
                let (id, wanted) = offered.map_err(broken)?.map_err(broken)?;
                Ok(wire::wanted(&id, &wanted))
            }
            _ => Err(Status::unimplemented("an unknown kind of call")),
        }
    }

    async fn read_index_as_leader(&self) -> Option<u64> {
        // anyone else would only pass the question on
        if self.leader() != Some(Leader::Here) {
            return None;
        }
        self.read_index(Duration::from_millis(self.timing.election_max_ms)).await.ok()
    }

    /// A node asks to be added, which is all that one who isn't a member may ask.
    async fn let_join(&self, from: u64, body: Bytes) -> Result<Bytes, Status> {
        let (member, is_empty) = wire::read_join(body).map_err(malformed)?;
        if member.node_id != from {
            return Err(refuse("join", Status::permission_denied("a node may only ask to join itself")));
        }
        if is_empty && self.is_member(from) {
            return Ok(wire::changed(&Changed::Rejected(USED_ID.to_owned())));
        }
        let changed = match self.change(&Change::AddLearner(member), FORWARDED_LIMIT).await {
            Ok(()) => Changed::Done,
            Err(crate::change::ChangeError::Unavailable) => Changed::NotLeader,
            Err(crate::change::ChangeError::Unknown) => Changed::Unknown,
            Err(crate::change::ChangeError::Rejected(why)) => Changed::Rejected(why),
        };
        Ok(wire::changed(&changed))
    }

    async fn receive(&self, mut frames: Streaming<Frame>, peer: Option<&PeerInfo>) -> Result<Bytes, Status> {
        while let Some(frame) = frames.message().await? {
            self.check(&frame, peer)?;
            match frame.kind {
                kind::SNAPSHOT_CHUNK => {
                    let (id, chunk) = wire::read_chunk(frame.body).map_err(malformed)?;
                    let incoming = self.receiver.incoming(&id).map_err(broken)?;
                    incoming.write(chunk).await.map_err(broken)?;
                }
                kind::SNAPSHOT_END => {
                    let id = read_end(&frame.body).map_err(broken)?;
                    let incoming = self.receiver.incoming(&id).map_err(broken)?;
                    let receiver = self.receiver.clone();
                    let complete = move || receiver.complete(&incoming);
                    let complete = tokio::task::spawn_blocking(complete).await.map_err(broken)?;
                    let (vote, snapshot) = complete.map_err(broken)?;
                    let installed = self.raft.install_full_snapshot(vote, snapshot).await.map_err(broken)?;
                    return Ok(wire::vote_body(&installed.vote));
                }
                _ => return Err(Status::invalid_argument("not a part of a snapshot")),
            }
        }
        Err(Status::aborted("the snapshot ended early"))
    }
}

/// Requests of a stream, until one isn't in order; why it ended is told in the answers' place.
fn requests(
    core: Arc<Core>,
    peer: Option<PeerInfo>,
    frames: Streaming<Frame>,
) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send + 'static {
    frames.scan((), move |(), frame| {
        let checked = frame.and_then(|frame| {
            core.check(&frame, peer.as_ref())?;
            core.read_append(frame.from, frame.body)
        });
        let request = checked.inspect_err(|status| tracing::debug!(%status, "a stream of entries ends"));
        std::future::ready(request.ok())
    })
}

#[tonic::async_trait]
impl Consensus for Service {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<Reply, Status>> + Send>>;

    async fn call(&self, request: Request<Frame>) -> Result<Response<Reply>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let frame = request.into_inner();
        self.0.check(&frame, peer.as_ref())?;
        self.0.answer(frame).await.map(|body| Response::new(reply(body)))
    }

    async fn append(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::AppendStream>, Status> {
        if !self.0.gate.is_open() {
            return Err(Status::failed_precondition("this node takes no part in consensus yet"));
        }
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let requests = requests(self.0.clone(), peer, request.into_inner());
        let answers = self.0.raft.stream_append(requests).map(|result| match result {
            Ok(result) => Ok(reply(wire::stream_result(&result))),
            Err(fatal) => Err(broken(fatal)),
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(&self, request: Request<Streaming<Frame>>) -> Result<Response<Reply>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let body = self.0.receive(request.into_inner(), peer.as_ref()).await?;
        Ok(Response::new(reply(body)))
    }
}
