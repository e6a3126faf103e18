//! The source's side of a backfill: what repositories held before a rule that has it copied, as it is stored now.
//!
//! Repositories come by name, the records of each from the newest to the oldest, so that what people pull is there
//! first. What was made after the rule comes by the stream.

use registry_core::decide::replication::compare::{Record, Register, Scope};
use registry_core::metadata::repository::{self, Settings};
use registry_core::metadata::settings::{self, Home};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{clock, cluster, register, replication_rules};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::limits::{RECORDS_PER_MESSAGE, SUMS_PER_MESSAGE};
use registry_core::vocabulary::{RepositoryName, Version};

use super::account::{Account, Sink};
use super::wire::Travelling;
use super::wire::proto::BackfillReply;

/// Records read in one view; each view reads a whole repository for them.
const VIEW_RECORDS: usize = 8192;

/// Behind what a walk goes on: in a repository, or behind all of it.
pub(super) type After = (RepositoryName, Option<(Version, Register)>);

/// Some records of a repository.
struct Page {
    name: RepositoryName,
    records: Vec<(Register, Record)>,
    /// Of the repository.
    settings: Option<(Settings, Home)>,
    is_last: bool,
    now_ms: u64,
}

impl Account {
    /// Sends what the rules younger than index `done` have copied, behind a place.
    pub(super) async fn backfill(self, done: u64, mut after: Option<After>, sink: Sink<BackfillReply>) {
        // how much there is concerns only who begins: counting reads all of it
        let is_begun = after.is_some();
        let begun = self.blocking(move |own| own.backfill_begun(done, is_begun)).await;
        if sink.send(begun).await.is_err() {
            return;
        }
        loop {
            let from = after.clone();
            let page = match self.blocking(move |own| own.backfill_page(done, from.as_ref())).await {
                Ok(Some(page)) => page,
                Ok(None) => {
                    return drop(sink.send(Ok(BackfillReply { is_over: true, ..BackfillReply::default() })).await);
                }
                Err(status) => return drop(sink.send(Err(status)).await),
            };
            let last = page.records.last().map(|(register, record)| (record.version, register.clone()));
            after = Some((page.name.clone(), last.filter(|_| !page.is_last)));
            for reply in page.replies() {
                if sink.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The first message of a walk; of one that goes on, without a total.
    fn backfill_begun(&self, done: u64, is_begun: bool) -> BackfillReply {
        let total = if is_begun { 0 } else { self.backfill_total(done) };
        let lineage = self.metadata.peek(|view| cluster::read(view).map_or(0, |row| row.lineage.0));
        BackfillReply { lineage, total, ..BackfillReply::default() }
    }

    fn backfill_total(&self, done: u64) -> u64 {
        let (mut total, mut after) = (0, None::<RepositoryName>);
        loop {
            let names = self.backfilled(done, after.as_ref(), SUMS_PER_MESSAGE);
            let Some(last) = names.last() else { return total };
            after = Some(last.clone());
            // a view for each few, so that none is held for long
            total +=
                self.metadata.peek(|view| names.iter().map(|name| self.backfill_count(view, done, name)).sum::<u64>());
        }
    }

    /// Repositories behind one that a rule younger than `done` covers.
    fn backfilled(&self, done: u64, after: Option<&RepositoryName>, limit: usize) -> Vec<RepositoryName> {
        let registry = RegistryId::DEFAULT;
        self.metadata.peek(|view| {
            let rules = replication_rules::read(view, registry);
            let covers = |name: &RepositoryName| rules.fills(name, &self.caller.region, done).is_some();
            repository::list(view, registry, after.map(RepositoryName::as_str), limit, covers)
        })
    }

    /// A repository, which of its records are copied, and up to which time.
    fn backfill_scope(
        &self,
        tables: &impl TablesRead,
        done: u64,
        name: &RepositoryName,
    ) -> Option<(repository::RepositoryKey, Scope, u64)> {
        let registry = RegistryId::DEFAULT;
        let fill = replication_rules::read(tables, registry).fills(name, &self.caller.region, done)?;
        let source = cluster::read(tables)?.region_number;
        let scope = Scope { source, destination: self.caller.number, since: fill.since, tags: fill.tags.into() };
        Some((repository::find(tables, registry, name)?.0, scope, fill.until))
    }

    fn backfill_count(&self, tables: &impl TablesRead, done: u64, name: &RepositoryName) -> u64 {
        let scope = self.backfill_scope(tables, done, name);
        scope.map_or(0, |(key, scope, until)| register::count(tables, &key, &scope, until))
    }

    fn backfill_page(&self, done: u64, after: Option<&After>) -> Option<Page> {
        let within = after.filter(|(_, record)| record.is_some());
        let name = match within {
            Some((name, _)) => name.clone(),
            None => self.backfilled(done, after.map(|(name, _)| name), 1).pop()?,
        };
        self.metadata.peek(|view| {
            let now_ms = clock::read(view).now_ms;
            let empty = Page { name: name.clone(), records: Vec::new(), settings: None, is_last: true, now_ms };
            let Some((key, scope, until)) = self.backfill_scope(view, done, &name) else { return Some(empty) };
            let from = within.and_then(|(_, record)| record.as_ref());
            let records = register::newest(view, &key, (&scope, until), from, VIEW_RECORDS);
            // what contradicts what was noted goes nowhere: a comparison has it mended, and brings it then
            let is_proven = settings::is_proven(view, &key);
            let settings = settings::read(view, &key).filter(|_| is_proven).map(|row| (row.settings, row.home));
            Some(Page { is_last: records.len() < VIEW_RECORDS, records, settings, ..empty })
        })
    }
}

impl Page {
    fn replies(self) -> Vec<BackfillReply> {
        let change = |(register, record): &(Register, Record)| {
            let record = (register.clone(), record);
            let stored = Travelling::stored(self.name.clone(), record, self.settings.as_ref(), self.now_ms);
            stored.map(|stored| (&stored).into())
        };
        let parts = self.records.chunks(RECORDS_PER_MESSAGE);
        let reply = |part: &[_]| BackfillReply {
            changes: part.iter().filter_map(change).collect(),
            ..BackfillReply::default()
        };
        let mut replies: Vec<BackfillReply> = parts.map(reply).collect();
        if self.is_last {
            replies.push(BackfillReply { ended: self.name.to_string(), ..BackfillReply::default() });
        }
        replies
    }
}
