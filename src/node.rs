//! The composition root: the only place that builds the parts of a node and joins them. Everything here is order.

mod blobs;
mod clocks;
mod closing;
mod gauges;
mod join;
mod restore;
mod room;
mod serve;
#[cfg(feature = "sim")]
pub mod simulated;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use raft::{Group, GroupConfig, Member, NodeTls, StartError, TlsSource};
use registry_core::decide::fuse::Fuse;
use registry_core::metadata::absence::Patience;
use registry_core::metadata::{cluster as cluster_rows, keys, node as node_rows, upgrade};
use registry_core::vocabulary::ids::{Lineage, NodeId, StoreId};
use registry_core::vocabulary::names::RegionName;

use crate::auth::{self, Auth, Guest, Link};
use crate::blob::store::{BlobStore, OpenError, fs};
use crate::blob::transfer::Transfer;
use crate::cluster::identity::Claim;
use crate::cluster::registration::Seat;
use crate::cluster::{Clocks, Cluster, Founding, FoundingError, RegionDoor, feed};
pub use crate::cluster::{Identity, IdentityError};
use crate::config::{Challenge, Settings};
use crate::config::{Door, sections::TlsSection};
use crate::ground::files::FileLock;
use crate::ground::reload::Reloading;
use crate::ground::sockets::{self, ListenError};
use crate::ground::tls::{self, NodePems};
use crate::ground::traffic::Traffic;
use crate::ground::{Shutdown, SystemClock, certs, clock, files, telemetry};
use crate::jobs::Driver;
use crate::jobs::clock_tick::ClockTick;
use crate::jobs::collect_garbage::{CollectGarbage, CollectionSettings};
use crate::jobs::compact_packs::CompactPacks;
use crate::jobs::drop_replicas::DropReplicas;
use crate::jobs::forget_uploads::ForgetUploads;
use crate::jobs::free_files::{FreeFiles, Freed};
use crate::jobs::free_stagings::FreeStagings;
use crate::jobs::migrate_slots::MigrateSlots;
use crate::jobs::promote_voters::PromoteVoters;
use crate::jobs::purge_quarantine::PurgeQuarantine;
use crate::jobs::purge_repositories::PurgeRepositories;
use crate::jobs::rebalance_replicas::{RebalanceReplicas, RebalanceSettings};
use crate::jobs::repair_replicas::{RepairReplicas, Repairs};
use crate::jobs::replicate::{FollowRegions, TrimOutbox};
use crate::jobs::review_needs::ReviewNeeds;
use crate::jobs::scrub_copies::{Scrub, ScrubCopies};
use crate::jobs::settle_uses::SettleUses;
use crate::jobs::state_digest::StateDigest;
use crate::jobs::watch_nodes::WatchNodes;
use crate::metadata::Metadata;
use crate::metadata::machine::MetadataMachine;
use crate::metadata::tables::{self, State, StateError, StateOptions};
use crate::metadata::watch::Watch;
use crate::registry::{Received, Registry, Visit};
use crate::replication::{self, Replication};
pub use closing::Databases;
pub use restore::{RestoreError, Restored, restore};

/// Why a node does not start, or stopped by itself. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Certificates.
    #[error("{0}")]
    Tls(String),
    /// The data directory belongs to a running process.
    #[error(
        "{path} is in use by another process: does a node run on it, or a check? stop it, or set another node.data_dir"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The data directory.
    #[error("node.data_dir {path} can't be used: {error}; set it to a directory that this user may write")]
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
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) transfer: Transfer,
    pub(crate) clocks: Clocks,
    pub(crate) registry: Registry,
    pub(crate) auth: Auth,
    pub(crate) cluster: Cluster,
    pub(crate) replication: Replication,
    pub(crate) driver: Driver,
    pub(crate) freed: Freed,
    pub(crate) scrub: Scrub,
    pub(crate) repairs: Repairs,
    pub(crate) traffic: Traffic,
    pub(crate) seat: Seat,
    pub(crate) metrics: Option<telemetry::Metrics>,
    pub(crate) shutdown: Shutdown,
    /// Keeps other nodes, and offline checks, out of the data directory.
    _data_dir: FileLock,
}

impl Parts {
    /// This node as consensus names it.
    pub(crate) fn member(&self) -> Member {
        member(&self.seat)
    }

