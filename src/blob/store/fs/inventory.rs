//! Everything visible on a volume, a page at a time: the files by directory and name, then the packs by segment.

use super::store::Inner;
use crate::blob::store::{BlobKey, Home, StoreResult, WalkCursor, WalkEntry, WalkPage};

/// Where a walk stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    /// In this directory of files, after this name.
    Files { shard: u8, after: String },
    /// In this segment, after so many records.
    Packs { segment: u32, skip: usize },
}

impl Position {
    fn parse(cursor: &WalkCursor) -> Option<Position> {
        let mut parts = cursor.0.splitn(3, ':');
        match (parts.next()?, parts.next()?, parts.next()?) {
            ("f", shard, after) => {
                Some(Position::Files { shard: u8::from_str_radix(shard, 16).ok()?, after: after.to_owned() })
            }
            ("p", segment, skip) => {
                Some(Position::Packs { segment: u32::from_str_radix(segment, 16).ok()?, skip: skip.parse().ok()? })
            }
            _ => None,
        }
    }

    fn cursor(&self) -> WalkCursor {
        WalkCursor(match self {
            Position::Files { shard, after } => format!("f:{shard:02x}:{after}"),
            Position::Packs { segment, skip } => format!("p:{segment:08x}:{skip}"),
        })
    }
}

impl Inner {
    /// A cursor that does not read back begins anew: a walk may repeat, never skip.
    pub(super) fn walk(&self, after: Option<&WalkCursor>, limit: usize) -> StoreResult<WalkPage> {
        let start = Position::Files { shard: 0, after: String::new() };
        let mut position = Some(after.and_then(Position::parse).unwrap_or(start));
        let mut entries = Vec::new();
        while let Some(at) = position.clone()
            && entries.len() < limit
        {
            position = match at {
                Position::Files { shard, after } => self.walk_shard(shard, &after, limit, &mut entries)?,
                Position::Packs { segment, skip } => self.walk_segment(segment, skip, limit, &mut entries)?,
            };
        }
        Ok(WalkPage { entries, next: position.map(|position| position.cursor()) })
    }

    fn walk_shard(
        &self,
        shard: u8,
        after: &str,
        limit: usize,
        entries: &mut Vec<WalkEntry>,
    ) -> StoreResult<Option<Position>> {
        let dir = self.volume.shard_at(shard);
        // What the inventory reports may be recorded; on a failed volume it is only a view.
        if after.is_empty() && self.volume.failure().is_none() {
            self.volume.settle(shard)?;
        }
        let names = dir.names().map_err(|error| dir.error("list", ".", error))?;
        for name in names.iter().filter(|name| name.as_str() > after) {
            if entries.len() == limit {
                let after = entries.last().map_or(String::new(), |entry| entry.key.file_name());
                return Ok(Some(Position::Files { shard, after }));
            }
            match BlobKey::parse_file_name(name) {
                Some(key) => {
                    // Gone meanwhile: not listed.
                    if let Some(stat) = dir.stat(name).map_err(|error| dir.error("stat", name, error))? {
                        entries.push(WalkEntry { key, size_bytes: stat.size_bytes, home: Home::File });
                    }
                }
                None => self.tidy(shard, name),
            }
        }
        Ok(Some(match shard.checked_add(1) {
            Some(shard) => Position::Files { shard, after: String::new() },
            None => Position::Packs { segment: 0, skip: 0 },
        }))
    }

    /// Frees what a crash left beside the blobs: a sidecar without its blob, a sidecar that was being replaced.
    fn tidy(&self, shard: u8, name: &str) {
        let dir = self.volume.shard_at(shard);
        let Some(key) = name.split(".sum").next().and_then(BlobKey::parse_file_name) else { return };
        // Somebody places or rebuilds it now: then it is no left-over.
        let Some(_held) = self.locks.try_lock(&key.digest) else { return };
        let is_orphan = name.ends_with(".new") || matches!(dir.stat(&key.file_name()), Ok(None));
        if is_orphan {
            self.volume.drop_file(dir, name);
        }
    }

    fn walk_segment(
        &self,
        segment: u32,
        skip: usize,
        limit: usize,
        entries: &mut Vec<WalkEntry>,
    ) -> StoreResult<Option<Position>> {
        let Some(found) = self.packs.segment_from(segment) else { return Ok(None) };
        let skip = if found == segment { skip } else { 0 };
        let (live, looked_at) = self.packs.list(found, skip, limit - entries.len())?;
        entries.extend(live.into_iter().map(|(key, size_bytes)| WalkEntry { key, size_bytes, home: Home::Pack }));
        Ok(Some(if looked_at == 0 {
            Position::Packs { segment: found + 1, skip: 0 }
        } else {
            Position::Packs { segment: found, skip: skip + looked_at }
        }))
    }
}
