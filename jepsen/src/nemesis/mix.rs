//! The mixed schedule, played: faults begin when their time has come and whom they hit may be hit, windows overlap,
//! and a node counts as touched until it is ready again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::kind::{FaultKind, Part};
use super::primitive::{Outcome, Primitive};
use super::quorum::Touched;
use super::schedule::{Entry, Schedule};
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Note, Recorder};

/// Between two looks at what is to be done.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at who leads.
const LEADER_EVERY: Duration = Duration::from_secs(1);
/// How long nodes may take to be ready again when nothing is done to them any more.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long faults may follow each other on the same nodes: then all of them have to end, so that others have their
/// turn.
const UNBROKEN_MAX: Duration = Duration::from_secs(20);
/// How long a run goes on beyond its time so that each of its faults has come once.
const OVERTIME: Duration = Duration::from_secs(180);

/// What is played.
#[derive(Clone, Debug)]
pub(crate) struct MixPlan {
    pub(crate) schedule: Schedule,
    pub(crate) lasts: Duration,
    /// Whether a majority stays untouched, and availability is judged.
    pub(crate) is_safe: bool,
    /// The one node that may lose copies of data.
    pub(crate) fragile: usize,
}

/// A fault that lasts.
struct Window {
    primitive: Primitive,
    until: Instant,
}

struct Mix<'a> {
    cluster: &'a mut Cluster,
    recorder: &'a Recorder,
    plan: MixPlan,
    windows: Vec<Window>,
    /// Nodes that are not yet ready again, and since when nothing is done to them.
    recovering: BTreeMap<usize, Instant>,
    leader: Option<(usize, u64)>,
    looked_at: Option<Instant>,
    /// Since when there was always a node that something was done to.
    touched_since: Option<Instant>,
    /// The last damage to a node's files that nobody may have met yet.
    rotten: Option<Primitive>,
    next_fault: u64,
}

/// Plays it, heals everything, and is back when every node is ready.
pub(crate) async fn mix(
    cluster: &mut Cluster,
    recorder: &Recorder,
    plan: MixPlan,
    say: impl FnMut(String),
) -> Result<(), Fault> {
    let mut mix = Mix {
        cluster,
        recorder,
        plan,
        windows: Vec::new(),
        recovering: BTreeMap::new(),
        leader: None,
        looked_at: None,
        touched_since: None,
        rotten: None,
        next_fault: 0,
    };
    mix.play(say).await?;
    mix.calm().await
}

