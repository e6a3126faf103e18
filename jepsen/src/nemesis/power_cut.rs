//! `powercut` and `powercut-all`: the power is cut again and again under load, of one node (the leader half of the
//! time) or of all at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::kind::FaultKind;
use super::primitive::{Outcome, Primitive};
use super::quorum::{Draw, Touched};
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::Recorder;

/// How long the cluster may be without a leader.
const LEADER_MAX: Duration = Duration::from_secs(60);

/// How often, and with what pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutPlan {
    /// `Powercut` or `PowercutAll`.
    pub(crate) kind: FaultKind,
    pub(crate) cuts: u32,
    /// How long a node stays without power, at most.
    pub(crate) down: Duration,
    /// How long all nodes are up before the next cut, at least.
    pub(crate) up: Duration,
    pub(crate) seed: u64,
}

/// Cuts and starts again. `say` is told what happened.
pub(crate) async fn cut_power(
    cluster: &mut Cluster,
    recorder: &Recorder,
    plan: CutPlan,
    mut say: impl FnMut(String),
) -> Result<(), Fault> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let is_safe = plan.kind.is_quorum_safe();
    for cut in 1..=plan.cuts {
        tokio::time::sleep(plan.up + super::jitter(&mut random)).await;
        let leader = cluster.wait_leader(LEADER_MAX).await?;
        super::note_leader(cluster, recorder, leader);
        let draw = Draw { prefers_leader: random.bool(), random: random.u64(..) };
        let (nodes, leader) = (cluster.seats().len(), Some(leader.0));
        let touched = Touched { nodes, taken: BTreeMap::new(), is_safe, fragile: 0, leader };
        let victims = touched.choose(plan.kind, draw).ok_or_else(|| Fault::new("there is no node to cut off"))?;
        let mut primitive = Primitive::new(u64::from(cut), plan.kind, victims, draw, is_safe);
        if let Outcome::Skipped(why) = primitive.install(cluster, recorder, &mut None).await? {
            say(format!("no power can be cut: {why}"));
            return Ok(());
        }
        tokio::time::sleep(plan.down.mul_f64(random.f64())).await;
        primitive.heal(cluster, recorder).await?;
        let began = Instant::now();
        for at in &primitive.nodes {
            super::wait_ready(cluster, recorder, *at).await?;
        }
        let names: Vec<&str> = primitive.nodes.iter().map(|at| cluster.name(*at)).collect();
        say(format!("cut {cut}: {}; ready after {} ms", names.join(" "), began.elapsed().as_millis()));
    }
    tokio::time::sleep(plan.up).await;
    Ok(())
}
