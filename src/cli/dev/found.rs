//! From nodes that run to a cluster that is ready. Every step is remembered by a file, so that a start that broke off
//! is taken up where it was.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::plan::{Plan, PlannedNode};
use super::unwritable;
use crate::cli::client::{Answer, Client};
use crate::cli::cluster::votes_are_dealt;
use crate::cli::connection::{Credential, Endpoint};
use crate::cli::error::CliError;
use crate::config::Door;
use crate::ground::files::{self, PRIVATE_FILE_MODE};

/// How long everything may take together: replaying a large log takes its time.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Founds the cluster where there is none, joins the nodes that are not in it, and waits until every node is ready and
/// votes. Tells whether the cluster is new.
pub(super) async fn found(plan: &Plan, credential: &Credential) -> Result<bool, CliError> {
    let until = Instant::now() + PATIENCE;
    let founder = plan.nodes.first().ok_or_else(|| CliError::usage("there is no node to start"))?;
    let clients: Vec<Client> =
        plan.nodes.iter().map(|node| client(plan, node, credential)).collect::<Result<_, _>>()?;
    for (node, client) in plan.nodes.iter().zip(&clients) {
        wait(until, &format!("node {} does not answer", node.name), async || is_ok(client, "/livez").await).await?;
    }
    let founded = plan.dir.join("founded");
    let is_new = !founded.exists();
    if is_new {
        step(until, "the cluster can't be founded", &clients[0], "/v1/cluster/init", &json!({})).await?;
        mark(&founded)?;
    }
    for (node, client) in plan.nodes.iter().zip(&clients).skip(1) {
        let joined = node.dir.join("joined");
        if !joined.exists() {
            let seeds = json!({ "seeds": [plan.address(founder, Door::Raft).to_string()] });
            let what = format!("node {} can't join", node.name);
            step(until, &what, client, "/v1/cluster/join", &seeds).await?;
            mark(&joined)?;
        }
    }
    for (node, client) in plan.nodes.iter().zip(&clients) {
        wait(until, &format!("node {} is not ready", node.name), async || is_ok(client, "/readyz").await).await?;
    }
    wait(until, "not every node has joined, and those vote that should", async || {
        let Ok(status) = clients[0].get("/v1/cluster").await else { return false };
        members(&status) == plan.nodes.len() && votes_are_dealt(&status)
    })
    .await?;
    Ok(is_new)
}

pub(super) fn client(plan: &Plan, node: &PlannedNode, credential: &Credential) -> Result<Client, CliError> {
    let base = format!("http://{}", plan.address(node, Door::Admin));
    let endpoint = Endpoint { base, at: None, ca: None, also_ca: None, client: None };
    Client::new(&endpoint, Some(credential.clone()))
}

fn mark(path: &std::path::Path) -> Result<(), CliError> {
    files::write_atomic(path, b"", PRIVATE_FILE_MODE).map_err(|error| unwritable(path, &error))
}

async fn wait(until: Instant, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), CliError> {
    while !holds().await {
        if Instant::now() >= until {
            return Err(CliError::failed(format!("{what} within {} s", PATIENCE.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn is_ok(client: &Client, path: &str) -> bool {
    let answer = client.send(Method::GET, path, HeaderMap::new(), None).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

fn members(status: &Value) -> usize {
    let nodes = status.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    nodes.iter().filter(|node| node.get("member") == Some(&Value::Bool(true))).count()
}

/// A change that may need repeating until the cluster can make it; one that was made before counts as made.
async fn step(until: Instant, what: &str, client: &Client, path: &str, body: &Value) -> Result<(), CliError> {
    loop {
        let told = match client.send(Method::POST, path, HeaderMap::new(), Some(body)).await {
            Ok(answer) if answer.status.is_success() || was_made(&answer) => return Ok(()),
            Ok(answer) if is_final(&answer) => {
                return Err(CliError::failed(format!("{what}: {}", client.refused(&answer))));
            }
            Ok(answer) => client.refused(&answer),
            Err(error) => error,
        };
        if Instant::now() >= until {
            return Err(CliError::failed(format!("{what}: {told}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn code(answer: &Answer) -> Option<String> {
    let document: Value = serde_json::from_slice(&answer.body).ok()?;
    Some(document.pointer("/error/code")?.as_str()?.to_owned())
}

fn was_made(answer: &Answer) -> bool {
    code(answer).as_deref() == Some("cluster_initialised")
}

/// What no repetition changes.
fn is_final(answer: &Answer) -> bool {
    let status = answer.status;
    status.is_client_error() && status != StatusCode::CONFLICT && status != StatusCode::UNAUTHORIZED
}
