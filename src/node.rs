//! The composition root: the only place that builds the parts of a node and joins them. Everything here is order.

mod blobs;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use raft::{Group, GroupConfig, Member, NodeTls, StartError, TlsSource};
use registry_core::metadata::{cluster as cluster_rows, node as node_rows};
use registry_core::vocabulary::ids::StoreId;

use crate::auth::{self, Auth};
use crate::blob::store::OpenError;
use crate::blob::transfer::Transfer;
use crate::cluster::identity::{Claim, Identity};
use crate::cluster::registration::Seat;
use crate::cluster::{Cluster, Founding, FoundingError, IdentityError, feed};
use crate::config::{Challenge, Settings};
use crate::config::{Door, sections::TlsSection};
use crate::ground::reload::Reloading;
use crate::ground::sockets::ListenError;
use crate::ground::tls::{self, NodePems};
use crate::ground::{Shutdown, SystemClock, certs, clock, files, telemetry};
use crate::jobs::Driver;
use crate::jobs::clock_tick::ClockTick;
use crate::jobs::forget_uploads::ForgetUploads;
use crate::jobs::promote_voters::PromoteVoters;
use crate::jobs::purge_repositories::PurgeRepositories;
use crate::jobs::repair_replicas::RepairReplicas;
use crate::jobs::review_needs::ReviewNeeds;
use crate::jobs::settle_uses::SettleUses;
use crate::jobs::state_digest::StateDigest;
use crate::metadata::Metadata;
use crate::metadata::machine::MetadataMachine;
use crate::metadata::tables::{State, StateError, StateOptions};
use crate::metadata::watch::Watch;
use crate::registry::Registry;

/// Why a node does not start, or stopped by itself. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Certificates.
    #[error("{0}")]
    Tls(String),
    /// The data directory.
    #[error("{path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Who this node is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Consensus.
    #[error(transparent)]
    Consensus(#[from] StartError),
    /// The blob volume.
    #[error(transparent)]
    Blobs(#[from] OpenError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The blob listener, or another part of the system.
    #[error("{0}")]
    Io(String),
    /// A cluster of one node could not be founded.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The first access key.
    #[error("the first access key was not made: {0}")]
    RootKey(String),
}

/// The parts of a running node, joined.
pub(crate) struct Parts {
    pub(crate) settings: Settings,
    pub(crate) identity: Identity,
    pub(crate) group: Group,
    pub(crate) metadata: Metadata,
    pub(crate) transfer: Transfer,
    pub(crate) registry: Registry,
    pub(crate) auth: Auth,
    pub(crate) cluster: Cluster,
    pub(crate) driver: Driver,
    pub(crate) seat: Seat,
    pub(crate) metrics: Option<telemetry::Metrics>,
    pub(crate) shutdown: Shutdown,
}

impl Parts {
    /// This node as consensus names it.
    pub(crate) fn member(&self) -> Member {
        member(&self.seat)
    }

    /// What a founding by this node makes.
    pub(crate) fn founding(&self) -> Founding {
        Founding {
            cluster: self.identity.cluster,
            lineage: self.identity.lineage,
            region: self.settings.node.region.as_str().to_owned(),
            region_number: self.settings.node.region_number,
            grace_ms: clock::whole_ms(self.settings.gc.grace),
            member: self.member(),
        }
    }
}

fn member(seat: &Seat) -> Member {
    Member {
        node_id: seat.node.0,
        raft_addr: seat.raft_address.clone(),
        zone: seat.zone.as_str().to_owned(),
        meta: bytes::Bytes::new(),
    }
}

/// Runs a node until shutdown is requested.
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), NodeError> {
    tls::install_provider();
    for told in settings.insecure() {
        tracing::warn!("{told}");
    }
    let parts = Arc::new(assemble(settings, shutdown.clone()).await?);
    start_jobs(&parts);
    let serving = serve::start(&parts).await?;
    if is_alone(&parts.settings) {
        found_alone(&parts).await?;
    }
    tracing::info!(
        node = %parts.identity.node,
        cluster = %parts.identity.cluster,
        public = %parts.seat.public_url,
        "this node is up"
    );
    shutdown.requested().await;
    drain(&parts, serving).await;
    Ok(())
}

