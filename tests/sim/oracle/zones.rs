//! What 201 was answered for is on volumes of two zones, as long as nodes of two zones are configured: looked at where
//! bytes become a record, both in the record and on the disks.

use std::collections::BTreeSet;

use portolan::blob::store::BlobKey;
use registry_core::metadata::blob;
use registry_core::metadata::command::Command;
use registry_core::metadata::node;

use super::{Copy, Invariant, Step, short};

pub(super) struct Zones;

impl Invariant for Zones {
    fn name(&self) -> &'static str {
        "201 means two zones"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        let done = step.proposal.commands.iter().zip(&step.outcome.replies);
        for command in done.map(|(command, _)| command) {
            let Command::CommitBlob(commit) = command else { continue };
            let Some(row) = blob::read(&step.facts.rows, &commit.digest) else { continue };
            if row.generation != commit.upload {
                continue;
            }
            let (key, topology) = (BlobKey::new(commit.digest, commit.upload), node::topology(&step.facts.rows));
            let is_good = |store| step.facts.copy(store, &key).is_none_or(|copy| copy == Copy::Good);
            let named = row.stores.iter().copied().filter(|store| is_good(*store));
            let zones: BTreeSet<_> = named.filter_map(|store| topology.zone_of(store)).collect();
            if zones.len() < 2 && topology.zones().len() >= 2 {
                return Err(format!("{} was committed with good copies in {} zones", short(&key), zones.len()));
            }
        }
        Ok(())
    }
}
