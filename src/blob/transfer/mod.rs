//! Bytes between the nodes of a region: pushes to two zones, reads from the best copy, repairs.
//!
//! What it is: [`Transfer`], one per node: a client of the other nodes' blob services and the server of this node's.
//! An upload has a *primary*, which appends and answers, and a *backup* in another zone, which holds the same bytes;
//! whichever node the client talks to streams to the primary. A read takes the best copy and changes to the next at any
//! block. Every hop verifies.
//!
//! What it never does: ask or tell the metadata (the registry orders the steps: it proposes `TakeUpload` and
//! `CommitBlob` between the calls made here), decide who may read, repeat anything by itself (the jobs do), or hand out
//! a byte that wasn't checked on this node.
//!
//! Where to start: [`Transfer`] and the words in `upload.rs`; then `write.rs` (what the node does that the client talks
//! to), `holder.rs` (what a primary or backup does), `fetch.rs` (reads). The wire is `blob.proto`.
//! Source: reference "consensus and faults" §5.3, §5.4, §5.6, §5.7.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use raft::TlsSource;
use raft::network::transport;
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId, UploadId};
use registry_core::vocabulary::limits::TRANSFER_MESSAGE_BYTES_MAX;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;

use super::store::{BlobKey, BlobStore};
use crate::ground::Clock;
use crate::ground::pacer::Pacer;

pub mod body;
mod chunk;
mod directory;
mod error;
mod fetch;
mod health;
mod hedge;
mod holder;
mod intake;
mod leg;
mod link;
mod peers;
mod relay;
mod repair;
mod service;
mod shares;
#[cfg(feature = "sim")]
mod simulated;
mod source;
mod upload;
mod verify;
mod volumes;
mod wire;
mod write;

#[cfg(test)]
mod tests;

use hedge::Hedger;
use holder::Holder;
use peers::Peers;
use service::Service;
use volumes::{Volumes, blocking};
use wire::proto::blob_server::BlobServer;

pub use body::{Body, BodyError, Peeked};
pub use directory::{Directory, DirectoryError, NodeSeat};
pub use error::TransferError;
pub use fetch::{BlobSource, BlobStream};
pub use health::{PeerHealth, StoreHealth};
pub use relay::{OnItsWay, Relay, RelayError, Relayed};
#[cfg(feature = "sim")]
pub use simulated::Wire;
pub use upload::{Append, Appended, Holders, Mirrored, Placed, Seal, Staged};
pub use verify::Verified;

/// Shorthand for results of this room.
pub type TransferResult<T> = Result<T, TransferError>;

/// Who this node is, and its numbers.
#[derive(Clone)]
pub struct Config {
    /// Whose bytes these are; another cluster's calls are refused.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Where the blob service listens.
    pub listen: SocketAddr,
    /// Address that every outgoing socket binds.
    pub bind_source: Option<IpAddr>,
    /// This node's certificate and the authorities to trust; `None` only on loopback.
    pub tls: Option<TlsSource>,
    /// This node's clocks: the others are told what its wall clock shows.
    pub clock: Arc<dyn Clock>,
    /// What an operator tunes.
    pub settings: Settings,
}

/// What an operator tunes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pushes that stream through this node as a holder at once; each takes about 2 MiB.
    pub appends_max: usize,
    /// Reads that other nodes stream from this one at once; each takes about 1 MiB.
    pub fetches_max: usize,
    /// Copies repaired to this node at once.
    pub repairs_max: usize,
    /// Bytes per second that repairs to this node may take together.
    pub repair_bytes_per_second: u64,
    /// Time between two pings of a peer, in milliseconds.
    pub ping_interval_ms: u64,
    /// Time without any progress after which a peer is given up, in milliseconds.
    pub progress_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            appends_max: 256,
            fetches_max: 512,
            repairs_max: 4,
            repair_bytes_per_second: 64 << 20,
            ping_interval_ms: 500,
            progress_timeout_ms: 5_000,
        }
    }
}

/// Tells which epoch of an upload is in force. The composition root wires it to a ReadIndex.
pub trait EpochSource: Send + Sync + 'static {
    /// The epoch that a linearizable read finds; `None` when the upload was never taken over (its epoch is 1).
    ///
    /// A holder asks before the first append to an upload that it did not open in this life of the process: it may have
    /// been away while the other one was given a new partner (§5.3, 4).
    fn current_epoch(&self, upload: UploadId)
    -> futures_util::future::BoxFuture<'_, Result<Option<u64>, EpochUnknown>>;
}

/// No quorum could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upload's epoch can't be read: no quorum")]
pub struct EpochUnknown;

