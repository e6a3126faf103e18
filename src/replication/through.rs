//! Pulls of what has not arrived: asked of the region that sends it, and handed on while it comes.
//!
//! Only what the region's rules say may be read through, only what is absent here, and never what was deleted here by a
//! newer word. A tag that a rule leaves out is not asked for; what it names is to be had by its digest. When the region
//! can't be asked, a client is told to come back, not that there is nothing. A blob crosses the link once: the leader
//! brings it, the other nodes have it from there, each once for all its clients. Source: consensus-and-faults §6.6,
//! security-cases R11, R18, R19.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use registry_core::decide::nearest::Declined;
use registry_core::decide::replication::rank::Rank;
use registry_core::metadata::{gone, offer, remote, repository, shared};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{REGION_RANGE_BYTES_MAX, REGION_RANGES_AHEAD};
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName, Tag, Version};

use super::arrive::Problem;
use super::client::{ASKED_MAX, Fetched, Source};
use super::flight::{Flight, FlightKey, Way};
use super::{Inner, Replication};
use crate::blob::transfer::{OnItsWay, Relay, RelayError, Relayed};
use crate::registry::{Elsewhere, Located, ManifestInfo, Pieces, RemoteBlob, StoredManifest, Visit, unavailable};

/// How often a tag is followed whose manifest goes meanwhile.
const MOVES_MAX: usize = 3;
/// How long a leader is waited for that hands on what it brings.
const LEADER_MAX: Duration = Duration::from_secs(10);

/// What was found of a manifest; `None` for nothing.
type Found = Result<Option<StoredManifest>, Problem>;

/// Which region is asked for what.
type Question = (u16, RepositoryName, String);
type Answer = Shared<BoxFuture<'static, Found>>;

/// Questions that are being asked now: who asks the same waits for the same answer.
#[derive(Default)]
pub(super) struct Asking(Mutex<BTreeMap<Question, Answer>>);

/// One who waits for an answer.
struct Waiting<'a> {
    asking: &'a Asking,
    key: Question,
    asked: Answer,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut asking = self.asking.0.lock();
        if asking.get(&self.key).is_some_and(|present| present.ptr_eq(&self.asked)) {
            asking.remove(&self.key);
        }
    }
}

impl Asking {
    /// The answer, and whether it was asked for before this.
    async fn ask(&self, key: Question, ask: impl FnOnce() -> BoxFuture<'static, Found>) -> (Found, bool) {
        let (waiting, is_joined) = {
            let mut asking = self.0.lock();
            let present = asking.get(&key).cloned();
            let is_joined = present.is_some();
            let asked = present.unwrap_or_else(|| ask().shared());
            asking.insert(key.clone(), asked.clone());
            (Waiting { asking: self, key, asked }, is_joined)
        };
        (waiting.asked.clone().await, is_joined)
    }
}

/// The way to other regions, for pulls. Does not keep the node's parts alive.
pub(super) struct Through(pub(super) Weak<Inner>);

impl std::fmt::Debug for Through {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Through")
    }
}

fn told(source: &Source, name: &RepositoryName, problem: &Problem) {
    let region = &source.region;
    tracing::warn!(%region, repository = %name, %problem, "what has not arrived can't be asked for where it comes from");
}

impl Through {
    fn replication(&self) -> Option<Replication> {
        self.0.upgrade().map(Replication)
    }
}

/// What the regions that may have it say: the first that has it; else nothing, if all of them could be asked. `tag`: by
/// which it is asked for, if not by digest.
async fn first<'a, T>(
    replication: &'a Replication,
    name: &'a RepositoryName,
    tag: Option<&'a Tag>,
    ask: impl Fn(Arc<Source>) -> BoxFuture<'a, Result<Option<T>, Problem>> + Send + Sync,
) -> Result<Option<T>, Refusal> {
    let regions = replication.0.metadata.peek(|view| offer::reading_through(view, name, tag));
    let mut is_unsure = false;
    for number in regions {
        let Some(source) = replication.source(number) else {
            is_unsure = true;
            continue;
        };
        match ask(Arc::clone(&source)).await {
            Ok(Some(found)) => {
                metrics::counter!("portolan_replication_read_through_total", "result" => "found").increment(1);
                return Ok(Some(found));
            }
            Ok(None) | Err(Problem::Moved) => {}
            Err(problem) => {
                told(&source, name, &problem);
                is_unsure = true;
            }
        }
    }
    if is_unsure {
        metrics::counter!("portolan_replication_read_through_total", "result" => "unavailable").increment(1);
        return Err(unavailable());
    }
    Ok(None)
}

impl Elsewhere for Through {
    fn may_have(&self, name: &RepositoryName) -> bool {
        let told = |it: Replication| it.0.metadata.peek(|view| !offer::reading_through(view, name, None).is_empty());
        self.replication().is_some_and(told)
    }

