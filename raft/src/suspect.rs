//! A node that has lost what it acknowledged: a damaged or shortened log, a directory from the past.
//!
//! Its vote could elect a leader that lacks what it had helped to commit, and it may have voted already in a term it
//! has forgotten. So, durably: it grants no vote, never stands, vouches for nobody, and takes no entries until a leader
//! has committed a record of it *without its help*. From then on no leader that it may have forgotten to have elected
//! can come up beside that one: it may be fed. The leader permits its shorter log once, and hands leadership on. A
//! leader of a later term was elected without its vote, so has all that it ever helped to commit; once the node has
//! applied an entry of such a term, its own log has that too, and it is as good as any.
//!
//! Nothing else makes it one: no time, no restart, no cut of power. When a majority of the voters is suspect nobody can
//! lead, and the nodes stay down and say what each has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use openraft::ChangeMembers;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::codec::{self, CodecError, Reader};
use crate::core::{Core, Leader};
use crate::gate;
use crate::identity::{Heard, Identity};
use crate::network::net::Class;
use crate::network::wire::{self, kind};
use crate::types::{Command, Peer, Position};

/// Between two rounds of reports, before a leader has taken one and after.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const REMIND_EVERY: Duration = Duration::from_secs(5);
/// For one answer; a leader commits a record meanwhile.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two messages for the operator.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// A node that has not reported for so long is no longer taken for suspect.
const REPORT_AGE_MAX: Duration = Duration::from_secs(15);

/// How a node came to lack what it had acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// A record of its log cannot be read; what follows it is lost.
    Damaged = 1,
    /// Its log ends before a position that was made durable.
    Short = 2,
    /// Peers know of later starts, votes or entries: the directory is an older copy.
    Past = 3,
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Why::Damaged => "its log was damaged",
            Why::Short => "its log had lost its end",
            Why::Past => "its directory went back in time",
        })
    }
}

/// A node must not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// How it came to that.
    pub why: Why,
    /// Where a leader has recorded it; an entry of a later term ends the suspicion.
    pub recorded: Option<Position>,
}

impl fmt::Display for Suspicion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: the node has lost entries or votes it had acknowledged, and does not vote", self.why)?;
        match self.recorded {
            Some(at) => write!(out, " until it has applied an entry of a later term than {}", at.term),
            None => out.write_str("; no leader has recorded that yet"),
        }
    }
}

impl Suspicion {
    /// As the first version of the identity file told it.
    pub(crate) fn from_flag(suspect: bool) -> Option<Suspicion> {
        suspect.then_some(Suspicion { why: Why::Short, recorded: None })
    }

    pub(crate) fn put(suspicion: Option<Suspicion>, out: &mut BytesMut) {
        out.put_u8(suspicion.map_or(0, |suspicion| suspicion.why as u8));
        if let Some(Suspicion { recorded, .. }) = suspicion {
            codec::put_log_id_option(out, recorded.map(Into::into).as_ref());
        }
    }

    pub(crate) fn take(reader: &mut Reader) -> Result<Option<Suspicion>, CodecError> {
        let why = match reader.u8()? {
            0 => return Ok(None),
            1 => Why::Damaged,
            2 => Why::Short,
            3 => Why::Past,
            _ => return Err(reader.error("it is suspect for an unknown reason")),
        };
        Ok(Some(Suspicion { why, recorded: reader.log_id_option()?.map(Position::from) }))
    }
}

/// What a suspect node tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What it has left.
    pub(crate) left: Heard,
    /// Where a leader has recorded it.
    pub(crate) recorded: Option<Position>,
}

/// What they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reception {
    /// Where the record is; `None` of a node that does not lead, or could not commit it in time.
    pub(crate) recorded: Option<Position>,
    /// What is remembered of the suspect node.
    pub(crate) known: Heard,
    /// The node that answers is suspect itself.
    pub(crate) is_suspect: bool,
    /// Where its own log ends.
    pub(crate) last: Option<Position>,
}

/// Permissions of this node, as a leader, to come back with a shorter log: each for one node, in one term, once.
#[derive(Debug, Default)]
pub(crate) struct Permits(Mutex<BTreeMap<u64, Permit>>);

#[derive(Debug)]
struct Permit {
    term: u64,
    used: bool,
}

impl Permits {
    pub(crate) fn grant(&self, node_id: u64, term: u64) {
        self.0.lock().insert(node_id, Permit { term, used: false });
    }

    /// Uses the permission, if there is one.
    pub(crate) fn take(&self, node_id: u64, term: u64) -> bool {
        let mut permits = self.0.lock();
        let permit = permits.get_mut(&node_id).filter(|permit| permit.term == term && !permit.used);
        permit.map(|permit| permit.used = true).is_some()
    }

    /// Whether there was one in this term, used or not.
    pub(crate) fn covers(&self, node_id: u64, term: u64) -> bool {
        self.0.lock().get(&node_id).is_some_and(|permit| permit.term == term)
    }
}

/// Who has reported to this node lately.
#[derive(Debug, Default)]
pub(crate) struct Reported(Mutex<BTreeMap<u64, Instant>>);

