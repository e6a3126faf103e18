//! `portolan backup`: the cluster's metadata in a directory, made while the cluster runs, verified and restored without
//! one.
//!
//! ```text
//! DIR/backup.json   what is in it, each file with its size and SHA-256; written last, so that without it there is none
//! DIR/blobs.txt     the blobs it names: digest, size, generation, volumes, used or unused
//! DIR/state/        the tables
//! ```
//!
//! It holds every secret of the cluster (hashes of keys, the secret of tokens): its files are private.

mod create;
mod manifest;
mod restore;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Back up the metadata of a running cluster: everything that was acknowledged before this began.
    Create {
        /// Directory for the backup; it must not exist, or be empty.
        dir: PathBuf,
    },
    /// Verify a backup: every file by its SHA-256, every row of the tables against the others, the list of blobs.
    Verify {
        /// The backup.
        dir: PathBuf,
    },
    /// Make the empty data directory of a stopped node the beginning of a new life of the cluster, with the backup's
    /// state.
    Restore(restore::RestoreArguments),
}

pub(super) async fn run(arguments: BackupArguments, printer: Printer) -> Result<(), CliError> {
    let BackupArguments { connection, command } = arguments;
    match command {
        BackupCommand::Create { dir } => create::run(Client::admin(&connection)?, &dir, printer).await,
        BackupCommand::Verify { dir } => verify::run(&dir, printer),
        BackupCommand::Restore(wish) => restore::run(&wish, printer).await,
    }
}
