//! The volume of a stopped node: looked at, never changed. For an operator's offline check.
//!
//! Unlike an open, it makes no directory, cuts no tail, heals no sidecar and frees nothing that a crash left; it holds
//! the marker's lock, so that no node starts on what is being judged.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use registry_core::vocabulary::ids::{ClusterId, StoreId};
use rustix::fs::Advice;

use super::dir::Dir;
use super::marker;
use super::pack::StoppedPacks;
use super::place::sum_name;
use super::staged;
use super::sums::Sums;
use crate::blob::store::tally::Tally;
use crate::blob::store::{BLOCK_BYTES, BlobKey, Home, OpenError, READ_BYTES_MAX, StoreResult, block_sum};
use crate::ground::files::FileLock;

/// A volume that no process has open.
pub struct StoppedVolume {
    store: StoreId,
    cluster: ClusterId,
    shards: Vec<Option<Dir>>,
    staging: Option<Dir>,
    quarantine: Option<Dir>,
    packs: StoppedPacks,
    /// Keeps nodes out for as long as this lives.
    _marker: FileLock,
}

impl std::fmt::Debug for StoppedVolume {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "StoppedVolume({})", self.store)
    }
}

/// How closely a copy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All bytes are read and hashed.
    Whole,
    /// Its size, its sums, and its first and last block.
    Quick,
}

/// What a look at a copy found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examined {
    /// The bytes are the blob's. The sidecar of sums may still be wrong: it is rebuilt when the blob is read.
    Good {
        /// What is wrong with the sidecar.
        sums: Option<&'static str>,
    },
    /// Something is there, and it is not the blob.
    Bad(String),
    /// Nothing is there.
    Missing,
}

/// Something that lies on the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lying {
    /// A copy of a blob.
    Copy {
        /// Which.
        key: BlobKey,
        /// How many bytes.
        size_bytes: u64,
        /// Where.
        home: Home,
    },
    /// Bytes of an upload or an import that had not come to its end.
    Staged {
        /// Name in the directory of staged bytes.
        name: String,
        /// How many bytes.
        size_bytes: u64,
    },
    /// A copy that was found damaged before, and kept for a look.
    Quarantined {
        /// Name in the quarantine.
        name: String,
        /// How many bytes.
        size_bytes: u64,
    },
    /// A file that belongs to nothing.
    Stray {
        /// Its path in the volume.
        name: String,
        /// How many bytes.
        size_bytes: u64,
    },
}

impl StoppedVolume {
    /// Opens the volume in `root` and keeps every other process out of it.
    ///
    /// Errors: `InUse` while a node runs on it.
    pub fn open(root: &Path) -> Result<StoppedVolume, OpenError> {
        let dir = Dir::open_root(root).map_err(|error| marker::root_error(root, error))?;
        let (store, cluster, marker) = marker::hold(&dir)?;
        let room = |dir: &Dir, name: &str| match dir.open(name) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(dir.error("open", name, error)),
        };
        let shards = match room(&dir, "blobs")? {
            Some(blobs) => (0..=u8::MAX).map(|shard| room(&blobs, &format!("{shard:02x}"))).collect(),
            None => Ok(Vec::new()),
        };
        let packs = StoppedPacks::open(room(&dir, "pack")?.as_ref(), store)?;
        let (staging, quarantine) = (room(&dir, "staging")?, room(&dir, "quarantine")?);
        Ok(StoppedVolume { store, cluster, shards: shards?, staging, quarantine, packs, _marker: marker })
    }

    /// The identity in its marker.
    pub fn store_id(&self) -> StoreId {
        self.store
    }

    /// The cluster in its marker.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Pack segments with regions that are not what was written, each with what is wrong.
    pub fn damaged_packs(&self) -> &[(String, String)] {
        &self.packs.damaged
    }

    /// Looks at a copy that should have `size_bytes`; `read` is told how many bytes were read since it was told last.
    pub fn examine(&self, key: &BlobKey, size_bytes: u64, depth: Depth, read: &mut dyn FnMut(u64)) -> Examined {
        if let Some(found_bytes) = self.packs.size_bytes(key) {
            let fault = match self.packs.fault(key, depth == Depth::Whole) {
                None if found_bytes != size_bytes => Some(wrong_size(found_bytes, size_bytes)),
                fault => fault,
            };
            read(found_bytes);
            return fault.map_or(Examined::Good { sums: None }, Examined::Bad);
        }
        let Some(shard) = self.shards.get(usize::from(key.shard())).and_then(Option::as_ref) else {
            return Examined::Missing;
        };
        match shard.open_read(&key.file_name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Examined::Missing,
            Err(error) => Examined::Bad(error.to_string()),
            Ok(file) => examine_file(shard, &file, key, size_bytes, depth, read).unwrap_or_else(Examined::Bad),
        }
    }

    /// Visits everything that lies on the volume.
    pub fn each(&self, mut visit: impl FnMut(Lying)) -> StoreResult<()> {
        for (number, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            let names = shard.names().map_err(|error| shard.error("list", ".", error))?;
            for name in &names {
                let size_bytes = size_of(shard, name)?;
                match BlobKey::parse_file_name(name) {
                    Some(key) => visit(Lying::Copy { key, size_bytes, home: Home::File }),
                    None if is_sidecar(name, &names) => {}
                    None => visit(Lying::Stray { name: format!("blobs/{number:02x}/{name}"), size_bytes }),
                }
            }
        }
        self.packs.each(|key, size_bytes| visit(Lying::Copy { key, size_bytes, home: Home::Pack }))?;
        for name in &self.packs.strangers {
            visit(Lying::Stray { name: format!("pack/{name}"), size_bytes: 0 });
        }
        for (dir, is_staging) in [(&self.staging, true), (&self.quarantine, false)] {
            let Some(dir) = dir else { continue };
            for name in dir.names().map_err(|error| dir.error("list", ".", error))? {
                let size_bytes = size_of(dir, &name)?;
                visit(match is_staging {
                    true => Lying::Staged { name, size_bytes },
                    false => Lying::Quarantined { name, size_bytes },
                });
            }
        }
        Ok(())
    }
}

