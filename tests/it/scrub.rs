//! Copies that rot or vanish where nobody reads them are found by the node itself, and made again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::{self, Cluster, http, portolan};

/// How long finding and repairing may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Content that is a file of its own.
fn large(number: u32) -> Vec<u8> {
    (0..300_000u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(number * 7) >> 13) as u8).collect()
}

fn push(cluster: &Cluster, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let url = format!("{}/v2/it/scrub/blobs/uploads/?digest={digest}", cluster.node(1));
    let answer = http::request("POST", &url).key(&cluster.key()).body(bytes).send();
    assert_eq!(answer.status, 201, "{}", answer.text());
    digest
}

/// The file of a large blob on a node, if it is there.
pub(crate) fn file(cluster: &Cluster, node: u8, digest: &Digest) -> Option<PathBuf> {
    let shards = fs::read_dir(cluster.node_dir(node).join("data/blobs/blobs")).unwrap();
    let mut paths = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap()).map(|entry| entry.unwrap());
    let is_it = |name: &str| name.starts_with(&digest.hex()) && !name.ends_with(".sum");
    paths.find(|entry| is_it(entry.file_name().to_str().unwrap())).map(|entry| entry.path())
}

fn scrub(cluster: &Cluster, node: u8, word: &str) -> Value {
    let (admin, key) = (cluster.admin(node), cluster.key_file());
    let output =
        portolan(&["scrub", word, "-o", "json", "--admin", &admin, "--credentials-file", key.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn wait(what: &str, is_so: impl FnMut() -> bool) {
    support::wait(what, PATIENCE, is_so);
}

// B6 at rest: one node's copy has a flipped bit, another's file is gone, a third is untouched; nobody reads any of
// them. The nodes find both by themselves, set the rotten one aside, and fetch good copies; a paused node does not.
#[test]
fn damage_that_nobody_reads_is_healed() {
    let mut cluster = Cluster::start(74);
    let (rotten, gone, good) = (push(&cluster, &large(1)), push(&cluster, &large(2)), push(&cluster, &large(3)));
    push(&cluster, b"small, in a pack");
    wait("three copies of each", || {
        (1..=3).all(|node| [rotten, gone, good].iter().all(|digest| file(&cluster, node, digest).is_some()))
    });
    let bad = file(&cluster, 2, &rotten).unwrap();
    let mut bytes = fs::read(&bad).unwrap();
    bytes[150_000] ^= 4;
    fs::write(&bad, &bytes).unwrap();
    fs::remove_file(file(&cluster, 3, &gone).unwrap()).unwrap();

    assert_eq!(scrub(&cluster, 2, "pause")["paused"], true);
    scrub(&cluster, 3, "run");
    wait("what is missing is found", || scrub(&cluster, 3, "status")["missing"] == 1);
    wait("and made again", || file(&cluster, 3, &gone).is_some());
    assert_eq!(fs::read(&bad).unwrap(), bytes, "a paused node reads nothing");

    assert_eq!(scrub(&cluster, 2, "resume")["paused"], false);
    scrub(&cluster, 2, "run");
    wait("what is rotten is found", || scrub(&cluster, 2, "status")["bad"] == 1);
    wait("and made again", || file(&cluster, 2, &rotten).is_some_and(|path| fs::read(path).unwrap() == large(1)));
    wait("the round ends", || scrub(&cluster, 2, "status")["under_way"] == false);
    let told = scrub(&cluster, 2, "status");
    assert!(told["good"].as_u64() >= Some(3) && told["rounds"].as_u64() >= Some(1), "{told}");
    assert!(cluster.node_log(2).contains("a copy has rotted"), "{}", cluster.node_log(2));

    cluster.stop();
    let directories: Vec<String> = (1..=3).map(|n| cluster.node_dir(n).join("data").display().to_string()).collect();
    let words: Vec<&str> = ["-o", "json", "check"].into_iter().chain(directories.iter().map(String::as_str)).collect();
    let report: Value = serde_json::from_slice(&portolan(&words).stdout).unwrap();
    assert_eq!((&report["blobs"]["lost"], &report["blobs"]["by_zones"]["3"]), (&0.into(), &4.into()), "{report}");
}
