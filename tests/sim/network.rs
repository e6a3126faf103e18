//! The network between the nodes: late, lossy, cut. It carries the messages of consensus and the calls of the transfer
//! room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use http_body_util::{BodyStream, StreamBody};
use parking_lot::Mutex;
use portolan::blob::transfer::{Transfer, Wire};
use registry_core::vocabulary::ids::NodeId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use crate::dice::Dice;

/// How long a connection over a cut link hangs before it breaks, as the pings of HTTP/2 would have it.
const HANGS: Duration = Duration::from_secs(3);
/// How often a hanging connection looks whether it is whole again.
const LOOK: Duration = Duration::from_millis(100);
/// How often a message over a link is late beyond measure, of a thousand.
const LATE_PERMILLE: u64 = 4;

/// The network. Clones share it.
#[derive(Clone)]
pub(crate) struct Network(Arc<Inner>);

struct Inner {
    dice: Dice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Longest usual delay, milliseconds.
    delay_ms: u64,
    loss_permille: u64,
}

struct Node {
    life: u64,
    transfer: Option<Transfer>,
    is_paused: bool,
}

/// A message, or a connection, is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

impl Network {
    pub(crate) fn new(dice: Dice) -> Network {
        let state = Mutex::new(State { delay_ms: 3, ..State::default() });
        Network(Arc::new(Inner { dice, state }))
    }

    /// A node is there in a new life, without its transfer yet.
    pub(crate) fn join(&self, node: NodeId, life: u64) {
        self.0.state.lock().nodes.insert(node, Node { life, transfer: None, is_paused: false });
    }

    /// The node answers calls from now on.
    pub(crate) fn serve(&self, node: NodeId, transfer: Transfer) {
        if let Some(found) = self.0.state.lock().nodes.get_mut(&node) {
            found.transfer = Some(transfer);
        }
    }

    /// The node is gone.
    pub(crate) fn leave(&self, node: NodeId) {
        self.0.state.lock().nodes.remove(&node);
    }

    /// Whether this life of the node goes on.
    pub(crate) fn is_alive(&self, node: NodeId, life: u64) -> bool {
        self.0.state.lock().nodes.get(&node).is_some_and(|found| found.life == life)
    }

