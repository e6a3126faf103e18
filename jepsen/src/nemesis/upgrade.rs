//! `upgrade`: the nodes of an older release are replaced by those of this one under load, one after the other; back
//! again; once more; then the upgrade is finalized, and every node restarted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::primitive::merged;
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};

/// How long the cluster may be without a leader.
const LEADER_MAX: Duration = Duration::from_secs(60);
/// How long the step to the new level may take until nothing is left to migrate.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Name of the fault in the history.
pub(crate) const NAME: &str = "upgrade";

/// From which program to which, and with what pauses.
#[derive(Clone, Debug)]
pub(crate) struct UpgradePlan {
    /// What the nodes were founded with.
    pub(crate) old: PathBuf,
    pub(crate) new: PathBuf,
    /// How long all nodes are up between two exchanges, at least.
    pub(crate) up: Duration,
    pub(crate) seed: u64,
}

impl UpgradePlan {
    /// How often a node is exchanged: up, back, up, and restarted.
    pub(crate) fn exchanges(nodes: u8) -> u32 {
        u32::from(nodes) * 4
    }
}

/// Exchanges programs. `say` is told what happened.
pub(crate) async fn upgrade(
    cluster: &mut Cluster,
    recorder: &Recorder,
    plan: UpgradePlan,
    mut say: impl FnMut(String),
) -> Result<(), Fault> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut number = 0;
    for (turn, binary) in [("up", &plan.new), ("back", &plan.old), ("up again", &plan.new), ("restart", &plan.new)] {
        if turn == "restart" {
            finalize(cluster, recorder, &mut say).await?;
        }
        let mut order: Vec<usize> = cluster.running();
        random.shuffle(&mut order);
        for at in order {
            tokio::time::sleep(plan.up + super::jitter(&mut random)).await;
            let leader = cluster.wait_leader(LEADER_MAX).await?;
            super::note_leader(cluster, recorder, leader);
            number += 1;
            let about = json!({"fault": number, "kind": NAME, "nodes": [cluster.name(at)], "safe": true, "turn": turn});
            recorder.note(Note::nemesis_begins(Act::Inject, Some(cluster.name(at)), about.clone()));
            let stop_ms = u64::try_from(cluster.stop_node(at).await?.as_millis()).unwrap_or(u64::MAX);
            cluster.set_program(at, binary);
            let began = Instant::now();
            super::restart(cluster, recorder, at).await?;
            let told = json!({"outcome": "installed", "stop_ms": stop_ms});
            recorder.note(Note::nemesis(Act::Inject, Some(cluster.name(at)), merged(about, told)));
            let led = if leader.0 == at { ", which led" } else { "" };
            let (name, ready_ms) = (cluster.name(at), began.elapsed().as_millis());
            say(format!("{turn}: {name}{led}; ended in {stop_ms} ms, ready after {ready_ms} ms"));
        }
    }
    tokio::time::sleep(plan.up).await;
    Ok(())
}

/// Has the cluster step up, and waits until nothing is left to migrate.
async fn finalize(cluster: &Cluster, recorder: &Recorder, say: &mut impl FnMut(String)) -> Result<(), Fault> {
    let began = Instant::now();
    let (at, _) = cluster.wait_leader(LEADER_MAX).await?;
    recorder.note(Note::nemesis(Act::Finalize, Some(cluster.name(at)), Value::Null));
    cluster.finalize(at).await.map_err(|why| Fault::of_product(format!("the upgrade can't be finalized: {why}")))?;
    while cluster.admin().migrates(&cluster.seats()[at]).await != Some(false) {
        if began.elapsed() > STEP_MAX {
            return Err(Fault::of_product(format!("slots are still migrated after {} s", STEP_MAX.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ms = began.elapsed().as_millis();
    recorder.note(Note::nemesis(Act::Finalize, Some(cluster.name(at)), json!({"migrated": true})));
    say(format!("finalized; all slots migrated after {ms} ms"));
    Ok(())
}
