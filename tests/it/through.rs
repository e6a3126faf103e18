//! Pulls of what has not arrived: answered from the region it comes from, once over the link, never with a false no.

use registry_core::vocabulary::Digest;
use serde_json::json;

use crate::regions::{PATIENCE, admin, arrives, delete, link_state, linked, set_rule_with, start, told};
use crate::support::image::{MANIFEST, large, manifest, push};
use crate::support::{Cluster, http, wait};

pub(crate) fn get(cluster: &Cluster, node: u8, path: &str) -> http::Answer {
    let url = format!("{}/v2/{path}", cluster.node(node));
    http::request("GET", &url).key(&cluster.key()).header("Accept", MANIFEST).send()
}

fn head(cluster: &Cluster, node: u8, path: &str) -> u16 {
    let url = format!("{}/v2/{path}", cluster.node(node));
    http::request("HEAD", &url).key(&cluster.key()).header("Accept", MANIFEST).send().status
}

/// Waits until an image has arrived by itself: lists tell only what is here.
pub(crate) fn arrived(us: &Cluster, repository: &str, tag: &str, layer: &[u8]) {
    let listed = || get(us, 1, &format!("{repository}/tags/list")).text().contains(&format!("\"{tag}\""));
    wait(&format!("{repository}:{tag} arrives"), PATIENCE, listed);
    arrives(us, 1, repository, tag, layer);
}

/// From now on `us` takes nothing by itself: what it has of what is pushed, it has from asking.
pub(crate) fn pause(us: &Cluster, is_paused: bool) {
    told(us, "PATCH", "/v1/regions/eu", &json!({ "paused": is_paused }));
    wait("it is so", PATIENCE, || link_state(us, "eu")["followed"].is_null() == is_paused);
}

pub(crate) fn pulls_whole(cluster: &Cluster, node: u8, repository: &str, reference: &str, layer: &[u8]) {
    let pulled = get(cluster, node, &format!("{repository}/manifests/{reference}"));
    assert_eq!((pulled.status, pulled.text()), (200, manifest(layer)), "{reference}");
    for bytes in [b"{}".as_slice(), layer] {
        let blob = get(cluster, node, &format!("{repository}/blobs/{}", Digest::sha256(bytes)));
        assert_eq!((blob.status, blob.body == bytes), (200, true), "{reference}");
        let length = blob.header("content-length").to_owned();
        assert_eq!(length, bytes.len().to_string());
    }
}

