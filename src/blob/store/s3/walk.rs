//! The inventory: the objects of the bucket in the order of their names, then what lies only on the local volume.

use super::store::{Inner, stat};
use crate::blob::store::{BlobKey, BlobStat, BlobStore as _, StoreResult, WalkCursor, WalkEntry, WalkPage};

/// Begins a cursor into the bucket; the rest is a name.
const BUCKET: &str = "bucket:";
/// Begins a cursor into the local volume; the rest is its own cursor, or nothing at its beginning.
const LOCAL: &str = "local:";

impl Inner {
    /// A cursor that does not read back begins anew: a walk may repeat, never skip.
    pub(super) fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        let text = after.map_or("", |cursor| cursor.0.as_str());
        match text.strip_prefix(LOCAL) {
            Some(rest) => self.walk_local(rest, limit),
            None => self.walk_bucket(text.strip_prefix(BUCKET).unwrap_or_default(), limit),
        }
    }

    fn walk_bucket(&self, after: &str, limit: usize) -> StoreResult<WalkPage> {
        let (listed, more) = self.bucket.list(&self.root, after, limit)?;
        let mut entries = Vec::new();
        let mut before = self.key_of(after);
        for object in &listed {
            let key = self.key_of(&object.name);
            if let Some(key) = key.filter(|key| !self.aside.is_marked(key)) {
                let BlobStat { size_bytes, home } = stat(object.size_bytes);
                entries.push(WalkEntry { key, size_bytes, home });
            }
            let sums_of = object.name.strip_suffix(".sum").and_then(|name| self.key_of(name));
            // the sums stand right behind their blob: these have none
            if sums_of.is_some() && sums_of != before && self.is_old(object.changed) {
                self.drop_sums(&object.name)?;
            }
            before = key;
        }
        let next = match listed.last() {
            Some(last) if more => format!("{BUCKET}{}", last.name),
            Some(_) | None => LOCAL.to_owned(),
        };
        Ok(WalkPage { entries, next: Some(WalkCursor(next)) })
    }

    /// Sums whose object was never made, or is gone.
    fn drop_sums(&self, name: &str) -> StoreResult<()> {
        if self.owner.may_delete(&self.bucket)? {
            self.bucket.delete(name)?;
        }
        Ok(())
    }

    /// What lies here and is not in the bucket: placed when the bucket was out of reach, by an upload that may go on.
    fn walk_local(&self, after: &str, limit: usize) -> StoreResult<WalkPage> {
        let after = (!after.is_empty()).then(|| WalkCursor(after.to_owned()));
        let page = self.local.walk(after.as_ref(), limit)?;
        let mut entries = Vec::new();
        for entry in page.entries {
            if self.cache.is_settled(&entry.key) {
                continue;
            }
            match self.found(&entry.key)? {
                Some(found) if found.size_bytes == entry.size_bytes => self.cache.settle(&entry.key, true),
                Some(_) | None => entries.push(entry),
            }
        }
        Ok(WalkPage { entries, next: page.next.map(|next| WalkCursor(format!("{LOCAL}{}", next.0))) })
    }

    /// The blob whose object has this name.
    fn key_of(&self, name: &str) -> Option<BlobKey> {
        BlobKey::parse_file_name(name.strip_prefix(&self.root)?.split_once('/')?.1)
    }
}
