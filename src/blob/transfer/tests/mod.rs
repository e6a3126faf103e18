//! A region of nodes in this process, each on a runtime of its own so that it can be killed, over real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use registry_core::decide::placement::{StorePlace, StoreState};
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId, UploadId};
use registry_core::vocabulary::names::ZoneName;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::blob::store::fs::{FsStore, Identity};
use crate::blob::store::memory::{MemoryDisk, MemoryStore};
use crate::blob::store::{BlobKey, BlobStore, Options};
use crate::ground::SystemClock;

use super::*;

mod cable;
mod measure;
mod push;
mod read;
mod takeover;
mod tls;

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

/// Epochs as a quorum would tell them.
#[derive(Default)]
pub(super) struct Epochs {
    pub(super) current: Mutex<BTreeMap<UploadId, u64>>,
    pub(super) has_no_quorum: AtomicBool,
    pub(super) asked: Mutex<Vec<UploadId>>,
}

impl EpochSource for Epochs {
    fn current_epoch(&self, upload: UploadId) -> BoxFuture<'_, Result<Option<u64>, EpochUnknown>> {
        self.asked.lock().push(upload);
        let current = self.current.lock().get(&upload).copied();
        let answer = if self.has_no_quorum.load(Ordering::Relaxed) { Err(EpochUnknown) } else { Ok(current) };
        std::future::ready(answer).boxed()
    }
}

#[derive(Default)]
pub(super) struct Faults(pub(super) Mutex<Vec<(StoreId, BlobKey, CopyFault)>>);

impl Observer for Faults {
    fn bad_copy(&self, store: StoreId, key: BlobKey, fault: CopyFault) {
        self.0.lock().push((store, key, fault));
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) store_id: StoreId,
    zone: ZoneName,
    pub(super) address: SocketAddr,
    dir: TempDir,
    pub(super) faults: Arc<Faults>,
    running: Option<Running>,
}

struct Running {
    runtime: Runtime,
    transfer: Transfer,
    store: Arc<dyn BlobStore>,
}

impl Node {
    pub(super) fn transfer(&self) -> &Transfer {
        &self.running.as_ref().expect("this node runs").transfer
    }

    pub(super) fn store(&self) -> Arc<dyn BlobStore> {
        Arc::clone(&self.running.as_ref().expect("this node runs").store)
    }

    /// The file of a blob in this node's store.
    pub(super) fn file(&self, key: &BlobKey) -> PathBuf {
        self.dir.path().join("blobs").join(format!("{:02x}", key.shard())).join(key.file_name())
    }

