//! The other nodes: connections, round trips, failures, space. Reachability is what they answered, not what is written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use registry_core::decide::clock_skew::Reading;
use registry_core::decide::placement::{StorePlace, StoreState, Topology};
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId};
use registry_core::vocabulary::limits::{CLOCK_READING_AGE_MS_MAX, TRANSFER_MESSAGE_BYTES_MAX};
use tokio::time::Instant;
use tonic::Status;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;

use crate::blob::store::Pressure;
use crate::ground::clock::epoch_ms;
use crate::ground::{Clock, Crowd, traces};

use super::link::{Dialer, Link};
#[cfg(feature = "sim")]
use super::simulated::{Direction, Wire};
use super::wire::proto::blob_client::BlobClient;
use super::wire::{self, Route, proto};
use super::{Directory, PeerHealth, StoreHealth, TransferError, TransferResult};

/// Weight of the newest sample in a smoothed value.
const SMOOTHING: f64 = 0.2;
/// Pings that may stay without an answer before a node counts as out of reach.
const PINGS_MISSED_MAX: u32 = 3;

pub(super) type Client = BlobClient<InterceptedService<Link, Stamp>>;

/// Writes the route onto every call to one peer.
#[derive(Clone)]
pub(super) struct Stamp(Route);

impl Interceptor for Stamp {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        self.0.stamp(request.metadata_mut());
        if let Some(parent) = traces::parent().and_then(|parent| parent.parse().ok()) {
            request.metadata_mut().insert(traces::TRACEPARENT, parent);
        }
        Ok(request)
    }
}

/// Another node.
pub(super) struct Peer {
    pub(super) node: NodeId,
    address: Arc<str>,
    /// Short calls; apart from the streams, so that these cannot delay them.
    control: Client,
    /// Streams of bytes.
    bulk: Client,
    gauge: Mutex<Gauge>,
}

#[derive(Default)]
struct Gauge {
    rtt_us: Option<f64>,
    error_share: f64,
    /// When it answered last; none after a failure.
    answered: Option<Instant>,
    stores: Vec<StoreHealth>,
    log_is_short: bool,
    is_closing: bool,
    is_full: bool,
    /// The last reading of its clock that counts, and when it was made on this node's time since boot.
    clock: Option<(Reading, u64)>,
}

impl Gauge {
    /// Notes what its clock showed between two moments. A slow answer leaves the reading before it: that is still good.
    fn note_clock(&mut self, wall_ms: u64, asked_ms: u64, answered_ms: u64) {
        let reading = Reading::of_answer(wall_ms, asked_ms, answered_ms);
        // one of before 0.2.0 says nothing
        if wall_ms != 0 && reading.counts() {
            self.clock = Some((reading, answered_ms));
        }
    }

    fn clock_epoch_ms(&self, now_ms: u64) -> Option<i64> {
        let fresh = self.clock.filter(|(_, at_ms)| now_ms.saturating_sub(*at_ms) < CLOCK_READING_AGE_MS_MAX);
        fresh.map(|(reading, _)| reading.epoch_ms)
    }
}

impl Peer {
    pub(super) fn control(&self) -> Client {
        self.control.clone()
    }

    pub(super) fn bulk(&self) -> Client {
        self.bulk.clone()
    }

    /// Notes how a call ended. A refusal of its store is an answer like any other.
    pub(super) fn note(&self, error: Option<&TransferError>) {
        let is_lost = matches!(error, Some(TransferError::Unreachable { node, .. }) if *node == self.node);
        let mut gauge = self.gauge.lock();
        gauge.error_share += SMOOTHING * (f64::from(u8::from(is_lost)) - gauge.error_share);
        if is_lost {
            gauge.answered = None;
        }
    }

    /// Makes a short call with a deadline.
    pub(super) async fn call<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> TransferResult<T> {
        let result = match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(wire::error_of(self.node, &status)),
            Err(_) => Err(self.unreachable(format!("no answer within {} ms", deadline.as_millis()))),
        };
        self.note(result.as_ref().err());
        result
    }

    pub(super) fn unreachable(&self, detail: impl Into<Arc<str>>) -> TransferError {
        TransferError::Unreachable { node: self.node, detail: detail.into() }
    }
}

/// All other nodes of the directory.
pub(super) struct Peers {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    pub(super) clock: Arc<dyn Clock>,
    /// How full this node is of clients.
    pub(super) crowd: Crowd,
    dialer: Dialer,
    #[cfg(feature = "sim")]
    wire: Option<Arc<dyn Wire>>,
    ping_interval: Duration,
    directory: ArcSwap<Directory>,
    peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    own: Mutex<Vec<StoreHealth>>,
    own_log_is_short: AtomicBool,
    is_closing: AtomicBool,
}

