//! A node's part in the group: the one handle through which the server proposes, reads and changes members.
//!
//! It owns a runtime of two threads, on which nothing else runs: hashing and request bodies must never delay a
//! heartbeat.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::storage::StorageHelper;
use openraft::{Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tonic::Code;

use crate::change::{self, ChangeError, USED_ID};
use crate::config::{GroupConfig, StartError};
use crate::core::{Core, Leadership, boottime_ms};
use crate::fatal;
use crate::former;
use crate::gate::{self, Gate};
use crate::identity::{Directory, Identity, Memory};
use crate::machine::StateMachine;
use crate::metrics;
use crate::network::client::Network;
use crate::network::net::{Class, Net, NetSettings};
use crate::network::receive::Receiver;
use crate::network::server::Service;
use crate::network::transport;
use crate::network::wire::{self, Change, Changed, kind};
use crate::propose::{self, Forward, Forwarder, ProposeError, Proposed};
use crate::read_index::{self, Reads, Unavailable};
use crate::reinstall::{self, Lent};
use crate::room::{self, Room};
use crate::state::{self, Adapter};
use crate::stores::{self, Stores};
use crate::suspect::{self, Reported, Suspicion};
use crate::types::{Member, Peer, Position, Raft, StoredMembership};

/// A node's part in the group. A cheap handle; the last one that goes ends it.
#[derive(Clone, Debug)]
pub struct Group(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // the listener and the engine end with the runtime, and must not take that for a failure of theirs
        self.core.ending.send_replace(true);
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// How long the log of a group is open, without keeping it open.
#[derive(Clone, Debug)]
pub struct Lifetime(Weak<()>);

impl Lifetime {
    /// The log is closed: the last handle is gone.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// What this node knows of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// The present term.
    pub term: u64,
    /// Its leader, once known.
    pub leader: Option<u64>,
    /// What this node does.
    pub state: State,
    /// Index of the last entry here, durable or not.
    pub last_log_index: Option<u64>,
    /// The last entry known to be committed.
    pub committed: Option<u64>,
    /// The last entry applied here.
    pub applied: Option<Position>,
    /// What the latest copy of the state contains.
    pub snapshot: Option<Position>,
    /// The last entry purged from the log.
    pub purged: Option<Position>,
    /// Whose vote counts for everything.
    pub voters: Vec<u64>,
    /// Who is fed, but doesn't vote, or not yet: a change of the voters is between its two steps.
    pub learners: Vec<u64>,
    /// Everybody.
    pub members: Vec<Member>,
    /// On the leader: the last entry each member is known to have, durable.
    pub matched: BTreeMap<u64, Option<u64>>,
    /// The node has found that a majority remembers no more of it than itself, and takes part.
    pub admitted: bool,
    /// It has lost what it had acknowledged, and votes no more until it is trusted again.
    pub suspicion: Option<Suspicion>,
    /// Its directory was emptied under a known id, and it takes no part for good.
    pub emptied: bool,
    /// Who has told this node lately to be suspect.
    pub suspects: Vec<u64>,
}

/// What a node does in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Is fed, and doesn't vote; also a node that knows no members yet.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Ends.
    Shutdown,
}

/// A cluster was not founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitializeError {
    /// This node belongs to a cluster already.
    #[error("the cluster exists already")]
    Exists,
    /// The members make no sense.
    #[error("{0}")]
    Rejected(String),
}

