//! A state that is lost or rotten, beside a log that is whole: the node fetches a peer's copy of the state before it
//! starts, and goes on from there. Its log and its vote are untouched, so it never was a lesser voter.
//!
//! A copy of its own would be the nearest, but rotten files are shared with it by hard links; it counts only while
//! nobody has said that the state is rotten ([`condemn`]). A peer's copy is as good as any: a state holds only what was
//! committed. The peer lends the copy while it is read, so that it is not replaced meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use crate::codec;
use crate::config::StartError;
use crate::core::Core;
use crate::files;
use crate::metrics;
use crate::network::net::{Class, Net};
use crate::network::receive::Receiver;
use crate::network::send::{CHUNK_BYTES, chunk_at};
use crate::network::wire::{self, Offer, Piece, kind};
use crate::snapshot::SnapshotHandle;
use crate::types::{Position, StoredMembership, Vote};

/// A peer may have to make a copy first.
const OFFER_TIMEOUT: Duration = Duration::from_secs(120);
/// For one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two rounds over the peers.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a node tries before it ends, to be started again: its health is not answered meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);
/// Copies lent at the same time; the one unused for longest goes first.
const LENT_MAX: usize = 4;
/// A copy that was not read for so long is no longer lent.
const LENT_FOR: Duration = Duration::from_secs(120);

const MARK: &str = "state.rotten";

fn mark(dir: &Path) -> PathBuf {
    dir.join(MARK)
}

/// Says durably that the state beside this directory of consensus is rotten: the next start must not use it, nor the
/// copies that share its files.
pub fn condemn(dir: &Path, why: &str) -> io::Result<()> {
    files::replace(&mark(dir), why.as_bytes())
}

/// Why the state is rotten, if somebody has said so.
pub fn condemned(dir: &Path) -> io::Result<Option<String>> {
    Ok(files::read(&mark(dir))?.map(|why| String::from_utf8_lossy(&why).into_owned()))
}

