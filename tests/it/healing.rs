//! Nodes and zones that go, come back, are emptied and replaced: every blob has its three copies again, and nothing is
//! copied in vain. The waiting times are seconds here; with `REPLACE_AFTER_S=900` in the environment a node is
//! waited for as long as by the shipped settings (three quarters of an hour in all).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::image::large;
use crate::support::{self, Cluster, http, portolan};

/// How long repair may take on a busy machine, once it has begun.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node is not replaced before.
fn replace_after() -> Duration {
    let told = std::env::var("REPLACE_AFTER_S").ok();
    Duration::from_secs(told.map_or(20, |told| told.parse().expect("REPLACE_AFTER_S is a number of seconds")))
}

fn replace_setting() -> String {
    format!("repair.replace_after={}s", replace_after().as_secs())
}

fn try_push(cluster: &Cluster, node: u8, number: u32) -> Result<Digest, String> {
    let bytes = large(number);
    let digest = Digest::sha256(&bytes);
    let url = format!("{}/v2/it/healing/blobs/uploads/?digest={digest}", cluster.node(node));
    let answer = http::request("POST", &url).key(&cluster.key()).body(bytes).try_send();
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status == 201 { Ok(digest) } else { Err(answer.text()) }
}

fn push(cluster: &Cluster, node: u8, numbers: std::ops::Range<u32>) -> Vec<Digest> {
    numbers.map(|number| try_push(cluster, node, number).unwrap()).collect()
}

fn ask(cluster: &Cluster, node: u8, path: &str) -> Value {
    http::request("GET", &format!("{}{path}", cluster.admin(node))).key(&cluster.key()).send().json()
}

fn repair(cluster: &Cluster, node: u8) -> Value {
    ask(cluster, node, "/v1/repair")
}

fn wait(what: &str, is_so: impl FnMut() -> bool) {
    support::wait(what, PATIENCE + replace_after(), is_so);
}

/// Runs a command against the admin listener of a node: its exit status, and all it said.
fn run(cluster: &Cluster, node: u8, words: &[&str]) -> (i32, String) {
    let (admin, key) = (cluster.admin(node), cluster.key_file());
    let connection = ["--admin", &admin, "--credentials-file", key.to_str().unwrap()];
    support::run(&[words, &connection[..]].concat())
}

/// The id of a node, as another one knows it.
fn id(cluster: &Cluster, asked: u8, node: u8) -> String {
    let status = ask(cluster, asked, "/v1/cluster");
    let address = cluster.raft_address(node);
    let nodes = status["nodes"].as_array().unwrap();
    let own = nodes.iter().find(|entry| entry["raft_address"] == address).unwrap();
    own["id"].as_str().unwrap().to_owned()
}

/// The digests of the files on a node's disk.
fn files(cluster: &Cluster, node: u8) -> BTreeSet<String> {
    let Ok(shards) = std::fs::read_dir(cluster.node_dir(node).join("data/blobs/blobs")) else { return BTreeSet::new() };
    let names = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".sum")).map(|name| name.split('.').next().unwrap().to_owned()).collect()
}

/// The nodes that hold a confirmed copy.
fn holders(cluster: &Cluster, asked: u8, digest: &Digest) -> BTreeSet<String> {
    let document = ask(cluster, asked, &format!("/v1/blobs/{digest}"));
    let copies = document["copies"].as_array().unwrap_or_else(|| panic!("{document}")).clone();
    copies.iter().map(|copy| copy["node"].as_str().unwrap_or("gone").to_owned()).collect()
}

fn missing(cluster: &Cluster, asked: u8) -> u64 {
    repair(cluster, asked)["total"]["copies"].as_u64().unwrap()
}

fn absence(cluster: &Cluster, asked: u8, id: &str) -> Option<String> {
    let repair = repair(cluster, asked);
    let entry = repair["nodes"].as_array().unwrap().iter().find(|entry| entry["id"] == id)?;
    entry["absence"].as_str().map(str::to_owned)
}

