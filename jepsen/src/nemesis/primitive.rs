//! One fault as a value: installed, undone, and both written to the history with what came of it. What the harness
//! can't do is an error and ends the run; what can't be had on this machine is skipped, with the reason.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::kind::FaultKind;
use super::quorum::Draw;
use super::{network, rot};
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};

/// How long a node whose disk failed may go on.
const END_MAX: Duration = Duration::from_secs(30);
/// How long a node with damaged files may take to get ready or to end.
const REACT_MAX: Duration = Duration::from_secs(60);
/// How long until a leadership that was handed over is seen.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);
/// So long that the balancer sees a node again before the next one ends: else all its clients move to one, and stay.
const SEEN: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Writes a second of a slow disk.
const WRITES_PER_S: [u32; 3] = [20, 40, 100];
/// Jumps of a clock, in seconds.
const JUMPS_S: [i64; 8] = [-3600, -600, -60, -3, 3, 60, 600, 3600];

/// What became of a fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It was done in full; with what there is to tell.
    Installed(Value),
    /// It can't be had here, or there was nothing to do it to.
    Skipped(String),
    /// It was asked for, and nobody knows whether it came about.
    Indeterminate(String),
}

/// A fault with the nodes it is done to.
#[derive(Clone, Debug)]
pub(crate) struct Primitive {
    pub(crate) kind: FaultKind,
    pub(crate) nodes: Vec<usize>,
    draw: u64,
    number: u64,
    /// Whether availability is judged while it lasts.
    is_safe: bool,
    /// Rules of the firewall to take away again.
    rules: Vec<Vec<String>>,
    /// Bytes of the node's log before.
    log_mark: u64,
}

impl Primitive {
    pub(crate) fn new(number: u64, kind: FaultKind, nodes: Vec<usize>, draw: Draw, is_safe: bool) -> Primitive {
        Primitive { kind, nodes, draw: draw.random, number, is_safe, rules: Vec::new(), log_mark: 0 }
    }

    fn note(&self, cluster: &Cluster) -> (Option<String>, Value) {
        let names: Vec<&str> = self.nodes.iter().map(|at| cluster.name(*at)).collect();
        let one = if let [name] = names[..] { Some(name.to_owned()) } else { None };
        (one, json!({"fault": self.number, "kind": self.kind, "nodes": names, "safe": self.is_safe}))
    }

    /// Does it. `latent` is damage that nobody has met yet; it is taken when a node meets it in this.
    pub(crate) async fn install(
        &mut self,
        cluster: &mut Cluster,
        recorder: &Recorder,
        latent: &mut Option<Primitive>,
    ) -> Result<Outcome, Fault> {
        let (node, about) = self.note(cluster);
        recorder.note(Note::nemesis_begins(Act::Inject, node.as_deref(), about.clone()));
        let outcome = match self.impossible(cluster) {
            Some(why) => Outcome::Skipped(why),
            None => self.begin(cluster, recorder, latent).await?,
        };
        recorder.note(Note::nemesis(Act::Inject, node.as_deref(), told(about, &outcome)));
        Ok(outcome)
    }

    /// Undoes it; nodes that it stopped are started. They may take a while to be ready. Whether the node is a new
    /// one now.
    pub(crate) async fn heal(&mut self, cluster: &mut Cluster, recorder: &Recorder) -> Result<bool, Fault> {
        let (node, about) = self.note(cluster);
        recorder.note(Note::nemesis_begins(Act::Heal, node.as_deref(), about.clone()));
        let figures = self.end(cluster, recorder).await?;
        let has_rejoined = figures.get("rejoin_ms").is_some();
        recorder.note(Note::nemesis(Act::Heal, node.as_deref(), merged(about, figures)));
        Ok(has_rejoined)
    }

    /// A node that worked with damaged files has met the damage and ended: allowed, if it said why. It comes back
    /// as a new one.
    pub(crate) async fn met_later(&self, cluster: &mut Cluster, recorder: &Recorder, how: &str) -> Result<(), Fault> {
        let (at, (node, about)) = (self.nodes[0], self.note(cluster));
        recorder.note(Note::nemesis(Act::Kill, node.as_deref(), json!({"by": "damaged files", "ended": how})));
        let said = cluster.errors_since(at, self.log_mark);
        let problem = said.is_empty().then(|| format!("it ended later ({how}) and did not say why"));
        let figures = json!({"reaction": "ends later", "ended": how, "said": last(said), "problem": problem});
        let rejoined = rejoin(cluster, recorder, at).await?;
        recorder.note(Note::nemesis(Act::Heal, node.as_deref(), merged(merged(about, figures), rejoined)));
        Ok(())
    }

