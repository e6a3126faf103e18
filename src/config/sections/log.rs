//! `[log]`

use std::path::PathBuf;

use crate::config::section::section;
use crate::ground::telemetry::LogFormat;

section! {
    /// Logs, on standard error.
    LogSection "log"

    /// "text" for people, "json" for machines: one object per line.
    format: LogFormat = LogFormat::Text;

    /// "error", "warn", "info", "debug" or "trace"; or one for each part: "info,portolan::blob=debug".
    level: String = "info".to_owned();

    /// true: one line for each request.
    access: bool = true;

    /// File for audit records, one JSON object per line; opened again when it is moved away. Left out: with the others.
    audit_file: Option<PathBuf> = None;
}
