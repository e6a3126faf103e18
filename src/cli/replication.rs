//! `portolan replication`: what is copied to other regions.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part, path};
use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::{Column, Format, Printer, json_safe, show};
use super::region::read_json;

#[derive(Debug, Args)]
pub(super) struct ReplicationArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: ReplicationCommand,
}

#[derive(Debug, Subcommand)]
enum ReplicationCommand {
    /// Print the rules, as ECR's replication configuration.
    Rules,
    /// Set all rules, in place of those there are. What is pushed from then on is copied; what was pushed before, if
    /// the rule has "backfill" enabled.
    Set {
        /// The file with the rules, as `replication rules` prints them; - reads standard input.
        file: PathBuf,
        /// Set nothing: check the rules, and count what they would copy of what is there now, for each region. Bytes
        /// of a blob count once for a region.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how far the changes of each region have come, and what comparing with it found last. Ask the leader.
    Status,
    /// Compare everything with a region now, and wait for what is found. Ask the leader.
    Verify {
        /// The region's name.
        region: String,
        /// How long to wait, seconds.
        #[arg(long, default_value_t = 600)]
        timeout: u64,
    },
    /// Print what the last comparison with each region found, whole, as JSON.
    Report,
    /// Show changes of a region that could not be applied and were put aside.
    Parked {
        /// The region's name.
        region: String,
    },
    /// Show what has become of an image in the regions that rules send it to.
    Image {
        /// The repository.
        repository: String,
        /// A tag or a digest.
        reference: String,
    },
    /// Show settings of tags that were lost to those of another region, whose maker had not seen them.
    Conflicts,
    /// Print the records that this region and another one should both have, one JSON document a line, for
    /// `deploy/replication/equal.py` or any other comparison.
    Export {
        /// The other region's name.
        region: String,
        /// `to`: made here and sent there; `from`: made there, as they are here.
        #[arg(long, value_parser = ["to", "from"])]
        direction: String,
    },
    /// Try those changes once more.
    Retry {
        /// The region's name.
        region: String,
    },
}

const PATH: &str = "/v1/replication/rules";
const DRY_RUN: &str = "/v1/replication/dry-run";
/// Counting reads the rows of all repositories that the rules cover.
const COUNTING: Duration = Duration::from_secs(15 * 60);
const TRIED: [Column; 13] = [
    ("region", "region"),
    ("repositories", "repositories"),
    ("begin", "begins"),
    ("end", "ends"),
    ("added: manifests", "added.manifests"),
    ("tags", "added.tags"),
    ("bytes", "added.bytes"),
    ("only with backfill: manifests", "onlyWithBackfill.manifests"),
    ("tags", "onlyWithBackfill.tags"),
    ("bytes", "onlyWithBackfill.bytes"),
    ("sent already: manifests", "sentAlready.manifests"),
    ("tags", "sentAlready.tags"),
    ("bytes", "sentAlready.bytes"),
];
const REPORT: &str = "/v1/replication/report";
const STATUS: [Column; 10] = [
    ("region", "region"),
    ("all equal at", "clean_at"),
    ("last comparison of", "last.of"),
    ("ended", "last.ended_at"),
    ("repositories", "last.repositories"),
    ("equal", "last.equal"),
    ("differences", "last.differences"),
    ("repaired", "last.repaired"),
    ("blobs hashed", "last.sample.blobs"),
    ("problem", "last.problem"),
];
const PARKED: [Column; 6] = [
    ("since", "at"),
    ("repository", "repository"),
    ("change", "change"),
    ("tag", "tag"),
    ("digest", "digest"),
    ("reason", "reason"),
];
const IMAGE: [Column; 4] =
    [("region", "region"), ("registry", "registryId"), ("status", "status"), ("reason", "reason")];
const CONFLICTS: [Column; 7] = [
    ("found", "found_at"),
    ("repository", "repository"),
    ("tag", "tag"),
    ("kept", "kept"),
    ("of region", "kept_region"),
    ("lost", "lost"),
    ("of region", "lost_region"),
];
const FAILED: [Column; 2] = [("id", "id"), ("reason", "reason")];
/// Between two looks at a comparison.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(arguments: ReplicationArguments, printer: Printer) -> Result<(), CliError> {
    let client = Client::admin(&arguments.connection)?;
    match arguments.command {
        ReplicationCommand::Rules => Printer::new(Format::Json).json(&client.get(PATH).await?),
        ReplicationCommand::Set { file, dry_run: true } => {
            let tried = client.patient(COUNTING).post(DRY_RUN, &read_json(&file)?).await?;
            printer.list(&tried, "destinations", &TRIED)?;
            let is_at_most = tried["atMost"] == true && !printer.is_json();
            if is_at_most {
                show("there are too many blobs to tell all apart: bytes are at most so many")
            } else {
                Ok(())
            }
        }
        ReplicationCommand::Set { file, dry_run: false } => {
            client.call(Method::PUT, PATH, Some(&read_json(&file)?)).await?;
            printer.done("the rules are in force; `portolan region list` shows how far changes have gone")
        }
        ReplicationCommand::Status => printer.list(&client.get(REPORT).await?, "regions", &STATUS),
        ReplicationCommand::Report => Printer::new(Format::Json).json(&client.get(REPORT).await?),
        ReplicationCommand::Verify { region, timeout } => verify(&client, printer, &region, timeout).await,
        ReplicationCommand::Parked { region } => printer.list(&client.get(&parked(&region)).await?, "parked", &PARKED),
        ReplicationCommand::Retry { region } => retry(&client, printer, &region).await,
        ReplicationCommand::Image { repository, reference } => {
            let path = format!("/v1/replication/images/{}?reference={}", path(&repository), part(&reference));
            printer.list(&client.get(&path).await?, "replicationStatuses", &IMAGE)
        }
        ReplicationCommand::Conflicts => conflicts(&client, printer).await,
        ReplicationCommand::Export { region, direction } => export(&client, &region, &direction).await,
    }
}

