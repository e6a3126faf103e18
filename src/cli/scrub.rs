//! `portolan scrub`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct ScrubArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: ScrubCommand,
}

/// All concern the asked node (--admin): each verifies its own volume.
#[derive(Debug, Subcommand)]
enum ScrubCommand {
    /// Show what the round under way, or the last one, has found.
    Status,
    /// Read every copy again, from the first one on.
    Run,
    /// Stop reading until it is resumed.
    Pause,
    /// Go on reading.
    Resume,
}

pub(super) async fn run(arguments: ScrubArguments, printer: Printer) -> Result<(), CliError> {
    let ScrubArguments { connection, command } = arguments;
    let client = Client::admin(&connection)?;
    let document = match command {
        ScrubCommand::Status => client.get("/v1/scrub").await?,
        ScrubCommand::Run => client.post("/v1/scrub/run", &json!({})).await?,
        ScrubCommand::Pause => client.post("/v1/scrub/pause", &json!({})).await?,
        ScrubCommand::Resume => client.post("/v1/scrub/resume", &json!({})).await?,
    };
    let shown = [
        ("under way", "under_way"),
        ("paused", "paused"),
        ("rounds so far", "rounds"),
        ("began", "began_at"),
        ("ended", "ended_at"),
        ("good copies", "good"),
        ("their bytes", "good_bytes"),
        ("rotten, set aside", "bad"),
        ("missing", "missing"),
    ];
    printer.one(&document, &shown)
}
