//! Garbage collection on real nodes: what nothing names goes from every disk, what something names never does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::support::http::{self, Answer};
use crate::support::image::large;
use crate::support::{self, Cluster, portolan};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const BYTES: &str = "application/octet-stream";
/// How long collection may take on a busy machine, beside its grace times.
const PATIENCE: Duration = Duration::from_secs(90);

/// Content that lies in a pack.
fn small(number: u32) -> Vec<u8> {
    large(number + 1_000_000)[..20_000].to_vec()
}

/// A repository behind one node.
struct Repository<'a> {
    cluster: &'a Cluster,
    node: u8,
    name: &'a str,
}

impl Repository<'_> {
    fn at(&self, node: u8) -> Repository<'_> {
        Repository { node, ..*self }
    }

    fn request(&self, method: &str, rest: &str) -> http::Request {
        let url = format!("{}/v2/{}/{rest}", self.cluster.node(self.node), self.name);
        http::request(method, &url).key(&self.cluster.key())
    }

    /// Pushes a blob as a client does that did not ask whether it is there.
    fn blob(&self, bytes: &[u8]) -> Result<Value, Answer> {
        let digest = Digest::sha256(bytes);
        let answer = self.request("POST", &format!("blobs/uploads/?digest={digest}")).body(bytes).settled();
        if answer.status != 201 {
            return Err(answer);
        }
        Ok(json!({ "mediaType": BYTES, "digest": digest.to_string(), "size": bytes.len() }))
    }

    fn put(&self, tag: &str, layers: &[Value], config: &Value) -> (Answer, Digest) {
        let body = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers }).to_string();
        let digest = Digest::sha256(body.as_bytes());
        let put = self.request("PUT", &format!("manifests/{tag}")).header("Content-Type", IMAGE);
        (put.body(body).settled(), digest)
    }

    /// Pushes an image with its blobs.
    fn push(&self, tag: &str, layers: &[&[u8]]) -> Digest {
        let described: Vec<Value> = layers.iter().map(|bytes| self.blob(bytes).unwrap()).collect();
        let config = self.blob(tag.as_bytes()).unwrap();
        let (answer, digest) = self.put(tag, &described, &config);
        assert_eq!(answer.status, 201, "{}", answer.text());
        digest
    }

    fn delete(&self, digest: &Digest) {
        let answer = self.request("DELETE", &format!("manifests/{digest}")).settled();
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

fn admin(cluster: &Cluster, node: u8, method: &str, path: &str, body: &Value) -> Answer {
    let request = http::request(method, &format!("{}{path}", cluster.admin(node))).key(&cluster.key());
    request.header("Content-Type", "application/json").body(body.to_string()).settled()
}

fn status(cluster: &Cluster, node: u8) -> Value {
    admin(cluster, node, "GET", "/v1/gc", &Value::Null).json()
}

fn wait(what: &str, is_so: impl FnMut() -> bool) {
    support::wait(what, PATIENCE, is_so);
}

fn data(cluster: &Cluster, node: u8) -> PathBuf {
    cluster.node_dir(node).join("data")
}

/// Blob files on a node's disk, without their sums, with the bytes of each.
fn files(data: &Path) -> Vec<(String, u64)> {
    let shards = std::fs::read_dir(data.join("blobs/blobs")).unwrap();
    let names = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    names
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = entry.metadata().ok()?.len();
            (!name.ends_with(".sum")).then_some((name, bytes))
        })
        .collect()
}

fn digests(data: &Path) -> BTreeSet<String> {
    files(data).into_iter().map(|(name, _)| name.split('.').next().unwrap().to_owned()).collect()
}

fn pack_bytes(data: &Path) -> u64 {
    let segments = std::fs::read_dir(data.join("blobs/pack")).unwrap();
    // one that goes in this moment counts no more
    segments.map(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.len())).sum()
}

