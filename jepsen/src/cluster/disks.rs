//! What lies on the disks of stopped nodes, counted by the harness itself: what the server's own `check` says of the
//! same files has to fit.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Seat;
use crate::fault::{Fault, told};

/// Beside each file of a blob lie the sums of its blocks.
const SUMS: &str = ".sum";

/// For each node: names and bytes of its blobs with files of their own, without their sums, and the bytes of its packs.
pub(crate) fn count(seats: &[Seat], directories: &[PathBuf]) -> Result<Value, Fault> {
    let count = |(seat, data): (&Seat, &PathBuf)| {
        let files = files(&data.join("blobs/blobs"), 1)?;
        let packs = self::files(&data.join("blobs/pack"), 0)?;
        let bytes = |files: &[(String, u64)]| -> u64 { files.iter().map(|(_, bytes)| bytes).sum() };
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let value = json!({"path": data, "files": names, "bytes": bytes(&files), "pack_bytes": bytes(&packs)});
        Ok((seat.name.clone(), value))
    };
    let counted = seats.iter().zip(directories).map(count).collect::<Result<serde_json::Map<_, _>, Fault>>()?;
    Ok(Value::Object(counted))
}

/// Files and the bytes of each, `depth` directories below `dir`.
fn files(dir: &Path, depth: u8) -> Result<Vec<(String, u64)>, Fault> {
    let failed = || format!("{} can't be read", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(told(&failed()))? {
        let entry = entry.map_err(told(&failed()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if depth > 0 {
            found.extend(files(&entry.path(), depth - 1)?);
        } else if !name.ends_with(SUMS) {
            found.push((name, entry.metadata().map_err(told(&failed()))?.len()));
        }
    }
    Ok(found)
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
        let mut names: Vec<&str> =
            counted["a-1"]["files"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["ab1.2", "ab3.4"]);
        assert_eq!(["bytes", "pack_bytes"].map(|name| counted["a-1"][name].as_u64().unwrap()), [11, 4]);
    }
}
