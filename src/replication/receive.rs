//! The destination's side of one link: follows the stream, spreads changes over lanes, moves the cursor behind them.
//!
//! A repository's changes go through one lane, deletes and settings behind what came before them there; a lane that
//! waits for large images, or for a source that does not answer, holds up its own repositories only. The cursor stands
//! below the oldest change that is not done. What was received and is not done when the node stops, or another one
//! leads, comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use registry_core::metadata::cursor::{self, MoveCursor};
use registry_core::metadata::keys;
use registry_core::metadata::offer::{self, NoteOffer};
use registry_core::metadata::parked::ParkEvent;
use registry_core::mutants::{self, Mutant};
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::ids::{Lineage, RegistryId};
use registry_core::vocabulary::limits::{CHANGE_LANES, CHANGES_OPEN_MAX, LANE_AT_ONCE, SUMS_ASKED_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arrive::{Arrivals, Arrived, Problem};
use super::backfill::Backfiller;
use super::client::{SILENCE_MAX, Source};
use super::compare::{Comparer, Comparisons};
use super::flight::Flights;
use super::principal;
use super::retry::Retrier;
use super::wire::proto::{self, ChangesReply};
use super::wire::{self, Travelling};
use crate::ground::clock::whole_ms;
use crate::ground::random;
use crate::metadata::Metadata;
use crate::registry::Registry;

/// Between two tries of one change, and of the stream; each is doubled up to the longest, and up to half of it is
/// chance.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Tries after which a change that can't succeed is put aside.
const LASTING_TRIES: u32 = 3;
/// Between two moves of the cursor while changes are applied.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// And while nothing concerns this region: each move is an entry of the log, which the other region sees in turn.
const COMMIT_IDLE: Duration = Duration::from_secs(60);

/// Where this node stands with a region that it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceState {
    /// The stream is open.
    pub is_connected: bool,
    /// Why it is not, or what a change waits for; the last of it.
    pub problem: Option<String>,
    /// The stream does not reach back to the cursor: nothing comes until that is settled.
    pub has_gap: bool,
    /// Everything up to this index of the source's log has been received.
    pub received_index: u64,
    /// And applied.
    pub applied_index: u64,
    /// Changes received and not applied.
    pub open: u64,
    /// When the oldest of them was made, milliseconds since 1970 by the source's clock.
    pub oldest_at_ms: Option<u64>,
    /// The source's time when it spoke last.
    pub source_now_ms: u64,
    /// Changes applied since this node follows.
    pub applied: u64,
    /// Changes put aside since this node follows.
    pub parked: u64,
}

impl SourceState {
    /// Age of the oldest change that is not applied, by the source's clock, milliseconds.
    pub fn lag_ms(&self) -> u64 {
        self.oldest_at_ms.map_or(0, |at_ms| self.source_now_ms.saturating_sub(at_ms))
    }

    /// All that the source acknowledged before this time of its clock is here, or put aside; zero before it has spoken.
    pub fn complete_ms(&self) -> u64 {
        self.oldest_at_ms.map_or(self.source_now_ms, |at_ms| at_ms.min(self.source_now_ms))
    }
}

/// What is told of a link while it is followed.
#[derive(Debug, Default)]
pub struct SourceStatus(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    state: SourceState,
    /// Changes that are not done: how many of each index, and when the first was made.
    open: BTreeMap<u64, (u64, u64)>,
    /// The same by repository.
    open_in: BTreeMap<RepositoryName, BTreeMap<u64, u64>>,
    /// Everything up to here was given to lanes.
    through: u64,
    /// How often the stream was begun anew: what was open before does not count any more.
    life: u64,
    /// Repositories that changes came for since they were compared; `None` if there were too many.
    changed: Option<BTreeSet<RepositoryName>>,
    /// The youngest rule there that has what was before it copied, and the life of the log that its index is of.
    backfill: Option<(Lineage, u64)>,
}

impl SourceStatus {
    /// As it is now.
    pub fn state(&self) -> SourceState {
        let told = self.0.lock();
        SourceState {
            received_index: told.through,
            applied_index: told.watermark(),
            open: told.open.values().map(|(count, _)| count).sum(),
            oldest_at_ms: told.open.values().map(|(_, at_ms)| *at_ms).min(),
            ..told.state.clone()
        }
    }

