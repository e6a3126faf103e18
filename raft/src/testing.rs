//! A state machine and an in-process cluster, for tests and measurements. Both are real: RocksDB, sockets, fsync.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Options, WriteBatch};
use tempfile::TempDir;

use crate::{Committed, Effect, Group, GroupConfig, MachineError, Member, StartError, StateMachine, TlsSource};

const KEY_META: &[u8] = b"m";
const KEY_CHAIN: &[u8] = b"c";

/// Directories whose logs have a slow disk, and how long each sync of theirs takes more.
static SLOW: Mutex<Vec<(PathBuf, Duration)>> = Mutex::new(Vec::new());

/// From now on each sync of the log below `dir` takes so much longer.
pub fn slow_syncs(dir: &Path, each: Duration) {
    SLOW.lock().push((dir.to_owned(), each));
}

/// What a sync of the log at `path` waits for.
pub(crate) fn wait_for_disk(path: &Path) {
    let each = SLOW.lock().iter().find(|(dir, _)| path.starts_with(dir)).map(|(_, each)| *each);
    if let Some(each) = each {
        std::thread::sleep(each);
    }
}

fn failed(error: impl std::fmt::Display) -> MachineError {
    MachineError::new(error.to_string())
}

/// Names that begin so count a proposal once: a copy of it has the first one's effect.
const ONCE: &[u8] = b"once/";

/// Counters by name on RocksDB. Adding twice shows: but for names of [`ONCE`] nothing here is idempotent.
#[derive(Debug)]
pub struct Counters {
    root: PathBuf,
    live: RwLock<DB>,
    /// Goes after the database: who waits for this may open it again.
    open: Arc<()>,
}

/// Adds to a counter; the reply is its new value, little-endian.
pub fn add(name: &str, amount: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64_le(amount);
    out.put_slice(name.as_bytes());
    out.freeze()
}

fn number(bytes: Option<Vec<u8>>) -> u64 {
    bytes.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))).unwrap_or(0)
}

impl Counters {
    /// Opens the state below `root`, or makes it.
    pub fn open(root: &Path) -> Result<Counters, MachineError> {
        std::fs::create_dir_all(root).map_err(failed)?;
        let pointer = root.join("CURRENT");
        if !pointer.exists() {
            std::fs::write(&pointer, "state-0").map_err(failed)?;
        }
        let live = RwLock::new(open_db(&root.join(std::fs::read_to_string(&pointer).map_err(failed)?))?);
        Ok(Counters { root: root.to_owned(), live, open: Arc::new(()) })
    }

    /// The present value of a counter here.
    pub fn get(&self, name: &str) -> u64 {
        number(self.live.read().get(key(name)).expect("readable"))
    }

    /// A checksum over all that was ever applied, in order, and how many entries that were.
    pub fn chain(&self) -> (u64, u64) {
        chain(&self.live.read())
    }
}

fn key(name: &str) -> Vec<u8> {
    [b"k".as_slice(), name.as_bytes()].concat()
}

fn chain(db: &DB) -> (u64, u64) {
    let bytes = db.get(KEY_CHAIN).expect("readable").unwrap_or_else(|| vec![0; 16]);
    let (sum, count) = bytes.split_at(8);
    (number(Some(sum.to_vec())), number(Some(count.to_vec())))
}

fn open_db(dir: &Path) -> Result<DB, MachineError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    DB::open(&options, dir).map_err(failed)
}