    fn manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Option<StoredManifest>, Refusal>> {
        Box::pin(async move {
            let Some(replication) = self.replication() else { return Ok(None) };
            let tag = if let Reference::Tag(tag) = reference { Some(tag) } else { None };
            let replication = &replication;
            let ask = move |source: Arc<Source>| -> BoxFuture<'_, Found> {
                Box::pin(asked(replication, source, name, reference))
            };
            first(replication, name, tag, ask).await
        })
    }

    fn pieces<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'a, Result<Option<Pieces>, Refusal>> {
        Box::pin(async move {
            let Some(replication) = self.replication() else { return Ok(None) };
            let ask = move |source: Arc<Source>| -> BoxFuture<'_, Result<Option<Pieces>, Problem>> {
                let ranges = ranges.clone();
                Box::pin(async move {
                    let pieces = tokio::time::timeout(ASKED_MAX, source.pieces(name, digest, ranges)).await;
                    pieces.unwrap_or_else(|_| Err(Problem::passing("no answer in time"))).map(Some)
                })
            };
            first(&replication, name, None, ask).await
        })
    }

    fn blob<'a>(
        &'a self,
        name: &'a RepositoryName,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn RemoteBlob>>, Refusal>> {
        Box::pin(async move {
            let Some(replication) = self.replication() else { return Ok(None) };
            let replication = &replication;
            let ask = move |source: Arc<Source>| -> BoxFuture<'_, Result<Option<Arc<Flight>>, Problem>> {
                Box::pin(async move { replication.flight(&source, name, digest).await.map(Some) })
            };
            let found = first(replication, name, None, ask).await?;
            Ok(found.map(|flight| Arc::new(Remote(flight)) as Arc<dyn RemoteBlob>))
        })
    }

    fn locate<'a>(&'a self, region: &'a RegionName, visit: Visit) -> BoxFuture<'a, Result<Located, Declined>> {
        Box::pin(async move {
            let replication = self.replication().ok_or(Declined::Silent)?;
            let number = replication.0.metadata.peek(|view| shared::region(view, region)).ok_or(Declined::Unknown)?;
            let source = replication.source(number).ok_or(Declined::Unknown)?;
            replication.0.locating.ask(source, visit).await
        })
    }
}

/// Asks, together with who asks the same. An answer that was begun before this came may be too old to be a no, or its
/// asker may have had bad luck; the next one may not.
async fn asked(replication: &Replication, source: Arc<Source>, name: &RepositoryName, reference: &Reference) -> Found {
    let ask = || {
        let key = (source.number, name.clone(), reference.to_string());
        let (inner, source) = (Arc::clone(&replication.0), Arc::clone(&source));
        let (name, reference) = (name.clone(), reference.clone());
        let ask = move || -> BoxFuture<'static, Found> {
            Box::pin(async move { manifest(&inner, &source, &name, &reference).await })
        };
        replication.0.asking.ask(key, ask)
    };
    match ask().await {
        (Ok(None) | Err(_), true) => ask().await.0,
        (answer, _) => answer,
    }
}

/// What is found, where what is not there is no problem.
fn found<T>(found: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Problem::Moved) => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// A manifest as a region has it, unless this region knows better.
async fn manifest(inner: &Inner, source: &Source, name: &RepositoryName, reference: &Reference) -> Found {
    let tag = match reference {
        Reference::Digest(digest) => return by_digest(inner, source, name, digest).await,
        Reference::Tag(tag) => tag,
    };
    for _ in 0..MOVES_MAX {
        let Some((digest, version, base)) = found(source.resolve(name, tag).await)? else { return Ok(None) };
        if is_overruled(inner, name, tag, &digest, (version, base)) {
            return Ok(None);
        }
        // it may have moved on since, and what it named been deleted
        if let Some(manifest) = by_digest(inner, source, name, &digest).await? {
            return Ok(Some(manifest));
        }
    }
    Err(Problem::passing("what the tag names is deleted again and again"))
}

async fn by_digest(inner: &Inner, source: &Source, name: &RepositoryName, digest: &Digest) -> Found {
    let Some(fetched) = found(source.manifest(name, digest, ASKED_MAX).await)? else { return Ok(None) };
    let Fetched { media_type, content: bytes, presence } = fetched;
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        return Err(Problem::passing("the other region sent other bytes than the manifest's"));
    }
    let is_gone = inner.metadata.peek(|view| {
        let found = repository::find(view, RegistryId::DEFAULT, name);
        found.and_then(|(key, _)| gone::read(view, &key, digest)).is_some_and(|row| row.is_deleted_after(presence))
    });
    let info = ManifestInfo { digest: *digest, media_type, size_bytes: bytes.len() as u64 };
    Ok((!is_gone).then_some(StoredManifest { info, bytes }))
}