    /// The youngest rule of the source that has what was before it copied, as it said last.
    pub(super) fn backfill(&self) -> Option<(Lineage, u64)> {
        self.0.lock().backfill
    }

    fn tell(&self, change: impl FnOnce(&mut SourceState)) {
        change(&mut self.0.lock().state);
    }

    /// A change is given to a lane; in which life of the stream.
    fn begin(&self, travelling: &Travelling) -> u64 {
        let mut told = self.0.lock();
        told.open.entry(travelling.index).or_insert((0, travelling.at_ms)).0 += 1;
        let of_repository = told.open_in.entry(travelling.repository.clone()).or_default();
        *of_repository.entry(travelling.index).or_default() += 1;
        if let Some(changed) = &mut told.changed
            && !changed.contains(&travelling.repository)
        {
            changed.insert(travelling.repository.clone());
            if changed.len() > SUMS_ASKED_MAX {
                told.changed = None;
            }
        }
        told.life
    }

    /// The repositories that changes came for since this was asked last; `None` if they are too many to be named.
    pub(super) fn take_changed(&self) -> Option<BTreeSet<RepositoryName>> {
        self.0.lock().changed.replace(BTreeSet::new())
    }

    fn done(&self, life: u64, travelling: &Travelling) {
        let mut told = self.0.lock();
        if told.life != life {
            return;
        }
        let index = travelling.index;
        if let Some((count, _)) = told.open.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                told.open.remove(&index);
            }
        }
        let Some(of_repository) = told.open_in.get_mut(&travelling.repository) else { return };
        if let Some(count) = of_repository.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                of_repository.remove(&index);
            }
        }
        if of_repository.is_empty() {
            told.open_in.remove(&travelling.repository);
        }
    }

    /// Whether everything up to an index that concerns a repository was applied; `None` when nothing comes, so that it
    /// is no use to wait.
    pub(super) fn has_applied(&self, name: &RepositoryName, index: u64) -> Option<bool> {
        let told = self.0.lock();
        let is_open =
            told.open_in.get(name).and_then(|open| open.first_key_value()).is_some_and(|(at, _)| *at <= index);
        let is_received = told.through >= index;
        (is_received || told.state.is_connected).then_some(is_received && !is_open)
    }

    /// These are to be compared the next time.
    pub(super) fn put_changed(&self, names: Vec<RepositoryName>) {
        if let Some(changed) = &mut self.0.lock().changed {
            changed.extend(names);
        }
    }

    fn through(&self, index: u64, now_ms: u64) {
        let mut told = self.0.lock();
        told.through = told.through.max(index);
        told.state.source_now_ms = now_ms;
    }

    fn restart(&self, index: u64) {
        let mut told = self.0.lock();
        *told = Told { through: index, life: told.life + 1, changed: Some(BTreeSet::new()), ..Told::default() };
    }
}

impl Told {
    /// Everything up to here is done.
    fn watermark(&self) -> u64 {
        self.open.first_key_value().map_or(self.through, |(first, _)| first.saturating_sub(1).min(self.through))
    }
}

/// Follows one region.
pub(super) struct Receiver {
    metadata: Metadata,
    source: Arc<Source>,
    arrivals: Arc<Arrivals>,
    status: Arc<SourceStatus>,
    comparisons: Arc<Comparisons>,
}

/// A change in a lane, which bounds how many there are.
struct Queued {
    travelling: Travelling,
    life: u64,
    _room: OwnedSemaphorePermit,
}

/// The lanes of a link.
struct Lanes {
    queues: Vec<mpsc::UnboundedSender<Queued>>,
    room: Arc<Semaphore>,
}

/// What has been told to the log, and to the source.
struct Committed {
    present: Option<(Lineage, u64)>,
    at: Instant,
    applied: u64,
}

impl Receiver {
    pub(super) fn new(metadata: Metadata, registry: Registry, source: Arc<Source>, flights: Arc<Flights>) -> Receiver {
        let arrivals = Arc::new(Arrivals::new(metadata.clone(), registry, Arc::clone(&source), flights));
        Receiver { metadata, source, arrivals, status: Arc::default(), comparisons: Arc::default() }
    }

