//! Rules that send some tags only: what these lead to arrives whole, with what is attached to any manifest, and nothing
//! else does; and both regions are compared by that.

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::backfill::equal;
use crate::drift::{Store, found, verify};
use crate::dry_run::dry_run;
use crate::regions::{PATIENCE, admin, arrives, delete, link_state, linked, set_rule_with, start, tag, told};
use crate::support::image::{MANIFEST, large, manifest, push, push_blobs, put};
use crate::support::{Cluster, http, wait};
use crate::through::{arrived, get, pause, pulls_whole};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn tags() -> Value {
    json!({ "include": ["v*"], "exclude": ["*-rc*"] })
}

fn digest_of(manifest: &str) -> Digest {
    Digest::sha256(manifest.as_bytes())
}

/// The tag under which cosign puts what it says of a manifest.
fn signature_tag(manifest: &str) -> String {
    format!("sha256-{}.sig", digest_of(manifest).hex())
}

/// A manifest as it is named by others.
fn named(manifest: &str) -> String {
    let digest = digest_of(manifest);
    format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}"#, manifest.len())
}

/// Pushes a manifest of one layer that is attached to another one (OCI `subject`); what it says.
fn attach(cluster: &Cluster, layer: &[u8], subject: &str) -> String {
    let plain = manifest(layer);
    let attached = format!(r#"{},"subject":{}}}"#, plain.strip_suffix('}').unwrap(), named(subject));
    push_blobs(cluster, 1, "team/app", layer);
    put(cluster, 1, "team/app", &digest_of(&attached).to_string(), &attached);
    attached
}

/// Puts an index of these manifests under a tag; what it says.
fn put_index(cluster: &Cluster, name: &str, children: &[&str]) -> String {
    let children: Vec<String> = children.iter().map(|child| named(child)).collect();
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, children.join(","));
    let url = format!("{}/v2/team/app/manifests/{name}", cluster.node(1));
    let put = http::request("PUT", &url).key(&cluster.key()).header("Content-Type", INDEX).body(index.clone());
    let answer = put.send();
    assert_eq!(answer.status, 201, "{}", answer.text());
    index
}

fn has(cluster: &Cluster, manifest: &str) -> bool {
    let url = format!("{}/v2/team/app/manifests/{}", cluster.node(1), digest_of(manifest));
    let accepted = format!("{MANIFEST}, {INDEX}");
    let status = http::request("HEAD", &url).key(&cluster.key()).header("Accept", &accepted).settled().status;
    assert!(matches!(status, 200 | 404), "{status} for {url}");
    status == 200
}

fn has_blob(cluster: &Cluster, bytes: &[u8]) -> bool {
    get(cluster, 1, &format!("team/app/blobs/{}", Digest::sha256(bytes))).status == 200
}

