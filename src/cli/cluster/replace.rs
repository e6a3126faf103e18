//! `portolan cluster replace`, and what it shares with `drain` and `remove`: one command from a node that is lost, or
//! is to go, to a new one that stands in for it.
//!
//! Nothing is remembered between two runs: each step looks first whether it was done. Order: the new node joins and
//! catches up; a node that is heard is emptied first, one that is lost is removed at once, so that the new one gets its
//! vote; repair brings the copies back.

use std::time::Duration;

use clap::Args;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::client::{Client, part};
use crate::cli::connection::ConnectionArguments;
use crate::cli::error::CliError;
use crate::cli::output::Printer;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct ReplaceArguments {
    /// The node that goes: its id, or an address of it.
    old: String,
    /// Consensus address of a node of the cluster, host:port; once for each. Not needed once the new node has joined.
    #[arg(long = "seed", value_name = "HOST:PORT")]
    seeds: Vec<String>,
    /// The old node is lost: do not try to empty it.
    #[arg(long)]
    lost: bool,
    /// Remove it even if some blobs are nowhere else.
    #[arg(long)]
    force: bool,
    /// How long everything may take together.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// The id of a node that an operator names by its id, one of its addresses, or the host of these.
pub(super) fn resolve(status: &Value, name: &str) -> Result<String, CliError> {
    let nodes = status.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |node: &Value, field: &str| node.get(field).and_then(Value::as_str).map(str::to_owned);
    let is_it = |node: &&Value| {
        let addresses =
            ["raft_address", "blob_address", "public_url"].into_iter().filter_map(|field| text(node, field));
        let is_gone = text(node, "state").as_deref() == Some("removed");
        let is_id = text(node, "id").as_deref() == Some(name);
        is_id || !is_gone && addresses.into_iter().any(|address| names(&address, name))
    };
    let found: Vec<String> = nodes.iter().filter(is_it).filter_map(|node| text(node, "id")).collect();
    match &found[..] {
        [id] => Ok(id.clone()),
        // the node says what is wrong with it
        [] => Ok(name.to_owned()),
        _ => Err(CliError::usage(format!("'{name}' names several nodes: {}; give an id", found.join(", ")))),
    }
}

fn names(address: &str, name: &str) -> bool {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = bare.rsplit_once(':').map_or(bare, |(host, _)| host);
    [address, bare, host, host.trim_matches(['[', ']'])].contains(&name)
}

/// Has a node emptied, or takes it back.
pub(super) async fn drain(client: &Client, node: &str, cancel: bool) -> Result<(), CliError> {
    let path = format!("/v1/cluster/nodes/{}/drain", part(node));
    client.post(&path, &json!({ "cancel": cancel })).await.map(drop)
}

/// Waits until nothing stands on a node any more, and says how far it is.
pub(super) async fn emptied(client: &Client, node: &str, until: Instant, printer: Printer) -> Result<(), CliError> {
    let (mut told, mut looks) = (None, 0);
    loop {
        let repair = client.get("/v1/repair").await?;
        let number = |field: &str| of_node(&repair, node).and_then(|node| node.get(field)).and_then(Value::as_u64);
        let (left, stuck) = (number("copies_left"), number("stuck").unwrap_or(0));
        // the asked node may not have applied the wish yet
        looks += 1;
        if left == Some(0) || left.is_none() && looks > 3 {
            return printer.done(&format!("nothing stands on {node} any more"));
        }
        if left.is_some() && left == Some(stuck) && looks > 3 {
            return Err(CliError::failed(format!(
                "{stuck} copies stay on {node}: no other node may take them. Add a node to its zone and repeat; or \
                 `portolan cluster remove --force`, after which they are missing"
            )));
        }
        if told != left {
            eprintln!("{} copies left on {node}", left.unwrap_or(0));
            told = left;
        }
        pause(until, || format!("{} copies are still on {node}; it goes on", left.unwrap_or(0))).await?;
    }
}

fn of_node<'a>(repair: &'a Value, node: &str) -> Option<&'a Value> {
    repair.get("nodes")?.as_array()?.iter().find(|entry| entry.get("id").and_then(Value::as_str) == Some(node))
}

pub(super) async fn run(
    connection: &ConnectionArguments,
    wish: &ReplaceArguments,
    printer: Printer,
) -> Result<(), CliError> {
    let until = Instant::now() + wish.wait;
    let client = Client::admin(connection)?;
    let status = joined(&client, wish, until).await?;
    let own = status.get("node").and_then(Value::as_str).unwrap_or_default().to_owned();
    let old = resolve(&status, &wish.old)?;
    if old == own {
        return Err(CliError::usage(format!("{own} can't stand in for itself: --admin names the new node")));
    }
    let Some(entry) = of_node(&status, &old) else {
        return Err(CliError::usage(format!(
            "the cluster knows no node '{}': see `portolan cluster status`",
            wish.old
        )));
    };
    if entry.get("state") != Some(&json!("removed")) {
        leave(&client, &old, wish, until, printer).await?;
    }
    settled(&client, until).await?;
    printer.done(&format!("{own} stands in for {old}; all copies are there"))
}

