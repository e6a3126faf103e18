//! A cluster of real processes on this machine, each at an address of its own.
//!
//! `portolan dev` makes certificates, configurations and the first key, founds the cluster and is ended; from then on
//! each node is a child of this process, killed and started alone. Everything that was made is written to `run.json`,
//! and a supervisor undoes it when this process is gone, however it went. Start at [`Cluster::start`].

mod admin;
mod breaking;
pub(crate) mod bucket;
pub(crate) mod disks;
mod found;
mod made;
mod process;
mod record;
mod rejoin;
mod restore;
mod supervisor;
mod tools;
mod volume;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fault::{Fault, told};
pub(crate) use admin::{Admin, is_ready};
use bucket::Bucket;
use process::{Clock, Node};
pub(crate) use record::Record;
use supervisor::Supervisor;
pub(crate) use supervisor::supervise;
use volume::Volume;
pub(crate) use volume::no_volumes;

/// Names of the zones; nodes go to them in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// How long a node may take from its start to ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// How long a node may take to say who leads, when others are asked as well.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server's program.
    pub(crate) binary: PathBuf,
    /// That of an older release, which the nodes begin with; none: the same.
    pub(crate) from: Option<PathBuf>,
    /// How many nodes.
    pub(crate) nodes: u8,
    /// Second number of the addresses.
    pub(crate) region: u8,
    /// First of the four ports of each node.
    pub(crate) port: u16,
    /// `section.key=value` for every node.
    pub(crate) settings: Vec<String>,
    /// The run's directory.
    pub(crate) dir: PathBuf,
    /// Size of the volume that each node's data lies on, in MiB; none: on the disk of the machine.
    pub(crate) volume_mb: Option<u64>,
    /// Whether the nodes' clocks can be set.
    pub(crate) sets_clocks: bool,
    /// Whether blobs go to a bucket that the run brings along.
    pub(crate) has_bucket: bool,
}

/// Where a node is: what clients need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// `<zone>-<number in its zone>`.
    pub(crate) name: String,
    /// Where clients go.
    pub(crate) public: SocketAddr,
    /// Where operators go.
    pub(crate) admin: SocketAddr,
}

impl Plan {
    /// The program that the nodes begin with.
    pub(crate) fn founder(&self) -> &Path {
        self.from.as_deref().unwrap_or(&self.binary)
    }

    /// Where the nodes are, as `portolan dev` lays them out.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        let zones = u8::try_from(ZONES.len()).unwrap_or(u8::MAX).min(self.nodes);
        let seat = |index: u8| {
            let (zone, number) = (index % zones, index / zones + 1);
            let ip = IpAddr::V4(Ipv4Addr::new(127, self.region, zone + 1, number));
            Seat {
                name: format!("{}-{number}", ZONES[usize::from(zone)]),
                public: SocketAddr::new(ip, self.port),
                admin: SocketAddr::new(ip, self.port + 3),
            }
        };
        (0..self.nodes).map(seat).collect()
    }

    /// An address of the run that no node has: for the balancer.
    pub(crate) fn balancer(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, self.region, 250, 1)), self.port)
    }

    /// Where everything of the nodes lies.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the images of the volumes lie.
    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }
}

/// The running cluster. All its processes end when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    admin: Admin,
    plan: Plan,
    record: Record,
    /// A volume for each node, or why there are none.
    volumes: Result<Vec<Volume>, String>,
    /// Why clocks can't be set.
    no_clocks: Option<String>,
    /// Name of the run's chain, once it was made.
    chain: Option<String>,
    /// Where the blobs go, if they go to a bucket.
    _bucket: Option<Bucket>,
    _supervisor: Supervisor,
}

impl Cluster {
    /// Founds a cluster below the plan's directory and starts its nodes; back when all are ready.
    pub(crate) async fn start(plan: &Plan, mut record: Record) -> Result<Cluster, Fault> {
        if let Some(store) = plan.dir.parent() {
            supervisor::clean(store);
        }
        let supervisor = Supervisor::watch(record.path())?;
        let mut nodes: Vec<Node> = plan.seats().into_iter().map(|seat| Node::new(plan, seat)).collect();
        let volumes = make_volumes(plan, &nodes, &mut record)?;
        let no_clocks = set_up_clocks(plan, &mut nodes)?;
        let _bucket = plan.has_bucket.then(|| Bucket::start(plan)).transpose()?;
        found::found(plan, &mut record).await?;
        let key_file = plan.data().join("root-key");
        let key = std::fs::read_to_string(&key_file).map_err(told(&format!("{}", key_file.display())))?;
        let (plan, admin) = (plan.clone(), Admin::new(key.trim())?);
        let (chain, _supervisor) = (None, supervisor);
        let mut cluster = Cluster { plan, nodes, admin, record, volumes, no_clocks, chain, _bucket, _supervisor };
        for at in 0..cluster.nodes.len() {
            cluster.spawn(at)?;
        }
        for at in 0..cluster.nodes.len() {
            cluster.wait_ready(at).await?;
            cluster.learn_id(at).await?;
        }
        Ok(cluster)
    }

