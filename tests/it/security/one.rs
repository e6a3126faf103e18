//! A single node of its own, for settings that other tests could not live with.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::repo::Repo;
use crate::support::http::{self, Answer};

const PORT: u16 = 18400;

/// A node on 127.`region`.1.1, ended when dropped, and when this process ends.
pub(crate) struct One {
    dev: Child,
    dir: tempfile::TempDir,
    region: u8,
}

impl One {
    /// Starts a node; settings as `section.key=value`, in which `DIR` stands for a directory that `prepare` may fill.
    pub(crate) fn start(region: u8, settings: &[&str], prepare: impl FnOnce(&Path)) -> One {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let log = std::fs::File::create(dir.path().join("dev.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["dev", "--nodes", "1", "--zones", "a", "--stop-with-stdin", "--dir"]).arg(dir.path().join("dev"));
        command.args(["--region", &region.to_string(), "--port", &PORT.to_string()]);
        for setting in settings {
            command.arg("--set").arg(setting.replace("DIR", dir.path().to_str().unwrap()));
        }
        let command = command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log);
        let one = One { dev: command.spawn().unwrap(), dir, region };
        let until = Instant::now() + Duration::from_secs(90);
        while !one.log().contains("The cluster is ready") {
            assert!(Instant::now() < until, "{}", one.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        one
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dev.log")).unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn node_dir(&self) -> PathBuf {
        self.dir.path().join("dev/nodes/a-1")
    }

    /// `address:port` of the public door.
    pub(crate) fn address(&self) -> String {
        format!("127.{}.1.1:{PORT}", self.region)
    }

    /// `http://address:port`
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("dev/root-key")).unwrap().trim().to_owned()
    }

    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo { base: self.base(), key: self.key(), name: name.to_owned() }
    }

    /// Asks the operators' door.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        http::request("GET", &format!("http://127.{}.1.1:{}{path}", self.region, PORT + 3)).key(&self.key()).settled()
    }

    /// A counter or gauge, summed over all label sets that hold a text.
    pub(crate) fn metric(&self, name: &str, holding: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(is_it).filter(|line| line.contains(holding));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// What the node's process holds in memory, in mebibytes.
    pub(crate) fn memory_mib(&self) -> u64 {
        resident_mib(&self.node_dir().join("portolan.toml"))
    }
}

/// The resident memory of the process that was started with a configuration, in mebibytes.
pub(crate) fn resident_mib(config: &Path) -> u64 {
    let config = config.to_str().unwrap();
    let found = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let path = entry.ok()?.path();
        let words = std::fs::read_to_string(path.join("cmdline")).ok()?;
        let is_it = words.split('\0').any(|word| word == config);
        let status = is_it.then(|| std::fs::read_to_string(path.join("status")).ok())??;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    found.unwrap_or_else(|| panic!("no process of {config}")) / 1024
}

impl Drop for One {
    fn drop(&mut self) {
        drop(self.dev.stdin.take());
        let until = Instant::now() + Duration::from_secs(40);
        while self.dev.try_wait().unwrap().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(self.dev.kill());
        drop(self.dev.wait());
    }
}
