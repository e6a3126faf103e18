//! `cluster prepare` and `cluster form`, as containers and scripts use them: TLS, and nothing but files and addresses.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::portolan;

const REGION: u8 = 29;
const PORT: u16 = 18400;
const ZONES: [&str; 3] = ["a", "b", "c"];

fn ip(n: usize) -> String {
    format!("127.{REGION}.{n}.1")
}

/// Nodes by hand, ended when dropped.
struct Nodes {
    dir: tempfile::TempDir,
    running: [Option<Child>; 3],
}

impl Nodes {
    fn prepare(&self) {
        let nodes: Vec<String> = (1..=3).map(|n| format!("--node={}={}", ZONES[n - 1], ip(n))).collect();
        let dir = self.dir.path().join("setup").display().to_string();
        let mut words = vec!["cluster", "prepare", "--dir", &dir];
        words.extend(nodes.iter().map(String::as_str));
        assert!(portolan(&words).status.success());
    }

    fn data(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("data-{n}"))
    }

    fn start(&mut self, n: usize) {
        let own = self.dir.path().join("setup/nodes").join(ZONES[n - 1]);
        let file = |name: &str| own.join(name).display().to_string();
        let door = |offset: u16| format!("{}:{}", ip(n), PORT + offset);
        let settings = [
            ("node.data_dir", self.data(n).display().to_string()),
            ("node.zone", ZONES[n - 1].to_owned()),
            ("node.bind_source", ip(n)),
            ("listen.public", door(0)),
            ("listen.raft", door(1)),
            ("listen.blob", door(2)),
            ("listen.admin", door(3)),
            ("cluster.ca", file("ca.pem")),
            ("cluster.cert", file("node.pem")),
            ("cluster.key", file("node.key")),
            ("tls.cert", file("tls.pem")),
            ("tls.key", file("tls.key")),
            ("auth.root_key_file", file("root-key")),
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(["server", "--stop-with-stdin"]);
        for (name, value) in settings {
            command.arg("--set").arg(format!("{name}={value}"));
        }
        let log = std::fs::File::create(self.dir.path().join(format!("log-{n}"))).unwrap();
        let child = command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.running[n - 1] = Some(child);
    }

    fn kill(&mut self, n: usize) {
        let mut child = self.running[n - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs a command as the operator that `prepare` made.
    fn operate(&self, words: &[&str]) -> (bool, String) {
        let setup = self.dir.path().join("setup");
        let file = |path: &str| setup.join(Path::new(path)).display().to_string();
        let (ca, cert, key) =
            (file("ca.pem"), file("operators/setup/operator.pem"), file("operators/setup/operator.key"));
        let output = portolan(&[&["cluster", "--ca", &ca, "--cert", &cert, "--key", &key], words].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    fn form(&self, wait: &str) -> (bool, String) {
        let urls: Vec<String> = (1..=3).map(|n| format!("--node=https://{}:{}", ip(n), PORT + 3)).collect();
        let mut words = vec!["form", "--wait", wait];
        words.extend(urls.iter().map(String::as_str));
        self.operate(&words)
    }

    /// What a node says of the cluster, once it says something.
    fn status(&self, n: usize) -> serde_json::Value {
        let admin = format!("https://{}:{}", ip(n), PORT + 3);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (done, text) = self.operate(&["status", "-o", "json", "--admin", &admin]);
            if done {
                return serde_json::from_str(&text).unwrap();
            }
            assert!(Instant::now() < until, "{text}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

// Founded when all are there and new; a second time there is nothing to do; a founder that lost its disk founds
// nothing, and does not come back under its old identity.
#[test]
fn a_cluster_is_formed_once() {
    let mut nodes = Nodes { dir: tempfile::tempdir().unwrap(), running: [const { None }; 3] };
    nodes.prepare();
    nodes.start(1);
    nodes.start(2);
    let (done, told) = nodes.form("2s");
    assert!(!done && told.contains("founded only when all its nodes say"), "{told}");
    nodes.start(3);
    let (done, told) = nodes.form("2m");
    assert!(done && told.contains("the cluster is founded; 3 nodes"), "{told}");
    nodes.prepare();
    let (done, told) = nodes.form("2m");
    assert!(done && told.contains("was there already; 3 nodes"), "{told}");

    let (before, founder) = (nodes.status(2), nodes.status(1)["node"].clone());
    nodes.kill(1);
    std::fs::remove_dir_all(nodes.data(1)).unwrap();
    nodes.start(1);
    let (done, told) = nodes.form("15s");
    assert!(!done, "an emptied node was taken back: {told}");
    let after = nodes.status(2);
    assert_eq!(after["cluster"]["id"], before["cluster"]["id"]);
    assert!(after["applied_index"].as_u64() >= before["applied_index"].as_u64(), "{before} {after}");
    assert_ne!(after["leader"], founder, "the emptied founder leads");
}