impl Peers {
    pub(super) fn new(config: &super::Config) -> Peers {
        Peers {
            cluster: config.cluster,
            node: config.node,
            clock: Arc::clone(&config.clock),
            crowd: Crowd::default(),
            dialer: Dialer { cluster: config.cluster, bind_source: config.bind_source, tls: config.tls.clone() },
            #[cfg(feature = "sim")]
            wire: None,
            ping_interval: Duration::from_millis(config.settings.ping_interval_ms),
            directory: ArcSwap::default(),
            peers: ArcSwap::default(),
            own: Mutex::default(),
            own_log_is_short: AtomicBool::default(),
            is_closing: AtomicBool::default(),
        }
    }

    /// With a simulator's wire in the place of connections.
    #[cfg(feature = "sim")]
    pub(super) fn over(self, wire: Arc<dyn Wire>) -> Peers {
        Peers { wire: Some(wire), ..self }
    }

    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Takes a new directory; peers whose address did not change keep their connections.
    pub(super) fn set_directory(&self, directory: Directory) {
        let before = self.peers.load_full();
        let mut peers = BTreeMap::new();
        for seat in directory.nodes().filter(|seat| seat.id != self.node) {
            let kept = before.get(&seat.id).filter(|peer| peer.address == seat.blob_address).cloned();
            match kept.map_or_else(|| self.connect(seat.id, &seat.blob_address).map(Arc::new), Ok) {
                Ok(peer) => {
                    peers.insert(seat.id, peer);
                }
                Err(error) => {
                    tracing::warn!(node = %seat.id, address = %seat.blob_address, %error, "unusable blob address")
                }
            }
        }
        self.directory.store(Arc::new(directory));
        self.peers.store(Arc::new(peers));
    }

