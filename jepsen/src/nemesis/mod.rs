//! What goes wrong, on purpose, and when. Every act is written into the history of the clients, before it is done and
//! when its effect was seen.
//!
//! `kind` names the faults, `schedule` and `quorum` decide from the seed which ones come and whom they hit (pure,
//! as is `network`), `primitive` does and undoes one, `mix` plays them all; `kill_node` and `power_cut` repeat one,
//! `upgrade` exchanges the program. How a node is killed or a disk fails is `cluster`'s. Start at `primitive`.

mod kill_node;
mod kind;
mod mix;
mod network;
mod power_cut;
mod primitive;
mod quorum;
mod rot;
mod schedule;
mod upgrade;

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};
pub(crate) use kill_node::{KillPlan, Target, kill_nodes};
pub(crate) use kind::{FaultKind, parse};
pub(crate) use mix::{MixPlan, mix};
pub(crate) use power_cut::{CutPlan, cut_power};
pub(crate) use primitive::merged;
pub(crate) use schedule::{kinds, schedule};
pub(crate) use upgrade::{NAME as UPGRADE, UpgradePlan, upgrade};

/// Kills a node with SIGKILL.
pub(crate) async fn kill(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    recorder.note(Note::nemesis(Act::Kill, Some(cluster.name(at)), Value::Null));
    cluster.kill_node(at).await
}

/// Starts a node that does not run.
pub(crate) fn start(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    recorder.note(Note::nemesis(Act::Start, Some(cluster.name(at)), Value::Null));
    cluster.start_node(at)
}

/// Waits until a node is ready.
pub(crate) async fn wait_ready(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    let took = cluster.wait_ready(at).await?;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    recorder.note(Note::nemesis(Act::Ready, Some(cluster.name(at)), json!({"took_ms": took_ms})));
    Ok(())
}

/// Starts a killed node and waits until it is ready.
pub(crate) async fn restart(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    start(cluster, recorder, at)?;
    wait_ready(cluster, recorder, at).await
}

/// Notes who leads.
pub(crate) fn note_leader(cluster: &Cluster, recorder: &Recorder, (at, term): (usize, u64)) {
    recorder.note(Note::nemesis(Act::Leader, Some(cluster.name(at)), json!({"term": term})));
}

/// Up to a second, so that faults fall on every moment of what repeats itself.
fn jitter(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(0..1000))
}