/// The offline check of all nodes, which must find nothing wrong.
fn check(cluster: &Cluster) -> Value {
    let directories: Vec<String> = (1..=3).map(|node| data(cluster, node).display().to_string()).collect();
    let arguments = ["-o", "json", "check"].into_iter().chain(directories.iter().map(String::as_str));
    let output = portolan(&arguments.collect::<Vec<_>>());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["good"]), (Some(0), &true.into()), "{report:#}");
    report
}

// G8 and the way of a delete: what no image names any more goes from the disks of all nodes, also of one that was
// down meanwhile and of packs, and so does what was pushed twice; what an image names stays, also what was deleted
// and pushed again at once. In the end there is on disk what the state names, to the byte.
#[test]
fn g08_disks_hold_what_the_state_names() {
    let mut cluster = Cluster::start_with(70, &["gc.grace=1s", "gc.fuse_percent=100"]);
    let repository = Repository { cluster: &cluster, node: 1, name: "gc/app" };
    let other = Repository { cluster: &cluster, node: 2, name: "gc/other" };
    let (base, gone, kept) = (large(1), large(2), large(3));
    repository.push("kept", &[&base, &kept]);
    let small: Vec<Vec<u8>> = (0..20).map(small).collect();
    let layers: Vec<&[u8]> = small.iter().map(Vec::as_slice).chain([&base[..], &gone[..]]).collect();
    let first = repository.at(2).push("gone", &layers);
    // the same bytes by another way: their second copy is garbage at once
    other.push("copy", &[&gone]);
    let names = |parts: &[&[u8]]| parts.iter().map(|bytes| Digest::sha256(bytes).hex()).collect::<BTreeSet<_>>();
    let all = names(&[&base, &gone, &kept]);
    wait("every node has all three", || (1..=3).all(|node| digests(&data(&cluster, node)) == all));
    wait("the second copies go", || (1..=3).all(|node| files(&data(&cluster, node)).len() == 3));
    let packed = pack_bytes(&data(&cluster, 1));

    cluster.kill_node(3);
    repository.delete(&first);
    let copy = other.request("GET", "manifests/copy").settled();
    other.delete(&Digest::sha256(&copy.body));
    let left = names(&[&base, &kept]);
    wait("the living nodes delete it", || (1..=2).all(|node| digests(&data(&cluster, node)) == left));
    assert_eq!(digests(&data(&cluster, 3)), all, "node 3 is down");
    cluster.start_node(3);
    wait("so does the one that was down", || digests(&data(&cluster, 3)) == left);
    wait("packs give their space back", || (1..=3).all(|node| pack_bytes(&data(&cluster, node)) < packed / 4));

    // deleted and pushed again at once, over and over: another generation each time or the same one revived
    for round in 0..6u32 {
        let again = repository.at((round % 3 + 1) as u8).push("again", &[&gone, &base]);
        std::thread::sleep(Duration::from_millis(u64::from(round) * 700));
        repository.delete(&again);
    }
    repository.push("again", &[&gone, &base]);
    std::thread::sleep(Duration::from_secs(4));
    for node in 1..=3 {
        let pulled = repository.at(node).request("GET", &format!("blobs/{}", Digest::sha256(&gone))).settled();
        assert!(pulled.status == 200 && pulled.body == gone, "node {node}: {}", pulled.status);
    }
    wait("one file for each blob", || (1..=3).all(|node| files(&data(&cluster, node)).len() == 3));
    wait("no segment is mostly dead", || {
        (1..=3).all(|node| {
            status(&cluster, node)["node"]["files_waiting"] == 0 && pack_bytes(&data(&cluster, node)) < 4096
        })
    });
    cluster.stop();
    let report = check(&cluster);
    for (directory, node) in report["directories"].as_array().unwrap().iter().zip(1..) {
        assert_eq!(directory["surplus"]["files"], 0, "{directory:#}");
        let on_disk: u64 = files(&data(&cluster, node)).iter().map(|(_, bytes)| bytes).sum();
        let packed: u64 = b"kept".len() as u64 + b"again".len() as u64;
        assert_eq!(directory["copies"]["bytes"], on_disk + packed, "{directory:#}");
    }
    assert_eq!(report["blobs"]["unused"], 0, "{report:#}");
}

