//! `portolan repair`.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct RepairArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: RepairCommand,
}

#[derive(Debug, Subcommand)]
enum RepairCommand {
    /// Show which copies are missing, how urgent that is, how long it takes; nodes that are away or being emptied; and
    /// what fails on the asked node.
    Status,
}

pub(super) async fn run(arguments: RepairArguments, printer: Printer) -> Result<(), CliError> {
    let RepairArguments { connection, command: RepairCommand::Status } = arguments;
    status(&Client::admin(&connection)?.get("/v1/repair").await?, printer)
}

fn status(document: &Value, printer: Printer) -> Result<(), CliError> {
    if printer.is_json() {
        return printer.json(document);
    }
    let summary = [
        ("copies missing", "total.copies"),
        ("bytes missing", "total.bytes"),
        ("oldest, ms", "total.oldest_ms"),
        ("bytes a second", "total.rate_bytes_per_s"),
        ("seconds left", "total.seconds_left"),
        ("made here", "here.made"),
        ("bytes made here", "here.made_bytes"),
        ("bytes a second here", "here.rate_bytes_per_s"),
        ("failing here", "here.failing"),
        ("moved here", "here.moved"),
        ("bytes moved here", "here.moved_bytes"),
        ("bytes to move here", "here.to_move_bytes"),
        ("limit here, MiB/s", "settings.mib_per_s"),
        ("replaced after, ms", "settings.replace_after_ms"),
    ];
    printer.one(document, &summary)?;
    let zones = [
        ("ZONE", "zone"),
        ("MISSING", "copies"),
        ("NONE LEFT", "none_left"),
        ("ONE LEFT", "one_left"),
        ("MORE LEFT", "more_left"),
        ("BYTES", "bytes"),
    ];
    let nodes = [
        ("NODE", "id"),
        ("ZONE", "zone"),
        ("AWAY", "absence"),
        ("FOR MS", "absent_ms"),
        ("DRAINING", "draining"),
        ("COPIES LEFT", "copies_left"),
        ("BYTES LEFT", "bytes_left"),
        ("HELD BACK", "held_back"),
        ("STUCK", "stuck"),
    ];
    let failures = [("BLOB", "digest"), ("TIMES", "times"), ("AGAIN IN MS", "again_in_ms"), ("WHY", "reason")];
    printer.done("")?;
    printer.list(document, "zones", &zones)?;
    let has = |path: &str| document.pointer(path).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if has("/nodes") {
        printer.done("")?;
        printer.list(document, "nodes", &nodes)?;
    }
    if has("/here/failures") {
        printer.done("")?;
        printer.list(&document["here"], "failures", &failures)?;
    }
    Ok(())
}