    pub(super) fn comparisons(&self) -> Arc<Comparisons> {
        Arc::clone(&self.comparisons)
    }

    /// What tries again what was put aside.
    pub(super) fn retrier(&self) -> Retrier {
        let (source, arrivals) = (Arc::clone(&self.source), Arc::clone(&self.arrivals));
        Retrier { metadata: self.metadata.clone(), source, arrivals }
    }

    /// What compares with the source while it is followed.
    pub(super) fn comparer(&self) -> Comparer {
        let (source, arrivals) = (Arc::clone(&self.source), Arc::clone(&self.arrivals));
        let (status, comparisons) = (Arc::clone(&self.status), Arc::clone(&self.comparisons));
        Comparer::new(self.metadata.clone(), source, arrivals, status, comparisons)
    }

    /// What takes over what the source held before its rules.
    pub(super) fn backfiller(&self) -> Backfiller {
        let (metadata, source, status) = (self.metadata.clone(), Arc::clone(&self.source), Arc::clone(&self.status));
        Backfiller { metadata, source, status, lane: self.lane() }
    }

    fn lane(&self) -> Lane {
        Lane {
            metadata: self.metadata.clone(),
            source: Arc::clone(&self.source),
            arrivals: Arc::clone(&self.arrivals),
            status: Arc::clone(&self.status),
        }
    }

