//! `portolan gc`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, part};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct GcArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: GcCommand,
}

#[derive(Debug, Subcommand)]
enum GcCommand {
    /// Show the cycle under way, the last one, and what the asked node did on its volume.
    Status,
    /// Begin a cycle at once.
    Run {
        /// Share of all bytes that this one cycle may condemn, from 0 to 1; left out: what the leader is configured
        /// for.
        #[arg(long, value_name = "FRACTION")]
        allow_fraction: Option<f64>,
    },
    /// Stop collecting until it is resumed. Pushes and deletes go on; nothing is freed.
    Pause,
    /// Collect again.
    Resume,
    /// Let this cluster delete in its bucket (blobs.driver = "s3") after a forced recovery or a restored backup. Only when
    /// no node of the former one will run again: it would lose what only it knows to be in use.
    AdoptBucket,
    /// Tell what becomes of a blob, when, and why.
    Explain {
        /// Its digest.
        digest: String,
    },
}

pub(super) async fn run(arguments: GcArguments, printer: Printer) -> Result<(), CliError> {
    let GcArguments { connection, command } = arguments;
    let client = || Client::admin(&connection);
    match command {
        GcCommand::Status => status(&client()?.get("/v1/gc").await?, printer),
        GcCommand::Run { allow_fraction } => {
            let allow_percent = allow_fraction.map(percent).transpose()?;
            client()?.post("/v1/gc/run", &json!({ "allow_percent": allow_percent })).await?;
            printer.done("a cycle begins; `portolan gc status` shows what comes of it")
        }
        GcCommand::Pause => {
            client()?.post("/v1/gc/pause", &json!({})).await?;
            printer.done("collection is paused")
        }
        GcCommand::Resume => {
            client()?.post("/v1/gc/resume", &json!({})).await?;
            printer.done("collection goes on")
        }
        GcCommand::AdoptBucket => {
            client()?.post("/v1/gc/adopt-bucket", &json!({})).await?;
            printer.done("the bucket belongs to this cluster; what nothing names is deleted there from now on")
        }
        GcCommand::Explain { digest } => explain(&client()?.get(&uses_path(&digest)).await?, printer),
    }
}

/// Where the uses of a blob are asked for.
pub(super) fn uses_path(digest: &str) -> String {
    format!("/v1/blobs/{}/uses", part(digest))
}

/// A share as whole per cent, never more than was said.
fn percent(fraction: f64) -> Result<u8, CliError> {
    if !(0.0..=1.0).contains(&fraction) {
        return Err(CliError::usage("--allow-fraction is a number from 0 to 1, as 0.5"));
    }
    // a hundredth that has no exact form must not lose one per cent
    Ok((fraction * 100.0 + 1e-9).floor() as u8)
}

fn status(document: &Value, printer: Printer) -> Result<(), CliError> {
    if printer.is_json() {
        return printer.json(document);
    }
    let summary = [
        ("paused", "paused"),
        ("held", "held"),
        ("asked", "asked"),
        ("grace, ms", "grace_ms"),
        ("cycles", "cycles"),
        ("phase", "under_way.phase"),
        ("per cent", "under_way.percent"),
        ("last ended", "last.ended_at"),
        ("last", "last.ending"),
        ("links taken", "last.links"),
        ("records", "last.records"),
        ("bytes", "last.bytes"),
        ("unused bytes", "last.unused_bytes"),
        ("condemned", "last.condemned"),
        ("condemned bytes", "last.condemned_bytes"),
        ("swept", "last.swept"),
        ("swept bytes", "last.swept_bytes"),
        ("files freed here", "node.freed_files"),
        ("bytes freed here", "node.freed_bytes"),
        ("quarantined here", "node.quarantined_files"),
        ("files waiting here", "node.files_waiting"),
    ];
    printer.one(document, &summary)?;
    if document.get("held").and_then(Value::as_bool) == Some(true) {
        printer.done(
            "\nthe last cycle would have condemned more than the fuse lets through: if that is what you want, say \
             `portolan gc run --allow-fraction 1`",
        )?;
    }
    Ok(())
}

fn explain(document: &Value, printer: Printer) -> Result<(), CliError> {
    if printer.is_json() {
        return printer.json(document);
    }
    let columns = [("digest", "digest"), ("size", "size_bytes"), ("state", "state"), ("next", "explanation")];
    printer.one(document, &columns)?;
    printer.done("")?;
    let columns = [("REPOSITORY", "repository"), ("LINKED", "linked"), ("UNLINKED IN MS", "unlinked_in_ms")];
    printer.list(document, "repositories", &columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A share is cut to whole per cent; what is none is told.
    #[test]
    fn fractions() {
        for (fraction, wanted) in [(0.0, 0), (0.29, 29), (0.999, 99), (1.0, 100)] {
            assert_eq!(percent(fraction).unwrap(), wanted, "{fraction}");
        }
        for bad in [-0.1, 1.01, f64::NAN, f64::INFINITY] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