impl StateMachine for Counters {
    fn apply(&self, entries: &[Committed], meta: &[u8]) -> Result<Vec<Effect>, MachineError> {
        let live = self.live.read();
        let mut batch = WriteBatch::default();
        let mut overlay = std::collections::BTreeMap::new();
        let (mut sum, mut count) = chain(&live);
        let mut effects = Vec::with_capacity(entries.len());
        let mut effect = |index, value: &[u8]| effects.push(Effect { index, reply: Bytes::copy_from_slice(value) });
        for entry in entries {
            let mut link = sum.to_le_bytes().to_vec();
            link.extend(entry.index.to_le_bytes());
            link.extend(entry.at_ms.to_le_bytes());
            link.extend(&entry.payload);
            sum = (sum << 32) | u64::from(crc32c::crc32c(&link));
            count += 1;
            let Some((amount, name)) = entry.payload.split_at_checked(8) else {
                effect(entry.index, &[]);
                continue;
            };
            if name.starts_with(ONCE) {
                let first = live.get(&entry.payload).map_err(failed)?;
                let first = first.map_or(entry.index, |first| number(Some(first)));
                batch.put(&entry.payload, first.to_le_bytes());
                effect(first, amount);
                continue;
            }
            let name = [b"k".as_slice(), name].concat();
            let before = match overlay.get(&name) {
                Some(value) => *value,
                None => number(live.get(&name).map_err(failed)?),
            };
            let after = before.wrapping_add(number(Some(amount.to_vec())));
            batch.put(&name, after.to_le_bytes());
            overlay.insert(name, after);
            effect(entry.index, &after.to_le_bytes());
        }
        batch.put(KEY_CHAIN, [sum.to_le_bytes(), count.to_le_bytes()].concat());
        batch.put(KEY_META, meta);
        live.write(batch).map_err(failed)?;
        Ok(effects)
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, MachineError> {
        self.live.read().get(KEY_META).map_err(failed)
    }

    fn checkpoint(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        Checkpoint::new(&self.live.read()).and_then(|copy| copy.create_checkpoint(dir)).map_err(failed)?;
        self.inspect(dir)
    }

    fn inspect(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        let copy = DB::open_for_read_only(&Options::default(), dir, false).map_err(failed)?;
        Ok(copy.get(KEY_META).map_err(failed)?.unwrap_or_default())
    }

    fn verify(&self, dir: &Path) -> Result<Vec<u8>, MachineError> {
        let copy = DB::open_for_read_only(&Options::default(), dir, false).map_err(failed)?;
        copy.iterator(rocksdb::IteratorMode::Start).try_for_each(|row| row.map(drop)).map_err(failed)?;
        self.inspect(dir)
    }

    fn install(&self, dir: &Path) -> Result<(), MachineError> {
        let mut live = self.live.write();
        let pointer = self.root.join("CURRENT");
        let old = std::fs::read_to_string(&pointer).map_err(failed)?;
        let number: u64 = old.rsplit('-').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let name = format!("state-{}", number + 1);
        let target = self.root.join(&name);
        crate::files::remove_dir(&target).map_err(failed)?;
        std::fs::rename(dir, &target).map_err(failed)?;
        crate::files::replace(&pointer, name.as_bytes()).map_err(failed)?;
        *live = open_db(&target)?;
        crate::files::remove_dir(&self.root.join(old)).map_err(failed)
    }
}

/// The reply of [`add`].
pub fn value(reply: &Bytes) -> u64 {
    number(Some(reply.to_vec()))
}

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A few nodes in this process, each with an address of its own on loopback.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, first to last; node `i` has id `i + 1`.
    pub nodes: Vec<Node>,
    dir: TempDir,
    net: u8,
    adjust: fn(&mut GroupConfig),
    tls: Option<fn(u64) -> TlsSource>,
}

