//! `portolan cluster form`: from nodes that run to a cluster of them, and nothing to do when it is one already.
//!
//! Nothing is remembered between two runs: what the nodes say of themselves decides. A cluster is founded only when all
//! of the nodes named say that they belong to none, so that a node that lost its disk never founds a second one.

use std::time::Duration;

use clap::Args;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::votes_are_dealt;
use crate::cli::client::{Answer, Client};
use crate::cli::connection::ConnectionArguments;
use crate::cli::error::CliError;
use crate::cli::output::Printer;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a node that is silent is waited for once the others form a cluster already.
const STRAGGLER_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct FormArguments {
    /// Admin listener of a node, as https://node-a:7403; all nodes that are to be in the cluster, the founder first.
    #[arg(long = "node", value_name = "URL", required = true)]
    nodes: Vec<String>,
    /// How long everything may take together.
    #[arg(long, default_value = "3m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// A node as it answers.
struct Peer<'a> {
    url: &'a str,
    client: Client,
    /// What it said last of the cluster; `None` while it is silent.
    status: Option<Value>,
}

impl Peer<'_> {
    fn cluster(&self) -> Option<&str> {
        self.status.as_ref()?.pointer("/cluster/id")?.as_str()
    }

    fn is_new(&self) -> bool {
        self.status.is_some() && self.cluster().is_none()
    }

    async fn look(&mut self) -> Result<(), CliError> {
        let answer = self.client.send(Method::GET, "/v1/cluster", HeaderMap::new(), None).await;
        // a node without a quorum can't say who may ask: it is as silent as one that does not run
        self.status = match answer {
            Ok(answer) if answer.status.is_success() => serde_json::from_slice(&answer.body).ok(),
            Ok(answer) if is_final(&answer) => return Err(self.told(&self.client.refused(&answer))),
            Ok(_) | Err(_) => None,
        };
        Ok(())
    }

    fn told(&self, why: &CliError) -> CliError {
        CliError::failed(format!("{}: {why}", self.url))
    }
}

pub(super) async fn run(
    connection: &ConnectionArguments,
    arguments: &FormArguments,
    printer: Printer,
) -> Result<(), CliError> {
    let until = Instant::now() + arguments.wait;
    let credential = connection.credential()?;
    let peer = |url| {
        let client = Client::new(&connection.of_admin(url)?, credential.clone())?;
        Ok(Peer { url, client, status: None })
    };
    let mut peers: Vec<Peer<'_>> =
        arguments.nodes.iter().map(|url| peer(url.as_str())).collect::<Result<_, CliError>>()?;
    meet(&mut peers, until).await?;
    let founder = founder(&peers)?;
    let is_new = peers[founder].is_new();
    complete(&peers[founder], until).await?;
    let seeds = seeds(&mut peers[founder], until).await?;
    for peer in peers.iter().filter(|peer| peer.is_new()) {
        if peer.url != peers[founder].url {
            step(until, peer, "/v1/cluster/join", &json!({ "seeds": seeds })).await?;
        }
    }
    settle(&peers, until).await?;
    let count = peers.len();
    let done = if is_new { "is founded" } else { "was there already" };
    let silent: Vec<&str> = peers.iter().filter(|peer| peer.status.is_none()).map(|peer| peer.url).collect();
    if !silent.is_empty() {
        return Err(CliError::failed(format!("{} did not answer; the others form the cluster", silent.join(", "))));
    }
    printer.done(&format!("the cluster {done}; {count} nodes are ready"))
}

