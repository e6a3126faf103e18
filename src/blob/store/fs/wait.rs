//! Reading what is in memory already without leaving the thread, and everything else with patience.
//!
//! Handing a read to another thread and back costs as much as copying 64 KiB. Most pulls find their bytes in the page
//! cache, so they ask for these first (`RWF_NOWAIT`), and only go where the disk may be waited for when that fails.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;

use rustix::io::ReadWriteFlags;

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// As long as it takes.
    Long,
    /// Not at all.
    Never,
}

/// Fills `bytes` from `offset` on. With [`Wait::Never`] anything but success is `WouldBlock`: who may wait finds out.
pub(super) fn read_exact(file: &File, bytes: &mut [u8], offset: u64, wait: Wait) -> io::Result<()> {
    if wait == Wait::Long {
        return file.read_exact_at(bytes, offset);
    }
    let wanted = bytes.len();
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], offset, ReadWriteFlags::NOWAIT);
    if read == Ok(wanted) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    // Either way gives the same bytes; what lies behind the end is an error in one and unknown in the other.
    #[test]
    fn both_ways() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1, 2, 3, 4, 5]).unwrap();
        let read = |offset, wait| {
            let mut bytes = [0; 2];
            read_exact(&file, &mut bytes, offset, wait).map(|()| bytes).map_err(|error| error.kind())
        };
        assert_eq!(read(1, Wait::Long), Ok([2, 3]));
        assert_eq!(read(4, Wait::Long), Err(io::ErrorKind::UnexpectedEof));
        assert!(matches!(read(1, Wait::Never), Ok([2, 3]) | Err(io::ErrorKind::WouldBlock)));
        assert_eq!(read(4, Wait::Never), Err(io::ErrorKind::WouldBlock));
    }
}
