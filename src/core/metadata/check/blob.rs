//! Rows of blobs and uploads: `Use ⇒ record`, which is not on its way out, and no record names a generation that
//! was closed.

use super::super::blob::{BlobRow, BlobState, ClosedRow, UseRow};
use super::super::keys::{self, Slot, table};
use super::super::need::NeedRow;
use super::super::replica::FenceRow;
use super::super::tables::TablesRead;
use super::super::upload::UploadRow;
use super::{Found, ensure, get, in_slot, unreadable, value};
use crate::vocabulary::Digest;

pub(super) fn row(tables: &impl TablesRead, slot: Slot, table: u8, key: &[u8], bytes: &[u8]) -> Found {
    match table {
        table::UPLOAD => {
            value::<UploadRow>(bytes)?;
            in_slot(slot, keys::upload_slot(&keys::upload_in(key).ok_or_else(unreadable)?))
        }
        table::BLOB => {
            let digest = keys::blob_in(key).ok_or_else(unreadable)?;
            in_slot(slot, keys::digest_slot(&digest))?;
            let row: BlobRow = value(bytes)?;
            ensure(row.stores.is_sorted_by(|one, next| one < next), || format!("stores of {digest} are not in order"))?;
            ensure(!tables.contains(&keys::closed_generation(&digest, &row.generation)), || {
                format!("the record of {digest} names generation {}, which is closed: its files may go", row.generation)
            })
        }
        table::USE => {
            let (digest, repository, _) = keys::blob_use_in(key).ok_or_else(unreadable)?;
            in_slot(slot, keys::digest_slot(&digest))?;
            let row: UseRow = value(bytes)?;
            ensure(row.repository.id == repository, || format!("a use of {digest} names another repository"))?;
            let record = record(tables, &digest, "a use")?;
            ensure(record.state == BlobState::Present, || format!("{digest} is condemned, but used by {repository}"))
        }
        table::CLOSED_GENERATION => {
            let (_, digest) = keys::closed_generation_in(key).ok_or_else(unreadable)?;
            value::<ClosedRow>(bytes)?;
            in_slot(slot, keys::digest_slot(&digest))
        }
        table::NEED => {
            let (_, digest) = keys::need_in(key).ok_or_else(unreadable)?;
            value::<NeedRow>(bytes)?;
            in_slot(slot, keys::digest_slot(&digest))?;
            record(tables, &digest, "a need").map(drop)
        }
        table::FENCE => {
            let (digest, _) = keys::fence_in(key).ok_or_else(unreadable)?;
            value::<FenceRow>(bytes)?;
            in_slot(slot, keys::digest_slot(&digest))?;
            record(tables, &digest, "a fence").map(drop)
        }
        _ => Err(format!("table {table:#04x} does not exist")),
    }
}

fn record(tables: &impl TablesRead, digest: &Digest, what: &str) -> Result<BlobRow, String> {
    get(tables, &keys::blob(digest)).ok_or_else(|| format!("{what} of {digest}, which has no record"))
}
