//! `kill-leader` and `kill-any`: SIGKILL under load, one node at a time, so that a quorum is always up.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::Recorder;

/// How long the cluster may be without a leader before the run is given up: far above what is allowed, so that the
/// verdict tells it and not the harness.
const LEADER_MAX: Duration = Duration::from_secs(60);

/// Whom to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Who leads.
    Leader,
    /// The leader half of the time, else any node.
    Any,
}

/// How often, and with what pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KillPlan {
    pub(crate) target: Target,
    pub(crate) kills: u32,
    /// How long a killed node stays down, at least: longer than an election takes.
    pub(crate) down: Duration,
    /// Between a node's return and the next kill, at least.
    pub(crate) up: Duration,
    pub(crate) seed: u64,
}

/// Kills and restarts. `say` is told what happened, for people.
pub(crate) async fn kill_nodes(
    cluster: &mut Cluster,
    recorder: &Recorder,
    plan: KillPlan,
    mut say: impl FnMut(String),
) -> Result<(), Fault> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    for kill in 1..=plan.kills {
        // the load has to be under way before the first kill as well
        tokio::time::sleep(plan.up + super::jitter(&mut random)).await;
        let before = cluster.wait_leader(LEADER_MAX).await?;
        super::note_leader(cluster, recorder, before);
        let running = cluster.running();
        let victim = match plan.target {
            Target::Any if random.bool() => running[random.usize(0..running.len())],
            Target::Any | Target::Leader => before.0,
        };
        let began = Instant::now();
        super::kill(cluster, recorder, victim).await?;
        let after = cluster.wait_leader(LEADER_MAX).await?;
        let without = began.elapsed();
        super::note_leader(cluster, recorder, after);
        let (name, next, term) = (cluster.name(victim), cluster.name(after.0), after.1);
        say(format!("kill {kill}: {name}; after {} ms {next} leads in term {term}", without.as_millis()));
        tokio::time::sleep((plan.down + super::jitter(&mut random)).saturating_sub(without)).await;
        super::restart(cluster, recorder, victim).await?;
    }
    tokio::time::sleep(plan.up).await;
    Ok(())
}