    /// Whether messages get from one to the other now.
    pub(crate) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        let state = self.0.state.lock();
        let is_up = |node| state.nodes.get(&node).is_some_and(|found| !found.is_paused);
        is_up(from) && is_up(to) && (from == to || !state.cut.contains(&(from, to)))
    }

    /// Both ways.
    pub(crate) fn is_whole(&self, one: NodeId, other: NodeId) -> bool {
        self.is_open(one, other) && self.is_open(other, one)
    }

    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.0.state.lock().cut.insert((from, to));
    }

    pub(crate) fn pause(&self, node: NodeId, is_paused: bool) {
        if let Some(found) = self.0.state.lock().nodes.get_mut(&node) {
            found.is_paused = is_paused;
        }
    }

    /// Makes it slower or lossier.
    pub(crate) fn degrade(&self, delay_ms: u64, loss_permille: u64) {
        let mut state = self.0.state.lock();
        (state.delay_ms, state.loss_permille) = (delay_ms, loss_permille);
    }

    /// All links are whole and quick again, and nobody is paused.
    pub(crate) fn heal(&self) {
        let mut state = self.0.state.lock();
        state.cut.clear();
        (state.delay_ms, state.loss_permille) = (3, 0);
        state.nodes.values_mut().for_each(|node| node.is_paused = false);
    }

    fn draw(&self) -> (Duration, bool) {
        let (delay_ms, loss_permille) = {
            let state = self.0.state.lock();
            (state.delay_ms, state.loss_permille)
        };
        let is_late = self.0.dice.below(1000) < LATE_PERMILLE;
        let delay = if is_late { self.0.dice.wait(200, 2500) } else { self.0.dice.wait(0, delay_ms) };
        (delay, self.0.dice.below(1000) < loss_permille)
    }

    /// Waits for a message to arrive; one that is lost is lost after a while.
    pub(crate) async fn pass(&self, from: NodeId, to: NodeId) -> Result<(), Lost> {
        if from == to {
            return Ok(());
        }
        let (delay, is_lost) = self.draw();
        sleep(delay).await;
        if is_lost {
            sleep(self.0.dice.wait(50, 1000)).await;
            return Err(Lost);
        }
        self.hang(from, to).await
    }

    /// Waits until the link is open; gives up like a connection does.
    async fn hang(&self, from: NodeId, to: NodeId) -> Result<(), Lost> {
        let mut hung = Duration::ZERO;
        loop {
            if !self.0.state.lock().nodes.contains_key(&to) || hung >= HANGS {
                return Err(Lost);
            }
            if self.is_open(from, to) {
                return Ok(());
            }
            sleep(LOOK).await;
            hung += LOOK;
        }
    }

    /// A body on its way over a connection to or from that life of `server`. A connection breaks both ways.
    fn carry(&self, from: NodeId, to: NodeId, server: (NodeId, u64), broken: &Arc<AtomicBool>, body: Body) -> Body {
        let (network, broken) = (self.clone(), Arc::clone(broken));
        let frames = BodyStream::new(body).then(move |frame| {
            let (network, broken) = (network.clone(), Arc::clone(&broken));
            async move {
                if network.0.dice.percent(6) {
                    sleep(network.0.dice.wait(1, 40)).await;
                }
                let is_lost = !network.is_alive(server.0, server.1) || network.hang(from, to).await.is_err();
                if is_lost || broken.load(Ordering::SeqCst) {
                    broken.store(true, Ordering::SeqCst);
                    return Err(Status::unavailable("the connection broke off"));
                }
                frame
            }
        });
        Body::new(StreamBody::new(frames))
    }

    async fn call(&self, from: NodeId, to: NodeId, request: Request<Body>) -> Result<Response<Body>, Status> {
        let lost = |Lost| Status::unavailable("no answer over this link");
        self.pass(from, to).await.map_err(lost)?;
        let target = self.0.state.lock().nodes.get(&to).and_then(|node| Some((node.life, node.transfer.clone()?)));
        let Some((life, transfer)) = target else { return Err(Status::unavailable("connection refused")) };
        let broken = Arc::new(AtomicBool::new(false));
        let request = request.map(|body| self.carry(from, to, (to, life), &broken, body));
        let (done, mut answer) = oneshot::channel();
        tokio::spawn(async move { drop(done.send(transfer.answer(request).await)) });
        let mut hung = Duration::ZERO;
        let response = loop {
            match timeout(LOOK, &mut answer).await {
                Ok(Ok(response)) => break response,
                Ok(Err(_)) => return Err(Status::unavailable("the other node panicked")),
                Err(_) => {}
            }
            hung = if self.is_whole(from, to) { Duration::ZERO } else { hung + LOOK };
            if !self.is_alive(to, life) || hung >= HANGS || broken.load(Ordering::SeqCst) {
                return Err(Status::unavailable("the connection broke off"));
            }
        };
        self.pass(to, from).await.map_err(lost)?;
        if broken.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the connection broke off"));
        }
        Ok(response.map(|body| self.carry(to, from, (to, life), &broken, body)))
    }
}

/// The end of the network at one life of a node.
pub(crate) struct Port {
    pub(crate) network: Network,
    pub(crate) life: u64,
}

impl Wire for Port {
    fn call(
        &self,
        from: NodeId,
        to: NodeId,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, Status>> {
        let (network, life) = (self.network.clone(), self.life);
        async move {
            if !network.is_alive(from, life) {
                // a task of a process that is gone
                return std::future::pending().await;
            }
            network.call(from, to, request).await
        }
        .boxed()
    }
}

/// Bytes as a stream that arrives in parts.
pub(crate) fn stream(bytes: &Bytes, parts: usize) -> portolan::registry::ByteStream {
    let step = bytes.len().div_ceil(parts.max(1)).max(1);
    let parts: Vec<_> = (0..bytes.len()).step_by(step).map(|at| bytes.slice(at..bytes.len().min(at + step))).collect();
    Box::pin(futures_util::stream::iter(parts.into_iter().map(Ok)))
}