impl Group {
    /// Starts the node: checks its directory, recovers, listens. It takes part once a majority has answered its hello.
    ///
    /// An error leaves the directory as it was, apart from its start counter.
    pub async fn start(config: GroupConfig, machine: Arc<dyn StateMachine>) -> Result<Group, StartError> {
        if config.tls.is_none() && !config.listen.ip().is_loopback() {
            return Err(StartError::Insecure(config.listen));
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("raft").enable_all().build()?;
        let started = runtime.spawn(start(config, machine)).await;
        match started.map_err(std::io::Error::other).map_err(StartError::from).flatten() {
            Ok(core) => Ok(Group(Arc::new(Inner { core, runtime: Mutex::new(Some(runtime)) }))),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// The life of the cluster's log that this node belongs to.
    pub fn lineage(&self) -> u64 {
        self.0.core.net.lineage()
    }

    /// Whether a node was ever started on this directory.
    pub fn was_started(dir: &Path) -> bool {
        Identity::is_in(dir)
    }

    /// Gives away the space that is held back in a directory of consensus, if its volume is full. Starting does the
    /// same; this is for what has to be opened on the same volume before.
    pub fn make_room_in(dir: &Path, reserve_bytes: u64) -> std::io::Result<()> {
        Group::make_room(dir, reserve_bytes).map(drop)
    }

    fn make_room(dir: &Path, reserve_bytes: u64) -> std::io::Result<Arc<Room>> {
        crate::files::make_dir(dir)?;
        Room::open(dir, reserve_bytes)
    }

    /// Runs something on the runtime of consensus, where its channels and timers live.
    async fn on_runtime<R: Send + 'static>(&self, work: impl Future<Output = R> + Send + 'static) -> Option<R> {
        let handle = self.0.runtime.lock().as_ref().map(|runtime| runtime.handle().clone())?;
        handle.spawn(work).await.ok()
    }

    /// Founds the cluster with this node as its one voter; others join. To be called on one node, once.
    ///
    /// There is no founding with several: their empty directories would have to vote, and an empty directory never
    /// does.
    pub async fn initialize(&self, me: Member) -> Result<(), InitializeError> {
        use openraft::errors::InitializeError as Found;
        let members: BTreeMap<u64, Peer> = [me.split()].into();
        match self.0.core.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(error) => Err(match error.api_error() {
                Some(Found::NotAllowed(_)) => InitializeError::Exists,
                Some(Found::NotInMembers(_)) => InitializeError::Rejected("this node is not among the members".into()),
                None => InitializeError::Rejected(error.to_string()),
            }),
        }
    }

    /// Asks one of the nodes at `seeds` to add this node as a learner; repeats until it is one, or every seed says that
    /// it may not be.
    pub async fn join(&self, seeds: Vec<String>, me: Member, limit: Duration) -> Result<(), ChangeError> {
        let core = self.0.core.clone();
        if core.gate.is_closed_for_good() {
            return Err(ChangeError::Rejected(USED_ID.to_owned()));
        }
        let joined = self.on_runtime(async move { tokio::time::timeout(limit, join(&core, &seeds, me)).await }).await;
        match joined {
            Some(Ok(joined)) => joined,
            Some(Err(_)) | None => Err(ChangeError::Unknown),
        }
    }

    /// Proposes an entry on any node and waits until it is applied where the leader is.
    pub async fn propose(&self, payload: Bytes, limit: Duration) -> Result<Proposed, ProposeError> {
        self.0.core.propose(payload, limit).await
    }

    /// The index that a read which begins now has to see; any node.
    pub async fn read_index(&self, limit: Duration) -> Result<u64, Unavailable> {
        self.0.core.read_index(limit).await
    }

    /// Waits until this node's state has all that was acknowledged anywhere before the call. Returns that index.
    pub async fn linearize(&self, limit: Duration) -> Result<u64, Unavailable> {
        let until = tokio::time::Instant::now() + limit;
        let index = self.0.core.read_index(limit).await?;
        self.0.core.wait_applied(index, until.saturating_duration_since(tokio::time::Instant::now())).await?;
        Ok(index)
    }

    /// Waits until this node has applied `index`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), Unavailable> {
        self.0.core.wait_applied(index, limit).await
    }

    /// Index of the last entry applied here; 0 when there is none, or only the founding one.
    pub fn applied_index(&self) -> u64 {
        self.0.core.applied.borrow().map_or(0, |applied| applied.index)
    }

