//! Proposals: taken here if this node leads, else forwarded to the leader, many in one message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::errors::ClientWriteError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::core::{Core, Leader};
use crate::machine::Effect;
use crate::metrics;
use crate::network::net::{Class, never_arrived};
use crate::network::wire::{self, Outcome, kind};
use crate::types::Command;

/// Proposals in one message.
const FORWARD_COUNT_MAX: usize = 512;
/// Bytes of proposals in one message, about.
const FORWARD_BYTES_MAX: usize = 4 << 20;
/// Messages with proposals under way to the leader.
const FORWARDS_MAX: usize = 4;

/// A proposal was committed and applied where the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Where in the log it took effect; see [`Effect`].
    pub index: u64,
    /// What `apply` returned for it.
    pub reply: Bytes,
}

/// A proposal was not made, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: this node has too many proposals without an answer.
    #[error("too many proposals wait for an answer")]
    Busy,
    /// Certainly not applied: no leader with a quorum was found in time.
    #[error("no leader with a quorum was found in time")]
    Unavailable,
    /// It may be applied, now or later. Repeat it under the same request id.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
}

/// Proposals on their way to another node.
#[derive(Debug)]
pub(crate) struct Forwarder(mpsc::Sender<Forward>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Forward {
    payload: Bytes,
    outcome: oneshot::Sender<Outcome>,
    until: Instant,
}

impl Forwarder {
    pub(crate) fn new(count: usize) -> (Forwarder, mpsc::Receiver<Forward>) {
        let (sender, receiver) = mpsc::channel(count.max(1));
        (Forwarder(sender), receiver)
    }
}

/// Counts proposals without an answer.
struct Slot<'a>(&'a Core);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.proposing.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Core {
    /// Proposes on any node.
    pub(crate) async fn propose(&self, payload: Bytes, limit: Duration) -> Result<Proposed, ProposeError> {
        let began = Instant::now();
        let slot = Slot(self);
        if self.proposing.fetch_add(1, Ordering::AcqRel) >= self.limits.proposals {
            return Err(ProposeError::Busy);
        }
        if payload.len() > self.limits.proposal_bytes {
            tracing::error!(bytes = payload.len(), "a proposal exceeds the limit, and is refused");
            return Err(ProposeError::Unavailable);
        }
        let proposed = self.propose_until(&payload, began + limit).await;
        drop(slot);
        let outcome = match &proposed {
            Ok(_) => "applied",
            Err(ProposeError::Busy) => "busy",
            Err(ProposeError::Unavailable) => "unavailable",
            Err(ProposeError::Unknown) => "unknown",
        };
        metrics::proposed(outcome, began.elapsed());
        proposed
    }

    async fn propose_until(&self, payload: &Bytes, until: Instant) -> Result<Proposed, ProposeError> {
        loop {
            // an offer whose time is over must not be made: nobody would wait for what becomes of it
            if Instant::now() >= until {
                return Err(ProposeError::Unavailable);
            }
            let outcome = match self.leader() {
                Some(Leader::Here) => self.write_until(payload, until).await,
                Some(Leader::There { .. }) => self.forward(payload, until).await,
                None => Outcome::Refused,
            };
            match outcome {
                Outcome::Applied { index, reply } => return Ok(Proposed { index, reply }),
                Outcome::Unknown => return Err(ProposeError::Unknown),
                Outcome::Refused => self.await_leader_change().await,
            }
        }
    }

    fn command(&self, payload: Bytes) -> Command {
        Command::Proposal { at_ms: (self.clock)(), payload }
    }

    async fn write_until(&self, payload: &Bytes, until: Instant) -> Outcome {
        if !self.gate.is_open() {
            return Outcome::Refused;
        }
        let write = self.raft.client_write(self.command(payload.clone()));
        let Ok(written) = tokio::time::timeout_at(until.into(), write).await else { return Outcome::Unknown };
        match written {
            Ok(response) => response.data.into(),
            Err(error) => refused_or_unknown(error.api_error()),
        }
    }

