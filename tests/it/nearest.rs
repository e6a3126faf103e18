//! A client is sent to a node of its own zone for large blobs, by a link that gives nothing of itself.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::across::decided;
use crate::regions::{PATIENCE, admin, told};
use crate::support::http::{self, Answer};
use crate::support::image::{large, push};
use crate::support::{Cluster, wait};

const KIB: u64 = 1024;

/// Clients of each zone have networks of their own; blobs from 64 KiB on are worth a second request.
pub(crate) fn say_places(cluster: &Cluster) {
    let zone =
        |zone: &str, number: u8| json!({ "network": format!("127.77.{number}.0/24"), "region": "dev", "zone": zone });
    let clients: Vec<Value> = [("a", 1), ("b", 2), ("c", 3)].map(|(name, at)| zone(name, at)).into();
    told(cluster, "PUT", "/v1/places", &json!({ "clients": clients, "redirect_bytes_min": 64 * KIB }));
}

fn client(zone: u8) -> reqwest::Client {
    let address: IpAddr = format!("127.77.{zone}.9").parse().unwrap();
    http::client_at(address)
}

fn get(cluster: &Cluster, node: u8, zone: u8, path: &str) -> Answer {
    let request = http::request("GET", &format!("{}{path}", cluster.node(node))).key(&cluster.key());
    request.try_send_by(&client(zone)).unwrap()
}

/// The redirect that a node gives a client of a zone; a busy machine may be too slow for it now and then.
fn sent_on(cluster: &Cluster, node: u8, zone: u8, path: &str) -> Answer {
    let mut answer = get(cluster, node, zone, path);
    wait(&format!("node {node} sends zone {zone} on"), PATIENCE, || {
        if answer.status != 307 {
            answer = get(cluster, node, zone, path);
        }
        answer.status == 307
    });
    answer
}

/// Waits until each zone has a copy.
fn is_everywhere(cluster: &Cluster, path: &str) {
    for (node, zone) in [(1, 2), (1, 3), (2, 1)] {
        sent_on(cluster, node, zone, path);
    }
}

/// Follows a link as clients do: without a credential.
fn follow(location: &str, zone: u8) -> Answer {
    http::request("GET", location).try_send_by(&client(zone)).unwrap()
}