impl Reported {
    fn note(&self, node_id: u64) {
        self.0.lock().insert(node_id, Instant::now());
    }

    /// The nodes that said lately that they are suspect.
    pub(crate) fn lately(&self) -> BTreeSet<u64> {
        let mut reported = self.0.lock();
        reported.retain(|_, at| at.elapsed() < REPORT_AGE_MAX);
        reported.keys().copied().collect()
    }
}

/// Waits for a suspicion of this node, and gets it out of it; for ever.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut suspicion = core.gate.watch_suspicion();
    while suspicion.wait_for(Option::is_some).await.is_ok() {
        if rejoin(&core, &mut suspicion).await.is_none() {
            return;
        }
    }
}

/// From suspicion to its end; `None` when the node ends.
async fn rejoin(core: &Arc<Core>, suspicion: &mut watch::Receiver<Option<Suspicion>>) -> Option<()> {
    core.raft.runtime_config().elect(false);
    keep(core).await;
    let mut told = None;
    while suspicion.borrow_and_update().is_some_and(|suspicion| suspicion.recorded.is_none()) {
        step_down(core).await;
        let answers = report(core).await;
        if told.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            tell(core, &answers);
        }
        let recorded = answers.values().find_map(|answer| answer.recorded);
        let Some((now, recorded)) = core.gate.suspicion().zip(recorded) else {
            tokio::time::sleep(REPORT_EVERY).await;
            continue;
        };
        core.gate.set_suspicion(Some(Suspicion { recorded: Some(recorded), ..now }));
        keep(core).await;
    }
    let recorded = core.gate.suspicion()?.recorded?;
    let mut applied = core.applied.clone();
    loop {
        let is_later = |at: &Option<Position>| at.is_some_and(|at| at.term > recorded.term);
        let waited = tokio::time::timeout(REMIND_EVERY, applied.wait_for(is_later)).await;
        match waited.map(|is_open| is_open.is_ok()) {
            Ok(true) => break,
            Ok(false) => return None,
            // its leader leads still: it is reminded to hand leadership on
            Err(_) => drop(report(core).await),
        }
    }
    core.log.settle().await.ok()?;
    core.gate.set_suspicion(None);
    keep(core).await;
    tracing::warn!("this node is no longer suspect: it has all that a leader elected without it has");
    core.gate.open();
    core.raft.runtime_config().elect(true);
    Some(())
}

/// Keeps on the disk what the gate knows: the suspicion, and that there were later starts.
async fn keep(core: &Arc<Core>) {
    let (directory, suspicion) = (core.directory.clone(), core.gate.suspicion());
    let later = core.gate.start_elsewhere() + 1;
    let changed = move |identity: &mut Identity| {
        identity.suspicion = suspicion;
        identity.start = identity.start.max(later);
    };
    directory.keep(changed).await;
    core.net.raise_start(core.directory.identity().start);
}

/// A node that finds while it leads that it is suspect was elected properly, and goes all the same.
async fn step_down(core: &Arc<Core>) {
    if core.leader() == Some(Leader::Here) {
        hand_over(core, core.net.node_id).await;
    }
}

/// Tells every other member, one after the other, what this node has left, until one says that it is recorded.
async fn report(core: &Arc<Core>) -> BTreeMap<u64, Reception> {
    let members: Vec<(u64, Peer)> =
        core.metrics().membership_config.nodes().map(|(id, peer)| (*id, peer.clone())).collect();
    let mut answers = BTreeMap::new();
    for (id, peer) in members.into_iter().filter(|(id, _)| *id != core.net.node_id) {
        let recorded = core.gate.suspicion().and_then(|suspicion| suspicion.recorded);
        let question = (kind::SUSPECT, wire::report(&Report { left: gate::hello(core), recorded }));
        let answer = core.net.call((id, &peer.raft_addr), Class::Forward, question, REPORT_TIMEOUT).await;
        let answer = answer.inspect_err(|status| core.gate.heard_refusal(id, status));
        let Some(answer) = answer.ok().and_then(|body| wire::read_reception(body).ok()) else { continue };
        if answer.known.start >= core.net.start() {
            core.gate.went_back(id, answer.known.start, true);
            keep(core).await;
        }
        answers.insert(id, answer);
        if answer.recorded.is_some() {
            break;
        }
    }
    answers
}