/// The rotten state is out of the way: nothing of it is used any more.
pub(crate) fn acquit(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(mark(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => files::sync_dir(dir),
    }
}

/// Copies of the state that peers read at the moment.
#[derive(Debug, Default)]
pub(crate) struct Lent(Mutex<Vec<Loan>>);

#[derive(Debug)]
struct Loan {
    id: [u8; 32],
    copy: SnapshotHandle,
    used: Instant,
}

impl Lent {
    fn lend(&self, id: [u8; 32], copy: SnapshotHandle) {
        let mut loans = self.0.lock();
        loans.retain(|loan| loan.used.elapsed() < LENT_FOR && loan.id != id);
        if loans.len() >= LENT_MAX {
            loans.sort_by_key(|loan| loan.used);
            loans.remove(0);
        }
        loans.push(Loan { id, copy, used: Instant::now() });
    }

    fn of(&self, id: &[u8; 32]) -> Option<SnapshotHandle> {
        let mut loans = self.0.lock();
        let loan = loans.iter_mut().find(|loan| loan.id == *id)?;
        loan.used = Instant::now();
        Some(loan.copy.clone())
    }
}

/// Answers a peer that asks for a copy of the state at `beyond` or later: lends the present one, or makes one.
pub(crate) fn offer(core: &Core, beyond: Option<Position>) -> io::Result<Option<Bytes>> {
    let snapshots = core.receiver.snapshots();
    let present = snapshots.current().filter(|copy| copy.meta.last_log_id.map(Position::from) >= beyond);
    let copy = match present {
        Some(copy) => copy,
        None => snapshots.build()?,
    };
    if copy.meta.last_log_id.map(Position::from) < beyond {
        return Ok(None);
    }
    let manifest = copy.snapshot.manifest()?;
    let offer =
        Offer { vote: Vote::new(0, 0), meta_bytes: copy.snapshot.meta_bytes().clone(), manifest: (*manifest).clone() };
    core.lent.lend(crate::network::receive::id_of(&offer), copy.snapshot);
    Ok(Some(wire::offer(&offer.vote, &offer.meta_bytes, &offer.manifest)))
}

/// Answers a peer that reads a copy it was lent.
pub(crate) fn piece(core: &Core, wanted: &Piece) -> io::Result<Bytes> {
    let copy = core.lent.of(&wanted.id).ok_or_else(|| io::Error::other("this copy is not lent"))?;
    let manifest = copy.manifest()?;
    let file = manifest.files.get(wanted.file as usize).ok_or_else(|| io::Error::other("there is no such file"))?;
    let chunk = chunk_at(&copy.path(file), wanted.file, wanted.offset)?;
    Ok(wire::chunk(&wanted.id, &chunk))
}

/// Who may have a copy: the other members, as this node knows them.
pub(crate) fn peers(net: &Net, known: impl IntoIterator<Item = StoredMembership>) -> Vec<(u64, String)> {
    let mut peers: Vec<(u64, String)> = Vec::new();
    for members in known {
        for (id, peer) in members.nodes().filter(|(id, _)| **id != net.node_id) {
            if !peers.iter().any(|(known, _)| known == id) {
                peers.push((*id, peer.raft_addr.clone()));
            }
        }
    }
    peers
}

/// Fetches a copy of the state at `beyond` or later and puts it in the place of this node's own.
pub(crate) async fn fetch(
    net: &Arc<Net>,
    peers: &[(u64, String)],
    receiver: &Receiver,
    (applied, beyond): (Option<Position>, Position),
) -> Result<(), StartError> {
    if peers.is_empty() {
        return Err(StartError::Gap { applied, purged: beyond });
    }
    tracing::error!(
        applied = ?applied,
        log_begins_after = %beyond,
        "this node's state is lost or rotten: it is fetched from another node before this one starts"
    );
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        for (id, addr) in peers {
            match fetch_from(net, (*id, addr), receiver, beyond).await {
                Ok(()) => {
                    metrics::snapshot("fetched", began.elapsed());
                    tracing::warn!("the state was fetched from node {id:016x}");
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the state can't be fetched from node {id:016x} now"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(StartError::Gap { applied, purged: beyond })
}

async fn fetch_from(net: &Arc<Net>, peer: (u64, &str), receiver: &Receiver, beyond: Position) -> io::Result<()> {
    let question = (kind::STATE_OFFER, wire::beyond(Some(beyond)));
    let answer = net.call(peer, Class::Snapshot, question, OFFER_TIMEOUT).await.map_err(io::Error::other)?;
    let Some(offer) = wire::read_state_offer(answer).map_err(io::Error::other)? else {
        return Err(io::Error::other("its own state is older than this node's log"));
    };
    let position = codec::meta(offer.meta_bytes.clone()).map_err(io::Error::other)?.last_log_id.map(Position::from);
    if position < Some(beyond) {
        return Err(io::Error::other("the copy it offers is too old"));
    }
    let files: Vec<u64> = offer.manifest.files.iter().map(|file| file.size_bytes).collect();
    let (id, wanted) = blocking(receiver, move |receiver| receiver.offered(offer)).await?;
    let incoming = receiver.incoming(&id)?;
    let (began, mut fetched_bytes) = (Instant::now(), 0_u64);
    for file in wanted {
        let size_bytes = files.get(file as usize).copied().unwrap_or(0);
        let mut offset = 0;
        while offset < size_bytes.max(1) {
            let piece = (kind::STATE_READ, wire::piece(&Piece { id, file, offset }));
            let answer = net.call(peer, Class::Snapshot, piece, PIECE_TIMEOUT).await.map_err(io::Error::other)?;
            let (_, chunk) = wire::read_chunk(answer).map_err(io::Error::other)?;
            let length = chunk.bytes.len() as u64;
            if (chunk.file, chunk.offset) != (file, offset) || (length == 0 && size_bytes > offset) {
                return Err(io::Error::other("it answers with another piece"));
            }
            incoming.clone().write(chunk).await?;
            offset += length.max(1);
            fetched_bytes += length;
            let due = Duration::from_secs_f64(fetched_bytes as f64 / net.snapshot_rate.max(CHUNK_BYTES as u64) as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
    blocking(receiver, move |receiver| {
        let (_, snapshot) = receiver.complete(&incoming)?;
        receiver.snapshots().replace_state(&snapshot.snapshot)
    })
    .await
}

async fn blocking<R: Send + 'static>(
    receiver: &Receiver,
    work: impl FnOnce(&Receiver) -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    let receiver = receiver.clone();
    files::blocking(move || work(&receiver)).await
}

/// Keeps the members in the log's own records, whatever is purged: a node without a state has nobody else to ask.
pub(crate) async fn remember_members(core: Arc<Core>) {
    let mut metrics = core.raft.server_metrics();
    let mut kept = None;
    loop {
        let members = metrics.borrow_watched().membership_config.clone();
        if members.nodes().next().is_some() && kept.as_ref() != Some(&members) {
            core.log.put_members(&members);
            kept = Some(members);
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
