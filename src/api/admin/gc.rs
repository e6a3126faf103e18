//! Garbage collection: where it stands, pausing and running it, what becomes of a blob.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::metadata::gc::{ControlGc, Ended, Ending, Tally, UnderWay};
use registry_core::metadata::keys::SLOTS;
use registry_core::vocabulary::{Digest, Refusal};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange, Nothing};
use crate::jobs::free_files::Freed;
use crate::registry::{BlobUses, Collection, Consistency, NextStep, RepositoryUse};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize)]
struct StatusDocument {
    paused: bool,
    /// An operator asked for a cycle that has not begun yet.
    asked: bool,
    /// The last cycle would have condemned too much and waits for an operator.
    held: bool,
    grace_ms: u64,
    tick: u64,
    tick_ms: u64,
    cycles: u64,
    under_way: Option<UnderWayDocument>,
    last: Option<EndedDocument>,
    node: NodeDocument,
}

#[derive(Serialize)]
struct UnderWayDocument {
    phase: &'static str,
    /// How far its phase had come when it was written down last.
    percent: u16,
    began_at: String,
    allow_percent: Option<u8>,
    #[serde(flatten)]
    tally: TallyDocument,
}

#[derive(Serialize)]
struct EndedDocument {
    ending: &'static str,
    began_at: String,
    ended_at: String,
    #[serde(flatten)]
    tally: TallyDocument,
}

#[derive(Serialize)]
struct TallyDocument {
    looked_at: u64,
    manifests: u64,
    links: u64,
    uses: u64,
    records: u64,
    bytes: u64,
    unused: u64,
    unused_bytes: u64,
    condemned: u64,
    condemned_bytes: u64,
    swept: u64,
    swept_bytes: u64,
}

/// What the asked node did on its own volume since it started.
#[derive(Serialize)]
struct NodeDocument {
    freed_files: u64,
    freed_bytes: u64,
    quarantined_files: u64,
    files_waiting: u64,
    volume_walks: u64,
}

impl From<Tally> for TallyDocument {
    fn from(tally: Tally) -> TallyDocument {
        let Tally { looked_at, manifests, links, uses, records, bytes, unused, unused_bytes, .. } = tally;
        let Tally { condemned, condemned_bytes, swept, swept_bytes, .. } = tally;
        TallyDocument {
            looked_at,
            manifests,
            links,
            uses,
            records,
            bytes,
            unused,
            unused_bytes,
            condemned,
            condemned_bytes,
            swept,
            swept_bytes,
        }
    }
}

impl From<UnderWay> for UnderWayDocument {
    fn from(under_way: UnderWay) -> UnderWayDocument {
        UnderWayDocument {
            phase: under_way.phase.name(),
            percent: (u32::from(under_way.slot) * 100 / u32::from(SLOTS)) as u16,
            began_at: answer::time(under_way.began_at_ms),
            allow_percent: under_way.allow_percent,
            tally: under_way.tally.into(),
        }
    }
}

impl From<Ended> for EndedDocument {
    fn from(ended: Ended) -> EndedDocument {
        EndedDocument {
            ending: match ended.ending {
                Ending::Done => "done",
                Ending::Held => "held",
                Ending::Aborted => "aborted",
            },
            began_at: answer::time(ended.began_at_ms),
            ended_at: answer::time(ended.ended_at_ms),
            tally: ended.tally.into(),
        }
    }
}

impl StatusDocument {
    fn new(collection: Collection, freed: &Freed) -> StatusDocument {
        let grace_ms = collection.grace_ms();
        let Collection { row, clock } = collection;
        StatusDocument {
            paused: row.paused,
            asked: row.asked.is_some(),
            held: row.is_held(),
            grace_ms,
            tick: clock.tick,
            tick_ms: clock.tick_ms,
            cycles: row.cycles,
            under_way: row.under_way.map(UnderWayDocument::from),
            last: row.last.map(EndedDocument::from),
            node: NodeDocument {
                freed_files: freed.files(),
                freed_bytes: freed.bytes(),
                quarantined_files: freed.quarantined(),
                files_waiting: freed.files_waiting(),
                volume_walks: freed.walks(),
            },
        }
    }
}

/// `GET /v1/gc`
pub(super) async fn status(exchange: Exchange) -> Answer {
    let caller = exchange.administrator(policy::Action::ReadCluster, "gc.get").await?;
    let found = exchange.admin().registry.collection(Consistency::AtLeast(caller.revision())).await?;
    let document = StatusDocument::new(found.value, &exchange.admin().freed);
    Ok(answer::at(answer::json(StatusCode::OK, &document), found.revision))
}

/// Body of `POST /v1/gc/run`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Per cent of all bytes that this one cycle may condemn; left out: what the leader is configured for.
    allow_percent: Option<u8>,
}

/// `POST /v1/gc/run`: a cycle begins at once.
pub(super) async fn run(exchange: Exchange, Document(wish): Document<Run>) -> Answer {
    let wish = wish.map(|wish| ControlGc { paused: None, run: Some(wish.allow_percent) });
    control(&exchange, "gc.run", wish).await
}

