//! `portolan cluster`.

mod form;
mod prepare;
pub(super) mod recover;
mod replace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use registry_core::decide::voters::voters_wanted;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, part};
use super::connection::{ConnectionArguments, Credential, read_credential};
use super::error::CliError;
use super::output::Printer;
use crate::config::Sources;
use crate::ground::files::{self, PRIVATE_FILE_MODE};

#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Found a cluster with this node as its first. Shows the first access key, this once.
    Init {
        /// Write the access key into this file ("ID:SECRET", mode 0600) instead of showing it.
        #[arg(long, value_name = "FILE")]
        save_credentials: Option<PathBuf>,
    },
    /// Make certificates, an operator and a first access key for nodes that have not started yet. Run again it keeps
    /// what is there, and renews certificates that end soon.
    Prepare(prepare::PrepareArguments),
    /// Make running nodes a cluster, whatever is missing of it; nothing if they are one. For scripts and containers.
    Form(form::FormArguments),
    /// Show the first access key, from the file that this machine's configuration names.
    FirstKey {
        /// The secret alone, to be piped into a login.
        #[arg(long)]
        bare: bool,
    },
    /// Show the nodes, who leads, and how far each has come.
    Status,
    /// Have this node (the one named by --admin) join a cluster.
    Join {
        /// Consensus address of a node of the cluster, host:port; once for each.
        #[arg(long = "seed", required = true, value_name = "HOST:PORT")]
        seeds: Vec<String>,
    },
    /// Have a stopped node go on alone, in a new life of the log, when a majority of the voters is gone for good. Says
    /// what is lost, and changes nothing without --accept-loss.
    Recover(recover::RecoverArguments),
    /// End an upgrade, when all nodes run the new release: what it brings begins, and no node can go back.
    Finalize,
    /// Hand leadership to a node.
    Transfer {
        /// The node's id.
        node: String,
    },
    /// Give a node nothing new, have its copies made on other nodes and dropped there, leadership handed on. It serves
    /// what it has meanwhile. `portolan repair status` shows how far that is.
    Drain {
        /// The node: its id, or an address of it.
        node: String,
        /// Take it back into service instead.
        #[arg(long)]
        cancel: bool,
        /// Wait until nothing stands there any more, at most so long.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, conflicts_with = "cancel")]
        wait: Option<Duration>,
    },
    /// Remove a node for good. Its id is never used again. Refused while blobs would have fewer copies than they
    /// should without it.
    Remove {
        /// The node: its id, or an address of it.
        node: String,
        /// Remove it whatever is lost.
        #[arg(long)]
        force: bool,
    },
    /// Have a new, empty node (the one named by --admin) stand in for another one: it joins, the other one is emptied
    /// and removed, or only removed if it is lost, and all copies are made again. Run again it goes on where it was.
    Replace(replace::ReplaceArguments),
}

pub(super) async fn run(arguments: ClusterArguments, printer: Printer) -> Result<(), CliError> {
    let ClusterArguments { connection, command } = arguments;
    let client = || Client::admin(&connection);
    match command {
        ClusterCommand::Prepare(wish) => prepare::run(&wish, printer),
        ClusterCommand::Form(wish) => form::run(&connection, &wish, printer).await,
        ClusterCommand::Recover(wish) => recover::run(&wish, printer),
        ClusterCommand::FirstKey { bare } => first_key(bare, printer),
        ClusterCommand::Init { save_credentials } => init(&client()?, save_credentials.as_deref(), printer).await,
        ClusterCommand::Status => status(&client()?.get("/v1/cluster").await?, printer),
        ClusterCommand::Join { seeds } => {
            client()?.post("/v1/cluster/join", &json!({ "seeds": seeds })).await?;
            printer.done("joined; `portolan cluster status` shows when it has caught up")
        }
        ClusterCommand::Finalize => {
            let made = client()?.post("/v1/cluster/finalize", &json!({})).await?;
            let level = made.get("feature_level").and_then(Value::as_u64).unwrap_or_default();
            printer
                .done(&format!("the cluster works at feature level {level}; no node can go back to an older release"))
        }
        ClusterCommand::Transfer { node } => {
            client()?.post("/v1/cluster/transfer", &json!({ "to": node })).await?;
            printer.done(&format!("{node} leads"))
        }
        ClusterCommand::Drain { node, cancel, wait } => {
            let client = client()?;
            let node = replace::resolve(&client.get("/v1/cluster").await?, &node)?;
            replace::drain(&client, &node, cancel).await?;
            match wait {
                Some(wait) => replace::emptied(&client, &node, Instant::now() + wait, printer).await,
                None if cancel => printer.done(&format!("{node} takes copies again")),
                None => printer.done(&format!("{node} is being emptied; `portolan repair status` shows how far it is")),
            }
        }
        ClusterCommand::Remove { node, force } => {
            let client = client()?;
            let node = replace::resolve(&client.get("/v1/cluster").await?, &node)?;
            let path = format!("/v1/cluster/nodes/{}?force={force}", part(&node));
            client.call(Method::DELETE, &path, None).await?;
            printer.done(&format!("{node} is removed"))
        }
        ClusterCommand::Replace(wish) => replace::run(&connection, &wish, printer).await,
    }
}

