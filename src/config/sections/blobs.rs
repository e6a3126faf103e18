//! `[blobs]`

use std::path::PathBuf;

use registry_core::vocabulary::limits;

use crate::config::raw::Given;
use crate::config::section::section;
use crate::config::value::{ByteSize, Value};

/// Where blobs are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum BlobDriver {
    /// On the disks of the nodes, a copy in each zone.
    Fs,
    /// In a bucket that all nodes share; the disk stages uploads and is a cache.
    S3,
}

impl Value for BlobDriver {
    fn read(given: &Given) -> Result<BlobDriver, String> {
        match String::read(given).as_deref() {
            Ok("fs") => Ok(BlobDriver::Fs),
            Ok("s3") => Ok(BlobDriver::S3),
            Ok(_) | Err(_) => Err("is not known; write \"fs\" or \"s3\"".to_owned()),
        }
    }

    fn to_toml(&self) -> Option<String> {
        let word = match self {
            BlobDriver::Fs => "fs",
            BlobDriver::S3 => "s3",
        };
        word.to_owned().to_toml()
    }
}

section! {
    /// Blobs on this node's disk. The three marks are per cent of the capacity that are used, in rising order.
    BlobsSection "blobs"

    /// Where blobs are stored: "fs", on the disks of the nodes, or "s3", in the bucket of the section s3. All nodes of a
    /// cluster have the same. Don't change it later: nothing is moved.
    driver: BlobDriver = BlobDriver::Fs;

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
