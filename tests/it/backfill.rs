//! What was pushed before a rule: copied when the rule says so, with its progress, over kills, and once.

use std::process::Command;

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::regions::{PATIENCE, admin, arrives, link_state, linked, set_rule_with, start, tag, told};
use crate::support::image::{large, manifest, push};
use crate::support::{Cluster, run, wait};

/// Images that lie there before there is a rule.
const BEFORE: u32 = 24;
const LAYER_BYTES: u64 = 100_000;

pub(crate) fn cli(cluster: &Cluster, words: &[&str]) -> (i32, String) {
    cli_at(cluster, cluster.leader().unwrap_or(1), words)
}

/// The same against one node.
pub(crate) fn cli_at(cluster: &Cluster, node: u8, words: &[&str]) -> (i32, String) {
    let (admin, key) = (cluster.admin(node), cluster.key_file());
    let first = words.iter().take(1).copied();
    let connection = ["--admin", &admin, "--credentials-file", key.to_str().unwrap()];
    run(&first.chain(connection).chain(words.iter().skip(1).copied()).collect::<Vec<_>>())
}

fn backfill(cluster: &Cluster) -> Value {
    link_state(cluster, "eu")["backfill"].clone()
}

// R14: what was there before a rule comes over a slow link, the newest first; killed in the midst it goes on where it
// was, and next to nothing comes twice. Then both are compared, from the first day on, by the product and by a script
// that has nothing but both exports.
#[test]
fn r14_what_was_before_a_rule() {
    let (eu, us) = (start(116, "eu", 1), start(117, "us", 1));
    let link = linked(&eu, &us);
    for number in 0..BEFORE {
        push(&eu, 1, "team/app", &format!("v{number}"), &large(number));
    }
    push(&eu, 1, "other/app", "v1", b"not covered");
    // about six images a second
    let (status, text) = cli(&us, &["region", "limit", "eu", "600000"]);
    assert_eq!(status, 0, "{text}");
    let before = link.carried();
    set_rule_with(&eu, "us", "team/", &json!({ "backfill": { "enabled": true } }));
    push(&eu, 1, "team/app", "after", b"pushed after the rule");

    arrives(&us, 1, "team/app", "after", b"pushed after the rule");
    let newest = format!("v{}", BEFORE - 1);
    arrives(&us, 1, "team/app", &newest, &large(BEFORE - 1));
    assert_eq!(tag(&us, 1, "team/app", "v0"), None, "the oldest comes last");
    wait("some of it has come", PATIENCE, || backfill(&us)["settled"].as_u64() > Some(10));
    us.kill_node(1);
    us.start_node(1);
    // a manifest and a tag of each image
    let total = u64::from(BEFORE) * 2;
    wait("it is over", PATIENCE, || backfill(&us)["ended_at"].is_string());
    let row = backfill(&us);
    let settled = row["settled"].as_u64().unwrap();
    // clocks may differ: what was pushed a little after the rule counts too
    assert!((total..=total + 2).contains(&row["total"].as_u64().unwrap()), "{row}");
    assert!((total..=total + 20).contains(&settled), "{row}");
    arrives(&us, 1, "team/app", "v0", &large(0));
    assert_eq!(tag(&us, 1, "other/app", "v1"), None);
    let (carried, once) = (link.carried() - before, u64::from(BEFORE) * LAYER_BYTES);
    // what was under way when the node died comes again: up to eight images
    assert!(carried < once + 10 * LAYER_BYTES + 300_000, "{carried} bytes for {once}");

    let (status, text) = cli(&us, &["replication", "verify", "eu"]);
    assert_eq!(status, 0, "{text}");
    let report = admin(&us, "GET", "/v1/replication/report").settled().json();
    let last = &report["regions"][0]["last"];
    assert_eq!((&last["records"], &last["differences"]), (&json!(total + 2), &json!(0)), "{last}");
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);
    // and the script sees what is not equal
    assert_eq!(admin(&us, "DELETE", "/v1/repositories/team/app?force=true").settled().status, 200);
    let (is_equal, text) = equal(&eu, "eu", &us, "us");
    assert!(!is_equal && text.contains("missing: team/app tag v0"), "{text}");
}

/// What `deploy/replication/equal.py` says of what one region sends, and the other has of it.
pub(crate) fn equal(source: &Cluster, source_name: &str, destination: &Cluster, name: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let export = |cluster: &Cluster, region: &str, direction: &str| {
        let (status, text) = cli(cluster, &["replication", "export", region, "--direction", direction]);
        assert_eq!(status, 0, "{text}");
        let path = dir.path().join(direction);
        std::fs::write(&path, text).unwrap();
        path
    };
    let files = [export(source, name, "to"), export(destination, source_name, "from")];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/replication/equal.py");
    let output = Command::new("python3").arg(script).args(files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{text}");
    (output.status.success(), text)
}

// A paused link takes nothing, keeps its place, and goes on when it is told to.
#[test]
fn links_are_paused() {
    let (eu, us) = (start(118, "eu", 1), start(119, "us", 1));
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({}));
    push(&eu, 1, "team/app", "v1", b"one");
    arrives(&us, 1, "team/app", "v1", b"one");
    assert_eq!(cli(&us, &["region", "pause", "eu"]).0, 0);
    wait("nothing is followed", PATIENCE, || link_state(&us, "eu")["followed"].is_null());
    push(&eu, 1, "team/app", "v2", b"two");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!((tag(&us, 1, "team/app", "v2"), &link_state(&us, "eu")["paused"]), (None, &json!(true)));
    assert_eq!(cli(&us, &["region", "resume", "eu"]).0, 0);
    arrives(&us, 1, "team/app", "v2", b"two");
    told(&us, "PATCH", "/v1/regions/eu", &json!({ "bytes_per_second": 0 }));
    let digest = Digest::sha256(manifest(b"two").as_bytes()).to_string();
    assert_eq!(tag(&us, 1, "team/app", "v2"), Some(digest));
}
