//! `[blobs]`

use std::path::PathBuf;

use registry_core::vocabulary::limits;

use crate::config::section::section;
use crate::config::value::ByteSize;

section! {
    /// Blobs on this node's disk. The three marks are per cent of the capacity that are used, in rising order.
    BlobsSection "blobs"

    /// Directory of the blobs. Left out: blobs/ in node.data_dir.
    dir: Option<PathBuf> = None;

    /// How much may be used, for a volume that is shared with others. Left out: what the file system has.
    capacity: Option<ByteSize> = None;

    /// Above: no new blobs are placed here when another node can take them.
    full_percent: u8 = limits::WATERMARK_FULL_PERCENT => 1..=99;

    /// Above: uploads to this node are refused with 503.
    refuse_percent: u8 = limits::WATERMARK_REFUSE_PERCENT => 1..=99;

    /// Every copy on the disk is read again and hashed about once a month; at most so many MiB of it a second.
    scrub_mib_per_s: u32 = 16 => 1..=100_000;

    /// Above: leadership goes to another node and repairs to here stop. Leave room: the log needs some as well.
    urgent_percent: u8 = limits::WATERMARK_URGENT_PERCENT => 1..=99;
}
