//! What a store tells about itself.

use std::sync::Arc;

use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

use super::{BlobKey, PACK_BLOB_BYTES_MAX};

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadPhase {
    /// Takes bytes.
    Receiving,
    /// Takes no more bytes; they hash to this digest.
    Sealed(Digest),
}

/// A staged upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// Which.
    pub id: UploadId,
    /// The highest epoch noted.
    pub epoch: u64,
    /// Bytes staged.
    pub offset: u64,
    /// What is hashed while the bytes stream in.
    pub algorithm: Algorithm,
    /// Receiving or sealed.
    pub phase: UploadPhase,
    /// When it was last touched, on the store's clock.
    pub touched_at_ms: u64,
}

/// A stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// Its size.
    pub size_bytes: u64,
    /// Where it lives.
    pub home: Home,
}

/// Where a copy lives on its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// A file of its own.
    File,
    /// A record in a pack segment.
    Pack,
}

impl Home {
    /// Where a blob of this size goes.
    pub fn of(size_bytes: u64) -> Home {
        if size_bytes <= PACK_BLOB_BYTES_MAX as u64 { Home::Pack } else { Home::File }
    }
}

/// What a scrub of one blob found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// The stored bytes hash to the digest.
    Good {
        /// How many.
        size_bytes: u64,
    },
    /// They do not: quarantine and repair.
    Bad,
    /// The pacer stopped it.
    Stopped,
}

/// What the watermarks demand (§5.7). Ordered: each one includes those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Room enough.
    None,
    /// Not to be chosen for new placements.
    Full,
    /// New uploads are refused.
    Refuse,
    /// Imports are refused too; garbage should be collected now.
    Urgent,
}

/// Space on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes the store may use: the file system's size or a configured share of it.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Staged uploads.
    pub uploads: usize,
    /// Bytes of packs, and how many of them belong to records that were removed since the store was opened.
    pub pack_bytes: u64,
    /// See `pack_bytes`.
    pub pack_dead_bytes: u64,
    /// What the watermarks say.
    pub pressure: Pressure,
}

impl Usage {
    /// How full, rounded up so that a watermark is never missed by rounding.
    pub fn used_percent(&self) -> u8 {
        used_percent(self.total_bytes, self.free_bytes)
    }
}

/// Share of `total` that isn't `free`, in percent, rounded up; 100 for a volume without size.
pub(crate) fn used_percent(total: u64, free: u64) -> u8 {
    if total == 0 {
        return 100;
    }
    let used = u128::from(total.saturating_sub(free));
    // At most 100, so it fits.
    (used * 100).div_ceil(u128::from(total)) as u8
}

/// Whether the volume takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it takes none; `None` when it does.
    pub failed: Option<Arc<str>>,
    /// Bad pack regions found when the store was opened: their blobs are missing and will be repaired.
    pub damaged_pack_regions: u64,
}

/// One blob of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// Which.
    pub key: BlobKey,
    /// Its size.
    pub size_bytes: u64,
    /// Where it lives.
    pub home: Home,
}

/// Where a walk goes on. Opaque text, so that a job can store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkCursor(pub String);

/// A page of the inventory.
#[derive(Clone, Debug, Default)]
pub struct WalkPage {
    /// At most as many as asked for; may be fewer, even none, before the end.
    pub entries: Vec<WalkEntry>,
    /// Where to go on; `None` at the end.
    pub next: Option<WalkCursor>,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Segments rewritten and deleted.
    pub segments: usize,
    /// Records copied.
    pub copied: usize,
    /// Records dropped because nobody names them.
    pub dropped: usize,
    /// Records that could not be copied because they are damaged.
    pub damaged: usize,
    /// Bytes given back.
    pub freed_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Percentages round up and never overflow.
    #[test]
    fn percentages() {
        for (total, free, percent) in
            [(0, 0, 100), (100, 100, 0), (100, 8, 92), (1000, 79, 93), (u64::MAX, 0, 100), (10, 20, 0)]
        {
            assert_eq!(used_percent(total, free), percent, "{total} {free}");
        }
    }
}