/// Without cluster certificates a node is on loopback and by itself: its cluster of one is founded at first start.
fn is_alone(settings: &Settings) -> bool {
    settings.cluster_tls().is_none()
}

async fn assemble(settings: Settings, shutdown: Shutdown) -> Result<Parts, NodeError> {
    let pems = match settings.cluster_tls() {
        Some(files) => Some(tls::watch_node_files(files, shutdown.clone()).map_err(NodeError::Tls)?),
        None => None,
    };
    let dir = settings.node.data_dir.clone();
    files::create_private_dir(&dir).map_err(|error| NodeError::Directory { path: dir.clone(), error })?;
    let (identity, _) = Identity::load_or_create(&dir, claim(&settings, pems.as_deref()))?;
    let node = identity.node.to_string();
    let labels = [("node", node.as_str()), ("zone", settings.node.zone.as_str())];
    let metrics = telemetry::Metrics::start(&labels);

    let state = Arc::new(State::open(&settings.state_dir(), StateOptions::default())?);
    let store_is_known = state.read(|view| {
        node_rows::stores(view).iter().any(|(id, row)| *id == identity.store && row.node == identity.node)
    });
    let store = blobs::open(&settings, &identity, store_is_known).await?;
    let watch = Arc::new(Watch::default());
    let machine = Arc::new(MetadataMachine::new(state.clone(), watch.clone()));
    let group = Group::start(group_config(&settings, &identity, pems.clone()), machine).await?;
    let metadata = Metadata::new(group.clone(), state, watch);
    let transfer = blobs::start_transfer(&settings, &identity, pems, store, &metadata).await?;
    let seat = seat(&settings, &identity);
    Ok(Parts {
        registry: Registry::new(metadata.clone(), transfer.clone()),
        auth: Auth::new(metadata.clone(), Arc::new(SystemClock), auth_settings(&settings)),
        cluster: Cluster::new(metadata.clone(), identity.node),
        driver: Driver::new(),
        settings,
        identity,
        group,
        metadata,
        transfer,
        seat,
        metrics,
        shutdown,
    })
}

fn claim(settings: &Settings, pems: Option<&Reloading<NodePems>>) -> Claim {
    let from_certificate = pems.map(|pems| pems.current().identity.clone());
    match from_certificate {
        Some(certs::Identity { cluster, role: certs::Role::Node(node) }) => {
            Claim { cluster: Some(cluster), node: Some(node) }
        }
        Some(_) | None => Claim { cluster: None, node: settings.node.id },
    }
}

pub(crate) fn tls_source(pems: Arc<Reloading<NodePems>>) -> TlsSource {
    Arc::new(move || {
        let NodePems { ca_pem, cert_pem, key_pem, .. } = &*pems.current();
        let key_pem = key_pem.expose().clone();
        Arc::new(NodeTls { ca_pem: ca_pem.clone(), cert_pem: cert_pem.clone(), key_pem })
    })
}

fn group_config(settings: &Settings, identity: &Identity, pems: Option<Arc<Reloading<NodePems>>>) -> GroupConfig {
    let Identity { cluster, lineage, node, .. } = identity;
    let listen = settings.listen_address(Door::Raft);
    let mut config = GroupConfig::new(cluster.0, lineage.0, node.0, settings.raft_dir(), listen);
    config.bind_source = settings.node.bind_source;
    config.tls = pems.map(tls_source);
    config.timing = raft::Timing {
        heartbeat_ms: clock::whole_ms(settings.raft.heartbeat),
        election_min_ms: clock::whole_ms(settings.raft.election_min),
        election_max_ms: clock::whole_ms(settings.raft.election_max),
    };
    config.limits.snapshot_every = settings.raft.snapshot_every;
    config.limits.keep_entries = settings.raft.snapshot_every * 2;
    config
}

