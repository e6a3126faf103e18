//! The gate between a started node and consensus: closed until a majority of the voters, itself included, has answered
//! its hello and none remembers more of it than it knows itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::core::Core;
use crate::identity::Heard;
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::types::StoredMembership;

/// For one answer.
const HELLO_TIMEOUT: Duration = Duration::from_millis(1000);
/// Between rounds of hello.
const HELLO_PAUSE: Duration = Duration::from_millis(100);

/// Open or closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    went_back: AtomicBool,
}

impl Gate {
    /// May this node vote, stand, or take entries?
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && !self.went_back.load(Ordering::Acquire)
    }

    /// A peer knows more of this node than it knows itself.
    pub(crate) fn went_back(&self) -> bool {
        self.went_back.load(Ordering::Acquire)
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Closes the gate for good.
    pub(crate) fn close_for_good(&self, who: u64) {
        if !self.went_back.swap(true, Ordering::AcqRel) {
            tracing::error!(
                peer = format_args!("{who:016x}"),
                "this data directory went back in time, or was emptied: a peer has seen later starts, votes or entries of \
                 it. The node takes no part in consensus. Remove it from the cluster, and join with an empty directory \
                 under a new id (a new certificate)"
            );
        }
    }
}

/// What this node says of itself.
fn hello(core: &Core) -> Heard {
    let term = core.log.vote().map_or(0, |vote| vote.leader_id.term);
    Heard { start: core.net.start, term, last: core.log.last() }
}

/// Greets the other voters until a majority has answered, then opens the gate.
pub(crate) async fn greet(core: Arc<Core>, membership: StoredMembership) {
    let me = core.net.node_id;
    let configs = membership.get_joint_config().clone();
    let mut answered: BTreeSet<u64> = [me].into();
    loop {
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
                Some(false) => _ = answered.insert(id),
                Some(true) => return core.gate.close_for_good(id),
                None => {}
            }
        }
        drop(asked);
        tokio::time::sleep(HELLO_PAUSE).await;
    }
}

/// Whether that voter remembers more; `None` if it didn't answer.
async fn ask(core: Arc<Core>, id: u64, addr: String) -> (u64, Option<bool>) {
    let mut body = BytesMut::new();
    hello(&core).put(&mut body);
    let question = (kind::HELLO, body.freeze());
    let answer = core.net.call((id, &addr), Class::Pulse, question, HELLO_TIMEOUT).await;
    let answer = answer.ok().and_then(|body| wire::read(body, |from| from.bool()).ok());
    (id, answer)
}

/// Answers a hello: says whether this node remembers more, and remembers what it was told.
pub(crate) async fn answer(core: &Core, from: u64, hello: Heard) -> std::io::Result<Bytes> {
    observe(core);
    let ahead = core.net.memory.of(from).is_ahead_of(&hello);
    if !ahead {
        core.net.memory.heard_start(from, hello);
        core.log.put_heard(from, &core.net.memory.record(from)).await?;
    }
    Ok(Bytes::copy_from_slice(&[u8::from(ahead)]))
}

/// A leader's view of its followers, into memory.
fn observe(core: &Core) {
    let metrics = core.metrics();
    if let Some(replication) = metrics.replication {
        for (id, matched) in replication {
            if let Some(matched) = matched.filter(|_| id != core.net.node_id) {
                core.net.memory.heard_ack(id, metrics.current_term, matched.into());
            }
        }
    }
}

/// Keeps the memory of peers on the disk, about once a second while it changes.
pub(crate) async fn remember(core: Arc<Core>) {
    let mut kept = core.net.memory.all();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = core.net.memory.all();
        for (id, heard) in &now {
            if kept.get(id) != Some(heard) && core.log.put_heard(*id, &core.net.memory.record(*id)).await.is_err() {
                return;
            }
        }
        kept = now;
    }
}