/// What clients of a busy registry do: push images that share layers, pull them whole, delete them again.
struct Busy<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    pushed: AtomicU64,
    pushed_again: AtomicU64,
}

impl Busy<'_> {
    /// Pushes one image of shared layers. A client that is told that a blob is unknown pushes that again.
    fn push(&self, repository: &Repository<'_>, tag: &str, layers: &[Vec<u8>]) -> Option<Digest> {
        for attempt in 0..20 {
            let mut described = Vec::new();
            for bytes in layers {
                // as clients do: those that are there are not sent again
                let digest = Digest::sha256(bytes);
                let head = repository.request("HEAD", &format!("blobs/{digest}")).settled();
                match head.status {
                    200 => {
                        described.push(json!({ "mediaType": BYTES, "digest": digest.to_string(), "size": bytes.len() }))
                    }
                    404 => described.push(repository.blob(bytes).ok()?),
                    _ => return None,
                }
            }
            let config = repository.blob(tag.as_bytes()).ok()?;
            let (answer, digest) = repository.put(tag, &described, &config);
            match answer.status {
                201 => {
                    self.pushed.fetch_add(1, Ordering::Relaxed);
                    return Some(digest);
                }
                400 => {
                    assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN", "{}", answer.text());
                    self.pushed_again.fetch_add(1, Ordering::Relaxed);
                }
                503 => return None,
                other => panic!("attempt {attempt}: {other} {}", answer.text()),
            }
        }
        panic!("twenty pushes of one image, and always a blob had gone");
    }

    /// An image is whole on a node, unless it was deleted.
    fn pulls(&self, repository: &Repository<'_>, digest: &Digest, layers: &[Vec<u8>]) {
        let manifest = repository.request("GET", &format!("manifests/{digest}")).settled();
        assert_eq!(manifest.status, 200, "{digest}: {}", manifest.text());
        for bytes in layers {
            let wanted = Digest::sha256(bytes);
            let blob = repository.request("GET", &format!("blobs/{wanted}")).settled();
            assert_eq!(blob.status, 200, "{digest} is acknowledged, but {wanted} is not there: {}", blob.text());
            assert!(blob.body == *bytes, "{wanted} has other bytes");
        }
    }

    fn client(&self, number: u32, names: &[&str; 2]) -> Vec<(String, Digest, Vec<Vec<u8>>)> {
        let mut kept = Vec::new();
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            round += 1;
            let name = names[(round % 2) as usize];
            let repository = Repository { cluster: self.cluster, node: (number % 3 + 1) as u8, name };
            // layers of a small pool, so that what one client deletes another one pushes
            let layers: Vec<Vec<u8>> = (0..3).map(|at| large(100 + (number * 5 + round * 3 + at * 2) % 9)).collect();
            let tag = format!("c{number}-r{round}");
            let Some(digest) = self.push(&repository, &tag, &layers) else { continue };
            self.pulls(&repository.at((round % 3 + 1) as u8), &digest, &layers);
            if round % 4 == 0 {
                kept.push((name.to_owned(), digest, layers));
            } else {
                // a repeat of one whose answer got lost finds nothing
                let deleted = repository.request("DELETE", &format!("manifests/{digest}")).settled();
                assert!(matches!(deleted.status, 202 | 404), "{}", deleted.text());
            }
        }
        kept
    }
}

