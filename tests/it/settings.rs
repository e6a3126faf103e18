//! What owners set of their repositories follows where a rule says so, and is compared as images are.

use registry_core::metadata::repository::Settings;
use serde_json::{Value, json};

use crate::backfill::{cli, equal};
use crate::drift::{Store, found, verify};
use crate::regions::{PATIENCE, admin, arrives, linked, set_rule_with, start};
use crate::support::image::push;
use crate::support::{Cluster, wait};

fn set(cluster: &Cluster, name: &str, settings: &Value) {
    make(cluster, "PATCH", &format!("/v1/repositories/{name}"), settings);
}

fn make(cluster: &Cluster, method: &str, path: &str, body: &Value) {
    let request = admin(cluster, method, path).header("Content-Type", "application/json").body(body.to_string());
    let answer = request.settled();
    assert!(matches!(answer.status, 200 | 201), "{} {}", answer.status, answer.text());
}

/// What is set of a repository; `None` while it is not there.
fn settings(cluster: &Cluster, name: &str) -> Option<Value> {
    let answer = admin(cluster, "GET", &format!("/v1/repositories/{name}")).settled();
    (answer.status == 200).then(|| answer.json()["settings"].clone())
}

fn follows(cluster: &Cluster, name: &str, expected: &Value) {
    wait(&format!("{name}: {expected}"), PATIENCE, || settings(cluster, name).as_ref() == Some(expected));
}

// R15: settings from before a rule and later ones follow, into repositories that are not there yet as well; the newer
// one stands where both regions set some; a row that was altered beneath the product is found, named and mended; both
// sides are equal by their exports.
#[test]
fn r15_settings_follow() {
    let (eu, us) = (start(160, "eu", 1), start(161, "us", 1));
    let fixed = json!({ "mutability": "immutable", "exclusions": [], "sparse": false });
    make(&eu, "POST", "/v1/repositories", &json!({ "name": "team/before", "settings": fixed }));
    make(&eu, "POST", "/v1/repositories", &json!({ "name": "other/app", "settings": fixed }));
    push(&eu, 1, "team/app", "v1", b"one");
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "settings": { "enabled": true } }));
    follows(&us, "team/before", &fixed);

    let but = json!({ "mutability": "immutable_with_exclusion", "exclusions": ["dev-*"], "sparse": true });
    set(&eu, "team/app", &but);
    follows(&us, "team/app", &but);
    push(&eu, 1, "team/app", "v2", b"two");
    arrives(&us, 1, "team/app", "v2", b"two");
    assert_eq!((settings(&us, "other/app"), settings(&us, "team/app").as_ref()), (None, Some(&but)));
    let clean = verify(&us, "eu");
    assert_eq!(clean["clean"], true, "{clean:#}");
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);

    us.kill_node(1);
    {
        let store = Store::open(&us, 1);
        store.put_settings(&store.repository("team/before"), Settings::default());
    }
    us.start_node(1);
    let drift = verify(&us, "eu");
    assert_eq!(found(&drift), ["different -"], "{drift:#}");
    assert_eq!(drift["found"][0]["settings"], true, "{drift:#}");
    follows(&us, "team/before", &fixed);

    // a quota is each region's own, and no word about settings
    make(&us, "PATCH", "/v1/repositories/team/app", &json!({ "quota": { "bytes": 1_000_000_000 } }));
    let quiet = verify(&us, "eu");
    assert_eq!((&quiet["clean"], &quiet["verdicts"]["won_here"]), (&json!(true), &Value::Null), "{quiet:#}");
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);
    let change = json!({ "mutability": "immutable", "exclusions": [], "sparse": true });
    set(&eu, "team/app", &change);
    follows(&us, "team/app", &change);

    // set here since, and not sent back
    let free = json!({ "mutability": "mutable", "exclusions": [], "sparse": false });
    set(&us, "team/before", &free);
    let ours = verify(&us, "eu");
    assert_eq!((&ours["clean"], &ours["verdicts"]["won_here"]), (&json!(true), &json!(1)), "{ours:#}");
    assert_eq!(settings(&eu, "team/before").as_ref(), Some(&fixed));
    set(&eu, "team/before", &but);
    follows(&us, "team/before", &but);

    // the other way too: the same in both, and what is damaged where it was set is mended there
    set_rule_with(&us, "eu", "team/", &json!({ "settings": { "enabled": true } }));
    set(&us, "team/before", &free);
    follows(&eu, "team/before", &free);
    us.kill_node(1);
    {
        let store = Store::open(&us, 1);
        let row = store.repository("team/before");
        store.put_settings(&row, Settings { sparse: true, ..Settings::default() });
    }
    us.start_node(1);
    wait("the source has mended its row", PATIENCE, || {
        let (_, text) = cli(&eu, &["replication", "verify", "us"]);
        settings(&us, "team/before").as_ref() == Some(&free) || {
            println!("{text}");
            false
        }
    });
    assert_eq!(verify(&eu, "us")["clean"], true);
}
