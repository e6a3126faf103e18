//! A stopped node alone becomes the cluster: from what its directory holds, or from a state brought back from a backup.
//!
//! Both begin a new life of the log. Whoever calls this holds the lock of the data directory.

use std::path::Path;
use std::sync::Arc;

use raft::{Member, NewLife, StateMachine, Survey};
use registry_core::metadata::cluster::BeginLineage;
use registry_core::metadata::command::Proposal;
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RequestId};

use super::machine::MetadataMachine;
use super::stopped::StoppedState;
use super::tables::{State, StateError, StateOptions};
use super::watch::Watch;
use crate::ground::{Clock as _, SystemClock, random};

/// In whose name a new life begins, in the journal.
const PRINCIPAL: &str = "operator/recovery";

/// The new life was not begun; what was changed, if anything, is finished by trying again.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The state can't be opened.
    #[error(transparent)]
    State(#[from] StateError),
    /// Consensus says no.
    #[error(transparent)]
    Consensus(#[from] raft::RecoverError),
}

/// What a stopped node holds. Changes nothing.
pub fn survey(raft_dir: &Path, state_dir: &Path) -> Result<Survey, RecoverError> {
    let meta = StoppedState::open(state_dir)?.meta()?;
    Ok(raft::survey(raft_dir, meta)?)
}

/// Makes a stopped node the one voter of a new life that begins with all it holds.
pub fn recover(raft_dir: &Path, state_dir: &Path) -> Result<(Survey, Lineage), RecoverError> {
    let node = NodeId(survey(raft_dir, state_dir)?.node_id);
    let (state, machine) = open(state_dir)?;
    let lineage = random::lineage();
    let survey = raft::recover(raft_dir, machine, &life(lineage, state.revision().index, Some(node)))?;
    Ok((survey, lineage))
}

/// Makes an empty directory of consensus the one voter of a new life that begins with the state in `state_dir`.
pub fn restore(raft_dir: &Path, state_dir: &Path, cluster: ClusterId, me: Member) -> Result<Lineage, RecoverError> {
    let (state, machine) = open(state_dir)?;
    let lineage = random::lineage();
    // the nodes of the backup are others, whatever their ids
    let life = life(lineage, state.revision().index, None);
    raft::restore(raft_dir, cluster.0, me, machine, &life)?;
    Ok(lineage)
}

fn open(state_dir: &Path) -> Result<(Arc<State>, Arc<dyn StateMachine>), StateError> {
    let state = Arc::new(State::open(state_dir, StateOptions::default())?);
    let machine = MetadataMachine::new(state.clone(), Arc::new(Watch::default()));
    Ok((state, Arc::new(machine)))
}

fn life(lineage: Lineage, base: u64, keeps: Option<NodeId>) -> NewLife {
    let commands = vec![BeginLineage { lineage, keeps }.into()];
    let proposal = Proposal {
        request: RequestId(random::number128()),
        base,
        min_level: Proposal::level(&commands),
        principal: PRINCIPAL.to_owned(),
        commands,
    };
    NewLife { lineage: lineage.0, payload: proposal.encode().into(), at_ms: SystemClock.wall_ms() }
}
