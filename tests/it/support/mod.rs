//! Starts real nodes: `portolan dev` makes certificates and configurations and runs a process for each node.
//!
//! A test that destroys nothing uses [`Cluster::shared`]; one that kills, fills or damages starts its own, with a
//! region of its own. Start at [`Cluster`] for the nodes, at [`http`] for requests.

pub(crate) mod door;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod link;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A cluster on 127.`region`.x.x, of three nodes unless said otherwise, ended when dropped; if this process ends first,
/// the nodes do too.
pub(crate) struct Cluster {
    dev: Child,
    /// What was prepared in the directory; goes before it.
    _prepared: Option<Box<dyn Any + Send + Sync>>,
    dir: tempfile::TempDir,
    region: u8,
    nodes: u8,
    settings: Vec<String>,
    /// Nodes that were started again one by one.
    restarted: Mutex<Vec<Child>>,
}

/// First port of each node: public, raft, blob, admin, other regions.
const PORT: u16 = 18400;
/// The region of the shared cluster.
const SHARED: u8 = 20;
/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

impl Cluster {
    /// The cluster for tests that destroy nothing: started once, ended with this process.
    pub(crate) fn shared() -> &'static Cluster {
        static SHARED_CLUSTER: OnceLock<Cluster> = OnceLock::new();
        SHARED_CLUSTER.get_or_init(|| Cluster::start(SHARED))
    }

    /// Starts the nodes and waits until they are ready. `region` keeps clusters of one test run apart.
    pub(crate) fn start(region: u8) -> Cluster {
        Cluster::start_with(region, &[])
    }

    /// The same, with settings for every node, each as `section.key=value`.
    pub(crate) fn start_with(region: u8, settings: &[&str]) -> Cluster {
        Cluster::start_prepared(region, settings, |_| Ok(None)).expect("nothing is prepared")
    }

    /// The same, in a directory with `data/` directories of nodes that were prepared: `prepare` gets [`node_dir`] for
    /// each. What it returns is dropped when the nodes have ended, before the directory goes.
    pub(crate) fn start_prepared(
        region: u8,
        settings: &[&str],
        prepare: impl FnOnce(&[PathBuf]) -> Result<Option<Box<dyn Any + Send + Sync>>, String>,
    ) -> Result<Cluster, String> {
        Cluster::start_of(region, 3, settings, prepare)
    }

    /// The same with so many nodes, which go to three zones in turn: the fourth stands in the zone of the first.
    pub(crate) fn start_nodes(region: u8, nodes: u8, settings: &[&str]) -> Cluster {
        Cluster::start_of(region, nodes, settings, |_| Ok(None)).expect("nothing is prepared")
    }

    fn start_of(
        region: u8,
        nodes: u8,
        settings: &[&str],
        prepare: impl FnOnce(&[PathBuf]) -> Result<Option<Box<dyn Any + Send + Sync>>, String>,
    ) -> Result<Cluster, String> {
        claim(region);
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (1..=nodes).map(|n| node_dir(dir.path(), n)).collect();
        let prepared = prepare(&paths)?;
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let dev = spawn(dir.path(), region, nodes, &settings);
        let cluster = Cluster { dev, _prepared: prepared, dir, region, nodes, settings, restarted: Mutex::default() };
        cluster.wait_ready();
        Ok(cluster)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("dev.log")
    }

    fn wait_ready(&self) {
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(self.log()).unwrap_or_default().contains("The cluster is ready") {
            assert!(Instant::now() < until, "{}", std::fs::read_to_string(self.log()).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends all nodes by their parent, and starts them again on the same data.
    pub(crate) fn restart(&mut self) {
        self.stop();
        std::fs::remove_file(self.log()).unwrap();
        self.dev = spawn(self.dir.path(), self.region, self.nodes, &self.settings);
        self.wait_ready();
    }

    /// Ends all nodes in order; their data stays.
    pub(crate) fn stop(&mut self) {
        stop(&mut self.dev);
        for mut child in std::mem::take(&mut *self.restarted.lock().unwrap()) {
            stop(&mut child);
        }
    }

    /// Where `portolan dev` keeps everything: the authority in `certs/`, the nodes.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("dev")
    }

    /// The public address of node `n`, from 1.
    pub(crate) fn node(&self, n: u8) -> String {
        format!("http://{}:{PORT}", self.ip(n))
    }

    /// The admin address of node `n`.
    pub(crate) fn admin(&self, n: u8) -> String {
        format!("http://{}:{}", self.ip(n), PORT + 3)
    }

    /// The first of the five ports of each node: public, raft, blob, admin, other regions.
    pub(crate) fn port(&self) -> u16 {
        PORT
    }

    /// Where consensus of node `n` listens.
    pub(crate) fn raft_address(&self, n: u8) -> String {
        format!("{}:{}", self.ip(n), PORT + 1)
    }

    /// The address node `n` listens on.
    pub(crate) fn ip(&self, n: u8) -> String {
        format!("127.{}.{}.{}", self.region, (n - 1) % 3 + 1, (n - 1) / 3 + 1)
    }

    /// Directory of node `n`: `portolan.toml`, `node.log`, `certs/`, `data/`.
    pub(crate) fn node_dir(&self, n: u8) -> PathBuf {
        node_dir(self.dir.path(), n)
    }

    /// The end of node `n`'s log, for messages of failed tests.
    pub(crate) fn node_log(&self, n: u8) -> String {
        let text = std::fs::read_to_string(self.node_dir(n).join("node.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Who leads, as some node knows.
    pub(crate) fn leader(&self) -> Option<u8> {
        (1..=self.nodes).find_map(|n| {
            let asked = http::request("GET", &format!("{}/v1/cluster", self.admin(n))).key(&self.key());
            let status = asked.try_send().ok().filter(|answer| answer.status == 200)?.json();
            let leads = status["nodes"].as_array()?.iter().find(|node| node["leads"] == true)?.clone();
            let address = leads["raft_address"].as_str()?;
            (1..=self.nodes).find(|n| address.starts_with(&format!("{}:", self.ip(*n))))
        })
    }

    /// `ID:SECRET` of the root user.
    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dev/root-key")).unwrap().trim().to_owned()
    }

    /// File that holds [`Cluster::key`].
    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.path().join("dev/root-key")
    }

    /// The process of node `n`: the one that was started with its configuration.
    pub(crate) fn pid(&self, n: u8) -> Option<u32> {
        let config = self.node_dir(n).join("portolan.toml").display().to_string();
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            words.split('\0').any(|word| word == config).then_some(pid)
        });
        let pids: Vec<u32> = pids.collect();
        assert!(pids.len() <= 1, "node {n} is one process: {pids:?}");
        pids.first().copied()
    }

    /// Sends a signal (`-9`, `-STOP`, `-CONT`, `-TERM`) to node `n`.
    pub(crate) fn signal(&self, n: u8, signal: &str) {
        let pid = self.pid(n).unwrap_or_else(|| panic!("node {n} does not run")).to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Kills node `n` with SIGKILL, and waits until its process is gone.
    pub(crate) fn kill_node(&self, n: u8) {
        self.signal(n, "-9");
        let until = Instant::now() + Duration::from_secs(10);
        while self.pid(n).is_some() {
            // one that was started again is a child of ours and stays until it is waited for
            self.restarted.lock().unwrap().retain_mut(|child| child.try_wait().unwrap().is_none());
            assert!(Instant::now() < until, "node {n} does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        // a killed process gives its sockets back a little after it has stopped to look like one
        let is_free = |port: u16| std::net::TcpListener::bind((self.ip(n).as_str(), port)).is_ok();
        while !(PORT..PORT + 5).all(is_free) {
            assert!(Instant::now() < until, "node {n} keeps its ports");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts node `n` again on its data, and waits until it is ready.
    pub(crate) fn start_node(&self, n: u8) {
        self.spawn_node(n);
        self.wait_node_ready(n);
    }

    /// Starts node `n` again without waiting.
    pub(crate) fn spawn_node(&self, n: u8) {
        self.spawn_node_with(n, &[]);
    }

    /// The same, with settings of its own, each as `section.key=value`.
    pub(crate) fn spawn_node_with(&self, n: u8, settings: &[String]) {
        let words: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
        self.spawn_node_by(n, &words);
    }

    /// The same, with more words on its command line.
    pub(crate) fn spawn_node_by(&self, n: u8, words: &[&str]) {
        self.spawn(n, words, &[]);
    }

    /// Starts node `n` again without waiting, with variables of its own in its environment.
    pub(crate) fn spawn_node_in(&self, n: u8, environment: &[(&str, &str)]) {
        self.spawn(n, &[], environment);
    }

    fn spawn(&self, n: u8, words: &[&str], environment: &[(&str, &str)]) {
        assert_eq!(self.pid(n), None, "node {n} runs");
        let log =
            std::fs::OpenOptions::new().append(true).create(true).open(self.node_dir(n).join("node.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.arg("server").arg("--config").arg(self.node_dir(n).join("portolan.toml")).arg("--stop-with-stdin");
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        let command = command
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.restarted.lock().unwrap().push(command.spawn().unwrap());
    }

    /// Waits until node `n` says that it is ready.
    pub(crate) fn wait_node_ready(&self, n: u8) {
        let until = Instant::now() + PATIENCE;
        while http::get(&format!("{}/readyz", self.admin(n))).map_or(0, |answer| answer.status) != 200 {
            let is_there = self.pid(n).is_some();
            let log = || self.node_log(n);
            assert!(Instant::now() < until, "node {n} (running: {is_there}) does not become ready:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Two tests with one region would meet at its addresses when they happen to run at the same time.
fn claim(region: u8) {
    static CLAIMED: Mutex<BTreeSet<u8>> = Mutex::new(BTreeSet::new());
    let is_new = CLAIMED.lock().unwrap().insert(region);
    assert!(is_new, "another test has taken region {region}: choose one that no test has");
}

fn node_dir(dir: &Path, n: u8) -> PathBuf {
    dir.join("dev/nodes").join(format!("{}-{}", char::from(b'a' + (n - 1) % 3), (n - 1) / 3 + 1))
}

/// This machine's wall clock, milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Looks again and again until something is so.
pub(crate) fn wait(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Says on the terminal, past the capture of test output, that something was not tested, and why. With
/// `PORTOLAN_TEST_EVERYTHING` set that is a failure.
pub(crate) fn not_tested(what: &str) {
    use std::io::Write as _;
    assert!(std::env::var_os("PORTOLAN_TEST_EVERYTHING").is_none(), "not tested: {what}");
    let said = format!("NOT TESTED: {what}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

fn spawn(dir: &Path, region: u8, nodes: u8, settings: &[String]) -> Child {
    let log = std::fs::File::create(dir.join("dev.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(["dev", "--dir", dir.join("dev").to_str().unwrap(), "--region", &region.to_string()]);
    command.args(["--nodes", &nodes.to_string(), "--port", &PORT.to_string(), "--stop-with-stdin"]);
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn stop(child: &mut Child) {
    drop(child.stdin.take());
    let until = Instant::now() + Duration::from_secs(40);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        if !std::thread::panicking() {
            self.logged_no_secret();
        }
    }
}

impl Cluster {
    // T10: whatever a test did with the root key, no node has written it down.
    fn logged_no_secret(&self) {
        let key = self.key();
        let sent = data_encoding::BASE64.encode(key.as_bytes());
        let Ok(nodes) = std::fs::read_dir(self.dir.path().join("dev/nodes")) else { return };
        for path in nodes.map(|node| node.unwrap().path().join("node.log")) {
            // a test may have taken a node's directory away
            let Ok(log) = std::fs::read(&path) else { continue };
            let log = String::from_utf8_lossy(&log);
            for secret in [key.split_once(':').unwrap().1, &sent] {
                let line = log.lines().find(|line| line.contains(secret));
                assert_eq!(line, None, "{} holds a secret", path.display());
            }
        }
    }
}

/// Runs the binary with arguments: its output.
pub(crate) fn portolan(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portolan")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The same: its exit status, and all it said.
pub(crate) fn run(words: &[&str]) -> (i32, String) {
    let output = portolan(words);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}