/// Whether as many of the members vote as should: three, or five of five or more.
pub(super) fn votes_are_dealt(status: &Value) -> bool {
    let nodes = status.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let count = |field: &str| nodes.iter().filter(|node| node.get(field) == Some(&Value::Bool(true))).count();
    count("votes") >= voters_wanted(count("member"))
}

async fn init(client: &Client, save: Option<&Path>, printer: Printer) -> Result<(), CliError> {
    // Refused before anything is founded: a key that can't be written is a key lost.
    if let Some(path) = save.filter(|path| path.exists()) {
        return Err(CliError::usage(format!("{} is there already; name another file", path.display())));
    }
    let mut made = client.post("/v1/cluster/init", &json!({})).await?;
    if let Some(path) = save {
        save_credentials(path, &mut made)?;
    }
    if printer.is_json() {
        return printer.json(&made);
    }
    let text = |path: &str| made.pointer(path).and_then(Value::as_str).unwrap_or("-");
    printer.done(&format!("cluster {} is founded in region {}", text("/cluster"), text("/region")))?;
    match (save, made.pointer("/root_key/secret")) {
        (Some(path), _) => printer.done(&format!("its first access key is in {}", path.display())),
        (None, Some(_)) => printer.done(&format!(
            "\nits first access key, shown this once:\n\n  id      {}\n  secret  {}\n",
            text("/root_key/key_id"),
            text("/root_key/secret")
        )),
        (None, None) => printer.done("its first access key is the one from the configuration"),
    }
}

fn first_key(is_bare: bool, printer: Printer) -> Result<(), CliError> {
    let loaded = Sources::of_process().load().map_err(|mistakes| CliError::usage(mistakes.to_string()))?;
    let path = loaded.settings.auth.root_key_file;
    let told =
        || CliError::usage("auth.root_key_file is not set: the first access key was shown when the cluster was made");
    let Credential { key_id, secret } = read_credential(&path.ok_or_else(told)?)?;
    if is_bare {
        return printer.done(secret.expose());
    }
    let shown = json!({ "user": key_id, "password": secret.expose() });
    printer.one(&shown, &[("user", "user"), ("password", "password")])
}

/// Moves the secret from the answer into a file. When that fails it is left in the answer, and shown.
fn save_credentials(path: &Path, made: &mut Value) -> Result<(), CliError> {
    let field = |name: &str| made.pointer(&format!("/root_key/{name}")).and_then(Value::as_str);
    let (Some(key_id), Some(secret)) = (field("key_id"), field("secret")) else { return Ok(()) };
    let line = format!("{key_id}:{secret}\n");
    match files::create_new(path, line.as_bytes(), PRIVATE_FILE_MODE) {
        Ok(()) => {
            made["root_key"]["secret"] = Value::Null;
            Ok(())
        }
        Err(error) => Err(CliError::failed(format!(
            "the cluster is founded, but {} can't be written ({error}); keep its first access key from here: {key_id}:{secret}",
            path.display()
        ))),
    }
}

fn status(document: &Value, printer: Printer) -> Result<(), CliError> {
    if printer.is_json() {
        return printer.json(document);
    }
    if document.get("cluster").is_none_or(Value::is_null) {
        return printer.done("this node belongs to no cluster yet: run `portolan cluster init`, or `cluster join`");
    }
    let summary = [
        ("cluster", "cluster.id"),
        ("region", "cluster.region"),
        ("feature level", "cluster.feature_level"),
        ("term", "term"),
        ("leader", "leader"),
        ("asked", "node"),
        ("applied", "applied_index"),
        ("takes part", "admitted"),
        ("log ends at", "last_log_index"),
        ("suspect", "suspicion"),
        ("clock", "clock"),
        ("copies for 201", "write_rule.copies"),
        ("zones for 201", "write_rule.zones"),
        ("degraded", "write_rule.degradation"),
    ];
    printer.one(document, &summary)?;
    printer.done("")?;
    let columns = [
        ("NODE", "id"),
        ("ZONE", "zone"),
        ("STATE", "state"),
        ("LEADS", "leads"),
        ("VOTES", "votes"),
        ("SUSPECT", "suspect"),
        ("MATCHED", "matched_index"),
        ("AHEAD MS", "clock_ahead_ms"),
        ("VERSION", "version"),
        ("LEVEL", "feature_level"),
        ("URL", "public_url"),
    ];
    printer.list(document, "nodes", &columns)
}
