//! `portolan health`: for containers without a shell. Needs no credential.

use clap::{Args, ValueEnum};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

use super::client::Client;
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;

#[derive(Debug, Args)]
pub(super) struct HealthArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// What to ask.
    #[arg(value_enum, default_value_t = Question::Ready)]
    question: Question,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    /// Does it answer?
    Live,
    /// Has it come up?
    Started,
    /// May requests be sent to it?
    Ready,
}

pub(super) async fn run(arguments: HealthArguments, printer: Printer) -> Result<(), CliError> {
    let path = match arguments.question {
        Question::Live => "/livez",
        Question::Started => "/startupz",
        Question::Ready => "/readyz",
    };
    let client = Client::new(&arguments.connection.admin()?, None)?;
    let answer = client.send(Method::GET, path, HeaderMap::new(), None).await?;
    let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
    let is_well = answer.status.is_success();
    match (is_well, printer.is_json()) {
        (_, true) => printer.json(&json!({ "well": is_well, "text": text }))?,
        (true, false) => printer.done(&text)?,
        (false, false) => {}
    }
    if is_well { Ok(()) } else { Err(CliError::failed(text)) }
}