/// Whether a tag was deleted here by a newer word than its setting there.
fn is_overruled(
    inner: &Inner,
    name: &RepositoryName,
    tag: &Tag,
    digest: &Digest,
    (version, base): (Version, Version),
) -> bool {
    inner.metadata.peek(|view| {
        let Some((key, _)) = repository::find(view, RegistryId::DEFAULT, name) else { return false };
        let is_gone = gone::read(view, &key, digest).is_some_and(|row| row.is_deleted_after(version));
        is_gone || remote::tag_rank(view, &key, tag) > Rank::of_set(version, base)
    })
}

/// A blob on its way.
struct Remote(Arc<Flight>);

impl std::fmt::Debug for Remote {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Remote({})", self.0.size_bytes)
    }
}

impl RemoteBlob for Remote {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn stream(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        self.0.read(range).map(|part| part.map_err(|problem| std::io::Error::other(problem.to_string()))).boxed()
    }
}

impl Replication {
    /// A blob on its way to this node: over the link if it leads, else from the node that does.
    async fn flight(
        &self,
        source: &Arc<Source>,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Arc<Flight>, Problem> {
        let key = FlightKey { region: source.number, repository: name.clone(), digest: *digest };
        let (weak, source, of) = (Arc::downgrade(&self.0), Arc::clone(source), key.clone());
        let open = move |offset: u64| {
            let (weak, source, of) = (weak.clone(), Arc::clone(&source), of.clone());
            async move {
                let Some(inner) = weak.upgrade() else { return Err(Problem::passing("this node stops")) };
                let seen = inner.metadata.leadership();
                match seen.leader.filter(|_| !seen.is_leader) {
                    Some(leader) => {
                        let FlightKey { region, repository, digest } = of;
                        let wanted = Relayed { region, repository, digest, offset };
                        handed_on(inner.transfer.relayed(leader, &wanted)).await
                    }
                    // whoever leads soon will find it here by another way
                    None => over_the_link(source, of.repository, (of.digest, None), offset).await,
                }
            }
        };
        self.0.flights.join(&key, open).await
    }
}

async fn handed_on(relayed: impl Future<Output = Result<OnItsWay, RelayError>>) -> Result<Way, Problem> {
    let problem = |error: RelayError| match error {
        RelayError::Unknown => Problem::Moved,
        RelayError::Unavailable(told) => Problem::Passing(told),
    };
    let opened = tokio::time::timeout(LEADER_MAX, relayed).await;
    let OnItsWay { size_bytes, bytes } = opened
        .unwrap_or_else(|_| Err(RelayError::Unavailable("the leader does not answer".to_owned())))
        .map_err(problem)?;
    Ok(Way { size_bytes, bytes: bytes.map(move |part| part.map_err(problem)).boxed() })
}

/// The bytes of a source's blob, whose size may be known, from an offset on, some ranges ahead of who reads.
pub(super) async fn over_the_link(
    source: Arc<Source>,
    name: RepositoryName,
    (digest, size_bytes): (Digest, Option<u64>),
    offset: u64,
) -> Result<Way, Problem> {
    let size_bytes = match size_bytes {
        Some(known) => known,
        None => source.stat(&name, &digest).await?,
    };
    let step = usize::try_from(REGION_RANGE_BYTES_MAX).unwrap_or(usize::MAX);
    let starts = (offset..size_bytes).step_by(step);
    let fetch = move |start: u64| {
        let (source, name) = (Arc::clone(&source), name.clone());
        async move {
            let end = start.saturating_add(REGION_RANGE_BYTES_MAX).min(size_bytes);
            source.range(&name, &digest, start..end).await
        }
    };
    Ok(Way { size_bytes, bytes: stream::iter(starts).map(fetch).buffered(REGION_RANGES_AHEAD).boxed() })
}

impl Relay for Through {
    fn open(&self, wanted: Relayed) -> BoxFuture<'_, Result<OnItsWay, RelayError>> {
        Box::pin(async move {
            let Relayed { region, repository: name, digest, offset } = wanted;
            let stops = || RelayError::Unavailable("this node stops".to_owned());
            let replication = self.replication().ok_or_else(stops)?;
            // handed on once: who does not lead any more says so, and the asker turns to who does
            if !replication.0.metadata.leadership().is_leader {
                return Err(RelayError::Unavailable("this node does not lead".to_owned()));
            }
            let unknown = || RelayError::Unavailable("the region is not known here yet".to_owned());
            let source = replication.source(region).ok_or_else(unknown)?;
            let error = |problem: Problem| match problem {
                Problem::Moved => RelayError::Unknown,
                Problem::Passing(told) | Problem::Lasting(told) => RelayError::Unavailable(told),
            };
            let flight = replication.flight(&source, &name, &digest).await.map_err(error)?;
            let size_bytes = flight.size_bytes;
            let bytes = flight.read(offset..size_bytes).map(move |part| part.map_err(error)).boxed();
            Ok(OnItsWay { size_bytes, bytes })
        })
    }
}