    /// Hands a proposal to the forwarder and waits for what becomes of it.
    async fn forward(&self, payload: &Bytes, until: Instant) -> Outcome {
        let (outcome, wait) = oneshot::channel();
        let forward = Forward { payload: payload.clone(), outcome, until };
        if tokio::time::timeout_at(until.into(), self.forwarder.0.send(forward)).await.is_err() {
            return Outcome::Refused;
        }
        match tokio::time::timeout_at(until.into(), wait).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    /// Writes proposals that another node forwarded, in its order.
    pub(crate) async fn write_many(&self, payloads: Vec<Bytes>) -> Vec<Outcome> {
        let count = payloads.len();
        if !self.gate.is_open() || payloads.iter().any(|payload| payload.len() > self.limits.proposal_bytes) {
            return vec![Outcome::Refused; count];
        }
        let commands = payloads.into_iter().map(|payload| self.command(payload));
        let Ok(mut written) = self.raft.client_write_many(commands).await else {
            return vec![Outcome::Unknown; count];
        };
        let mut outcomes = Vec::with_capacity(count);
        while let Some(result) = written.next().await {
            outcomes.push(match result {
                Ok(Ok(response)) => response.response.into(),
                Ok(Err(error)) => refused_or_unknown_write(&error),
                Err(_) => Outcome::Unknown,
            });
        }
        outcomes.resize(count, Outcome::Unknown);
        outcomes
    }
}

/// Runs the forwarder: gathers what waits, sends it, a few messages at a time.
pub(crate) async fn forward(core: Arc<Core>, mut waiting: mpsc::Receiver<Forward>) {
    let under_way = Arc::new(Semaphore::new(FORWARDS_MAX));
    while let Some(first) = waiting.recv().await {
        let Ok(slot) = under_way.clone().acquire_owned().await else { return };
        let mut bytes = first.payload.len();
        let mut batch = vec![first];
        while batch.len() < FORWARD_COUNT_MAX && bytes < FORWARD_BYTES_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.payload.len();
            batch.push(next);
        }
        let core = core.clone();
        tokio::spawn(async move {
            send(&core, batch).await;
            drop(slot);
        });
    }
}

async fn send(core: &Core, batch: Vec<Forward>) {
    // who gave up before it was sent gets the one certain answer
    let batch: Vec<Forward> = batch.into_iter().filter(|forward| !forward.outcome.is_closed()).collect();
    let Some(until) = batch.iter().map(|forward| forward.until).max() else { return };
    let outcomes = match core.leader() {
        Some(Leader::There { node_id, addr }) => ask(core, (node_id, &addr), &batch, until).await,
        // it has come here meanwhile: the proposers try again
        Some(Leader::Here) | None => vec![Outcome::Refused; batch.len()],
    };
    for (forward, outcome) in batch.into_iter().zip(outcomes) {
        let _gave_up = forward.outcome.send(outcome).is_err();
    }
}

async fn ask(core: &Core, to: (u64, &str), batch: &[Forward], until: Instant) -> Vec<Outcome> {
    let body = wire::proposals(batch.iter().map(|forward| &forward.payload));
    let limit = until.saturating_duration_since(Instant::now());
    match core.net.call(to, Class::Forward, (kind::PROPOSE, body), limit).await {
        Ok(answer) => match wire::read_outcomes(answer) {
            Ok(outcomes) if outcomes.len() == batch.len() => outcomes,
            Ok(_) | Err(_) => vec![Outcome::Unknown; batch.len()],
        },
        Err(status) if never_arrived(&status) => vec![Outcome::Refused; batch.len()],
        Err(_) => vec![Outcome::Unknown; batch.len()],
    }
}

impl From<Effect> for Outcome {
    fn from(Effect { index, reply }: Effect) -> Outcome {
        Outcome::Applied { index, reply }
    }
}

fn refused_or_unknown(error: Option<&ClientWriteError<crate::types::Types>>) -> Outcome {
    // without an answer of the engine nobody knows
    error.map_or(Outcome::Unknown, refused_or_unknown_write)
}

fn refused_or_unknown_write(error: &ClientWriteError<crate::types::Types>) -> Outcome {
    match error {
        ClientWriteError::ForwardToLeader(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_) => Outcome::Refused,
        ClientWriteError::LogEntryDiscarded(_) => Outcome::Unknown,
    }
}