    /// Since when this node's state has all that a leader had confirmed then: milliseconds since boot
    /// (`CLOCK_BOOTTIME`), `None` if never since the start.
    pub fn confirmed_at_ms(&self) -> Option<u64> {
        self.0.core.reads.confirmed_at_ms()
    }

    /// How old this node's state is at most, milliseconds; `u64::MAX` if that isn't known.
    pub fn confirmed_age_ms(&self) -> u64 {
        self.confirmed_at_ms().map_or(u64::MAX, |at| boottime_ms().saturating_sub(at))
    }

    /// What this node knows of the group.
    pub fn status(&self) -> Status {
        let core = &self.0.core;
        let metrics = core.metrics();
        let members = &metrics.membership_config;
        let voters = change::full_voters(members);
        let state = match metrics.state {
            ServerState::Learner => State::Learner,
            ServerState::Follower => State::Follower,
            ServerState::Candidate => State::Candidate,
            ServerState::Leader => State::Leader,
            ServerState::Shutdown => State::Shutdown,
        };
        let index = |id: Option<crate::types::LogId>| id.map(|id| id.index);
        Status {
            node_id: core.net.node_id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            state,
            last_log_index: metrics.last_log_index,
            committed: index(metrics.cluster_committed.max(metrics.local_committed)),
            applied: *core.applied.borrow(),
            snapshot: metrics.snapshot.map(Position::from),
            purged: core.log.purged(),
            learners: members.nodes().map(|(id, _)| *id).filter(|id| !voters.contains(id)).collect(),
            members: members.nodes().map(|(id, peer)| Member::join(*id, peer)).collect(),
            matched: metrics.replication.unwrap_or_default().into_iter().map(|(id, at)| (id, index(at))).collect(),
            voters,
            admitted: core.gate.is_open(),
            suspicion: core.gate.suspicion(),
            emptied: core.gate.is_closed_for_good(),
            suspects: core.reported.lately().into_iter().collect(),
        }
    }

