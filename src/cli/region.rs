//! `portolan region`: other regions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Printer};

#[derive(Debug, Args)]
pub(super) struct RegionArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: RegionCommand,
}

#[derive(Debug, Subcommand)]
enum RegionCommand {
    /// Print this region's card: name, addresses and certificates, which another region is given with `region add`.
    Card,
    /// Make another region known by its card. Both have to know each other.
    Add {
        /// The file with the card; - reads standard input.
        file: PathBuf,
    },
    /// Show the other regions, and how far changes have gone. What the leader follows is told by the leader.
    List,
    /// Take nothing from a region until `region resume`. It keeps its changes for seven days.
    Pause {
        /// Its name.
        region: String,
    },
    /// Go on taking what a region sends.
    Resume {
        /// Its name.
        region: String,
    },
    /// Take over from a region that is lost: what it would have sent and has not arrived is absent then, not late. Does
    /// nothing without --accept-loss, but for saying what is here. `region resume` ends it when the region comes back.
    TakeOver {
        /// Its name.
        region: String,
        /// What is not here may be lost for good.
        #[arg(long)]
        accept_loss: bool,
    },
    /// Say how fast bytes of blobs are taken from a region.
    Limit {
        /// Its name.
        region: String,
        /// Bytes a second; 0 for as many as there can be.
        bytes_per_second: u64,
    },
    /// Forget a region: nothing is taken from it or given to it any more; what came from it stays.
    Remove {
        /// Its name.
        region: String,
    },
}

const COLUMNS: [Column; 14] = [
    ("region", "region"),
    ("number", "number"),
    ("connected", "followed.connected"),
    ("lag, s", "followed.lag_seconds"),
    ("open", "followed.open"),
    ("put aside", "followed.parked"),
    ("taken to", "taken.index"),
    ("given to", "given.index"),
    ("complete until", "complete_until"),
    ("paused", "paused"),
    ("taken over", "taken_over.at"),
    ("backfill", "backfill.settled"),
    ("of", "backfill.total"),
    ("problem", "followed.problem"),
];

const PATH: &str = "/v1/regions";

pub(super) async fn run(arguments: RegionArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        // a card is handed on as it is
        RegionCommand::Card => {
            Printer::new(super::output::Format::Json).json(&client.get("/v1/regions/own/card").await?)
        }
        RegionCommand::Add { file } => {
            let card = read_json(&file)?;
            client.call(Method::POST, PATH, Some(&card)).await?;
            printer.done("the region is known here; give it this one's card as well (`portolan region card`)")
        }
        RegionCommand::List => {
            let document = client.get(PATH).await?;
            printer.list(&document, "regions", &COLUMNS)
        }
        RegionCommand::Pause { region } => {
            set(&client, &region, &json!({ "paused": true })).await?;
            printer.done("nothing is taken from the region until `portolan region resume`")
        }
        RegionCommand::Resume { region } => {
            set(&client, &region, &json!({ "paused": false })).await?;
            printer.done("what the region sends is taken again")
        }
        RegionCommand::TakeOver { region, accept_loss } => {
            let path = format!("{PATH}/{}/take-over", part(&region));
            client.call(Method::POST, &path, Some(&json!({ "accept_loss": accept_loss }))).await?;
            let known = client.get(PATH).await?;
            let known = known["regions"].as_array().and_then(|all| all.iter().find(|known| known["region"] == region));
            let until = known.and_then(|known| known["taken_over"]["complete_until"].as_str()).unwrap_or("unknown");
            printer.done(&format!(
                "this region has taken over; what the lost one acknowledged before {until} (its clock) is here"
            ))
        }
        RegionCommand::Limit { region, bytes_per_second } => {
            set(&client, &region, &json!({ "bytes_per_second": bytes_per_second })).await?;
            printer.done("the limit is in force")
        }
        RegionCommand::Remove { region } => {
            client.call(Method::DELETE, &format!("{PATH}/{}", part(&region)), None).await?;
            printer.done("the region is forgotten here; remove this one there as well")
        }
    }
}

/// Changes what is wanted of the link to a region.
async fn set(client: &Client, region: &str, wish: &Value) -> Result<(), CliError> {
    client.call(Method::PATCH, &format!("{PATH}/{}", part(region)), Some(wish)).await.map(drop)
}

/// A JSON document from a file or from standard input.
pub(super) fn read_json(file: &PathBuf) -> Result<Value, CliError> {
    let read =
        if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = read.map_err(|error| CliError::usage(format!("{} can't be read: {error}", file.display())))?;
    serde_json::from_str(&text).map_err(|error| CliError::usage(format!("{} is no JSON: {error}", file.display())))
}
