//! `portolan version`.

use serde_json::json;

use super::error::CliError;
use super::output::Printer;

pub(super) fn run(printer: Printer) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    if printer.is_json() {
        return printer.json(&json!({ "version": version }));
    }
    printer.done(&format!("portolan {version}"))
}
