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
use crate::reinstall;
use crate::suspect;
use crate::types::Types;

/// For work on behalf of another node, when its own patience isn't known here.
const FORWARDED_LIMIT: Duration = Duration::from_secs(30);

/// What a node of another life of the log is told.
const OTHER_LIFE: &str = "this cluster's log has another lineage: it was recovered or restored without the caller, whose \
     data belongs to the life before. Keep that aside, and join with an empty data directory under a new id (a new \
     certificate)";

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

fn closed() -> Status {
    Status::failed_precondition("this node takes no part in consensus yet")
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
        // a new node begins in the first life, and is told which one it is now
        if frame.lineage != self.net.lineage() && frame.kind != kind::JOIN {
            return Err(refuse("lineage", Status::permission_denied(OTHER_LIFE)));
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
        if frame.known_start > self.net.start() || frame.known_term > term {
            self.gate.went_back(frame.from, frame.known_start, self.knows_members());
        }
        // a suspect node learns only by asking that there were later starts of it
        if frame.start < self.net.memory.of(frame.from).start && frame.kind != kind::SUSPECT {
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
            // It has forgotten votes and entries, and what it had heard of others.
            kind::HELLO | kind::VOTE | kind::PRE_VOTE | kind::TRANSFER if self.gate.suspicion().is_some() => {
                Err(Status::failed_precondition("this node is suspect: it neither votes nor vouches for anybody"))
            }
            // An empty directory may be one that was emptied: it would vote a second time in a term, and vouch for a
            // log it has lost. A new node needs no vote before a leader has fed it.
            kind::HELLO | kind::VOTE | kind::PRE_VOTE if !self.knows_members() => {
                Err(Status::failed_precondition("this node knows no members: it neither votes nor vouches for anybody"))
            }
            kind::HELLO | kind::JOIN => Ok(()),
            kind::PROPOSE | kind::READ_INDEX | kind::CHANGE | kind::SUSPECT | kind::STATE_OFFER | kind::STATE_READ => {
                if self.is_member(frame.from) {
                    Ok(())
                } else {
                    Err(refuse("member", Status::permission_denied("the caller is not a member")))
                }
            }
            // Consensus itself: a node that was away may not have heard yet that the caller has become a member, so
            // membership cannot be asked for here; the term and the log decide, as the protocol has it. Who has left is
            // refused above.
            // Whether a suspect node may take these is asked of each request, by its term.
            kind::APPEND | kind::SNAPSHOT_OFFER | kind::SNAPSHOT_CHUNK | kind::SNAPSHOT_END | kind::LOST => Ok(()),
            _ if self.gate.is_open() => Ok(()),
            _ => Err(closed()),
        }
    }

    /// Whether this node may take entries, or a state, from a leader of this term.
    fn check_term(&self, term: u64) -> Result<(), Status> {
        if self.gate.takes_entries_of(term) { Ok(()) } else { Err(closed()) }
    }

    /// Reads a leader's request, and remembers that it leads this term: it has written its own vote down. The founder
    /// gives itself away by nothing else when its directory was emptied; fed from the first entry on, where it is the
    /// only voter, it would elect itself.
    fn read_append(&self, from: u64, body: Bytes) -> Result<AppendEntriesRequest<Types>, Status> {
        let request = wire::read_append_request(body).map_err(malformed)?;
        self.check_term(request.vote.leader_id.term)?;
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
            kind::JOIN => self.let_join(frame.from, frame.lineage, body).await,
            kind::SUSPECT => {
                let report = wire::read_report(body).map_err(malformed)?;
                Ok(wire::reception(&suspect::answer(self, frame.from, report).await))
            }
            kind::LOST => {
                let known = wire::read(body, Heard::take).map_err(malformed)?;
                if known.is_ahead_of(&gate::hello(self)) {
                    self.gate.went_back(frame.from, known.start, self.knows_members());
                }
                Ok(Bytes::new())
            }
            kind::STATE_OFFER => {
                let beyond = wire::read_beyond(body).map_err(malformed)?;
                let core = self.clone();
                let offered = tokio::task::spawn_blocking(move || reinstall::offer(&core, beyond)).await;
                Ok(offered.map_err(broken)?.map_err(broken)?.unwrap_or_default())
            }
            kind::STATE_READ => {
                let piece = wire::read_piece(body).map_err(malformed)?;
                let core = self.clone();
                let read = tokio::task::spawn_blocking(move || reinstall::piece(&core, &piece)).await;
                read.map_err(broken)?.map_err(broken)
            }
            kind::SNAPSHOT_OFFER => {
                let offer = wire::read_offer(body).map_err(malformed)?;
                self.check_term(offer.vote.leader_id.term)?;
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
    async fn let_join(&self, from: u64, lineage: u64, body: Bytes) -> Result<Bytes, Status> {
        let (member, is_empty) = wire::read_join(body).map_err(malformed)?;
        if lineage != self.net.lineage() {
            let told = if is_empty && !self.is_member(from) {
                Changed::Lineage(self.net.lineage())
            } else {
                Changed::Rejected(OTHER_LIFE.to_owned())
            };
            return Ok(wire::changed(&told));
        }
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
                    self.check_term(vote.leader_id.term)?;
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
        // the one term that every leader is below: who takes nothing at all needs no stream
        self.0.check_term(u64::MAX)?;
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
