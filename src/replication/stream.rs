//! The source's side of the stream: what one region is sent, round by round.
//!
//! A round is everything between two indexes of the log that this node has applied. Slots come one after the other in
//! it, which keeps the order within each repository; between repositories there is none. Rules are looked at for every
//! page, so that what is taken out of them is not sent any more a moment later (A26).

use std::collections::BTreeMap;
use std::time::Duration;

use registry_core::metadata::keys::{SLOTS, Slot};
use registry_core::metadata::outbox::{self, Change, Event};
use registry_core::metadata::replication_rules::{self, RulesRow};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{clock, cluster, repository};
use registry_core::vocabulary::ids::{Lineage, RegistryId};
use registry_core::vocabulary::names::RegionName;
use tokio::sync::mpsc;
use tonic::Status;

use super::peers::Caller;
use super::wire::Travelling;
use super::wire::proto::{ChangesReply, Gap, Offer};
use crate::metadata::Metadata;

/// Rows of a slot read at once.
const PAGE_ROWS: usize = 256;
/// Log entries that one round spans at most: a destination far behind moves its cursor now and then.
const ROUND_ENTRIES: u64 = 10_000;
/// A word to the destination when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a node that has not applied what a destination has seen already is waited for.
const BEHIND_MAX: Duration = Duration::from_secs(10);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// What a destination asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The life of this log that `after` is of; `None` from one that begins.
    pub(super) lineage: Option<Lineage>,
    /// Everything up to here it has.
    pub(super) after: u64,
}

/// The stream for one caller.
pub(super) struct Stream {
    metadata: Metadata,
    caller: Caller,
    lineage: Lineage,
    /// Everything up to here was sent.
    after: u64,
    /// How often the state had been replaced when all slots were looked at last; `None` before.
    whole: Option<u64>,
    /// What the caller was told that rules send to it; `None` before.
    offered: Option<Offer>,
}

/// From where on a region is sent anything, `None` while no rule names it; and up to where the stream has a gap.
fn begins(tables: &impl TablesRead, region: &RegionName) -> (Option<u64>, u64) {
    let rules = replication_rules::read(tables, RegistryId::DEFAULT);
    let standing = rules.0.iter().filter(|standing| standing.rule.reaches(region));
    let ruled = standing.map(|standing| standing.since_index).min();
    let trimmed = (0..SLOTS).map(|slot| outbox::trimmed(tables, slot)).max().unwrap_or(0);
    (ruled, trimmed)
}

/// Waits until this node has applied what the destination has: it may be behind the one that was asked before.
pub(super) async fn catch_up(metadata: &Metadata, applied: u64) -> Result<(), Status> {
    let until = tokio::time::Instant::now() + BEHIND_MAX;
    while metadata.applied_index() < applied {
        if tokio::time::Instant::now() >= until {
            return Err(Status::unavailable("this node is behind what the caller has seen; ask another one"));
        }
        tokio::time::sleep(BEHIND_PAUSE).await;
    }
    Ok(())
}

impl Stream {
    /// Begins behind what the caller has.
    ///
    /// # Errors
    /// The message that tells of a gap, when the stream does not reach back so far.
    pub(super) fn begin(metadata: Metadata, caller: Caller, asked: Asked) -> Result<Stream, Box<ChangesReply>> {
        let (lineage, (ruled, trimmed), now_ms) = metadata.peek(|view| {
            let lineage = cluster::read(view).map_or(Lineage(0), |row| row.lineage);
            (lineage, begins(view, &caller.region), clock::read(view).now_ms)
        });
        // whom no rule names misses nothing of what was until now
        let after = asked.after.max(ruled.unwrap_or_else(|| metadata.applied_index()));
        let is_other_life = asked.lineage.is_some_and(|of| of != lineage);
        if is_other_life || trimmed > after {
            let gap = Some(Gap { begins: trimmed });
            return Err(Box::new(ChangesReply { lineage: lineage.0, now_ms, gap, ..ChangesReply::default() }));
        }
        Ok(Stream { metadata, caller, lineage, after, whole: None, offered: None })
    }

    /// Sends until the destination goes, or is not known any more.
    pub(super) async fn run(
        mut self,
        still: impl Fn(&Caller) -> bool,
        sink: mpsc::Sender<Result<ChangesReply, Status>>,
    ) {
        let mut woken = self.metadata.watch().outbox();
        if let Err(status) = catch_up(&self.metadata, self.after).await {
            drop(sink.send(Err(status)).await);
            return;
        }
        while still(&self.caller) {
            woken.borrow_and_update();
            let applied = self.metadata.applied_index();
            let up_to = applied.min(self.after.saturating_add(ROUND_ENTRIES));
            if self.round(up_to, up_to == applied, &sink).await.is_err() {
                return;
            }
            if up_to == applied {
                tokio::select! {
                    _ = woken.changed() => {}
                    () = tokio::time::sleep(HEARTBEAT) => {}
                    () = sink.closed() => return,
                }
            }
        }
        drop(sink.send(Err(Status::permission_denied("this region does not know the caller any more"))).await);
    }

