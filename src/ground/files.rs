//! Small files that must be whole or absent after a power cut, and private ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

/// Mode of files with secrets and of the directories that hold them.
pub const PRIVATE_FILE_MODE: u32 = 0o600;
/// Mode of files that everyone may read.
pub const PUBLIC_FILE_MODE: u32 = 0o644;
const PRIVATE_DIR_MODE: u32 = 0o700;

/// Replaces `path` by a file with these bytes and this mode: written beside it, synced, renamed, directory synced.
///
/// After a crash the old or the new file is there, whole.
///
/// # Errors
/// When a step fails; the old file, if any, is then still in place.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = split(path)?;
    let temporary = dir.join(format!(".{name}.{:016x}.tmp", super::random::number64()));
    let written = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that is told is the first one; a left-over carries a name that nobody reads.
        drop(fs::remove_file(&temporary));
    }
    written?;
    sync_dir(dir)
}

/// Makes a file that did not exist yet, with these bytes and this mode, synced together with its directory.
///
/// # Errors
/// `AlreadyExists` when there is one: nothing is overwritten.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = split(path)?;
    let temporary = dir.join(format!(".{name}.{:016x}.tmp", super::random::number64()));
    // A hard link, unlike a rename, fails when the name is taken.
    let linked = write_new(&temporary, bytes, mode).and_then(|()| fs::hard_link(&temporary, path));
    drop(fs::remove_file(&temporary));
    linked?;
    sync_dir(dir)
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((dir.unwrap_or(Path::new(".")), name))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode at creation is cut by the umask; it is set again so that it is what was asked for.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the directory can't be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a directory with its parents, for this user only (0700); one that is there is left as it is.
///
/// # Errors
/// When it can't be made, or something else has its name.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR_MODE).create(dir)
}

/// A lock on a file that keeps other processes out. Given up when it is dropped, and not only when the last copy of the
/// open file is closed: a child process that was forked at that moment has one until it becomes another program.
#[derive(Debug)]
pub struct FileLock(File);

impl Drop for FileLock {
    fn drop(&mut self) {
        // what fails here is done by closing the file
        let _closes = rustix::fs::flock(&self.0, FlockOperation::Unlock).is_err();
    }
}

/// Keeps other processes that ask for it out of a directory until the lock is dropped; `None` when one is in.
///
/// # Errors
/// When the directory can't be opened or locked at all.
pub fn lock_dir(dir: &Path) -> io::Result<Option<FileLock>> {
    lock_file(File::open(dir)?)
}

/// Keeps other processes that ask for it out of a file until the lock is dropped; `None` when one is in.
///
/// # Errors
/// When it can't be locked at all.
pub fn lock_file(file: File) -> io::Result<Option<FileLock>> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(FileLock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The warning to give when others than the owner may read or write a file that should be private.
pub fn permission_warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o077 != 0).then(|| format!("{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    // A file is replaced whole, with the mode asked for, and nothing is left beside it.
    #[test]
    fn replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_atomic(&path, b"one", PRIVATE_FILE_MODE).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        write_atomic(&path, b"two", PUBLIC_FILE_MODE).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o644));
        assert!(write_atomic(&dir.path().join("absent/key.pem"), b"x", PRIVATE_FILE_MODE).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    // A new file never overwrites, and a failed try leaves nothing.
    #[test]
    fn creates_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        create_new(&path, b"one", PRIVATE_FILE_MODE).unwrap();
        let again = create_new(&path, b"two", PRIVATE_FILE_MODE).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    // One at a time has a directory; it is free again when the file is closed.
    #[test]
    fn locks() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock_dir(dir.path()).unwrap();
        assert!(held.is_some());
        assert!(lock_dir(dir.path()).unwrap().is_none());
        assert!(lock_dir(&dir.path().join("absent")).is_err());
    }

    // A private directory is closed to others; a private file that is not is told.
    #[test]
    fn private() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).unwrap();
        create_private_dir(&inner).unwrap();
        assert_eq!((mode(&inner), mode(inner.parent().unwrap())), (0o700, 0o700));
        let path = inner.join("x");
        write_atomic(&path, b"", 0o640).unwrap();
        assert!(permission_warning(&path).unwrap().contains("mode 0640"));
        write_atomic(&path, b"", PRIVATE_FILE_MODE).unwrap();
        assert_eq!(permission_warning(&path), None);
    }
}
