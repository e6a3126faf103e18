//! Judges of histories: pure functions from what was noted to a verdict. Each one has tests with histories that must
//! fail: a judge that never says no proves nothing.

mod available;
mod blob_bytes;
mod chain;
mod collected;
mod copies;
mod coverage;
mod elections;
pub(crate) mod faults;
mod gaps;
mod linear;
mod listing;
mod lost;
mod pulls;
#[cfg(test)]
mod recorded;
mod region;
mod region_conflicts;
mod region_order;
mod register;
mod repeats;
mod resume;
mod second;
mod wgl;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::history::{Act, Event, Kind, Process};

/// Problems of one judge that are told; the rest is counted.
const PROBLEMS_MAX: usize = 20;

/// What a run must have held, as it was asked for; kept in `run.json`, so that a history can be judged again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Demands {
    /// Names of the nodes.
    pub(crate) nodes: Vec<String>,
    /// Kills the run was for.
    pub(crate) kills: u32,
    /// Writes that must have been acknowledged; uploads, for `upload-resume`.
    pub(crate) writes_min: u64,
    /// Longest time without an acknowledged write; none where it is not judged.
    pub(crate) gap_max_ms: Option<u64>,
    /// Whether nobody may have stood for election.
    pub(crate) is_quiet: bool,
    /// Whether the uploads of `upload-resume` are in it.
    pub(crate) has_uploads: bool,
    /// Acts that the run was for.
    #[serde(default)]
    pub(crate) kinds: Vec<Act>,
    /// How often each of them must have been `ok` in a minute of load; 0: not judged.
    #[serde(default)]
    pub(crate) kind_per_minute_min: f64,
    /// How soon after a fault a write must succeed while a majority is untouched.
    pub(crate) available_max_ms: u64,
    /// Whether clients that repeat three times may fail: what hits several nodes, or hangs them, lasts longer.
    pub(crate) may_fail_clients: bool,
    /// Faults the run was for, by kind: how often each must have been done in full.
    pub(crate) faults: std::collections::BTreeMap<String, u32>,
    /// What collection must have done, in a run that is for it.
    #[serde(default)]
    pub(crate) collected: Option<Collected>,
}

/// What a run of `gc` must hold beside the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collected {
    /// Blobs that must have been collected; fewer prove nothing.
    pub(crate) blobs_min: u64,
    /// Whether untagged images go by their age; otherwise they stay until they are deleted.
    pub(crate) untagged_go: bool,
}

/// What a judge found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// Which judge.
    pub(crate) checker: &'static str,
    /// Whether everything held.
    pub(crate) is_good: bool,
    /// What was read.
    pub(crate) figures: Value,
    /// What did not hold; the first of them.
    pub(crate) problems: Vec<String>,
    /// How many there were.
    pub(crate) problem_count: usize,
}

impl Verdict {
    fn new(checker: &'static str, figures: Value, mut problems: Vec<String>) -> Verdict {
        let problem_count = problems.len();
        problems.truncate(PROBLEMS_MAX);
        Verdict { checker, is_good: problem_count == 0, figures, problems, problem_count }
    }
}

/// All judges over the history in `dir`, and a second opinion of its registers by a program that shares nothing with
/// the first.
pub(crate) fn judge_all(dir: &Path, events: &[Event], demands: &Demands) -> Vec<Verdict> {
    let mut verdicts = judge(events, demands);
    if let Some(first) = verdicts.iter().find(|verdict| verdict.checker == linear::NAME) {
        verdicts.push(second::check(dir, first));
    }
    verdicts
}

/// The judges that need nothing but the history.
fn judge(events: &[Event], demands: &Demands) -> Vec<Verdict> {
    if events.iter().any(|event| region::ACTS.contains(&event.f)) {
        let mut verdicts = vec![coverage::check(events, demands)];
        // histories of before clocks and restores do not number their faults
        if nemesis(events, Act::Inject).any(|event| event.value["kind"].is_string()) {
            verdicts.push(faults::check(events, demands));
        }
        verdicts.push(region::check(events));
        return verdicts;
    }
    let mut verdicts = vec![
        coverage::check(events, demands),
        lost::check(events, demands),
        repeats::check(events, demands),
        pulls::check(events),
        copies::check(events),
    ];
    if demands.gap_max_ms.is_some() {
        verdicts.push(gaps::check(events, demands));
    }
    verdicts.push(elections::check(events, demands));
    if !demands.faults.is_empty() {
        verdicts.push(faults::check(events, demands));
        verdicts.push(available::check(events, demands));
    }
    if demands.has_uploads {
        verdicts.push(resume::check(events, demands));
    }
    if let Some(wanted) = demands.collected {
        verdicts.push(collected::check(events, demands, wanted));
    }
    let has = |acts: &[Act]| events.iter().any(|event| acts.contains(&event.f));
    if has(&register::ACTS) {
        verdicts.push(chain::check(events));
        verdicts.push(linear::check(events));
    }
    if has(&blob_bytes::ACTS) {
        verdicts.push(blob_bytes::check(events, demands));
    }
    if has(&listing::ACTS) {
        verdicts.push(listing::check(events, demands));
    }
    verdicts
}

/// An operation of a client: its two events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) invoke: &'a Event,
    /// None when the history ends before it.
    pub(crate) end: Option<&'a Event>,
}

impl Pair<'_> {
    fn is_ok(&self) -> bool {
        self.end.is_some_and(|end| end.kind == Kind::Ok)
    }

    /// Why it was not `ok`.
    fn error(&self) -> &str {
        self.end.map_or("it never ended", |end| end.error.as_deref().unwrap_or("no reason was told"))
    }
}

/// The operations of the given acts, in order of their beginning.
pub(crate) fn pairs<'a>(events: &'a [Event], acts: &[Act]) -> Vec<Pair<'a>> {
    let mut open: std::collections::BTreeMap<Process, usize> = std::collections::BTreeMap::new();
    let mut found: Vec<Pair<'_>> = Vec::new();
    for event in events.iter().filter(|event| event.process != Process::Nemesis && acts.contains(&event.f)) {
        if event.kind == Kind::Invoke {
            open.insert(event.process, found.len());
            found.push(Pair { invoke: event, end: None });
        } else if let Some(at) = open.remove(&event.process) {
            found[at].end = Some(event);
        }
    }
    found
}

/// What the nemesis did or saw.
fn nemesis(events: &[Event], act: Act) -> impl Iterator<Item = &Event> {
    events.iter().filter(move |event| event.process == Process::Nemesis && event.f == act)
}

/// For people: seconds since the run began.
fn at(event: &Event) -> String {
    format!("{:.3} s", Duration::from_nanos(event.time).as_secs_f64())
}

fn key(event: &Event) -> &str {
    event.key.as_deref().unwrap_or_default()
}

fn node(event: &Event) -> &str {
    event.node.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod testing {
    use super::*;

    /// Demands that ask for nothing.
    pub(super) fn demands() -> Demands {
        let nodes = ["a-1", "b-1", "c-1"].map(str::to_owned).to_vec();
        Demands {
            nodes,
            kills: 0,
            writes_min: 0,
            gap_max_ms: None,
            is_quiet: false,
            has_uploads: false,
            kinds: Vec::new(),
            kind_per_minute_min: 0.0,
            available_max_ms: 10_000,
            may_fail_clients: false,
            faults: std::collections::BTreeMap::new(),
            collected: None,
        }
    }
}