fn size_of(dir: &Dir, name: &str) -> StoreResult<u64> {
    let stat = dir.stat(name).map_err(|error| dir.error("stat", name, error))?;
    Ok(stat.map_or(0, |stat| stat.size_bytes))
}

/// Whether `name` is the sidecar of a blob that is listed too. The names are sorted.
fn is_sidecar(name: &str, names: &[String]) -> bool {
    let Some(blob) = name.strip_suffix(".sum") else { return false };
    BlobKey::parse_file_name(blob).is_some() && names.binary_search_by(|other| other.as_str().cmp(blob)).is_ok()
}

fn wrong_size(found_bytes: u64, size_bytes: u64) -> String {
    format!("it has {found_bytes} bytes in place of {size_bytes}")
}

fn examine_file(
    shard: &Dir,
    file: &File,
    key: &BlobKey,
    size_bytes: u64,
    depth: Depth,
    read: &mut dyn FnMut(u64),
) -> Result<Examined, String> {
    let meta = file.metadata().map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() != size_bytes {
        return Err(wrong_size(meta.len(), size_bytes));
    }
    let stored = load_sums(shard, key, size_bytes);
    let sums = match depth {
        Depth::Quick => {
            read(size_bytes);
            return match &stored {
                Some(sums) => check_ends(file, sums).map(|()| Examined::Good { sums: None }),
                // Without sums only the whole bytes can say whether they are good.
                None => Ok(Examined::Good { sums: Some("missing or damaged; a whole check hashes the blob") }),
            };
        }
        Depth::Whole => hash(file, key, size_bytes, read)?,
    };
    let fault = match stored {
        None => Some("missing or damaged"),
        Some(stored) if stored != sums => Some("not those of the bytes"),
        Some(_) => None,
    };
    Ok(Examined::Good { sums: fault })
}

/// Hashes all bytes; the sums they have.
fn hash(file: &File, key: &BlobKey, size_bytes: u64, read: &mut dyn FnMut(u64)) -> Result<Sums, String> {
    // The page cache would vouch for bytes that the disk no longer has.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    let mut tally = Tally::new(key.digest.algorithm());
    while tally.offset() < size_bytes {
        let before = tally.offset();
        let until = (before + READ_BYTES_MAX as u64).min(size_bytes);
        staged::feed(file, &mut tally, until).map_err(|error| error.to_string())?;
        read(tally.offset() - before);
    }
    let (actual, sums) = tally.finish();
    if actual != key.digest {
        return Err(format!("the bytes hash to {actual}"));
    }
    Ok(Sums { size_bytes, sums })
}

/// Compares the first and the last block with their sums.
fn check_ends(file: &File, sums: &Sums) -> Result<(), String> {
    let last = sums.sums.len().saturating_sub(1);
    for index in [0, last] {
        let at = index as u64 * BLOCK_BYTES as u64;
        let len = sums.size_bytes.saturating_sub(at).min(BLOCK_BYTES as u64);
        // At most a block.
        let mut block = vec![0; len as usize];
        file.read_exact_at(&mut block, at).map_err(|error| format!("unreadable at {at}: {error}"))?;
        if sums.sums.get(index).is_some_and(|sum| *sum != block_sum(&block)) {
            return Err(format!("the block at {at} does not match its sum"));
        }
    }
    Ok(())
}

fn load_sums(shard: &Dir, key: &BlobKey, size_bytes: u64) -> Option<Sums> {
    let mut bytes = Vec::new();
    let file = shard.open_read(&sum_name(&key.file_name())).ok()?;
    file.take(Sums::encoded_bytes(size_bytes) + 1).read_to_end(&mut bytes).ok()?;
    Sums::decode(&bytes, size_bytes)
}