    /// Replaces a node with damaged files that it has not met.
    pub(crate) async fn replace(&self, cluster: &mut Cluster, recorder: &Recorder) -> Result<(), Fault> {
        let (at, (node, about)) = (self.nodes[0], self.note(cluster));
        super::kill(cluster, recorder, at).await?;
        let rejoined = rejoin(cluster, recorder, at).await?;
        let figures = json!({"reaction": "works, and was replaced at the end"});
        recorder.note(Note::nemesis(Act::Heal, node.as_deref(), merged(merged(about, figures), rejoined)));
        Ok(())
    }

    /// Why it can't be had on this machine.
    fn impossible(&self, cluster: &Cluster) -> Option<String> {
        match self.kind {
            FaultKind::Powercut | FaultKind::PowercutAll | FaultKind::IoError | FaultKind::DiskFull => {
                cluster.no_volumes()
            }
            FaultKind::SlowDisk => cluster.no_slow_disks(),
            FaultKind::Clock => cluster.no_clocks(),
            FaultKind::IsolateLeader | FaultKind::Halves | FaultKind::OneWay | FaultKind::Ring | FaultKind::Loss => {
                cluster.no_firewall()
            }
            FaultKind::Kill
            | FaultKind::Pause
            | FaultKind::TransferLeader
            | FaultKind::Restart
            | FaultKind::RestartRolling
            | FaultKind::RotBlob
            | FaultKind::RotSst
            | FaultKind::RotWal
            | FaultKind::RotSnapshot
            | FaultKind::Wipe => None,
        }
    }

    async fn begin(
        &mut self,
        cluster: &mut Cluster,
        recorder: &Recorder,
        latent: &mut Option<Primitive>,
    ) -> Result<Outcome, Fault> {
        let at = self.nodes[0];
        self.log_mark = cluster.log_mark(at);
        let done = match self.kind {
            FaultKind::Kill | FaultKind::Wipe => {
                super::kill(cluster, recorder, at).await?;
                Value::Null
            }
            FaultKind::Powercut | FaultKind::PowercutAll => {
                for at in &self.nodes {
                    recorder.note(Note::nemesis(Act::Kill, Some(cluster.name(*at)), json!({"by": "power cut"})));
                }
                cluster.cut_power(&self.nodes).await?;
                Value::Null
            }
            FaultKind::Pause => {
                cluster.pause(at)?;
                Value::Null
            }
            FaultKind::IsolateLeader | FaultKind::Halves | FaultKind::OneWay | FaultKind::Ring | FaultKind::Loss => {
                self.rules = network::rules(self.kind, &self.nodes, &cluster.seats(), self.draw);
                cluster.drop_packets(&self.rules)?;
                json!({"rules": self.rules.iter().map(|rule| rule.join(" ")).collect::<Vec<_>>()})
            }
            FaultKind::TransferLeader => return hand_over(cluster, at).await,
            FaultKind::Restart => {
                let stopped = cluster.stop_node(at).await;
                match or_meets(cluster, recorder, (at, latent), stopped).await? {
                    Some(took) => {
                        super::start(cluster, recorder, at)?;
                        json!({"stop_ms": ms(took)})
                    }
                    None => Value::Null,
                }
            }
            FaultKind::RestartRolling => self.rolling(cluster, recorder, latent).await?,
            FaultKind::IoError => {
                cluster.fail_disk(at)?;
                Value::Null
            }
            FaultKind::DiskFull => json!({"filled_bytes": cluster.fill_disk(at)?}),
            FaultKind::SlowDisk => {
                let limit = WRITES_PER_S[self.draw as usize % WRITES_PER_S.len()];
                cluster.slow_disk(at, limit)?;
                json!({"writes_per_s": limit})
            }
            FaultKind::Clock => {
                let jump = JUMPS_S[self.draw as usize % JUMPS_S.len()];
                cluster.set_clock(at, jump)?;
                json!({"jump_s": jump})
            }
            FaultKind::RotBlob => return Ok(rotten(rot::damage(cluster.data(at), self.kind, self.draw)?)),
            FaultKind::RotSst | FaultKind::RotWal | FaultKind::RotSnapshot => {
                super::kill(cluster, recorder, at).await?;
                return Ok(rotten(rot::damage(cluster.data(at), self.kind, self.draw)?));
            }
        };
        Ok(Outcome::Installed(done))
    }