/// Hears about copies that turned out bad, so that the metadata and the repair queue learn it. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// A copy that the metadata names could not be used.
    fn bad_copy(&self, store: StoreId, key: BlobKey, fault: CopyFault);
}

/// What was wrong with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    /// The store does not have it.
    Missing,
    /// Stored bytes are damaged; the copy is quarantined.
    Damaged,
    /// Bytes arrived damaged though their holder had verified them: suspect the path, look at the copy.
    Garbled,
}

/// The blob transfer of one node. Cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Transfer")
    }
}

struct Inner {
    peers: Arc<Peers>,
    holder: Arc<Holder>,
    hedger: Hedger,
    repairs: Semaphore,
    pacer: Pacer,
    local_address: SocketAddr,
    look_around: Notify,
    /// Brings blobs from elsewhere, where there is an elsewhere.
    relay: OnceLock<Arc<dyn Relay>>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Transfer {
    /// Listens and begins to serve this node's stores. The directory is empty until [`Transfer::set_directory`].
    ///
    /// Errors: the listener's.
    pub async fn start(
        config: Config,
        stores: Vec<Arc<dyn BlobStore>>,
        epochs: Arc<dyn EpochSource>,
        observer: Arc<dyn Observer>,
    ) -> std::io::Result<Transfer> {
        let listener = TcpListener::bind(config.listen).await?;
        let local_address = listener.local_addr()?;
        let transfer = Transfer::assemble(&config, Peers::new(&config), stores, epochs, observer, local_address);
        let serve = tokio::spawn(serve(listener, config.tls.clone(), transfer.clone()));
        transfer.inner.tasks.lock().push(serve);
        Ok(transfer)
    }

    /// Joins the parts and begins to look around.
    fn assemble(
        config: &Config,
        peers: Peers,
        stores: Vec<Arc<dyn BlobStore>>,
        epochs: Arc<dyn EpochSource>,
        observer: Arc<dyn Observer>,
        local_address: SocketAddr,
    ) -> Transfer {
        let peers = Arc::new(peers);
        let settings = &config.settings;
        let holder = Holder::new(config.node, Volumes::new(stores), Arc::clone(&peers), epochs, observer, settings);
        let inner = Arc::new(Inner {
            peers,
            holder: Arc::new(holder),
            hedger: Hedger::new(),
            repairs: Semaphore::new(settings.repairs_max),
            pacer: Pacer::new(settings.repair_bytes_per_second),
            local_address,
            look_around: Notify::new(),
            relay: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let transfer = Transfer { inner };
        let watch = tokio::spawn(watch(transfer.clone(), Duration::from_millis(settings.ping_interval_ms)));
        transfer.inner.tasks.lock().push(watch);
        transfer
    }

    /// The address it listens on.
    pub fn local_address(&self) -> SocketAddr {
        self.inner.local_address
    }

    /// Replaces what is known about the other nodes: whenever the registered topology changes.
    pub fn set_directory(&self, directory: Directory) {
        self.inner.peers.set_directory(directory);
        self.inner.look_around.notify_one();
    }

    /// What is known now.
    pub fn directory(&self) -> Arc<Directory> {
        self.inner.peers.directory()
    }

    /// Ends the service and all background work; calls in flight break off.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            // A panic in there was reported when it happened.
            drop(task.await);
        }
    }
}

/// Time that streams have to end when the service does.
const DRAIN: Duration = Duration::from_secs(2);

async fn serve(listener: TcpListener, tls: Option<TlsSource>, transfer: Transfer) {
    let (holder, stop) = (Arc::clone(&transfer.inner.holder), transfer.inner.stop.clone());
    let service = BlobServer::new(Service::new(transfer))
        .max_decoding_message_size(TRANSFER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(TRANSFER_MESSAGE_BYTES_MAX);
    let must_show = tls.is_some();
    let service = InterceptedService::new(service, move |request| service::check_route(&holder, must_show, request));
    let router = link::server().add_service(service);
    let serving = transport::serve(listener, router, tls, stop.clone().cancelled_owned());
    // Streams between nodes may last for hours, and every one of them can be taken up again: after a moment they break.
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the blob service ended");
        },
        () = overdue => {}
    }
}

/// Looks at the own volumes and pings the peers, again and again.
async fn watch(transfer: Transfer, every: Duration) {
    let inner = &transfer.inner;
    let look = async {
        loop {
            let volumes = inner.holder.volumes.clone();
            if let Ok(own) = blocking(move || Ok(volumes.health())).await {
                inner.peers.set_own(own);
            }
            inner.peers.ping_all().await;
            tokio::select! {
                biased;
                () = tokio::time::sleep(every) => {}
                () = inner.look_around.notified() => {}
            }
        }
    };
    let _: Option<()> = inner.stop.run_until_cancelled(look).await;
}
