//! Why a command did not do what was asked; each text says what to do.

use std::fmt;
use std::process::ExitCode;

/// How a command ends when it fails.
#[derive(Debug)]
pub(super) enum CliError {
    /// It was tried and refused, or did not work out: exit status 1.
    Failed(String),
    /// Arguments or configuration are wrong, nothing was tried: exit status 2.
    Usage(String),
}

impl CliError {
    pub(super) fn failed(text: impl Into<String>) -> CliError {
        CliError::Failed(text.into())
    }

    pub(super) fn usage(text: impl Into<String>) -> CliError {
        CliError::Usage(text.into())
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Failed(_) => ExitCode::from(1),
            CliError::Usage(_) => ExitCode::from(2),
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (CliError::Failed(text) | CliError::Usage(text)) = self;
        out.write_str(text)
    }
}
