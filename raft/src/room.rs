//! Room on the volume of the log. A log that cannot grow ends the process, so there must be a warning before, and
//! something to give away: a file that holds space for what must go on, which is votes and deletes.
//!
//! ```text
//! free >= 5/4 reserve    enough; the ballast is made (again)
//! free <  reserve        short: whoever watches takes no more changes that make the state grow
//! free <  1/4 reserve    the ballast is given away
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FallocateFlags;

use crate::core::Core;

const BALLAST: &str = "ballast";
/// Between two looks. At a gigabyte a second a disk fills faster than this; then the process ends, and starts again
/// with the ballast given away.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The volume of the log.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    reserve_bytes: u64,
    short: AtomicBool,
}

impl Room {
    /// Looks once, without making anything; gives the ballast away if the log could not even be opened with it.
    pub(crate) fn open(dir: &Path, reserve_bytes: u64) -> io::Result<Arc<Room>> {
        let stat = rustix::fs::statvfs(dir)?;
        // a small volume is not for the ballast
        let share = stat.f_blocks.saturating_mul(stat.f_frsize) / 16;
        let room = Room { dir: dir.to_owned(), reserve_bytes: reserve_bytes.min(share), short: AtomicBool::default() };
        room.look(false)?;
        Ok(Arc::new(room))
    }

    /// Whether the log may soon not be able to grow.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join(BALLAST)
    }

    fn look(&self, may_make: bool) -> io::Result<()> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let has_ballast = self.ballast().exists();
        // without the ballast its own size must come back first, or it would be made and given away in turns
        let wanted = if has_ballast { 0 } else { self.reserve_bytes } + self.reserve_bytes / 4 * 5;
        if free < self.reserve_bytes / 4 && has_ballast {
            fs::remove_file(self.ballast())?;
            tracing::error!(free, dir = %self.dir.display(), "the volume of the log is full: its ballast is given away");
        } else if may_make && free >= wanted && !has_ballast && self.reserve_bytes > 0 {
            self.make_ballast()?;
        }
        let is_short = if self.is_short() { free < wanted } else { free < self.reserve_bytes };
        if self.short.swap(is_short, Ordering::AcqRel) != is_short {
            if is_short {
                tracing::error!(
                    free,
                    reserve = self.reserve_bytes,
                    dir = %self.dir.display(),
                    "the volume of the log is nearly full: free space on it, or move other data away"
                );
            } else {
                tracing::info!(free, "the volume of the log has room again");
            }
        }
        Ok(())
    }

    fn make_ballast(&self) -> io::Result<()> {
        let path = self.ballast();
        let file = File::create(&path)?;
        let made = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.reserve_bytes);
        if made.is_err() {
            // a file system that cannot hold space back has no ballast; the warning it has all the same
            fs::remove_file(&path)?;
        }
        Ok(())
    }
}

/// Looks again and again.
pub(crate) async fn watch(core: Arc<Core>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let room = core.room.clone();
        let looked = tokio::task::spawn_blocking(move || room.look(true)).await;
        if let Ok(Err(error)) = looked {
            tracing::warn!(%error, "the room on the volume of the log is not known");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(dir: &Path) -> u64 {
        let stat = rustix::fs::statvfs(dir).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    // With room there is a ballast and no warning; a reserve that the volume has not got is a warning, and gives the
    // ballast away. What is given away is made again only when there is room for it and the reserve.
    #[test]
    fn ballast_and_warning() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::open(dir.path(), 1 << 20).unwrap();
        assert!(!room.is_short() && !room.ballast().exists());
        room.look(true).unwrap();
        assert_eq!(fs::metadata(room.ballast()).unwrap().len(), 1 << 20);
        let with_reserve =
            |reserve_bytes| Room { dir: dir.path().to_owned(), reserve_bytes, short: AtomicBool::default() };
        let near = with_reserve(free(dir.path()) * 2);
        near.look(true).unwrap();
        assert!(near.is_short() && near.ballast().exists(), "half of the reserve is left");
        let full = with_reserve(free(dir.path()) * 8);
        full.look(true).unwrap();
        assert!(full.is_short() && !full.ballast().exists());
        full.look(true).unwrap();
        assert!(full.is_short() && !full.ballast().exists());
        room.look(true).unwrap();
        assert!(room.ballast().exists());
    }
}
