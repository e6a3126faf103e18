//! Makes the copies that this node should hold and does not: third copies right after a push, lost ones after a fault.
//!
//! The work is the rows `need(zone, digest)`; which volume of the zone takes the copy the placement decides, so two
//! nodes of a zone never both fetch it. Fewest copies first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::Mutex;
use registry_core::decide::placement::assign;
use registry_core::metadata::blob::{self, ConfirmReplica};
use registry_core::metadata::command::Command;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::node;
use registry_core::metadata::tables::TablesRead;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::StoreId;
use registry_core::vocabulary::names::ZoneName;
use tokio::sync::watch;

use super::driver::{Reconciler, Step, StepFuture};
use crate::blob::store::BlobKey;
use crate::blob::transfer::{BlobSource, Transfer};
use crate::metadata::Metadata;

/// Copies begun in one step.
const COPIES_PER_STEP: usize = 256;
/// Copies fetched at once; the transfer room bounds them further by bytes.
const COPIES_AT_ONCE: usize = 8;
/// Needs of one slot looked at in one step.
const NEEDS_PER_SLOT: usize = 64;

/// Every node's job: fetches the copies its volumes should hold.
#[derive(Debug)]
pub struct RepairReplicas {
    metadata: Metadata,
    transfer: Transfer,
    zone: ZoneName,
    stores: Arc<[StoreId]>,
    principal: String,
    /// Where the last step stopped looking, so that a slot full of failures does not starve the others.
    next_slot: Mutex<u16>,
}

/// One copy to be made.
#[derive(Clone, Debug)]
struct Want {
    source: BlobSource,
    into: StoreId,
}

impl RepairReplicas {
    /// For a node of `zone` with these volumes.
    pub fn new(
        metadata: Metadata,
        transfer: Transfer,
        zone: ZoneName,
        stores: Arc<[StoreId]>,
        principal: String,
    ) -> RepairReplicas {
        RepairReplicas { metadata, transfer, zone, stores, principal, next_slot: Mutex::new(0) }
    }

    /// The copies to make now, those with the fewest first.
    fn wants(&self) -> Vec<Want> {
        let start = *self.next_slot.lock();
        let mut wants = Vec::new();
        let slots = (start..SLOTS).chain(0..start);
        for slot in slots {
            self.metadata.peek(|view| {
                for digest in blob::needs(view, slot, self.zone.as_str(), NEEDS_PER_SLOT) {
                    wants.extend(self.want(view, &digest));
                }
            });
            if wants.len() >= COPIES_PER_STEP {
                *self.next_slot.lock() = (slot + 1) % SLOTS;
                break;
            }
        }
        wants.sort_by_key(|want| want.source.replicas.len());
        wants
    }

    fn want(&self, tables: &impl TablesRead, digest: &Digest) -> Option<Want> {
        let row = blob::read(tables, digest)?;
        let plan = assign(&node::topology(tables), digest, &row.stores);
        let into = plan.add.iter().map(|choice| choice.store).find(|store| self.stores.contains(store))?;
        let key = BlobKey::new(*digest, row.generation);
        Some(Want { source: BlobSource { key, size_bytes: row.size_bytes, replicas: row.stores }, into })
    }

    async fn copy(&self, want: Want) -> Option<Command> {
        let BlobKey { digest, generation } = want.source.key;
        match self.transfer.replicate_here(want.source, want.into).await {
            Ok(_) => Some(ConfirmReplica { digest, generation, store: want.into }.into()),
            Err(error) => {
                tracing::warn!(%digest, %error, "a missing copy could not be made; it is tried again");
                None
            }
        }
    }
}

impl Reconciler for RepairReplicas {
    fn name(&self) -> &'static str {
        "repair_replicas"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn signal(&self) -> Option<watch::Receiver<u64>> {
        Some(self.metadata.watch().needs())
    }

    fn step(&self) -> StepFuture<'_> {
        Box::pin(async {
            let wants = self.wants();
            metrics::gauge!("portolan_blob_copies_wanted").set(wants.len() as f64);
            if wants.is_empty() {
                return Step::IDLE;
            }
            let tried = wants.len() as u64;
            let more = wants.len() >= COPIES_PER_STEP;
            let copies = futures_util::stream::iter(wants).map(|want| self.copy(want));
            let made: Vec<Command> =
                copies.buffer_unordered(COPIES_AT_ONCE).filter_map(std::future::ready).collect().await;
            let done = made.len() as u64;
            if made.is_empty() {
                return Step { done, failed: tried, more: false };
            }
            match self.metadata.propose(&self.principal, made).await {
                Ok(_) => Step { done, failed: tried - done, more },
                Err(error) => {
                    tracing::debug!(%error, "copies were made and not yet confirmed; they are found again");
                    Step { done: 0, failed: tried, more: false }
                }
            }
        })
    }
}