    /// For how long it waits for a node, and for a zone, that is not heard.
    pub(crate) fn patience(&self) -> Patience {
        Patience { node: self.settings.repair.replace_after, zone: self.settings.repair.zone_after }
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
            settle: if is_alone(&self.settings) { Duration::ZERO } else { SETTLE },
        }
    }
}

/// A leader calls every member it has, however often in vain, within this time.
const SETTLE: Duration = Duration::from_secs(2);

fn member(seat: &Seat) -> Member {
    Member {
        node_id: seat.node.0,
        raft_addr: seat.raft_address.clone(),
        zone: seat.zone.as_str().to_owned(),
        meta: bytes::Bytes::new(),
    }
}

/// Runs a node until shutdown is requested. Whoever ends the process afterwards waits for `databases` to be closed.
pub async fn run(settings: Settings, shutdown: Shutdown, databases: Databases) -> Result<(), NodeError> {
    tls::install_provider();
    for told in settings.insecure() {
        tracing::warn!("{told}");
    }
    let parts = Arc::new(assemble(settings, shutdown.clone(), &databases).await?);
    start_jobs(&parts);
    let serving = match serve::start(&parts).await {
        Ok(serving) => serving,
        Err(error) => {
            close(&parts).await;
            return Err(error);
        }
    };
    if is_alone(&parts.settings)
        && let Err(error) = found_alone(&parts).await
    {
        drain(&parts, serving).await;
        return Err(error);
    }
    tokio::spawn(serve::keep_key_in_force(Arc::clone(&parts)));
    tokio::spawn(join::by_token(Arc::clone(&parts)));
    tracing::info!(
        node = %parts.identity.node,
        cluster = %parts.identity.cluster,
        public = %parts.seat.public_url,
        "this node is up"
    );
    shutdown.requested().await;
    parts.transfer.set_closing();
    drain(&parts, serving).await;
    Ok(())
}

/// Without cluster certificates a node is on loopback and by itself: its cluster of one is founded at first start.
fn is_alone(settings: &Settings) -> bool {
    settings.cluster_tls().is_none()
}

async fn assemble(settings: Settings, shutdown: Shutdown, databases: &Databases) -> Result<Parts, NodeError> {
    try_doors(&settings)?;
    let (dir, data_dir) = take_data_dir(&settings)?;
    join::unpack(&settings)?;
    let pems = match settings.cluster_tls() {
        Some(files) => Some(tls::watch_node_files(files, shutdown.clone()).map_err(NodeError::Tls)?),
        None => None,
    };
    let (identity, _) = Identity::load_or_create(&dir, claim(&settings, named(pems.as_deref())))?;
    // Consensus is started only after the volume was opened: from then on an empty one is a lost or unmounted one. And
    // a volume that is here must be this node's: its copies are recorded under the volume's id.
    let had_volume = Group::was_started(&settings.raft_dir()) || fs::marked(&settings.blobs_dir()).is_some();
    let node = identity.node.to_string();
    let labels = [("node", node.as_str()), ("zone", settings.node.zone.as_str())];
    let metrics = telemetry::Metrics::start(&labels);

    let told = |error| NodeError::Directory { path: settings.raft_dir(), error };
    Group::make_room_in(&settings.raft_dir(), settings.raft.reserve.0).map_err(told)?;
    let state = Arc::new(open_state(&settings)?);
    let store_is_known = state.read(|view| {
        node_rows::stores(view).iter().any(|(id, row)| *id == identity.store && row.node == identity.node)
    });
    let blobs::Opened { store, bucket } = blobs::open(&settings, &identity, store_is_known || had_volume).await?;
    let watch = Arc::new(Watch::default());
    let machine = Arc::new(MetadataMachine::new(state.clone(), watch.clone()));
    let clocks = Clocks::new(Arc::new(SystemClock));
    let group = Group::start(group_config(&settings, &identity, pems.clone(), &clocks), machine).await?;
    databases.opened(&group, &state);
    if let Some(bucket) = bucket {
        let group = group.clone();
        bucket.set_lineage(move || Lineage(group.lineage()));
    }
    let metadata = Metadata::new(group.clone(), state, watch);
    let level = metadata.peek(|view| upgrade::level_of(view, keys::SYSTEM));
    group.record_suspects(level >= upgrade::LEVEL_2);
    let tls = pems.clone().map(tls_source);
    let transfer = blobs::start_transfer(&settings, &identity, pems, Arc::clone(&store), &metadata).await?;
    let (seat, traffic) = (seat(&settings, &identity), Traffic::default());
    let registry = Registry::new(metadata.clone(), transfer.clone());
    let backups_dir = settings.node.data_dir.join(".held-backups");
    let cluster = Cluster::new(metadata.clone(), identity.node, clocks.clone(), backups_dir);
    let door = settings
        .listen
        .region
        .zip(tls.clone())
        .map(|(listen, tls)| RegionDoor { port: listen.port(), ca_pem: Arc::new(move || tls().ca_pem.clone()) });
    let (listen, bind_source) = (settings.listen.region, settings.node.bind_source);
    let auth = Auth::new(metadata.clone(), Arc::new(SystemClock), auth_settings(&settings));
    let (spool, guest_links) = (settings.node.data_dir.join("through"), guest_links(&auth));
    let config = replication::Config { listen, bind_source, tls, spool, guest_links };
    let replication = Replication::new(config, metadata.clone(), registry.clone(), transfer.clone());
    replication.read_through();
    Ok(Parts {
        replication,
        registry,
        auth,
        cluster: match door {
            Some(door) => cluster.with_region_door(door),
            None => cluster,
        },
        driver: Driver::new(traffic.clone()),
        freed: Freed::new(),
        repairs: Repairs::default(),
        traffic,
        scrub: Scrub::open(settings.node.data_dir.join("scrub.json"), Arc::new(SystemClock)),
        settings,
        identity,
        group,
        metadata,
        store,
        transfer,
        clocks,
        seat,
        metrics,
        shutdown,
        _data_dir: data_dir,
    })
}

