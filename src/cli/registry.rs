//! `portolan registry`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Printer};
use super::quota::QuotaArguments;

#[derive(Debug, Args)]
pub(super) struct RegistryArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: RegistryCommand,
}

#[derive(Debug, Subcommand)]
enum RegistryCommand {
    /// Show what all repositories together hold and may hold.
    Show,
    /// Set what all repositories together may hold; what is left out stays.
    Set {
        #[command(flatten)]
        quota: QuotaArguments,
    },
}

const COLUMNS: [Column; 5] = [
    ("registry", "registry"),
    ("bytes", "usage.bytes"),
    ("bytes at most", "quota.bytes"),
    ("tags", "usage.tags"),
    ("tags at most", "quota.tags"),
];

const PATH: &str = "/v1/registry";

pub(super) async fn run(arguments: RegistryArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        RegistryCommand::Show => printer.one(&client.get(PATH).await?, &COLUMNS),
        RegistryCommand::Set { quota } => {
            let quota = quota.document();
            let quota = quota.ok_or_else(|| CliError::usage("nothing to set; give --quota-bytes or --quota-tags"))?;
            let wish = json!({ "quota": quota });
            printer.one(&client.call(Method::PATCH, PATH, Some(&wish)).await?, &COLUMNS)
        }
    }
}