// G1, G2, G6: clients push, pull and delete images that share layers while collection runs as fast as it can and
// with the shortest grace, and its leader stands still in the midst of it: every acknowledged image is whole, then
// and in the end; what nobody names is gone in the end.
#[test]
fn g01_g02_pushes_race_with_collection() {
    let mut cluster = Cluster::start_with(71, &["gc.grace=0s", "gc.fuse_percent=100"]);
    let (pushed_again, kept) = {
        let (stop, count) = (AtomicBool::new(false), || AtomicU64::new(0));
        let busy = Busy { cluster: &cluster, stop, pushed: count(), pushed_again: count() };
        let kept: Vec<_> = std::thread::scope(|scope| {
            let busy = &busy;
            let clients: Vec<_> = (0..4).map(|n| scope.spawn(move || busy.client(n, &["gc/one", "gc/two"]))).collect();
            std::thread::sleep(Duration::from_secs(12));
            let leader = cluster.leader().expect("somebody leads");
            cluster.signal(leader, "-STOP");
            std::thread::sleep(Duration::from_secs(4));
            cluster.signal(leader, "-CONT");
            std::thread::sleep(Duration::from_secs(12));
            busy.stop.store(true, Ordering::Relaxed);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(busy.pushed.load(Ordering::Relaxed) > 20, "so few pushes prove nothing");
        for (name, digest, layers) in &kept {
            for node in 1..=3 {
                busy.pulls(&Repository { cluster: &cluster, node, name }, digest, layers);
            }
        }
        (busy.pushed_again.load(Ordering::Relaxed), kept)
    };
    let swept = || status(&cluster, 1)["node"]["freed_files"].as_u64().unwrap();
    assert!(swept() > 0, "nothing was collected meanwhile ({pushed_again} images were pushed again)");
    let named: BTreeSet<String> =
        kept.iter().flat_map(|(_, _, layers)| layers).map(|bytes| Digest::sha256(bytes).hex()).collect();
    wait("what nobody names goes", || (1..=3).all(|node| digests(&data(&cluster, node)) == named));
    wait("and one file is left of each", || (1..=3).all(|node| files(&data(&cluster, node)).len() == named.len()));
    cluster.stop();
    assert_eq!(check(&cluster)["images"]["broken"], 0);
}

fn cli(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let (admin, key) = (cluster.admin(2), cluster.key_file().display().to_string());
    let (group, rest) = arguments.split_first().unwrap();
    let words = [&[*group, "--admin", &admin, "--credentials-file", &key], rest].concat();
    let output = portolan(&words);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

// The fuse: a cycle that would condemn too much stops and asks, on whatever node; what was said holds for one cycle.
// Paused, nothing is collected. Who uses a blob, and what becomes of it, is told by any node.
#[test]
fn the_fuse_holds_until_somebody_says_so() {
    let cluster = Cluster::start_with(72, &["gc.grace=1s", "gc.fuse_floor=1B"]);
    let repository = Repository { cluster: &cluster, node: 1, name: "gc/fuse" };
    let (one, two) = (large(50), large(51));
    let first = repository.push("one", &[&one]);
    repository.push("two", &[&two]);
    let digest = Digest::sha256(&one).to_string();
    let (good, told) = cli(&cluster, &["why", &digest]);
    assert!(good && told.contains("gc/fuse") && told.contains("one") && told.contains("it stays"), "{told}");
    let (good, told) = cli(&cluster, &["gc", "explain", &digest]);
    assert!(good && told.contains("present") && told.contains("it stays"), "{told}");
    repository.delete(&first);
    let (good, told) = cli(&cluster, &["why", &digest]);
    assert!(good && told.contains("linked only") && told.contains("no manifest names it"), "{told}");

    wait("the cycle stops and asks", || status(&cluster, 3)["held"] == true);
    std::thread::sleep(Duration::from_secs(3));
    let held = status(&cluster, 1);
    assert_eq!((&held["held"], &held["last"]["condemned"]), (&true.into(), &0.into()), "{held:#}");
    assert!(held["last"]["unused_bytes"].as_u64().unwrap() >= one.len() as u64, "{held:#}");
    let (good, told) = cli(&cluster, &["gc", "explain", &digest]);
    assert!(good && told.contains("the next cycle condemns it"), "{told}");
    let (good, told) = cli(&cluster, &["gc", "status"]);
    assert!(good && told.contains("--allow-fraction"), "{told}");
    assert!((1..=3).all(|node| digests(&data(&cluster, node)).contains(&Digest::sha256(&one).hex())));

    assert!(cli(&cluster, &["gc", "pause"]).0);
    let (good, told) = cli(&cluster, &["gc", "run", "--allow-fraction", "1"]);
    assert!(!good && told.contains("gc resume"), "{told}");
    assert!(!cli(&cluster, &["gc", "run", "--allow-fraction", "7"]).0);
    assert!(cli(&cluster, &["gc", "resume"]).0);
    assert!(cli(&cluster, &["gc", "run", "--allow-fraction", "0.9"]).0);
    wait("it goes", || (1..=3).all(|node| !digests(&data(&cluster, node)).contains(&Digest::sha256(&one).hex())));
    wait("nothing is held any more", || status(&cluster, 2)["held"] == false);
    let (good, told) = cli(&cluster, &["why", &digest]);
    assert!(!good && told.contains("unknown"), "{told}");
    let pulled = repository.request("GET", &format!("blobs/{}", Digest::sha256(&two))).settled();
    assert_eq!(pulled.status, 200);
}

// G3, G4: untagged images go by age, with their signatures after them; what an index or a tag still reaches stays, and
// so does what is attached to it.
#[test]
fn g03_g04_untagged_images_go_by_age() {
    let settings = ["gc.grace=1s", "gc.fuse_percent=100", "gc.untagged=2s", "gc.orphaned=2s"];
    let cluster = Cluster::start_with(73, &settings);
    let repository = Repository { cluster: &cluster, node: 1, name: "gc/untagged" };
    let (old, child, new) = (large(60), large(61), large(62));
    let old_image = repository.push("v1", &[&old]);
    let child_image = repository.push("part", &[&child]);
    let of = |digest: &Digest| {
        let head = repository.request("HEAD", &format!("manifests/{digest}")).settled();
        json!({ "mediaType": IMAGE, "digest": digest.to_string(), "size": head.header("content-length").parse::<u64>().unwrap() })
    };
    let put = |reference: &str, kind: &str, body: Value| {
        let put = repository.request("PUT", &format!("manifests/{reference}")).header("Content-Type", kind);
        let answer = put.body(body.to_string()).settled();
        assert_eq!(answer.status, 201, "{}", answer.text());
        Digest::sha256(body.to_string().as_bytes())
    };
    let sign = |subject: &Digest, note: &str| {
        let empty = repository.blob(b"{}").unwrap();
        let body = json!({ "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.test.signature",
            "config": empty, "layers": [empty], "subject": of(subject), "annotations": { "note": note } });
        let digest = Digest::sha256(body.to_string().as_bytes());
        put(&digest.to_string(), IMAGE, body)
    };
    let index = "application/vnd.oci.image.index.v1+json";
    put("all", index, json!({ "schemaVersion": 2, "mediaType": index, "manifests": [of(&child_image)] }));
    let (old_signature, child_signature) = (sign(&old_image, "old"), sign(&child_image, "child"));
    assert_eq!(repository.request("DELETE", "manifests/part").settled().status, 202, "the last tag of a child");
    let new_image = repository.push("v1", &[&new]);

    let there = |digest: &Digest| repository.request("HEAD", &format!("manifests/{digest}")).settled().status == 200;
    wait("the untagged image goes", || !there(&old_image));
    wait("so does its signature, after it", || !there(&old_signature));
    std::thread::sleep(Duration::from_secs(5));
    for digest in [&child_image, &child_signature, &new_image] {
        assert!(there(digest), "{digest} is reached by a tag");
    }
    let left: BTreeSet<String> = [&child, &new].map(|bytes| Digest::sha256(bytes).hex()).into();
    wait("its layers go as well", || (1..=3).all(|node| digests(&data(&cluster, node)) == left));
}
