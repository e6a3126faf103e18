//! A node's data directory as a file system of its own: an ext4 image on a loop device. Its power can be cut, it can
//! fail, fill up and slow down, and the disk of the machine stays as it is.

use std::path::{Path, PathBuf};

use super::made::{Made, is_mounted};
use super::record::Record;
use super::tools::{call, why_not};
use crate::fault::{Fault, told};

/// What is called.
const PROGRAMS: [&str; 6] = ["mkfs.ext4", "losetup", "mount", "umount", "perl", "fallocate"];
/// The journal is committed by itself so seldom that it does not save anybody by chance.
const MOUNT_OPTIONS: &str = "commit=60";
/// `FS_IOC_SHUTDOWN` (0x8004587d) with `EXT4_GOING_FLAGS_NOLOGFLUSH` (2): from now on nothing reaches the disk, what
/// the journal holds in memory included. By perl, which every Debian has: an ioctl of our own would be unsafe code.
const SHUT_DOWN: &str = r#"sysopen(my $dir, $ARGV[0], 0) or die "$ARGV[0]: $!\n";
my $flags = pack("L", 2); defined ioctl($dir, 0x8004587d, $flags) or die "FS_IOC_SHUTDOWN: $!\n";"#;
/// Fills what is left when a disk shall be full.
const FILLER: &str = ".filler";
/// Parts in which the filler takes what is left, so that it gets the last of them as well.
const FILLER_STEPS: [u64; 5] = [1 << 30, 64 << 20, 1 << 20, 64 << 10, 4 << 10];

/// Why there can be no volumes on this machine.
pub(crate) fn no_volumes() -> Option<String> {
    why_not(&PROGRAMS)
}

/// One volume, mounted.
#[derive(Debug)]
pub(super) struct Volume {
    device: String,
    at: PathBuf,
}

impl Volume {
    /// Makes an image and mounts it at `at`. What is not written takes no room.
    pub(super) fn make(image: &Path, megabytes: u64, at: &Path, record: &mut Record) -> Result<Volume, Fault> {
        let shown = image.to_string_lossy();
        let file = std::fs::File::create_new(image).map_err(told(&shown))?;
        file.set_len(megabytes << 20).map_err(told(&shown))?;
        drop(file);
        call("mkfs.ext4", &["-q", "-F", "-m", "0", &shown])?;
        record.made(Made::Loop { image: image.to_owned() })?;
        let device = call("losetup", &["--find", "--show", &shown])?.trim().to_owned();
        std::fs::create_dir_all(at).map_err(told(&at.to_string_lossy()))?;
        record.made(Made::Mount { at: at.to_owned() })?;
        let volume = Volume { device, at: at.to_owned() };
        volume.mount()?;
        // a node wants its directory empty and for itself
        std::fs::remove_dir(at.join("lost+found")).map_err(told("lost+found can't be removed"))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(at, private).map_err(told(&at.to_string_lossy()))?;
        Ok(volume)
    }

    fn mount(&self) -> Result<(), Fault> {
        call("mount", &["-o", MOUNT_OPTIONS, &self.device, &self.at.to_string_lossy()]).map(drop)
    }

    /// What was not synced is gone; every use from now on is an I/O error.
    pub(super) fn shut_down(&self) -> Result<(), Fault> {
        call("perl", &["-e", SHUT_DOWN, &self.at.to_string_lossy()]).map(drop)
    }

    /// Mounted anew: with what had reached the disk. Nobody may use it.
    pub(super) fn remount(&self) -> Result<(), Fault> {
        Made::Mount { at: self.at.clone() }.undo()?;
        self.mount()?;
        if is_mounted(&self.at) { Ok(()) } else { Err(Fault::new(format!("{} is not mounted", self.at.display()))) }
    }

    /// Takes all the room that is left, durably.
    pub(super) fn fill(&self) -> Result<u64, Fault> {
        let filler = self.at.join(FILLER);
        let shown = filler.to_string_lossy();
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&filler);
        let file = file.map_err(told(&shown))?;
        let length = || file.metadata().map(|data| data.len()).map_err(told(&shown));
        for step in FILLER_STEPS {
            // what could not be had in large parts may be had in smaller ones; a log that is purged gives more
            while call("fallocate", &["-o", &length()?.to_string(), "-l", &step.to_string(), &shown]).is_ok() {}
        }
        file.sync_all().map_err(told(&shown))?;
        length()
    }

    /// Gives that room back.
    pub(super) fn free(&self) -> Result<(), Fault> {
        let filler = self.at.join(FILLER);
        std::fs::remove_file(&filler).map_err(told(&filler.to_string_lossy()))
    }

    /// `major:minor` of its device.
    pub(super) fn number(&self) -> Result<String, Fault> {
        let name = self.device.trim_start_matches("/dev/");
        let path = format!("/sys/block/{name}/dev");
        std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(told(&path))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    // What was synced survives a cut, what was not is gone, and a failed disk says so; then nothing is left over. Needs
    // root: elsewhere there is nothing to test.
    #[test]
    fn power_is_cut() {
        if let Some(why) = no_volumes() {
            eprintln!("NOT TESTED: {why}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::create(dir.path(), serde_json::Value::Null, Vec::new()).unwrap();
        let at = dir.path().join("at");
        let volume = Volume::make(&dir.path().join("image"), 64, &at, &mut record).unwrap();
        let write = |name: &str, is_synced: bool| {
            let mut file = std::fs::File::create(at.join(name)).unwrap();
            file.write_all(b"bytes").unwrap();
            if is_synced {
                file.sync_all().unwrap();
            }
        };
        write("synced", true);
        write("loose", false);
        volume.shut_down().unwrap();
        assert!(std::fs::write(at.join("late"), b"x").is_err());
        volume.remount().unwrap();
        assert_eq!(std::fs::read(at.join("synced")).unwrap(), b"bytes");
        assert!(!at.join("loose").exists() && !at.join("late").exists());
        assert!(volume.fill().unwrap() > 32 << 20);
        assert!(std::fs::write(at.join("more"), [1; 8192]).is_err());
        volume.free().unwrap();
        std::fs::write(at.join("more"), [1; 8192]).unwrap();
        assert!(volume.number().unwrap().starts_with("7:"));
        crate::cluster::supervisor::undo(record.path()).unwrap();
        assert!(!is_mounted(&at));
        let loops = call("losetup", &["--list"]).unwrap();
        assert!(!loops.contains(&*dir.path().to_string_lossy()), "{loops}");
    }
}
