//! Receiving a snapshot: say which files are wanted, write pieces, check every file, hand the directory over.
//!
//! Files that arrived whole stay when a transfer breaks; the next offer of the same snapshot asks for the rest only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::wire::{self, Chunk, Offer};
use crate::files;
use crate::snapshot::{Manifest, ManifestFile, Snapshots};
use crate::types::{Snapshot, Vote};

/// Ends the name of a file that is not whole yet.
const PART: &str = "part";
/// Files in one snapshot.
const FILES_MAX: usize = 1 << 20;

/// The one snapshot on its way in.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    snapshots: Arc<Snapshots>,
    accepted: Arc<Mutex<Option<Arc<Incoming>>>>,
}

/// A snapshot that was offered and accepted.
#[derive(Debug)]
pub(crate) struct Incoming {
    id: [u8; 32],
    offer: Offer,
    dir: PathBuf,
    open: tokio::sync::Mutex<Option<Part>>,
}

/// The file being written.
#[derive(Debug)]
struct Part {
    number: u32,
    file: File,
    path: PathBuf,
    written_bytes: u64,
    hasher: Sha256,
}

impl Receiver {
    pub(crate) fn new(snapshots: Arc<Snapshots>) -> Receiver {
        Receiver { snapshots, accepted: Arc::default() }
    }

    /// The snapshots of this node.
    pub(crate) fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Accepts an offer: returns the snapshot's id and the files still wanted. Blocking.
    pub(crate) fn offered(&self, offer: Offer) -> io::Result<([u8; 32], Vec<u32>)> {
        check_paths(&offer.manifest)?;
        let id = id_of(&offer);
        let name: String = id[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.snapshots.forget_incoming_but(&name)?;
        let dir = self.snapshots.incoming(&name);
        fs::create_dir_all(&dir)?;
        let mut wanted = Vec::new();
        for (number, file) in (0..).zip(&offer.manifest.files) {
            let here = fs::metadata(dir.join(&file.path));
            if !here.is_ok_and(|found| found.is_file() && found.len() == file.size_bytes) {
                wanted.push(number);
            }
        }
        let open = tokio::sync::Mutex::new(None);
        *self.accepted.lock() = Some(Arc::new(Incoming { id, offer, dir, open }));
        Ok((id, wanted))
    }

    /// The accepted snapshot of that id.
    pub(crate) fn incoming(&self, id: &[u8; 32]) -> io::Result<Arc<Incoming>> {
        let accepted = self.accepted.lock().clone();
        let accepted = accepted.filter(|accepted| accepted.id == *id);
        accepted.ok_or_else(|| io::Error::other("this snapshot was not accepted, or another one since"))
    }

    /// Hands a complete snapshot over. Blocking.
    pub(crate) fn complete(&self, incoming: &Incoming) -> io::Result<(Vote, Snapshot)> {
        for file in &incoming.offer.manifest.files {
            let size_bytes = fs::metadata(incoming.dir.join(&file.path))?.len();
            if size_bytes != file.size_bytes {
                return Err(io::Error::other(format!("{} is not whole", file.path)));
            }
        }
        *self.accepted.lock() = None;
        let snapshot = self.snapshots.received(incoming.dir.clone(), &incoming.offer.meta_bytes)?;
        Ok((incoming.offer.vote, snapshot))
    }
}

impl Incoming {
    /// Writes a piece; pieces of a file come in order. A file counts when its hash is right.
    pub(crate) async fn write(self: Arc<Self>, chunk: Chunk) -> io::Result<()> {
        let part = self.open.lock().await.take();
        let incoming = self.clone();
        let work = move || incoming.write_piece(part, &chunk);
        let part = files::blocking(work).await?;
        *self.open.lock().await = part;
        Ok(())
    }

    fn write_piece(&self, part: Option<Part>, chunk: &Chunk) -> io::Result<Option<Part>> {
        let file = self.offer.manifest.files.get(chunk.file as usize);
        let file = file.ok_or_else(|| io::Error::other("a piece of a file that is not in the manifest"))?;
        let mut part = match part {
            Some(part) if part.number == chunk.file => part,
            Some(_) | None => self.begin(chunk.file, file)?,
        };
        if chunk.offset != part.written_bytes {
            return Err(io::Error::other("a piece came out of order"));
        }
        part.file.write_all(&chunk.bytes)?;
        part.hasher.update(&chunk.bytes);
        part.written_bytes += chunk.bytes.len() as u64;
        if part.written_bytes < file.size_bytes {
            return Ok(Some(part));
        }
        part.file.sync_all()?;
        if part.written_bytes != file.size_bytes || <[u8; 32]>::from(part.hasher.finalize()) != file.sha256 {
            fs::remove_file(&part.path)?;
            return Err(io::Error::other(format!("{} arrived damaged", file.path)));
        }
        fs::rename(&part.path, self.dir.join(&file.path))?;
        Ok(None)
    }

