//! Looking on while garbage is collected, and waiting until there is none left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use super::super::Shared;
use super::super::nodes::{Node, Nodes};
use crate::history::{Act, Note};

/// Between two looks: shorter than a cycle and its pause, most of the time.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// How long nothing must have been collected, beside two graces: several cycles.
const REST: Duration = Duration::from_secs(5);
/// How long that may take, beside two graces.
const REST_MAX: Duration = Duration::from_secs(80);

/// What a node says about collection; `None` without an answer.
async fn status(node: &Node) -> Option<Value> {
    let answer = node.admin.send(Method::GET, node.admin.url("/v1/gc"), &[], Bytes::new()).await.ok()?;
    (answer.status == 200).then(|| serde_json::from_slice(&answer.body).ok())?
}

/// Whether a node has nothing left to do, as far as it tells.
fn rests(status: &Value) -> bool {
    let last = &status["last"];
    status["node"]["files_waiting"] == 0 && last["ending"] == "done" && last["unused"] == 0
}

/// Whether a cycle changed nothing.
fn is_idle(last: &Value) -> bool {
    ["manifests", "links", "uses", "condemned", "swept"].iter().all(|done| last[done] == 0)
}

/// Notes every cycle that is seen to have ended, each once.
struct Cycles<'a> {
    shared: &'a Shared,
    count: u64,
}

impl Cycles<'_> {
    /// Whether a cycle has ended meanwhile that changed something.
    fn note(&mut self, node: &Node, status: &Value) -> bool {
        let count = status["cycles"].as_u64().unwrap_or_default();
        if count <= self.count {
            return false;
        }
        self.count = count;
        let value = json!({"cycles": count, "last": status["last"]});
        self.shared.recorder.note(Note::nemesis(Act::Collection, Some(&node.name), value));
        !is_idle(&status["last"])
    }
}

/// Looks on until the load ends.
pub(crate) async fn watch(shared: Arc<Shared>, nodes: Nodes) {
    let mut random = fastrand::Rng::with_seed(shared.seed);
    let mut cycles = Cycles { shared: &shared, count: 0 };
    while !shared.is_over() {
        let node = nodes.any(&mut random);
        if let Some(status) = status(node).await {
            cycles.note(node, &status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until nothing was collected for a while, nothing is unused and no file waits, and notes how that went.
pub(super) async fn wait(shared: &Shared, nodes: &Nodes) {
    let (began, mut rests_since) = (Instant::now(), Instant::now());
    let mut cycles = Cycles { shared, count: 0 };
    loop {
        let found = futures_util::future::join_all(nodes.iter().map(status)).await;
        let mut is_resting = true;
        for (node, status) in nodes.iter().zip(&found) {
            let has_changed = status.as_ref().is_some_and(|status| cycles.note(node, status));
            is_resting &= !has_changed && status.as_ref().is_some_and(rests);
        }
        if !is_resting {
            rests_since = Instant::now();
        }
        let grace_ms = found.iter().flatten().filter_map(|status| status["grace_ms"].as_u64()).max();
        let graces = Duration::from_millis(grace_ms.unwrap_or_default()) * 2;
        let is_settled = rests_since.elapsed() >= graces + REST;
        if is_settled || began.elapsed() >= graces + REST_MAX {
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let told = nodes.iter().map(|node| node.name.clone()).zip(found.into_iter().map(Option::unwrap_or_default));
            let told: serde_json::Map<String, Value> = told.collect();
            let value = json!({"settled": is_settled, "took_ms": took_ms, "nodes": told});
            shared.recorder.note(Note::nemesis(Act::Quiesce, None, value));
            println!("collection came to rest: {is_settled}, after {took_ms} ms");
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A node rests when its last cycle ran to its end and left nothing, and no file waits.
    #[test]
    fn resting() {
        let good = json!({"node": {"files_waiting": 0}, "last": {"ending": "done", "unused": 0}});
        assert!(rests(&good));
        for (path, value) in
            [("/node/files_waiting", json!(1)), ("/last/ending", json!("held")), ("/last/unused", json!(2))]
        {
            let mut other = good.clone();
            *other.pointer_mut(path).unwrap() = value;
            assert!(!rests(&other), "{path}");
        }
        assert!(!rests(&json!({"last": null})));
        let idle = json!({"manifests": 0, "links": 0, "uses": 0, "condemned": 0, "swept": 0});
        assert!(is_idle(&idle) && !is_idle(&json!({"swept": 0})));
    }
}
