//! Consensus as the server sees it, without openraft: one log whose committed entries are never lost, nodes that apply
//! it late, leaders that come and go, proposals that are refused, whose answer is lost, that are committed by a later
//! leader or twice, and envelopes that fall apart into entries of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use portolan::metadata::SimulatedLog;
use portolan::metadata::machine::MetadataMachine;
use portolan::metadata::tables::State as Tables;
use raft::{Committed, Effect, Leadership, ProposeError, Proposed, StateMachine as _, Unavailable};
use registry_core::metadata::command::Proposal;
use registry_core::metadata::reply::Outcome;
use registry_core::vocabulary::ids::{NodeId, RequestId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::dice::Dice;
use crate::network::Network;
use crate::oracle::Oracle;
use crate::trace::Trace;

/// The wall clock at the start of every run.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;
/// How often a node looks whether there is something new.
const LOOK: Duration = Duration::from_millis(25);
/// Entries applied in one batch at most.
const BATCH_MAX: u64 = 6;
/// Of a hundred proposals, how many are committed a second time later.
const TWICE_PERCENT: u64 = 4;
/// Of a hundred proposals, how many wait long before the leader takes them up.
const TARDY_PERCENT: u64 = 3;
/// Of a hundred proposals under way when a leader goes, how many the next one commits.
const SURVIVE_PERCENT: u64 = 50;

/// The log. Clones share it.
#[derive(Clone)]
pub(crate) struct Log(Arc<Inner>);

struct Inner {
    seed: u64,
    dice: Dice,
    network: Network,
    trace: Trace,
    oracle: Oracle,
    state: Mutex<State>,
    began: Instant,
    length: Progress,
}

#[derive(Default)]
struct State {
    entries: Vec<Committed>,
    term: u64,
    leader: Option<NodeId>,
    /// Since when the leader has no quorum.
    lost_since: Option<Instant>,
    patience: Duration,
    /// Index of the first entry of the term.
    blank: u64,
    voters: BTreeMap<NodeId, Voter>,
    /// Proposals whose leader could not commit them: in its log, perhaps in others.
    limbo: Vec<Bytes>,
    /// Until then the leader takes up no proposal.
    stalled: Option<Instant>,
}

/// A node as consensus has it.
struct Voter {
    /// Milliseconds by which its wall clock is ahead.
    skew_ms: u64,
    seen: Leadership,
    /// When a leader last confirmed what this life of the node has applied.
    confirmed: Option<Instant>,
    /// A commit index that a leader confirmed at that time, not applied yet.
    confirming: Option<(u64, Instant)>,
    life: Option<Life>,
}

#[derive(Clone)]
struct Life {
    number: u64,
    applied: Arc<Progress>,
    effects: Arc<Mutex<BTreeMap<u64, Effect>>>,
}

/// A number that grows, and who waits for it. Waiters wake in the order in which they came: those of a watch of tokio
/// do not.
struct Progress {
    at: AtomicU64,
    grown: Notify,
}

impl Progress {
    fn new(at: u64) -> Progress {
        Progress { at: AtomicU64::new(at), grown: Notify::new() }
    }

    fn now(&self) -> u64 {
        self.at.load(Ordering::SeqCst)
    }

    fn reach(&self, at: u64) {
        self.at.store(at, Ordering::SeqCst);
        self.grown.notify_waiters();
    }

    async fn until(&self, wanted: u64) {
        loop {
            let grown = self.grown.notified();
            if self.now() >= wanted {
                return;
            }
            grown.await;
        }
    }
}

/// What a node applies the log to.
pub(crate) struct Stand {
    pub(crate) machine: MetadataMachine,
    pub(crate) state: Arc<Tables>,
}

impl Log {
    pub(crate) fn new(seed: u64, dice: Dice, network: Network, trace: Trace, oracle: Oracle) -> Log {
        let (began, length) = (Instant::now(), Progress::new(0));
        Log(Arc::new(Inner { seed, dice, network, trace, oracle, state: Mutex::default(), began, length }))
    }

    /// Takes a node into the group.
    pub(crate) fn add(&self, node: NodeId) {
        let skew_ms = self.0.dice.below(3000);
        let seen = Leadership::default();
        let voter = Voter { skew_ms, seen, confirmed: None, confirming: None, life: None };
        self.0.state.lock().voters.insert(node, voter);
    }

    /// Takes a node out of the group for ever.
    pub(crate) fn remove(&self, node: NodeId) {
        self.0.state.lock().voters.remove(&node);
    }

    /// Entries so far.
    pub(crate) fn length(&self) -> u64 {
        self.0.state.lock().entries.len() as u64
    }

    /// What a node that has applied so much starts from.
    pub(crate) fn prefix(&self, count: u64) -> Vec<Committed> {
        self.0.state.lock().entries[..count as usize].to_vec()
    }

    /// How far a running node has applied.
    pub(crate) fn applied(&self, node: NodeId) -> Option<u64> {
        let state = self.0.state.lock();
        state.voters.get(&node)?.life.as_ref().map(|life| life.applied.now())
    }

    /// The leader, if there is one.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.0.state.lock().leader
    }

    /// A node starts with what it has applied before; from now on it applies the rest.
    pub(crate) fn start(&self, node: NodeId, life: u64, state: Stand, applied: u64) -> Arc<Member> {
        let life = Life { number: life, applied: Arc::new(Progress::new(applied)), effects: Arc::default() };
        if let Some(voter) = self.0.state.lock().voters.get_mut(&node) {
            voter.life = Some(life.clone());
            (voter.confirmed, voter.confirming) = (None, None);
            voter.seen = Leadership::default();
        }
        let member = Arc::new(Member { log: self.clone(), node, life });
        tokio::spawn(apply(Arc::clone(&member), state));
        member
    }

    /// The node's process is gone.
    pub(crate) fn stop(&self, node: NodeId) {
        if let Some(voter) = self.0.state.lock().voters.get_mut(&node) {
            voter.life = None;
        }
    }

    /// Makes the leader step down, as a transfer of leadership does.
    pub(crate) fn depose(&self) {
        let mut state = self.0.state.lock();
        state.leader = None;
        (state.lost_since, state.patience) = (Some(Instant::now()), self.0.dice.wait(0, 60));
    }

    /// The leader takes up no proposal for a while; reads go on.
    pub(crate) fn stall(&self, lasts: Duration) {
        self.0.state.lock().stalled = Some(Instant::now() + lasts);
    }

    async fn unstalled(&self) {
        let stalled = self.0.state.lock().stalled;
        if let Some(until) = stalled {
            tokio::time::sleep_until(until).await;
        }
    }

    /// The leader, if it has a quorum.
    fn acting(&self, state: &State) -> Option<NodeId> {
        state.leader.filter(|leader| self.has_quorum(state, *leader))
    }

    fn has_quorum(&self, state: &State, node: NodeId) -> bool {
        let is_up = |voter: &Voter| voter.life.is_some();
        let reached = state
            .voters
            .iter()
            .filter(|(other, voter)| is_up(voter) && (**other == node || self.0.network.is_whole(node, **other)));
        state.voters.get(&node).is_some_and(is_up) && reached.count() * 2 > state.voters.len()
    }

    /// Elections and heartbeats, until the run is over.
    pub(crate) async fn govern(self) {
        loop {
            sleep(Duration::from_millis(50)).await;
            self.elect();
            self.beat();
        }
    }

    fn elect(&self) {
        let mut state = self.0.state.lock();
        if self.acting(&state).is_some() {
            state.lost_since = None;
            return;
        }
        let Some(since) = state.lost_since else {
            (state.lost_since, state.patience) = (Some(Instant::now()), self.0.dice.wait(400, 1600));
            return;
        };
        if since.elapsed() < state.patience {
            return;
        }
        let able: Vec<NodeId> = state.voters.keys().copied().filter(|node| self.has_quorum(&state, *node)).collect();
        if able.is_empty() {
            return;
        }
        let leader = *self.0.dice.pick(&able);
        state.term += 1;
        (state.leader, state.lost_since) = (Some(leader), None);
        self.0.trace.note(format!("{leader} leads term {}", state.term));
        for payload in std::mem::take(&mut state.limbo) {
            if self.0.dice.percent(SURVIVE_PERCENT) {
                self.append(&mut state, leader, payload);
            }
        }
        state.blank = self.append(&mut state, leader, Bytes::new());
    }

    /// The leader tells whom it reaches that it leads, and how far the log is.
    fn beat(&self) {
        let mut state = self.0.state.lock();
        let Some(leader) = self.acting(&state) else { return };
        let (term, length, now) = (state.term, state.entries.len() as u64, Instant::now());
        for (node, voter) in &mut state.voters {
            let Some(life) = voter.life.as_ref().filter(|_| *node == leader || self.0.network.is_open(leader, *node))
            else {
                continue;
            };
            voter.seen = Leadership { term, leader: Some(leader.0), is_self_ready: false };
            let applied = life.applied.now();
            match voter.confirming {
                Some((index, at)) if applied >= index => (voter.confirmed, voter.confirming) = (Some(at), None),
                Some(_) => {}
                None => voter.confirming = Some((length, now)),
            }
        }
    }

    /// Commits an entry.
    fn append(&self, state: &mut State, leader: NodeId, payload: Bytes) -> u64 {
        let index = state.entries.len() as u64 + 1;
        let skew_ms = state.voters.get(&leader).map_or(0, |voter| voter.skew_ms);
        let elapsed_ms = self.0.began.elapsed().as_millis() as u64;
        let at_ms = if payload.is_empty() { 0 } else { EPOCH_MS + elapsed_ms + skew_ms };
        let entry = Committed { index, term: state.term, at_ms, payload };
        self.0.oracle.entry(&entry);
        state.entries.push(entry);
        self.0.length.reach(index);
        index
    }

    /// The leader of that term tries to commit. `None`: it could not, and nobody knows what becomes of it.
    fn commit(&self, leader: NodeId, term: u64, payload: &Bytes) -> Option<u64> {
        let mut state = self.0.state.lock();
        if state.leader == Some(leader) && state.term == term && self.has_quorum(&state, leader) {
            return Some(self.append(&mut state, leader, payload.clone()));
        }
        state.limbo.push(payload.clone());
        None
    }

    /// Whether a node that takes itself for the leader of that term is it, for all it knows.
    fn is_leading(&self, leader: NodeId, term: u64) -> bool {
        let state = self.0.state.lock();
        state.leader == Some(leader) && state.term == term
    }

    /// How an envelope falls apart: decided by its id, so that every copy of it falls apart alike.
    fn parts(&self, payload: &Bytes) -> Vec<Bytes> {
        let Ok(proposal) = Proposal::decode(payload) else { return vec![payload.clone()] };
        let name = proposal.request.0.to_be_bytes();
        let drawn = xxh3_64_with_seed(&name, self.0.seed);
        if proposal.commands.len() < 2 || drawn.is_multiple_of(2) {
            return vec![payload.clone()];
        }
        let (mut parts, mut open) = (Vec::new(), Vec::new());
        for (number, command) in proposal.commands.iter().enumerate() {
            open.push(command.clone());
            let is_last = number + 1 == proposal.commands.len();
            if is_last || (drawn >> (2 + number % 60)).is_multiple_of(2) {
                let name = [&name[..], &[number as u8]].concat();
                let commands = std::mem::take(&mut open);
                let part = Proposal {
                    request: RequestId(xxh3_128_with_seed(&name, self.0.seed)),
                    min_level: Proposal::level(&commands),
                    commands,
                    ..proposal.clone()
                };
                parts.push(Bytes::from(part.encode()));
            }
        }
        parts
    }

    /// At the leader: commits a proposal, in parts if it falls apart, and answers when it has applied it.
    async fn lead(&self, leader: NodeId, term: u64, payload: Bytes) -> Result<Proposed, ProposeError> {
        let parts = self.parts(&payload);
        let is_whole = parts.len() == 1;
        let (mut whole, mut last) = (Outcome { replies: Vec::new(), refusal: None }, None);
        for part in parts {
            sleep(self.0.dice.wait(1, 8)).await;
            let index = self.commit(leader, term, &part).ok_or(ProposeError::Unknown)?;
            if self.0.dice.percent(TWICE_PERCENT) {
                let (log, again) = (self.clone(), part.clone());
                tokio::spawn(async move {
                    sleep(log.0.dice.wait(1, 4000)).await;
                    let mut state = log.0.state.lock();
                    if let Some(leader) = log.acting(&state) {
                        log.append(&mut state, leader, again);
                    }
                });
            }
            let Effect { index, reply } = self.effect(leader, index).await.ok_or(ProposeError::Unknown)?;
            if is_whole {
                return Ok(Proposed { index, reply });
            }
            let outcome = Outcome::decode(&reply).expect("replies are outcomes");
            whole.replies.extend(outcome.replies);
            whole.refusal = outcome.refusal;
            last = Some(index);
            if whole.refusal.is_some() {
                break;
            }
        }
        let index = last.ok_or(ProposeError::Unknown)?;
        Ok(Proposed { index, reply: whole.encode().into() })
    }

    /// What the leader's own machine answered; `None` if it died before.
    async fn effect(&self, leader: NodeId, index: u64) -> Option<Effect> {
        let life = self.0.state.lock().voters.get(&leader)?.life.clone()?;
        loop {
            if life.applied.now() >= index {
                return life.effects.lock().get(&index).cloned();
            }
            if timeout(Duration::from_millis(500), life.applied.until(index)).await.is_err() {
                let state = self.0.state.lock();
                let is_same = |now: &Life| now.number == life.number;
                if !state.voters.get(&leader).is_some_and(|voter| voter.life.as_ref().is_some_and(is_same)) {
                    return None;
                }
            }
        }
    }
}

