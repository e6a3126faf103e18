//! `portolan bench`: load on a registry, and how it bears it.
//!
//! Speaks the registry's own API, one connection for each client, with as little work per request as it can, so that
//! what is measured is the server. Never loads another machine unless told that it is the caller's own, and never runs
//! without an end. Start at [`run`]: [`target`] says whom, [`prepare`] puts there what a workload reads, [`drive`] is
//! the load, [`tally`] what came of it.

mod blobs;
mod conversation;
mod drive;
mod images;
mod pace;
mod prepare;
mod tally;
mod target;

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use registry_core::vocabulary::RepositoryName;

use super::connection::ConnectionArguments;
use super::error::CliError;
use super::output::Printer;
use crate::config::ByteSize;
use blobs::SIZE_MIN;
use drive::Load;
use target::Targets;

/// Longest run.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a run takes that has neither a count nor a duration.
const DURATION: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct BenchArguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    /// Public listeners of nodes, as http://127.0.0.1:7400; clients go to them in turn. Left out: the one of this
    /// machine's configuration.
    #[arg(long, env = "PORTOLAN_REGISTRY", value_name = "URL", value_delimiter = ',', global = true)]
    registry: Vec<String>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Clone, Debug, Args)]
struct LoadArguments {
    /// Clients at once, each with a connection of its own.
    #[arg(short, long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000), global = true)]
    clients: u32,
    /// Operations in all; left out: as many as --duration allows.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000), global = true)]
    count: Option<u64>,
    /// No operation begins after this long; left out: 10s, or 24h with --count.
    #[arg(long, value_parser = humantime::parse_duration, global = true)]
    duration: Option<Duration>,
    /// Operations per second at most, in all; an operation that begins late counts from when it was due.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), global = true)]
    rate: Option<u32>,
    /// Fetch a bearer token with the access key, as clients do, and send that.
    #[arg(long, global = true)]
    bearer: bool,
    /// Threads of this load generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), global = true)]
    threads: u8,
    /// What names of the repositories begin with; they stay when the run is over.
    #[arg(long, default_value = "bench", global = true)]
    prefix: String,
    /// Needed to load another machine than this one.
    #[arg(long, global = true)]
    i_own_this_target: bool,
}

/// What clients do.
#[derive(Clone, Debug, Subcommand)]
enum Workload {
    /// Pull manifests.
    ManifestGet(ImagesArguments),
    /// Ask whether manifests are there.
    ManifestHead(ImagesArguments),
    /// Push new manifests under new tags.
    ManifestPut(PutArguments),
    /// Push blobs that nobody has.
    BlobPush(BlobPushArguments),
    /// Pull blobs.
    BlobGet(BlobGetArguments),
    /// List the tags of a repository.
    TagsList(TagsListArguments),
    /// Fill a registry: new manifests under numbered tags, the same at each run.
    Fill(FillArguments),
}

#[derive(Clone, Debug, Args)]
struct ImagesArguments {
    /// Repositories.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repositories: u32,
    /// Images in all of them.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    images: u32,
    /// Layers of each; ten make a manifest of about 2 kB.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    layers: u16,
    /// How a manifest is named.
    #[arg(long, value_enum, default_value_t = Naming::Tag)]
    by: Naming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Naming {
    /// By its tag: a linearizable read.
    Tag,
    /// By its digest: a read of the node's own state.
    Digest,
}

#[derive(Clone, Debug, Args)]
struct PutArguments {
    /// Repositories, in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repositories: u32,
    /// Layers of each manifest.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    layers: u16,
}

#[derive(Clone, Debug, Args)]
struct FillArguments {
    #[command(flatten)]
    put: PutArguments,
    /// Number of the first tag: an interrupted run goes on where it stopped.
    #[arg(long, default_value_t = 0)]
    first: u64,
}

#[derive(Clone, Debug, Args)]
struct BlobPushArguments {
    /// Size of each, as 1KiB.
    #[arg(long, default_value = "1KiB", value_parser = size)]
    size: ByteSize,
    /// Push in chunks of this size (POST, PATCH…, PUT) instead of all at once (POST, PUT).
    #[arg(long, value_parser = size)]
    chunk: Option<ByteSize>,
    /// Repositories, in turn.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repositories: u32,
}

#[derive(Clone, Debug, Args)]
struct BlobGetArguments {
    /// Size of each, as 100MiB.
    #[arg(long, default_value = "1MiB", value_parser = size)]
    size: ByteSize,
    /// How many different ones.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    blobs: u32,
}

#[derive(Clone, Debug, Args)]
struct TagsListArguments {
    /// Tags in the repository; missing ones are pushed first.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tags: u32,
    /// Tags on a page.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    page: u16,
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size = ByteSize::parse(text).ok_or("write a whole number with its unit, as 64MiB")?;
    let bounds = SIZE_MIN..=registry_core::vocabulary::limits::BLOB_BYTES_MAX;
    if bounds.contains(&size.0) { Ok(size) } else { Err(format!("a blob has {SIZE_MIN}B to 10TiB")) }
}

pub(super) fn run(arguments: BenchArguments, printer: Printer) -> Result<(), CliError> {
    let BenchArguments { connection, registry, load: asked, workload } = arguments;
    let prefix = RepositoryName::parse(&asked.prefix);
    let prefix = prefix.map_err(|error| CliError::usage(format!("--prefix {:?}: {error}", asked.prefix)))?;
    let duration = asked.duration.unwrap_or(if asked.count.is_some() { DURATION_MAX } else { DURATION });
    if duration > DURATION_MAX {
        return Err(CliError::usage("--duration is longer than 24h; a run must end"));
    }
    let count = asked.count.unwrap_or(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(asked.threads))
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("no runtime: {error}")))?;
    runtime.block_on(Box::pin(async move {
        let endpoints = if registry.is_empty() {
            vec![connection.registry(None)?]
        } else {
            registry.iter().map(|url| connection.registry(Some(url))).collect::<Result<_, _>>()?
        };
        let targets = Targets::find(&endpoints, connection.credential()?, &asked).await?;
        let load = Load { targets: Arc::new(targets), clients: asked.clients, count, duration, rate: asked.rate };
        let job = prepare::prepare(&load, &workload, &prefix).await?;
        let report = drive::drive(&load, Arc::new(job), true).await?;
        report.print(printer)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sizes carry a unit and leave room for what makes a blob different from the others.
    #[test]
    fn sizes() {
        assert_eq!(size("1KiB"), Ok(ByteSize(1024)));
        assert_eq!(size("10GiB"), Ok(ByteSize(10 << 30)));
        for bad in ["", "1", "15B", "11TiB", "1.5MiB", "-1B"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
