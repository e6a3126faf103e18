//! Two regions: what is pushed to one is pulled from the other, whatever breaks between them.

use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::support::image::{MANIFEST, large, manifest, push};
use crate::support::link::Link;
use crate::support::{Cluster, http, run, wait};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A region of so many nodes.
pub(crate) fn start(region: u8, name: &str, nodes: u8) -> Cluster {
    Cluster::start_nodes(region, nodes, &[&format!("node.region={name}")])
}

pub(crate) fn admin(cluster: &Cluster, method: &str, path: &str) -> http::Request {
    http::request(method, &format!("{}{path}", cluster.admin(1))).key(&cluster.key())
}

pub(crate) fn told(cluster: &Cluster, method: &str, path: &str, body: &Value) {
    let answer =
        admin(cluster, method, path).header("Content-Type", "application/json").body(body.to_string()).settled();
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// What a region tells of itself, by the command line.
pub(crate) fn card(cluster: &Cluster) -> Value {
    let (admin, key) = (cluster.admin(1), cluster.key_file());
    let words = ["region", "card", "--admin", &admin, "--credentials-file", key.to_str().unwrap()];
    let (status, text) = run(&words);
    assert_eq!(status, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Makes `source` known to `destination`, behind a link.
pub(crate) fn introduce(source: &Cluster, destination: &Cluster, link: &Link) {
    let mut card = card(source);
    let through = |at: &Value| json!(link.to(at.as_str().unwrap().to_owned()));
    let behind: Vec<Value> = card["endpoints"].as_array().unwrap().iter().map(through).collect();
    card["endpoints"] = json!(behind);
    told(destination, "POST", "/v1/regions", &card);
}

/// Makes two regions known to each other, behind one link.
pub(crate) fn linked(one: &Cluster, other: &Cluster) -> Link {
    let link = Link::default();
    introduce(one, other, &link);
    introduce(other, one, &link);
    link
}

pub(crate) fn set_rule(source: &Cluster, to: &str, prefix: &str) {
    set_rule_with(source, to, prefix, &json!({}));
}

/// A rule with more in it.
pub(crate) fn set_rule_with(source: &Cluster, to: &str, prefix: &str, more: &Value) {
    let destination = json!({ "region": to, "registryId": "000000000000" });
    let filter = json!({ "filter": prefix, "filterType": "PREFIX_MATCH" });
    let mut rule = json!({ "destinations": [destination], "repositoryFilters": [filter] });
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    told(source, "PUT", "/v1/replication/rules", &json!({ "rules": [rule] }));
}

/// The digest of a tag at a node; `None` if there is none.
pub(crate) fn tag(cluster: &Cluster, node: u8, repository: &str, tag: &str) -> Option<String> {
    let url = format!("{}/v2/{repository}/manifests/{tag}", cluster.node(node));
    let answer = http::request("HEAD", &url).key(&cluster.key()).header("Accept", MANIFEST).settled();
    match answer.status {
        200 => Some(answer.header("docker-content-digest").to_owned()),
        404 => None,
        other => panic!("{other} for {url}"),
    }
}

/// Waits until an image of one layer can be pulled whole.
pub(crate) fn arrives(cluster: &Cluster, node: u8, repository: &str, name: &str, layer: &[u8]) {
    let digest = Digest::sha256(manifest(layer).as_bytes()).to_string();
    let is_there = || tag(cluster, node, repository, name).as_deref() == Some(digest.as_str());
    wait(&format!("{repository}:{name} arrives"), PATIENCE, is_there);
    let url = format!("{}/v2/{repository}/blobs/{}", cluster.node(node), Digest::sha256(layer));
    let answer = http::request("GET", &url).key(&cluster.key()).send();
    assert_eq!((answer.status, Digest::sha256(&answer.body)), (200, Digest::sha256(layer)), "R11: {repository}:{name}");
}

/// What a cluster tells of another region; its leader tells the most.
pub(crate) fn link_state(cluster: &Cluster, region: &str) -> Value {
    let of = |node: u8| {
        let url = format!("{}/v1/regions", cluster.admin(node));
        let answer = http::request("GET", &url).key(&cluster.key()).try_send().ok()?;
        let regions = (answer.status == 200).then(|| answer.json())?["regions"].as_array()?.clone();
        regions.into_iter().find(|known| known["region"] == region)
    };
    let leader = cluster.leader().unwrap_or(1);
    of(leader).unwrap_or_default()
}

/// Tag, what it names and what it was set to, of all conflicts that a region lists.
pub(crate) fn conflicts(cluster: &Cluster) -> Vec<[Value; 3]> {
    let listed = admin(cluster, "GET", "/v1/replication/conflicts").settled().json();
    let listed = listed["conflicts"].as_array().unwrap().clone();
    listed.iter().map(|one| ["tag", "kept", "lost"].map(|field| one[field].clone())).collect()
}

pub(crate) fn delete(cluster: &Cluster, repository: &str, tag: &str) {
    let url = format!("{}/v2/{repository}/manifests/{tag}", cluster.node(1));
    assert_eq!(http::request("DELETE", &url).key(&cluster.key()).settled().status, 202);
}

// What a rule covers is copied with everything it names, from when there is a rule; what it does not cover is not, and
// neither are deletes. A change that can't be applied is put aside, and those behind it go on. Who is removed gets
// nothing any more.
#[test]
fn what_a_rule_covers_is_copied() {
    let (eu, us) = (start(100, "eu", 1), start(101, "us", 1));
    push(&eu, 1, "team/app", "before", b"before the rule");
    let _link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");

    push(&eu, 1, "team/app", "small", b"a small layer");
    push(&eu, 1, "other/app", "v1", b"not covered");
    push(&eu, 1, "team/app", "large", &large(1));
    arrives(&us, 1, "team/app", "small", b"a small layer");
    arrives(&us, 1, "team/app", "large", &large(1));
    // an index comes with its children
    let child = manifest(b"a small layer");
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{index_type}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(child.as_bytes()),
        child.len()
    );
    push(&eu, 1, "team/index", "child", b"a small layer");
    let url = format!("{}/v2/team/index/manifests/all", eu.node(1));
    let put = http::request("PUT", &url).key(&eu.key()).header("Content-Type", index_type).body(index).send();
    assert_eq!(put.status, 201, "{}", put.text());
    let at = format!("{}/v2/team/index/manifests/all", us.node(1));
    let get = || http::request("GET", &at).key(&us.key()).header("Accept", index_type).settled();
    wait("the index arrives", PATIENCE, || get().status == 200);
    // a tag that moves moves there too; one that is deleted stays
    push(&eu, 1, "team/app", "small", b"another small layer");
    arrives(&us, 1, "team/app", "small", b"another small layer");
    delete(&eu, "team/app", "large");
    push(&eu, 1, "team/app", "last", b"the last one");
    arrives(&us, 1, "team/app", "last", b"the last one");
    assert!(tag(&us, 1, "team/app", "large").is_some(), "deletes are not replicated");
    assert_eq!(tag(&us, 1, "team/app", "before"), None);
    assert_eq!(tag(&us, 1, "other/app", "v1"), None);

    // what has become of an image is told where it was pushed
    let status = |of: &str, reference: &str| {
        let told = admin(&eu, "GET", &format!("/v1/replication/images/{of}?reference={reference}")).settled().json();
        let told = told["replicationStatuses"].as_array().unwrap().clone();
        told.iter().map(|one| [&one["region"], &one["status"]].map(|text| text.to_string())).collect::<Vec<_>>()
    };
    let us_is = |told: &str| vec![["\"us\"".to_owned(), format!("\"{told}\"")]];
    wait("it is there, and told so", PATIENCE, || status("team/app", "last") == us_is("COMPLETE"));
    assert_eq!((status("team/app", "before"), status("other/app", "v1")), (vec![], vec![]));

    // no room in one repository: put aside, and told; others go on
    let quota = json!({ "name": "team/full", "quota": { "bytes": 10 } });
    let made = admin(&us, "POST", "/v1/repositories").header("Content-Type", "application/json");
    assert_eq!(made.body(quota.to_string()).settled().status, 201);
    push(&eu, 1, "team/full", "v1", b"more than ten bytes");
    push(&eu, 1, "team/app", "behind", b"behind it");
    arrives(&us, 1, "team/app", "behind", b"behind it");
    // the manifest, and the tag that names it
    wait("the changes are put aside", PATIENCE, || link_state(&us, "eu")["followed"]["parked"] == 2);
    wait("that is told where it was pushed", PATIENCE, || status("team/full", "v1") == us_is("FAILED"));
    let followed = || link_state(&us, "eu")["followed"].clone();
    wait("nothing is open", PATIENCE, || followed()["connected"] == true && followed()["open"] == 0);
    // the cursors meet: of what was made there all is applied here, and known there to be so
    wait("the source hears of it", PATIENCE, || {
        let (taken, given) = (link_state(&us, "eu"), link_state(&eu, "us"));
        taken["taken"]["index"].as_u64() > Some(0) && taken["taken"]["index"] == given["given"]["index"]
    });

    // A26: a region that was removed is not answered any more
    let removed = admin(&eu, "DELETE", "/v1/regions/us").settled();
    assert_eq!(removed.status, 204, "{}", removed.text());
    wait("the stream ends", PATIENCE, || link_state(&us, "eu")["followed"]["connected"] == false);
    push(&eu, 1, "team/app", "removed", b"for nobody");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(tag(&us, 1, "team/app", "removed"), None);
}

// R10, R11: the link is cut while images are pushed, and leaders die on both sides; when it is back, everything arrives
// by itself, and nothing twice.
#[test]
fn r10_the_link_is_cut_and_leaders_die() {
    let (eu, us) = (start(102, "eu", 3), start(103, "us", 3));
    let link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    push(&eu, 1, "team/app", "v0", b"layer 0");
    arrives(&us, 2, "team/app", "v0", b"layer 0");
    link.cut();
    let layer =
        |number: u32| if number.is_multiple_of(4) { large(number) } else { format!("layer {number}").into_bytes() };
    for number in 1..=10 {
        push(&eu, 2, "team/app", &format!("v{number}"), &layer(number));
    }
    wait("the loss is seen", PATIENCE, || link_state(&us, "eu")["followed"]["connected"] == false);
    assert_eq!(tag(&us, 1, "team/app", "v1"), None);
    let died = eu.leader().expect("somebody leads");
    eu.kill_node(died);
    link.mend();
    let alive = |dead: u8| (1..=3u8).find(|node| *node != dead).unwrap();
    let other = us.leader().expect("somebody leads");
    us.kill_node(other);
    for number in 11..=14 {
        let url = format!("{}/readyz", eu.admin(alive(died)));
        wait("the region has a leader", PATIENCE, || http::get(&url).is_ok_and(|answer| answer.status == 200));
        push(&eu, alive(died), "team/app", &format!("v{number}"), &layer(number));
    }
    for number in 1..=14 {
        arrives(&us, alive(other), "team/app", &format!("v{number}"), &layer(number));
    }
    us.start_node(other);
    eu.start_node(died);
    for number in [1, 4, 14] {
        arrives(&us, other, "team/app", &format!("v{number}"), &layer(number));
    }
}

// R9, R8: two regions that copy to each other: the later of two settings stays in both, and traffic dies out.
#[test]
fn r9_both_ways() {
    let (eu, us) = (start(104, "eu", 1), start(105, "us", 1));
    let link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    set_rule(&us, "eu", "team/");
    push(&eu, 1, "team/app", "eu", b"from eu");
    push(&us, 1, "team/app", "us", b"from us");
    arrives(&us, 1, "team/app", "eu", b"from eu");
    arrives(&eu, 1, "team/app", "us", b"from us");
    link.cut();
    push(&eu, 1, "team/app", "both", b"the earlier");
    std::thread::sleep(Duration::from_millis(50));
    push(&us, 1, "team/app", "both", b"the later");
    link.mend();
    for cluster in [&eu, &us] {
        arrives(cluster, 1, "team/app", "both", b"the later");
    }
    // the loser stays reachable by its digest, there too
    let loser = Digest::sha256(manifest(b"the earlier").as_bytes()).to_string();
    wait("the loser is known", PATIENCE, || tag(&us, 1, "team/app", &loser).is_some());
    // and either side tells that it was lost
    let winner = Digest::sha256(manifest(b"the later").as_bytes()).to_string();
    for cluster in [&eu, &us] {
        let told = [[json!("both"), json!(winner), json!(loser)]];
        wait("the conflict is listed", PATIENCE, || conflicts(cluster) == told);
    }
    let told = || [link_state(&eu, "us"), link_state(&us, "eu")].map(|state| state["followed"].clone());
    let applied = || told().map(|followed| [followed["applied"].clone(), followed["open"].clone()]);
    wait("nothing is open", PATIENCE, || applied().map(|[_, open]| open) == [json!(0), json!(0)]);
    let before = applied();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(applied(), before, "nothing goes round");
}

// R16: who shows the certificates of another authority is not believed, on either side.
#[test]
fn r16_strangers_are_not_believed() {
    let (eu, us) = (start(106, "eu", 1), start(107, "us", 1));
    let link = Link::default();
    let mut spoilt = card(&us);
    // another authority's certificate: eu's own
    spoilt["ca_pem"] = card(&eu)["ca_pem"].clone();
    told(&eu, "POST", "/v1/regions", &spoilt);
    introduce(&eu, &us, &link);
    set_rule(&eu, "us", "team/");
    push(&eu, 1, "team/app", "v1", b"secret");
    wait("us is refused", PATIENCE, || link_state(&us, "eu")["followed"]["problem"].is_string());
    assert_eq!(link_state(&us, "eu")["followed"]["connected"], false);
    assert_eq!(link_state(&eu, "us")["followed"]["connected"], false);
    assert_eq!(tag(&us, 1, "team/app", "v1"), None);
    // the right card, and all is well
    told(&eu, "POST", "/v1/regions", &card(&us));
    arrives(&us, 1, "team/app", "v1", b"secret");

    let damaged = json!({ "region": "x", "number": 9, "cluster": "0".repeat(32), "endpoints": ["a:1"], "ca_pem": "x" });
    let refused =
        admin(&eu, "POST", "/v1/regions").header("Content-Type", "application/json").body(damaged.to_string());
    let refused = refused.settled();
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("BEGIN CERTIFICATE"), "{}", refused.text());
}