    pub(super) fn status(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.status)
    }

    /// Follows until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let present = self.metadata.peek(|view| cursor::of_source(view, self.source.number));
        let present = present.map(|row| (row.lineage, row.index));
        self.status.restart(present.map_or(0, |(_, index)| index));
        let mut committed = Committed { present, at: Instant::now(), applied: 0 };
        let lanes = self.open_lanes(&stop);
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = self.follow(&lanes, &mut committed) => ended,
            };
            self.status.tell(|state| {
                state.is_connected = false;
                state.problem = Some(ended.to_string());
            });
            tracing::warn!(region = %self.source.region, problem = %ended, "changes of a region are not followed now");
            if self.status.0.lock().state.has_gap {
                let closed = tokio::select! {
                    () = stop.cancelled() => return,
                    closed = self.close_gap(&mut committed) => closed,
                };
                match closed {
                    Ok(()) => continue,
                    Err(problem) => {
                        tracing::error!(region = %self.source.region, %problem, "a gap could not be closed; it is tried again");
                        self.status.tell(|state| state.problem = Some(problem.to_string()));
                    }
                }
            }
            self.source.turn();
            // a stream that held for a while was a good one
            pause = if began.elapsed() > PAUSE_MAX { PAUSE } else { (pause * 2).min(PAUSE_MAX / 10) };
            let until = Instant::now() + jittered(pause);
            // what is in the lanes goes on meanwhile, and so does the cursor
            while Instant::now() < until {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(COMMIT_EVERY) => self.commit(&mut committed).await,
                }
            }
        }
    }

    /// What the stream lost comes from a comparison, and the stream goes on from where that began.
    async fn close_gap(&self, committed: &mut Committed) -> Result<(), Problem> {
        let (lineage, index) = self.comparer().resync().await?;
        let (source, before, complete_ms) = (self.source.number, committed.present, 0);
        let to = MoveCursor { source, before, lineage, index, complete_ms };
        let moved = self.metadata.propose(&principal(&self.source.region), vec![to.into()]).await;
        moved.map_err(|error| Problem::passing(error.to_string()))?;
        *committed = Committed { present: Some((lineage, index)), at: Instant::now(), applied: 0 };
        self.status.restart(index);
        tracing::info!(region = %self.source.region, index, "a gap is closed; changes are followed again");
        Ok(())
    }

    fn open_lanes(&self, stop: &CancellationToken) -> Lanes {
        let open = |_| {
            let (queue, queued) = mpsc::unbounded_channel();
            let (lane, stop) = (self.lane(), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(lane.run(queued)).await });
            queue
        };
        Lanes { queues: (0..CHANGE_LANES).map(open).collect(), room: Arc::new(Semaphore::new(CHANGES_OPEN_MAX)) }
    }

    /// Follows one stream until it ends; why it did.
    async fn follow(&self, lanes: &Lanes, committed: &mut Committed) -> Problem {
        match self.follow_stream(lanes, committed).await {
            Ok(()) => Problem::passing("the other region ended the stream"),
            Err(problem) => problem,
        }
    }

    async fn follow_stream(&self, lanes: &Lanes, committed: &mut Committed) -> Result<(), Problem> {
        // behind what was received in this life: what is not applied of it is in the lanes
        let after = self.status.0.lock().through;
        let lineage = committed.present.map_or(0, |(lineage, _)| lineage.0);
        let mut stream = self.source.changes(lineage, after).await?;
        let mut tick = tokio::time::interval(COMMIT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut spoke = Instant::now();
        loop {
            tokio::select! {
                message = stream.message() => match message.map_err(|status| Problem::of_stream(&status))? {
                    Some(reply) => {
                        spoke = Instant::now();
                        self.take(reply, lanes, committed).await?;
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.commit(committed).await;
                    if spoke.elapsed() > SILENCE_MAX {
                        return Err(Problem::passing("the other region has fallen silent"));
                    }
                }
            }
        }
    }

    /// Gives what came to the lanes.
    async fn take(&self, reply: ChangesReply, lanes: &Lanes, committed: &mut Committed) -> Result<(), Problem> {
        let lineage = Lineage(reply.lineage);
        if let Some(gap) = reply.gap {
            self.status.tell(|state| state.has_gap = true);
            return Err(Problem::Lasting(format!(
                "the stream of '{}' begins at {} of life {lineage}, behind what was applied here: the regions have to be \
                 compared",
                self.source.region, gap.begins
            )));
        }
        if committed.present.is_some_and(|(known, _)| known != lineage) {
            return Err(Problem::lasting("the other region's log has begun another life"));
        }
        if committed.present.is_none() {
            committed.present = Some((lineage, 0));
            self.begin_cursor(lineage, committed).await?;
        }
        self.status.tell(|state| {
            state.is_connected = true;
            state.has_gap = false;
            state.problem = None;
        });
        for change in reply.changes {
            let travelling = Travelling::try_from(change)?;
            let room = Arc::clone(&lanes.room).acquire_owned().await;
            let Ok(room) = room else { return Err(Problem::passing("this node stops")) };
            let life = self.status.begin(&travelling);
            let slot = keys::repository_slot(RegistryId::DEFAULT, &travelling.repository);
            let lane = usize::from(slot) % CHANGE_LANES;
            drop(lanes.queues[lane].send(Queued { travelling, life, _room: room }));
        }
        if let Some(offer) = reply.offer {
            self.note_offer(lineage, offer).await?;
        }
        if reply.through > 0 {
            self.status.through(reply.through, reply.now_ms);
        }
        Ok(())
    }

    /// What the source's rules send here, for when it can't be asked.
    async fn note_offer(&self, lineage: Lineage, offer: proto::Offer) -> Result<(), Problem> {
        let (offer, backfill) = wire::offer(offer)?;
        let number = self.source.number;
        if self.metadata.peek(|view| offer::read(view, number)) != offer {
            let note = NoteOffer { number, offer };
            let proposed = self.metadata.propose(&principal(&self.source.region), vec![note.into()]).await;
            proposed.map_err(|error| Problem::passing(error.to_string()))?;
        }
        self.status.0.lock().backfill = Some((lineage, backfill));
        Ok(())
    }

    /// The first cursor: from now on this life of the source's log counts.
    async fn begin_cursor(&self, lineage: Lineage, committed: &mut Committed) -> Result<(), Problem> {
        let begin = MoveCursor { source: self.source.number, before: None, lineage, index: 0, complete_ms: 0 };
        let proposed = self.metadata.propose(&principal(&self.source.region), vec![begin.into()]).await;
        if let Err(error) = proposed {
            committed.present = None;
            return Err(Problem::passing(error.to_string()));
        }
        Ok(())
    }

    /// Moves the cursor to where everything is done, if that is worth an entry of the log.
    async fn commit(&self, committed: &mut Committed) {
        let Some((lineage, index)) = committed.present else { return };
        let early = mutants::is_on(Mutant::EarlyCursor);
        let state = self.status.state();
        let watermark = if early { state.received_index } else { state.applied_index };
        let (applied, complete_ms) = (state.applied, state.complete_ms());
        let pause = if applied == committed.applied { COMMIT_IDLE } else { COMMIT_EVERY };
        if watermark <= index || committed.at.elapsed() < pause {
            return;
        }
        let (source, before) = (self.source.number, committed.present);
        let to = MoveCursor { source, before, lineage, index: watermark, complete_ms };
        match self.metadata.propose(&principal(&self.source.region), vec![to.into()]).await {
            Ok(_) => {
                *committed = Committed { present: Some((lineage, watermark)), at: Instant::now(), applied };
                if let Err(problem) = self.source.note(lineage.0, watermark).await {
                    tracing::debug!(region = %self.source.region, %problem, "a region was not told how far its changes are");
                }
            }
            Err(error) => {
                tracing::debug!(region = %self.source.region, %error, "a cursor was not moved; it is tried again")
            }
        }
    }
}

/// Half to whole of a pause.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half + Duration::from_millis(random::jitter_below(whole_ms(half)))
}

