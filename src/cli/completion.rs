//! `portolan completion`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::error::CliError;

#[derive(Debug, Args)]
pub(super) struct CompletionArguments {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionArguments) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "portolan", &mut script);
    super::output::show(String::from_utf8_lossy(&script).trim_end())
}