fn seat(settings: &Settings, identity: &Identity) -> Seat {
    let TlsSection { cert, .. } = &settings.tls;
    let scheme = if cert.is_some() && settings.public_tls().is_some() { "https" } else { "http" };
    let public_url = match &settings.http.public_url {
        Some(url) => url.as_str().to_owned(),
        None => format!("{scheme}://{}", settings.advertised(Door::Public)),
    };
    Seat {
        node: identity.node,
        zone: settings.node.zone.clone(),
        raft_address: settings.advertised(Door::Raft),
        blob_address: settings.advertised(Door::Blob),
        public_url,
        store: identity.store,
        weight: 100,
    }
}

fn auth_settings(settings: &Settings) -> auth::Settings {
    let challenge = match settings.auth.challenge {
        Challenge::Bearer => auth::ChallengeKind::Bearer,
        Challenge::Basic => auth::ChallengeKind::Basic,
    };
    auth::Settings {
        challenge,
        public_url: settings.http.public_url.as_ref().map(|url| url.as_str().to_owned()),
        anonymous: settings.auth.anonymous,
        token_lifetime_s: settings.auth.token_lifetime.as_secs(),
    }
}

fn start_jobs(parts: &Arc<Parts>) {
    let Parts { metadata, transfer, identity, seat, driver, shutdown, .. } = &**parts;
    let principal = Cluster::principal(identity.node);
    let stores: Arc<[StoreId]> = Arc::from([identity.store]);
    tokio::spawn(seat.clone().keep(metadata.clone(), shutdown.clone()));
    let directory = transfer.clone();
    tokio::spawn(feed::feed(metadata.clone(), shutdown.clone(), move |nodes, topology| {
        blobs::set_directory(&directory, nodes, &topology);
    }));
    driver.start(ClockTick::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(ForgetUploads::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(PurgeRepositories::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(ReviewNeeds::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(SettleUses::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(StateDigest::new(metadata.clone(), identity.node, principal.clone()), shutdown.clone());
    driver.start(PromoteVoters::new(metadata.clone(), parts.cluster.clone()), shutdown.clone());
    let repair = RepairReplicas::new(metadata.clone(), transfer.clone(), seat.zone.clone(), stores, principal);
    driver.start(repair, shutdown.clone());
    if let Some(metrics) = parts.metrics.clone() {
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            while !shutdown.is_requested() {
                tokio::time::sleep(telemetry::METRICS_UPKEEP).await;
                metrics.upkeep();
            }
        });
    }
}

/// Founds the cluster of a single node, and shows its first access key once.
async fn found_alone(parts: &Parts) -> Result<(), NodeError> {
    let is_founded = parts.metadata.peek(|view| cluster_rows::read(view).is_some());
    let has_members = !parts.group.status().voters.is_empty();
    if is_founded || has_members && parts.group.applied_index() > 1 {
        return Ok(());
    }
    match parts.cluster.found(parts.founding()).await {
        Ok(_) | Err(FoundingError::Exists) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(text) = serve::first_key(parts).await.map_err(NodeError::RootKey)? {
        eprintln!("{text}");
    }
    Ok(())
}

/// Takes nothing new, lets requests in flight end, hands leadership on, closes the log.
async fn drain(parts: &Parts, serving: serve::Serving) {
    tracing::info!("draining");
    if parts.metadata.leadership().is_leader {
        let status = parts.group.status();
        let heir = status.voters.iter().copied().find(|voter| *voter != parts.identity.node.0);
        if let Some(heir) = heir {
            let handed = parts.group.transfer_leader(heir, Duration::from_secs(3)).await;
            if let Err(error) = handed {
                tracing::warn!(%error, "leadership was not handed on; the others elect by themselves");
            }
        }
    }
    serving.finish(parts.settings.http.drain_timeout).await;
    parts.transfer.shutdown().await;
    parts.group.shutdown().await;
}
