//! Small durable files: written aside, synced, renamed, directory synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Does work that waits for a disk on a thread for it. Never ready where the runtime was told to end before the work
/// began: that is no failure of the disk, and what follows the work must not be done then either.
pub(crate) async fn blocking<R, E>(work: impl FnOnce() -> Result<R, E> + Send + 'static) -> Result<R, E>
where
    R: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(panic) => Err(io::Error::other(panic).into()),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a directory (and those above it) durably exist.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    sync_dir(dir)?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Replaces a file: after a crash it is the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&aside, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The contents of a file, `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a directory and all in it, if it exists.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Regular files below `dir`, as sorted relative paths with `/`.
pub(crate) fn walk(dir: &Path) -> io::Result<Vec<String>> {
    fn visit(dir: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(io::Error::other("a file name is not UTF-8"));
            };
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() {
                visit(&entry.path(), &path, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    visit(dir, "", &mut found)?;
    found.sort_unstable();
    Ok(found)
}

/// Makes every file and directory below `dir` durable.
pub(crate) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// Copies a directory; files that never change (`.sst`, `.blob`) are shared by hard links.
pub(crate) fn clone_tree(from: &Path, to: &Path) -> io::Result<()> {
    for path in walk(from)? {
        let target = to.join(&path);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        let immutable = path.ends_with(".sst") || path.ends_with(".blob");
        if immutable {
            fs::hard_link(from.join(&path), &target)?;
        } else {
            fs::copy(from.join(&path), &target)?;
        }
    }
    sync_tree(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A clone has the same files; only those that never change share their bytes on the disk.
    #[test]
    fn clone_shares_only_immutable_files() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("a"), root.path().join("b"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/1.sst"), "table").unwrap();
        fs::write(from.join("MANIFEST"), "m").unwrap();
        clone_tree(&from, &to).unwrap();
        assert_eq!(walk(&to).unwrap(), ["MANIFEST", "sub/1.sst"]);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&from.join("sub/1.sst")), inode(&to.join("sub/1.sst")));
        assert_ne!(inode(&from.join("MANIFEST")), inode(&to.join("MANIFEST")));
    }

    // Replacing leaves the new contents and nothing beside them.
    #[test]
    fn replace_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), Some(b"two".to_vec()));
        assert_eq!(walk(root.path()).unwrap(), ["file"]);
    }
}
