//! One name for two regions: a client of one that asks the other gets manifests there, and large blobs from its own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;
use registry_core::vocabulary::limits::LINK_LIFETIME_MS;
use serde_json::{Value, json};

use crate::regions::{PATIENCE, admin, arrives, linked, set_rule, start, told};
use crate::support::http::{self, Answer};
use crate::support::image::{MANIFEST, large, manifest, push};
use crate::support::{Cluster, wait};
use crate::through::pause;

const KIB: u64 = 1024;
/// Networks of clients, `127.78.N.0/24`: of `us` one for each zone, and one of `eu`.
const US: [(&str, u8); 3] = [("a", 1), ("b", 2), ("c", 3)];
const EU: u8 = 101;
/// What a region that does not answer may cost a pull.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// Each region knows where the clients of both are.
fn say_places(clusters: [&Cluster; 2]) {
    let of = |number: u8, region: &str, zone: &str| {
        let network = format!("127.78.{number}.0/24");
        json!({ "network": network, "region": region, "zone": zone })
    };
    let us = US.map(|(zone, network)| of(network, "us", zone));
    let clients: Vec<Value> = us.into_iter().chain([of(EU, "eu", "a")]).collect();
    for cluster in clusters {
        told(cluster, "PUT", "/v1/places", &json!({ "clients": clients, "redirect_bytes_min": 64 * KIB }));
    }
}

fn client(network: u8) -> reqwest::Client {
    let address: IpAddr = format!("127.78.{network}.9").parse().unwrap();
    http::client_at(address)
}

fn request(cluster: &Cluster, method: &str, path: &str) -> http::Request {
    http::request(method, &format!("{}{path}", cluster.node(1))).key(&cluster.key())
}

/// What a client of a network gets that asks the first node.
fn get(cluster: &Cluster, network: u8, path: &str) -> Answer {
    request(cluster, "GET", path).try_send_by(&client(network)).unwrap()
}

/// Where a client of a network is sent, as soon as that is to a node; a busy machine may be too slow for it now and
/// then.
fn sent_on(cluster: &Cluster, network: u8, path: &str, to: &str) -> String {
    let mut location = String::new();
    wait(&format!("a client of network {network} is sent to {to}"), PATIENCE, || {
        let answer = get(cluster, network, path);
        location = answer.header("location").to_owned();
        answer.status == 307 && location.starts_with(&format!("{to}/"))
    });
    location
}

/// Follows a link as clients do: without a credential.
fn follow(location: &str, network: u8) -> Answer {
    http::request("GET", location).try_send_by(&client(network)).unwrap()
}

fn is_served(answer: &Answer, bytes: &[u8]) -> bool {
    answer.status == 200 && answer.body == bytes
}

/// How often the first node decided so.
fn decided(cluster: &Cluster, reason: &str) -> u64 {
    let text = admin(cluster, "GET", "/metrics").settled().text();
    let label = format!("reason=\"{reason}\"");
    let is_it = |line: &&str| line.starts_with("portolan_nearest_decisions_total{") && line.contains(&label);
    let count = |line: &str| line.rsplit_once(' ')?.1.parse::<u64>().ok();
    text.lines().filter(is_it).filter_map(count).sum()
}

/// A client is served where it asks, for a reason.
fn stays(cluster: &Cluster, network: u8, path: &str, bytes: &[u8], reason: &str) {
    let before = decided(cluster, reason);
    let answer = get(cluster, network, path);
    assert!(is_served(&answer, bytes), "{reason}: {} {}", answer.status, answer.header("location"));
    assert!(decided(cluster, reason) > before, "{reason}");
}

