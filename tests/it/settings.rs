//! What owners set of their repositories follows where a rule says so, and is compared as images are.

use std::time::Duration;

use registry_core::metadata::repository::Settings;
use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::backfill::{cli, equal};
use crate::drift::{Store, found, verify};
use crate::regions::{PATIENCE, admin, arrives, conflicts, linked, set_rule_with, start};
use crate::support::image::{MANIFEST, manifest, push};
use crate::support::{Cluster, http, wait};

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

/// The status of a push of an image to a node, and what was said.
fn pushed(cluster: &Cluster, name: &str, layer: &[u8]) -> (u16, Value) {
    let url = format!("{}/v2/team/app/manifests/{name}", cluster.node(1));
    let put = http::request("PUT", &url).key(&cluster.key()).header("Content-Type", MANIFEST);
    let answer = put.body(manifest(layer)).settled();
    (answer.status, serde_json::from_slice::<Value>(&answer.body).unwrap_or_default()["errors"][0].clone())
}

fn digest_of(layer: &[u8]) -> String {
    Digest::sha256(manifest(layer).as_bytes()).to_string()
}

/// Both regions list what was lost, and have it still.
fn is_listed([eu, us]: [&Cluster; 2], name: &str, kept: &[u8], lost: &[u8]) {
    let told = [json!(name), json!(digest_of(kept)), json!(digest_of(lost))];
    for cluster in [eu, us] {
        wait(&format!("{told:?} is listed"), PATIENCE, || conflicts(cluster).contains(&told));
        arrives(cluster, 1, "team/app", &digest_of(lost), lost);
    }
}

fn move_home(cluster: &Cluster, words: &[&str]) -> (i32, String) {
    cli(cluster, &[&["repo", "home", "team/app"], words].concat())
}

// A repository with a home is written there alone: others say where, and get what it takes. Frozen, it moves without a
// loss; from a region that is lost it is taken, and what that still took loses, and is listed. Where both regions name
// one before they hear of each other, one of them is it afterwards, and nothing that was taken under either is gone.
#[test]
fn homes_move() {
    let (eu, us) = (start(164, "eu", 1), start(165, "us", 1));
    let link = linked(&eu, &us);
    let (status, text) = {
        push(&eu, 1, "team/app", "v1", b"one");
        move_home(&eu, &["take"])
    };
    assert!(status != 0 && text.contains("no rule here copies settings"), "{text}");
    let more = json!({ "settings": { "enabled": true }, "backfill": { "enabled": true } });
    set_rule_with(&eu, "us", "team/", &more);
    set_rule_with(&us, "eu", "team/", &more);
    arrives(&us, 1, "team/app", "v1", b"one");
    let home = |cluster: &Cluster| {
        let found = admin(cluster, "GET", "/v1/repositories/team/app").settled().json()["home"].clone();
        (found["region"].as_str().unwrap_or_default().to_owned(), found["frozen"] == true)
    };
    let is = |region: &str, is_frozen| (region.to_owned(), is_frozen);
    let comes = |cluster: &Cluster, expected: (String, bool)| {
        wait(&format!("{expected:?}"), PATIENCE, || home(cluster) == expected);
    };
    let (status, text) = move_home(&eu, &["take"]);
    assert_eq!((status, home(&eu)), (0, is("eu", false)), "{text}");
    comes(&us, is("eu", false));
    let (status, told) = pushed(&us, "v2", b"one");
    assert_eq!((status, &told["code"], &told["detail"]["home"]), (403, &json!("DENIED"), &json!("eu")), "{told}");
    assert!(told["message"].as_str().is_some_and(|text| text.contains("region 'eu'")), "{told}");
    let begun = http::request("POST", &format!("{}/v2/team/app/blobs/uploads/", us.node(1))).key(&us.key()).settled();
    assert_eq!(begun.status, 403);
    let (status, text) = move_home(&us, &["take"]);
    assert!(status != 0 && text.contains("home in region 'eu'"), "{text}");

    // planned: everything that was pushed before the freeze is there when the home can be taken
    push(&eu, 1, "team/app", "v2", b"two");
    assert_eq!(move_home(&eu, &["freeze"]).0, 0);
    assert_eq!(pushed(&eu, "v3", b"two").0, 403);
    comes(&us, is("eu", true));
    arrives(&us, 1, "team/app", "v2", b"two");
    assert_eq!(move_home(&us, &["take"]).0, 0);
    comes(&eu, is("us", false));
    push(&us, 1, "team/app", "latest", b"three");
    arrives(&eu, 1, "team/app", "latest", b"three");
    assert_eq!(pushed(&eu, "v3", b"two").0, 403);

    // lost: what the old home still takes loses to what the new one takes, whichever is later
    link.cut();
    assert_eq!(move_home(&eu, &["take", "--accept-loss"]).0, 0);
    push(&eu, 1, "team/app", "latest", b"four");
    push(&us, 1, "team/app", "latest", b"five");
    link.mend();
    arrives(&us, 1, "team/app", "latest", b"four");
    comes(&us, is("eu", false));
    is_listed([&eu, &us], "latest", b"four", b"five");
    assert_eq!((conflicts(&eu).len(), conflicts(&us).len()), (1, 1), "what was taken before the freeze lost nothing");
    for (cluster, region) in [(&us, "eu"), (&eu, "us")] {
        let report = verify(cluster, region);
        assert_eq!(report["clean"], true, "{report:#}");
    }
    assert_eq!(move_home(&eu, &["leave"]).0, 0);
    comes(&us, is("", false));
    push(&us, 1, "team/app", "latest", b"six");
    arrives(&eu, 1, "team/app", "latest", b"six");

    // at once: the later word counts, for the home and for a tag that both have set
    link.cut();
    for (cluster, region) in [(&eu, "eu"), (&us, "us")] {
        let (status, text) = move_home(cluster, &["take"]);
        assert_eq!((status, home(cluster)), (0, is(region, false)), "{text}");
        push(cluster, 1, "team/app", region, region.as_bytes());
        push(cluster, 1, "team/app", "both", format!("both, by {region}").as_bytes());
        // times are told apart by milliseconds
        std::thread::sleep(Duration::from_millis(50));
    }
    link.mend();
    comes(&eu, is("us", false));
    for cluster in [&eu, &us] {
        arrives(cluster, 1, "team/app", "eu", b"eu");
        arrives(cluster, 1, "team/app", "us", b"us");
        arrives(cluster, 1, "team/app", "both", b"both, by us");
        arrives(cluster, 1, "team/app", "latest", b"six");
    }
    is_listed([&eu, &us], "both", b"both, by us", b"both, by eu");
    assert_eq!((conflicts(&eu).len(), conflicts(&us).len()), (2, 2));
    assert_eq!(home(&us), is("us", false));
    assert_eq!(pushed(&eu, "v3", b"two").0, 403);
    push(&us, 1, "team/app", "last", b"seven");
    arrives(&eu, 1, "team/app", "last", b"seven");
    for (cluster, region) in [(&us, "eu"), (&eu, "us")] {
        let report = verify(cluster, region);
        assert_eq!(report["clean"], true, "{report:#}");
    }
}
