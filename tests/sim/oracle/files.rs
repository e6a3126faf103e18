//! No file is deleted whose digest and generation a later state names there: every file that went is remembered, and
//! no record may name it again unless it was placed anew.

use std::collections::BTreeSet;

use portolan::blob::store::BlobKey;
use registry_core::metadata::blob;
use registry_core::metadata::check::stored::{Record, records};
use registry_core::metadata::keys;
use registry_core::vocabulary::ids::StoreId;

use super::{Copy, Facts, Invariant, Step, short};

#[derive(Default)]
pub(super) struct Files {
    removed: BTreeSet<(StoreId, BlobKey)>,
}

impl Invariant for Files {
    fn name(&self) -> &'static str {
        "no file that is named later was deleted"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        if !step.writes.keys().any(|key| keys::table_name(key) == Some("BLOB")) {
            return Ok(());
        }
        for Record { digest, row, .. } in records(&step.facts.rows) {
            let file = BlobKey::new(digest, row.generation);
            for store in &row.stores {
                let is_gone = step.facts.copy(*store, &file) == Some(Copy::Missing);
                if is_gone && self.removed.contains(&(*store, file)) {
                    let index = step.entry.index;
                    return Err(format!("entry {index} names {} on {store}, which deleted it", short(&file)));
                }
            }
        }
        Ok(())
    }

    fn removed(&mut self, facts: &Facts, store: StoreId, key: &BlobKey) -> Result<(), String> {
        self.removed.insert((store, *key));
        let row = blob::read(&facts.rows, &key.digest).filter(|row| row.generation == key.generation);
        match row {
            Some(row) if row.stores.contains(&store) && facts.copy(store, key) == Some(Copy::Missing) => {
                Err(format!("{store} deleted {}, which the record names there", short(key)))
            }
            Some(_) | None => Ok(()),
        }
    }
}
