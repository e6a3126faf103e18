//! Builds the blob plane of a node.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use registry_core::decide::placement::Topology;
use registry_core::metadata::blob::UnconfirmReplica;
use registry_core::metadata::upload;
use registry_core::vocabulary::ids::{NodeId, StoreId, UploadId};

use super::NodeError;
use crate::blob::store::fs::{self, FsStore};
use crate::blob::store::s3::{self, BucketAddress, BucketSettings, S3Store};
use crate::blob::store::{self, BlobKey, BlobStore};
use crate::blob::transfer::{self, CopyFault, Directory, EpochSource, EpochUnknown, NodeSeat, Observer, Transfer};
use crate::cluster::feed::Seated;
use crate::cluster::{Cluster, Identity};
use crate::config::{BlobDriver, Door, S3Section, Settings};
use crate::ground::reload::Reloading;
use crate::ground::tls::NodePems;
use crate::ground::{Clock as _, SystemClock, secret};
use crate::metadata::{Consistency, Metadata};

/// An open store.
pub(super) struct Opened {
    pub(super) store: Arc<dyn BlobStore>,
    /// The same store, if it is one on a bucket: it has to be told the lineage.
    pub(super) bucket: Option<Arc<S3Store>>,
}

/// Opens the volume: the registered one and no other, or at first use whatever is there.
pub(super) async fn open(settings: &Settings, identity: &Identity, is_known: bool) -> Result<Opened, NodeError> {
    let dir = settings.blobs_dir();
    // a cache that is lost costs time: the node goes on with an empty one, under the same name
    let is_lost_cache = settings.blobs.driver == BlobDriver::S3 && fs::marked(&dir).is_none();
    let claim = match is_known && !is_lost_cache {
        true => fs::Identity::Known(identity.store),
        false => fs::Identity::FirstUse(identity.store),
    };
    let mut options = store::Options::new(Arc::new(|| SystemClock.wall_ms()));
    options.settings.capacity_bytes = settings.blobs.capacity.map(|size| size.0);
    options.settings.full_percent = settings.blobs.full_percent;
    options.settings.refuse_percent = settings.blobs.refuse_percent;
    options.settings.urgent_percent = settings.blobs.urgent_percent;
    let cluster = identity.cluster;
    let bucket = match settings.blobs.driver {
        BlobDriver::Fs if s3::is_cache(&dir) => {
            let text = "is the cache of a bucket: say blobs.driver = \"s3\", or give another blobs.dir";
            return Err(NodeError::Io(format!("blobs.dir {} {text}", dir.display())));
        }
        BlobDriver::Fs => {
            // every listed gauge has a value: a volume that is no cache holds nothing as one
            metrics::gauge!("portolan_blob_cache_bytes").set(0.0);
            None
        }
        BlobDriver::S3 => Some((address(&settings.s3)?, limits(&settings.s3))),
    };
    let open = move || -> Result<Opened, store::OpenError> {
        let Some((address, limits)) = bucket else {
            return Ok(Opened { store: Arc::new(FsStore::open(&dir, cluster, claim, options)?), bucket: None });
        };
        let store = Arc::new(S3Store::open(&dir, cluster, claim, options, (&address, limits))?);
        Ok(Opened { store: Arc::clone(&store) as Arc<dyn BlobStore>, bucket: Some(store) })
    };
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.map_err(|error| NodeError::Io(error.to_string()))??)
}

/// Where the bucket is; that everything is there was checked with the settings.
fn address(section: &S3Section) -> Result<BucketAddress, NodeError> {
    let secret_key = match (&section.secret_key, &section.secret_key_file) {
        (Some(secret), _) => secret.clone(),
        (None, Some(path)) => {
            let told = |problem| NodeError::Io(format!("s3.secret_key_file: {} {problem}", path.display()));
            secret::read_file(path).map_err(told)?.0
        }
        (None, None) => return Err(NodeError::Io("s3.secret_key_file is not set".to_owned())),
    };
    Ok(BucketAddress {
        endpoint: section.endpoint.clone(),
        region: section.region.clone(),
        bucket: section.bucket.clone().unwrap_or_default(),
        prefix: section.prefix.clone().unwrap_or_default(),
        path_style: section.path_style,
        access_key: section.access_key.clone().unwrap_or_default(),
        secret_key,
    })
}

