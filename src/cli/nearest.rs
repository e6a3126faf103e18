//! `portolan nearest`: where clients are, and which node serves them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;

use super::client::{Client, part, path};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Format, Printer};
use super::region::read_json;

#[derive(Debug, Args)]
pub(super) struct NearestArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: NearestCommand,
}

#[derive(Debug, Subcommand)]
enum NearestCommand {
    /// Print what is said about places: networks of clients with their zones, addresses of nodes, and from which size
    /// on blobs are redirected.
    Show,
    /// Say all of it, in place of what was said before.
    Set {
        /// The file, as `nearest show` prints it; - reads standard input.
        file: PathBuf,
    },
    /// Show where a client would get each blob of an image from if it asked this node, and why; its own region is asked
    /// as well, if that is another one.
    Explain {
        /// The client's address.
        client: String,
        /// The repository.
        repository: String,
        /// A tag or a digest.
        reference: String,
    },
}

const PATH: &str = "/v1/places";
const BLOBS: [Column; 5] =
    [("blob", "digest"), ("bytes", "bytes"), ("served by", "served_by"), ("reason", "reason"), ("address", "address")];

pub(super) async fn run(arguments: NearestArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        NearestCommand::Show => Printer::new(Format::Json).json(&client.get(PATH).await?),
        NearestCommand::Set { file } => {
            client.call(Method::PUT, PATH, Some(&read_json(&file)?)).await?;
            printer.done("the places are known to all nodes")
        }
        NearestCommand::Explain { client: address, repository, reference } => {
            let query = format!("client={}&reference={}", part(&address), part(&reference));
            let told = client.get(&format!("/v1/nearest/{}?{query}", path(&repository))).await?;
            printer.list(&told, "blobs", &BLOBS)
        }
    }
}
