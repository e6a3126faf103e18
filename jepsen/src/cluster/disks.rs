//! What lies on the disks of stopped nodes, counted by the harness itself: what the server's own `check` says of the
//! same files has to fit.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Seat;
use crate::fault::{Fault, told};

/// Beside each file of a blob lie the sums of its blocks.
const SUMS: &str = ".sum";

/// For each node: its blobs with files of their own, the bytes of those without their sums, and the bytes of its packs.
pub(crate) fn count(seats: &[Seat], directories: &[PathBuf]) -> Result<Value, Fault> {
    let count = |(seat, data): (&Seat, &PathBuf)| {
        let (files, bytes) = files(&data.join("blobs/blobs"), 1)?;
        let (packs, pack_bytes) = self::files(&data.join("blobs/pack"), 0)?;
        let value = json!({"path": data, "files": files, "bytes": bytes, "packs": packs, "pack_bytes": pack_bytes});
        Ok((seat.name.clone(), value))
    };
    let counted = seats.iter().zip(directories).map(count).collect::<Result<serde_json::Map<_, _>, Fault>>()?;
    Ok(Value::Object(counted))
}

/// Files and their bytes, `depth` directories below `dir`.
fn files(dir: &Path, depth: u8) -> Result<(u64, u64), Fault> {
    let failed = || format!("{} can't be read", dir.display());
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(dir).map_err(told(&failed()))? {
        let entry = entry.map_err(told(&failed()))?;
        if depth > 0 {
            let below = self::files(&entry.path(), depth - 1)?;
            (files, bytes) = (files + below.0, bytes + below.1);
        } else if !entry.file_name().to_string_lossy().ends_with(SUMS) {
            (files, bytes) = (files + 1, bytes + entry.metadata().map_err(told(&failed()))?.len());
        }
    }
    Ok((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sums are not counted, and nothing that does not lie where blobs lie.
    #[test]
    fn counts() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("blobs/blobs/ab");
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/pack")).unwrap();
        for (name, bytes) in [("ab1.2", 5), ("ab1.2.sum", 9), ("ab3.4", 6)] {
            std::fs::write(shard.join(name), vec![0; bytes]).unwrap();
        }
        std::fs::write(dir.path().join("blobs/pack/7"), b"pack").unwrap();
        std::fs::write(dir.path().join("blobs/other"), b"other").unwrap_or_default();
        let address = "127.0.0.1:1".parse().unwrap();
        let seat = Seat { name: "a-1".into(), public: address, admin: address };
        let counted = count(&[seat], &[dir.path().to_owned()]).unwrap();
        let found = ["files", "bytes", "packs", "pack_bytes"].map(|name| counted["a-1"][name].as_u64().unwrap());
        assert_eq!(found, [2, 11, 1, 4]);
    }
}