/// Opens the state. One that is rotten is put aside, and consensus gets another one: from the log, or from a peer.
fn open_state(settings: &Settings) -> Result<State, NodeError> {
    let (dir, raft_dir) = (settings.state_dir(), settings.raft_dir());
    let told = |error| NodeError::Directory { path: raft_dir.clone(), error };
    let options = StateOptions { told_of_rot: Some(raft_dir.clone()), ..StateOptions::default() };
    let was_condemned = raft::condemned(&raft_dir).map_err(told)?.is_some();
    match State::open(&dir, options.clone()) {
        // an empty one took its place at an earlier start, and waits to be filled
        Ok(state) if !was_condemned || state.revision().index == 0 => return Ok(state),
        Ok(_) => {}
        Err(error) if error.is_rot() => raft::condemn(&raft_dir, &error.to_string()).map_err(told)?,
        Err(error) => return Err(error.into()),
    }
    if let Some(aside) = tables::put_aside(&dir)? {
        tracing::error!(
            kept = %aside.display(),
            "the state is rotten, and kept aside: another one takes its place. Remove it when nobody needs it any more"
        );
    }
    Ok(State::open(&dir, options)?)
}

/// Finds out about addresses that can't be listened on before anything is made or opened.
fn try_doors(settings: &Settings) -> Result<(), ListenError> {
    if let Some(region) = settings.listen.region {
        drop(sockets::listen(region, "listen.region")?);
    }
    Door::ALL.into_iter().try_for_each(|door| sockets::listen(settings.listen_address(door), door.setting()).map(drop))
}

/// Makes the data directory if there is none, and keeps others out of it.
fn take_data_dir(settings: &Settings) -> Result<(PathBuf, FileLock), NodeError> {
    let path = settings.node.data_dir.clone();
    let locked = files::create_private_dir(&path).and_then(|()| files::lock_dir(&path));
    match locked {
        Ok(Some(file)) => Ok((path, file)),
        Ok(None) => Err(NodeError::InUse { path }),
        Err(error) => Err(NodeError::Directory { path, error }),
    }
}

/// Who the certificate says this node is.
fn named(pems: Option<&Reloading<NodePems>>) -> Option<certs::Identity> {
    pems.map(|pems| pems.current().identity.clone())
}

fn claim(settings: &Settings, from_certificate: Option<certs::Identity>) -> Claim {
    let store = fs::marked(&settings.blobs_dir());
    match from_certificate {
        Some(certs::Identity { cluster, role: certs::Role::Node(node) }) => {
            Claim { cluster: Some(cluster), node: Some(node), store }
        }
        Some(_) | None => Claim { cluster: None, node: settings.node.id, store },
    }
}

pub(crate) fn tls_source(pems: Arc<Reloading<NodePems>>) -> TlsSource {
    Arc::new(move || {
        let NodePems { ca_pem, cert_pem, key_pem, .. } = &*pems.current();
        let key_pem = key_pem.expose().clone();
        Arc::new(NodeTls { ca_pem: ca_pem.clone(), cert_pem: cert_pem.clone(), key_pem })
    })
}

