//! The gate between a started node and consensus: closed until a majority of the voters, itself included, has answered
//! its hello and none remembers more of it than it knows itself. A node of which one does is suspect; see [`suspect`].
//!
//! [`suspect`]: crate::suspect

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::core::Core;
use crate::identity::Heard;
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::suspect::{Suspicion, Why};
use crate::types::StoredMembership;

/// For one answer.
const HELLO_TIMEOUT: Duration = Duration::from_millis(1000);
/// Between rounds of hello.
const HELLO_PAUSE: Duration = Duration::from_millis(100);

/// Between two messages that this node is refused.
const TELL_REFUSED_EVERY: Duration = Duration::from_secs(30);

/// What a node may do in consensus.
#[derive(Debug)]
pub(crate) struct Gate {
    open: AtomicBool,
    closed_for_good: AtomicBool,
    suspicion: watch::Sender<Option<Suspicion>>,
    /// The highest start of this node that a peer has told of.
    start_elsewhere: AtomicU64,
    /// When it was last told that peers refuse this node.
    told_refused: Mutex<Option<Instant>>,
}

impl Gate {
    pub(crate) fn new(suspicion: Option<Suspicion>) -> Gate {
        Gate {
            open: AtomicBool::default(),
            closed_for_good: AtomicBool::default(),
            suspicion: watch::Sender::new(suspicion),
            start_elsewhere: AtomicU64::default(),
            told_refused: Mutex::default(),
        }
    }

    /// May this node vote, stand, lead, and vouch for others?
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && !self.is_closed_for_good() && self.suspicion().is_none()
    }

    /// May it take entries of a leader of this term? A suspect node may from the leader that has recorded it, and from
    /// later ones: it may have forgotten its vote for any of them, and must not make an earlier one's majority.
    pub(crate) fn takes_entries_of(&self, term: u64) -> bool {
        match self.suspicion() {
            _ if self.is_closed_for_good() => false,
            Some(Suspicion { recorded, .. }) => recorded.is_some_and(|recorded| recorded.term <= term),
            None => self.is_open(),
        }
    }

    /// The directory was emptied under a known id.
    pub(crate) fn is_closed_for_good(&self) -> bool {
        self.closed_for_good.load(Ordering::Acquire)
    }

    /// What the node has lost, if it is suspect.
    pub(crate) fn suspicion(&self) -> Option<Suspicion> {
        *self.suspicion.borrow()
    }

    /// Follows the suspicion.
    pub(crate) fn watch_suspicion(&self) -> watch::Receiver<Option<Suspicion>> {
        self.suspicion.subscribe()
    }

    /// The highest start of this node that a peer has told of; 0 for none.
    pub(crate) fn start_elsewhere(&self) -> u64 {
        self.start_elsewhere.load(Ordering::Acquire)
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// A leader has recorded it, or it is as good as any again.
    pub(crate) fn set_suspicion(&self, suspicion: Option<Suspicion>) {
        self.suspicion.send_replace(suspicion);
    }

    /// A peer may say that this node is not one of its cluster any more: the operator has to know, now and then.
    pub(crate) fn heard_refusal(&self, who: u64, status: &Status) {
        let mut told = self.told_refused.lock();
        if status.code() == Code::PermissionDenied && told.is_none_or(|at| at.elapsed() >= TELL_REFUSED_EVERY) {
            *told = Some(Instant::now());
            tracing::error!(peer = format_args!("{who:016x}"), "this node is refused: {}", status.message());
        }
    }

    /// A peer has seen later starts, votes or entries of this node than it holds itself. `start` is the latest start
    /// the peer knows of. A directory that knows no members was emptied and never gets back in; any other is suspect.
    pub(crate) fn went_back(&self, who: u64, start: u64, knows_members: bool) {
        self.start_elsewhere.fetch_max(start, Ordering::AcqRel);
        if self.suspicion().is_some() {
            return;
        }
        let peer = format_args!("{who:016x}");
        if knows_members {
            tracing::error!(
                %peer,
                "this data directory went back in time: a peer has seen later starts, votes or entries of it. The node is \
                 suspect: it votes no more until a leader was elected without it"
            );
            self.set_suspicion(Some(Suspicion { why: Why::Past, recorded: None }));
        } else if !self.closed_for_good.swap(true, Ordering::AcqRel) {
            tracing::error!(
                %peer,
                "this data directory was emptied: a peer has seen later starts, votes or entries of it. The node takes no \
                 part in consensus. Remove it from the cluster, and join with an empty directory under a new id (a new \
                 certificate)"
            );
        }
    }
}