    /// Ends the process, so to say: all its sockets break.
    pub(super) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }

    /// Starts it on its old address and volume.
    pub(super) async fn start(&mut self, epochs: &Arc<Epochs>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = self.open_store().await;
        let settings = Settings { ping_interval_ms: 50, progress_timeout_ms: 1000, ..Settings::default() };
        let (listen, bind_source) = (self.address, Some(self.address.ip()));
        let clock = Arc::new(SystemClock);
        let config = Config { cluster: CLUSTER, node: self.id, listen, bind_source, tls: None, clock, settings };
        let (stores, epochs) = (vec![Arc::clone(&store)], Arc::clone(epochs) as Arc<dyn EpochSource>);
        let faults = Arc::clone(&self.faults) as Arc<dyn Observer>;
        let starting = runtime.spawn(async move { Transfer::start(config, stores, epochs, faults).await });
        let transfer = starting.await.unwrap().unwrap();
        self.address = transfer.local_address();
        self.running = Some(Running { runtime, transfer, store });
    }

    /// A killed process may hold its volume for a moment.
    async fn open_store(&self) -> Arc<dyn BlobStore> {
        let began = Instant::now();
        loop {
            let options = Options::new(Arc::new(|| 0));
            match FsStore::open(self.dir.path(), CLUSTER, Identity::FirstUse(self.store_id), options) {
                Ok(store) => return Arc::new(store),
                Err(error) if began.elapsed() > Duration::from_secs(10) => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(super) fn set_directory(&self, directory: Directory) {
        let running = self.running.as_ref().expect("this node runs");
        // Its connections live on its own runtime.
        let _context = running.runtime.enter();
        running.transfer.set_directory(directory);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct Region {
    pub(super) nodes: Vec<Node>,
    pub(super) epochs: Arc<Epochs>,
}

impl Region {
    /// Nodes 1, 2, 3, … in the named zones, that know each other.
    pub(super) async fn start(zones: &[&str]) -> Region {
        let mut region = Region { nodes: Vec::new(), epochs: Arc::default() };
        for (index, zone) in zones.iter().enumerate() {
            let number = index as u64 + 1;
            let mut node = Node {
                id: NodeId(number),
                store_id: StoreId(number * 10),
                zone: ZoneName::parse(zone).unwrap(),
                address: format!("127.0.9.{number}:0").parse().unwrap(),
                dir: tempfile::tempdir().unwrap(),
                faults: Arc::default(),
                running: None,
            };
            node.start(&region.epochs).await;
            region.nodes.push(node);
        }
        region.connect(&BTreeMap::new()).await;
        region
    }

    /// Gives every running node the directory, with some addresses replaced, and waits until all see all that run.
    pub(super) async fn connect(&self, detours: &BTreeMap<NodeId, SocketAddr>) {
        for node in self.nodes.iter().filter(|node| node.running.is_some()) {
            node.set_directory(self.directory(detours));
        }
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.running.is_some()).collect();
        until("all nodes see each other", || {
            running.iter().all(|node| running.iter().all(|other| node.transfer().is_reachable(other.id)))
        })
        .await;
    }

    pub(super) fn directory(&self, detours: &BTreeMap<NodeId, SocketAddr>) -> Directory {
        let seats = self.nodes.iter().map(|node| NodeSeat {
            id: node.id,
            zone: node.zone.clone(),
            blob_address: detours.get(&node.id).unwrap_or(&node.address).to_string().into(),
        });
        let stores = self.nodes.iter().map(|node| StorePlace {
            id: node.store_id,
            node: node.id,
            weight: NonZeroU32::MIN,
            state: StoreState::Up,
        });
        Directory::new(seats, stores).unwrap()
    }

    pub(super) fn node(&self, number: u64) -> &Node {
        &self.nodes[number as usize - 1]
    }

    pub(super) fn transfer(&self, number: u64) -> &Transfer {
        self.node(number).transfer()
    }

    pub(super) async fn restart(&mut self, number: u64) {
        let epochs = Arc::clone(&self.epochs);
        self.nodes[number as usize - 1].kill();
        self.nodes[number as usize - 1].start(&epochs).await;
        self.connect(&BTreeMap::new()).await;
    }

    pub(super) fn kill(&mut self, number: u64) {
        self.nodes[number as usize - 1].kill();
    }

    /// Pushes a blob to nodes 1 and 2.
    pub(super) async fn push(&self, upload: UploadId, bytes: &Bytes) -> BlobSource {
        let holders = pair(1, 2);
        let appended = self.transfer(1).append(fresh(upload, holders), body(bytes, 60_000)).await.unwrap();
        assert!(appended.is_acknowledgeable(), "{appended:?}");
        let digest = Digest::sha256(bytes);
        let placed = self.transfer(1).seal_and_place(seal(upload, 1, digest, holders)).await.unwrap();
        assert_eq!(placed.stores, [StoreId(10), StoreId(20)], "{:?}", placed.failed);
        BlobSource { key: BlobKey::new(digest, upload), size_bytes: bytes.len() as u64, replicas: placed.stores }
    }
}

/// A node on a disk in memory, on the runtime of the test.
pub(super) async fn memory_node(
    number: u64,
    disk: &MemoryDisk,
    epochs: &Arc<Epochs>,
    port: u16,
    tls: Option<TlsSource>,
) -> Transfer {
    let store = MemoryStore::open(disk, StoreId(number * 10), Options::new(Arc::new(|| 0)));
    let settings = Settings { ping_interval_ms: 50, progress_timeout_ms: 1000, ..Settings::default() };
    let listen = format!("127.0.9.{}:{port}", 100 + number).parse().unwrap();
    let clock = Arc::new(SystemClock);
    let config = Config { cluster: CLUSTER, node: NodeId(number), listen, bind_source: None, tls, clock, settings };
    let epochs = Arc::clone(epochs) as Arc<dyn EpochSource>;
    let store: Arc<dyn BlobStore> = Arc::new(store);
    // the listener of the life before may take a moment to go
    for _ in 0..200 {
        let faults = Arc::new(Faults::default());
        match Transfer::start(config.clone(), vec![Arc::clone(&store)], Arc::clone(&epochs), faults).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            started => return started.unwrap(),
        }
    }
    panic!("{} stays in use", config.listen)
}

/// The directory of nodes 1, 2, 3, …, each in a zone of its own.
pub(super) fn directory_of(nodes: &[Transfer]) -> Directory {
    let ids = || (1..=nodes.len() as u64).map(NodeId);
    let seats = ids().zip(nodes).map(|(id, node)| NodeSeat {
        id,
        zone: ZoneName::parse(&format!("zone-{id}")).unwrap(),
        blob_address: node.local_address().to_string().into(),
    });
    let place =
        |node: NodeId| StorePlace { id: StoreId(node.0 * 10), node, weight: NonZeroU32::MIN, state: StoreState::Up };
    Directory::new(seats, ids().map(place)).unwrap()
}

/// Makes nodes 1, 2, 3, … known to each other.
pub(super) async fn meet(nodes: &[Transfer]) {
    nodes.iter().for_each(|node| node.set_directory(directory_of(nodes)));
    let ids = || (1..=nodes.len() as u64).map(NodeId);
    until("all nodes see each other", || nodes.iter().all(|node| ids().all(|id| node.is_reachable(id)))).await;
}

pub(super) fn pair(primary: u64, backup: u64) -> Holders {
    Holders { primary: NodeId(primary), backup: Some(NodeId(backup)) }
}

pub(super) fn upload(number: u128) -> UploadId {
    UploadId { tick: 7, random: number }
}

/// The end of an upload.
pub(super) fn seal(upload: UploadId, epoch: u64, digest: Digest, holders: Holders) -> Seal {
    Seal { upload, epoch, holders, digest, acknowledged: 0 }
}

/// The first chunk of an upload.
pub(super) fn fresh(upload: UploadId, holders: Holders) -> Append {
    Append { upload, epoch: 1, holders, algorithm: Algorithm::Sha256, acknowledged: 0, offset: None, owner: 1 }
}

/// The chunk after `acknowledged` bytes.
pub(super) fn next(upload: UploadId, holders: Holders, acknowledged: u64) -> Append {
    Append { acknowledged, offset: Some(acknowledged), ..fresh(upload, holders) }
}

/// Bytes that do not repeat.
pub(super) fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// A body in parts.
pub(super) fn body(bytes: &Bytes, part: usize) -> Body {
    let bytes = bytes.clone();
    let count = bytes.len().div_ceil(part);
    stream::iter((0..count).map(move |i| Ok(bytes.slice(i * part..((i + 1) * part).min(bytes.len()))))).boxed()
}

/// A body that the test feeds; dropping the sender ends it well.
pub(super) fn fed_body() -> (mpsc::Sender<Result<Bytes, BodyError>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
}

pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a stream to its end; the error, if it had one, comes with what was read.
pub(super) async fn drain(mut stream: BlobStream) -> (Vec<u8>, Option<TransferError>) {
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        match part {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(error) => return (bytes, Some(error)),
        }
    }
    assert_eq!(stream.remaining_bytes(), 0);
    (bytes, None)
}

/// The whole blob as node `number` reads it.
pub(super) async fn read_all(region: &Region, number: u64, blob: &BlobSource) -> Vec<u8> {
    let size = blob.size_bytes;
    let (bytes, error) = drain(region.transfer(number).fetch(blob.clone(), 0..size).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    bytes
}
