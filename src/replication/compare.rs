//! The destination's side of a comparison: finds what differs from a source without an explanation, and mends it.
//!
//! Both sides read their rows; the stream's own bookkeeping is not asked. A difference counts if two looks show the
//! same two records, the second after everything up to the first was applied: so a busy repository is compared too.
//! Repairs are ordinary arrivals, by rank, so that none undoes a newer change or a delete that was made here. Source:
//! consensus-and-faults §6.5.
//!
//! A region whose log has begun another life (it was restored, or went on without a majority) may have lost what it had
//! acknowledged and sent. It compares its own records as well, and takes back what the source still has of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use registry_core::decide::replication::compare::{
    Deletes, Drift, Here, Record, Register, Scope, Since, Sums, There, Verdict, judge,
};
use registry_core::decide::replication::rank::Rank;
use registry_core::metadata::register::{self, Lost};
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::{backfill, cluster, cursor, parked};
use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::ids::{Lineage, RegistryId};
use registry_core::vocabulary::limits::{DRIFTS_TOLD_MAX, PARKED_MAX, RECORDS_PER_MESSAGE, SUSPECTS_MAX};
use registry_core::vocabulary::manifest::Referenced;
use registry_core::vocabulary::{Digest, RepositoryName, Tag};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::arrive::{Arrivals, Problem};
use super::client::{Seen, Source};
use super::receive::SourceStatus;
use super::sample::{Draw, SampleReport};
use super::wire::proto::RepositorySum;
use super::wire::{self, Told};
use crate::ground::clock::{Clock as _, SystemClock};
use crate::metadata::{Metadata, View};

/// After this node has begun to follow a region.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Between two comparisons of the repositories that changed.
const CHANGED_EVERY: Duration = Duration::from_secs(5 * 60);
/// Between two comparisons of all.
const ALL_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long changes that are on their way are waited for before a repository is left for the next time.
const BEHIND_MAX: Duration = Duration::from_secs(60);
const BEHIND_PAUSE: Duration = Duration::from_millis(100);
/// Own records read in one view.
const VIEW_RECORDS: usize = 4096;
/// Manifests whose blobs are looked up in one view.
const VIEW_MANIFESTS: usize = 512;
/// Differences that are mended side by side: each costs some round trips to the other region.
const MENDS_AT_ONCE: usize = 16;

/// Tags whose manifests are looked up in one view.
const VIEW_TAGS: usize = 4096;

/// A blob that a manifest of the source names has no copy here.
const LOST_BLOB: &str = "blob_lost";

/// A difference that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In which repository.
    pub repository: RepositoryName,
    /// Of which tag.
    pub tag: Option<Tag>,
    /// Of which manifest, or blob; where there is neither, of the repository's settings.
    pub digest: Option<Digest>,
    /// Which difference: as [`Drift`] names it, `ahead`, [`LOST_BLOB`], or what hashing bytes found.
    pub kind: &'static str,
    /// Why it was not repaired; `None` if it was.
    pub left: Option<String>,
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparisonReport {
    /// Counts the comparisons since this node follows the source.
    pub number: u64,
    /// All repositories were compared, not only those that changed.
    pub is_whole: bool,
    /// It brings what the stream lost: differences were to be expected.
    pub is_resync: bool,
    /// When it began, milliseconds since 1970.
    pub began_at_ms: u64,
    /// When it ended; `None` while it is under way.
    pub ended_at_ms: Option<u64>,
    /// Life and index of the source's log at which the last repository was compared.
    pub lineage: u64,
    /// The index.
    pub index: u64,
    /// Repositories compared.
    pub repositories: u64,
    /// Those of them whose sums were equal.
    pub equal: u64,
    /// Those that could not be compared, because changes of them did not arrive in time.
    pub behind: u64,
    /// Records that the source sent of all of them.
    pub records: u64,
    /// What was judged one by one, by verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Differences that nothing explains; the first ones.
    pub found: Vec<Found>,
    /// How many there were of them, and how many of these were repaired.
    pub drifts: u64,
    /// The latter.
    pub repaired: u64,
    /// And how many of the others may go away by being tried again.
    pub passing: u64,
    /// Blobs that were hashed on both sides; `None` where that is not part of it.
    pub sample: Option<SampleReport>,
    /// Why it broke off.
    pub problem: Option<String>,
}