// T14, T15, T20, A26 between regions: a client of `us` that asks `eu` gets the manifest there and the blob from the
// node of its zone in `us`, without showing its credential again; before it has arrived, and of what no rule covers,
// from `eu`. A link is for its blob, its node, its client and a minute, and for as long as there is a rule.
#[test]
fn t15_clients_of_another_region() {
    let (eu, us) = (start(166, "eu", 1), start(167, "us", 3));
    let _link = linked(&eu, &us);
    say_places([&eu, &us]);
    set_rule(&eu, "us", "team/");
    push(&eu, 1, "team/app", "v0", b"the offer comes with it");
    arrives(&us, 1, "team/app", "v0", b"the offer comes with it");

    // it has not arrived; small ones never are worth it; what is covered by no rule is nobody else's
    pause(&us, true);
    let layer = large(1);
    let digest = push(&eu, 1, "team/app", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    stays(&eu, 2, &path, &layer, "region_no_copy");
    stays(&eu, 2, &format!("/v2/team/app/blobs/{}", Digest::sha256(b"{}")), b"{}", "small");
    for cluster in [&eu, &us] {
        push(cluster, 1, "other/app", "v1", &layer);
        push(cluster, 1, "new/app", "v1", &layer);
    }
    push(&us, 1, "team/other", "v1", &layer);
    stays(&eu, 2, &format!("/v2/other/app/blobs/{digest}"), &layer, "region_apart");
    // under a name that is covered `us` gives only what came from `eu`
    let own = large(2);
    let own_digest = push(&us, 1, "team/own", "v1", &own);
    push(&eu, 1, "team/own", "v1", &own);
    stays(&eu, 2, &format!("/v2/team/own/blobs/{own_digest}"), &own, "region_no_copy");

    // each to the node of its zone
    pause(&us, false);
    arrives(&us, 1, "team/app", "v1", &layer);
    for (node, (_, network)) in (1..).zip(US) {
        let location = sent_on(&eu, network, &path, &us.node(node));
        let followed = follow(&location, network);
        assert!(is_served(&followed, &layer), "{location}: {}", followed.text());
        assert_eq!(followed.header("cache-control"), "private, no-store");
    }
    let answer = get(&eu, 2, &path);
    assert_eq!((answer.status, answer.header("cache-control")), (307, "no-store"));
    let tagged = request(&eu, "GET", "/v2/team/app/manifests/v1").header("Accept", MANIFEST);
    let tagged = tagged.try_send_by(&client(2)).unwrap();
    assert_eq!((tagged.status, tagged.text()), (200, manifest(&layer)), "manifests never are sent elsewhere");
    assert_eq!(request(&eu, "HEAD", &path).try_send_by(&client(2)).unwrap().status, 200);
    // and the other way: a client of `eu` that asks `us`
    let location = sent_on(&us, EU, &path, &eu.node(1));
    assert!(is_served(&follow(&location, EU), &layer), "{location}");
    // in its own region a client is sent by zone as ever
    let location = sent_on(&us, 3, &path, &us.node(3));
    assert!(is_served(&follow(&location, 3), &layer), "{location}");
    // an explanation says the same, without a client
    wait("it is explained", PATIENCE, || {
        let told = admin(&eu, "GET", "/v1/nearest/team/app?client=127.78.2.9&reference=v1").settled().json();
        let blobs = told["blobs"].as_array().unwrap();
        let blob = blobs.iter().find(|blob| blob["digest"] == digest.to_string()).unwrap();
        let where_to = [&told["region"], &blob["reason"], &blob["served_by"], &blob["address"]];
        where_to == [&json!("us"), &json!("region"), &json!("us"), &json!(us.node(2))]
    });

    // T20: what a client says of itself changes nothing
    let forged =
        request(&eu, "GET", &path).header("X-Forwarded-For", "127.78.2.9").header("Forwarded", "for=127.78.2.9");
    assert!(is_served(&forged.send(), &layer));
    let forged = request(&eu, "GET", &path).header("X-Forwarded-For", "127.78.101.9");
    assert_eq!(forged.try_send_by(&client(2)).unwrap().status, 307);
    let crane = request(&eu, "GET", &path).header("User-Agent", "crane/v1 go-containerregistry/v1");
    assert!(is_served(&crane.try_send_by(&client(2)).unwrap(), &layer), "who does not follow is not sent");

    // T14, T15: another blob, repository, node, region or a changed link
    let (location, made) = (sent_on(&eu, 2, &path, &us.node(2)), Instant::now());
    let other = |from: &str, to: &str| follow(&location.replace(from, to), 2).status;
    assert_eq!(other("team/app", "team/other"), 403);
    assert_eq!(other("team/app", "other/app"), 403);
    assert_eq!(other(&digest.to_string(), &Digest::sha256(b"{}").to_string()), 403);
    assert_eq!(other(&us.node(2), &us.node(3)), 403);
    assert_eq!(other(&us.node(2), &eu.node(1)), 403);
    assert_eq!(follow(&format!("{location}A"), 2).status, 403);
    let link = location.split_once("portolan-link=").unwrap().1;
    let manifest = format!("{}/v2/team/app/manifests/v1?portolan-link={link}", us.node(2));
    assert_eq!(follow(&manifest, 2).status, 401, "it is for blobs only");
    // one that the other region sees by another address is sent back and let in there without a credential; anybody
    // else has to show one
    let back = follow(&location, 3);
    let home = back.header("location").to_owned();
    assert!(back.status == 307 && home.starts_with(&format!("{}{path}?portolan-link=", eu.node(1))), "{home}");
    assert!(is_served(&follow(&home, 2), &layer));
    let none = format!("{}{path}?portolan-link=none", eu.node(1));
    let bare = follow(&home, 3);
    assert_eq!((bare.status, bare.header("location")), (307, &*none));
    assert_eq!(follow(&none, 3).status, 401);

    // a rule that the other region has not heard of: it gives nothing for it; and one that is gone: its links neither
    let before_the_end = sent_on(&eu, 2, &path, &us.node(2));
    pause(&us, true);
    set_rule(&eu, "us", "new/");
    stays(&eu, 2, &format!("/v2/new/app/blobs/{digest}"), &layer, "region_apart");
    stays(&eu, 2, &path, &layer, "region_apart");
    pause(&us, false);
    for name in ["v2", "v3"] {
        push(&eu, 1, "new/app", name, name.as_bytes());
        arrives(&us, 1, "new/app", name, name.as_bytes());
    }
    wait("the link holds no more", PATIENCE, || follow(&before_the_end, 2).status == 403);

    // after its minute it leads back, once, and without a right
    std::thread::sleep(
        (Duration::from_millis(LINK_LIFETIME_MS) + Duration::from_secs(1)).saturating_sub(made.elapsed()),
    );
    let late = follow(&location, 2);
    assert_eq!((late.status, late.header("location")), (307, &*none));
    let asked = http::request("GET", &none).key(&eu.key()).try_send_by(&client(2)).unwrap();
    assert!(is_served(&asked, &layer));
}

/// Some pulls at `eu` come from there; none fails, and none takes long.
fn served_here(eu: &Cluster, path: &str, layer: &[u8], what: &str) {
    for number in 0..5 {
        let (by, began) = (client(1), Instant::now());
        let answer = request(eu, "GET", path).try_send_by(&by).unwrap();
        assert!(is_served(&answer, layer), "{what}, {number}: {} {}", answer.status, answer.header("location"));
        assert!(began.elapsed() < DELAY_MAX, "{what}, {number}: {:?}", began.elapsed());
    }
}

// R18: a region that is cut off, paused or dead costs less than a second and no pull; when it is back its clients are
// sent there again.
#[test]
fn r18_dead_paused_and_cut_off_regions() {
    let (eu, us) = (start(168, "eu", 1), start(169, "us", 1));
    let link = linked(&eu, &us);
    say_places([&eu, &us]);
    set_rule(&eu, "us", "team/");
    let layer = large(3);
    let digest = push(&eu, 1, "team/app", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    arrives(&us, 1, "team/app", "v1", &layer);
    let is_sent = || sent_on(&eu, 1, &path, &us.node(1));
    is_sent();

    link.cut();
    served_here(&eu, &path, &layer, "cut off");
    link.mend();
    is_sent();
    us.signal(1, "-STOP");
    served_here(&eu, &path, &layer, "paused");
    us.signal(1, "-CONT");
    let location = is_sent();
    assert!(is_served(&follow(&location, 1), &layer));
    us.kill_node(1);
    served_here(&eu, &path, &layer, "dead");
    assert!(decided(&eu, "region_silent") > 0);
    us.start_node(1);
    let location = is_sent();
    assert!(is_served(&follow(&location, 1), &layer));
}