/// What this node says of itself.
pub(crate) fn hello(core: &Core) -> Heard {
    let term = core.log.vote().map_or(0, |vote| vote.leader_id.term);
    Heard { start: core.net.start(), term, last: core.log.last() }
}

/// Greets the other voters until a majority has answered, then opens the gate.
pub(crate) async fn greet(core: Arc<Core>, membership: StoredMembership) {
    let me = core.net.node_id;
    let configs = membership.get_joint_config().clone();
    let mut answered: BTreeSet<u64> = [me].into();
    // a node that was found to be suspect meanwhile takes another way in
    while core.gate.suspicion().is_none() {
        let majority = |config: &BTreeSet<u64>| config.intersection(&answered).count() * 2 > config.len();
        if configs.iter().all(majority) {
            core.gate.open();
            core.raft.runtime_config().elect(true);
            return;
        }
        let others = membership.voter_ids().filter(|id| !answered.contains(id));
        let mut asked: FuturesUnordered<_> = others
            .filter_map(|id| Some((id, membership.get_node(&id)?.raft_addr.clone())))
            .map(|(id, addr)| ask(core.clone(), id, addr))
            .collect();
        while let Some((id, answer)) = asked.next().await {
            match answer {
                Some(None) => _ = answered.insert(id),
                Some(Some(more)) => return core.gate.went_back(id, more.start, true),
                None => {}
            }
        }
        drop(asked);
        tokio::time::sleep(HELLO_PAUSE).await;
    }
}

/// What that voter remembers, if it is more; the outer `None` if it didn't answer.
async fn ask(core: Arc<Core>, id: u64, addr: String) -> (u64, Option<Option<Heard>>) {
    let mut body = BytesMut::new();
    hello(&core).put(&mut body);
    let question = (kind::HELLO, body.freeze());
    let answer = core.net.call((id, &addr), Class::Pulse, question, HELLO_TIMEOUT).await;
    let answer = answer.inspect_err(|status| core.gate.heard_refusal(id, status));
    (id, answer.ok().and_then(|body| wire::read_greeting(body).ok()))
}

/// Answers a hello: says whether this node remembers more, and remembers what it was told.
pub(crate) async fn answer(core: &Core, from: u64, hello: Heard) -> std::io::Result<Bytes> {
    observe(core);
    let known = core.net.memory.of(from);
    if known.is_ahead_of(&hello) {
        return Ok(wire::greeting(Some(&known)));
    }
    core.net.memory.heard_start(from, hello);
    core.log.put_heard(from, &core.net.memory.record(from)).await?;
    Ok(wire::greeting(None))
}

/// A leader's view of its followers, into memory.
fn observe(core: &Core) {
    let metrics = core.metrics();
    if let Some(replication) = metrics.replication {
        for (id, matched) in replication {
            // what a suspect node had acknowledged counts no more
            let counts = id != core.net.node_id && !core.net.permits.covers(id, metrics.current_term);
            if let Some(matched) = matched.filter(|_| counts) {
                core.net.memory.heard_ack(id, metrics.current_term, matched.into());
            }
        }
    }
}

/// Keeps the memory of peers on the disk, about once a second while it changes: what a leader knows of the others is
/// what an operator has to go by when they are gone for good.
pub(crate) async fn remember(core: Arc<Core>) {
    let mut kept = core.net.memory.all();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        observe(&core);
        let now = core.net.memory.all();
        for (id, heard) in &now {
            if kept.get(id) != Some(heard) && core.log.put_heard(*id, &core.net.memory.record(*id)).await.is_err() {
                return;
            }
        }
        kept = now;
    }
}