/// The offline check of all nodes, which must find nothing wrong, and each of so many blobs in three zones.
fn check(cluster: &Cluster, nodes: &[u8], blobs: usize) {
    let data = |node: &u8| cluster.node_dir(*node).join("data").display().to_string();
    let directories: Vec<String> = nodes.iter().map(data).collect();
    let words: Vec<&str> = ["-o", "json", "check"].into_iter().chain(directories.iter().map(String::as_str)).collect();
    let report: Value = serde_json::from_slice(&portolan(&words).stdout).unwrap();
    assert_eq!((&report["good"], &report["blobs"]["by_zones"]["3"]), (&true.into(), &blobs.into()), "{report:#}");
}

// A node is away for less time than it is waited for: not one copy is made. Then for longer: the other node of its zone
// gets its copies. It comes back: what is too many goes, from the record and from the disk, and nothing that is wanted.
#[test]
fn a_node_is_replaced_after_a_time() {
    let mut cluster = Cluster::start_nodes(190, 4, &[&replace_setting()]);
    let digests = push(&cluster, 2, 0..12);
    wait("three copies of each", || missing(&cluster, 2) == 0);
    let (gone, other) = (1, 4);
    let gone_id = id(&cluster, 2, gone);
    let held = files(&cluster, gone);
    assert!(!held.is_empty(), "some copies must stand on the node that goes");
    let made = |node: u8| repair(&cluster, node)["here"]["made"].as_u64().unwrap();
    let before: u64 = (2..=4).map(made).sum();

    cluster.kill_node(gone);
    wait("it is missed", || absence(&cluster, 2, &gone_id).as_deref() == Some("missed"));
    // nearly as long as it is waited for, where a minute more does not matter
    std::thread::sleep(replace_after().checked_sub(Duration::from_secs(120)).unwrap_or(Duration::from_secs(3)));
    cluster.start_node(gone);
    wait("it is heard again", || absence(&cluster, 2, &gone_id).is_none());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((2..=4).map(made).sum::<u64>(), before, "a short outage costs no copy");
    assert_eq!((made(gone), files(&cluster, gone) == held), (0, true));

    cluster.kill_node(gone);
    wait("it is taken for lost", || absence(&cluster, 2, &gone_id).as_deref() == Some("replaced"));
    let has_three = |digest: &Digest| holders(&cluster, 2, digest).iter().filter(|id| **id != gone_id).count() == 3;
    wait("others have all copies", || missing(&cluster, 2) == 0 && digests.iter().all(has_three));
    assert!(held.is_subset(&files(&cluster, other)), "its zone has another node");
    let late = push(&cluster, 2, 100..104);

    cluster.start_node(gone);
    let all: Vec<Digest> = digests.iter().chain(&late).copied().collect();
    wait("no record names more than three", || all.iter().all(|digest| holders(&cluster, 2, digest).len() == 3));
    let is_once = |digest: &Digest| {
        [gone, other].iter().filter(|node| files(&cluster, **node).contains(&digest.hex())).count() == 1
    };
    wait("each is on one disk of the zone", || all.iter().all(is_once));
    assert_eq!(missing(&cluster, 2), 0);
    cluster.stop();
    check(&cluster, &[1, 2, 3, 4], all.len());
}

// A zone is lost: a push is taken within three seconds. It returns: all blobs have three copies, without an operator.
#[test]
fn a_zone_goes_and_returns() {
    let zone_after = format!("repair.zone_after={}s", replace_after().as_secs() + 5);
    let mut cluster = Cluster::start_nodes(191, 3, &[&replace_setting(), &zone_after]);
    let mut digests = push(&cluster, 1, 0..5);
    wait("three copies of each", || missing(&cluster, 1) == 0);
    let gone = cluster.leader().unwrap_or(3);
    let other = gone % 3 + 1;
    let gone_id = id(&cluster, other, gone);
    cluster.kill_node(gone);
    let began = Instant::now();
    let first = loop {
        match try_push(&cluster, other, 50) {
            Ok(digest) => break digest,
            Err(why) => assert!(began.elapsed() < Duration::from_secs(3), "no push is taken: {why}"),
        }
    };
    assert!(began.elapsed() < Duration::from_secs(3), "the push took {:?}", began.elapsed());
    digests.push(first);
    digests.extend(push(&cluster, other, 60..64));
    wait("the zone is lost", || absence(&cluster, other, &gone_id).as_deref() == Some("stranded"));
    digests.extend(push(&cluster, other, 70..72));
    assert!(digests.iter().all(|digest| holders(&cluster, other, digest).len() >= 2));
    cluster.start_node(gone);
    wait("all are there again", || {
        missing(&cluster, other) == 0 && digests.iter().all(|digest| holders(&cluster, other, digest).len() == 3)
    });
    wait("it is heard", || absence(&cluster, other, &gone_id).is_none());
    cluster.stop();
    check(&cluster, &[1, 2, 3], digests.len());
}

