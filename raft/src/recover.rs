//! Forced recovery: a stopped node alone becomes the cluster, in a new life of its log. For when a majority is gone for
//! good, and for a state that was brought back from a backup.
//!
//! What others had acknowledged and this node has not is lost; whoever calls this has been told so. All that this node
//! holds stays, also what was not known to be committed: it may have been acknowledged. The new lineage keeps the
//! former life out: its nodes are refused, and join again as new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::codec::{self, CodecError};
use crate::identity::{self, Heard, Identity, IdentityError};
use crate::log_store::{self, LogOpenError, LogSettings, LogStore};
use crate::machine::{MachineError, StateMachine};
use crate::snapshot::Snapshots;
use crate::state;
use crate::suspect::{Suspicion, Why};
use crate::types::{Command, Entry, Member, Membership, Payload, Peer, Position, StoredMembership, Vote};

/// How long the log may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// What a stopped node holds, and what it has heard of the others: what is known to be lost if it goes on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The cluster.
    pub cluster_id: u128,
    /// The life of its log so far.
    pub lineage: u64,
    /// The node.
    pub node_id: u64,
    /// The last term it voted in or followed.
    pub term: u64,
    /// The last entry it holds.
    pub last: Option<Position>,
    /// The last entry its state has applied; what follows may or may not have been acknowledged.
    pub applied: Option<Position>,
    /// It has lost entries or votes that it had acknowledged.
    pub suspicion: Option<Suspicion>,
    /// A record of its log can't be read; what follows it is lost.
    pub damaged: bool,
    /// The other members, as it knows them.
    pub others: Vec<Other>,
}

/// Another member of the former life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Who and where.
    pub member: Member,
    /// Whether it votes.
    pub votes: bool,
    /// The last term this node has heard of it.
    pub term: u64,
    /// What it had acknowledged in that term, if this node led then.
    pub acknowledged: Option<Position>,
}

impl Survey {
    /// The members that are known to have had more than this node holds.
    pub fn ahead(&self) -> impl Iterator<Item = &Other> {
        self.others.iter().filter(|other| other.term > self.term || other.acknowledged > self.last)
    }

    /// Entries that this node holds and its state has not applied.
    pub fn unapplied(&self) -> u64 {
        let after = |position: Option<Position>| position.map_or(0, |position| position.index + 1);
        after(self.last).saturating_sub(after(self.applied))
    }
}

/// Nothing was changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is nothing to recover from.
    #[error("no node was ever started on {0}")]
    NoNode(PathBuf),
    /// The directory's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// The state.
    #[error("the state: {0}")]
    Machine(#[from] MachineError),
    /// A record.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The node knows no members, or is none itself.
    #[error("the node is no member of a cluster as far as its directory knows: nothing can be recovered from it")]
    NoMember,
    /// The state is lost beside the log.
    #[error(
        "the state ends at {applied:?}, but the log begins after {purged}: entries in between are gone here; choose \
         another node, or restore a backup"
    )]
    Gap {
        /// The end of the state, or of its copy.
        applied: Option<Position>,
        /// What was purged from the log.
        purged: Position,
    },
    /// There is a node already.
    #[error("{0} belongs to a node already; give an empty directory")]
    InUse(PathBuf),
    /// Reading or writing.
    #[error("consensus: {0}")]
    Io(#[from] std::io::Error),
}

/// The life that begins.
#[derive(Clone, Debug)]
pub struct NewLife {
    /// Its lineage; random.
    pub lineage: u64,
    /// The first proposal of it, applied before anything else: tells the state.
    pub payload: Bytes,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: u64,
}

/// Looks at a stopped node and changes nothing.
///
/// `meta` is the mark beside the applied state, as [`StateMachine::meta`] gives it.
pub fn survey(dir: &Path, meta: Option<Vec<u8>>) -> Result<Survey, RecoverError> {
    let meta = codec::meta(meta.map(Bytes::from).unwrap_or_default())?;
    let identity = identity::read(dir)?.ok_or_else(|| RecoverError::NoNode(dir.to_owned()))?;
    let left = log_store::left(&dir.join("log"))?;
    let applied = meta.last_log_id.map(Position::from);
    let members = newest(left.membership, meta.last_membership);
    members.get_node(&identity.node_id).ok_or(RecoverError::NoMember)?;
    let voters: BTreeSet<u64> = members.voter_ids().collect();
    let mut heard = BTreeMap::new();
    for (id, bytes) in left.heard {
        heard.insert(id, Heard::decode(bytes)?);
    }
    let other = |(id, peer): (&u64, &Peer)| {
        let Heard { term, last, .. } = heard.get(id).copied().unwrap_or_default();
        Other { member: Member::join(*id, peer), votes: voters.contains(id), term, acknowledged: last }
    };
    Ok(Survey {
        cluster_id: identity.cluster_id,
        lineage: identity.lineage,
        node_id: identity.node_id,
        term: left.vote.map_or(0, |vote| vote.leader_id.term),
        last: left.last.max(applied),
        applied,
        suspicion: identity.suspicion,
        damaged: left.damaged,
        others: members.nodes().filter(|(id, _)| **id != identity.node_id).map(other).collect(),
    })
}

