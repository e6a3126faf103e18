//! `portolan cluster recover`: one stopped node goes on alone, when a majority of the voters is gone for good.

use clap::Args;
use raft::{Position, Survey};
use registry_core::vocabulary::ids::{Lineage, NodeId};
use serde_json::{Value, json};

use crate::cli::error::CliError;
use crate::cli::output::Printer;
use crate::cli::server::ConfigurationArguments;
use crate::config::Settings;
use crate::ground::files;
use crate::metadata::recover;

#[derive(Debug, Args)]
pub(super) struct RecoverArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Do it: what other nodes had acknowledged and this one does not hold is lost. Without it nothing is changed, and
    /// what is known is shown.
    #[arg(long)]
    accept_loss: bool,
}

pub(super) fn run(arguments: &RecoverArguments, printer: Printer) -> Result<(), CliError> {
    let settings = arguments.configuration.load()?.settings;
    let _lock = lock(&settings)?;
    let (raft, state) = (settings.raft_dir(), settings.state_dir());
    if !arguments.accept_loss {
        let survey = recover::survey(&raft, &state).map_err(failed)?;
        show(&survey, None, printer)?;
        return Err(CliError::failed(
            "nothing was changed. Look at the other nodes first (the same command on each of them, stopped): the one that \
             holds the most should go on. --accept-loss does it",
        ));
    }
    let (survey, lineage) = recover::recover(&raft, &state).map_err(failed)?;
    show(&survey, Some(lineage), printer)?;
    printer.done(&format!(
        "\nthe cluster goes on in lineage {lineage} with node {} as its one voter. Start it. Never start the other nodes \
         on the data they have: give each an empty data directory and a new certificate, and have it join. A blob \
         volume that is whole may be kept: its copies count again",
        NodeId(survey.node_id)
    ))
}

/// Keeps a node, and every other command, out of the directory.
pub(in crate::cli) fn lock(settings: &Settings) -> Result<files::FileLock, CliError> {
    let dir = &settings.node.data_dir;
    let locked = files::lock_dir(dir);
    let locked = locked.map_err(|error| CliError::failed(format!("{} can't be locked: {error}", dir.display())))?;
    locked.ok_or_else(|| CliError::usage(format!("a node runs on {}; stop it first", dir.display())))
}

fn failed(error: recover::RecoverError) -> CliError {
    CliError::failed(error.to_string())
}

fn show(survey: &Survey, lineage: Option<Lineage>, printer: Printer) -> Result<(), CliError> {
    let document = document(survey, lineage);
    if printer.is_json() {
        return printer.json(&document);
    }
    let summary = [
        ("cluster", "cluster"),
        ("node", "node"),
        ("lineage so far", "lineage_before"),
        ("last term", "term"),
        ("log ends at", "last"),
        ("state is at", "applied"),
        ("not applied", "unapplied"),
        ("suspect", "suspicion"),
        ("log is damaged", "damaged"),
    ];
    printer.one(&document, &summary)?;
    printer.done("")?;
    let columns = [
        ("OTHER NODE", "node"),
        ("ZONE", "zone"),
        ("VOTES", "votes"),
        ("HEARD IN TERM", "term"),
        ("HAD ACKNOWLEDGED", "acknowledged"),
        ("HAD MORE", "had_more"),
    ];
    printer.list(&document, "others", &columns)?;
    for line in losses(survey) {
        printer.done(&line)?;
    }
    Ok(())
}

/// What is known to be lost, and what may be.
fn losses(survey: &Survey) -> Vec<String> {
    let mut lines = vec![String::new()];
    let ahead: Vec<String> = survey.ahead().map(|other| NodeId(other.member.node_id).to_string()).collect();
    if !ahead.is_empty() {
        lines.push(format!("KNOWN TO BE LOST: entries or votes that {} had and this node has not", ahead.join(", ")));
    }
    if survey.damaged || survey.suspicion.is_some() {
        lines.push(
            "KNOWN TO BE LOST: the end of this node's own log; what it had acknowledged there is gone".to_owned(),
        );
    }
    if survey.unapplied() > 0 {
        lines.push(format!(
            "UNCERTAIN: {} entries of this node are not known to be committed; they will be in effect all the same",
            survey.unapplied()
        ));
    }
    lines.push(
        "POSSIBLY LOST: whatever the others acknowledged after this node last heard of them. Pushes of that time may have \
         been answered with 201"
            .to_owned(),
    );
    lines
}

fn document(survey: &Survey, lineage: Option<Lineage>) -> Value {
    let shown = |position: Option<Position>| position.map(|position| position.to_string());
    let ahead: Vec<u64> = survey.ahead().map(|other| other.member.node_id).collect();
    let others = survey.others.iter().map(|other| {
        json!({
            "node": NodeId(other.member.node_id).to_string(),
            "raft_address": other.member.raft_addr,
            "zone": other.member.zone,
            "votes": other.votes,
            "term": other.term,
            "acknowledged": shown(other.acknowledged),
            "had_more": ahead.contains(&other.member.node_id),
        })
    });
    json!({
        "cluster": registry_core::vocabulary::ids::ClusterId(survey.cluster_id).to_string(),
        "node": NodeId(survey.node_id).to_string(),
        "lineage_before": Lineage(survey.lineage).to_string(),
        "lineage": lineage.map(|lineage| lineage.to_string()),
        "term": survey.term,
        "last": shown(survey.last),
        "applied": shown(survey.applied),
        "unapplied": survey.unapplied(),
        "suspicion": survey.suspicion.map(|suspicion| suspicion.to_string()),
        "damaged": survey.damaged,
        "others": others.collect::<Vec<_>>(),
    })
}
