//! A record that is not lost has a good file on a volume that it names; and whatever volume it names has the file, but
//! for copies that the run itself damaged.

use portolan::blob::store::BlobKey;
use registry_core::metadata::blob;
use registry_core::metadata::check::stored::{Record, records};
use registry_core::metadata::keys;
use registry_core::vocabulary::ids::StoreId;

use super::{Copy, Facts, Invariant, Step, short};

pub(super) struct Copies;

impl Copies {
    fn look(facts: &Facts, record: &Record) -> Result<(), String> {
        let key = BlobKey::new(record.digest, record.row.generation);
        let copies: Vec<(StoreId, Option<Copy>)> =
            record.row.stores.iter().map(|store| (*store, facts.copy(*store, &key))).collect();
        if let Some((store, _)) = copies.iter().find(|(_, copy)| *copy == Some(Copy::Missing)) {
            return Err(format!("the record names {} on {store}, which has no such file", short(&key)));
        }
        if !copies.is_empty() && !copies.iter().any(|(_, copy)| *copy == Some(Copy::Good)) {
            return Err(format!("no good copy of {} is left", short(&key)));
        }
        Ok(())
    }
}

impl Invariant for Copies {
    fn name(&self) -> &'static str {
        "records have good files"
    }

    fn entry(&mut self, step: &Step<'_>) -> Result<(), String> {
        let is_about_blobs = step.writes.iter().any(|(key, _)| keys::table_name(key) == Some("BLOB"));
        if !is_about_blobs {
            return Ok(());
        }
        records(&step.facts.rows).try_for_each(|record| Copies::look(step.facts, &record))
    }

    fn removed(&mut self, facts: &Facts, _: StoreId, key: &BlobKey) -> Result<(), String> {
        let Some(row) = blob::read(&facts.rows, &key.digest) else { return Ok(()) };
        Copies::look(facts, &Record { digest: key.digest, row, used: true })
    }
}
