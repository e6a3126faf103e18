//! What rules of replication would copy is told before they are set, and bad ones are refused as they would be.

use serde_json::{Value, json};

use crate::backfill::cli;
use crate::regions::{PATIENCE, arrives, linked, start};
use crate::support::image::{large, manifest, push};
use crate::support::{Cluster, wait};

/// A file of rules beside the cluster's.
fn file(cluster: &Cluster, rules: &Value) -> String {
    let path = cluster.dir().join("rules.json");
    std::fs::write(&path, json!({ "rules": rules }).to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn rule(region: &str, backfill: bool) -> Value {
    json!({
        "destinations": [{ "region": region, "registryId": "000000000000" }],
        "repositoryFilters": [{ "filter": "team/", "filterType": "PREFIX_MATCH" }],
        "backfill": { "enabled": backfill },
    })
}

pub(crate) fn dry_run(cluster: &Cluster, rules: &Value) -> Value {
    let (status, text) = cli(cluster, &["replication", "set", &file(cluster, rules), "--dry-run", "-o", "json"]);
    assert_eq!(status, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn set(cluster: &Cluster, rules: &Value) {
    let (status, text) = cli(cluster, &["replication", "set", &file(cluster, rules)]);
    assert_eq!(status, 0, "{text}");
}

/// Images of one layer each, and the bytes of the blobs that they add.
fn amount(layers: &[&[u8]], blobs: u64) -> Value {
    let manifests: usize = layers.iter().map(|layer| manifest(layer).len()).sum();
    json!({ "manifests": layers.len(), "tags": layers.len(), "bytes": manifests as u64 + blobs })
}

// A rule without backfill copies nothing of what is there, and with it all, a shared layer once; what the rule that
// stands has sent is told apart; and nothing is set by that.
#[test]
fn rules_are_tried_before_they_are_set() {
    let (eu, us) = (start(142, "eu", 1), start(143, "us", 1));
    let _link = linked(&eu, &us);
    let (one, two) = (large(1), large(2));
    push(&eu, 1, "team/app", "v1", &one);
    push(&eu, 1, "team/other", "v1", &one);
    push(&eu, 1, "apart/app", "v1", &large(3));

    let nothing = amount(&[], 0);
    // the layer, and the configuration `{}`
    let all = amount(&[&one, &one], 100_002);
    let told = dry_run(&eu, &json!([rule("us", false)]));
    let to = &told["destinations"][0];
    assert_eq!((&to["region"], &to["repositories"], &to["begins"]), (&json!("us"), &json!(2), &json!(2)), "{told:#}");
    assert_eq!((&to["added"], &to["onlyWithBackfill"]), (&nothing, &all), "{told:#}");
    let listed = |name: &str| json!({ "repository": name, "change": "begins", "manifests": 1, "tags": 1 });
    assert_eq!(to["listed"], json!([listed("team/app"), listed("team/other")]), "{told:#}");
    let told = dry_run(&eu, &json!([rule("us", true)]));
    let to = &told["destinations"][0];
    assert_eq!((&to["added"], &to["onlyWithBackfill"]), (&all, &nothing), "{told:#}");
    let (status, rules) = cli(&eu, &["replication", "rules"]);
    assert_eq!((status, serde_json::from_str(&rules).ok()), (0, Some(json!({ "rules": [] }))), "{rules}");

    set(&eu, &json!([rule("us", false)]));
    push(&eu, 1, "team/app", "v2", &two);
    arrives(&us, 1, "team/app", "v2", &two);
    let told = dry_run(&eu, &json!([rule("us", true)]));
    let to = &told["destinations"][0];
    assert_eq!((&to["begins"], &to["sentAlready"]), (&json!(0), &amount(&[&two], 100_002)), "{told:#}");
    assert_eq!(to["added"], amount(&[&one, &one], 100_000), "what was sent costs nothing again: {told:#}");
    let told = dry_run(&eu, &json!([]));
    assert_eq!((&told["destinations"][0]["ends"], &told["destinations"][0]["repositories"]), (&json!(2), &json!(0)));

    // and so it comes
    set(&eu, &json!([rule("us", true)]));
    for repository in ["team/app", "team/other"] {
        arrives(&us, 1, repository, "v1", &one);
    }
    wait("all of it was sent", PATIENCE, || {
        let to = dry_run(&eu, &json!([rule("us", true)]))["destinations"][0].clone();
        (&to["added"], &to["sentAlready"]["manifests"]) == (&nothing, &json!(3))
    });
}

// What setting the rules refuses, the dry run refuses in the same words.
#[test]
fn bad_rules_are_refused_alike() {
    let eu = start(144, "eu", 1);
    let many = vec![rule("us", false); 11];
    for bad in [json!([rule("nowhere", false)]), json!([rule("eu", false)]), json!(many), json!([{ "x": 1 }])] {
        let path = file(&eu, &bad);
        let (set, by_set) = cli(&eu, &["replication", "set", &path]);
        let (tried, by_dry_run) = cli(&eu, &["replication", "set", &path, "--dry-run"]);
        assert!(set != 0 && set == tried, "{set} {tried}");
        assert_eq!(by_set, by_dry_run);
    }
}
