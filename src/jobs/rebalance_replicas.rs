//! Moves copies to this node's volume while it holds less than its share of its zone, as a new one does: copy first,
//! confirm, and the leader drops what has become too many ([`drop_replicas`](super::drop_replicas)). No blob ever has
//! fewer confirmed copies than before.
//!
//! Nothing is moved merely because the hash would choose otherwise: a round begins with counting what each volume of
//! the zone holds, and ends as soon as this one has its share. So there is no cursor to keep: a round that broke off
//! begins anew, with what is left. While a copy is missing in the zone, or one of its nodes is away, being emptied or
//! full, nothing moves. Source: consensus-and-faults §5.6.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use registry_core::metadata::blob::{self, Cursor};
use registry_core::metadata::keys::{self, SLOTS, Slot};
use registry_core::metadata::replica::{self, ConfirmCopy};
use registry_core::metadata::{node, upgrade};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::StoreId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::driver::{Reconciler, Step, StepFuture};
use super::pace::{RECORDS_PER_PAGE, RECORDS_PER_STEP, cost};
use super::repair_replicas::Repairs;
use crate::blob::store::BlobKey;
use crate::blob::transfer::{BlobSource, Transfer};
use crate::metadata::Metadata;

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(600);
/// A node with less than its share by so many per cent is left alone.
const TOLERANCE_PERCENT: u64 = 10;

/// What an operator tunes.
#[derive(Clone, Copy, Debug)]
pub struct RebalanceSettings {
    /// Bytes a second that moves may take; 0 for none.
    pub bytes_per_s: u64,
    /// How much less than its share a volume holds before copies move to it.
    pub floor_bytes: u64,
}

/// Where a round is.
#[derive(Clone, Debug, Default)]
enum Phase {
    /// None is under way.
    #[default]
    Idle,
    /// Counts what each volume holds, from here on.
    Count(Cursor, BTreeMap<StoreId, u64>),
    /// Moves so many bytes at most, from here on.
    Move(Cursor, u64),
}

/// Every node's job: pulls copies to a volume that holds less than its share.
#[derive(Debug)]
pub struct RebalanceReplicas {
    metadata: Metadata,
    transfer: Transfer,
    store: StoreId,
    settings: RebalanceSettings,
    principal: String,
    repairs: Repairs,
    phase: Mutex<Phase>,
}

/// A copy to be moved here.
#[derive(Debug)]
struct Wanted {
    source: BlobSource,
    fence: u64,
}

impl RebalanceReplicas {
    /// For this volume; what comes of it is told in `repairs`.
    pub fn new(
        metadata: Metadata,
        transfer: Transfer,
        store: StoreId,
        settings: RebalanceSettings,
        principal: String,
        repairs: Repairs,
    ) -> RebalanceReplicas {
        RebalanceReplicas { metadata, transfer, store, settings, principal, repairs, phase: Mutex::default() }
    }

    /// Whether its zone is whole, so that copies may move.
    fn may_move(&self) -> bool {
        self.settings.bytes_per_s > 0
            && self.metadata.peek(|view| {
                let topology = node::topology(view);
                let Some(zone) = topology.zone_of(self.store) else { return false };
                let lacks = |slot: Slot| !blob::needs(view, slot, zone.as_str(), 1).is_empty();
                upgrade::level_of(view, keys::SYSTEM) >= upgrade::LEVEL_2 && !(0..SLOTS).any(lacks)
            })
    }

    /// Counts on; the next phase.
    fn count(&self, mut cursor: Cursor, mut held: BTreeMap<StoreId, u64>) -> Phase {
        let mut records = 0;
        while records < RECORDS_PER_STEP {
            let page = self.metadata.peek(|view| cursor.page(view, RECORDS_PER_PAGE));
            records += cost(page.len());
            for (_, row) in &page {
                for store in &row.stores {
                    *held.entry(*store).or_default() += row.size_bytes;
                }
            }
            if cursor.is_over() {
                return self.decide(&held);
            }
        }
        Phase::Count(cursor, held)
    }