impl Drop for Cluster {
    /// Waits until nothing writes below the directory any more: what is made while it goes would stay.
    fn drop(&mut self) {
        let began = Instant::now();
        for Running { group, machine } in self.nodes.iter_mut().filter_map(|node| node.running.take()) {
            let (log, state) = (group.lifetime(), Arc::downgrade(&machine.open));
            drop((group, machine));
            while !(log.is_over() && state.strong_count() == 0) && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// A node of a [`Cluster`].
#[derive(Debug)]
pub struct Node {
    /// What it is started with.
    pub config: GroupConfig,
    /// Running, or stopped.
    pub running: Option<Running>,
}

/// A node that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its part in the group.
    pub group: Group,
    /// Its state.
    pub machine: Arc<Counters>,
}

/// How long anything in a test may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

impl Cluster {
    /// Makes and starts `count` nodes that form a cluster; `adjust` changes their settings.
    pub async fn start(count: u64, adjust: fn(&mut GroupConfig)) -> Cluster {
        Cluster::start_with(count, adjust, None).await
    }

    /// The same with certificates.
    pub async fn start_with(count: u64, adjust: fn(&mut GroupConfig), tls: Option<fn(u64) -> TlsSource>) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let number = std::process::id().wrapping_add(CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let net = u8::try_from(number % 200).expect("below 200") + 1;
        let mut cluster = Cluster { nodes: Vec::new(), dir, net, adjust, tls };
        for _ in 0..count {
            cluster.add_node().await;
        }
        cluster.group(0).initialize(cluster.member(0)).await.expect("founded");
        cluster.leader().await;
        cluster.make_all_voters().await;
        cluster
    }

    /// Has every node join the first one and vote.
    async fn make_all_voters(&self) {
        let first = self.group(0);
        for at in 1..self.nodes.len() {
            first.add_learner(self.member(at), PATIENCE).await.expect("added");
        }
        let voters: Vec<u64> = self.nodes.iter().map(|node| node.config.node_id).collect();
        self.promote(0, &voters).await;
    }

    /// Makes these members the voters, once the leader knows that the new ones have caught up.
    pub async fn promote(&self, asked: usize, voters: &[u64]) {
        let began = Instant::now();
        while let Err(error) = self.group(asked).change_voters(voters.to_vec(), PATIENCE).await {
            assert!(began.elapsed() < PATIENCE, "a new node does not catch up: {error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a node has heard, as the leader, that another one has all of its log.
    pub async fn has_all(&self, leader: usize, of: usize) {
        let id = self.nodes[of].config.node_id;
        let is_known = || {
            let status = self.group(leader).status();
            status.matched.get(&id).copied().flatten() == status.last_log_index
        };
        eventually("its last entry is acknowledged", is_known).await;
    }

    /// Makes and starts one more node, which belongs to nothing yet. Returns its place.
    pub async fn add_node(&mut self) -> usize {
        let at = self.nodes.len();
        let id = u8::try_from(at + 1).expect("few nodes");
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, self.net, id));
        let free = TcpListener::bind(SocketAddr::new(ip, 0)).and_then(|listener| listener.local_addr());
        let dir = self.dir.path().join(format!("node-{id}"));
        let mut config = GroupConfig::new(0xC1, 7, u64::from(id), dir.join("raft"), free.expect("a free port"));
        config.bind_source = Some(ip);
        config.tls = self.tls.map(|tls| tls(u64::from(id)));
        (self.adjust)(&mut config);
        self.nodes.push(Node { config, running: None });
        self.restart(at).await.expect("started");
        at
    }

    /// Starts a stopped node.
    pub async fn restart(&mut self, at: usize) -> Result<(), StartError> {
        let machine = Arc::new(Counters::open(&self.state_dir(at))?);
        let group = Group::start(self.nodes[at].config.clone(), machine.clone()).await?;
        self.nodes[at].running = Some(Running { group, machine });
        Ok(())
    }

    /// Where a node keeps its state.
    pub fn state_dir(&self, at: usize) -> PathBuf {
        self.node_dir(at).join("state")
    }

    /// All that a node keeps.
    pub fn node_dir(&self, at: usize) -> PathBuf {
        self.nodes[at].config.dir.parent().expect("below the node's directory").to_owned()
    }

    /// Ends a node without a farewell.
    pub async fn kill(&mut self, at: usize) {
        let Some(Running { group, machine }) = self.nodes[at].running.take() else { return };
        let state = Arc::downgrade(&machine.open);
        drop(machine);
        group.halt().await;
        assert!(group.closed(PATIENCE).await, "node {at} still holds its log");
        eventually("the state is closed", || state.strong_count() == 0).await;
    }

    /// A running node's part in the group.
    pub fn group(&self, at: usize) -> &Group {
        &self.running(at).group
    }

    /// A running node's state.
    pub fn machine(&self, at: usize) -> &Counters {
        &self.running(at).machine
    }

    fn running(&self, at: usize) -> &Running {
        self.nodes[at].running.as_ref().expect("running")
    }

    /// Places of the nodes that run.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].running.is_some()).collect()
    }

    /// How the membership records a node.
    pub fn member(&self, at: usize) -> Member {
        let config = &self.nodes[at].config;
        let zone = format!("zone-{at}");
        Member { node_id: config.node_id, raft_addr: config.listen.to_string(), zone, meta: Bytes::new() }
    }

    /// Waits for a leader that is ready; returns its place.
    pub async fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            let ready = |at: &usize| self.group(*at).watch_leader().borrow().is_self_ready;
            if let Some(leader) = self.alive().into_iter().find(ready) {
                return leader;
            }
            assert!(began.elapsed() < PATIENCE, "no leader: {:#?}", self.statuses());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A running node that doesn't lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.alive().into_iter().find(|at| *at != leader).expect("more than one node runs")
    }

    fn statuses(&self) -> Vec<crate::Status> {
        self.alive().into_iter().map(|at| self.group(at).status()).collect()
    }

    /// Waits until all running nodes have applied the same entries, and checks that it made the same of all.
    pub async fn converge(&self) -> (u64, u64) {
        let target = self.group(self.leader().await).linearize(PATIENCE).await.expect("a quorum");
        let mut chains = Vec::new();
        for at in self.alive() {
            let applied = self.group(at).wait_applied(target, PATIENCE).await;
            assert!(applied.is_ok(), "node {at} stays behind {target}: {:#?}", self.statuses());
            chains.push(self.machine(at).chain());
        }
        // an entry of a new leader may be applied on some only
        let began = Instant::now();
        while chains.windows(2).any(|pair| pair[0] != pair[1]) && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            chains = self.alive().into_iter().map(|at| self.machine(at).chain()).collect();
        }
        assert!(chains.windows(2).all(|pair| pair[0] == pair[1]), "nodes differ: {chains:?}");
        chains[0]
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