    /// Asks a node who it is.
    async fn learn_id(&mut self, at: usize) -> Result<(), Fault> {
        let seat = &self.nodes[at].seat;
        let standing = self.admin.standing(seat).await;
        self.nodes[at].id =
            standing.ok_or_else(|| Fault::new(format!("node {} does not tell its id", seat.name)))?.node;
        Ok(())
    }

    /// The run's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// Has another process of the run ended when this one is gone.
    pub(crate) fn watch_over(&mut self, what: &str, pid: u32) -> Result<(), Fault> {
        self.record.add(record::Started::of(what, pid)?)
    }

    /// Where the nodes are.
    pub(crate) fn seats(&self) -> Vec<Seat> {
        self.nodes.iter().map(|node| node.seat.clone()).collect()
    }

    /// Asks nodes how they stand.
    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Name of a node.
    pub(crate) fn name(&self, at: usize) -> &str {
        &self.nodes[at].seat.name
    }

    /// The nodes whose process runs.
    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_running()).collect()
    }

    fn spawn(&mut self, at: usize) -> Result<(), Fault> {
        let started = self.nodes[at].spawn()?;
        self.record.add(started)
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, at: usize) -> Result<(), Fault> {
        self.spawn(at)
    }

    /// The leader of the highest term that a majority of all nodes agrees on: also when others are cut off or paused.
    pub(crate) async fn majority_leader(&self) -> Option<(usize, u64)> {
        let asked = self.running().into_iter().map(|at| async move {
            tokio::time::timeout(LOOK_MAX, self.admin.standing(&self.nodes[at].seat)).await.ok()?
        });
        let standings: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        let term = standings.iter().map(|standing| standing.term).max()?;
        let said = standings.iter().filter(|standing| standing.term == term).filter_map(|s| s.leader.as_ref());
        let said: Vec<&String> = said.collect();
        let leader = said.first()?;
        let agree = said.iter().filter(|other| *other == leader).count();
        let at = self.nodes.iter().position(|node| node.id == **leader)?;
        (agree * 2 > self.nodes.len()).then_some((at, term))
    }

    /// Kills a node with SIGKILL; back when the process is gone.
    pub(crate) async fn kill_node(&mut self, at: usize) -> Result<(), Fault> {
        let pid = self.nodes[at].kill().await?;
        self.record.remove(pid)
    }

    /// Waits until a node says that it is ready; a node that ends meanwhile is a fault.
    pub(crate) async fn wait_ready(&mut self, at: usize) -> Result<Duration, Fault> {
        let began = Instant::now();
        loop {
            let node = &mut self.nodes[at];
            if let Some(how) = node.ended()? {
                return Err(Fault::of_product(format!(
                    "node {} ended ({how}); see {}",
                    node.seat.name,
                    node.log.display()
                )));
            }
            if self.admin.is_ready(&node.seat).await {
                return Ok(began.elapsed());
            }
            if began.elapsed() > READY_MAX {
                let (name, s) = (&node.seat.name, READY_MAX.as_secs());
                return Err(Fault::of_product(format!(
                    "node {name} is not ready after {s} s; see {}",
                    node.log.display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the running nodes know a leader among them, and agree on it; who leads in which term.
    pub(crate) async fn wait_leader(&self, patience: Duration) -> Result<(usize, u64), Fault> {
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Some(found) = self.leader().await {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let asked = self.running().into_iter().map(|at| self.admin.standing(&self.nodes[at].seat));
        let standings = futures_util::future::join_all(asked).await;
        Err(Fault::of_product(format!("no leader within {} s; the nodes say {standings:?}", patience.as_secs())))
    }

    /// Who leads in which term, if all running nodes say the same.
    pub(crate) async fn leader(&self) -> Option<(usize, u64)> {
        let asked = self.running().into_iter().map(|at| self.admin.standing(&self.nodes[at].seat));
        let standings = futures_util::future::join_all(asked).await;
        let mut said = standings.into_iter();
        let first = said.next()??;
        if !said.all(|other| other.is_some_and(|other| (&other.leader, other.term) == (&first.leader, first.term))) {
            return None;
        }
        let leader = first.leader?;
        let at = self.nodes.iter().position(|node| node.id == leader)?;
        self.nodes[at].is_running().then_some((at, first.term))
    }

    /// Waits until every node has applied the same log index.
    pub(crate) async fn wait_converged(&self, patience: Duration) -> Result<u64, Fault> {
        let began = Instant::now();
        loop {
            let asked = self.nodes.iter().map(|node| self.admin.standing(&node.seat));
            let standings: Vec<_> = futures_util::future::join_all(asked).await;
            let mut applied: Vec<_> = standings.iter().map(|found| found.as_ref().map(|found| found.applied)).collect();
            applied.dedup();
            if let [Some(applied)] = applied[..] {
                return Ok(applied);
            }
            if began.elapsed() > patience {
                let s = patience.as_secs();
                return Err(Fault::of_product(format!(
                    "the nodes have not applied the same after {s} s: {standings:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until no node knows of a copy that is missing, or the patience is over: what is missing then, the
    /// disks tell.
    pub(crate) async fn wait_repaired(&self, patience: Duration) {
        let began = Instant::now();
        while began.elapsed() < patience {
            let asked = self.nodes.iter().map(|node| self.admin.copies_wanted(&node.seat));
            let wanted: Vec<_> = futures_util::future::join_all(asked).await;
            if wanted.iter().all(|wanted| *wanted == Some(0)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Nodes that say that they take no part because they may have lost something.
    pub(crate) async fn suspects(&self) -> Vec<String> {
        let asked = self.nodes.iter().map(|node| self.admin.standing(&node.seat));
        let standings = futures_util::future::join_all(asked).await;
        let suspects =
            self.nodes.iter().zip(standings).filter(|(_, found)| found.as_ref().is_some_and(|s| s.is_suspect));
        suspects.map(|(node, _)| node.seat.name.clone()).collect()
    }

    /// Ends all nodes in order, as an operator would; their data directories, which can be read until this is dropped.
    pub(crate) async fn stop(&mut self) -> Result<Vec<PathBuf>, Fault> {
        let ended = futures_util::future::join_all(self.nodes.iter_mut().map(Node::stop)).await;
        for pid in ended {
            if let Some(pid) = pid? {
                self.record.remove(pid)?;
            }
        }
        Ok(self.nodes.iter().map(|node| node.data.clone()).collect())
    }
}

/// A volume for the data of each node, or why there are none.
fn make_volumes(plan: &Plan, nodes: &[Node], record: &mut Record) -> Result<Result<Vec<Volume>, String>, Fault> {
    let Some(megabytes) = plan.volume_mb else { return Ok(Err("the run was started without volumes".to_owned())) };
    if let Some(why) = no_volumes() {
        return Ok(Err(why));
    }
    let images = plan.images();
    std::fs::create_dir_all(&images).map_err(told(&images.to_string_lossy()))?;
    let make = |node: &Node| {
        let image = images.join(format!("{}.ext4", node.seat.name));
        Volume::make(&image, megabytes, &node.data, record)
    };
    nodes.iter().map(make).collect::<Result<_, _>>().map(Ok)
}

/// Gives each node a clock that can be set; why that can't be.
fn set_up_clocks(plan: &Plan, nodes: &mut [Node]) -> Result<Option<String>, Fault> {
    if !plan.sets_clocks {
        return Ok(Some("the run was started with right clocks".to_owned()));
    }
    if let Some(why) = process::no_clocks(&plan.binary) {
        return Ok(Some(why));
    }
    for node in nodes {
        node.clock = Some(Clock::new(plan.dir.join(format!("{}.clock", node.seat.name)))?);
    }
    Ok(None)
}

/// Lines of the nodes' logs that tell of a panic or an abort.
pub(crate) fn panics(plan: &Plan) -> Result<Vec<String>, Fault> {
    let mut found = Vec::new();
    for seat in plan.seats() {
        let path = process::log_file(&plan.dir, &seat.name);
        let text = std::fs::read(&path).map_err(told(&format!("{}", path.display())))?;
        let text = String::from_utf8_lossy(&text);
        let bad = text.lines().filter(|line| is_panic(line));
        found.extend(bad.map(|line| format!("{}: {line}", seat.name)));
    }
    Ok(found)
}

fn is_panic(line: &str) -> bool {
    ["panicked at", "stack backtrace", "has overflowed its stack", "fatal runtime error"]
        .iter()
        .any(|sign| line.contains(sign))
}

/// The program beside this one, as cargo builds both.
pub(crate) fn built_binary() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("jepsen"));
    own.parent().unwrap_or_else(|| Path::new(".")).join("portolan")
}

#[cfg(test)]
mod tests {
    use super::*;

    // The nodes are where `portolan dev` puts them, and the balancer is at none of their addresses.
    #[test]
    fn seats() {
        let plan = Plan {
            binary: "portolan".into(),
            from: None,
            nodes: 5,
            region: 9,
            port: 7000,
            settings: Vec::new(),
            dir: "/d".into(),
            volume_mb: None,
            sets_clocks: false,
            has_bucket: false,
        };
        let seats = plan.seats();
        let shown: Vec<String> = seats.iter().map(|seat| format!("{} {}", seat.name, seat.public)).collect();
        assert_eq!(
            shown,
            [
                "a-1 127.9.1.1:7000",
                "b-1 127.9.2.1:7000",
                "c-1 127.9.3.1:7000",
                "a-2 127.9.1.2:7000",
                "b-2 127.9.2.2:7000"
            ]
        );
        assert!(seats.iter().all(|seat| seat.public != plan.balancer() && seat.admin.port() == 7003));
    }

    // A panic in a log is seen; a line that speaks of something else is not.
    #[test]
    fn panic_lines() {
        assert!(is_panic("thread 'raft' panicked at src/lib.rs:1:2:"));
        assert!(!is_panic("INFO the node is ready"));
    }
}