    /// Each node is asked to end and started again, when the one before it is ready.
    async fn rolling(
        &self,
        cluster: &mut Cluster,
        recorder: &Recorder,
        latent: &mut Option<Primitive>,
    ) -> Result<Value, Fault> {
        let mut stops = Vec::new();
        for at in &self.nodes {
            let stopped = cluster.stop_node(*at).await;
            if let Some(took) = or_meets(cluster, recorder, (*at, latent), stopped).await? {
                stops.push(ms(took));
                let started = super::restart(cluster, recorder, *at).await;
                or_meets(cluster, recorder, (*at, latent), started).await?;
            }
            tokio::time::sleep(SEEN).await;
        }
        Ok(json!({"stop_ms": stops.iter().max(), "stops_ms": stops}))
    }

    async fn end(&mut self, cluster: &mut Cluster, recorder: &Recorder) -> Result<Value, Fault> {
        let at = self.nodes[0];
        match self.kind {
            FaultKind::Kill | FaultKind::Powercut | FaultKind::PowercutAll => {
                for at in &self.nodes {
                    super::start(cluster, recorder, *at)?;
                }
            }
            FaultKind::Pause => cluster.resume(at)?,
            FaultKind::IsolateLeader | FaultKind::Halves | FaultKind::OneWay | FaultKind::Ring | FaultKind::Loss => {
                cluster.pass_packets(&self.rules)?;
            }
            FaultKind::IoError => return self.after_io_error(cluster, recorder, at).await,
            FaultKind::DiskFull => {
                cluster.free_disk(at)?;
                // allowed when the log could not be written; it has to start again now that there is room
                let ended = cluster.take_ended(at)?;
                let errors = last(cluster.errors_since(at, self.log_mark));
                if ended.is_some() {
                    super::start(cluster, recorder, at)?;
                }
                return Ok(json!({"ended": ended, "said": errors}));
            }
            FaultKind::SlowDisk => cluster.hasten_disk(at)?,
            FaultKind::Clock => cluster.set_clock(at, 0)?,
            FaultKind::RotSst | FaultKind::RotWal | FaultKind::RotSnapshot => {
                return self.after_rot(cluster, recorder, at).await;
            }
            FaultKind::Wipe => return rejoin(cluster, recorder, at).await,
            FaultKind::TransferLeader | FaultKind::Restart | FaultKind::RestartRolling | FaultKind::RotBlob => {}
        }
        Ok(Value::Null)
    }