    /// Whether this volume holds so much too little that copies move to it.
    fn decide(&self, held: &BTreeMap<StoreId, u64>) -> Phase {
        let short = self.metadata.peek(|view| replica::shortfall(&node::topology(view), held, self.store));
        let own = held.get(&self.store).copied().unwrap_or(0);
        let tolerated = (own.saturating_add(short) / 100 * TOLERANCE_PERCENT).max(self.settings.floor_bytes);
        let is_due = short > tolerated && self.may_move();
        self.repairs.to_move(if is_due { short } else { 0 });
        if !is_due {
            return Phase::Idle;
        }
        tracing::info!(bytes = short, "this node holds less than its share of its zone: copies move to it");
        Phase::Move(Cursor::default(), short)
    }

    /// The next copy to move from a cursor on, and where to go on behind it.
    fn next(&self, mut cursor: Cursor) -> (Option<Wanted>, Cursor) {
        let mut records = 0;
        while records < RECORDS_PER_STEP {
            let before = cursor;
            let wanted = self.metadata.peek(|view| {
                let topology = node::topology(view);
                let page = cursor.page(view, RECORDS_PER_PAGE);
                records += cost(page.len());
                let is_it =
                    |(digest, row): &&(Digest, blob::BlobRow)| replica::would_move(&topology, digest, row, self.store);
                let (digest, row) = page.iter().find(is_it)?;
                cursor = before.behind(Some(*digest));
                let fence = replica::fence(view, digest, &row.generation, self.store);
                let key = BlobKey::new(*digest, row.generation);
                let source = BlobSource { key, size_bytes: row.size_bytes, replicas: row.stores.clone() };
                Some(Wanted { source, fence })
            });
            if wanted.is_some() || cursor.is_over() {
                return (wanted, cursor);
            }
        }
        (None, cursor)
    }

    /// Moves one copy here, no faster than allowed.
    async fn pull(&self, wanted: Wanted) -> Result<u64, String> {
        let began = Instant::now();
        let Wanted { source, fence } = wanted;
        let (BlobKey { digest, generation }, size_bytes, store) = (source.key, source.size_bytes, self.store);
        self.transfer.replicate_here(source, store).await.map_err(|error| error.to_string())?;
        let confirm = ConfirmCopy { digest, generation, store, fence };
        self.metadata.propose(&self.principal, vec![confirm.into()]).await.map_err(|error| error.to_string())?;
        let least = Duration::from_secs_f64(size_bytes as f64 / self.settings.bytes_per_s as f64);
        tokio::time::sleep(least.saturating_sub(began.elapsed())).await;
        Ok(size_bytes)
    }

    async fn move_on(&self, from: Cursor, left: u64) -> (Phase, Step) {
        if !self.may_move() {
            self.repairs.to_move(0);
            return (Phase::Idle, Step::IDLE);
        }
        let (wanted, next) = self.next(from);
        let (moved, failed) = match wanted {
            None => (0, 0),
            Some(wanted) => match self.pull(wanted).await {
                Ok(moved) => (moved, 0),
                Err(error) => {
                    tracing::debug!(error, "a copy did not move here; a later round tries it again");
                    (0, 1)
                }
            },
        };
        let left = left.saturating_sub(moved);
        if moved > 0 {
            self.repairs.moved(moved);
        }
        let is_over = left == 0 || next.is_over();
        self.repairs.to_move(if is_over { 0 } else { left });
        let phase = if is_over { Phase::Idle } else { Phase::Move(next, left) };
        (phase, Step { done: u64::from(moved > 0), failed, more: !is_over })
    }
}

impl Reconciler for RebalanceReplicas {
    fn name(&self) -> &'static str {
        "rebalance_replicas"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().topology())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let phase = std::mem::take(&mut *self.phase.lock());
            let (next, step) = match phase {
                Phase::Idle if self.may_move() => (Phase::Count(Cursor::default(), BTreeMap::new()), Step::IDLE),
                Phase::Idle => (Phase::Idle, Step::IDLE),
                Phase::Count(cursor, held) => (self.count(cursor, held), Step::IDLE),
                Phase::Move(cursor, left) => self.move_on(cursor, left).await,
            };
            let more = !matches!(next, Phase::Idle);
            *self.phase.lock() = next;
            Step { more, ..step }
        })
    }
}
