//! `portolan check` on the directories of real nodes that were stopped, or killed.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::{self, Cluster, http, image, portolan};

/// Runs the check; its exit status, its JSON, what it said on standard error.
fn check(arguments: &[&str], directories: &[PathBuf]) -> (i32, Value, String) {
    let directories = directories.iter().map(|path| path.to_str().unwrap());
    let all: Vec<&str> =
        ["-o", "json", "check"].into_iter().chain(arguments.iter().copied()).chain(directories).collect();
    let Output { status, stdout, stderr } = portolan(&all);
    let told = String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), serde_json::from_slice(&stdout).unwrap_or(Value::Null), told)
}

/// Waits until so many third copies were made and confirmed, over all nodes.
fn wait_repaired(cluster: &Cluster, copies: u64) {
    let confirmed = |node| {
        let answer = http::request("GET", &format!("{}/metrics", cluster.admin(node))).key(&cluster.key()).send();
        let text = answer.text();
        let is_it = |line: &&str| line.starts_with("portolan_job_done_total") && line.contains("\"repair_replicas\"");
        let line = text.lines().find(is_it).unwrap_or("0");
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let are_made = || (1..=3).map(confirmed).sum::<u64>() >= copies;
    support::wait("third copies are made", Duration::from_secs(60), are_made);
}

fn kinds(report: &Value) -> Vec<&str> {
    let problems = report["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["kind"].as_str().unwrap()).collect()
}

/// The file of a blob in a data directory.
fn file_of(data: &Path, digest: &Digest) -> PathBuf {
    let shard = data.join("blobs/blobs").join(&digest.hex()[..2]);
    let mut names = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&digest.hex()) && !name.ends_with(".sum")
    };
    names.find(is_it).unwrap()
}

// A running node is refused. Killed nodes are whole: every blob in three zones, every tag reaches an image. Then one
// byte of one copy is flipped, one copy is removed, the last one too: each is told, and by what it means.
#[test]
fn stopped_nodes_are_checked() {
    let mut cluster = Cluster::start(32);
    let layer: Vec<u8> = (0..2_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    image::push(&cluster, 1, "it/check", "one", &layer);
    image::push(&cluster, 2, "it/check", "two", b"a small layer, which lies in a pack");
    let directories: Vec<PathBuf> = (1..=3).map(|node| cluster.node_dir(node).join("data")).collect();
    let (status, _, told) = check(&[], &directories);
    assert_eq!(status, 2, "{told}");
    assert!(told.contains("a node runs on"), "{told}");

    wait_repaired(&cluster, 3);
    (1..=3).for_each(|node| cluster.kill_node(node));
    cluster.stop();
    let (status, report, told) = check(&["--zones-min", "3"], &directories);
    assert_eq!((status, &report["good"], &report["problems_total"]), (0, &true.into(), &0.into()), "{report} {told}");
    assert_eq!(report["blobs"]["by_zones"], serde_json::json!({ "3": 3 }), "config and two layers: {report}");
    assert_eq!((&report["images"]["tags"], &report["images"]["broken"]), (&2.into(), &0.into()));
    for directory in report["directories"].as_array().unwrap() {
        assert_eq!(directory["copies"]["named"], directory["copies"]["good"], "{report}");
        assert!(directory["rows"].as_u64().unwrap() > 10 && directory["log"]["entries"].as_u64().unwrap() > 3);
    }
    let alone = check(&[], &directories[..1]);
    assert_eq!((alone.0, &alone.1["good"]), (0, &true.into()), "{alone:?}");

    let digest = Digest::sha256(&layer);
    let copies: Vec<PathBuf> = directories.iter().map(|data| file_of(data, &digest)).collect();
    let mut bytes = std::fs::read(&copies[0]).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&copies[0], &bytes).unwrap();
    let (status, report, _) = check(&["--zones-min", "2", "--list-blobs"], &directories);
    assert_eq!((status, kinds(&report)), (1, vec!["copy"]), "{report}");
    assert_eq!(report["problems"][0]["subject"], digest.to_string());
    assert_eq!(report["blob_zones"][digest.to_string()], 2);
    assert_eq!(report["directories"][0]["copies"]["bad"], 1);
    let (status, report, _) = check(&["--quick"], &directories);
    assert_eq!((status, &report["good"]), (0, &true.into()), "the middle of a blob is only seen by a whole look");

    std::fs::remove_file(&copies[1]).unwrap();
    let (status, report, _) = check(&["--zones-min", "2"], &directories);
    assert_eq!((status, kinds(&report)), (1, vec!["copy", "copy", "zones"]), "{report}");
    assert_eq!(report["images"]["broken"], 0, "one good copy is enough to pull");
    std::fs::remove_file(&copies[2]).unwrap();
    let (status, report, _) = check(&[], &directories);
    assert_eq!((status, kinds(&report)), (1, vec!["copy", "copy", "copy", "lost", "tag"]), "{report}");
    assert_eq!(report["problems"][4]["subject"], "it/check:one");
}

// What is no data directory, a directory given twice, and a number of zones that can't be reached are told before
// anything is judged.
#[test]
fn wrong_directories_are_told() {
    let empty = tempfile::tempdir().unwrap();
    let (status, _, told) = check(&[], &[empty.path().to_owned()]);
    assert_eq!(status, 2);
    assert!(told.contains("is no node's data directory"), "{told}");
    let (status, _, told) = check(&["--data-dir", "/x"], &[empty.path().to_owned()]);
    assert!(status == 2 && told.contains("cannot be used with"), "{told}");
}