fn limits(section: &S3Section) -> BucketSettings {
    BucketSettings {
        cache_bytes: section.cache.0,
        cache_percent: section.cache_percent,
        parts_idle: section.parts_idle,
        scrub_percent: section.scrub_percent,
    }
}

/// Begins to serve the volume to the other nodes.
pub(super) async fn start_transfer(
    settings: &Settings,
    identity: &Identity,
    pems: Option<Arc<Reloading<NodePems>>>,
    store: Arc<dyn BlobStore>,
    metadata: &Metadata,
) -> Result<Transfer, NodeError> {
    let config = transfer::Config {
        cluster: identity.cluster,
        node: identity.node,
        listen: settings.listen_address(Door::Blob),
        bind_source: settings.node.bind_source,
        tls: pems.map(super::tls_source),
        clock: Arc::new(SystemClock),
        settings: transfer::Settings {
            repair_bytes_per_second: u64::from(settings.repair.mib_per_s) << 20,
            ..transfer::Settings::default()
        },
    };
    let (epochs, observer) = asked_and_told(metadata, identity.node);
    let started = Transfer::start(config, vec![store], epochs, observer).await;
    started.map_err(|error| NodeError::Io(format!("listen.blob {}: {error}", settings.listen_address(Door::Blob))))
}

/// Tells the transfer room who is where.
pub(super) fn set_directory(transfer: &Transfer, nodes: Vec<Seated>, topology: &Topology) {
    let seats = nodes.into_iter().map(|seated| NodeSeat {
        id: seated.node,
        zone: seated.zone,
        blob_address: seated.blob_address.into(),
    });
    match Directory::new(seats, topology.stores().copied()) {
        Ok(directory) => transfer.set_directory(directory),
        Err(error) => tracing::error!(%error, "the registered topology contradicts itself"),
    }
}

/// Whom the transfer room of a node asks for epochs, and whom it tells of bad copies.
pub(super) fn asked_and_told(metadata: &Metadata, node: NodeId) -> (Arc<dyn EpochSource>, Arc<dyn Observer>) {
    let observer = BadCopies { metadata: metadata.clone(), principal: Cluster::principal(node) };
    (Arc::new(Epochs(metadata.clone())), Arc::new(observer))
}

/// An upload's epoch by a linearizable read.
struct Epochs(Metadata);

impl EpochSource for Epochs {
    fn current_epoch(&self, upload: UploadId) -> BoxFuture<'_, Result<Option<u64>, EpochUnknown>> {
        async move {
            let row = self.0.read(Consistency::Linearizable, |view| upload::read(view, &upload)).await;
            Ok(row.map_err(|_| EpochUnknown)?.map(|row| u64::from(row.epoch)))
        }
        .boxed()
    }
}

/// Takes a copy that turned out bad out of its record, so that it is made again.
struct BadCopies {
    metadata: Metadata,
    principal: String,
}

impl Observer for BadCopies {
    fn bad_copy(&self, store: StoreId, key: BlobKey, fault: CopyFault) {
        metrics::counter!("portolan_blob_bad_copies_total").increment(1);
        tracing::warn!(digest = %key.digest, %store, ?fault, "a copy can't be used; it will be made again");
        if fault == CopyFault::Garbled {
            return;
        }
        let (metadata, principal) = (self.metadata.clone(), self.principal.clone());
        tokio::spawn(async move {
            let command = UnconfirmReplica { digest: key.digest, generation: key.generation, store };
            if let Err(error) = metadata.propose(&principal, vec![command.into()]).await {
                tracing::warn!(%error, "a bad copy is still in its record");
            }
        });
    }
}