fn group_config(
    settings: &Settings,
    identity: &Identity,
    pems: Option<Arc<Reloading<NodePems>>>,
    clocks: &Clocks,
) -> GroupConfig {
    let Identity { cluster, lineage, node, .. } = identity;
    let listen = settings.listen_address(Door::Raft);
    let mut config = GroupConfig::new(cluster.0, lineage.0, node.0, settings.raft_dir(), listen);
    config.bind_source = settings.node.bind_source;
    config.tls = pems.map(tls_source);
    let clocks = clocks.clone();
    config.clock = Arc::new(move || clocks.stamp_ms());
    config.timing = raft::Timing {
        heartbeat_ms: clock::whole_ms(settings.raft.heartbeat),
        election_min_ms: clock::whole_ms(settings.raft.election_min),
        election_max_ms: clock::whole_ms(settings.raft.election_max),
    };
    config.limits.reserve_bytes = settings.raft.reserve.0;
    config.limits.snapshot_every = settings.raft.snapshot_every;
    config.limits.keep_entries = settings.raft.snapshot_every * 2;
    config.limits.purge_batch = config.limits.purge_batch.min(settings.raft.snapshot_every);
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

/// Links for clients of other regions are made by who makes all links.
fn guest_links(auth: &Auth) -> replication::GuestLinks {
    let auth = auth.clone();
    Arc::new(move |region: &RegionName, visit: &Visit, received: &Received| {
        let Visit { repository: name, digest, client, back, right } = visit.clone();
        let guest = Some(Guest { region: region.clone(), repository: name.clone(), right });
        let link = Link { repository: received.repository, digest, node: received.node, client, back, guest };
        auth.guest_link(&name, link)
    })
}

fn start_jobs(parts: &Arc<Parts>) {
    let Parts { metadata, transfer, clocks, identity, seat, driver, shutdown, .. } = &**parts;
    let principal = Cluster::principal(identity.node);
    let stores: Arc<[StoreId]> = Arc::from([identity.store]);
    tokio::spawn(seat.clone().keep(metadata.clone(), shutdown.clone()));
    tokio::spawn(room::keep(metadata.clone(), transfer.clone(), shutdown.clone()));
    tokio::spawn(clocks::keep(metadata.clone(), transfer.clone(), clocks.clone(), shutdown.clone()));
    let directory = transfer.clone();
    tokio::spawn(feed::feed(metadata.clone(), shutdown.clone(), move |nodes, topology| {
        blobs::set_directory(&directory, nodes, &topology);
    }));
    driver.start(ClockTick::new(metadata.clone(), principal.clone()), shutdown.clone());
    start_collection(parts, &principal);
    driver.start(ForgetUploads::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(FreeStagings::new(Arc::clone(&parts.store)), shutdown.clone());
    driver.start(MigrateSlots::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(PurgeRepositories::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(ReviewNeeds::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(SettleUses::new(metadata.clone(), principal.clone()), shutdown.clone());
    driver.start(StateDigest::new(metadata.clone(), identity.node, principal.clone()), shutdown.clone());
    driver.start(PromoteVoters::new(metadata.clone(), parts.cluster.clone()), shutdown.clone());
    driver.start(FollowRegions::new(metadata.clone(), parts.replication.clone()), shutdown.clone());
    driver.start(TrimOutbox::new(metadata.clone(), principal.clone()), shutdown.clone());
    start_repair(parts, stores, &principal);
    tokio::spawn(gauges::keep(Arc::clone(parts)));
}

/// What notices lost nodes, makes the copies that are missing, and drops those that are too many.
fn start_repair(parts: &Parts, stores: Arc<[StoreId]>, principal: &str) {
    let Parts { metadata, transfer, identity, seat, driver, shutdown, settings, repairs, .. } = parts;
    let principal = || principal.to_owned();
    let watch = WatchNodes::new(metadata.clone(), transfer.clone(), identity.node, parts.patience(), principal());
    driver.start(watch, shutdown.clone());
    let (zone, told) = (seat.zone.clone(), repairs.clone());
    let repair = RepairReplicas::new(metadata.clone(), transfer.clone(), zone, stores, principal(), told);
    driver.start(repair, shutdown.clone());
    driver.start(DropReplicas::new(metadata.clone(), transfer.clone(), principal()), shutdown.clone());
    let wish = RebalanceSettings {
        bytes_per_s: u64::from(settings.repair.rebalance_mib_per_s) << 20,
        floor_bytes: settings.repair.rebalance_floor.0,
    };
    let told = repairs.clone();
    let rebalance = RebalanceReplicas::new(metadata.clone(), transfer.clone(), identity.store, wish, principal(), told);
    driver.start(rebalance, shutdown.clone());
}

/// What takes away what nobody names, rows by the leader and files by each node; and what verifies the files that stay.
fn start_collection(parts: &Parts, principal: &str) {
    let Parts { metadata, store, driver, shutdown, settings, freed, scrub, traffic, .. } = parts;
    let fuse = Fuse { percent: settings.gc.fuse_percent, floor_bytes: settings.gc.fuse_floor.0 };
    let (untagged, orphaned) = (settings.gc.untagged, settings.gc.orphaned);
    let wish = CollectionSettings { fuse, untagged, orphaned };
    let (metadata, store, traffic) = (|| metadata.clone(), || Arc::clone(store), || traffic.clone());
    let (principal, stop) = (|| principal.to_owned(), || shutdown.clone());
    driver.start(CollectGarbage::new(metadata(), wish, traffic(), principal()), stop());
    driver.start(FreeFiles::new(metadata(), store(), freed.clone(), traffic(), principal()), stop());
    let bytes_per_s = u64::from(settings.blobs.scrub_mib_per_s) << 20;
    let scrub = scrub.clone();
    let verify = ScrubCopies::new(metadata(), store(), scrub, bytes_per_s, traffic(), principal(), stop());
    driver.start(verify, stop());
    driver.start(CompactPacks::new(metadata(), store()), stop());
    driver.start(PurgeQuarantine::new(store(), Arc::new(SystemClock)), stop());
}

/// Founds the cluster of a single node, and shows its first access key once. A founding that broke off between its
/// steps is completed at the next start.
async fn found_alone(parts: &Parts) -> Result<(), NodeError> {
    let is_founded = parts.metadata.peek(|view| cluster_rows::read(view).is_some());
    if is_founded && parts.auth.has_root() {
        return Ok(());
    }
    let voters = parts.group.status().voters;
    if !is_founded && voters.iter().any(|voter| *voter != parts.identity.node.0) {
        return Ok(());
    }
    match parts.cluster.found(parts.founding()).await {
        Ok(_) => serve::audit(parts, "cluster.init", &parts.identity.cluster.to_string(), None),
        Err(FoundingError::Exists) => {}
        Err(error) => return Err(error.into()),
    }
    match serve::first_key(parts).await {
        Ok(text) => text.iter().for_each(|text| eprintln!("{text}")),
        Err(problem) if is_founded => tracing::warn!(problem, "the first access key is made at the next start"),
        Err(problem) => return Err(NodeError::RootKey(problem)),
    }
    Ok(())
}

/// Takes nothing new, lets requests in flight end and hands leadership on meanwhile, closes the log.
async fn drain(parts: &Parts, serving: serve::Serving) {
    tracing::info!("draining: requests under way may end, new ones are not taken");
    tokio::join!(serving.finish(parts.settings.http.drain_timeout), hand_on(parts));
    close(parts).await;
    tracing::info!("this node has stopped");
}

/// Ends what has threads of its own. A process that ended before them would take RocksDB away under their feet.
async fn close(parts: &Parts) {
    parts.shutdown.request();
    parts.transfer.shutdown().await;
    parts.group.shutdown().await;
}

/// Hands leadership to the voter that has the most of the log: whoever is behind must catch up before it leads.
async fn hand_on(parts: &Parts) {
    if !parts.metadata.leadership().is_leader {
        return;
    }
    let status = parts.group.status();
    let others = status.voters.iter().copied().filter(|voter| *voter != parts.identity.node.0);
    let Some(heir) = others.max_by_key(|voter| status.matched.get(voter).copied().flatten()) else { return };
    match parts.group.transfer_leader(heir, HAND_ON).await {
        Ok(()) => tracing::info!(node = %NodeId(heir), "leadership is handed on"),
        Err(error) => tracing::warn!(%error, "leadership was not handed on; the others elect by themselves"),
    }
}

/// How long handing on leadership may take: an election is not much longer.
const HAND_ON: Duration = Duration::from_secs(3);
