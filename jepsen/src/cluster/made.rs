//! What a run makes outside its own directory, and how each of it is undone.
//!
//! It is written to `run.json` before it is made, so undoing looks first whether it is there. The supervisor undoes
//! it at the end of the run, the next run what even the supervisor left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::tools::call;
use crate::fault::{Fault, told};

/// How long a killed process may still hold a mount or a control group.
const BUSY_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Something made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "kebab-case")]
pub(crate) enum Made {
    /// Loop devices over an image.
    Loop {
        /// The image.
        image: PathBuf,
    },
    /// A mounted file system.
    Mount {
        /// Where.
        at: PathBuf,
    },
    /// An iptables chain and the rule of INPUT that leads to it.
    Chain {
        /// Its name.
        name: String,
    },
    /// A control group.
    Cgroup {
        /// Its directory.
        path: PathBuf,
    },
}

impl Made {
    /// Undoes it; nothing where it is not there.
    pub(super) fn undo(&self) -> Result<(), Fault> {
        match self {
            Made::Loop { image } => devices_of(image)?.iter().try_for_each(|device| detach(device)),
            Made::Mount { at } => unmount(at),
            Made::Chain { name } => remove_chain(name),
            Made::Cgroup { path } => remove_cgroup(path),
        }
    }
}

/// Loop devices over an image.
fn devices_of(image: &Path) -> Result<Vec<String>, Fault> {
    let said = call("losetup", &["--noheadings", "--output", "NAME,BACK-FILE", "--list"])?;
    Ok(backed_by(&said, image))
}

/// Of lines `/dev/loop3  /path/to/image`, the devices of one image. One that was removed meanwhile is shown as deleted.
fn backed_by(said: &str, image: &Path) -> Vec<String> {
    let ours = |line: &str| {
        let (device, file) = line.trim().split_once(char::is_whitespace)?;
        let file = file.trim().trim_end_matches(" (deleted)");
        (Path::new(file) == image).then(|| device.to_owned())
    };
    said.lines().filter_map(ours).collect()
}

fn detach(device: &str) -> Result<(), Fault> {
    call("losetup", &["--detach", device]).map(drop)
}

/// Whether a file system is mounted there.
pub(super) fn is_mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    has_mount(&mounts, at)
}

fn has_mount(mounts: &str, at: &Path) -> bool {
    // spaces are written as \040 there
    let at = at.to_string_lossy().replace(' ', "\\040");
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&at))
}

fn unmount(at: &Path) -> Result<(), Fault> {
    let shown = at.to_string_lossy();
    let began = Instant::now();
    while is_mounted(at) {
        let Err(error) = call("umount", &[&shown]) else { continue };
        if began.elapsed() > BUSY_MAX {
            call("umount", &["--lazy", &shown])?;
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn remove_chain(name: &str) -> Result<(), Fault> {
    if call("iptables", &["-w", "-n", "-L", name]).is_err() {
        return Ok(());
    }
    // the rule that leads there may be missing when the run ended between two steps
    while call("iptables", &["-w", "-D", "INPUT", "-i", "lo", "-j", name]).is_ok() {}
    call("iptables", &["-w", "-F", name])?;
    call("iptables", &["-w", "-X", name]).map(drop)
}

fn remove_cgroup(path: &Path) -> Result<(), Fault> {
    let began = Instant::now();
    while path.exists() {
        match std::fs::remove_dir(path) {
            Err(error) if began.elapsed() > BUSY_MAX => {
                return Err(told(&format!("{} can't be removed", path.display()))(error));
            }
            Ok(()) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Only what is over exactly this image is ours, also when the image was removed.
    #[test]
    fn devices() {
        let said = "/dev/loop0 /s/1/a.ext4\n/dev/loop11   /s/1/b.ext4 (deleted)\n/dev/loop2 /s/11/a.ext4\n";
        assert_eq!(backed_by(said, Path::new("/s/1/a.ext4")), ["/dev/loop0"]);
        assert_eq!(backed_by(said, Path::new("/s/1/b.ext4")), ["/dev/loop11"]);
        assert!(backed_by(said, Path::new("/s/1")).is_empty());
    }

    // A mount is known by its whole path.
    #[test]
    fn mounts() {
        let mounts = "/dev/loop0 /s/a\\040b/data ext4 rw 0 0\nproc /proc proc rw 0 0\n";
        assert!(has_mount(mounts, Path::new("/s/a b/data")) && has_mount(mounts, Path::new("/proc")));
        assert!(!has_mount(mounts, Path::new("/s/a b")) && !has_mount(mounts, Path::new("ext4")));
    }

    // What is not there needs no undoing, and no rights either.
    #[test]
    fn nothing_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        Made::Mount { at: path.clone() }.undo().unwrap();
        Made::Cgroup { path }.undo().unwrap();
        let group = dir.path().join("group");
        std::fs::create_dir(&group).unwrap();
        Made::Cgroup { path: group.clone() }.undo().unwrap();
        assert!(!group.exists());
    }
}