/// Says what the operator has to know while nobody takes the report.
fn tell(core: &Core, answers: &BTreeMap<u64, Reception>) {
    let Some(suspicion) = core.gate.suspicion() else { return };
    let shown = |last: Option<Position>| last.map_or("nothing".to_owned(), |last| last.to_string());
    let mut known = vec![format!("{:016x} (this node) has up to {}", core.net.node_id, shown(core.log.last()))];
    known.extend(answers.iter().map(|(id, answer)| {
        let is_suspect = if answer.is_suspect { "is suspect and " } else { "" };
        format!("{id:016x} {is_suspect}has up to {}", shown(answer.last))
    }));
    let suspects: BTreeSet<u64> = answers.iter().filter(|(_, answer)| answer.is_suspect).map(|(id, _)| *id).collect();
    let members = core.metrics().membership_config;
    let is_lost = |config: &BTreeSet<u64>| {
        let trusted = config.iter().filter(|id| **id != core.net.node_id && !suspects.contains(id)).count();
        trusted * 2 <= config.len()
    };
    let nodes = known.join("; ");
    if members.get_joint_config().iter().any(is_lost) {
        tracing::error!(
            %suspicion, %nodes,
            "so many voters are suspect that the others are no majority: nobody can be elected, and the cluster stays \
             down rather than lose what was acknowledged. Bring back the other voters' directories; if that is \
             impossible, `portolan cluster recover --accept-loss` on the stopped node with the longest log ends it"
        );
    } else {
        tracing::error!(%suspicion, %nodes, "this node is suspect, and waits for a leader to record it");
    }
}

/// Takes a report: as the leader commits a record of it, permits the shorter log once, and hands leadership on.
pub(crate) async fn answer(core: &Arc<Core>, from: u64, report: Report) -> Reception {
    core.reported.note(from);
    let known = core.net.memory.of(from);
    let recorded = record(core, from, &report).await;
    Reception { recorded, known, is_suspect: core.gate.suspicion().is_some(), last: core.log.last() }
}

async fn record(core: &Arc<Core>, from: u64, report: &Report) -> Option<Position> {
    let leadership = *core.leadership.borrow();
    if !leadership.is_self_ready || !core.gate.is_open() || !core.records_suspects.load(Ordering::Acquire) {
        return None;
    }
    let recorded = match report.recorded {
        Some(recorded) => recorded,
        None => {
            let write = core.raft.client_write(Command::Suspect(from));
            let written = tokio::time::timeout(REPORT_TIMEOUT, write).await.ok()?.ok()?;
            let recorded = Position::from(written.log_id);
            // before it may be fed: a follower that comes back shorter unannounced is a fault to the engine
            core.raft.trigger().allow_next_revert(&from, true).await.ok()?.ok()?;
            core.net.permits.grant(from, recorded.term);
            tracing::warn!(at = %recorded, "node {from:016x} is suspect, which is recorded");
            recorded
        }
    };
    if recorded.term == core.metrics().current_term {
        let core = core.clone();
        tokio::spawn(async move { hand_over(&core, from).await });
    }
    Some(recorded)
}

/// Hands leadership to the voter that is furthest on among those that answer and are not suspect, if there is one: an
/// entry of a later term is what a suspect node waits for.
async fn hand_over(core: &Arc<Core>, suspect: u64) {
    let metrics = core.metrics();
    let Some(matched) = &metrics.replication else { return };
    let suspects = core.reported.lately();
    let lease = Duration::from_millis(core.timing.election_max_ms);
    let fit =
        |id: &u64| core.has_answered(*id, lease) && *id != core.net.node_id && *id != suspect && !suspects.contains(id);
    let voters = metrics.membership_config.voter_ids().filter(fit);
    let Some(to) = voters.max_by_key(|id| matched.get(id).copied().flatten()) else {
        tracing::warn!("there is no voter to hand leadership to; node {suspect:016x} stays suspect meanwhile");
        return;
    };
    tracing::info!("leadership goes to {to:016x}, so that node {suspect:016x} can be trusted again");
    let _told = core.transfer(to).await;
}

/// Whether a change of the members would give a vote to a node that must not use it.
pub(crate) fn promoted(core: &Core, change: &ChangeMembers<u64, Peer>) -> Option<u64> {
    let ChangeMembers::ReplaceAllVoters(ids) = change else { return None };
    let voters: BTreeSet<u64> = core.metrics().membership_config.voter_ids().collect();
    core.reported.lately().into_iter().find(|id| ids.contains(id) && !voters.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A suspicion reads back as it was written; an unknown reason is an error, not a clean bill.
    #[test]
    fn round_trips() {
        let at = Position { term: 3, index: 9 };
        for suspicion in [Why::Damaged, Why::Short, Why::Past]
            .into_iter()
            .flat_map(|why| [None, Some(at)].map(|recorded| Some(Suspicion { why, recorded })))
            .chain([None])
        {
            let mut out = BytesMut::new();
            Suspicion::put(suspicion, &mut out);
            let mut reader = Reader::new(out.freeze(), "test");
            assert_eq!(Suspicion::take(&mut reader).unwrap(), suspicion);
            reader.end().unwrap();
        }
        assert!(Suspicion::take(&mut Reader::new(vec![9].into(), "test")).is_err());
    }

    // A permission is for one node in one term, once.
    #[test]
    fn permits_are_used_once() {
        let permits = Permits::default();
        permits.grant(1, 5);
        assert!(!permits.take(2, 5) && !permits.take(1, 6));
        assert!(permits.take(1, 5) && !permits.take(1, 5));
        assert!(permits.covers(1, 5) && !permits.covers(1, 6) && !permits.covers(2, 5));
        permits.grant(1, 6);
        assert!(permits.take(1, 6));
    }
}