fn newest(in_log: Option<StoredMembership>, in_state: StoredMembership) -> StoredMembership {
    in_log.filter(|found| found.log_id() >= in_state.log_id()).unwrap_or(in_state)
}

/// Makes a stopped node the one voter of a new life. It may be repeated when it broke off.
pub fn recover(dir: &Path, machine: Arc<dyn StateMachine>, life: &NewLife) -> Result<Survey, RecoverError> {
    let survey = survey(dir, machine.meta()?)?;
    // Until all is done a start of the node must not vote, in neither life.
    identity::rewrite(dir, |identity| {
        identity.lineage = life.lineage;
        identity.suspicion = Some(Suspicion { why: Why::Short, recorded: None });
    })?;
    let settings = LogSettings::new(dir.join("log"));
    let log = match LogStore::open(settings.clone()) {
        Err(error) if error.makes_suspect().is_some() => LogStore::open_what_is_left(settings)?,
        opened => opened?,
    };
    let members = newest(log.membership()?, state::membership(&*machine)?);
    let me = members.get_node(&survey.node_id).cloned().ok_or(RecoverError::NoMember)?;
    begin(dir, log, machine, (survey.node_id, me), life)?;
    identity::rewrite(dir, |identity| identity.suspicion = None)?;
    Ok(survey)
}

/// Makes an empty directory the one voter of a new life that begins with the state of `machine`, brought back from a
/// backup.
pub fn restore(
    dir: &Path,
    cluster_id: u128,
    me: Member,
    machine: Arc<dyn StateMachine>,
    life: &NewLife,
) -> Result<(), RecoverError> {
    if Identity::is_in(dir) || dir.join("log").exists() {
        return Err(RecoverError::InUse(dir.to_owned()));
    }
    crate::files::make_dir(dir)?;
    let log = LogStore::open(LogSettings::new(dir.join("log")))?;
    let (node_id, peer) = me.split();
    begin(dir, log, machine, (node_id, peer), life)?;
    // the last step: a directory without it was never started
    identity::create(dir, cluster_id, life.lineage, node_id)?;
    Ok(())
}

/// Writes the first entries of the new life behind all that the node holds.
fn begin(
    dir: &Path,
    log: LogStore,
    machine: Arc<dyn StateMachine>,
    (node_id, peer): (u64, Peer),
    life: &NewLife,
) -> Result<(), RecoverError> {
    let applied = state::applied(&*machine)?;
    let snapshots = Snapshots::open(dir.join("snapshots"), machine)?;
    if let Some(applied) = applied.filter(|applied| log.last() < Some(*applied)) {
        // the state is not synced by itself: its copy is
        snapshots.build()?;
        log.restart_behind(applied)?;
    }
    let reached = applied.max(snapshots.position());
    if let Some(purged) = log.purged().filter(|purged| reached < Some(*purged)) {
        return Err(RecoverError::Gap { applied: reached, purged });
    }
    let last = log.last();
    let voted = log.vote().map_or(0, |vote| vote.leader_id.term);
    let term = last.map_or(voted, |last| last.term.max(voted)) + 1;
    let index = last.map_or(0, |last| last.index + 1);
    let membership = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, peer)]));
    let membership = membership.map_err(|_| RecoverError::NoMember)?;
    let command = Command::Proposal { at_ms: life.at_ms, payload: life.payload.clone() };
    let entries = [Payload::Membership(membership), Payload::Normal(command)];
    let entries =
        (index..).zip(entries).map(|(index, payload)| Entry { log_id: Position { term, index }.into(), payload });
    log.begin_life(entries.collect(), &Vote::new(term, node_id))?;
    let open = log.lifetime();
    drop(log);
    let began = std::time::Instant::now();
    while open.strong_count() > 0 {
        if began.elapsed() > CLOSE_PATIENCE {
            return Err(std::io::Error::other("the log does not close").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
