//! The command line: one file per command, each a thin shell over a room or over the admin API.
//!
//! Never decides anything the server decides, and never takes a secret as an argument: arguments stand in histories and
//! process lists (security case U8). What it prints of others' names is made harmless first (U4). Start at [`main`].

mod backup;
mod bench;
mod certs;
mod check;
mod client;
mod cluster;
mod completion;
mod config;
mod connection;
mod dev;
mod error;
mod gc;
mod health;
mod image;
mod nearest;
mod output;
mod quota;
mod region;
mod registry;
mod repair;
mod replication;
mod repo;
mod scrub;
mod server;
mod user;
mod version;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use output::{Format, Printer};

/// Portolan: a self-hosted, multi-region container registry cluster.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, arg_required_else_help = true, max_term_width = 100)]
struct Arguments {
    /// How results are shown.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Server(server::ServerArguments),
    /// Run a whole cluster on this machine, a process for each node.
    Dev(dev::DevArguments),
    /// Found a cluster, look at it, add and remove nodes.
    Cluster(cluster::ClusterArguments),
    /// Make, list, change and delete repositories.
    Repo(repo::RepoArguments),
    /// What all repositories together hold and may hold.
    Registry(registry::RegistryArguments),
    /// Other regions: exchange cards with them, see how far changes have gone.
    Region(region::RegionArguments),
    /// What is copied to other regions.
    Replication(replication::ReplicationArguments),
    /// Where clients are, and which node serves them.
    Nearest(nearest::NearestArguments),
    /// List, show and delete images.
    Image(image::ImageArguments),
    /// Garbage collection: where it stands, pause it, run it, what becomes of a blob.
    Gc(gc::GcArguments),
    /// Copies that are missing, nodes that are away or being emptied.
    Repair(repair::RepairArguments),
    /// Verification of a node's copies: where it stands, begin it anew, pause it.
    Scrub(scrub::ScrubArguments),
    /// Show who uses a blob: repositories, manifests, tags.
    Why(why::WhyArguments),
    /// Users, their access keys and what they may do.
    User(user::UserArguments),
    /// Load a registry and measure how it bears it.
    Bench(bench::BenchArguments),
    /// Ask a node whether it lives, has started or is ready; for containers without a shell.
    Health(health::HealthArguments),
    /// Back up the cluster's metadata, verify a backup, begin a cluster with one.
    Backup(backup::BackupArguments),
    /// Verify the data of stopped nodes: identities, log, tables, every copy of every blob, every tag.
    Check(check::CheckArguments),
    /// Make and look at certificates.
    Certs(certs::CertsArguments),
    /// Check and show the configuration.
    Config(config::ConfigArguments),
    /// Print a completion script for a shell.
    Completion(completion::CompletionArguments),
    /// Print the version.
    Version,
}

/// Parses the arguments, runs the command, and tells how it ended: 0 done, 1 failed, 2 wrong arguments or
/// configuration.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", output::lines_safe(&error.to_string()));
            error.exit_code()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CliError> {
    let Arguments { output, command } = arguments;
    let printer = Printer::new(output);
    crate::ground::tls::install_provider();
    match command {
        Command::Server(server) => server::run(&server),
        Command::Dev(dev) => dev::run(dev),
        Command::Cluster(cluster) => ask(cluster::run(cluster, printer)),
        Command::Repo(repo) => ask(repo::run(repo, printer)),
        Command::Registry(registry) => ask(registry::run(registry, printer)),
        Command::Region(region) => ask(region::run(region, printer)),
        Command::Replication(replication) => ask(replication::run(replication, printer)),
        Command::Nearest(nearest) => ask(nearest::run(nearest, printer)),
        Command::Image(image) => ask(image::run(image, printer)),
        Command::Gc(gc) => ask(gc::run(gc, printer)),
        Command::Repair(repair) => ask(repair::run(repair, printer)),
        Command::Scrub(scrub) => ask(scrub::run(scrub, printer)),
        Command::Why(why) => ask(why::run(why, printer)),
        Command::User(user) => ask(user::run(user, printer)),
        Command::Health(health) => ask(health::run(health, printer)),
        Command::Bench(bench) => bench::run(bench, printer),
        Command::Backup(backup) => ask(backup::run(backup, printer)),
        Command::Check(check) => check::run(check, printer),
        Command::Certs(certs) => certs::run(certs, printer),
        Command::Config(config) => config::run(&config),
        Command::Completion(completion) => completion::run(&completion),
        Command::Version => version::run(printer),
    }
}

/// Runs a command that talks to a node: one thread is enough.
fn ask(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::failed(format!("no runtime: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    // The tree is consistent: no flag twice, every default is a value.
    #[test]
    fn tree() {
        Arguments::command().debug_assert();
    }

    // U8: no argument anywhere takes a secret.
    #[test]
    fn no_secret_arguments() {
        fn walk(command: &clap::Command, found: &mut Vec<String>) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                let sounds_secret = ["password", "secret", "token"].iter().any(|word| id.contains(word));
                if sounds_secret && argument.get_action().takes_values() && !id.ends_with("_file") {
                    found.push(format!("{} {id}", command.get_name()));
                }
            }
            command.get_subcommands().for_each(|inner| walk(inner, found));
        }
        let mut found = Vec::new();
        walk(&Arguments::command(), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