fn parked(region: &str) -> String {
    format!("/v1/replication/parked/{}", part(region))
}

/// What is told of a region.
fn of_region<'a>(report: &'a Value, region: &str) -> &'a Value {
    let regions = report["regions"].as_array().map_or(&[][..], Vec::as_slice);
    regions.iter().find(|told| told["region"] == region).unwrap_or(&Value::Null)
}

/// Asks for a comparison, and waits for one that began after that.
async fn verify(client: &Client, printer: Printer, region: &str, timeout_s: u64) -> Result<(), CliError> {
    let number = |told: &Value| told["last"]["number"].as_u64().unwrap_or(0);
    let before = number(of_region(&client.get(REPORT).await?, region));
    client.post(&format!("/v1/replication/compare/{}", part(region)), &json!({})).await?;
    let until = Instant::now() + Duration::from_secs(timeout_s);
    while Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        let report = client.get(REPORT).await?;
        let told = of_region(&report, region);
        let last = &told["last"];
        let is_asked = number(told) > before && last["of"] == "all repositories";
        if is_asked && !last["ended_at"].is_null() {
            printer.list(&json!({ "regions": [told] }), "regions", &STATUS)?;
            return judged(last);
        }
    }
    Err(CliError::failed(format!("the comparison is not over after {timeout_s} s; it goes on")))
}

/// Whether all is equal now.
fn judged(last: &Value) -> Result<(), CliError> {
    let count = |field: &str| last[field].as_u64().unwrap_or(0);
    let (left, behind) = (count("differences") - count("repaired"), count("behind"));
    if let Some(problem) = last["problem"].as_str() {
        return Err(CliError::failed(format!("the comparison broke off: {problem}")));
    }
    if left > 0 {
        let told = format!("{left} differences stay; `portolan replication report` tells of each");
        return Err(CliError::failed(told));
    }
    if behind > 0 {
        let told = format!("changes of {behind} repositories did not arrive in time, so that they were not compared");
        return Err(CliError::failed(told));
    }
    Ok(())
}

/// All pages, as one list.
async fn conflicts(client: &Client, printer: Printer) -> Result<(), CliError> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/replication/conflicts{after}")).await?;
        all.extend(page["conflicts"].as_array().cloned().unwrap_or_default());
        let Some(last) = page["after"].as_str() else { break };
        after = format!("?after={}", part(last));
    }
    printer.list(&json!({ "conflicts": all }), "conflicts", &CONFLICTS)
}

/// Line by line: what it is about, each repository before its records, and the end.
async fn export(client: &Client, region: &str, direction: &str) -> Result<(), CliError> {
    let line = |document: &Value| show(&json_safe(&document.to_string()));
    let base = format!("/v1/replication/export/{}?direction={direction}", part(region));
    let (mut rest, mut last, mut is_begun) = (String::new(), Value::Null, false);
    loop {
        let page = client.get(&format!("{base}{rest}")).await?;
        if !is_begun {
            line(&json!({ "export": { "region": region, "direction": direction, "origin": page["origin"] } }))?;
            is_begun = true;
        }
        let name = &page["repository"];
        if !name.is_null() && *name != last {
            line(&json!({
                "repository": name,
                "since": page["since"],
                "others_since": page["others_since"],
                "settings_since": page["settings_since"],
                "tags": page["tags"],
                "tags_before": page["tags_before"],
            }))?;
            last = name.clone();
        }
        for record in page["records"].as_array().map_or(&[][..], Vec::as_slice) {
            let mut record = record.clone();
            record["repository"] = name.clone();
            line(&record)?;
        }
        let Some(repository) = page["rest"]["repository"].as_str() else {
            return line(&json!({ "end": { "index": page["index"] } }));
        };
        let register = page["rest"]["register"].as_str().map(|register| format!("&register={register}"));
        rest = format!("&repository={}{}", part(repository), register.unwrap_or_default());
    }
}

async fn retry(client: &Client, printer: Printer, region: &str) -> Result<(), CliError> {
    let (mut settled, mut failed, mut after) = (0, Vec::new(), Value::Null);
    loop {
        let wish = if after.is_null() { json!({}) } else { json!({ "after": after }) };
        let answer = client.post(&format!("{}/retry", parked(region)), &wish).await?;
        settled += answer["settled"].as_u64().unwrap_or(0);
        failed.extend(answer["failed"].as_array().cloned().unwrap_or_default());
        after = answer["rest"].clone();
        if after.is_null() {
            break;
        }
    }
    if failed.is_empty() {
        return printer.done(&format!("{settled} changes were settled, and none is put aside any more"));
    }
    let left = failed.len();
    printer.list(&json!({ "settled": settled, "failed": failed }), "failed", &FAILED)?;
    Err(CliError::failed(format!("{settled} changes were settled; {left} failed again and stay put aside")))
}
