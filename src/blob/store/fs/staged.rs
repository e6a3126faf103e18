//! A file that collects bytes: written at exact offsets, hashed on the way, pushed to the disk early.

use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use rustix::fs::Advice;

use super::volume::Volume;
use crate::blob::store::tally::Tally;
use crate::blob::store::{READ_BYTES_MAX, Step, StoreError, StoreResult};

/// Writeback of a window begins when the next one is full, so that the sync at the end finds little to do.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// Slices per system call, far below the kernel's 1,024.
const SLICES_MAX: usize = 256;

/// Writes `parts` at `offset`, where the file ends, and feeds them to `tally`. After an error the file ends at
/// `offset`.
pub(super) fn append(
    volume: &Volume,
    file: &File,
    tally: &mut Tally,
    offset: u64,
    parts: &[Bytes],
) -> StoreResult<u64> {
    volume.writable()?;
    let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
    let end = offset.checked_add(len).ok_or(StoreError::TooLarge { max: u64::MAX })?;
    volume.reserve(len)?;
    if let Err(error) = volume.before(Step::StagingWrite).and_then(|()| write_all_at(file, offset, parts)) {
        // What was written of it is cut off; if that fails too, the next append writes over it.
        if let Err(error) = file.set_len(offset) {
            tracing::warn!(%error, "could not cut a staging file back after a failed write");
        }
        volume.release(len);
        return Err(StoreError::io("write staged bytes", error));
    }
    for part in parts {
        tally.update(part);
    }
    if end / WRITEBACK_BYTES > offset / WRITEBACK_BYTES {
        begin_writeback(file, offset / WRITEBACK_BYTES * WRITEBACK_BYTES);
    }
    Ok(end)
}

fn write_all_at(file: &File, mut offset: u64, parts: &[Bytes]) -> io::Result<()> {
    for group in parts.chunks(SLICES_MAX) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|part| IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        // Drops empty slices in front, so that a write of nothing is never taken for a full disk.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(file, slices, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Starts writing a window's dirty pages without waiting. On Linux this advice does exactly that before it drops clean
/// pages; the dirty ones stay. Only advice: errors say nothing about the bytes.
fn begin_writeback(file: &File, from: u64) {
    let _ = rustix::fs::fadvise(file, from, NonZeroU64::new(WRITEBACK_BYTES), Advice::DontNeed);
}

/// Feeds the bytes of `file` from the tally's offset up to `until`.
pub(super) fn feed(file: &File, tally: &mut Tally, until: u64) -> StoreResult<()> {
    let mut buffer = vec![0; READ_BYTES_MAX];
    while tally.offset() < until {
        let want = (until - tally.offset()).min(buffer.len() as u64) as usize;
        let read = file
            .read_at(&mut buffer[..want], tally.offset())
            .map_err(|error| StoreError::io("read staged bytes", error))?;
        if read == 0 {
            return Err(StoreError::io("read staged bytes", io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        tally.update(&buffer[..read]);
    }
    Ok(())
}
