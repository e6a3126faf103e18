//! Starts real nodes: `portolan dev` makes certificates and configurations and runs a process for each node.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A three-node cluster on 127.`region`.x.1, ended when dropped.
pub(crate) struct Cluster {
    dev: Child,
    dir: tempfile::TempDir,
    region: u8,
}

/// First port of each node.
const PORT: u16 = 18400;

impl Cluster {
    /// Starts the nodes and waits until they are ready. `region` keeps clusters of one test run apart.
    pub(crate) fn start(region: u8) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let dev = spawn(dir.path(), region);
        let cluster = Cluster { dev, dir, region };
        cluster.wait_ready();
        cluster
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("dev.log")
    }

    fn wait_ready(&self) {
        let until = Instant::now() + Duration::from_secs(90);
        while !std::fs::read_to_string(self.log()).unwrap_or_default().contains("The cluster is ready") {
            assert!(Instant::now() < until, "{}", std::fs::read_to_string(self.log()).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends all nodes by their parent, and starts them again on the same data.
    pub(crate) fn restart(&mut self) {
        stop(&mut self.dev);
        std::fs::remove_file(self.log()).unwrap();
        self.dev = spawn(self.dir.path(), self.region);
        self.wait_ready();
    }

    /// The public address of node `n`, from 1.
    pub(crate) fn node(&self, n: u8) -> String {
        format!("http://127.{}.{n}.1:{PORT}", self.region)
    }

    /// `ID:SECRET` of the root user.
    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dev/root-key")).unwrap().trim().to_owned()
    }

    /// Kills node `n` by its pid with SIGKILL; finds it by the address it was told to listen on.
    pub(crate) fn kill_node(&self, n: u8) {
        let config = self.dir.path().join("dev");
        let mark = format!("127.{}.{n}.1:{}", self.region, PORT + 1);
        let pid = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let listens = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            let is_ours = listens.contains(config.to_str()?) && listens.contains("server");
            let file = listens.split('\0').find(|word| word.ends_with(".toml"))?.to_owned();
            (is_ours && std::fs::read_to_string(file).ok()?.contains(&mark)).then_some(pid)
        });
        let pids: Vec<u32> = pid.collect();
        assert_eq!(pids.len(), 1, "node {n} is one process: {pids:?}");
        assert!(Command::new("kill").args(["-9", &pids[0].to_string()]).status().unwrap().success());
    }
}

fn spawn(dir: &Path, region: u8) -> Child {
    let log = std::fs::File::create(dir.join("dev.log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["dev", "--dir", dir.join("dev").to_str().unwrap(), "--region", &region.to_string()])
        .args(["--port", &PORT.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn stop(dev: &mut Child) {
    Command::new("kill").args(["-INT", &dev.id().to_string()]).status().unwrap();
    let until = Instant::now() + Duration::from_secs(40);
    while dev.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            dev.kill().unwrap();
            dev.wait().unwrap();
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        stop(&mut self.dev);
    }
}

/// Sends a request with curl: the status, and the body.
pub(crate) fn curl(key: &str, args: &[&str]) -> (u16, Vec<u8>) {
    let Output { stdout, .. } =
        Command::new("curl").args(["-s", "-m", "20", "-u", key, "-w", "%{http_code}"]).args(args).output().unwrap();
    let (body, status) = stdout.split_at(stdout.len().saturating_sub(3));
    (std::str::from_utf8(status).unwrap().parse().unwrap_or(0), body.to_vec())
}
