//! `portolan replication`: what is copied to other regions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Format, Printer};
use super::region::read_json;

#[derive(Debug, Args)]
pub(super) struct ReplicationArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: ReplicationCommand,
}

#[derive(Debug, Subcommand)]
enum ReplicationCommand {
    /// Print the rules, as ECR's replication configuration.
    Rules,
    /// Set all rules, in place of those there are. What is pushed from then on is copied; what was pushed before is
    /// not.
    Set {
        /// The file with the rules, as `replication rules` prints them; - reads standard input.
        file: PathBuf,
    },
}

const PATH: &str = "/v1/replication/rules";

pub(super) async fn run(arguments: ReplicationArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        ReplicationCommand::Rules => Printer::new(Format::Json).json(&client.get(PATH).await?),
        ReplicationCommand::Set { file } => {
            client.call(Method::PUT, PATH, Some(&read_json(&file)?)).await?;
            printer.done("the rules are in force; `portolan region list` shows how far changes have gone")
        }
    }
}