/// Applies what is committed, in batches of any size, after a while.
async fn apply(member: Arc<Member>, stand: Stand) {
    let Member { log, node, life } = &*member;
    let inner = &log.0;
    loop {
        if !inner.network.is_alive(*node, life.number) {
            return;
        }
        let applied = life.applied.now();
        let is_fed = {
            let state = log.0.state.lock();
            log.acting(&state).is_some_and(|leader| inner.network.is_whole(*node, leader))
        };
        let target = inner.length.now();
        if !is_fed {
            sleep(LOOK).await;
            continue;
        }
        if applied >= target {
            drop(timeout(LOOK * 20, inner.length.until(target + 1)).await);
            continue;
        }
        let lag = if inner.dice.percent(2) { inner.dice.wait(100, 1500) } else { inner.dice.wait(0, 6) };
        sleep(lag).await;
        if !inner.network.is_alive(*node, life.number) {
            return;
        }
        let until = (applied + inner.dice.between(1, BATCH_MAX)).min(target);
        let batch = log.0.state.lock().entries[applied as usize..until as usize].to_vec();
        match stand.machine.apply(&batch, b"sim") {
            Ok(effects) => {
                let mut kept = life.effects.lock();
                kept.extend(batch.iter().zip(effects).map(|(entry, effect)| (entry.index, effect)));
            }
            Err(error) => inner.trace.fail(format!("{node} can't apply entry {until}: {error}")),
        }
        inner.oracle.applied(*node, until, &stand.state, &life.effects.lock());
        life.applied.reach(until);
    }
}

