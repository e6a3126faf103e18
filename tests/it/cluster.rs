//! `portolan cluster`, `health` and a node's end, against a real cluster.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::{Cluster, http, portolan};

/// Runs a command on node `n` as root: status, standard output, standard error.
fn run(cluster: &Cluster, n: u8, words: &[&str]) -> (i32, String, String) {
    let (admin, key) = (cluster.admin(n), cluster.key_file());
    let connection = ["--admin", &admin, "--credentials-file", key.to_str().unwrap()];
    let all: Vec<&str> = words.iter().copied().chain(connection).collect();
    let output = portolan(&all);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn status(cluster: &Cluster, n: u8) -> Value {
    let (code, out, told) = run(cluster, n, &["-o", "json", "cluster", "status"]);
    assert_eq!(code, 0, "{told}");
    serde_json::from_str(&out).unwrap()
}

/// The node that leads, from 1, as node `asked` knows; nodes are told apart by their addresses.
fn leader(cluster: &Cluster, asked: u8) -> Option<u8> {
    let status = status(cluster, asked);
    let nodes = status["nodes"].as_array().unwrap().clone();
    let leads = nodes.into_iter().find(|node| node["leads"] == true)?;
    let url = leads["public_url"].as_str().unwrap().to_owned();
    (1..=3).find(|n| url == cluster.node(*n))
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Reads a body slowly from a raw connection: what came of it, and whether it is whole.
fn read_slowly(cluster: &Cluster, n: u8, path: &str, began: &std::sync::mpsc::Sender<()>) -> Vec<u8> {
    let host = cluster.node(n).strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&host).unwrap();
    let credential = data_encoding::BASE64.encode(cluster.key().as_bytes());
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic {credential}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (mut all, mut part) = (Vec::new(), vec![0; 256 << 10]);
    let began_at = Instant::now();
    loop {
        let read = stream.read(&mut part).unwrap();
        if read == 0 {
            break;
        }
        if all.is_empty() {
            began.send(()).unwrap();
        }
        all.extend_from_slice(&part[..read]);
        // Slowly for two seconds, so that the node is told to end in the midst.
        if began_at.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let body = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    all.split_off(body)
}

// Status, a second founding, handing leadership on, health; then a node that leads is told to end: the
// transfer under way comes to its end, another node leads at once, the process is gone within ten seconds. Last, a
// node's directory is emptied: under its known id it is not taken in again.
#[test]
fn an_operators_day() {
    let cluster = Cluster::start(31);
    let nodes = status(&cluster, 2)["nodes"].as_array().unwrap().clone();
    assert_eq!(nodes.len(), 3);
    assert!(nodes.iter().all(|node| node["votes"] == true && node["state"] == "active"), "{nodes:?}");
    let zones: Vec<&str> = nodes.iter().map(|node| node["zone"].as_str().unwrap()).collect();
    assert_eq!(zones.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{zones:?}");
    let (_, table, _) = run(&cluster, 1, &["cluster", "status"]);
    assert!(table.contains("NODE") && table.contains("leader"), "{table}");

    for n in [1, 3] {
        let (code, _, told) = run(&cluster, n, &["cluster", "init"]);
        assert!(code == 1 && told.contains("already"), "{told}");
    }
    let (code, _, told) = run(&cluster, 1, &["cluster", "transfer", "not-a-node"]);
    assert!(code == 1 && told.contains("is no node id"), "{told}");

    let old = until("nobody leads", || leader(&cluster, 1));
    let new = old % 3 + 1;
    let id = |n: u8| {
        let own = nodes.iter().find(|node| node["public_url"] == cluster.node(n)).unwrap();
        own["id"].as_str().unwrap().to_owned()
    };
    let (code, out, told) = run(&cluster, old, &["cluster", "transfer", &id(new)]);
    assert_eq!(code, 0, "{told}");
    assert!(out.contains("leads"), "{out}");
    assert_eq!(until("nobody leads", || leader(&cluster, old)), new);
    for question in ["live", "started", "ready"] {
        let (code, out, told) = run(&cluster, new, &["health", question]);
        assert_eq!((code, out.trim()), (0, "ok"), "{told}");
    }

    ends_in_order(&cluster, new);
    wiped(&cluster, new % 3 + 1);
}

fn ends_in_order(cluster: &Cluster, n: u8) {
    let layer: Vec<u8> = (0..64u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 15) as u8).collect();
    let digest = Digest::sha256(&layer);
    let url = format!("{}/v2/it/drain/blobs/uploads/?digest={digest}", cluster.node(n));
    let pushed = http::request("POST", &url).key(&cluster.key()).body(layer).send();
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let path = format!("/v2/it/drain/blobs/{digest}");
    let other = n % 3 + 1;
    let (began, beginning) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_slowly(cluster, n, &path, &began));
        beginning.recv().unwrap();
        let told_at = Instant::now();
        cluster.signal(n, "-TERM");
        let next = until("nobody leads", || leader(cluster, other).filter(|leader| *leader != n));
        assert!(told_at.elapsed() < Duration::from_secs(2), "leadership is handed on at once, to {next}");
        assert_eq!(Digest::sha256(&reading.join().unwrap()), digest, "the transfer under way came to its end");
        until("the node does not end", || cluster.pid(n).is_none().then_some(()));
        assert!(told_at.elapsed() < Duration::from_secs(10), "it took {:?}", told_at.elapsed());
    });
    let log = std::fs::read_to_string(cluster.node_dir(n).join("node.log")).unwrap();
    assert!(log.contains("this node has stopped"), "{log}");
    cluster.start_node(n);
}

fn wiped(cluster: &Cluster, n: u8) {
    cluster.kill_node(n);
    std::fs::remove_dir_all(cluster.node_dir(n).join("data")).unwrap();
    cluster.spawn_node(n);
    let log = || std::fs::read_to_string(cluster.node_dir(n).join("node.log")).unwrap_or_default();
    let end = Instant::now() + Duration::from_secs(60);
    while !log().contains("this data directory was emptied") {
        let is_there = cluster.pid(n).is_some();
        let other = cluster.node_log(n % 3 + 1);
        let own = cluster.node_log(n);
        assert!(Instant::now() < end, "not told why it takes no part (running: {is_there}):\n{own}\n\n{other}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // It neither votes nor serves: its health says so, and the others go on without it.
    std::thread::sleep(Duration::from_secs(3));
    let ready = http::get(&format!("{}/readyz", cluster.admin(n)));
    let ready = ready.unwrap();
    assert!(ready.status == 503 && ready.text().contains("takes no part"), "{}", ready.text());
    // Nor can it found a second cluster under the first one's name, or join under its old id.
    for words in
        [vec!["cluster", "init"], vec!["cluster", "join", "--seed", &format!("{}:18401", cluster.ip(n % 3 + 1))]]
    {
        let (code, _, told) = run(cluster, n, &words);
        assert!(code == 1 && told.contains("was emptied or is an old copy"), "{words:?}: {told}");
    }
    let other = n % 3 + 1;
    until("nobody leads", || leader(cluster, other).filter(|leader| *leader != n));
    assert_eq!(http::get(&format!("{}/readyz", cluster.admin(other))).unwrap().status, 200);
}
