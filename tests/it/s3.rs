//! A region on a shared bucket: three nodes, a real S3 server, and a proxy between them that breaks on demand.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::vocabulary::Digest;

use crate::support::http::{self, Answer};
use crate::support::{self, Cluster, image};

/// How long collection and repair may take on a busy machine, beside their grace times.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the bucket is out of reach.
const OUTAGE: Duration = Duration::from_secs(60);
const REGION: u8 = 181;

/// An S3 server with one bucket, and the proxy before it. Ends when it is dropped.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    proxy: String,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("images")).unwrap();
        std::fs::write(dir.path().join("secret"), "portolan-secret\n").unwrap();
        let (address, proxy) = (format!("127.{REGION}.250.1:19100"), format!("127.{REGION}.250.1:19101"));
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3/serve.sh"))
            .args([&address, dir.path().to_str().unwrap(), &proxy])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Server { child, dir, proxy }
    }

    fn settings(&self) -> Vec<String> {
        vec![
            "blobs.driver=s3".to_owned(),
            "s3.bucket=images".to_owned(),
            "s3.prefix=prod/".to_owned(),
            format!("s3.endpoint=http://{}", self.proxy),
            "s3.access_key=portolan".to_owned(),
            format!("s3.secret_key_file={}", self.dir.path().join("secret").display()),
            "gc.grace=1s".to_owned(),
            "gc.fuse_percent=100".to_owned(),
        ]
    }

    fn fault(&self, fault: &str) {
        let mut stream = TcpStream::connect(&self.proxy).unwrap();
        let length = fault.len();
        write!(stream, "POST /-/fault HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{fault}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// All files that the server keeps for the bucket: objects by their names, parts under names of the server's.
    fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut left) = (Vec::new(), vec![self.dir.path().join("images")]);
        while let Some(dir) = left.pop() {
            // the server removes directories that become empty
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for entry in entries.map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => left.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found
    }

    /// Digests of the objects, each read and hashed, and what is left of those that are going; whatever is no blob, its
    /// sums or the owner fails.
    fn blobs(&self) -> BTreeSet<String> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let files = self.files();
        let mut blobs = BTreeSet::new();
        for path in files.iter().filter(|path| name(path) != "owner") {
            let name = name(path);
            let whole = name.trim_end_matches(".sum");
            let (hex, generation) = whole.split_once('.').unwrap_or_else(|| panic!("{} is no blob", path.display()));
            assert!(hex.len() == 64 && !generation.is_empty(), "{} is no blob", path.display());
            if name.ends_with(".sum") {
                // they go after their blob
                if !path.with_file_name(whole).exists() {
                    blobs.insert(format!("sums of {hex}, which is gone"));
                }
            } else if let Ok(bytes) = std::fs::read(path) {
                assert_eq!(Digest::sha256(&bytes).hex(), hex);
                assert!(blobs.insert(format!("sha256:{hex}")), "{hex} lies there twice");
            }
        }
        blobs
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

fn content(seed: u32, len: usize) -> Vec<u8> {
    let word = |at: u32| at.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) ^ (at >> 3);
    (0..len.div_ceil(4) as u32).flat_map(|at| word(at).to_le_bytes()).take(len).collect()
}

fn pull(cluster: &Cluster, node: u8, digest: &Digest) -> Answer {
    let url = format!("{}/v2/s3/app/blobs/{digest}", cluster.node(node));
    http::request("GET", &url).key(&cluster.key()).send()
}

fn assert_pulled(cluster: &Cluster, node: u8, bytes: &[u8]) {
    let answer = pull(cluster, node, &Digest::sha256(bytes));
    assert_eq!(answer.status, 200, "node {node}: {}", answer.text());
    assert!(answer.body == bytes, "node {node} sent other bytes");
}

fn delete(cluster: &Cluster, tag: &str) {
    let url = |reference: &str| format!("{}/v2/s3/app/manifests/{reference}", cluster.node(1));
    let accept = |request: http::Request| request.key(&cluster.key()).header("Accept", image::MANIFEST);
    let found = accept(http::request("HEAD", &url(tag))).settled();
    let digest = found.header("Docker-Content-Digest").to_owned();
    let deleted = accept(http::request("DELETE", &url(&digest))).settled();
    assert_eq!(deleted.status, 202, "{}", deleted.text());
}

fn wait(what: &str, is_so: impl FnMut() -> bool) {
    support::wait(what, PATIENCE, is_so);
}