/// How far an image is in each region that a rule sends it to.
fn statuses(cluster: &Cluster, reference: &str) -> Vec<Value> {
    let told =
        admin(cluster, "GET", &format!("/v1/replication/images/team/app?reference={reference}")).settled().json();
    told["replicationStatuses"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect()
}

// R12: of an image that a tag leads to which passes all arrives; of others neither tag, manifest nor blob. Signatures
// of both kinds arrive, also where an index that stays behind names one. Deletes go by the tags as well. A comparison
// goes by the same filter: it is clean, and finds damage beneath the tags that pass.
#[test]
fn r12_some_tags_arrive() {
    let (eu, us) = (start(176, "eu", 1), start(177, "us", 1));
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "tags": tags(), "deleteReplication": { "enabled": true } }));
    push(&eu, 1, "team/app", "dev", &large(1));
    push(&eu, 1, "team/app", "v1-rc1", &large(2));
    push(&eu, 1, "team/app", "v1", &large(3));
    let v1 = manifest(&large(3));
    put(&eu, 1, "team/app", "v1.0", &v1);
    let signed = signature_tag(&v1);
    push(&eu, 1, "team/app", &signed, b"signature");
    let (referrer, other) = (attach(&eu, b"sbom", &v1), attach(&eu, b"another signature", &v1));
    let child = manifest(b"child");
    push_blobs(&eu, 1, "team/app", b"child");
    put(&eu, 1, "team/app", &digest_of(&child).to_string(), &child);
    let index = put_index(&eu, "v2", &[&child]);
    // one that stays behind, and renews what is attached
    let behind = put_index(&eu, "dev-all", &[&v1, &referrer]);

    arrives(&us, 1, "team/app", "v1", &large(3));
    arrives(&us, 1, "team/app", "v1.0", &large(3));
    arrives(&us, 1, "team/app", &signed, b"signature");
    wait("the index arrives whole", PATIENCE, || has(&us, &index) && has(&us, &child) && has_blob(&us, b"child"));
    wait("what is attached arrives", PATIENCE, || has(&us, &referrer) && has(&us, &other));
    let listed = get(&us, 1, &format!("team/app/referrers/{}", digest_of(&v1))).text();
    assert!([&referrer, &other].iter().all(|one| listed.contains(&digest_of(one).to_string())), "{listed}");
    let clean = verify(&us, "eu");
    // three tags that pass, a signature's, and two manifests that are attached
    assert_eq!((&clean["clean"], &clean["records"]), (&json!(true), &json!(6)), "{clean:#}");
    for (name, layer) in [("dev", large(1)), ("v1-rc1", large(2))] {
        assert_eq!(tag(&us, 1, "team/app", name), None, "{name}");
        assert!(!has(&us, &manifest(&layer)) && !has_blob(&us, &layer), "{name}");
    }
    assert!(!has(&us, &behind) && tag(&us, 1, "team/app", "dev-all").is_none());
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);
    wait("it is told so", PATIENCE, || statuses(&eu, "v1") == ["COMPLETE"]);
    assert_eq!((statuses(&eu, "v1-rc1"), statuses(&eu, "dev")), (vec![], vec![]));
    assert_eq!(statuses(&eu, &digest_of(&child).to_string()), ["COMPLETE"], "a tag leads to it");

    // an image comes under the name that passes, not under the other one; what is deleted there goes by names too
    push(&us, 1, "team/app", "dev", b"ours");
    put(&eu, 1, "team/app", "v3", &manifest(&large(1)));
    arrives(&us, 1, "team/app", "v3", &large(1));
    push(&eu, 1, "team/app", "v4", b"four");
    arrives(&us, 1, "team/app", "v4", b"four");
    delete(&eu, "team/app", "dev");
    delete(&eu, "team/app", "v4");
    wait("v4 goes", PATIENCE, || tag(&us, 1, "team/app", "v4").is_none());
    let ours = digest_of(&manifest(b"ours")).to_string();
    assert_eq!(tag(&us, 1, "team/app", "dev"), Some(ours), "a delete of another name does nothing");
    arrives(&us, 1, "team/app", "v3", &large(1));
    assert_eq!(verify(&us, "eu")["clean"], true);

    us.kill_node(1);
    {
        let store = Store::open(&us, 1);
        let repository = store.repository("team/app");
        store.put_tag(&repository, "v1", None);
        store.drop_manifest(&repository, &digest_of(&manifest(&large(1))));
        store.drop_manifest(&repository, &digest_of(&child));
    }
    us.start_node(1);
    assert!(!has(&us, &child) && tag(&us, 1, "team/app", "v1").is_none());
    let drift = verify(&us, "eu");
    assert_eq!(found(&drift), ["missing -", "missing -", "missing v1"], "{drift:#}");
    arrives(&us, 1, "team/app", "v1", &large(3));
    arrives(&us, 1, "team/app", "v3", &large(1));
    assert!(has(&us, &child));
    let again = verify(&us, "eu");
    assert_eq!((&again["clean"], &again["differences"]), (&json!(true), &json!(0)), "{again:#}");
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);
}

// R18: a tag that the rule leaves out is not there, also while the other region can't be asked, and whoever still
// believes in an older rule; what it names is served by digest.
#[test]
fn other_tags_are_not_read_through() {
    let (eu, us) = (start(178, "eu", 1), start(179, "us", 1));
    let link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "readThrough": "full" }));
    push(&eu, 1, "team/app", "v0", b"arrives by itself");
    arrived(&us, "team/app", "v0", b"arrives by itself");
    pause(&us, true);
    let more = json!({ "readThrough": "full", "tags": tags() });
    set_rule_with(&eu, "us", "team/", &more);
    push(&eu, 1, "team/app", "v1", b"one");
    push(&eu, 1, "team/app", "dev", b"dev");
    // us has not heard of the filter: eu says no
    pulls_whole(&us, 1, "team/app", "v1", b"one");
    assert_eq!(get(&us, 1, "team/app/manifests/dev").status, 404);
    pulls_whole(&us, 1, "team/app", &digest_of(&manifest(b"dev")).to_string(), b"dev");

    pause(&us, false);
    arrived(&us, "team/app", "v1", b"one");
    // what a rule lets through is told behind the changes of a round: with the first of the next it is known
    push(&eu, 1, "team/app", "v2", b"two");
    arrived(&us, "team/app", "v2", b"two");
    pause(&us, true);
    push(&eu, 1, "team/app", "v3", b"three");
    pulls_whole(&us, 1, "team/app", "v3", b"three");
    link.cut();
    assert_eq!(get(&us, 1, "team/app/manifests/v3").status, 503);
    assert_eq!(get(&us, 1, "team/app/manifests/dev").status, 404);
    link.mend();
}