    /// Sends everything up to an index; an error means that the destination has gone. `is_all`: it is the last one that
    /// counts as applied.
    async fn round(
        &mut self,
        up_to: u64,
        is_all: bool,
        sink: &mpsc::Sender<Result<ChangesReply, Status>>,
    ) -> Result<(), ()> {
        // before what it lets through
        self.tell_offer(sink).await?;
        // slots are marked before an index counts as applied, so that the marks of now cover all up to it; of what was
        // applied before the process began, or came with a copy of the state, there are none
        let (replaced, marked) = self.metadata.watch().outbox_since(self.after);
        let slots = if self.whole == Some(replaced) { marked } else { (0..SLOTS).collect() };
        for slot in slots {
            let mut rest = None;
            loop {
                let (changes, next) = self.metadata.peek(|view| self.page(view, slot, up_to, rest.as_deref()));
                if !changes.is_empty() {
                    let changes = changes.iter().map(Into::into).collect();
                    let reply = ChangesReply { changes, lineage: self.lineage.0, ..ChangesReply::default() };
                    sink.send(Ok(reply)).await.map_err(drop)?;
                }
                rest = next;
                if rest.is_none() {
                    break;
                }
            }
        }
        self.after = up_to;
        if is_all {
            self.whole = Some(replaced);
        }
        let now_ms = self.metadata.peek(|view| clock::read(view).now_ms);
        let (through, lineage) = (up_to, self.lineage.0);
        let reply = ChangesReply { through, lineage, now_ms, ..ChangesReply::default() };
        sink.send(Ok(reply)).await.map_err(drop)
    }

    /// Says what rules send to the caller, if it was told otherwise.
    async fn tell_offer(&mut self, sink: &mpsc::Sender<Result<ChangesReply, Status>>) -> Result<(), ()> {
        let offer = self.metadata.peek(|view| self.offer(view));
        if self.offered.as_ref() == Some(&offer) {
            return Ok(());
        }
        self.offered = Some(offer.clone());
        let reply = ChangesReply { lineage: self.lineage.0, offer: Some(offer), ..ChangesReply::default() };
        sink.send(Ok(reply)).await.map_err(drop)
    }

    /// What rules send to the caller now.
    fn offer(&self, tables: &impl TablesRead) -> Offer {
        let (rules, region) = (replication_rules::read(tables, RegistryId::DEFAULT), &self.caller.region);
        Offer { sent: rules.sent(region).iter().map(Into::into).collect(), backfill: rules.backfill(region) }
    }

    /// A page of a slot, without what is not the caller's.
    fn page(
        &self,
        tables: &impl TablesRead,
        slot: Slot,
        up_to: u64,
        rest: Option<&[u8]>,
    ) -> (Vec<Travelling>, Option<Vec<u8>>) {
        let page = outbox::read(tables, slot, (self.after, up_to), rest, PAGE_ROWS);
        let mut rules: BTreeMap<RegistryId, RulesRow> = BTreeMap::new();
        let own = cluster::read(tables).map(|row| row.region_number);
        let travelling = |event: Event| {
            let made_by = event.row.change.version().region;
            let is_own = Some(made_by) == own;
            let (key, row) = repository::by_id(tables, slot, event.repository)?;
            let rules = rules.entry(key.registry).or_insert_with(|| replication_rules::read(tables, key.registry));
            let (name, region, index) = (&key.name, &self.caller.region, event.index);
            let outbox::OutboxRow { change, at_ms } = event.row;
            let is_ruled = match &change {
                Change::SettingsSet { .. } => rules.sends_settings(name, region, (index, is_own)),
                Change::ManifestHere { .. }
                | Change::ManifestGone { .. }
                | Change::TagSet { .. }
                | Change::TagGone { .. } => rules.sends(name, region, (index, is_own)),
            };
            // what came from the caller has no business there
            if !is_ruled || row.deleted || made_by == self.caller.number {
                return None;
            }
            let change = outbox::sent(tables, &key, &rules.tags(name, region), (index, change))?;
            let acts = rules.deletes(name, region, index);
            Some(Travelling { index, repository: key.name, change, at_ms, acts })
        };
        (page.events.into_iter().filter_map(travelling).collect(), page.rest)
    }
}
