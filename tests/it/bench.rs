//! `portolan bench` against three nodes: each workload does what it says, and nothing but success is counted as such.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::Cluster;

fn bench(cluster: &Cluster, arguments: &[&str]) -> Output {
    let nodes = [1, 2, 3].map(|n| cluster.node(n)).join(",");
    Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["bench", "-o", "json", "--clients", "4", "--registry", &nodes])
        .args(arguments)
        .arg("--credentials-file")
        .arg(cluster.key_file())
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

// Every workload ends by its count, spread over all nodes, without an error, and counts bytes that moved.
#[test]
fn workloads() {
    let cluster = Cluster::shared();
    let table: &[(&[&str], u64)] = &[
        (&["manifest-get", "--images", "6", "--repositories", "2"], 600),
        (&["manifest-get", "--images", "6", "--repositories", "2", "--by", "digest"], 600),
        (&["manifest-head", "--images", "6", "--bearer"], 0),
        (&["manifest-put", "--repositories", "2"], 300),
        (&["blob-push", "--size", "1KiB"], 1024),
        (&["blob-push", "--size", "300kB", "--chunk", "100kB"], 300_000),
        (&["blob-get", "--size", "200kB", "--blobs", "2"], 200_000),
        (&["tags-list", "--tags", "30", "--page", "10"], 50),
        (&["fill", "--repositories", "2"], 300),
    ];
    for (arguments, bytes_each) in table {
        let report = report(&bench(cluster, &[arguments, &["--prefix", "bench/it", "-n", "20"][..]].concat()));
        assert_eq!((report["ok"].as_u64(), report["errors"].as_u64()), (Some(20), Some(0)), "{arguments:?}: {report}");
        let bytes = report["bytes"].as_u64().unwrap();
        assert!(bytes >= 20 * bytes_each && (bytes == 0) == (*bytes_each == 0), "{arguments:?}: {report}");
    }
}

// What a node refuses is an error of the run, and a run without a success fails.
#[test]
fn failures_are_counted() {
    let cluster = Cluster::shared();
    // without a credential: nobody may push
    let output = Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["bench", "blob-push", "-n", "3", "-o", "json", "--registry", &cluster.node(1)])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["ok"].as_u64(), report["errors"].as_u64()), (Some(0), Some(3)), "{report}");
}

// Another machine is not loaded by accident, and the refusal says what to do.
#[test]
fn strangers_are_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(["bench", "manifest-get", "--registry", "http://192.0.2.1:7400"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--i-own-this-target"));
}
