//! What goes wrong, on purpose, and when. Every act is written into the history of the clients, before it is done and
//! when its effect was seen.

mod kill_node;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};
pub(crate) use kill_node::{KillPlan, Target, kill_nodes};

/// Kills a node with SIGKILL.
pub(crate) async fn kill(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    recorder.note(Note::nemesis(Act::Kill, Some(cluster.name(at)), Value::Null));
    cluster.kill_node(at).await
}

/// Starts a killed node and waits until it is ready.
pub(crate) async fn restart(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<(), Fault> {
    recorder.note(Note::nemesis(Act::Start, Some(cluster.name(at)), Value::Null));
    cluster.start_node(at)?;
    let took = cluster.wait_ready(at).await?;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    recorder.note(Note::nemesis(Act::Ready, Some(cluster.name(at)), json!({"took_ms": took_ms})));
    Ok(())
}

/// Notes who leads.
pub(crate) fn note_leader(cluster: &Cluster, recorder: &Recorder, (at, term): (usize, u64)) {
    recorder.note(Note::nemesis(Act::Leader, Some(cluster.name(at)), json!({"term": term})));
}