// T14, T15, T20, A27: clients of another zone are sent to a node of it that has a copy, and get the blob there; those
// who are near, unknown or want little are served where they are. A link is for its blob, its node and its client;
// headers change nothing.
#[test]
fn t15_links_to_the_nearest_node() {
    let cluster = Cluster::start(124);
    say_places(&cluster);
    let layer = large(1);
    let digest = push(&cluster, 1, "team/app", "v1", &layer);
    push(&cluster, 1, "team/other", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    is_everywhere(&cluster, &path);
    for zone in 1..=3 {
        for node in 1..=3u8 {
            if zone == node {
                let answer = get(&cluster, node, zone, &path);
                assert_eq!((answer.status, answer.body == layer), (200, true));
                continue;
            }
            let answer = sent_on(&cluster, node, zone, &path);
            let location = answer.header("location").to_owned();
            assert!(location.starts_with(&cluster.node(zone)), "{location}");
            assert_eq!(answer.header("cache-control"), "no-store");
            let followed = follow(&location, zone);
            assert_eq!((followed.status, followed.body == layer), (200, true), "{location}");
        }
    }
    // from nowhere in particular; and too little to be worth it
    let plain = http::request("GET", &format!("{}{path}", cluster.node(1))).key(&cluster.key());
    assert_eq!(plain.send().status, 200);
    let config = format!("/v2/team/app/blobs/{}", Digest::sha256(b"{}"));
    assert_eq!(get(&cluster, 1, 2, &config).status, 200);
    // T20: what a client says of itself changes nothing
    let forged = http::request("GET", &format!("{}{path}", cluster.node(1))).key(&cluster.key());
    let forged = forged.header("X-Forwarded-For", "127.77.2.9").header("Forwarded", "for=127.77.2.9");
    assert_eq!(forged.send().status, 200);

    // who does not follow is not sent
    let crane = http::request("GET", &format!("{}{path}", cluster.node(1))).key(&cluster.key());
    let crane = crane.header("User-Agent", "crane/v1 go-containerregistry/v1").try_send_by(&client(2)).unwrap();
    assert_eq!(crane.status, 200);

    // T15: another blob, repository, node or a changed link
    let location = sent_on(&cluster, 1, 2, &path).header("location").to_owned();
    let other = |from: &str, to: &str| follow(&location.replace(from, to), 2).status;
    assert_eq!(other("team/app", "team/other"), 403);
    assert_eq!(other(&digest.to_string(), &Digest::sha256(b"{}").to_string()), 403);
    assert_eq!(other(&cluster.node(2), &cluster.node(3)), 403);
    assert_eq!(follow(&format!("{location}A"), 2).status, 403);
    // another client is sent back, and has to show who it is there; one that has another address there is served
    let back = follow(&location, 3);
    let home = back.header("location").to_owned();
    let link = location.split_once("portolan-link=").unwrap().1;
    assert_eq!((back.status, &home), (307, &format!("{}{path}?portolan-link={link}", cluster.node(1))));
    let served = follow(&home, 2);
    assert_eq!((served.status, served.body == layer), (200, true));
    let bare = follow(&home, 3);
    assert_eq!(
        (bare.status, bare.header("location")),
        (307, &*format!("{}{path}?portolan-link=none", cluster.node(1)))
    );
    let asked = bare.header("location").to_owned();
    assert_eq!(follow(&asked, 3).status, 401);
    let served = http::request("GET", &asked).key(&cluster.key()).try_send_by(&client(3)).unwrap();
    assert_eq!((served.status, served.body == layer), (200, true));
    let manifest = format!("{}/v2/team/app/manifests/v1?portolan-link={link}", cluster.node(2));
    assert_eq!(follow(&manifest, 2).status, 401, "it is for blobs only");
    assert_eq!(http::request("DELETE", &location).try_send_by(&client(2)).unwrap().status, 401);
    // A27: a repository that takes the name is another one
    let removed = admin(&cluster, "DELETE", "/v1/repositories/team/app?force=true").settled();
    assert_eq!(removed.status, 200);
    push(&cluster, 1, "team/app", "v1", &layer);
    assert_eq!(follow(&location, 2).status, 403);

    // an explanation says the same, without a client
    let told = admin(&cluster, "GET", "/v1/nearest/team/app?client=127.77.2.9&reference=v1").settled().json();
    let blob = told["blobs"].as_array().unwrap().iter().find(|blob| blob["digest"] == digest.to_string()).unwrap();
    assert_eq!((&told["zone"], &blob["reason"]), (&json!("b"), &json!("zone")), "{told}");
    assert!(blob["address"].as_str().unwrap() == cluster.node(2), "{told}");
}

// R18: a node that died, stopped or is paused is not where clients are sent; it costs less than a second.
#[test]
fn r18_dead_and_paused_targets() {
    let cluster = Cluster::start(125);
    say_places(&cluster);
    let layer = large(2);
    let digest = push(&cluster, 1, "team/app", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    is_everywhere(&cluster, &path);
    for (stop, go_on) in [("-STOP", Some("-CONT")), ("-KILL", None)] {
        cluster.signal(3, stop);
        // a ping may have been answered a moment before
        std::thread::sleep(Duration::from_millis(200));
        let by = client(3);
        let request = http::request("GET", &format!("{}{path}", cluster.node(1))).key(&cluster.key());
        let began = std::time::Instant::now();
        let answer = request.try_send_by(&by).unwrap();
        assert_eq!((answer.status, answer.body == layer), (200, true), "{stop}");
        assert!(began.elapsed() < Duration::from_secs(1), "{stop}: {:?}", began.elapsed());
        if let Some(signal) = go_on {
            cluster.signal(3, signal);
            wait("clients are sent on again", PATIENCE, || get(&cluster, 1, 3, &path).status == 307);
        }
    }
}

/// Connections to a node that somebody keeps, each after a first answer.
fn held(cluster: &Cluster, node: u8, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect((cluster.ip(node), cluster.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: registry\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1, "it is taken");
        stream
    };
    (0..count).map(open).collect()
}

// R18: a node of which nine tenths of the connections are taken is sent nobody by other nodes, and serves who comes to
// it; once they are gone it is sent clients again.
#[test]
fn r18_full_targets() {
    let cluster = Cluster::start_with(216, &["http.max_connections=40"]);
    say_places(&cluster);
    let layer = large(3);
    let digest = push(&cluster, 1, "team/app", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    is_everywhere(&cluster, &path);
    let many = held(&cluster, 3, 30);
    sent_on(&cluster, 1, 3, &path);
    let last = held(&cluster, 3, 6);
    // a ping may have been answered a moment before
    std::thread::sleep(Duration::from_millis(200));
    let before = decided(&cluster, "full");
    wait("it is for that", PATIENCE, || {
        for (node, what) in [(1, "by another node"), (2, "by another node"), (3, "by the full one itself")] {
            let answer = get(&cluster, node, 3, &path);
            assert_eq!((answer.status, answer.body == layer), (200, true), "{what}: node {node}");
        }
        // a busy machine may have it be too slow to answer now and then
        decided(&cluster, "full") > before
    });
    wait("it is told", PATIENCE, || {
        let told = admin(&cluster, "GET", "/v1/nearest/team/app?client=127.77.3.9&reference=v1").settled().json();
        let blob = told["blobs"].as_array().unwrap().iter().find(|blob| blob["digest"] == digest.to_string()).unwrap();
        let is_full = |one: &Value| one["zone"] == "c" && one["full"] == true;
        blob["reason"] == "full" && blob["candidates"].as_array().unwrap().iter().any(is_full)
    });
    drop((many, last));
    wait("clients are sent on again", PATIENCE, || get(&cluster, 1, 3, &path).status == 307);
}
