//! Sending a snapshot: offer it, learn which files are wanted, send those in pieces.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use super::client::frames;
use super::net::{Class, Net};
use super::proto::Frame;
use super::wire::{self, Chunk, kind};
use crate::metrics;
use crate::snapshot::{Manifest, SnapshotHandle};
use crate::types::Vote;

/// Bytes of a file in one message.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// The receiver looks at what it has; with large files already there it hashes nothing, so this is short work.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pieces read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// Sends a snapshot and waits until it is installed. Returns the receiver's vote.
pub(crate) async fn snapshot(
    net: &Arc<Net>,
    (to, addr): (u64, &str),
    vote: Vote,
    snapshot: SnapshotHandle,
) -> Result<Vote, Status> {
    let began = Instant::now();
    let hashed = snapshot.clone();
    let manifest = tokio::task::spawn_blocking(move || hashed.manifest()).await;
    let manifest =
        manifest.map_err(io::Error::other).flatten().map_err(|error| Status::data_loss(error.to_string()))?;
    let offer = wire::offer(&vote, snapshot.meta_bytes(), &manifest);
    let answer = net.call((to, addr), Class::Snapshot, (kind::SNAPSHOT_OFFER, offer), OFFER_TIMEOUT).await?;
    let (id, wanted) = wire::read_wanted(answer).map_err(|error| Status::internal(error.to_string()))?;
    let (pieces, outgoing) = mpsc::channel(CHUNKS_AHEAD);
    let reading = Reading { net: net.clone(), to, id, snapshot, manifest, pieces };
    let read = tokio::task::spawn_blocking(move || reading.run(&wanted));
    let mut client = net.client(to, addr, Class::Snapshot)?;
    let installed = client.snapshot(Request::new(frames(outgoing))).await;
    // the reader ends when the stream does
    let read = read.await.map_err(|error| Status::internal(error.to_string()))?;
    read.map_err(|error| Status::data_loss(error.to_string()))?;
    let vote = wire::read_vote_body(installed?.into_inner().body);
    metrics::snapshot("sent", began.elapsed());
    vote.map_err(|error| Status::internal(error.to_string()))
}

/// Reads the wanted files on a blocking thread.
struct Reading {
    net: Arc<Net>,
    to: u64,
    id: [u8; 32],
    snapshot: SnapshotHandle,
    manifest: Arc<Manifest>,
    pieces: mpsc::Sender<Frame>,
}

impl Reading {
    fn run(&self, wanted: &[u32]) -> io::Result<()> {
        let began = Instant::now();
        let mut sent_bytes = 0_u64;
        for number in wanted {
            let file = self.manifest.files.get(*number as usize);
            let file = file.ok_or_else(|| io::Error::other("a file was asked for that is not in the manifest"))?;
            let mut source = File::open(self.snapshot.path(file))?;
            let mut offset = 0;
            loop {
                let bytes = read_chunk(&mut source)?;
                let length = bytes.len() as u64;
                if length == 0 && offset > 0 {
                    break;
                }
                let chunk = wire::chunk(&self.id, &Chunk { file: *number, offset, bytes });
                if !self.send(kind::SNAPSHOT_CHUNK, chunk) {
                    return Ok(());
                }
                offset += length;
                sent_bytes += length;
                self.pace(began, sent_bytes);
                if offset >= file.size_bytes {
                    break;
                }
            }
        }
        self.send(kind::SNAPSHOT_END, Bytes::copy_from_slice(&self.id));
        Ok(())
    }

    /// False when nobody reads the stream any more.
    fn send(&self, kind: u32, body: Bytes) -> bool {
        self.pieces.blocking_send(self.net.frame(self.to, kind, body)).is_ok()
    }

    fn pace(&self, began: Instant, sent_bytes: u64) {
        let due = Duration::from_secs_f64(sent_bytes as f64 / self.net.snapshot_rate.max(1) as f64);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
}

/// One piece of a file, for who asks for it.
pub(crate) fn chunk_at(path: &Path, file: u32, offset: u64) -> io::Result<Chunk> {
    let mut source = File::open(path)?;
    source.seek(SeekFrom::Start(offset))?;
    Ok(Chunk { file, offset, bytes: read_chunk(&mut source)? })
}

fn read_chunk(source: &mut File) -> io::Result<Bytes> {
    let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
    let mut filled = 0;
    while filled < CHUNK_BYTES {
        match source.read(&mut chunk[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    chunk.truncate(filled);
    Ok(chunk.freeze())
}