/// One life of a node as a member of the group.
pub(crate) struct Member {
    log: Log,
    node: NodeId,
    life: Life,
}

impl Member {
    fn is_alive(&self) -> bool {
        self.log.0.network.is_alive(self.node, self.life.number)
    }

    fn seen(&self) -> Leadership {
        let state = self.log.0.state.lock();
        let Some(voter) = state.voters.get(&self.node) else { return Leadership::default() };
        let is_self = voter.seen.leader == Some(self.node.0);
        // one that was deposed and does not know it was ready once
        let is_ready = voter.seen.term < state.term || self.life.applied.now() >= state.blank;
        Leadership { is_self_ready: is_self && is_ready, ..voter.seen }
    }

    async fn offer(&self, payload: Bytes) -> Result<Proposed, ProposeError> {
        let Leadership { term, leader: Some(leader), .. } = self.seen() else { return Err(ProposeError::Unavailable) };
        let (network, dice) = (&self.log.0.network, &self.log.0.dice);
        let leader = NodeId(leader);
        if network.pass(self.node, leader).await.is_err() {
            return Err(if dice.percent(50) { ProposeError::Unknown } else { ProposeError::Unavailable });
        }
        if dice.percent(TARDY_PERCENT) {
            sleep(dice.wait(200, 7000)).await;
        }
        self.log.unstalled().await;
        if !self.log.is_leading(leader, term) && dice.percent(80) {
            return Err(ProposeError::Unavailable);
        }
        let proposed = self.log.lead(leader, term, payload).await?;
        network.pass(leader, self.node).await.map_err(|_| ProposeError::Unknown)?;
        Ok(proposed)
    }