/// Applies the changes of some repositories.
pub(super) struct Lane {
    metadata: Metadata,
    source: Arc<Source>,
    arrivals: Arc<Arrivals>,
    status: Arc<SourceStatus>,
}

/// The changes of a lane that are under way: how many of each repository, and whether one of them goes alone.
#[derive(Debug, Default)]
struct UnderWay(BTreeMap<RepositoryName, (usize, bool)>);

impl UnderWay {
    /// Whether a change of a repository may begin; `alone`: it waits for all that came before it.
    fn lets_in(&self, name: &RepositoryName, alone: bool) -> bool {
        self.0.get(name).is_none_or(|(_, is_alone)| !alone && !is_alone)
    }

    fn begin(&mut self, name: RepositoryName, alone: bool) {
        let (count, is_alone) = self.0.entry(name).or_default();
        *count += 1;
        *is_alone |= alone;
    }

    fn end(&mut self, name: &RepositoryName) {
        let Some((count, _)) = self.0.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(name);
        }
    }
}

impl Lane {
    /// What is put or set goes side by side, because each costs round trips and rank decides, in whatever order it
    /// ends. A delete, or a setting, waits for what came before it in its repository, and what comes behind it there
    /// waits for that; other repositories of the lane wait only where they stand behind one that waits.
    async fn run(self, mut queued: mpsc::UnboundedReceiver<Queued>) {
        let (mut ending, mut under_way) = (FuturesUnordered::new(), UnderWay::default());
        loop {
            tokio::select! {
                Some(name) = ending.next() => under_way.end(&name),
                next = queued.recv(), if ending.len() < LANE_AT_ONCE => {
                    let Some(next) = next else { return };
                    let (name, alone) = (next.travelling.repository.clone(), next.travelling.change.waits());
                    while !under_way.lets_in(&name, alone) {
                        let Some(ended) = ending.next().await else { break };
                        under_way.end(&ended);
                    }
                    under_way.begin(name.clone(), alone);
                    ending.push(self.finished(name, next));
                }
            }
        }
    }

    async fn finished(&self, name: RepositoryName, queued: Queued) -> RepositoryName {
        self.finish(queued).await;
        name
    }

    async fn finish(&self, Queued { travelling, life, _room }: Queued) {
        self.settle(&travelling).await;
        self.status.done(life, &travelling);
    }