    /// Follows who leads.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.0.core.leadership.clone()
    }

    /// Follows what was applied here last.
    pub fn watch_applied(&self) -> watch::Receiver<Option<Position>> {
        self.0.core.applied.clone()
    }

    async fn change(&self, change: Change, limit: Duration) -> Result<(), ChangeError> {
        let core = self.0.core.clone();
        let changed = self.on_runtime(async move { core.change(&change, limit).await }).await;
        changed.unwrap_or(Err(ChangeError::Unavailable))
    }

    /// Adds a node that is fed and doesn't vote, or changes the address of a member.
    pub async fn add_learner(&self, member: Member, limit: Duration) -> Result<(), ChangeError> {
        self.change(Change::AddLearner(member), limit).await
    }

    /// Makes exactly these members voters. New ones must have caught up; former ones stay as learners.
    pub async fn change_voters(
        &self,
        voters: impl IntoIterator<Item = u64>,
        limit: Duration,
    ) -> Result<(), ChangeError> {
        self.change(Change::Voters(voters.into_iter().collect()), limit).await
    }

    /// Removes a member. Its id is never used again.
    pub async fn remove(&self, node_id: u64, limit: Duration) -> Result<(), ChangeError> {
        self.change(Change::Remove(node_id), limit).await
    }

    /// Hands leadership to a voter and waits until it leads.
    pub async fn transfer_leader(&self, to: u64, limit: Duration) -> Result<(), ChangeError> {
        self.change(Change::Transfer(to), limit).await
    }

    /// Whether the volume of this node's log is nearly full: changes that make the state grow should wait.
    pub fn is_short_of_room(&self) -> bool {
        self.0.core.room.is_short()
    }

    /// Says durably that the state of this node is not to be used any more; the next start takes another one's. The
    /// process should end.
    pub fn condemn_state(&self, why: &str) -> std::io::Result<()> {
        self.0.core.directory.condemn_state(why)
    }

    /// Keeps the whole log of this node from now on, as evidence, or lets it be purged behind copies again. Forgotten
    /// at the end of the process.
    pub fn keep_log(&self, keeps: bool) {
        self.0.core.log.keep_all(keeps);
    }

    /// Whether this node, as the leader, records suspect nodes in the log, an entry that programs before 0.2.0 can't
    /// read; it does unless told otherwise. A suspect node waits meanwhile.
    pub fn record_suspects(&self, records: bool) {
        self.0.core.records_suspects.store(records, Ordering::Release);
    }

    /// Has this node copy its state soon.
    pub async fn snapshot_now(&self) {
        // only a node that ends doesn't take the request
        let _ends = self.0.core.raft.trigger().snapshot().await.is_err();
    }

    /// Ends this node's part: hands leadership on if it leads, stops the engine and the listener. At most about fifteen
    /// seconds. The log stays open until the last handle is dropped; see [`Group::closed`].
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.0.core.ending.send_replace(true);
        let core = self.0.core.clone();
        let _stopped = self.on_runtime(async move { core.raft.shutdown().await.is_ok() }).await;
        self.halt().await;
    }

    /// Ends at once, as a crash would.
    pub async fn halt(&self) {
        self.0.core.ending.send_replace(true);
        let runtime = self.0.runtime.lock().take();
        if let Some(runtime) = runtime {
            let ended = move || runtime.shutdown_timeout(Duration::from_secs(10));
            drop(tokio::task::spawn_blocking(ended).await);
        }
    }

    /// Tells when the log is closed.
    pub fn lifetime(&self) -> Lifetime {
        Lifetime(self.0.core.log.lifetime())
    }

    /// Waits, after the end, until the directory may be used again by the same process; false if something still holds
    /// it when `patience` is over.
    pub async fn closed(self, patience: Duration) -> bool {
        let log = self.0.core.log.lifetime();
        drop(self);
        let deadline = tokio::time::Instant::now() + patience;
        while log.strong_count() > 0 {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        true
    }

    async fn hand_over(&self) {
        let status = self.status();
        if status.leader != Some(status.node_id) {
            return;
        }
        let fit = |id: &u64| *id != status.node_id && status.voters.contains(id) && !status.suspects.contains(id);
        let best = status.matched.iter().filter(|(id, _)| fit(id));
        if let Some((id, _)) = best.max_by_key(|(_, matched)| **matched)
            && let Err(error) = self.transfer_leader(*id, Duration::from_secs(3)).await
        {
            tracing::warn!(%error, "leadership could not be handed on before the end");
        }
    }
}