/// Asks the nodes until all have answered; those that are silent beside a cluster are not waited for as long.
async fn meet(peers: &mut [Peer<'_>], until: Instant) -> Result<(), CliError> {
    let stragglers_until = until.min(Instant::now() + STRAGGLER_PATIENCE);
    loop {
        for peer in peers.iter_mut().filter(|peer| peer.status.is_none()) {
            peer.look().await?;
        }
        let is_whole = peers.iter().all(|peer| peer.status.is_some());
        let has_cluster = peers.iter().any(|peer| peer.cluster().is_some());
        if is_whole || has_cluster && Instant::now() >= stragglers_until {
            return Ok(());
        }
        if Instant::now() >= until {
            let silent: Vec<&str> = peers.iter().filter(|peer| peer.status.is_none()).map(|peer| peer.url).collect();
            return Err(CliError::failed(format!(
                "{} did not answer; a cluster is founded only when all its nodes say that they belong to none",
                silent.join(", ")
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The first node of the cluster that is there, else the first that was named.
fn founder(peers: &[Peer<'_>]) -> Result<usize, CliError> {
    let mut clusters: Vec<&str> = peers.iter().filter_map(Peer::cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    if clusters.len() > 1 {
        return Err(CliError::failed(format!("the nodes belong to different clusters: {}", clusters.join(", "))));
    }
    Ok(peers.iter().position(|peer| peer.cluster().is_some()).unwrap_or(0))
}

/// Founds the cluster, or ends a founding that broke off before its first access key.
async fn complete(founder: &Peer<'_>, until: Instant) -> Result<(), CliError> {
    let made = step(until, founder, "/v1/cluster/init", &json!({})).await?;
    let key = made.pointer("/root_key").filter(|key| !key.is_null());
    if let Some(key) = key {
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-");
        eprintln!(
            "its first access key, shown this once:\n\n  id      {}\n  secret  {}\n",
            text("key_id"),
            text("secret")
        );
    }
    Ok(())
}

/// Where consensus of the founder is reached, once it has registered.
async fn seeds(founder: &mut Peer<'_>, until: Instant) -> Result<Vec<String>, CliError> {
    loop {
        founder.look().await?;
        let nodes = founder.status.as_ref().and_then(|status| status.get("nodes")?.as_array());
        let address = |node: &Value| Some(node.get("raft_address")?.as_str()?.to_owned());
        let seeds: Vec<String> = nodes.into_iter().flatten().filter_map(address).collect();
        if !seeds.is_empty() {
            return Ok(seeds);
        }
        pause(until, || format!("{} has founded the cluster and does not register", founder.url)).await?;
    }
}

async fn pause(until: Instant, told: impl FnOnce() -> String) -> Result<(), CliError> {
    if Instant::now() >= until {
        return Err(CliError::failed(told()));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

/// Waits until every node that has answered is ready, and votes if it is to.
async fn settle(peers: &[Peer<'_>], until: Instant) -> Result<(), CliError> {
    for peer in peers.iter().filter(|peer| peer.status.is_some()) {
        while !is_ready(peer).await {
            pause(until, || format!("{} is not ready", peer.url)).await?;
        }
        while !votes(peer).await {
            pause(until, || format!("{} does not vote yet", peer.url)).await?;
        }
    }
    Ok(())
}

async fn is_ready(peer: &Peer<'_>) -> bool {
    let answer = peer.client.send(Method::GET, "/readyz", HeaderMap::new(), None).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

async fn votes(peer: &Peer<'_>) -> bool {
    peer.client.get("/v1/cluster").await.is_ok_and(|status| votes_are_dealt(&status))
}

/// A change that may need repeating until the cluster can make it; one that was made before counts as made.
async fn step(until: Instant, peer: &Peer<'_>, path: &str, body: &Value) -> Result<Value, CliError> {
    loop {
        let told = match peer.client.send(Method::POST, path, HeaderMap::new(), Some(body)).await {
            Ok(answer) if answer.status.is_success() => {
                return Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null));
            }
            Ok(answer) if was_made(&answer) => return Ok(Value::Null),
            Ok(answer) if is_final(&answer) => return Err(peer.told(&peer.client.refused(&answer))),
            Ok(answer) => peer.client.refused(&answer),
            Err(error) => error,
        };
        pause(until, || format!("{}: {told}", peer.url)).await?;
    }
}

fn was_made(answer: &Answer) -> bool {
    let document: Option<Value> = serde_json::from_slice(&answer.body).ok();
    document.is_some_and(|document| document.pointer("/error/code") == Some(&json!("cluster_initialised")))
}

/// What no repetition changes.
fn is_final(answer: &Answer) -> bool {
    answer.status.is_client_error() && answer.status != StatusCode::CONFLICT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::connection::Endpoint;

    fn peer(status: Option<Value>) -> Peer<'static> {
        let endpoint = Endpoint { base: "http://127.0.0.1:1".into(), at: None, ca: None, also_ca: None, client: None };
        crate::ground::tls::install_provider();
        Peer { url: "http://127.0.0.1:1", client: Client::new(&endpoint, None).unwrap(), status }
    }

    fn of(cluster: Value) -> Peer<'static> {
        peer(Some(json!({ "cluster": cluster })))
    }

    // A node that lost its disk, or is silent, does not found a cluster beside the one that is there.
    #[test]
    fn founder_table() {
        let (new, old) = (|| of(Value::Null), || of(json!({ "id": "x" })));
        assert_eq!(founder(&[new(), new()]).unwrap(), 0);
        assert_eq!(founder(&[new(), old()]).unwrap(), 1);
        assert_eq!(founder(&[peer(None), new(), old()]).unwrap(), 2);
        let told = founder(&[old(), of(json!({ "id": "y" }))]).unwrap_err().to_string();
        assert!(told.contains("different clusters: x, y"), "{told}");
        assert!(new().is_new() && !old().is_new() && !peer(None).is_new());
    }

    // Nothing is founded while a node is silent: it might be the one that knows of a cluster.
    #[tokio::test]
    async fn all_must_answer() {
        let told = meet(&mut [of(Value::Null), peer(None)], Instant::now()).await.unwrap_err().to_string();
        assert!(told.contains("did not answer; a cluster is founded only when all"), "{told}");
    }
}