    async fn round(&self) -> Option<u64> {
        let Leadership { term, leader: Some(leader), .. } = self.seen() else { return None };
        let (network, leader) = (&self.log.0.network, NodeId(leader));
        network.pass(self.node, leader).await.ok()?;
        let index = self.log.length();
        sleep(self.log.0.dice.wait(1, 5)).await;
        let is_confirmed = {
            let state = self.log.0.state.lock();
            state.leader == Some(leader) && state.term == term && self.log.has_quorum(&state, leader)
        };
        network.pass(leader, self.node).await.ok()?;
        is_confirmed.then_some(index)
    }
}

impl SimulatedLog for Member {
    fn propose(&self, payload: Bytes, limit: Duration) -> BoxFuture<'_, Result<Proposed, ProposeError>> {
        async move {
            if !self.is_alive() {
                return std::future::pending().await;
            }
            let offered = timeout(limit, self.offer(payload)).await.unwrap_or(Err(ProposeError::Unknown));
            if !self.is_alive() {
                return std::future::pending().await;
            }
            offered
        }
        .boxed()
    }

    fn linearize(&self, limit: Duration) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async move {
            let deadline = Instant::now() + limit;
            while self.is_alive() {
                if let Ok(Some(index)) = tokio::time::timeout_at(deadline, self.round()).await {
                    let left = deadline.saturating_duration_since(Instant::now());
                    return self.wait_applied(index, left).await.map(|()| index);
                }
                if Instant::now() + LOOK >= deadline {
                    return Err(Unavailable);
                }
                sleep(LOOK * 2).await;
            }
            std::future::pending().await
        }
        .boxed()
    }

    fn wait_applied(&self, index: u64, limit: Duration) -> BoxFuture<'_, Result<(), Unavailable>> {
        async move { timeout(limit, self.life.applied.until(index)).await.map_err(|_| Unavailable) }.boxed()
    }

    fn applied_index(&self) -> u64 {
        self.life.applied.now()
    }

    fn confirmed_age_ms(&self) -> u64 {
        let state = self.log.0.state.lock();
        let confirmed = state.voters.get(&self.node).and_then(|voter| voter.confirmed);
        confirmed.map_or(u64::MAX, |at| at.elapsed().as_millis() as u64)
    }

    fn leadership(&self) -> Leadership {
        self.seen()
    }

    fn voters(&self) -> Vec<u64> {
        self.log.0.state.lock().voters.keys().map(|node| node.0).collect()
    }
}