    /// Applies a change, however long it takes, or puts it aside.
    pub(super) async fn settle(&self, travelling: &Travelling) {
        let (mut pause, mut lasting) = (PAUSE, 0);
        loop {
            match self.arrivals.apply(travelling).await {
                Ok(arrived) => {
                    let is_new = arrived == Arrived::Applied;
                    self.status.tell(|state| state.applied += u64::from(is_new));
                    return;
                }
                Err(problem) => {
                    lasting += u32::from(matches!(problem, Problem::Lasting(_)));
                    if lasting >= LASTING_TRIES && self.park(travelling, &problem).await {
                        return;
                    }
                    let (index, repository) = (travelling.index, &travelling.repository);
                    tracing::warn!(region = %self.source.region, index, %repository, %problem, "a change waits");
                    self.status.tell(|state| state.problem = Some(format!("{repository}: {problem}")));
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn park(&self, travelling: &Travelling, problem: &Problem) -> bool {
        let Travelling { index, repository, change, .. } = travelling.clone();
        let reason = problem.to_string();
        let park = ParkEvent { source: self.source.number, index, repository, change, reason };
        match self.metadata.propose(&principal(&self.source.region), vec![park.into()]).await {
            Ok(_) => {
                let (region, repository) = (&self.source.region, &travelling.repository);
                tracing::error!(%region, index, %repository, %problem, "a change can't be applied, and is put aside");
                self.status.tell(|state| state.parked += 1);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a change can't be put aside either");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use registry_core::metadata::outbox::Change;
    use registry_core::vocabulary::{RepositoryName, Tag, Version};

    use super::*;

    fn travelling(index: u64) -> Travelling {
        let (tag, version) = (Tag::parse("t").unwrap(), Version::default());
        let change = Change::TagGone { tag, version, previous: version };
        Travelling { index, repository: RepositoryName::parse("r").unwrap(), change, at_ms: index * 10, acts: false }
    }

    // R10: the cursor stands below the oldest change that is not done, whatever was done behind it, and never beyond
    // what was received.
    #[test]
    fn r10_the_cursor_never_runs_ahead() {
        let status = SourceStatus::default();
        status.restart(3);
        assert_eq!(status.state().applied_index, 3);
        let life = [5, 7, 7, 9].map(|index| status.begin(&travelling(index)))[0];
        assert_eq!(status.state().applied_index, 3, "the round is not over: something below 5 may come");
        status.through(12, 200);
        assert_eq!(status.state().applied_index, 4);
        status.done(life, &travelling(7));
        status.done(life, &travelling(9));
        assert_eq!(status.state().applied_index, 4);
        let name = RepositoryName::parse("r").unwrap();
        let applied = |index| status.has_applied(&name, index);
        assert_eq!((applied(4), applied(5), applied(13)), (Some(true), Some(false), None));
        status.done(life, &travelling(5));
        assert_eq!(status.state().applied_index, 6);
        let state = status.state();
        assert_eq!((state.open, state.oldest_at_ms, state.lag_ms()), (1, Some(70), 130));
        status.done(life, &travelling(7));
        assert_eq!(status.state().applied_index, 12);
        assert_eq!(status.state().lag_ms(), 0);
    }

    // A change that goes alone waits for those of its repository, and they for it; other repositories for neither.
    #[test]
    fn who_waits_for_whom_in_a_lane() {
        let [app, other] = ["team/app", "team/other"].map(|name| RepositoryName::parse(name).unwrap());
        let mut under_way = UnderWay::default();
        let lets_in =
            |under_way: &UnderWay, name: &RepositoryName| [false, true].map(|alone| under_way.lets_in(name, alone));
        assert_eq!(lets_in(&under_way, &app), [true, true]);
        under_way.begin(app.clone(), false);
        under_way.begin(app.clone(), false);
        assert_eq!((lets_in(&under_way, &app), lets_in(&under_way, &other)), ([true, false], [true, true]));
        under_way.end(&app);
        assert_eq!(lets_in(&under_way, &app), [true, false], "one is left");
        under_way.end(&app);
        under_way.begin(app.clone(), true);
        assert_eq!((lets_in(&under_way, &app), lets_in(&under_way, &other)), ([false, false], [true, true]));
        under_way.end(&app);
        under_way.begin(other.clone(), false);
        assert_eq!((lets_in(&under_way, &app), lets_in(&under_way, &other)), ([true, true], [true, false]));
    }

    // What was open before the stream was begun anew does not move the cursor of after.
    #[test]
    fn r10_lives_of_a_stream_are_kept_apart() {
        let status = SourceStatus::default();
        status.restart(3);
        let old = status.begin(&travelling(9));
        status.restart(5);
        let new = status.begin(&travelling(9));
        status.through(12, 200);
        status.done(old, &travelling(9));
        assert_eq!(status.state().applied_index, 8);
        status.done(new, &travelling(9));
        assert_eq!(status.state().applied_index, 12);
        assert_eq!(status.take_changed().map(|changed| changed.len()), Some(1));
        assert_eq!(status.take_changed().map(|changed| changed.len()), Some(0));
    }
}