    fn begin(&self, number: u32, file: &ManifestFile) -> io::Result<Part> {
        let whole = self.dir.join(&file.path);
        fs::create_dir_all(whole.parent().unwrap_or(&self.dir))?;
        let mut name = whole.clone().into_os_string();
        name.push(".");
        name.push(PART);
        let path = PathBuf::from(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Part { number, file, path, written_bytes: 0, hasher: Sha256::new() })
    }
}

/// Names of files come from a peer: they must stay inside the directory, and never look like a part.
fn check_paths(manifest: &Manifest) -> io::Result<()> {
    let inside = |path: &str| {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        plain && !path.is_empty() && !path.ends_with(".part")
    };
    if manifest.files.len() > FILES_MAX || !manifest.files.iter().all(|file| inside(&file.path)) {
        return Err(io::Error::other("the manifest names files outside of the snapshot, or too many"));
    }
    Ok(())
}

/// Names a snapshot by what it contains, whoever offers it.
pub(crate) fn id_of(offer: &Offer) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(wire::offer(&Vote::new(0, 0), &offer.meta_bytes, &offer.manifest));
    hasher.finalize().into()
}

/// The id that ends a stream.
pub(crate) fn read_end(body: &Bytes) -> io::Result<[u8; 32]> {
    <[u8; 32]>::try_from(BytesMut::from(body.as_ref()).as_ref()).map_err(|_| io::Error::other("a malformed end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, contents: &[u8]) -> ManifestFile {
        let sha256 = Sha256::digest(contents).into();
        ManifestFile { path: path.to_owned(), size_bytes: contents.len() as u64, sha256 }
    }

    fn piece(file: u32, offset: u64, contents: &'static [u8]) -> Chunk {
        Chunk { file, offset, bytes: Bytes::from_static(contents) }
    }

    // A transfer that broke is resumed by file; a damaged file, a piece out of order and an unfinished snapshot don't
    // pass.
    #[tokio::test]
    async fn a_broken_transfer_is_resumed_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Arc::new(crate::testing::Counters::open(&dir.path().join("state")).unwrap());
        let snapshots = Arc::new(Snapshots::open(dir.path().join("snapshots"), machine).unwrap());
        let receiver = Receiver::new(snapshots);
        let files = vec![file("a", b"first"), file("sub/b", b"second"), file("c", b"")];
        let offer = Offer { vote: Vote::new(1, 1), meta_bytes: Bytes::new(), manifest: Manifest { files } };
        let (id, wanted) = receiver.offered(offer.clone()).unwrap();
        assert_eq!(wanted, [0, 1, 2]);
        let incoming = receiver.incoming(&id).unwrap();
        incoming.clone().write(piece(0, 0, b"fi")).await.unwrap();
        incoming.clone().write(piece(0, 2, b"rst")).await.unwrap();
        incoming.clone().write(piece(1, 0, b"sec")).await.unwrap();
        assert!(receiver.complete(&incoming).is_err());
        assert!(incoming.clone().write(piece(1, 4, b"nd")).await.is_err(), "a gap was written");

        let (again, wanted) = receiver.offered(offer.clone()).unwrap();
        assert_eq!((again, wanted), (id, vec![1, 2]), "what had arrived whole is asked for again");
        let incoming = receiver.incoming(&id).unwrap();
        assert!(incoming.clone().write(piece(1, 0, b"secomd")).await.is_err(), "a damaged file was taken");
        assert_eq!(receiver.offered(offer).unwrap().1, vec![1, 2]);
        let incoming = receiver.incoming(&id).unwrap();
        incoming.clone().write(piece(1, 0, b"second")).await.unwrap();
        incoming.clone().write(piece(2, 0, b"")).await.unwrap();
        // whole at last, and still no snapshot: its files are not a state
        assert!(receiver.complete(&incoming).is_err());
        assert!(receiver.incoming(&[0; 32]).is_err());
    }

    // A peer cannot write outside of the directory it was given.
    #[test]
    fn paths_stay_inside() {
        let manifest = |path: &str| {
            let file = ManifestFile { path: path.to_owned(), size_bytes: 1, sha256: [0; 32] };
            Manifest { files: vec![file] }
        };
        for good in ["CURRENT", "a/b.sst"] {
            assert!(check_paths(&manifest(good)).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "./x", "x.part"] {
            assert!(check_paths(&manifest(bad)).is_err(), "{bad}");
        }
    }
}
