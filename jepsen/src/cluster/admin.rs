//! What nodes tell operators.

use std::time::Duration;

use serde_json::Value;

use super::Seat;
use crate::fault::Fault;
use crate::workload::client::{Credential, http};

/// How long a node may take for an answer: it waits for a leader before it knows who asks.
const ASK_MAX: Duration = Duration::from_secs(3);
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
        })
    }
}

/// Whether a node says that it is ready, asked as a balancer does.
pub(crate) async fn is_ready(http: &reqwest::Client, seat: &Seat) -> bool {
    let url = format!("http://{}/readyz", seat.admin);
    let answer = http.get(url).timeout(HEALTH_MAX).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}