/// `POST /v1/gc/pause`: no cycle goes on or begins, until it is resumed.
pub(super) async fn pause(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    let wish = wish.map(|Nothing {}| ControlGc { paused: Some(true), run: None });
    control(&exchange, "gc.pause", wish).await
}

/// `POST /v1/gc/resume`
pub(super) async fn resume(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    let wish = wish.map(|Nothing {}| ControlGc { paused: Some(false), run: None });
    control(&exchange, "gc.resume", wish).await
}

/// `POST /v1/gc/adopt-bucket`: the bucket belongs to this life of the cluster from now on.
pub(super) async fn adopt_bucket(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    let registry = &exchange.admin().registry;
    let revision = exchange.change("gc.adopt_bucket", "", async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let Nothing {} = wish?;
        registry.adopt_bucket().await?;
        Ok(caller.revision())
    });
    Ok(answer::changed(revision.await?))
}

async fn control(exchange: &Exchange, action: &'static str, wish: Result<ControlGc, Failure>) -> Answer {
    let registry = &exchange.admin().registry;
    let revision = exchange.change(action, "", async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        Ok(registry.control_collection(caller.name(), wish?).await?)
    });
    Ok(answer::changed(revision.await?))
}

#[derive(Serialize)]
struct UsesDocument {
    digest: String,
    size_bytes: u64,
    state: &'static str,
    /// What happens next: "stays", "unlinked", "condemned" or "swept".
    next: &'static str,
    /// The least time until then, milliseconds of ticks.
    next_in_ms: Option<u64>,
    explanation: String,
    repositories: Vec<RepositoryDocument>,
    /// More repositories may use it than are shown.
    cut: bool,
}

#[derive(Serialize)]
struct RepositoryDocument {
    repository: String,
    linked: bool,
    /// The least time until the link goes, milliseconds of ticks; `null` while a manifest names the blob.
    unlinked_in_ms: Option<u64>,
    manifests: Vec<ManifestDocument>,
}

#[derive(Serialize)]
struct ManifestDocument {
    digest: String,
    /// It names the blob itself; otherwise it is an index above one that does.
    direct: bool,
    tags: Vec<String>,
}

impl From<BlobUses> for UsesDocument {
    fn from(uses: BlobUses) -> UsesDocument {
        let ms = |ticks: u64| ticks.saturating_mul(uses.clock.tick_ms);
        let (next, ticks) = match uses.next {
            NextStep::Stays => ("stays", None),
            NextStep::Unlinked(ticks) => ("unlinked", Some(ticks)),
            NextStep::Condemned => ("condemned", None),
            NextStep::Swept(ticks) => ("swept", Some(ticks)),
        };
        let repository = |shown: &RepositoryUse| RepositoryDocument {
            repository: shown.repository.name.to_string(),
            linked: shown.is_linked,
            unlinked_in_ms: shown.ticks_left.map(ms),
            manifests: shown
                .holders
                .iter()
                .map(|holder| ManifestDocument {
                    digest: holder.digest.to_string(),
                    direct: holder.is_direct,
                    tags: holder.tags.iter().map(ToString::to_string).collect(),
                })
                .collect(),
        };
        UsesDocument {
            digest: uses.digest.to_string(),
            size_bytes: uses.size_bytes,
            state: if uses.condemned_tick.is_some() { "condemned" } else { "present" },
            next,
            next_in_ms: ticks.map(ms),
            explanation: explanation(uses.next, ms),
            repositories: uses.repositories.iter().map(repository).collect(),
            cut: uses.is_cut,
        }
    }
}

fn explanation(next: NextStep, ms: impl Fn(u64) -> u64) -> String {
    let time = |ticks| humantime::format_duration(std::time::Duration::from_millis(ms(ticks))).to_string();
    match next {
        NextStep::Stays => "manifests name it: it stays".to_owned(),
        NextStep::Unlinked(ticks) => format!(
            "no manifest names it: its repositories let it go in {} at the earliest, unless somebody asks for it before",
            time(ticks)
        ),
        NextStep::Condemned => "no repository uses it: the next cycle condemns it".to_owned(),
        NextStep::Swept(ticks) => {
            format!("it is condemned: in {} it goes with its files, unless somebody uses it before", time(ticks))
        }
    }
}

/// `GET /v1/blobs/{digest}/uses`
pub(super) async fn uses(exchange: Exchange, Path(digest): Path<String>) -> Answer {
    let caller = exchange.administrator(policy::Action::ReadCluster, "blob.get").await?;
    let digest = Digest::parse(&digest).map_err(|error| Refusal::DigestInvalid { detail: error.to_string() })?;
    let found = exchange.admin().registry.blob_uses(&digest, Consistency::AtLeast(caller.revision())).await?;
    Ok(answer::at(answer::json(StatusCode::OK, &UsesDocument::from(found.value)), found.revision))
}