/// Has the new node join, and waits until it is ready.
async fn joined(client: &Client, wish: &ReplaceArguments, until: Instant) -> Result<Value, CliError> {
    let status = client.get("/v1/cluster").await?;
    if status.get("cluster").is_none_or(Value::is_null) {
        if wish.seeds.is_empty() {
            return Err(CliError::usage("the new node belongs to no cluster yet: give --seed, once for each"));
        }
        client.post("/v1/cluster/join", &json!({ "seeds": wish.seeds })).await?;
        eprintln!("the new node has joined, and catches up");
    }
    loop {
        let answer = client.send(Method::GET, "/readyz", HeaderMap::new(), None).await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return client.get("/v1/cluster").await;
        }
        pause(until, || "the new node is not ready yet; repeat this command".to_owned()).await?;
    }
}

/// Empties the old node if it is heard, and removes it.
async fn leave(
    client: &Client,
    old: &str,
    wish: &ReplaceArguments,
    until: Instant,
    printer: Printer,
) -> Result<(), CliError> {
    let repair = client.get("/v1/repair").await?;
    let is_missed = of_node(&repair, old).is_some_and(|node| node.get("absence").is_some_and(|stage| !stage.is_null()));
    if !wish.lost && !is_missed {
        eprintln!("{old} is heard: it is emptied first (--lost: not)");
        drain(client, old, false).await?;
        emptied(client, old, until, printer).await?;
    }
    let path = format!("/v1/cluster/nodes/{}?replaced=true&force={}", part(old), wish.force);
    loop {
        match client.send(Method::DELETE, &path, HeaderMap::new(), None).await {
            Ok(answer) if answer.status.is_success() => break,
            Ok(answer) if answer.status.is_client_error() => return Err(client.refused(&answer)),
            Ok(_) | Err(_) => pause(until, || format!("{old} was not removed yet; repeat this command")).await?,
        }
    }
    eprintln!("{old} is removed");
    Ok(())
}

/// Waits until all votes are dealt, the old node's too, and no copy is missing.
async fn settled(client: &Client, until: Instant) -> Result<(), CliError> {
    let mut told = None;
    loop {
        let (status, repair) = (client.get("/v1/cluster").await?, client.get("/v1/repair").await?);
        let votes = super::votes_are_dealt(&status);
        let missing = repair.pointer("/total/copies").and_then(Value::as_u64);
        if votes && missing == Some(0) {
            return Ok(());
        }
        if told != missing {
            let seconds = repair.pointer("/total/seconds_left").and_then(Value::as_u64);
            let about = seconds.map_or_else(String::new, |seconds| format!(", about {seconds} s"));
            eprintln!("{} copies are missing{about}", missing.unwrap_or(0));
            told = missing;
        }
        pause(until, || "not all copies are made again yet; it goes on".to_owned()).await?;
    }
}

async fn pause(until: Instant, told: impl FnOnce() -> String) -> Result<(), CliError> {
    if Instant::now() >= until {
        return Err(CliError::failed(told()));
    }
    tokio::time::sleep(PAUSE).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // A node may be named by what an operator has at hand; what names two is told, what names none is asked for.
    #[test]
    fn names_of_nodes() {
        let node = |id: &str, host: &str, port: u16, state: &str| {
            json!({ "id": id, "state": state, "raft_address": format!("{host}:{port}"),
                    "public_url": format!("https://{host}:7400") })
        };
        let status = json!({ "nodes": [
            node("00000000000000a1", "node-a", 7401, "active"),
            node("00000000000000b1", "node-b", 7401, "active"),
            node("00000000000000c1", "node-a", 7401, "removed"),
            node("00000000000000d1", "node-b", 7411, "active"),
            node("00000000000000e1", "[::1]", 7401, "active"),
        ] });
        for (name, id) in [
            ("00000000000000a1", "00000000000000a1"),
            ("00000000000000c1", "00000000000000c1"),
            ("node-a", "00000000000000a1"),
            ("node-b:7411", "00000000000000d1"),
            ("https://node-a:7400", "00000000000000a1"),
            ("::1", "00000000000000e1"),
            ("nobody", "nobody"),
        ] {
            assert_eq!(resolve(&status, name).unwrap(), id, "{name}");
        }
        assert!(resolve(&status, "node-b").unwrap_err().to_string().contains("several nodes"));
    }
}