impl ComparisonReport {
    /// Whether everything that was to be compared was, and every difference had an explanation.
    pub fn is_clean(&self) -> bool {
        self.ended_at_ms.is_some() && self.problem.is_none() && self.behind == 0 && self.drifts == 0
    }
}

/// What is told of the comparisons with a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparisonState {
    /// The one under way, or the last one.
    pub last: Option<ComparisonReport>,
    /// When the last comparison of all repositories that found nothing ended, milliseconds since 1970.
    pub clean_at_ms: Option<u64>,
    /// Differences found since this node follows the source.
    pub drifts: u64,
    /// And repaired.
    pub repaired: u64,
}

/// Tells of comparisons, and is told to compare now.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    state: Mutex<ComparisonState>,
    asked: Notify,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Comparisons {
    pub(super) fn state(&self) -> ComparisonState {
        self.state.lock().clone()
    }

    /// All repositories are compared as soon as may be.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Compares with one source.
pub(super) struct Comparer {
    metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) status: Arc<SourceStatus>,
    comparisons: Arc<Comparisons>,
}

/// What is compared.
#[derive(Clone)]
struct Compared {
    name: RepositoryName,
    scope: Scope,
    /// Which deletes of the source are followed.
    deletes: Deletes,
    /// Records that the source says it has.
    count: u64,
}

fn is_unexplained(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Drift(_) | Verdict::Ahead)
}

/// A register that differs, as it was seen first.
struct Suspect {
    told: Told,
    here: Here,
    verdict: Verdict,
}

impl Comparer {
    pub(super) fn new(
        metadata: Metadata,
        source: Arc<Source>,
        arrivals: Arc<Arrivals>,
        status: Arc<SourceStatus>,
        comparisons: Arc<Comparisons>,
    ) -> Comparer {
        Comparer { metadata, source, arrivals, status, comparisons }
    }