/// Where the session of an upload is after an answer.
fn location(cluster: &Cluster, node: u8, answer: &Answer) -> String {
    let location = answer.header("Location");
    if location.starts_with("http") { location.to_owned() } else { format!("{}{location}", cluster.node(node)) }
}

// What is pushed to one node is one object in the bucket, with the right bytes, and is pulled from every
// node, also when the one that was pushed to is dead; what nothing names goes from the bucket, and nothing else does.
#[test]
fn images_live_in_the_bucket() {
    let server = Server::start();
    let settings = server.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(REGION, &settings);
    let (base, large, gone) = (content(1, 50_000), content(2, 19_000_000), content(3, 3_000_000));
    image::push(&cluster, 1, "s3/app", "base", &base);
    image::push(&cluster, 1, "s3/app", "large", &large);
    image::push(&cluster, 2, "s3/app", "gone", &gone);
    let named = |layers: &[&[u8]]| -> BTreeSet<String> {
        layers.iter().chain([&b"{}".as_slice()]).map(|bytes| Digest::sha256(bytes).to_string()).collect()
    };
    assert_eq!(server.blobs(), named(&[&base, &large, &gone]));
    for node in 1..=3 {
        [&base, &large, &gone].into_iter().for_each(|bytes| assert_pulled(&cluster, node, bytes));
    }
    cluster.kill_node(1);
    for node in 2..=3 {
        assert_pulled(&cluster, node, &large);
    }
    outage(&server, &cluster);
    // a lost cache costs time only
    std::fs::remove_dir_all(cluster.node_dir(1).join("data/blobs")).unwrap();
    cluster.start_node(1);
    [&base, &large, &gone].into_iter().for_each(|bytes| assert_pulled(&cluster, 1, bytes));
    delete(&cluster, "gone");
    let left = content(10, 12_000_000);
    wait("what nothing names has gone", || server.blobs() == named(&[&base, &large, &left]));
    assert_pulled(&cluster, 1, &left);
    assert_eq!(pull(&cluster, 2, &Digest::sha256(&gone)).status, 404);
    for tag in ["base", "large", "outage"] {
        delete(&cluster, tag);
    }
    wait("nothing but the owner is left, no part either", || server.files().len() == 1);
}

/// Ends what goes on beside, also when an assertion fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While the bucket is out of reach, cached blobs are pulled from every live node, and what is pushed waits: after the
/// outage the same request succeeds, with no byte sent again.
fn outage(server: &Server, cluster: &Cluster) {
    let (key, layer) = (cluster.key(), content(10, 12_000_000));
    let cached = content(1, 50_000);
    let digest = Digest::sha256(&layer);
    server.fault(r#"{"kind":"outage"}"#);
    let began = std::time::Instant::now();
    let start = http::request("POST", &format!("{}/v2/s3/app/blobs/uploads/", cluster.node(2))).key(&key).settled();
    assert_eq!(start.status, 202, "{}", start.text());
    let chunk = http::request("PATCH", &location(cluster, 2, &start)).key(&key);
    let chunk = chunk.header("Content-Type", "application/octet-stream").body(layer.clone()).settled();
    assert_eq!(chunk.status, 202, "{}", chunk.text());
    let session = location(cluster, 2, &chunk);
    let mark = if session.contains('?') { '&' } else { '?' };
    let close = || http::request("PUT", &format!("{session}{mark}digest={digest}")).key(&key);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pulls = scope.spawn(|| {
            let mut pulls = 0;
            while !is_over.load(Ordering::Relaxed) {
                (2..=3).for_each(|node| assert_pulled(cluster, node, &cached));
                pulls += 1;
                std::thread::sleep(Duration::from_millis(200));
            }
            pulls
        });
        let ends = Ends(&is_over);
        while began.elapsed() < OUTAGE {
            let refused = close().send();
            assert_eq!(refused.status, 503, "{}", refused.text());
            assert!(!refused.header("Retry-After").is_empty());
            std::thread::sleep(Duration::from_millis(500));
        }
        server.fault(r#"{"kind":"none"}"#);
        let made = close().settled();
        assert_eq!(made.status, 201, "{}", made.text());
        drop(ends);
        assert!(pulls.join().unwrap() > 10);
    });
    assert_pulled(cluster, 3, &layer);
    image::put(cluster, 2, "s3/app", "outage", &image::manifest(&layer));
}