// A node is emptied while it leads: another one leads, its copies are made elsewhere before they go, it gets no new
// ones, and it can be removed then. One whose copies nobody else may take stays, and says so.
#[test]
fn a_node_is_emptied() {
    let mut cluster = Cluster::start_nodes(192, 4, &[]);
    let digests = push(&cluster, 2, 0..10);
    wait("three copies of each", || missing(&cluster, 2) == 0);
    let (leaves, stays) = (id(&cluster, 2, 1), id(&cluster, 2, 2));
    let (code, told) = run(&cluster, 2, &["cluster", "remove", &stays]);
    assert!(code == 1 && told.contains("fewer copies") && told.contains("--force"), "{told}");
    let (code, told) = run(&cluster, 3, &["cluster", "drain", &stays, "--wait", "60s"]);
    assert!(code == 1 && told.contains("no other node may take them"), "{told}");
    let (code, told) = run(&cluster, 3, &["cluster", "drain", &cluster.ip(2), "--cancel"]);
    assert!(code == 0 && told.contains("takes copies again"), "{told}");
    assert!(digests.iter().all(|digest| holders(&cluster, 2, digest).contains(&stays)));

    run(&cluster, 2, &["cluster", "transfer", &leaves]);
    wait("it leads", || cluster.leader() == Some(1));
    let (code, told) = run(&cluster, 3, &["cluster", "drain", &leaves, "--wait", "100s"]);
    assert!(code == 0 && told.contains("nothing stands on"), "{told}");
    wait("another one leads", || cluster.leader().is_some_and(|leader| leader != 1));
    wait("its disk is empty", || files(&cluster, 1).is_empty());
    let late = push(&cluster, 1, 100..104);
    wait("three copies of each", || missing(&cluster, 2) == 0);
    let all: Vec<Digest> = digests.into_iter().chain(late).collect();
    assert!(all.iter().all(|digest| holders(&cluster, 2, digest).len() == 3), "nothing is held twice");
    assert!(files(&cluster, 1).is_empty(), "it gets nothing new");
    let (code, told) = run(&cluster, 2, &["cluster", "remove", &leaves]);
    assert_eq!(code, 0, "{told}");
    let (code, told) = run(&cluster, 2, &["repair", "status"]);
    assert!(code == 0 && told.contains("copies missing") && told.contains("ONE LEFT"), "{told}");
    cluster.stop();
    check(&cluster, &[2, 3, 4], all.len());
}

/// Writes the configuration of a node that `dev` did not make, in the zone of node `like`, with a certificate.
fn prepare(cluster: &Cluster, n: u8, like: u8) {
    let dir = cluster.node_dir(n);
    let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
    let certs: PathBuf = cluster.dir().join("certs");
    let words = ["certs", "node", "--dir", certs.to_str().unwrap(), "--name", &name, "--address", &cluster.ip(n)];
    assert!(portolan(&words).status.success());
    std::fs::create_dir_all(&dir).unwrap();
    let text = std::fs::read_to_string(cluster.node_dir(like).join("portolan.toml")).unwrap();
    let made = certs.join("nodes").join(&name);
    let old_certs = cluster.node_dir(like).join("certs");
    let text = text.replace(&old_certs.display().to_string(), &made.display().to_string());
    let text = text.replace(&cluster.node_dir(like).display().to_string(), &dir.display().to_string());
    let text = text.replace(&cluster.ip(like), &cluster.ip(n));
    std::fs::write(dir.join("portolan.toml"), text).unwrap();
}

