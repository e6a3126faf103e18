//! The destination's side of a backfill: takes over what a source held before a rule that has it copied.
//!
//! Each record is made true like any change, so that nothing newer and no delete is undone, and what is here costs no
//! byte. Where the walk stands is noted in the log now and then: another leader goes on there, and what was settled
//! behind the note is found to be here. Source: consensus-and-faults §6.4, security-cases R14.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use registry_core::metadata::backfill::{self, BackfillRow, MoveBackfill, Place};
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::ids::Lineage;
use registry_core::vocabulary::limits::BACKFILL_AT_ONCE;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::arrive::Problem;
use super::client::{Replies, Source};
use super::principal;
use super::receive::{Lane, SourceStatus};
use super::wire::proto::{self, BackfillReply};
use super::wire::{self, Travelling};
use crate::metadata::Metadata;

/// Between two looks whether a rule asks for one.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries of one that broke off.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two notes of how far it has come.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// Walks through what one source held.
pub(super) struct Backfiller {
    pub(super) metadata: Metadata,
    pub(super) source: Arc<Source>,
    pub(super) status: Arc<SourceStatus>,
    pub(super) lane: Lane,
}

/// A step of the walk.
enum Step {
    Record(Travelling),
    Ended(RepositoryName),
    Over,
}

impl Backfiller {
    /// Looks again and again whether there is anything to be taken over, until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let walk = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some((lineage, rule)) = self.status.backfill() else { continue };
                if self.metadata.peek(|view| backfill::filled(view, self.source.number, lineage)) >= rule {
                    continue;
                }
                // one that was begun for a rule that is gone is brought to its end
                let under_way = self.present().filter(|row| row.lineage == lineage && row.ended_at_ms.is_none());
                let rule = under_way.map_or(rule, |row| row.rule.max(rule));
                if let Err(problem) = self.walk(lineage, rule).await {
                    tracing::warn!(region = %self.source.region, %problem, "a backfill broke off; it goes on soon");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let _: Option<()> = stop.run_until_cancelled(walk).await;
    }

    fn present(&self) -> Option<BackfillRow> {
        self.metadata.peek(|view| backfill::of_source(view, self.source.number))
    }

    /// Walks to the end, from where the last one stood.
    async fn walk(&self, lineage: Lineage, rule: u64) -> Result<(), Problem> {
        let region = &self.source.region;
        let (mut row, replies) = match self.present().filter(|row| (row.lineage, row.rule) == (lineage, rule)) {
            Some(row) => {
                let (_, replies) = self.ask(&row).await?;
                (row, replies)
            }
            None => self.begin(lineage, rule).await?,
        };
        tracing::info!(%region, settled = row.settled, total = row.total, "what was before a rule is taken over");
        let settled = steps(replies).map(|step| self.settle(step)).buffered(BACKFILL_AT_ONCE);
        let mut settled = std::pin::pin!(settled);
        let (mut noted, mut is_over) = (Instant::now(), false);
        while let Some(step) = settled.next().await {
            let Some((at, is_record)) = step? else {
                is_over = true;
                break;
            };
            let next = BackfillRow { at: Some(at), settled: row.settled + u64::from(is_record), ..row.clone() };
            if noted.elapsed() >= NOTE_EVERY {
                self.note(next.clone()).await?;
                noted = Instant::now();
            }
            row = next;
        }
        // a stream that just ends says nothing
        if !is_over {
            return Err(Problem::passing("the other region ended the stream"));
        }
        let (settled, total) = (row.settled, row.total);
        self.note(BackfillRow { ended_at_ms: Some(0), ..row }).await?;
        tracing::info!(%region, settled, total, "what was before a rule is here");
        Ok(())
    }

