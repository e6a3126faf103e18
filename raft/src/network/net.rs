//! This node's end of all connections: who it is, what it remembers of peers, a channel per peer and class.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::MESSAGE_BYTES_MAX;
use super::proto::consensus_client::ConsensusClient;
use super::proto::{Frame, Reply};
use super::transport::{Dial, Expect, TlsSource, connect};
use crate::identity::Memory;
use crate::suspect::Permits;

/// Classes of traffic; each has its own connection, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Heartbeats, votes, hello.
    Pulse,
    /// Log entries.
    Append,
    /// Files of snapshots.
    Snapshot,
    /// Proposals, reads, changes of members.
    Forward,
}

/// Opens connections and marks frames with who sends them.
pub(crate) struct Net {
    pub(crate) cluster_id: u128,
    lineage: AtomicU64,
    pub(crate) node_id: u64,
    start: AtomicU64,
    pub(crate) memory: Memory,
    pub(crate) permits: Permits,
    pub(crate) bind_source: Option<IpAddr>,
    pub(crate) tls: Option<TlsSource>,
    pub(crate) connect_timeout: Duration,
    /// Bytes of snapshot sent in a second, to one peer.
    pub(crate) snapshot_rate: u64,
    pub(crate) append_messages: usize,
    channels: Mutex<BTreeMap<(u64, Class), (String, Channel)>>,
}

/// What makes up a [`Net`].
pub(crate) struct NetSettings {
    pub(crate) cluster_id: u128,
    pub(crate) lineage: u64,
    pub(crate) node_id: u64,
    pub(crate) start: u64,
    pub(crate) memory: Memory,
    pub(crate) bind_source: Option<IpAddr>,
    pub(crate) tls: Option<TlsSource>,
    pub(crate) connect_timeout: Duration,
    pub(crate) snapshot_rate: u64,
    pub(crate) append_messages: usize,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Net({:016x})", self.node_id)
    }
}

impl Net {
    pub(crate) fn new(settings: NetSettings) -> Arc<Net> {
        let NetSettings {
            cluster_id,
            lineage,
            node_id,
            start,
            memory,
            bind_source,
            tls,
            connect_timeout,
            snapshot_rate,
            append_messages,
        } = settings;
        let channels = Mutex::new(BTreeMap::new());
        Arc::new(Net {
            cluster_id,
            lineage: AtomicU64::new(lineage),
            node_id,
            start: AtomicU64::new(start),
            memory,
            permits: Permits::default(),
            bind_source,
            tls,
            connect_timeout,
            snapshot_rate,
            append_messages,
            channels,
        })
    }

    /// The life of the cluster's log that this node belongs to.
    pub(crate) fn lineage(&self) -> u64 {
        self.lineage.load(Ordering::Acquire)
    }

    /// A node that belongs to nothing yet joins another life.
    pub(crate) fn set_lineage(&self, lineage: u64) {
        self.lineage.store(lineage, Ordering::Release);
    }

    /// How often this node has started.
    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    /// Peers know of later starts of this node.
    pub(crate) fn raise_start(&self, start: u64) {
        self.start.fetch_max(start, Ordering::AcqRel);
    }

    /// A client for a peer. Needs the runtime of consensus, on which the channel lives.
    pub(crate) fn client(&self, to: u64, addr: &str, class: Class) -> Result<ConsensusClient<Channel>, Status> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(to, class)) {
            Some((known, channel)) if known == addr => channel.clone(),
            Some(_) | None => {
                // node 0 is "whoever answers there": a seed, before its id is known
                let expect = (to != 0).then_some(Expect::Node(self.cluster_id, to));
                let (bind_source, tls) = (self.bind_source, self.tls.clone());
                let connect_timeout = self.connect_timeout;
                let dial = Dial { addr: addr.to_owned(), bind_source, tls, expect, connect_timeout };
                let channel = connect(dial).map_err(|error| Status::invalid_argument(error.to_string()))?;
                channels.insert((to, class), (addr.to_owned(), channel.clone()));
                channel
            }
        };
        let client = ConsensusClient::new(channel);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Marks a body with both ends of the call.
    pub(crate) fn frame(&self, to: u64, kind: u32, body: Bytes) -> Frame {
        let known = self.memory.of(to);
        Frame {
            cluster_high: (self.cluster_id >> 64) as u64,
            cluster_low: self.cluster_id as u64,
            lineage: self.lineage(),
            from: self.node_id,
            to,
            start: self.start(),
            known_start: known.start,
            known_term: known.term,
            kind,
            body,
        }
    }

    /// One question, one answer.
    pub(crate) async fn call(
        &self,
        (to, addr): (u64, &str),
        class: Class,
        (kind, body): (u32, Bytes),
        limit: Duration,
    ) -> Result<Bytes, Status> {
        let mut client = self.client(to, addr, class)?;
        let asked = client.call(Request::new(self.frame(to, kind, body)));
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map(|reply| reply.into_inner().body),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }
}

pub(crate) fn reply(body: Bytes) -> Reply {
    Reply { body }
}

/// Whether a call that failed like this has certainly not reached the other side.
pub(crate) fn never_arrived(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    // said by our own server before it looked at the body
    matches!(status.code(), Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument)
}
