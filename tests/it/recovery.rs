//! What is left after disasters, on real processes: rotten states, a majority that is gone, nothing but a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::drift::{found, verify};
use crate::regions::{arrives, delete, linked, set_rule_with, start, tag};
use crate::support::image::{self, MANIFEST};
use crate::support::{Cluster, http, portolan, run, wait};

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

/// Settings that make of node 1 a new one with its old volume, and the words that restore the backup in `dir` to it.
fn restoring(cluster: &Cluster, dir: &str) -> (Vec<String>, Vec<String>) {
    let certs = cluster.dir().join("certs").display().to_string();
    let (code, told) = run(&["certs", "node", "--dir", &certs, "--name", "restored", "--address", &cluster.ip(1)]);
    assert_eq!(code, 0, "{told}");
    let node = cluster.node_dir(1);
    let settings = vec![
        format!("node.data_dir={}", node.join("data-new").display()),
        format!("blobs.dir={}", node.join("data/blobs").display()),
        format!("cluster.cert={certs}/nodes/restored/node.pem"),
        format!("cluster.key={certs}/nodes/restored/node.key"),
    ];
    let config = config(cluster, 1);
    let mut words = ["backup", "restore", dir, "-o", "json", "--config", &config].map(str::to_owned).to_vec();
    words.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
    (settings, words)
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
    let list = cluster.dir().join("missing").display().to_string();
    let (settings, words) = restoring(&cluster, &dir);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = portolan(&[&words[..], &["--missing", &list]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&report["blobs"], &report["blobs_missing"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(fs::read_to_string(&list).unwrap(), "");
    let (code, told) = run(&words);
    assert!(code == 1 && told.contains("already"), "{told}");

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

/// Pushes images one after the other until it is told to stop; each tag, and when it was acknowledged.
fn push_on(cluster: &Cluster, stop: &AtomicBool) -> Vec<(String, SystemTime)> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let tag = format!("t{}", acknowledged.len());
        push(cluster, 1, &tag, tag.as_bytes());
        acknowledged.push((tag, SystemTime::now()));
    }
    acknowledged
}

// What a restore loses is what it says: everything acknowledged before the time it tells is there, though images were
// pushed all the while; what is missing is the end of what was pushed.
#[test]
fn a_restore_tells_its_loss_window() {
    let mut cluster = Cluster::start(198);
    let dir = cluster.dir().join("backup").display().to_string();
    let stop = AtomicBool::new(false);
    let (acknowledged, created) = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push_on(&cluster, &stop));
        std::thread::sleep(Duration::from_secs(2));
        let (admin, credentials) = (cluster.admin(2), cluster.key_file().display().to_string());
        let created = run(&["backup", "create", &dir, "--admin", &admin, "--credentials-file", &credentials]);
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        (pushing.join().unwrap(), created)
    });
    assert_eq!(created.0, 0, "{}", created.1);
    (1..=3).for_each(|n| cluster.kill_node(n));
    cluster.stop();
    let (settings, words) = restoring(&cluster, &dir);
    let output = portolan(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    cluster.spawn_node_with(1, &settings);
    cluster.wait_node_ready(1);
    let told = OffsetDateTime::parse(report["made_at"].as_str().unwrap(), &Rfc3339).unwrap();
    let is_there = |tag: &str| get(&cluster, 1, &format!("manifests/{tag}")).status == 200;
    let lost: Vec<bool> = acknowledged.iter().map(|(tag, _)| !is_there(tag)).collect();
    let first_lost = lost.iter().position(|lost| *lost).expect("some were pushed after the backup");
    assert!(lost[first_lost..].iter().all(|lost| *lost), "what is lost is the end: {lost:?}");
    let times: Vec<OffsetDateTime> = acknowledged.iter().map(|(_, at)| OffsetDateTime::from(*at)).collect();
    assert!(first_lost > 0 && times[first_lost] >= told, "{} was acknowledged before {told}", times[first_lost]);
    let window = *times.last().unwrap() - told;
    println!("{} of {} pushes were lost, of {window}", times.len() - first_lost, times.len());
}

// A region that was restored takes back from another one what it had sent there since the backup, deletes too. What had
// not got there is gone, and both are equal.
#[test]
fn a_restored_region_takes_back_what_it_had_sent() {
    let (mut eu, us) = (start(188, "eu", 1), start(189, "us", 1));
    let link = linked(&eu, &us);
    let deletes = json!({ "deleteReplication": { "enabled": true } });
    set_rule_with(&eu, "us", "it/", &deletes);
    set_rule_with(&us, "eu", "it/", &deletes);
    for name in ["kept", "moved", "deleted"] {
        push(&eu, 1, name, name.as_bytes());
        arrives(&us, 1, REPOSITORY, name, name.as_bytes());
    }
    let dir = eu.dir().join("backup").display().to_string();
    let (admin, credentials) = (eu.admin(1), eu.key_file().display().to_string());
    let (code, said) = run(&["backup", "create", &dir, "--admin", &admin, "--credentials-file", &credentials]);
    assert_eq!(code, 0, "{said}");

    push(&eu, 1, "moved", b"after the backup");
    push(&eu, 1, "new", b"new after the backup");
    delete(&eu, REPOSITORY, "deleted");
    arrives(&us, 1, REPOSITORY, "moved", b"after the backup");
    arrives(&us, 1, REPOSITORY, "new", b"new after the backup");
    wait("the delete arrives", Duration::from_secs(60), || tag(&us, 1, REPOSITORY, "deleted").is_none());
    link.cut();
    push(&eu, 1, "unsent", b"nobody else has it");

    eu.kill_node(1);
    eu.stop();
    let (settings, words) = restoring(&eu, &dir);
    let (code, said) = run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 0, "{said}");
    eu.spawn_node_with(1, &settings);
    eu.wait_node_ready(1);
    assert_eq!(tag(&eu, 1, REPOSITORY, "new"), None);
    assert!(tag(&eu, 1, REPOSITORY, "deleted").is_some());
    link.mend();

    let taken = verify(&eu, "us");
    let wanted = ["extra deleted", "missing -", "missing -", "missing new", "stale moved"];
    assert_eq!(found(&taken), wanted, "{taken:#}");
    for cluster in [&eu, &us] {
        arrives(cluster, 1, REPOSITORY, "kept", b"kept");
        arrives(cluster, 1, REPOSITORY, "moved", b"after the backup");
        arrives(cluster, 1, REPOSITORY, "new", b"new after the backup");
        assert_eq!(tag(cluster, 1, REPOSITORY, "deleted"), None);
        assert_eq!(tag(cluster, 1, REPOSITORY, "unsent"), None);
    }
    push(&eu, 1, "moved", b"in the new life");
    arrives(&us, 1, REPOSITORY, "moved", b"in the new life");
    for (cluster, other) in [(&us, "eu"), (&eu, "us")] {
        let clean = verify(cluster, other);
        assert_eq!(clean["clean"], true, "{clean:#}");
    }
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