    /// The first note of a walk, with how much there is, and all of it.
    async fn begin(&self, lineage: Lineage, rule: u64) -> Result<(BackfillRow, Replies<BackfillReply>), Problem> {
        let done = self.metadata.peek(|view| backfill::filled(view, self.source.number, lineage));
        let (began_at_ms, ended_at_ms) = (0, None);
        let row = BackfillRow { lineage, rule, done, at: None, settled: 0, total: 0, began_at_ms, ended_at_ms };
        let (total, replies) = self.ask(&row).await?;
        let row = BackfillRow { total, ..row };
        self.note(row.clone()).await?;
        Ok((row, replies))
    }

    /// The source's answer from where a walk stands: how much there is if it begins, and the rest of it.
    async fn ask(&self, row: &BackfillRow) -> Result<(u64, Replies<BackfillReply>), Problem> {
        let after = row.at.as_ref().map(place_asked).transpose()?;
        // a node that has not applied the rule would have nothing to tell
        let applied = self.status.state().applied_index.max(row.rule);
        let mut replies = self.source.backfill(row.done, after, applied).await?;
        let first = replies.next().await?.ok_or_else(|| Problem::passing("the other region answered nothing"))?;
        match first.lineage == row.lineage.0 {
            true => Ok((first.total, replies)),
            false => Err(Problem::passing("the other region's log has begun another life")),
        }
    }

    /// Notes where the walk stands.
    async fn note(&self, row: BackfillRow) -> Result<(), Problem> {
        let before = self.present();
        // whoever led meanwhile may have come further
        if before.as_ref().is_some_and(|before| before.rule > row.rule && before.lineage == row.lineage) {
            return Err(Problem::passing("another node is at work"));
        }
        let note = MoveBackfill { source: self.source.number, before, row };
        let proposed = self.metadata.propose(&principal(&self.source.region), vec![note.into()]).await;
        proposed.map(drop).map_err(|error| Problem::passing(error.to_string()))
    }

    /// Makes a record true, however long that takes; the place behind it, and whether it was one. `None` at the end.
    async fn settle(&self, step: Result<Step, Problem>) -> Result<Option<(Place, bool)>, Problem> {
        match step? {
            Step::Over => Ok(None),
            Step::Ended(repository) => Ok(Some((Place { repository, record: None }, false))),
            Step::Record(travelling) => {
                self.lane.settle(&travelling).await;
                let Travelling { repository, change, .. } = travelling;
                let record = Some((change.version(), change.register().key()));
                Ok(Some((Place { repository, record }, true)))
            }
        }
    }
}

/// A place as the source is asked for what comes behind it.
fn place_asked(place: &Place) -> Result<proto::Place, Problem> {
    let Place { repository, record } = place;
    let (version, register) = match record {
        None => (None, None),
        Some((version, key)) => {
            let register = registry_core::decide::replication::compare::Register::from_key(key);
            let register = register.ok_or_else(|| Problem::lasting("a place that can't be read"))?;
            (Some((*version).into()), Some((&register).into()))
        }
    };
    Ok(proto::Place { repository: repository.to_string(), version, register })
}

/// Replies taken apart; nothing follows what is malformed.
fn steps(replies: Replies<BackfillReply>) -> impl Stream<Item = Result<Step, Problem>> {
    let parts = stream::try_unfold(replies, |mut replies: Replies<BackfillReply>| async move {
        let reply = replies.next().await?;
        Ok::<_, Problem>(reply.map(|reply| (reply, replies)))
    });
    parts.flat_map(|reply| stream::iter(reply.and_then(taken_apart).unwrap_or_else(|problem| vec![Err(problem)])))
}

fn taken_apart(reply: BackfillReply) -> Result<Vec<Result<Step, Problem>>, Problem> {
    let record = |change| {
        let travelling = Travelling::try_from(change)?;
        if travelling.change.is_delete() {
            return Err(Problem::lasting("the other region sends a delete as what it holds"));
        }
        Ok(Step::Record(travelling))
    };
    let mut steps: Vec<_> = reply.changes.into_iter().map(record).collect();
    if !reply.ended.is_empty() {
        steps.push(Ok(Step::Ended(wire::repository(&reply.ended)?)));
    }
    if reply.is_over {
        steps.push(Ok(Step::Over));
    }
    Ok(steps)
}