    /// Compares again and again, until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut all_at = tokio::time::Instant::now() + FIRST_AFTER;
        let mut next = all_at;
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.comparisons.asked.notified() => true,
                () = tokio::time::sleep_until(next) => false,
            };
            let now = tokio::time::Instant::now();
            let changed = self.status.take_changed();
            // too many may have changed to be named
            let is_due = is_asked || now >= all_at;
            let is_whole = is_due || changed.is_none();
            let names: Vec<RepositoryName> =
                if is_whole { Vec::new() } else { changed.unwrap_or_default().into_iter().collect() };
            if is_whole || !names.is_empty() {
                let is_over = tokio::select! {
                    () = stop.cancelled() => return,
                    is_over = self.compare(&names, (is_whole, is_due)) => is_over,
                };
                match (is_over, is_whole) {
                    (true, true) if is_due => all_at = now + ALL_EVERY,
                    // made because much had changed: blobs are hashed when it is due all the same
                    (true, true) => {}
                    (false, true) => all_at = now,
                    (true, false) => {}
                    (false, false) => self.status.put_changed(names),
                }
            }
            next = tokio::time::Instant::now() + CHANGED_EVERY;
        }
    }

    fn begun(&self) -> ComparisonReport {
        let number = self.comparisons.state.lock().last.as_ref().map_or(0, |last| last.number) + 1;
        ComparisonReport { number, began_at_ms: SystemClock.wall_ms(), ..ComparisonReport::default() }
    }

    /// One comparison, told while it is under way; whether it came to its end. `draws`: blobs are hashed as well.
    async fn compare(&self, names: &[RepositoryName], (is_whole, draws): (bool, bool)) -> bool {
        let _turn = self.comparisons.turn.lock().await;
        let begun = self.begun();
        let draw = draws.then(|| Draw::new(begun.began_at_ms));
        self.comparisons.state.lock().last = Some(ComparisonReport { is_whole, ..begun });
        let ended = self.compare_both(names, is_whole, draw.as_ref()).await;
        if let (Ok(()), Some(draw)) = (&ended, &draw) {
            self.check_bytes(draw).await;
        }
        self.ended(ended.as_ref().err());
        ended.is_ok()
    }

    fn ended(&self, problem: Option<&Problem>) {
        let ended_at_ms = SystemClock.wall_ms();
        let mut state = self.comparisons.state.lock();
        let Some(report) = &mut state.last else { return };
        report.ended_at_ms = Some(ended_at_ms);
        report.problem = problem.map(ToString::to_string);
        let (drifts, repaired, is_clean) = (report.drifts, report.repaired, report.is_clean() && report.is_whole);
        let told = (report.repositories, report.problem.clone());
        state.drifts += drifts;
        state.repaired += repaired;
        if is_clean {
            state.clean_at_ms = Some(ended_at_ms);
        }
        drop(state);
        let (repositories, problem) = told;
        let region = &self.source.region;
        match (drifts, problem) {
            (_, Some(problem)) => {
                tracing::warn!(%region, problem, "a comparison of regions broke off; it is made again")
            }
            (0, None) => {
                tracing::info!(%region, repositories, "regions compared: no difference without an explanation")
            }
            (_, None) => tracing::error!(%region, repositories, drifts, repaired, "regions compared: they differed"),
        }
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut ComparisonReport)) {
        if let Some(report) = &mut self.comparisons.state.lock().last {
            change(report);
        }
    }

    /// Compares everything with a source whose stream does not reach back to what was applied here, and takes from the
    /// comparison what the stream can't bring. The life and index of its log from which on the stream is whole then.
    ///
    /// # Errors
    /// When the comparison broke off: nothing is to be followed before one ends well.
    pub(super) async fn resync(&self) -> Result<(Lineage, u64), Problem> {
        let _turn = self.comparisons.turn.lock().await;
        let region = &self.source.region;
        tracing::warn!(%region, "the stream of changes has a gap: what it lost is taken from a comparison");
        let report = ComparisonReport { is_whole: true, is_resync: true, ..self.begun() };
        self.comparisons.state.lock().last = Some(report);
        let ended = self.compare_named(&[], (self.source.number, None)).await;
        self.ended(ended.as_ref().err());
        let (lineage, index) = ended?.ok_or_else(|| Problem::passing("the other region told no index"))?;
        // what can't be brought at all stays told, and must not keep the rest away
        let report = self.comparisons.state.lock().last.clone().unwrap_or_default();
        match report.behind + report.passing {
            0 => Ok((Lineage(lineage), index)),
            left => Err(Problem::passing(format!("{left} differences could not be settled yet; it goes on"))),
        }
    }

    /// Compares what the source made, and with all of that what this region made, if it may have lost some.
    async fn compare_both(&self, names: &[RepositoryName], is_whole: bool, draw: Option<&Draw>) -> Result<(), Problem> {
        self.compare_named(names, (self.source.number, draw)).await?;
        let own = self.metadata.peek(|view| cluster::read(view));
        let is_set_back = |row: &cluster::ClusterRow| row.lineage != Lineage::first(row.cluster);
        match own.filter(is_set_back) {
            Some(own) if is_whole => self.compare_named(names, (own.region_number, None)).await.map(drop),
            Some(_) | None => Ok(()),
        }
    }

    /// Compares what a region made, the source or this one; the life of the source's log, and its index when it began.
    /// Blobs that are come across are offered to the draw.
    async fn compare_named(
        &self,
        names: &[RepositoryName],
        (origin, draw): (u16, Option<&Draw>),
    ) -> Result<Option<(u64, u64)>, Problem> {
        let own = self.metadata.peek(|view| cluster::region_number(view));
        let between = (origin, if origin == self.source.number { own } else { self.source.number });
        let mut replies = self.source.sums(names, self.seen(origin)).await?;
        let mut began = None;
        while let Some(reply) = replies.next().await? {
            began.get_or_insert((reply.lineage, reply.index));
            self.tell(|report| {
                report.lineage = reply.lineage;
                report.index = reply.index;
            });
            for there in reply.repositories {
                match Box::pin(self.compare_repository(&there, reply.index, (between, draw))).await {
                    // it was deleted there meanwhile, or is not sent any more
                    Ok(()) | Err(Problem::Moved) => {}
                    Err(problem) => return Err(problem),
                }
            }
        }
        Ok(began)
    }

    /// `source`, `destination`: who made the records, and who has them from there.
    async fn compare_repository(
        &self,
        there: &RepositorySum,
        index: u64,
        ((source, destination), draw): ((u16, u16), Option<&Draw>),
    ) -> Result<(), Problem> {
        let name = wire::repository(&there.repository)?;
        let sum = wire::sum(there.sum.as_ref().ok_or_else(|| Problem::lasting("a sum is missing"))?)?;
        let since = Since { own: there.since, others: there.others_since, settings: there.settings_since };
        // what is compared is told by who sends it: both sum up the same, whatever offer was heard of here
        let tags = wire::tags_heard(there.tags.as_ref())?;
        let scope = Scope { source, destination, since, tags };
        let deletes = Deletes { since: there.deletes_since, tags: wire::tags_heard(there.deletes_tags.as_ref())? };
        let compared = Compared { name, scope, deletes, count: sum.count };
        let mut own = self.own_sums(&compared).await?;
        let mut is_behind = false;
        if own.whole() != sum {
            is_behind = !self.await_applied(&compared.name, index).await;
            own = self.own_sums(&compared).await?;
        }
        let is_equal = own.whole() == sum || mutants::is_on(Mutant::SkipCompare);
        self.tell(|report| {
            // each is counted once
            if !self.is_own(&compared) {
                report.repositories += 1;
                report.records += sum.count;
                report.equal += u64::from(is_equal);
            }
            report.behind += u64::from(!is_equal && is_behind);
        });
        if !is_equal && !is_behind {
            let (index, suspects) = self.suspects(&compared, &own).await?;
            // what is beyond is found the next time
            let is_cut = suspects.len() >= SUSPECTS_MAX;
            self.tell(|report| report.behind += u64::from(is_cut));
            self.settle(&compared, index, suspects).await?;
        }
        self.mend_lost(&compared, draw).await
    }

    /// Waits until everything up to an index of the source's log that concerns a repository was applied; whether it
    /// was.
    async fn await_applied(&self, name: &RepositoryName, index: u64) -> bool {
        // without a stream nothing is on its way
        if self.status.state().has_gap {
            return true;
        }
        let until = tokio::time::Instant::now() + BEHIND_MAX;
        loop {
            match self.status.has_applied(name, index) {
                Some(true) => return true,
                Some(false) if tokio::time::Instant::now() < until => tokio::time::sleep(BEHIND_PAUSE).await,
                Some(false) | None => return false,
            }
        }
    }

    /// Reads rows of what is compared, which may not be here, without holding up what else this thread does.
    async fn read<R: Send + 'static>(
        &self,
        compared: &Compared,
        read: impl FnOnce(&View<'_>, Option<&RepositoryKey>, &Compared) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        let (metadata, compared) = (self.metadata.clone(), compared.clone());
        let done = tokio::task::spawn_blocking(move || {
            metadata.peek(|view| {
                let found = repository::find(view, RegistryId::DEFAULT, &compared.name);
                read(view, found.as_ref().map(|(key, _)| key), &compared)
            })
        });
        done.await.map_err(|_| Problem::passing("reading the rows failed"))
    }

    async fn own_sums(&self, compared: &Compared) -> Result<Sums, Problem> {
        let sums = |view: &View<'_>, key: Option<&RepositoryKey>, compared: &Compared| {
            key.map_or_else(Sums::default, |key| register::sums(view, key, &compared.scope))
        };
        self.read(compared, sums).await
    }

    /// Whether this region's own records are compared.
    fn is_own(&self, compared: &Compared) -> bool {
        compared.scope.source != self.source.number
    }

    /// What of the source's log is here, where records of a region are asked for. Behind a gap no index is of any use:
    /// it may be of another life of the log.
    fn seen(&self, origin: u16) -> Seen {
        let state = self.status.state();
        let number = self.source.number;
        let filled = self.metadata.peek(|view| {
            let lineage = cursor::of_source(view, number).map(|row| row.lineage);
            lineage.map_or(0, |lineage| backfill::filled(view, number, lineage))
        });
        let own = origin != self.source.number;
        match state.has_gap {
            true => Seen { applied: 0, filled: 0, own },
            false => Seen { applied: state.applied_index, filled, own },
        }
    }

    /// Everything that differs without an explanation, at an index of the source's log.
    async fn suspects(&self, compared: &Compared, own: &Sums) -> Result<(u64, Vec<Suspect>), Problem> {
        let Compared { name, scope, count, .. } = compared;
        let seen = self.seen(scope.source);
        let mut replies = self.source.differing(name, scope, seen, own).await?;
        let (mut index, mut suspects) = (0, Vec::new());
        let (mut differing, mut sent) = (BTreeSet::new(), HashSet::new());
        while let Some(reply) = replies.next().await? {
            index = reply.index;
            differing.extend(reply.buckets.iter().map(|at| *at as usize));
            let told = reply.records.into_iter().map(Told::try_from).collect::<Result<Vec<_>, _>>()?;
            sent.extend(told.iter().map(|told| told.register.hash()));
            // pushes may go on meanwhile
            if sent.len() as u64 > count.saturating_mul(2) + SUSPECTS_MAX as u64 {
                return Err(Problem::passing("the other region sends more records than it said it has"));
            }
            self.judge_all(compared, told, &mut suspects).await?;
        }
        // what is here of the source's, and was not among what it sent
        let mut after = None;
        loop {
            let (records, rest) = self.own_records(compared, after).await?;
            let is_unsent =
                |register: &Register| differing.contains(&register.bucket()) && !sent.contains(&register.hash());
            let unsent: Vec<Register> = records.into_iter().filter(is_unsent).collect();
            for asked in unsent.chunks(RECORDS_PER_MESSAGE) {
                let (told_at, told) = self.source.asked(name, scope, seen, asked).await?;
                index = index.max(told_at);
                self.judge_all(compared, told, &mut suspects).await?;
            }
            after = rest;
            if after.is_none() {
                return Ok((index, suspects));
            }
        }
    }

    async fn own_records(
        &self,
        compared: &Compared,
        after: Option<Register>,
    ) -> Result<(Vec<Register>, Option<Register>), Problem> {
        self.read(compared, move |view, key, compared| {
            let Some(key) = key else { return (Vec::new(), None) };
            let (records, rest) = register::page(view, key, &compared.scope, after.as_ref(), VIEW_RECORDS);
            (records.into_iter().map(|(register, _)| register).collect(), rest)
        })
        .await
    }

    /// Judges what the source told, and keeps what nothing explains.
    async fn judge_all(
        &self,
        compared: &Compared,
        told: Vec<Told>,
        suspects: &mut Vec<Suspect>,
    ) -> Result<(), Problem> {
        let judged = self.judged(compared, told).await?;
        for suspect in judged {
            let verdict = suspect.verdict;
            if !is_unexplained(verdict) {
                self.tell(|report| *report.verdicts.entry(verdict.as_str()).or_default() += 1);
            } else if suspects.len() < SUSPECTS_MAX {
                suspects.push(suspect);
            }
        }
        Ok(())
    }

    async fn judged(&self, compared: &Compared, told: Vec<Told>) -> Result<Vec<Suspect>, Problem> {
        let (source, is_own) = (self.source.number, self.is_own(compared));
        self.read(compared, move |view, key, compared| {
            let created_at_ms =
                repository::find(view, RegistryId::DEFAULT, &compared.name).map(|(_, row)| row.created_at_ms);
            let parked: BTreeSet<Register> = parked::list(view, source, None, PARKED_MAX)
                .into_iter()
                .filter(|(_, row)| row.repository == compared.name)
                .map(|(_, row)| row.change.register())
                .collect();
            let judged = |told: Told| {
                let target = if let There::Sent(record) = &told.there { Some(record.digest) } else { None };
                let is_parked = parked.contains(&told.register);
                let absent = Here { record: None, rank: Rank::NEVER, target_gone: None, is_parked };
                let here = |key| register::here(view, key, &told.register, target.as_ref(), is_parked);
                let here = key.map_or(absent, here);
                let is_attached = key.is_some_and(|key| register::is_attached(view, key, &told.register));
                let is_followed = compared.deletes.follow(&told.register, &told.there, is_attached)
                    || is_own && compared.deletes.follow_own(&told.there, compared.scope.source);
                let verdict = judge(compared.scope.source, &told.there, &here, is_followed);
                let verdict = if is_own { of_own(verdict, &told.there, created_at_ms) } else { verdict };
                Suspect { told, here, verdict }
            };
            told.into_iter().map(judged).collect()
        })
        .await
    }

    /// Looks a second time, and mends what is as it was.
    async fn settle(&self, compared: &Compared, index: u64, suspects: Vec<Suspect>) -> Result<(), Problem> {
        let Compared { name, scope, .. } = compared;
        if suspects.is_empty() {
            return Ok(());
        }
        if !self.await_applied(name, index).await {
            self.tell(|report| report.behind += 1);
            return Ok(());
        }
        for first in suspects.chunks(RECORDS_PER_MESSAGE) {
            let registers: Vec<Register> = first.iter().map(|suspect| suspect.told.register.clone()).collect();
            let (_, told) = self.source.asked(name, scope, self.seen(scope.source), &registers).await?;
            let second = self.judged(compared, told).await?;
            let is_same = |first: &Suspect, second: &Suspect| {
                (&first.told, &first.here, first.verdict) == (&second.told, &second.here, second.verdict)
            };
            let (confirmed, others): (Vec<_>, Vec<_>) =
                first.iter().zip(second).partition(|(first, second)| is_same(first, second));
            // where no stream will bring it, what differs otherwise now is to be looked at again
            let is_open = |(_, second): &&(&Suspect, Suspect)| is_unexplained(second.verdict);
            let open = if self.status.state().has_gap { others.iter().filter(is_open).count() as u64 } else { 0 };
            self.tell(|report| report.behind += open);
            let confirmed = confirmed.into_iter().map(|(_, suspect)| suspect);
            stream::iter(confirmed).for_each_concurrent(MENDS_AT_ONCE, |suspect| self.mend(name, suspect)).await;
        }
        Ok(())
    }

    async fn mend(&self, name: &RepositoryName, suspect: Suspect) {
        let Suspect { told, verdict, .. } = suspect;
        let left = match (verdict, &told.there) {
            (Verdict::Drift(drift), there) => {
                let creates = self.is_new(there);
                self.arrivals.mend(name, &told, drift, creates).await.err()
            }
            _ => Some(Problem::lasting("the other region has lost what it sent: its state was set back")),
        };
        let is_passing = matches!(left, Some(Problem::Passing(_)));
        self.tell(|report| report.passing += u64::from(is_passing));
        let (tag, digest) = told.register.named();
        let (tag, digest) = (tag.cloned(), digest.copied());
        let (repository, kind) = (name.clone(), verdict.as_str());
        self.found(Found { repository, tag, digest, kind, left: left.map(|problem| problem.to_string()) });
    }

    /// Whether a record was made after everything that this region has applied of the stream, so that its repository
    /// was never here; without a gap the stream brings it.
    fn is_new(&self, there: &There) -> bool {
        let There::Sent(record) = there else { return false };
        let since_ms = self.metadata.peek(|view| cursor::of_source(view, self.source.number)).map(|row| row.at_ms);
        self.status.state().has_gap && since_ms.is_none_or(|at_ms| record.version.hlc > at_ms.saturating_mul(1000))
    }

    pub(super) fn found(&self, found: Found) {
        let (region, repository, kind) = (&self.source.region, &found.repository, found.kind);
        let what = found.tag.as_ref().map(ToString::to_string).or(found.digest.as_ref().map(ToString::to_string));
        let what = what.unwrap_or_else(|| "settings".to_owned());
        match &found.left {
            None => tracing::warn!(%region, %repository, what, kind, "a difference was repaired"),
            Some(reason) => tracing::error!(%region, %repository, what, kind, reason, "a difference stays"),
        }
        self.tell(|report| {
            *report.verdicts.entry(kind).or_default() += 1;
            report.drifts += 1;
            report.repaired += u64::from(found.left.is_none());
            if report.found.len() < DRIFTS_TOLD_MAX {
                report.found.push(found);
            }
        });
    }

    /// Brings what the source's tags and manifests name here and that is lost: manifests without a row, blobs without a
    /// copy; the other blobs are offered to the draw.
    async fn mend_lost(&self, compared: &Compared, draw: Option<&Draw>) -> Result<(), Problem> {
        let mut after = None;
        loop {
            let (lost, rest) = self.lost_targets(compared, after).await?;
            self.bring_anew(&compared.name, lost).await;
            after = rest;
            if after.is_none() {
                break;
            }
        }
        let mut after = None;
        loop {
            let (lost, rest) = self.lost_content(compared, after, draw.cloned()).await?;
            self.bring_anew(&compared.name, lost).await;
            after = rest;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn bring_anew(&self, name: &RepositoryName, lost: Vec<Lost>) {
        for lost in lost {
            let (kind, brought) = match &lost {
                Lost::Blob(blob) => (LOST_BLOB, self.arrivals.bring_blob_anew(name, blob).await),
                Lost::Manifest { digest, named_at } => {
                    let brought = self.arrivals.bring_manifest_anew(name, digest, *named_at).await;
                    (Drift::Missing.as_str(), brought)
                }
            };
            // what the source has no longer either is lost, and told
            let (repository, digest) = (name.clone(), Some(lost.digest()));
            let left = brought.err().map(|problem| problem.to_string());
            self.found(Found { repository, tag: None, digest, kind, left });
        }
    }

    async fn lost_targets(&self, compared: &Compared, after: Option<Tag>) -> Result<(Vec<Lost>, Option<Tag>), Problem> {
        self.read(compared, move |view, key, compared| {
            let Some(key) = key else { return (Vec::new(), None) };
            register::lost_targets(view, key, &compared.scope, after.as_ref(), VIEW_TAGS)
        })
        .await
    }

    async fn lost_content(
        &self,
        compared: &Compared,
        after: Option<Digest>,
        draw: Option<Draw>,
    ) -> Result<(Vec<Lost>, Option<Digest>), Problem> {
        self.read(compared, move |view, key, compared| {
            let Some(key) = key else { return (Vec::new(), None) };
            let see = |blob: &Referenced| {
                if let Some(draw) = &draw {
                    draw.offer(&compared.name, blob);
                }
            };
            register::lost_content(view, key, &compared.scope, after.as_ref(), VIEW_MANIFESTS, see)
        })
        .await
    }
}

/// What a verdict is where both records are of this region's making.
fn of_own(verdict: Verdict, there: &There, created_at_ms: Option<u64>) -> Verdict {
    // what is of a repository that was deleted here went with it, whatever has its name now
    let is_of_this =
        |record: &Record| created_at_ms.is_some_and(|at_ms| record.version.hlc >= at_ms.saturating_mul(1000));
    match (verdict, there) {
        (Verdict::Drift(_), There::Sent(record)) if !is_of_this(record) => Verdict::DeletedHere,
        // the source may not have heard of it yet
        (Verdict::Ahead, _) | (Verdict::Drift(Drift::Extra), There::Never) => Verdict::WonHere,
        (verdict, _) => verdict,
    }
}

/// Why a difference of a kind can't be mended from here.
pub(super) fn unmendable(drift: Drift) -> Problem {
    Problem::lasting(match drift {
        Drift::Extra => {
            "the other region knows nothing of it, and this region's journal says that it was set: look into it"
        }
        Drift::Different => "both regions' rows agree with their journals: look into it",
        Drift::Missing | Drift::Stale => "it changed meanwhile",
    })
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::Version;

    use super::*;

    // Of its own records a region takes back what it lacks and what was deleted, nothing of a repository that it has
    // deleted, and nothing that the other region has not heard of is a difference.
    #[test]
    fn own_records() {
        let version = Version { home_epoch: 0, hlc: 5_000_000, region: 1 };
        let record = Record { digest: Digest::sha256(b"1"), version, base: version };
        let (sent, missing, extra) =
            (There::Sent(record), Verdict::Drift(Drift::Missing), Verdict::Drift(Drift::Extra));
        assert_eq!(of_own(missing, &sent, Some(4000)), missing);
        assert_eq!(of_own(missing, &sent, Some(5001)), Verdict::DeletedHere);
        assert_eq!(of_own(missing, &sent, None), Verdict::DeletedHere);
        assert_eq!(of_own(extra, &There::Gone(version), Some(4000)), extra);
        assert_eq!(of_own(extra, &There::Never, Some(4000)), Verdict::WonHere);
        assert_eq!(of_own(Verdict::Ahead, &There::Apart(record), Some(4000)), Verdict::WonHere);
        assert_eq!(of_own(Verdict::WonHere, &sent, Some(4000)), Verdict::WonHere);
    }
}
