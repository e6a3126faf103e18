//! Directories held by descriptor: every path below the root is one name inside one of them, opened without following
//! links (security case B13).

use std::fs::File;
use std::io;
use std::path::Path;

use registry_core::mutants::{self, Mutant};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::blob::store::StoreError;

/// An open directory.
pub(super) struct Dir {
    fd: OwnedFd,
    /// For messages only.
    path: String,
}

/// What `stat` says about a name.
pub(super) struct FileStat {
    pub(super) size_bytes: u64,
    pub(super) links: u64,
    pub(super) modified_at_ms: u64,
    pub(super) is_file: bool,
}

const PRIVATE: Mode = Mode::RWXU;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl Dir {
    /// Opens the root. Its own name must not be a link; what leads to it may be.
    pub(super) fn open_root(path: &Path) -> io::Result<Dir> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Dir { fd, path: path.display().to_string() })
    }

    /// Opens the directory `name` in this one, making it first if it isn't there; its mode is 0700 afterwards.
    pub(super) fn make(&self, name: &str) -> io::Result<Dir> {
        match rustix::fs::mkdirat(&self.fd, name, PRIVATE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let fd = rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?;
        let dir = Dir { fd, path: format!("{}/{name}", self.path) };
        dir.make_private()?;
        Ok(dir)
    }

    /// Opens the directory `name` in this one.
    pub(super) fn open(&self, name: &str) -> io::Result<Dir> {
        let fd = rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?;
        Ok(Dir { fd, path: format!("{}/{name}", self.path) })
    }

    /// Takes the rights of group and others away.
    pub(super) fn make_private(&self) -> io::Result<()> {
        let mode = rustix::fs::fstat(&self.fd)?.st_mode;
        if mode & 0o077 != 0 {
            rustix::fs::fchmod(&self.fd, PRIVATE)?;
        }
        Ok(())
    }

    /// Makes a new file; fails if the name is taken.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// Makes or empties a file.
    pub(super) fn recreate(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
    }

    pub(super) fn open_read(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY)
    }

    pub(super) fn open_write(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        Ok(File::from(rustix::fs::openat(&self.fd, name, FILE | flags, Mode::RUSR | Mode::WUSR)?))
    }

    pub(super) fn rename(&self, from: &str, to: &Dir, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &to.fd, name)?)
    }

    /// Unlinks a file; false if there is none.
    pub(super) fn unlink(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn stat(&self, name: &str) -> io::Result<Option<FileStat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileStat {
                size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
                links: stat.st_nlink,
                modified_at_ms: u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1000),
                is_file: rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file(),
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All names but `.` and `..`, sorted. A name that isn't UTF-8 is not ours and left out.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the names in this directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        if mutants::is_on(Mutant::SkipDirSync) {
            return Ok(());
        }
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Size and free bytes of the file system, as `df` counts them: blocks reserved for root are nobody's.
    pub(super) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        let total = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_add(stat.f_bavail);
        Ok((total.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// An error about `name` in here.
    pub(super) fn error(&self, act: &str, name: &str, error: io::Error) -> StoreError {
        StoreError::io(format!("{act} {}/{name}", self.path), error)
    }
}