// R11, R18: as soon as a push is acknowledged there, the whole image is pulled here, by tag and by digest, from any
// node. What the rule does not let through, or does not cover, is not there; what was deleted here stays so; and while
// the other region can't be asked, a client is told to come back.
#[test]
fn r11_pulls_fall_through() {
    let (eu, us) = (start(120, "eu", 3), start(121, "us", 3));
    let link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "readThrough": "full" }));
    push(&eu, 1, "team/app", "v0", b"arrives by itself");
    arrived(&us, "team/app", "v0", b"arrives by itself");
    pause(&us, true);

    for (number, layer) in [(1, large(1)), (2, b"small".to_vec())] {
        let name = format!("v{number}");
        push(&eu, 1, "team/app", &name, &layer);
        push(&eu, 1, "team/new", &name, &layer);
        let digest = Digest::sha256(manifest(&layer).as_bytes()).to_string();
        for node in 1..=3 {
            for repository in ["team/app", "team/new"] {
                pulls_whole(&us, node, repository, &name, &layer);
                pulls_whole(&us, node, repository, &digest, &layer);
                assert_eq!(head(&us, node, &format!("{repository}/manifests/{name}")), 200);
            }
        }
        // who pushes has to hear that it is not here
        assert_eq!(head(&us, 1, &format!("team/new/blobs/{}", Digest::sha256(&layer))), 404);
    }
    // a part of one, as a client that broke off asks for it
    let url = format!("{}/v2/team/app/blobs/{}", us.node(2), Digest::sha256(&large(1)));
    let part = http::request("GET", &url).key(&us.key()).header("Range", "bytes=90000-90009").send();
    assert_eq!((part.status, &part.body[..]), (206, &large(1)[90_000..=90_009]));
    assert_eq!(get(&us, 1, "team/app/manifests/never").status, 404);
    push(&eu, 1, "other/app", "v1", b"not covered");
    assert_eq!(get(&us, 1, "other/app/manifests/v1").status, 404);

    // deleted here, by a newer word than it was set there
    delete(&us, "team/app", "v0");
    assert_eq!(get(&us, 1, "team/app/manifests/v0").status, 404);
    push(&eu, 1, "team/app", "v0", b"set anew there");
    pulls_whole(&us, 1, "team/app", "v0", b"set anew there");

    // the link is down: no false no, and what is here, or not covered, as ever
    link.cut();
    push(&eu, 1, "team/app", "late", b"not to be had now");
    for node in 1..=3 {
        let answer = get(&us, node, "team/app/manifests/late");
        assert_eq!((answer.status, answer.header("retry-after").is_empty()), (503, false), "{}", answer.text());
        assert_eq!(get(&us, node, "other/app/manifests/v1").status, 404);
    }
    push(&us, 2, "team/here", "v1", b"pushes go on");
    pulls_whole(&us, 3, "team/here", "v1", b"pushes go on");
    link.mend();
    wait("it is to be had", PATIENCE, || get(&us, 1, "team/app/manifests/late").status == 200);
    pause(&us, false);
    arrived(&us, "team/app", "late", b"not to be had now");

    // by digest only, and then not at all
    pause(&us, true);
    for (through, by_tag, by_digest) in [("digest", 404, 200), ("off", 404, 404)] {
        pause(&us, false);
        set_rule_with(&eu, "us", "team/", &json!({ "readThrough": through }));
        push(&eu, 1, "team/app", &format!("{through}-0"), b"the offer comes with the stream");
        arrived(&us, "team/app", &format!("{through}-0"), b"the offer comes with the stream");
        // what a rule lets through is told behind the changes of a round: with the first of the next it is known
        push(&eu, 1, "team/app", &format!("{through}-1"), b"and the round is over");
        arrived(&us, "team/app", &format!("{through}-1"), b"and the round is over");
        pause(&us, true);
        push(&eu, 1, "team/app", through, format!("only {through}").as_bytes());
        let digest = Digest::sha256(manifest(format!("only {through}").as_bytes()).as_bytes());
        assert_eq!(get(&us, 1, &format!("team/app/manifests/{through}")).status, by_tag, "{through}");
        assert_eq!(get(&us, 1, &format!("team/app/manifests/{digest}")).status, by_digest, "{through}");
    }
    let to = json!([{ "region": "us", "registryId": "000000000000" }]);
    let refused = json!({ "rules": [{ "destinations": to, "readThrough": "half" }] });
    let put = admin(&eu, "PUT", "/v1/replication/rules").header("Content-Type", "application/json");
    assert_eq!(put.body(refused.to_string()).settled().status, 400);
}

// R19: many clients at all nodes want a large image that is not here yet: its bytes cross the link once, also while it
// arrives by itself at the same time, and everybody gets all of it.
#[test]
fn r19_many_want_what_is_not_here() {
    let (eu, us) = (start(122, "eu", 1), start(123, "us", 3));
    let link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "readThrough": "full" }));
    push(&eu, 1, "team/app", "v0", b"arrives by itself");
    arrived(&us, "team/app", "v0", b"arrives by itself");
    let layer: Vec<u8> = (0..60).flat_map(large).collect();
    for is_paused in [true, false] {
        pause(&us, is_paused);
        let layer = [&layer[..], &[u8::from(is_paused)]].concat();
        let name = format!("paused-{is_paused}");
        let before = link.carried();
        push(&eu, 1, "team/app", &name, &layer);
        std::thread::scope(|scope| {
            for client in 0..30u8 {
                let (us, name, layer) = (&us, &name, &layer);
                scope.spawn(move || pulls_whole(us, 1 + client % 3, "team/app", name, layer));
            }
        });
        let carried = link.carried() - before;
        assert!(carried < layer.len() as u64 * 11 / 10, "{name}: {carried} bytes for {}", layer.len());
    }
    arrived(&us, "team/app", "paused-true", &[&layer[..], &[1]].concat());
}