// What was there before a rule comes by the same filter, and is counted by it beforehand; rules that contradict each
// other are refused, and so is what is no filter.
#[test]
fn some_of_what_was_before() {
    let (eu, us) = (start(182, "eu", 1), start(183, "us", 1));
    let _link = linked(&eu, &us);
    push(&eu, 1, "team/app", "v1", &large(1));
    push(&eu, 1, "team/app", "dev", &large(2));
    push(&eu, 1, "team/app", "v1-rc1", &large(3));
    let v1 = manifest(&large(1));
    push(&eu, 1, "team/app", &signature_tag(&v1), b"signature");
    let referrer = attach(&eu, b"sbom", &v1);
    let rule = |prefix: &str, tags: &Value| {
        json!({
            "destinations": [{ "region": "us", "registryId": "000000000000" }],
            "repositoryFilters": [{ "filter": prefix, "filterType": "PREFIX_MATCH" }],
            "backfill": { "enabled": true },
            "tags": tags,
        })
    };
    let told = dry_run(&eu, &json!([rule("team/", &tags())]));
    let manifests = v1.len() + manifest(b"signature").len() + referrer.len();
    let bytes = manifests + large(1).len() + b"signature".len() + b"sbom".len() + b"{}".len();
    assert_eq!(told["destinations"][0]["added"], json!({ "manifests": 3, "tags": 2, "bytes": bytes }), "{told:#}");

    let set = |rules: Value| {
        let put = admin(&eu, "PUT", "/v1/replication/rules").header("Content-Type", "application/json");
        let answer = put.body(json!({ "rules": rules }).to_string()).settled();
        (answer.status, answer.text())
    };
    let (status, text) = set(json!([rule("team/", &tags()), rule("team/app", &json!({ "include": ["dev"] }))]));
    assert!(status == 400 && text.contains("rules 1 and 2 cover the same repositories for region 'us'"), "{text}");
    for bad in [json!({ "include": ["a b"] }), json!({ "exclude": vec!["v*"; 6] }), json!({ "only": ["v*"] })] {
        let (status, text) = set(json!([rule("team/", &bad)]));
        assert_eq!(status, 400, "{text}");
    }
    let (status, text) = set(json!([rule("team/", &tags()), rule("apart/", &json!({ "include": ["dev"] }))]));
    assert_eq!(status, 204, "{text}");
    let shown = admin(&eu, "GET", "/v1/replication/rules").settled().json();
    assert_eq!(shown["rules"][0]["tags"], tags(), "{shown:#}");

    arrives(&us, 1, "team/app", "v1", &large(1));
    wait("it is over", PATIENCE, || link_state(&us, "eu")["backfill"]["ended_at"].is_string());
    assert!(has(&us, &referrer) && tag(&us, 1, "team/app", &signature_tag(&v1)).is_some());
    for (name, layer) in [("dev", large(2)), ("v1-rc1", large(3))] {
        assert!(tag(&us, 1, "team/app", name).is_none() && !has(&us, &manifest(&layer)), "{name}");
        assert!(!has_blob(&us, &layer), "{name}");
    }
    let clean = verify(&us, "eu");
    assert_eq!(clean["clean"], true, "{clean:#}");
    assert!(equal(&eu, "eu", &us, "us").0, "{}", equal(&eu, "eu", &us, "us").1);
}

// What waits for a region while its rule gets other tags comes still, if both filters let it through, deletes too; what
// only the new one lets through comes from then on, or with backfill. Both regions mean the same records all along.
#[test]
fn a_filter_that_changes() {
    let (eu, us) = (start(212, "eu", 1), start(213, "us", 1));
    let link = linked(&eu, &us);
    let set = |include: &[&str], backfill: bool| {
        let (tags, enabled) = (json!({ "include": include }), json!({ "enabled": true }));
        let mut more = json!({ "tags": tags, "deleteReplication": enabled });
        if backfill {
            more["backfill"] = enabled;
        }
        set_rule_with(&eu, "us", "team/", &more);
    };
    set(&["v*"], false);
    push(&eu, 1, "team/app", "v0", b"zero");
    arrives(&us, 1, "team/app", "v0", b"zero");
    link.cut();
    for (name, layer) in [("v1", b"one"), ("v2", b"two"), ("dev", b"dev")] {
        push(&eu, 1, "team/app", name, layer);
    }
    delete(&eu, "team/app", "v0");
    set(&["v0", "v1*", "dev"], false);
    push(&eu, 1, "team/app", "v1.1", b"later");
    link.mend();
    arrives(&us, 1, "team/app", "v1", b"one");
    arrives(&us, 1, "team/app", "v1.1", b"later");
    wait("v0 goes", PATIENCE, || tag(&us, 1, "team/app", "v0").is_none());
    let is_the_same = || {
        let report = verify(&us, "eu");
        assert_eq!((&report["clean"], &report["differences"]), (&json!(true), &json!(0)), "{report:#}");
        let (is_equal, text) = equal(&eu, "eu", &us, "us");
        assert!(is_equal, "{text}");
    };
    is_the_same();
    for absent in ["v2", "dev"] {
        assert_eq!(tag(&us, 1, "team/app", absent), None, "{absent}");
    }
    push(&eu, 1, "team/app", "dev", b"next");
    arrives(&us, 1, "team/app", "dev", b"next");

    // with backfill what was before comes by the first filter, and by the second one what it lets through as well
    let filled = |rule: &str| {
        wait(&format!("{rule}: what was before is there"), PATIENCE, || {
            let told = link_state(&us, "eu")["backfill"].clone();
            told["ended_at"].is_string() && told["total"].as_u64() > Some(0)
        });
    };
    set(&["v1*"], true);
    filled("the first");
    is_the_same();
    assert_eq!(tag(&us, 1, "team/app", "v2"), None);
    set(&["v*"], true);
    arrives(&us, 1, "team/app", "v2", b"two");
    filled("the second");
    is_the_same();
}

