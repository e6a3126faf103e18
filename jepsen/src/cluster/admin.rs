//! What nodes tell operators.

use std::time::Duration;

use serde_json::{Value, json};

use super::Seat;
use crate::fault::Fault;
use crate::workload::client::{Credential, http};

/// How long a node may take for an answer: it waits for a leader before it knows who asks.
const ASK_MAX: Duration = Duration::from_secs(3);
/// How long for an act.
const ACT_MAX: Duration = Duration::from_secs(15);
/// How long for an act of many steps.
const LONG_ACT_MAX: Duration = Duration::from_secs(60);
/// How long for a word about its health.
const HEALTH_MAX: Duration = Duration::from_millis(500);

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its id.
    pub(crate) node: String,
    /// Its term.
    pub(crate) term: u64,
    /// Who leads, as it knows.
    pub(crate) leader: Option<String>,
    /// Log index it has applied.
    pub(crate) applied: u64,
    /// Whether it takes no part because it may have lost something.
    pub(crate) is_suspect: bool,
}

/// Asks nodes.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    http: reqwest::Client,
    credential: Credential,
}

impl Admin {
    /// With `ID:SECRET` of the root user.
    pub(super) fn new(key: &str) -> Result<Admin, Fault> {
        Ok(Admin { http: http(ASK_MAX)?, credential: Credential::parse(key)? })
    }

    /// The root user's credential.
    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Whether a node says that it is ready.
    pub(crate) async fn is_ready(&self, seat: &Seat) -> bool {
        is_ready(&self.http, seat).await
    }

    /// How a node stands; `None` without an answer.
    pub(crate) async fn standing(&self, seat: &Seat) -> Option<Standing> {
        let request = self.http.get(format!("http://{}/v1/cluster", seat.admin));
        let answer = self.credential.sign(request).send().await.ok()?.error_for_status().ok()?;
        let document: Value = answer.json().await.ok()?;
        Some(Standing {
            node: document.get("node")?.as_str()?.to_owned(),
            term: document.get("term")?.as_u64()?,
            leader: document.get("leader")?.as_str().map(str::to_owned),
            applied: document.get("applied_index")?.as_u64()?,
            is_suspect: document.get("suspicion").is_some_and(Value::is_string),
        })
    }

    /// Asks a node to do something; what it answered if it did not.
    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<(), String> {
        let request = self.credential.sign(request).timeout(ACT_MAX);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        Err(format!("{status} {}", answer.text().await.unwrap_or_default()))
    }

    /// What a node tells under a path; why not, if it does not.
    pub(crate) async fn document(&self, seat: &Seat, path: &str) -> Result<Value, String> {
        let request = self.credential.sign(self.http.get(format!("http://{}{path}", seat.admin)));
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{status} {}", answer.text().await.unwrap_or_default()));
        }
        answer.json().await.map_err(|error| error.to_string())
    }

    /// Has a node do what a path stands for, and takes the document that it answers with; why not, if it does not.
    pub(crate) async fn act(&self, seat: &Seat, path: &str, body: &Value) -> Result<Value, String> {
        let request = self.credential.sign(self.http.post(format!("http://{}{path}", seat.admin)).json(body));
        let answer = request.timeout(LONG_ACT_MAX).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{status} {}", answer.text().await.unwrap_or_default()));
        }
        answer.json().await.map_err(|error| error.to_string())
    }

    /// Has a node do what a path stands for; what it answered if it did not.
    pub(crate) async fn tell(
        &self,
        seat: &Seat,
        method: reqwest::Method,
        path: &str,
        body: &Value,
    ) -> Result<(), String> {
        self.ask(self.http.request(method, format!("http://{}{path}", seat.admin)).json(body)).await
    }

    /// Has node `to` lead.
    pub(super) async fn transfer(&self, seat: &Seat, to: &str) -> Result<(), String> {
        self.ask(self.http.post(format!("http://{}/v1/cluster/transfer", seat.admin)).json(&json!({"to": to}))).await
    }

    /// Has the cluster step up to the feature level of the node's program.
    pub(super) async fn finalize(&self, seat: &Seat) -> Result<(), String> {
        self.ask(self.http.post(format!("http://{}/v1/cluster/finalize", seat.admin)).json(&json!({}))).await
    }

    /// Whether slots are still to be migrated after that; `None` without an answer.
    pub(crate) async fn migrates(&self, seat: &Seat) -> Option<bool> {
        let request = self.credential.sign(self.http.get(format!("http://{}/v1/cluster", seat.admin)));
        let document: Value = request.send().await.ok()?.error_for_status().ok()?.json().await.ok()?;
        document.pointer("/cluster/migrates")?.as_bool()
    }

    /// Has the cluster forget node `id`, for good.
    pub(super) async fn remove(&self, seat: &Seat, id: &str) -> Result<(), String> {
        self.ask(self.http.delete(format!("http://{}/v1/cluster/nodes/{id}?replaced=true", seat.admin))).await
    }

    /// Has the node at `seat` join the cluster of which others are at `seeds` (addresses of consensus).
    pub(super) async fn join(&self, seat: &Seat, seeds: &[String]) -> Result<(), String> {
        self.ask(self.http.post(format!("http://{}/v1/cluster/join", seat.admin)).json(&json!({"seeds": seeds}))).await
    }

    /// Whether the cluster counts node `id` as a voter, as the node at `seat` knows.
    pub(super) async fn votes(&self, seat: &Seat, id: &str) -> bool {
        let request = self.credential.sign(self.http.get(format!("http://{}/v1/cluster", seat.admin)));
        let Ok(answer) = request.send().await else { return false };
        let document: Value = answer.json().await.unwrap_or_default();
        let nodes = document.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let found = nodes.iter().find(|node| node.get("id").and_then(Value::as_str) == Some(id));
        found.is_some_and(|node| node.get("votes") == Some(&Value::Bool(true)))
    }

    /// Copies of blobs that zones lack, as a node knows; `None` without an answer.
    pub(crate) async fn copies_wanted(&self, seat: &Seat) -> Option<u64> {
        self.metric(seat, "portolan_blob_copies_wanted").await
    }

    /// Copies of the state that a node built, sent or installed since it started; `None` without an answer.
    pub(crate) async fn snapshots(&self, seat: &Seat) -> Option<u64> {
        self.metric(seat, "portolan_raft_snapshots_total").await
    }

    async fn metric(&self, seat: &Seat, name: &str) -> Option<u64> {
        let answer = self.http.get(format!("http://{}/metrics", seat.admin));
        let text = self.credential.sign(answer).send().await.ok()?.error_for_status().ok()?.text().await.ok()?;
        Some(sum_of(&text, name))
    }
}

/// The sum of a metric over its labels.
fn sum_of(metrics: &str, name: &str) -> u64 {
    let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let lines = metrics.lines().filter(is_it);
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Whether a node says that it is ready, asked as a balancer does.
pub(crate) async fn is_ready(http: &reqwest::Client, seat: &Seat) -> bool {
    let url = format!("http://{}/readyz", seat.admin);
    let answer = http.get(url).timeout(HEALTH_MAX).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only the one metric is summed.
    #[test]
    fn metrics() {
        let text = "# TYPE x counter\nportolan_raft_snapshots_total{what=\"built\"} 3\n\
            portolan_raft_snapshots_total{what=\"sent\"} 2\nportolan_raft_snapshot_seconds_count 9\n";
        let sum = |text| sum_of(text, "portolan_raft_snapshots_total");
        assert_eq!((sum(text), sum("")), (5, 0));
    }
}
