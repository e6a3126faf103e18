//! What is left after disasters, on real processes: rotten states, a majority that is gone, nothing but a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::image::{self, MANIFEST};
use crate::support::{Cluster, http, portolan, run};

const REPOSITORY: &str = "it/recovery";

/// A layer that is too large for a pack.
fn layer() -> Vec<u8> {
    (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn push(cluster: &Cluster, node: u8, tag: &str, layer: &[u8]) -> Digest {
    image::push(cluster, node, REPOSITORY, tag, layer)
}

fn get(cluster: &Cluster, node: u8, path: &str) -> http::Answer {
    let url = format!("{}/v2/it/recovery/{path}", cluster.node(node));
    http::request("GET", &url).key(&cluster.key()).header("Accept", MANIFEST).send()
}

fn config(cluster: &Cluster, n: u8) -> String {
    cluster.node_dir(n).join("portolan.toml").display().to_string()
}

fn status(cluster: &Cluster, n: u8) -> Value {
    http::request("GET", &format!("{}/v1/cluster", cluster.admin(n))).key(&cluster.key()).send().json()
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(tables(&entry));
        } else if entry.extension().is_some_and(|kind| kind == "sst") {
            found.push(entry);
        }
    }
    found
}

// Every table file of a node's state rots, and so does the copy that shares them. The node ends rather than answer,
// takes another node's state at its next start, and serves what was pushed; what is left of its own is kept aside.
#[test]
fn a_rotten_state_is_taken_from_another_node() {
    let cluster = Cluster::start_with(86, &["raft.snapshot_every=100"]);
    let layer = push(&cluster, 1, "latest", &layer());
    let manifest = get(&cluster, 1, "manifests/latest").text();
    for number in 0..400 {
        image::put(&cluster, 1, REPOSITORY, &format!("tag-{number}"), &manifest);
    }
    let victim = 3;
    // a start writes what was in memory into table files
    cluster.kill_node(victim);
    cluster.start_node(victim);
    cluster.kill_node(victim);
    let data = cluster.node_dir(victim).join("data");
    let rotten = [tables(&data.join("state")), tables(&data.join("raft/snapshots"))].concat();
    assert!(!rotten.is_empty());
    for path in rotten {
        let mut bytes = fs::read(&path).unwrap();
        let half = bytes.len() / 2;
        bytes[..half].fill(0x5a);
        fs::write(path, bytes).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(120);
    let is_ready = || http::get(&format!("{}/readyz", cluster.admin(victim))).is_ok_and(|answer| answer.status == 200);
    while !is_ready() {
        if cluster.pid(victim).is_none() {
            cluster.spawn_node(victim);
        }
        assert!(Instant::now() < until, "{}", cluster.node_log(victim));
        std::thread::sleep(Duration::from_millis(200));
    }
    let log = fs::read_to_string(cluster.node_dir(victim).join("node.log")).unwrap();
    assert!(log.contains("the state was fetched from node"), "{log}");
    assert!(data.join("state.rotten").is_dir() && !data.join("raft/state.rotten").exists());
    assert_eq!(get(&cluster, victim, "manifests/tag-399").text(), manifest);
    assert_eq!(get(&cluster, victim, &format!("blobs/{layer}")).status, 200);
    push(&cluster, victim, "after", b"it takes part again");
}

// Two of three nodes are gone for good. The third says what is lost and changes nothing, goes on alone once that is
// accepted, keeps the former nodes out, and takes in a new one that brings an old volume.
#[test]
fn a_minority_goes_on() {
    let mut cluster = Cluster::start(87);
    let layer = push(&cluster, 1, "latest", &layer());
    let answer = get(&cluster, 1, "manifests/latest");
    let (manifest, revision) = (answer.text(), answer.header("portolan-revision").to_owned());
    let (config, before) = (config(&cluster, 1), status(&cluster, 1));
    let (code, told) = run(&["cluster", "recover", "--config", &config, "--accept-loss"]);
    assert!(code == 2 && told.contains("a node runs on"), "{told}");
    cluster.stop();

    let (code, told) = run(&["cluster", "recover", "--config", &config]);
    assert!(code == 1 && told.contains("nothing was changed") && told.contains("POSSIBLY LOST"), "{told}");
    let (code, told) = run(&["cluster", "recover", "--config", &config, "--accept-loss"]);
    assert!(code == 0 && told.contains("goes on in lineage"), "{told}");
    cluster.start_node(1);
    let after = status(&cluster, 1);
    assert_eq!(after["cluster"]["id"], before["cluster"]["id"]);
    assert_ne!(after["cluster"]["lineage"], before["cluster"]["lineage"]);
    let states: Vec<&Value> = after["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
    assert_eq!(states.iter().filter(|state| ***state == "removed").count(), 2, "{after}");
    assert_eq!(get(&cluster, 1, "manifests/latest").text(), manifest);
    assert_eq!(get(&cluster, 1, &format!("blobs/{layer}")).status, 200);
    push(&cluster, 1, "alone", b"pushed to one node");
    // What a client has seen in the life before asks for nothing here; the same index of this life lies in the future.
    let (former, _) = revision.split_once('.').unwrap();
    let lineage = after["cluster"]["lineage"].as_str().unwrap();
    for (life, status) in [(former, 200), (lineage, 400)] {
        let url = format!("{}/v2/it/recovery/manifests/latest", cluster.node(1));
        let request = http::request("GET", &url).key(&cluster.key()).header("Accept", MANIFEST);
        let answer = request.header("portolan-revision", &format!("{life}.1000000")).send();
        assert_eq!(answer.status, status, "{}", answer.text());
    }

    // A node of the life before is kept out.
    cluster.spawn_node(2);
    let until = Instant::now() + Duration::from_secs(30);
    while !fs::read_to_string(cluster.node_dir(1).join("node.log")).unwrap().contains("has another lineage") {
        assert!(Instant::now() < until, "{}", cluster.node_log(1));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_ne!(http::get(&format!("{}/readyz", cluster.admin(2))).map_or(0, |answer| answer.status), 200);
    cluster.kill_node(2);

    // It comes back as another one, with the volume it had.
    join_as_new(&cluster, 2, &cluster.node_dir(2).join("data/blobs"));
    assert_eq!(status(&cluster, 2)["cluster"]["lineage"], after["cluster"]["lineage"]);
    assert_eq!(get(&cluster, 2, &format!("blobs/{layer}")).status, 200);
    let (code, told) = run(&[
        "image",
        "copies",
        "it/recovery:latest",
        "--admin",
        &cluster.admin(2),
        "--registry",
        &cluster.node(2),
        "--credentials-file",
        cluster.key_file().to_str().unwrap(),
    ]);
    // the third copy is on the volume of a node that is gone for good
    assert!(code == 0 && told.contains("  a, b\n") && !told.contains("a, b, c"), "its old copies count: {told}");
}

/// U10: nobody but its owner reads a backup, and no secret stands in it as it is.
fn u10_is_private(dir: &Path, secret: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let mode = fs::metadata(&entry).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} can be read by others ({mode:o})", entry.display());
        if entry.is_dir() {
            u10_is_private(&entry, secret);
        } else {
            let bytes = fs::read(&entry).unwrap();
            let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{} holds a secret", entry.display());
        }
    }
}

/// Starts node `n` with an empty data directory, a new certificate and that volume, and has it join node 1.
fn join_as_new(cluster: &Cluster, n: u8, volume: &Path) {
    let name = format!("new-{n}");
    let certs = cluster.dir().join("certs").display().to_string();
    let (code, told) = run(&["certs", "node", "--dir", &certs, "--name", &name, "--address", &cluster.ip(n)]);
    assert_eq!(code, 0, "{told}");
    let pair = |file: &str| format!("{certs}/nodes/{name}/{file}");
    let data = cluster.node_dir(n).join("data-new");
    cluster.spawn_node_with(
        n,
        &[
            format!("node.data_dir={}", data.display()),
            format!("cluster.cert={}", pair("node.pem")),
            format!("cluster.key={}", pair("node.key")),
            format!("blobs.dir={}", volume.display()),
        ],
    );
    let until = Instant::now() + Duration::from_secs(60);
    let seed = cluster.raft_address(1);
    loop {
        let (code, told) = run(&["cluster", "join", "--admin", &cluster.admin(n), "--seed", &seed]);
        if code == 0 {
            break;
        }
        assert!(Instant::now() < until, "{told}\n{}", cluster.node_log(n));
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.wait_node_ready(n);
}

// A backup is made while images are pushed, verified, found damaged when it is, and becomes a cluster again: everything
// pushed before it is there, with the blobs of a volume that was kept; what is missing is told.
#[test]
fn a_backup_becomes_a_cluster() {
    let mut cluster = Cluster::start(88);
    let layer = push(&cluster, 1, "before", &layer());
    push(&cluster, 2, "small", b"a small layer, which lies in a pack");
    let backup = cluster.dir().join("backup");
    let (dir, credentials) = (backup.display().to_string(), cluster.key_file().display().to_string());
    let create = ["backup", "create", &dir, "--admin", &cluster.admin(2), "--credentials-file", &credentials];
    let (code, told) = run(&create);
    assert!(code == 0 && told.contains("backed up to"), "{told}");
    u10_is_private(&backup, cluster.key().split_once(':').unwrap().1);
    let (code, told) = run(&create);
    assert!(code == 2 && told.contains("is not empty"), "{told}");
    push(&cluster, 1, "after", b"pushed after the backup");
    let (code, told) = run(&["backup", "verify", &dir]);
    assert!(code == 0 && told.contains("good") && told.contains("yes"), "{told}");
    spoil(&backup, &dir);

    let before = status(&cluster, 1);
    let ids: Vec<String> = before["nodes"].as_array().unwrap().iter().map(|node| node["id"].to_string()).collect();
    cluster.stop();
    // All nodes are lost, but for the volume of the first.
    let volume = cluster.node_dir(1).join("data/blobs");
    let certs = cluster.dir().join("certs").display().to_string();
    let (code, told) = run(&["certs", "node", "--dir", &certs, "--name", "restored", "--address", &cluster.ip(1)]);
    assert_eq!(code, 0, "{told}");
    let settings = [
        format!("node.data_dir={}", cluster.node_dir(1).join("data-new").display()),
        format!("cluster.cert={certs}/nodes/restored/node.pem"),
        format!("cluster.key={certs}/nodes/restored/node.key"),
    ];
    let config = config(&cluster, 1);
    let mut words = vec!["backup", "restore", &dir, "-o", "json", "--config", &config];
    settings.iter().for_each(|setting| words.extend(["--set", setting]));
    let list = cluster.dir().join("missing").display().to_string();
    let own = format!("blobs.dir={}", volume.display());
    let output = portolan(&[&words[..], &["--set", &own, "--missing", &list]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&report["blobs"], &report["blobs_missing"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(fs::read_to_string(&list).unwrap(), "");
    let (code, told) = run(&[&words[..], &["--set", &own]].concat());
    assert!(code == 1 && told.contains("already"), "{told}");

    let settings: Vec<String> = settings.into_iter().chain([own]).collect();
    cluster.spawn_node_with(1, &settings);
    cluster.wait_node_ready(1);
    let after = status(&cluster, 1);
    assert_eq!(after["cluster"]["lineage"], report["lineage"]);
    assert_ne!(after["cluster"]["lineage"], before["cluster"]["lineage"]);
    assert!(!ids.contains(&after["node"].to_string()));
    assert_eq!(get(&cluster, 1, "manifests/before").status, 200);
    assert_eq!(get(&cluster, 1, "manifests/after").status, 404);
    assert_eq!(Digest::sha256(&get(&cluster, 1, &format!("blobs/{layer}")).body), layer);
    push(&cluster, 1, "new", b"the new life takes pushes");
    join_as_new(&cluster, 2, &cluster.node_dir(2).join("data/blobs"));
    assert_eq!(get(&cluster, 2, &format!("blobs/{layer}")).status, 200);
}

/// One byte of any file of a backup, a file too many, or one that is missing is told.
fn spoil(backup: &Path, dir: &str) {
    let table = tables(backup).pop().unwrap();
    for path in [backup.join("blobs.txt"), table] {
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, bad).unwrap();
        let (code, told) = run(&["backup", "verify", dir]);
        assert!(code == 1 && told.contains("is not what was backed up"), "{told}");
        fs::remove_file(&path).unwrap();
        let (code, told) = run(&["backup", "verify", dir]);
        assert!(code == 1 && told.contains("the backup in"), "{told}");
        fs::write(&path, good).unwrap();
    }
    let strange = backup.join("state/strange");
    fs::write(&strange, "x").unwrap();
    let (code, told) = run(&["backup", "verify", dir]);
    assert!(code == 1 && told.contains("no part of the backup"), "{told}");
    fs::remove_file(strange).unwrap();
    assert_eq!(run(&["backup", "verify", dir]).0, 0);
}