async fn join(core: &Core, seeds: &[String], me: Member) -> Result<(), ChangeError> {
    let question = wire::join(&me, core.log.last().is_none());
    loop {
        let mut refusals = Vec::new();
        for seed in seeds {
            let question = (kind::JOIN, question.clone());
            let answer = core.net.call((0, seed), Class::Forward, question, Duration::from_secs(30)).await;
            match answer.map(wire::read_changed) {
                Ok(Ok(Changed::Done)) => return Ok(()),
                Ok(Ok(Changed::Rejected(why))) => return Err(ChangeError::Rejected(why)),
                Ok(Ok(Changed::Lineage(lineage))) => enter_life(core, lineage).await?,
                Ok(Ok(Changed::NotLeader | Changed::Unknown)) | Ok(Err(_)) => {}
                Err(status) => {
                    tracing::info!(%status, %seed, "joining was not possible there");
                    if status.code() == Code::PermissionDenied {
                        refusals.push(status.message().to_owned());
                    }
                }
            }
        }
        // This node was removed, or its directory is an old copy, or the seeds are of another cluster: no repetition
        // changes that. A seed that has not heard yet says something else.
        if refusals.len() == seeds.len()
            && let Some(why) = refusals.pop()
        {
            return Err(ChangeError::Rejected(why));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A node that belongs to nothing yet goes over to the life that the cluster is in.
async fn enter_life(core: &Core, lineage: u64) -> Result<(), ChangeError> {
    if core.log.last().is_some() || core.knows_members() {
        return Err(ChangeError::Rejected(USED_ID.to_owned()));
    }
    core.directory.clone().keep(move |identity| identity.lineage = lineage).await;
    core.net.set_lineage(lineage);
    Ok(())
}

/// The settings of the engine; every value that isn't the engine's default has its reason in the README's table.
fn engine_config(config: &GroupConfig) -> Result<Config, StartError> {
    let (timing, limits) = (config.timing, config.limits);
    let engine = Config {
        cluster_name: format!("{:032x}", config.cluster_id),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        enable_pre_vote: Some(true),
        // a restarted leader asks for votes again: its directory may be an old copy
        enable_leader_restore: Some(false),
        // closed until the hello has been answered
        enable_elect: false,
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits.snapshot_every),
        max_in_snapshot_log_to_keep: limits.keep_entries,
        replication_lag_threshold: limits.keep_entries.max(limits.snapshot_every).saturating_mul(2),
        purge_batch_size: limits.purge_batch,
        max_payload_entries: limits.message_entries,
        backoff: "50ms 100ms ...500ms".into(),
        ..Config::default()
    };
    engine.validate().map_err(|error| StartError::Settings(error.to_string()))
}

async fn start(config: GroupConfig, machine: Arc<dyn StateMachine>) -> Result<Arc<Core>, StartError> {
    let engine = Arc::new(engine_config(&config)?);
    let listener = TcpListener::bind(config.listen).await?;
    let room = Group::make_room(&config.dir, config.limits.reserve_bytes)?;
    let directory = Directory::start(&config.dir, config.cluster_id, config.lineage, config.node_id)?;
    let directory = Arc::new(directory);
    let Stores { log, snapshots, gap } = stores::open(&config, machine.clone(), directory.clone()).await?;
    let identity = directory.identity();
    let net = Net::new(NetSettings {
        cluster_id: config.cluster_id,
        lineage: identity.lineage,
        node_id: config.node_id,
        start: identity.start,
        memory: Memory::load(log.heard()?)?,
        bind_source: config.bind_source,
        tls: config.tls.clone(),
        connect_timeout: Duration::from_millis(config.timing.election_max_ms),
        snapshot_rate: config.limits.snapshot_rate_bytes,
        append_messages: config.limits.append_messages,
    });
    let receiver = Receiver::new(snapshots.clone());
    if let Some(gap) = gap {
        let known = [log.membership()?, log.members()?, Some(state::membership(&*machine)?)];
        let peers = reinstall::peers(&net, known.into_iter().flatten());
        reinstall::fetch(&net, &peers, &receiver, gap).await?;
        stores::drop_log_behind(&log, &*machine)?;
    }
    reinstall::acquit(&config.dir)?;
    let adapter = Adapter::open(machine, snapshots, log.flushed())?;
    let (applied, former) = (adapter.applied_at(), adapter.former());
    former.load(log.former()?);
    let (mut log_handle, mut adapter) = (log.clone(), adapter);
    let membership = StorageHelper::new(&mut log_handle, &mut adapter).get_membership().await;
    let membership = membership.map_err(|error| StartError::Engine(error.to_string()))?.effective().as_ref().clone();
    let raft = Raft::new(config.node_id, engine, Network(net.clone()), log.clone(), adapter).await;
    let raft = raft.map_err(|error| StartError::Engine(error.to_string()))?;
    let (leads, leadership) = watch::channel(Leadership::default());
    let (forwarder, forwards) = Forwarder::new(config.limits.proposals);
    let core = Arc::new(Core {
        net,
        raft,
        log,
        directory,
        reported: Reported::default(),
        records_suspects: AtomicBool::new(true),
        lent: Lent::default(),
        gate: Arc::new(Gate::new(identity.suspicion)),
        receiver,
        applied,
        leadership,
        reads: Reads::default(),
        forwarder,
        room,
        former,
        proposing: AtomicUsize::new(0),
        clock: config.clock,
        timing: config.timing,
        limits: config.limits,
        ending: watch::Sender::new(false),
    });
    spawn_parts(&core, Parts { listener, tls: config.tls, leads, forwards, membership });
    Ok(core)
}

/// What runs beside the engine needs once, when it starts.
struct Parts {
    listener: TcpListener,
    tls: Option<transport::TlsSource>,
    leads: watch::Sender<Leadership>,
    forwards: mpsc::Receiver<Forward>,
    membership: StoredMembership,
}

fn spawn_parts(core: &Arc<Core>, parts: Parts) {
    let Parts { listener, tls, leads, forwards, membership } = parts;
    if core.gate.suspicion().is_some() {
        // a leader lets it in, not a majority
        tracing::warn!("this node is suspect since an earlier start or this one");
    } else if membership.nodes().next().is_some() {
        tokio::spawn(gate::greet(core.clone(), membership));
    } else {
        // it knows nobody to greet; frames of who knows it as somebody else close the gate again
        core.gate.open();
        core.raft.runtime_config().elect(true);
    }
    let router = transport::server().add_service(Service(core.clone()).into_server());
    let mut ending = core.ending.subscribe();
    let ended = async move { drop(ending.wait_for(|ending| *ending).await) };
    let serving = transport::serve(listener, router, tls, ended);
    let watched = core.clone();
    tokio::spawn(async move {
        let served = serving.await;
        if !*watched.ending.borrow() {
            fatal::abort("the listener of consensus has ended", &format!("{served:?}"));
        }
    });
    tokio::spawn(suspect::watch(core.clone()));
    tokio::spawn(gate::remember(core.clone()));
    tokio::spawn(room::watch(core.clone()));
    tokio::spawn(former::keep(core.clone()));
    tokio::spawn(reinstall::remember_members(core.clone()));
    tokio::spawn(read_index::run(core.clone()));
    tokio::spawn(propose::forward(core.clone(), forwards));
    tokio::spawn(follow_leadership(core.clone(), leads));
    tokio::spawn(change::settle(core.clone()));
    tokio::spawn(watch_engine(core.clone()));
}

/// Publishes who leads, and when this node is ready to.
async fn follow_leadership(core: Arc<Core>, leads: watch::Sender<Leadership>) {
    let mut server = core.raft.server_metrics();
    let mut applied = core.applied.clone();
    loop {
        let now = {
            let metrics = server.borrow_and_update();
            let applied_term = applied.borrow_and_update().map(|applied| applied.term);
            let term = metrics.vote.leader_id.term;
            let is_leader = metrics.state == ServerState::Leader && metrics.vote.committed;
            // its first entry is applied: so is all that was committed before
            let is_self_ready = is_leader && applied_term == Some(term);
            Leadership { term, leader: metrics.current_leader, is_self_ready }
        };
        let me = core.net.node_id;
        leads.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                metrics::leadership(now.term, now.leader == Some(me));
                *before = now;
            }
            changed
        });
        let becoming = now.leader == Some(me) && !now.is_self_ready;
        let ended = tokio::select! {
            changed = server.changed() => changed.is_err(),
            changed = applied.changed(), if becoming => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// Ends the process when the engine has stopped by itself: a node that only seems to run is worse than none.
async fn watch_engine(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    loop {
        let stopped = match &metrics.borrow_and_update().running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => Some(fatal.to_string()),
        };
        if let Some(why) = stopped {
            fatal::abort("consensus has stopped", &why);
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // the loop is for the state alone: entries need not wake it more than ten times a second
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut ending = core.ending.subscribe();
    let told = tokio::time::timeout(Duration::from_secs(1), ending.wait_for(|ending| *ending)).await;
    if told.is_err() {
        fatal::abort("consensus has stopped", &"its core is gone");
    }
}