// What is attached to an image that stays behind goes by age, where that is wanted; the tag that brings the image later
// brings it again, with what is attached to that, and with it both stay.
#[test]
fn signatures_come_back_with_their_image() {
    let eu = start(214, "eu", 1);
    let wishes = ["node.region=us", "gc.grace=1s", "gc.fuse_percent=100", "gc.orphaned=6s"];
    let us = Cluster::start_nodes(215, 1, &wishes);
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "tags": tags() }));
    push(&eu, 1, "team/app", "dev", &large(1));
    let image = manifest(&large(1));
    let child = put_index(&eu, "dev-all", &[&image]);
    let attached = attach(&eu, b"sbom", &image);
    let all = [attach(&eu, b"signature of it", &attached), attach(&eu, b"of the index", &child), attached];
    wait("they arrive", PATIENCE, || all.iter().all(|one| has(&us, one)));
    wait("and go again", PATIENCE, || !all.iter().any(|one| has(&us, one)));
    assert_eq!(verify(&us, "eu")["clean"], true, "that is explained");

    assert_eq!(put_index(&eu, "v1", &[&image]), child);
    wait("the index arrives", PATIENCE, || has(&us, &child) && has(&us, &image));
    for one in &all {
        wait(&format!("{} comes back", digest_of(one)), PATIENCE, || has(&us, one));
    }
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert!(all.iter().all(|one| has(&us, one)), "they belong to what is kept");
    let clean = verify(&us, "eu");
    assert_eq!((&clean["clean"], &clean["differences"]), (&json!(true), &json!(0)), "{clean:#}");
}

// What is attached to an image goes by age, as an orphan, while a tag brings the image slowly; it is brought behind the
// image and before the tag, and stays with it.
#[test]
fn signatures_outlast_a_slow_image() {
    let eu = start(218, "eu", 1);
    let wishes = ["node.region=us", "gc.grace=1s", "gc.fuse_percent=100", "gc.orphaned=6s"];
    let us = Cluster::start_nodes(219, 1, &wishes);
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "tags": tags() }));
    push(&eu, 1, "team/app", "dev", &large(1));
    let image = manifest(&large(1));
    // of a layer that all images here share, so that it is not slow itself
    let attached = attach(&eu, b"{}", &image);
    wait("it arrives", PATIENCE, || has(&us, &attached));

    // a layer takes 40 seconds, of which the next one that comes has to wait for the rest
    pause(&us, true);
    told(&us, "PATCH", "/v1/regions/eu", &json!({ "bytes_per_second": large(1).len() / 40 }));
    pause(&us, false);
    push(&eu, 1, "team/app", "v0", &large(2));
    arrives(&us, 1, "team/app", "v0", &large(2));
    put(&eu, 1, "team/app", "v1", &image);
    wait("it goes by age", PATIENCE, || !has(&us, &attached));
    assert_eq!(tag(&us, 1, "team/app", "v1"), None, "the image is on its way");
    wait("the image arrives", 2 * PATIENCE, || tag(&us, 1, "team/app", "v1").is_some());
    assert!(has(&us, &attached), "and what is attached to it is there");
    arrives(&us, 1, "team/app", "v1", &large(1));
    std::thread::sleep(std::time::Duration::from_secs(10));
    assert!(has(&us, &attached), "it belongs to what is kept");
    let clean = verify(&us, "eu");
    assert_eq!((&clean["clean"], &clean["differences"]), (&json!(true), &json!(0)), "{clean:#}");
}
