//! The load itself: clients that do one operation after the other until the run is over.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Uri};
use indicatif::{ProgressBar, ProgressStyle};
use registry_core::vocabulary::RepositoryName;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::blobs::BlobMaker;
use super::conversation::{Conversation, Failure, Parts};
use super::images::{Shelf, push_blob};
use super::pace::Pace;
use super::tally::{Report, Tally};
use super::target::Targets;
use crate::cli::error::CliError;

/// How often the progress that a person sees is brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// Pause of a client after a failure, so that a server that refuses is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// How much load, on whom.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) targets: Arc<Targets>,
    pub(super) clients: u32,
    pub(super) count: u64,
    pub(super) duration: Duration,
    pub(super) rate: Option<u32>,
}

/// What each operation is.
pub(super) struct Job {
    /// The name of it in the report.
    pub(super) name: &'static str,
    /// The query that asks for a token.
    pub(super) scopes: Arc<str>,
    pub(super) act: Act,
}

/// An operation; the number of each makes it different from the others.
pub(super) enum Act {
    /// Asks for one path after the other.
    Read { method: Method, paths: Vec<Uri> },
    /// Pushes a manifest under a tag of its own, `<prefix><number>`.
    PutManifest { shelves: Vec<Shelf>, prefix: String, first: u64 },
    /// Pushes a blob.
    PushBlob { repositories: Vec<RepositoryName>, maker: Box<BlobMaker>, chunk_bytes: Option<u64> },
}

impl Act {
    async fn once(&self, talk: &mut Conversation, number: u64) -> Result<u64, Failure> {
        match self {
            Act::Read { method, paths } => {
                let uri = in_turn(paths, number).clone();
                let answer = talk.request(method.clone(), uri, &[], Parts::default()).await?;
                answer.expect(200).map(|answer| answer.bytes)
            }
            Act::PutManifest { shelves, prefix, first } => {
                let tag = format!("{prefix}{:09}", first + number);
                let shelf = in_turn(shelves, number);
                shelf.put(talk, &tag, shelf.manifest(&tag)).await
            }
            Act::PushBlob { repositories, maker, chunk_bytes } => {
                let (digest, body) = maker.make(number);
                push_blob(talk, in_turn(repositories, number), &digest, body, *chunk_bytes).await
            }
        }
    }
}

fn in_turn<T>(items: &[T], number: u64) -> &T {
    let count = items.len() as u64;
    &items[usize::try_from(number % count).unwrap_or(0)]
}

/// Runs a job to its end. `is_shown`: a person sees how far it is.
pub(super) async fn drive(load: &Load, job: Arc<Job>, is_shown: bool) -> Result<Report, CliError> {
    let tally = Arc::new(Tally::new(load.count));
    let pace = Arc::new(Pace::new(load.count, load.duration, load.rate));
    let cpu_before = cpu();
    let mut clients = JoinSet::new();
    for client in 0..load.clients as usize {
        let talk = Conversation::new(Arc::clone(&load.targets), client, Arc::clone(&job.scopes));
        clients.spawn(work(talk, Arc::clone(&job), Arc::clone(&pace), Arc::clone(&tally)));
    }
    let progress = tokio::spawn(show(load.clone(), Arc::clone(&pace), Arc::clone(&tally), is_shown));
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| CliError::failed(format!("a client has ended: {error}")))?;
    }
    let elapsed = pace.began().elapsed();
    progress.abort();
    let described = json!({
        "workload": job.name,
        "targets": load.targets.addresses(),
        "clients": load.clients,
        "bearer": load.targets.bearer,
        "client_cpu_s": (cpu() - cpu_before).as_secs_f64(),
    });
    Ok(tally.report(elapsed, described))
}

async fn work(mut talk: Conversation, job: Arc<Job>, pace: Arc<Pace>, tally: Arc<Tally>) {
    loop {
        if let Err(failure) = talk.prepare().await {
            let Some(_lost) = pace.next().await else { return };
            tally.failed(&failure);
            tokio::time::sleep(FAILURE_PAUSE).await;
            continue;
        }
        let Some((number, due)) = pace.next().await else { return };
        match job.act.once(&mut talk, number).await {
            Ok(bytes) => {
                let now = Instant::now();
                tally.succeeded(now - due, bytes, now - pace.began());
            }
            Err(failure) => {
                tally.failed(&failure);
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// Shows how far the run is; to a terminal only.
async fn show(load: Load, pace: Arc<Pace>, tally: Arc<Tally>, is_shown: bool) {
    if !is_shown {
        return;
    }
    let is_counted = load.count != u64::MAX;
    let length = if is_counted { load.count } else { load.duration.as_secs().max(1) };
    let template = if is_counted { "{bar:40} {pos}/{len} {per_sec} {eta}" } else { "{bar:40} {pos}/{len} s {msg}" };
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let over = tally.over();
        bar.set_position(if is_counted { over } else { pace.began().elapsed().as_secs() });
        bar.set_message(format!("{over} operations"));
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