impl Mix<'_> {
    async fn play(&mut self, mut say: impl FnMut(String)) -> Result<(), Fault> {
        let began = Instant::now();
        let mut entries: std::collections::VecDeque<Entry> = self.plan.schedule.entries.clone().into();
        let mut missing: Vec<FaultKind> = self.plan.schedule.kinds.clone();
        while !entries.is_empty() || began.elapsed() < self.plan.lasts {
            let is_over = began.elapsed() >= self.plan.lasts;
            if is_over && (missing.is_empty() || began.elapsed() > self.plan.lasts + OVERTIME) {
                break;
            }
            self.tick().await?;
            // any of the next few may come first when the others' victims are not free
            let due = entries.iter().take(4).position(|entry| {
                entry.at <= began.elapsed()
                    && (!is_over || missing.contains(&entry.kind))
                    && self.choose(entry).is_some()
            });
            let Some(due) = due else {
                if is_over {
                    // what came already has no further turn
                    entries.retain(|entry| missing.contains(&entry.kind));
                }
                tokio::time::sleep(TICK).await;
                continue;
            };
            self.look(true).await;
            // another one may lead by now, who can't be hit: then its turn is still to come
            let Some(nodes) = self.choose(&entries[due]) else { continue };
            let Some(entry) = entries.remove(due) else { continue };
            missing.retain(|kind| *kind != entry.kind);
            say(self.begin(&entry, nodes).await?);
        }
        Ok(())
    }

    fn choose(&self, entry: &Entry) -> Option<Vec<usize>> {
        if self.touched_since.is_some_and(|since| since.elapsed() > UNBROKEN_MAX) {
            return None;
        }
        self.touched().choose(entry.kind, entry.draw)
    }

    fn touched(&self) -> Touched {
        let mut taken: BTreeMap<usize, std::collections::BTreeSet<Part>> = BTreeMap::new();
        for Window { primitive, .. } in &self.windows {
            for at in &primitive.nodes {
                taken.entry(*at).or_default().extend(primitive.kind.parts());
            }
        }
        for at in self.recovering.keys() {
            taken.entry(*at).or_default().insert(Part::Process);
        }
        let leader = self.leader.map(|(at, _)| at);
        let (nodes, is_safe, fragile) = (self.cluster.seats().len(), self.plan.is_safe, self.plan.fragile);
        Touched { nodes, taken, is_safe, fragile, leader }
    }

    async fn begin(&mut self, entry: &Entry, nodes: Vec<usize>) -> Result<String, Fault> {
        for at in &nodes {
            self.look_at(*at).await?;
            self.bring_back(*at).await?;
        }
        self.next_fault += 1;
        let mut primitive = Primitive::new(self.next_fault, entry.kind, nodes, entry.draw, self.plan.is_safe);
        let outcome = primitive.install(self.cluster, self.recorder, &mut self.rotten).await?;
        let names: Vec<&str> = primitive.nodes.iter().map(|at| self.cluster.name(*at)).collect();
        let said = match &outcome {
            Outcome::Installed(_) => format!("{} {}", entry.kind.name(), names.join(" ")),
            Outcome::Skipped(why) => format!("{} skipped: {why}", entry.kind.name()),
            Outcome::Indeterminate(why) => format!("{} perhaps: {why}", entry.kind.name()),
        };
        let is_down = primitive.nodes.iter().any(|at| !self.cluster.running().contains(at));
        if matches!(outcome, Outcome::Installed(_)) && entry.kind == FaultKind::Restart {
            self.recovering.insert(primitive.nodes[0], Instant::now());
        }
        // a node that was stopped for a fault that then found nothing to do has to be started all the same
        if !entry.kind.is_moment() && (matches!(outcome, Outcome::Installed(_)) || is_down) {
            if entry.kind.damages_node() {
                self.rotten = Some(primitive.clone());
            }
            self.windows.push(Window { primitive, until: Instant::now() + entry.lasts });
        }
        Ok(said)
    }

    /// Heals what is due, and looks at every node.
    async fn tick(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        while let Some(due) = self.windows.iter().position(|window| window.until <= now) {
            self.heal(due).await?;
        }
        for at in 0..self.cluster.seats().len() {
            self.look_at(at).await?;
        }
        let is_touched = !(self.windows.is_empty() && self.recovering.is_empty());
        self.touched_since = is_touched.then(|| self.touched_since.unwrap_or_else(Instant::now));
        self.look(false).await;
        Ok(())
    }

    /// Ends a fault. One that is over when its node has met it needs a node that others speak to: alone it writes
    /// nothing, and does not notice its disk.
    async fn heal(&mut self, which: usize) -> Result<(), Fault> {
        let window = self.windows.remove(which);
        if window.primitive.kind == FaultKind::IoError {
            let cuts = |window: &Window| window.primitive.kind.parts().contains(&Part::Network);
            while let Some(cutting) = self.windows.iter().position(cuts) {
                let cutting = self.windows.remove(cutting);
                self.undo(cutting).await?;
            }
        }
        self.undo(window).await
    }

    async fn undo(&mut self, window: Window) -> Result<(), Fault> {
        let Window { mut primitive, .. } = window;
        let has_rejoined = primitive.heal(self.cluster, self.recorder).await?;
        if has_rejoined {
            self.rotten = None;
        }
        for at in primitive.nodes {
            self.recovering.insert(at, Instant::now());
        }
        Ok(())
    }

    /// Heals what has ended a node that had reason to end: nothing can be done to it before it runs again.
    async fn bring_back(&mut self, at: usize) -> Result<(), Fault> {
        if !self.cluster.has_ended(at)? {
            return Ok(());
        }
        let ends = |window: &Window| may_end(window) && window.primitive.nodes.contains(&at);
        while let Some(which) = self.windows.iter().position(ends) {
            self.heal(which).await?;
        }
        Ok(())
    }

    /// Whether a node is ready again, and none has ended that had no reason to.
    async fn look_at(&mut self, at: usize) -> Result<(), Fault> {
        let mut done = self.windows.iter().filter(|window| window.primitive.nodes.contains(&at));
        let is_excused = done.clone().any(may_end);
        let is_free = done.next().is_none();
        if is_excused {
            return Ok(());
        }
        if let Some(how) = self.cluster.take_ended(at)? {
            if let Some(rotten) = self.rotten.take_if(|rotten| rotten.nodes.contains(&at)) {
                // nobody chose that it dies now: beside another fault no majority may be left to take it back
                while !self.windows.is_empty() {
                    self.heal(0).await?;
                }
                rotten.met_later(self.cluster, self.recorder, &how).await?;
                self.recovering.insert(at, Instant::now());
                return Ok(());
            }
            let name = self.cluster.name(at);
            return Err(Fault::of_product(format!("node {name} ended by itself ({how}); see {name}.log")));
        }
        let Some(since) = self.recovering.get(&at).copied() else { return Ok(()) };
        if !is_free {
            // under another fault it need not get ready
            self.recovering.insert(at, Instant::now());
            if !self.windows.iter().any(|window| takes_readiness(window, at)) && self.cluster.is_ready(at).await {
                self.is_back(at, since);
            }
        } else if self.cluster.is_ready(at).await {
            self.is_back(at, since);
        } else if since.elapsed() > READY_MAX {
            let (name, s) = (self.cluster.name(at), READY_MAX.as_secs());
            return Err(Fault::of_product(format!(
                "node {name} is not ready {s} s after all was healed; see {name}.log"
            )));
        }
        Ok(())
    }

    fn is_back(&mut self, at: usize, since: Instant) {
        self.recovering.remove(&at);
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.recorder.note(Note::nemesis(Act::Ready, Some(self.cluster.name(at)), json!({"took_ms": took_ms})));
    }

    /// Who leads; asked once in a while, and before each fault.
    async fn look(&mut self, is_now: bool) {
        if !is_now && self.looked_at.is_some_and(|at| at.elapsed() < LEADER_EVERY) {
            return;
        }
        let leader = self.cluster.majority_leader().await;
        self.looked_at = Some(Instant::now());
        if let Some(leader) = leader.filter(|leader| self.leader != Some(*leader)) {
            super::note_leader(self.cluster, self.recorder, leader);
        }
        self.leader = leader;
    }

    /// Heals everything and waits until every node is ready.
    async fn calm(&mut self) -> Result<(), Fault> {
        while !self.windows.is_empty() {
            self.heal(0).await?;
        }
        self.recover().await?;
        // damage that nobody has met would be met at any time from now on, by `check` at the latest
        if let Some(rotten) = self.rotten.take() {
            rotten.replace(self.cluster, self.recorder).await?;
            self.recovering.extend(rotten.nodes.iter().map(|at| (*at, Instant::now())));
        }
        self.recover().await
    }

    async fn recover(&mut self) -> Result<(), Fault> {
        while !self.recovering.is_empty() {
            self.tick().await?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }
}

/// Whether a node may end under this fault.
fn may_end(window: &Window) -> bool {
    matches!(window.primitive.kind, FaultKind::IoError | FaultKind::DiskFull)
}

/// Whether a node can't be ready under this fault.
fn takes_readiness(window: &Window, at: usize) -> bool {
    let parts = window.primitive.kind.parts();
    window.primitive.nodes.contains(&at) && (parts.contains(&Part::Process) || parts.contains(&Part::Network))
}
