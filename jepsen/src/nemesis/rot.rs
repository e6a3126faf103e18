//! Bytes that change at rest: one bit, or one page.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::kind::FaultKind;
use crate::fault::{Fault, told};

/// A page of the kernel.
const PAGE_BYTES: u64 = 4096;

/// Damages one file of the kind below a node's data directory; what was done, `None` when there is no such file yet.
pub(crate) fn damage(data: &Path, kind: FaultKind, draw: u64) -> Result<Option<Value>, Fault> {
    let mut random = fastrand::Rng::with_seed(draw);
    let mut files = Vec::new();
    walk(data, &mut files).map_err(told(&data.to_string_lossy()))?;
    files.retain(|(path, bytes)| *bytes > 0 && path.strip_prefix(data).is_ok_and(|inner| is_of(kind, inner)));
    // the same draw finds the same file
    files.sort();
    let Some((path, bytes)) = random.choice(files) else { return Ok(None) };
    let is_page = random.bool();
    let done = change(&path, bytes, is_page, &mut random).map_err(told(&path.to_string_lossy()))?;
    let shown = path.strip_prefix(data).unwrap_or(&path).to_string_lossy().into_owned();
    Ok(Some(json!({"file": shown, "bytes": bytes, "what": done.0, "offset": done.1})))
}

fn walk(dir: &Path, found: &mut Vec<(PathBuf, u64)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        // files of a running node come and go
        let Ok(data) = path.symlink_metadata() else { continue };
        if data.is_dir() {
            walk(&path, found)?;
        } else if data.is_file() {
            found.push((path, data.len()));
        }
    }
    Ok(())
}

/// Whether a file, as named in the data directory, is one that the kind damages.
fn is_of(kind: FaultKind, inner: &Path) -> bool {
    let (shown, ending) = (inner.to_string_lossy(), inner.extension().and_then(|ending| ending.to_str()));
    let is_table = !shown.starts_with("blobs/") && !shown.contains("/snapshots/");
    kind == FaultKind::RotBlob && (shown.starts_with("blobs/blobs/") || shown.starts_with("blobs/pack/"))
        || kind == FaultKind::RotSst && is_table && ending == Some("sst")
        || kind == FaultKind::RotWal && is_table && ending == Some("log")
        || kind == FaultKind::RotSnapshot && shown.contains("/snapshots/")
}

/// Flips a bit, or inverts the page around it; what, and where.
fn change(path: &Path, bytes: u64, is_page: bool, random: &mut fastrand::Rng) -> std::io::Result<(&'static str, u64)> {
    let file = File::options().read(true).write(true).open(path)?;
    let offset = random.u64(0..bytes);
    if is_page {
        let from = offset / PAGE_BYTES * PAGE_BYTES;
        let mut page = vec![0; usize::try_from(PAGE_BYTES.min(bytes - from)).unwrap_or_default()];
        file.read_exact_at(&mut page, from)?;
        // a page of zeros would not be damaged by zeros
        page.iter_mut().for_each(|byte| *byte = !*byte);
        file.write_all_at(&page, from)?;
        file.sync_all()?;
        return Ok(("page", from));
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1 << random.u8(0..8)], offset)?;
    file.sync_all()?;
    Ok(("bit", offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Exactly one bit or one page of one file of the kind changes, the same for the same draw; without a file nothing.
    #[test]
    fn one_place() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "raft/log/000012.sst",
            "raft/log/000013.log",
            "raft/snapshots/1/000001.sst",
            "state/000007.sst",
            "blobs/blobs/aa/aabb.1",
            "blobs/staging/x",
            "blobs/store.toml",
            "identity.toml",
        ];
        let write = || {
            for name in files {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, vec![7; 10_000]).unwrap();
            }
        };
        write();
        assert_eq!(damage(dir.path(), FaultKind::Kill, 1).unwrap(), None);
        let wanted: [(FaultKind, &[&str]); 4] = [
            (FaultKind::RotBlob, &files[4..5]),
            (FaultKind::RotSst, &[files[0], files[3]]),
            (FaultKind::RotWal, &files[1..2]),
            (FaultKind::RotSnapshot, &files[2..3]),
        ];
        for (kind, may) in wanted {
            for draw in 0..20 {
                write();
                let told = damage(dir.path(), kind, draw).unwrap().unwrap();
                write();
                assert_eq!(damage(dir.path(), kind, draw).unwrap().unwrap(), told);
                let changed: Vec<(&str, usize)> = files
                    .iter()
                    .map(|name| (*name, std::fs::read(dir.path().join(name)).unwrap()))
                    .map(|(name, bytes)| (name, bytes.iter().map(|byte| (byte ^ 7).count_ones() as usize).sum()))
                    .filter(|(_, bits)| *bits > 0)
                    .collect();
                assert_eq!(changed.len(), 1, "{changed:?}");
                assert!(may.contains(&changed[0].0) && told["file"] == changed[0].0, "{kind:?}: {changed:?}");
                let is_bit = told["what"] == "bit";
                assert!(if is_bit { changed[0].1 == 1 } else { changed[0].1 >= 1808 * 8 }, "{told} {changed:?}");
            }
        }
        std::fs::remove_dir_all(dir.path().join("raft/snapshots")).unwrap();
        assert_eq!(damage(dir.path(), FaultKind::RotSnapshot, 1).unwrap(), None);
    }
}