    /// The node has to end by itself and to say why; then the disk works again and it is started.
    async fn after_io_error(&self, cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<Value, Fault> {
        let began = Instant::now();
        let mut ended = cluster.take_ended(at)?;
        while ended.is_none() && began.elapsed() < END_MAX {
            tokio::time::sleep(LOOK_EVERY).await;
            ended = cluster.take_ended(at)?;
        }
        let said = cluster.errors_since(at, self.log_mark);
        let problem = match &ended {
            None => Some(format!("it went on for {} s after its disk failed", END_MAX.as_secs())),
            Some(how) => said.is_empty().then(|| format!("it ended ({how}) and did not say why")),
        };
        recorder.note(Note::nemesis(Act::Kill, Some(cluster.name(at)), json!({"by": "a failed disk", "ended": ended})));
        if ended.is_none() {
            cluster.kill_node(at).await?;
        }
        cluster.mend_disk(at)?;
        super::start(cluster, recorder, at)?;
        Ok(json!({"ended": ended, "said": last(said), "problem": problem}))
    }

    /// A node with damaged files works, or refuses and says why: then it comes back as a new one. Anything else is
    /// wrong.
    async fn after_rot(&self, cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<Value, Fault> {
        super::start(cluster, recorder, at)?;
        let began = Instant::now();
        let mut ended = None;
        while ended.is_none() && began.elapsed() < REACT_MAX {
            if cluster.is_ready(at).await {
                return Ok(json!({"reaction": "works"}));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            ended = cluster.take_ended(at)?;
        }
        let said = cluster.errors_since(at, self.log_mark);
        let reaction = if ended.is_some() { "refuses to start" } else { "runs and does not get ready" };
        let problem = said.is_empty().then_some("it does not work and does not say why");
        if ended.is_none() {
            cluster.kill_node(at).await?;
        }
        let rejoined = rejoin(cluster, recorder, at).await?;
        let figures = json!({"reaction": reaction, "ended": ended, "said": last(said), "problem": problem});
        Ok(merged(figures, rejoined))
    }
}

/// What a step came to. A node that ended in it because it met damage is back as a new one, and `None` is told.
///
/// A node that is asked to end writes what it had in memory, and may come upon the damage then.
async fn or_meets<T>(
    cluster: &mut Cluster,
    recorder: &Recorder,
    (at, latent): (usize, &mut Option<Primitive>),
    step: Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let fault = match step {
        Ok(done) => return Ok(Some(done)),
        Err(fault) => fault,
    };
    let has_ended = cluster.take_ended(at)?.is_some() || !cluster.running().contains(&at);
    match latent.take_if(|latent| has_ended && latent.nodes.contains(&at)) {
        Some(latent) => latent.met_later(cluster, recorder, &fault.to_string()).await.map(|()| None),
        None => Err(fault),
    }
}

/// Hands leadership to a node, through who leads.
async fn hand_over(cluster: &Cluster, to: usize) -> Result<Outcome, Fault> {
    let Some((from, term)) = cluster.majority_leader().await else {
        return Ok(Outcome::Indeterminate("nobody leads".to_owned()));
    };
    let began = Instant::now();
    if let Err(why) = cluster.transfer(from, to).await {
        return Ok(Outcome::Indeterminate(why));
    }
    while began.elapsed() < HAND_OVER_MAX {
        if cluster.majority_leader().await.is_some_and(|(at, now)| at == to && now > term) {
            return Ok(Outcome::Installed(json!({"took_ms": ms(began.elapsed())})));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Outcome::Indeterminate(format!("not seen to lead within {} s", HAND_OVER_MAX.as_secs())))
}

/// Brings a node back as a new one, through another one that runs.
async fn rejoin(cluster: &mut Cluster, recorder: &Recorder, at: usize) -> Result<Value, Fault> {
    let leader = cluster.majority_leader().await.map(|(leader, _)| leader);
    let running = cluster.running().into_iter().find(|other| *other != at);
    let through = leader.filter(|leader| *leader != at).or(running);
    let through = through.ok_or_else(|| Fault::new("no other node runs"))?;
    let began = Instant::now();
    recorder.note(Note::nemesis(Act::Start, Some(cluster.name(at)), json!({"as": "a new node"})));
    cluster.rejoin(at, through).await?;
    Ok(json!({"rejoin_ms": ms(began.elapsed())}))
}

fn rotten(done: Option<Value>) -> Outcome {
    done.map_or_else(|| Outcome::Skipped("there is no such file yet".to_owned()), Outcome::Installed)
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// The last few lines, cut to what people read.
fn last(lines: Vec<String>) -> Vec<String> {
    let first = lines.len().saturating_sub(3);
    lines.into_iter().skip(first).map(|line| line.chars().take(240).collect()).collect()
}

fn told(about: Value, outcome: &Outcome) -> Value {
    let outcome = match outcome {
        Outcome::Installed(figures) => merged(json!({"outcome": "installed"}), figures.clone()),
        Outcome::Skipped(why) => json!({"outcome": "skipped", "reason": why}),
        Outcome::Indeterminate(why) => json!({"outcome": "indeterminate", "reason": why}),
    };
    merged(about, outcome)
}

/// Two objects in one; nothing is no object.
pub(crate) fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other.into_iter().filter(|(_, value)| !value.is_null()));
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    // What is written tells the outcome and its reason beside what the fault was.
    #[test]
    fn outcomes() {
        let about = json!({"fault": 3, "kind": FaultKind::Loss});
        let installed = told(about.clone(), &Outcome::Installed(json!({"rules": [], "none": null})));
        assert_eq!(installed, json!({"fault": 3, "kind": "loss", "outcome": "installed", "rules": []}));
        let skipped = told(about.clone(), &Outcome::Skipped("it needs root".into()));
        assert_eq!((&skipped["outcome"], &skipped["reason"]), (&json!("skipped"), &json!("it needs root")));
        assert_eq!(told(about, &Outcome::Indeterminate("x".into()))["outcome"], "indeterminate");
        assert_eq!(rotten(None), Outcome::Skipped("there is no such file yet".into()));
        assert_eq!(last(vec!["a".into(), "b".into(), "c".into(), "d".repeat(500)])[2].len(), 240);
    }
}
