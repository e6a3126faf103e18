//! `portolan config`.

use clap::{Args, Subcommand};

use super::error::CliError;
use super::output;
use super::server::ConfigurationArguments;
use crate::config::reference;

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tell everything that is wrong; exit status 2 when something is.
    Check(ConfigurationArguments),
    /// Print every setting in use and where it comes from; secrets as stars.
    PrintEffective(ConfigurationArguments),
    /// Print every setting with its default and how to choose it, as a file to start from.
    Reference,
}

pub(super) fn run(arguments: &ConfigArguments) -> Result<(), CliError> {
    match &arguments.command {
        ConfigCommand::Reference => output::show(reference().trim_end()),
        ConfigCommand::PrintEffective(configuration) => output::show(configuration.load()?.effective().trim_end()),
        ConfigCommand::Check(configuration) => {
            let loaded = configuration.load()?;
            for warning in loaded.warnings.iter().chain(&loaded.settings.insecure()) {
                eprintln!("warning: {}", output::safe(warning));
            }
            output::show("the configuration is good")
        }
    }
}