    fn connect(&self, node: NodeId, address: &Arc<str>) -> std::io::Result<Peer> {
        let stamp = Stamp(Route { cluster: self.cluster, from: self.node, to: node });
        let client = || -> std::io::Result<Client> {
            let link = self.link(node, address)?;
            let client = BlobClient::with_interceptor(link, stamp.clone())
                .max_decoding_message_size(TRANSFER_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(TRANSFER_MESSAGE_BYTES_MAX);
            Ok(client)
        };
        let (control, bulk) = (client()?, client()?);
        Ok(Peer { node, address: Arc::clone(address), control, bulk, gauge: Mutex::default() })
    }

    fn link(&self, node: NodeId, address: &str) -> std::io::Result<Link> {
        #[cfg(feature = "sim")]
        if let Some(wire) = &self.wire {
            return Ok(Link::Simulated(Direction { wire: Arc::clone(wire), from: self.node, to: node }));
        }
        self.dialer.connect(node, address)
    }

    /// Another node. Errors: `NodeUnknown`.
    pub(super) fn get(&self, node: NodeId) -> TransferResult<Arc<Peer>> {
        self.peers.load().get(&node).cloned().ok_or(TransferError::NodeUnknown(node))
    }

    /// Whether a node answered lately. One that was never asked may be tried.
    pub(super) fn is_reachable(&self, node: NodeId) -> bool {
        node == self.node || self.peers.load().get(&node).is_some_and(|peer| self.is_fresh(&peer.gauge.lock()))
    }

    fn is_fresh(&self, gauge: &Gauge) -> bool {
        let patience = self.ping_interval * PINGS_MISSED_MAX + PING_DEADLINE;
        gauge.answered.is_some_and(|at| at.elapsed() < patience)
    }

    /// How far away a node is for a read: the smaller the better. Nodes out of reach come last.
    pub(super) fn distance(&self, node: NodeId) -> u64 {
        if node == self.node {
            return 0;
        }
        let peers = self.peers.load();
        let Some(peer) = peers.get(&node) else { return u64::MAX };
        let gauge = peer.gauge.lock();
        let rtt_us = gauge.rtt_us.unwrap_or(1_000.0);
        // A node that fails every tenth call is as good as one twice as far away.
        let cost = (rtt_us.max(1.0) * (1.0 + 10.0 * gauge.error_share)) as u64;
        if self.is_fresh(&gauge) { cost } else { cost.saturating_add(u64::MAX / 2) }
    }

    /// Whether a node has answered a moment ago, or does when it is pinged; and does not end.
    pub(super) async fn answers_now(&self, node: NodeId) -> bool {
        let Some(peer) = self.peers.load().get(&node).cloned() else { return false };
        let is_recent = |gauge: &Gauge| gauge.answered.is_some_and(|at| at.elapsed() < RECENT);
        let (is_known, is_now) = {
            let gauge = peer.gauge.lock();
            (self.is_fresh(&gauge), is_recent(&gauge))
        };
        // nobody waits again and again for one that is gone
        if !is_known {
            return false;
        }
        if !is_now {
            // one that is slow to say so is not fit
            let _: Option<()> = tokio::time::timeout(RECENT, ping(&peer, &*self.clock)).await.ok();
        }
        let gauge = peer.gauge.lock();
        is_recent(&gauge) && !gauge.is_closing
    }

    /// Whether a node has hardly a connection left for clients, as it said last.
    pub(super) fn is_full(&self, node: NodeId) -> bool {
        if node == self.node {
            return self.crowd.is_full();
        }
        self.peers.load().get(&node).is_some_and(|peer| peer.gauge.lock().is_full)
    }

    pub(super) fn set_closing(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    pub(super) fn set_own(&self, stores: Vec<StoreHealth>) {
        *self.own.lock() = stores;
    }

    pub(super) fn set_log_short(&self, is_short: bool) {
        self.own_log_is_short.store(is_short, Ordering::Release);
    }

    pub(super) fn is_log_short(&self) -> bool {
        self.own_log_is_short.load(Ordering::Acquire)
    }

    pub(super) fn own(&self) -> Vec<StoreHealth> {
        self.own.lock().clone()
    }

    /// The registered topology with stores whose volume is this full, or fuller, marked as full.
    pub(super) fn live_topology(&self, mark: Pressure) -> Topology {
        let directory = self.directory.load();
        let topology = directory.topology();
        let is_full = |store: &StorePlace| {
            self.store_health(store.node, store.id).is_some_and(|health| health.is_failed || health.pressure >= mark)
        };
        let stores = topology.stores().map(|store| match store.state == StoreState::Up && is_full(store) {
            true => StorePlace { state: StoreState::Full, ..*store },
            false => *store,
        });
        let nodes = directory.places();
        // The same rows in other states contradict each other as little as before.
        Topology::new(nodes, stores).unwrap_or_else(|_| topology.clone())
    }

    fn store_health(&self, node: NodeId, store: StoreId) -> Option<StoreHealth> {
        let find = |stores: &[StoreHealth]| stores.iter().find(|health| health.store == store).copied();
        match node == self.node {
            true => find(&self.own.lock()),
            false => find(&self.peers.load().get(&node)?.gauge.lock().stores),
        }
    }

    /// How every node of the directory is doing.
    pub(super) fn health(&self) -> Vec<PeerHealth> {
        let peers = self.peers.load();
        let directory = self.directory.load();
        let now_ms = self.clock.boot_ms();
        let health = |node| match peers.get(&node) {
            None => PeerHealth {
                node,
                is_reachable: node == self.node,
                rtt_us: 0,
                error_share: 0.0,
                stores: self.own(),
                log_is_short: self.is_log_short(),
                clock_epoch_ms: (node == self.node).then(|| epoch_ms(&*self.clock)),
            },
            Some(peer) => {
                let gauge = peer.gauge.lock();
                PeerHealth {
                    node,
                    is_reachable: self.is_fresh(&gauge),
                    rtt_us: gauge.rtt_us.map_or(u64::MAX, |rtt| rtt as u64),
                    error_share: gauge.error_share,
                    stores: gauge.stores.clone(),
                    log_is_short: gauge.log_is_short,
                    clock_epoch_ms: gauge.clock_epoch_ms(now_ms),
                }
            }
        };
        directory.nodes().map(|seat| health(seat.id)).collect()
    }

    /// Pings every peer once, all at once, and waits for the answers at most [`PING_DEADLINE`].
    pub(super) async fn ping_all(&self) {
        let peers = self.peers.load_full();
        futures_util::future::join_all(peers.values().map(|peer| ping(peer, &*self.clock))).await;
    }
}

/// An answer not older than this says that a node is there now.
const RECENT: Duration = Duration::from_millis(150);
/// A ping without an answer by then has failed.
const PING_DEADLINE: Duration = Duration::from_secs(1);

async fn ping(peer: &Peer, clock: &dyn Clock) {
    let (began, asked_ms) = (Instant::now(), clock.boot_ms());
    let mut client = peer.control();
    let result = peer.call(PING_DEADLINE, client.ping(proto::PingRequest {})).await;
    let answered_ms = clock.boot_ms();
    let mut gauge = peer.gauge.lock();
    match result {
        Ok(reply) => {
            let rtt_us = began.elapsed().as_secs_f64() * 1e6;
            gauge.rtt_us = Some(gauge.rtt_us.map_or(rtt_us, |smooth| smooth + SMOOTHING * (rtt_us - smooth)));
            gauge.answered = Some(Instant::now());
            gauge.stores = reply.stores.iter().map(wire::store_health).collect();
            gauge.log_is_short = reply.log_is_short;
            gauge.is_closing = reply.is_closing;
            gauge.is_full = reply.is_full;
            gauge.note_clock(reply.wall_ms, asked_ms, answered_ms);
        }
        Err(error) => tracing::debug!(node = %peer.node, %error, "no answer to a ping"),
    }
}