// A zone gets a second node: copies move to it until it has its share, and at no moment has a blob fewer than three.
#[test]
fn a_new_node_gets_its_share() {
    let mut cluster = Cluster::start_nodes(194, 3, &["repair.rebalance_floor=100kB"]);
    let digests = push(&cluster, 1, 0..24);
    wait("three copies of each", || missing(&cluster, 1) == 0);
    let (old, new) = (3, 6);
    prepare(&cluster, new, old);
    cluster.spawn_node(new);
    wait("it listens", || http::get(&format!("{}/livez", cluster.admin(new))).is_ok());
    let seed = cluster.raft_address(1);
    let (code, told) = run(&cluster, new, &["cluster", "join", "--seed", &seed]);
    assert_eq!(code, 0, "{told}");
    cluster.wait_node_ready(new);
    let here = || repair(&cluster, new)["here"].clone();
    wait("copies have moved", || {
        assert!(digests.iter().all(|digest| holders(&cluster, 1, digest).len() >= 3));
        here()["moved"].as_u64() >= Some(4) && here()["to_move_bytes"] == 0
    });
    wait("and are no more where they were", || {
        let (there, here) = (files(&cluster, old), files(&cluster, new));
        there.is_disjoint(&here) && there.len() + here.len() == digests.len()
    });
    let moved = files(&cluster, new).len();
    assert!((4..=16).contains(&moved), "about half of 24: {moved}");
    assert!(digests.iter().all(|digest| holders(&cluster, 1, digest).len() == 3));
    cluster.stop();
    check(&cluster, &[1, 2, old, new], digests.len());
}

// A node is lost for good, with its disk: one command on a new, empty one, and it votes in its place and has its
// copies. Run again it finds nothing to do.
#[test]
fn one_command_replaces_a_node() {
    let mut cluster = Cluster::start_nodes(193, 3, &[&replace_setting()]);
    let digests = push(&cluster, 1, 0..10);
    wait("three copies of each", || missing(&cluster, 1) == 0);
    let (lost, new) = (3, 6);
    let old = id(&cluster, 1, lost);
    cluster.kill_node(lost);
    std::fs::remove_dir_all(cluster.node_dir(lost).join("data")).unwrap();
    wait("it is missed", || absence(&cluster, 1, &old).is_some());
    prepare(&cluster, new, lost);
    cluster.spawn_node(new);
    wait("it listens", || http::get(&format!("{}/livez", cluster.admin(new))).is_ok());
    let seed = cluster.raft_address(1);
    let (code, told) = run(&cluster, new, &["cluster", "replace", &old, "--wait", "100s"]);
    assert!(code == 2 && told.contains("--seed"), "{told}");
    let (code, told) = run(&cluster, new, &["cluster", "replace", &old, "--seed", &seed, "--wait", "100s"]);
    assert!(code == 0 && told.contains("stands in for"), "{told}\n{}", cluster.node_log(new));
    let status = ask(&cluster, 1, "/v1/cluster");
    let nodes = status["nodes"].as_array().unwrap();
    let voters: BTreeSet<&str> =
        nodes.iter().filter(|node| node["votes"] == true).map(|node| node["zone"].as_str().unwrap()).collect();
    assert_eq!(voters, ["a", "b", "c"].into(), "{status}");
    let removed = nodes.iter().find(|node| node["id"] == old.as_str()).unwrap();
    assert_eq!((&removed["state"], &removed["member"]), (&"removed".into(), &false.into()), "{status}");
    let new_id = id(&cluster, 1, new);
    wait("the old copies are off record", || {
        digests.iter().all(|digest| {
            let holders = holders(&cluster, 1, digest);
            holders.len() == 3 && holders.contains(&new_id)
        })
    });
    let (code, told) = run(&cluster, new, &["cluster", "replace", &old, "--wait", "20s"]);
    assert_eq!(code, 0, "{told}");
    cluster.stop();
    check(&cluster, &[1, 2, new], digests.len());
}
