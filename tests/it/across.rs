//! One name for two regions: a client of one that asks the other gets manifests there, and large blobs from its own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::limits::LINK_LIFETIME_MS;
use serde_json::{Value, json};

use crate::regions::{PATIENCE, admin, arrives, linked, set_rule, start, told};
use crate::support::door::{Door, proto};
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
/// How long a machine may be so busy that leaders change: well within the minute of a link.
const SETTLED: Duration = Duration::from_secs(30);

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
        assert!(answer.status != 307 || answer.header("cache-control") == "no-store", "{location}");
        answer.status == 307 && location.starts_with(&format!("{to}/"))
    });
    location
}

/// The answer to a client of a network, as soon as that is another one than 503.
fn settled(request: &http::Request, network: u8) -> Answer {
    let by = client(network);
    let mut answer = request.clone().try_send_by(&by).unwrap();
    wait("it is answered", SETTLED, || {
        if answer.status == 503 {
            answer = request.clone().try_send_by(&by).unwrap();
        }
        answer.status != 503
    });
    answer
}

/// Follows a link as clients do: without a credential.
fn follow(location: &str, network: u8) -> Answer {
    settled(&http::request("GET", location), network)
}

/// A link leads to the bytes; from a node that is too busy for it a client may be sent back now and then.
fn leads_to(location: &str, network: u8, bytes: &[u8]) -> Answer {
    let mut answer = follow(location, network);
    wait(&format!("{location} leads to the blob"), SETTLED, || {
        if answer.status == 307 {
            answer = follow(location, network);
        }
        assert!(answer.status == 307 || is_served(&answer, bytes), "{location}: {} {}", answer.status, answer.text());
        answer.status != 307
    });
    answer
}

fn is_served(answer: &Answer, bytes: &[u8]) -> bool {
    answer.status == 200 && answer.body == bytes
}

/// How often the first node decided so.
pub(crate) fn decided(cluster: &Cluster, reason: &str) -> u64 {
    let text = admin(cluster, "GET", "/metrics").settled().text();
    let label = format!("reason=\"{reason}\"");
    let is_it = |line: &&str| line.starts_with("portolan_nearest_decisions_total{") && line.contains(&label);
    let count = |line: &str| line.rsplit_once(' ')?.1.parse::<u64>().ok();
    text.lines().filter(is_it).filter_map(count).sum()
}

/// A client is served where it asks each time, and in the end for this reason: a busy machine may have another one
/// before, that the other region does not say so in time.
fn stays(cluster: &Cluster, network: u8, path: &str, bytes: &[u8], reason: &str) {
    wait(&format!("a client of network {network} stays: {reason}"), PATIENCE, || {
        let before = decided(cluster, reason);
        let answer = settled(&request(cluster, "GET", path), network);
        assert!(is_served(&answer, bytes), "{reason}: {} {}", answer.status, answer.header("location"));
        decided(cluster, reason) > before
    });
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
        let followed = leads_to(&location, network, &layer);
        assert_eq!(followed.header("cache-control"), "private, no-store");
        // a part of it, as a client that broke off asks for it: sent on as well, and served there
        let part = |url: &str| http::request("GET", url).key(&eu.key()).header("Range", "bytes=90000-90009");
        wait("a part of it is sent on", PATIENCE, || {
            let sent = settled(&part(&format!("{}{path}", eu.node(1))), network);
            assert!(matches!(sent.status, 206 | 307), "{}", sent.status);
            sent.status == 307
        });
        let ranged = http::request("GET", &location).header("Range", "bytes=90000-90009");
        wait("the part is served there", SETTLED, || {
            let part = settled(&ranged, network);
            assert!(matches!(part.status, 206 | 307), "{}: {}", part.status, part.text());
            part.status == 206 && part.body == layer[90_000..=90_009]
        });
    }
    let tagged = request(&eu, "GET", "/v2/team/app/manifests/v1").header("Accept", MANIFEST);
    let tagged = settled(&tagged, 2);
    assert_eq!((tagged.status, tagged.text()), (200, manifest(&layer)), "manifests never are sent elsewhere");
    assert_eq!(settled(&request(&eu, "HEAD", &path), 2).status, 200);
    // and the other way: a client of `eu` that asks `us`
    let location = sent_on(&us, EU, &path, &eu.node(1));
    leads_to(&location, EU, &layer);
    // in its own region a client is sent by zone as ever
    let location = sent_on(&us, 3, &path, &us.node(3));
    leads_to(&location, 3, &layer);
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
    assert!(is_served(&forged.settled(), &layer));
    let forged = request(&eu, "GET", &path).header("X-Forwarded-For", "127.78.101.9");
    wait("it is sent on all the same", PATIENCE, || settled(&forged, 2).status == 307);
    let crane = request(&eu, "GET", &path).header("User-Agent", "crane/v1 go-containerregistry/v1");
    assert!(is_served(&settled(&crane, 2), &layer), "who does not follow is not sent");

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
    assert_eq!(follow(&home.replace(&eu.node(1), &us.node(2)), 2).status, 403, "it is for `eu`");
    let none = format!("{}{path}?portolan-link=none", eu.node(1));
    let bare = follow(&home, 3);
    assert_eq!((bare.status, bare.header("location")), (307, &*none));
    assert_eq!(follow(&none, 3).status, 401);

    // a rule that the other region has not heard of: it gives nothing for it; and one that is gone: its links neither,
    // but who was sent by one loses no pull
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
    let mut sent_back = String::new();
    wait("the link holds no more", PATIENCE, || {
        let answer = follow(&before_the_end, 2);
        assert!(answer.status == 307 || is_served(&answer, &layer), "{} {}", answer.status, answer.text());
        sent_back = answer.header("location").to_owned();
        answer.status == 307
    });
    assert!(sent_back.starts_with(&format!("{}{path}?portolan-link=", eu.node(1))), "{sent_back}");
    assert!(is_served(&follow(&sent_back, 2), &layer));

    // after its minute it leads back, where the minute of the other one is over as well: once, and without a right
    std::thread::sleep(
        (Duration::from_millis(LINK_LIFETIME_MS) + Duration::from_secs(1)).saturating_sub(made.elapsed()),
    );
    let late = follow(&location, 2);
    assert_eq!((late.status, late.header("location")), (307, &*home));
    let over = follow(&home, 2);
    assert_eq!((over.status, over.header("location")), (307, &*none));
    assert_eq!(follow(&none, 2).status, 401);
    assert!(is_served(&settled(&http::request("GET", &none).key(&eu.key()), 2), &layer));
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
// sent there again. It is told nothing of what it is not sent.
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

    // what `us` made itself and sends nowhere is not even asked about
    let own = large(7);
    let own_path = format!("/v2/team/app/blobs/{}", push(&us, 1, "team/app", "own", &own));
    link.cut();
    served_here(&eu, &path, &layer, "cut off");
    stays(&us, EU, &own_path, &own, "region_no_copy");
    stays(&us, EU, &path, &layer, "region_silent");
    link.mend();
    is_sent();
    us.signal(1, "-STOP");
    served_here(&eu, &path, &layer, "paused");
    us.signal(1, "-CONT");
    leads_to(&is_sent(), 1, &layer);
    us.kill_node(1);
    served_here(&eu, &path, &layer, "dead");
    assert!(decided(&eu, "region_silent") > 0);
    us.start_node(1);
    leads_to(&is_sent(), 1, &layer);
}

/// A sealed link with another origin of the same length in place of this one.
fn forged(link: &str, origin: &str, other: &str) -> String {
    let mut sealed = BASE64URL_NOPAD.decode(link.as_bytes()).unwrap();
    let at = sealed.windows(origin.len()).position(|bytes| bytes == origin.as_bytes());
    let at = at.expect("who holds a link can read where it leads back");
    sealed[at..][..origin.len()].copy_from_slice(other.as_bytes());
    BASE64URL_NOPAD.encode(&sealed)
}

// T15, T20, R16: where a client is sent back to stands in the seal of the link, and nothing that a request says changes
// it. The region that the client came from has said it, over a connection with its own certificate: no more than an
// origin, not one of this region's, of the same scheme; and it counts for as long as that region is known.
#[test]
fn t15_nobody_is_sent_elsewhere() {
    let (eu, us) = (start(170, "eu", 1), start(171, "us", 1));
    let _link = linked(&eu, &us);
    say_places([&eu, &us]);
    set_rule(&eu, "us", "team/");
    let layer = large(4);
    let digest = push(&eu, 1, "team/app", "v1", &layer);
    let path = format!("/v2/team/app/blobs/{digest}");
    arrives(&us, 1, "team/app", "v1", &layer);
    let location = sent_on(&eu, 1, &path, &us.node(1));
    let back = follow(&location, 3);
    let home = back.header("location").to_owned();
    assert!(back.status == 307 && home.starts_with(&format!("{}{path}?portolan-link=", eu.node(1))), "{home}");
    let of = |url: &str| url.split_once("portolan-link=").unwrap().1.to_owned();
    let (link, right) = (of(&location), of(&home));

    // another origin in the seal, of the link and of the right in it
    let eu_is = eu.node(1);
    let evil = format!("http://evil.{}", "x".repeat(eu_is.len() - "http://evil.".len()));
    for (at, sealed) in [(us.node(1), &link), (eu.node(1), &right)] {
        let url = format!("{at}{path}?portolan-link={}", forged(sealed, &eu_is, &evil));
        let answer = follow(&url, 3);
        assert_eq!((answer.status, answer.header("location")), (403, ""), "{url}");
    }
    // in the address
    let is_home = |answer: &Answer| {
        let to = answer.header("location");
        assert!(to.is_empty() || to.starts_with(&format!("{eu_is}{path}?")), "{to}");
    };
    for query in [
        format!("portolan-link={evil}"),
        "portolan-link=//evil.example/".to_owned(),
        "portolan-link=none%0d%0aLocation:%20http://evil.example/".to_owned(),
        format!("portolan-link=none&back={evil}"),
        format!("portolan-link={link}&back={evil}"),
        format!("portolan-link={right}&back={evil}"),
        format!("portolan-link={link}&portolan-link={evil}"),
    ] {
        for at in [us.node(1), eu.node(1)] {
            let request = http::request("GET", &format!("{at}{path}?{query}"));
            let answer = settled(&request, 3);
            is_home(&answer);
            assert_ne!(answer.status, 200, "{query} at {at}");
        }
        is_home(&settled(&http::request("GET", &format!("{eu_is}{path}?{query}")).key(&eu.key()), 3));
    }
    // in headers
    for (name, value) in [
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "127.78.101.9"),
        ("Forwarded", "for=127.78.101.9;host=evil.example;proto=https"),
        ("Referer", "http://evil.example/"),
        ("Origin", "http://evil.example"),
    ] {
        let asked = request(&eu, "GET", &path).header(name, value);
        wait(&format!("{name} changes nothing"), PATIENCE, || {
            let answer = settled(&asked, 1);
            let to = answer.header("location");
            assert!(to.is_empty() || to.starts_with(&format!("{}{path}?", us.node(1))), "{name}: {to}");
            answer.status == 307
        });
        let followed = settled(&http::request("GET", &location).header(name, value), 3);
        assert_eq!((followed.status, followed.header("location")), (307, &*home), "{name}");
    }

    // what a region may say
    let door = Door::open(&eu, &us);
    let visit = |back: &str, right: &str| proto::LocateRequest {
        repository: "team/app".to_owned(),
        digest: digest.to_string(),
        client: "127.78.3.9".to_owned(),
        back: back.to_owned(),
        right: right.to_owned(),
    };
    let (good, long) = (eu.node(1), "a".repeat(5000));
    for (back, right) in [
        ("http://evil.example/x", ""),
        ("http://evil.example?x=", ""),
        ("http://evil.example#", ""),
        ("http://user@evil.example", ""),
        ("http://evil.example\r\nX: y", ""),
        ("http://evil.example\\", ""),
        ("javascript:alert(1)", ""),
        ("//evil.example", ""),
        ("", ""),
        (good.as_str(), "a&b"),
        (good.as_str(), "a\r\nX: y"),
        (good.as_str(), "a%20b"),
        (good.as_str(), long.as_str()),
    ] {
        let refused = door.locate(visit(back, right)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{back} {right}: {refused}");
    }
    for back in [us.node(1).as_str(), "https://eu.example.com"] {
        let told = door.locate(visit(back, "")).unwrap();
        assert_eq!((told.reason(), &*told.link), (proto::locate_reply::Reason::NoAddress, ""), "{back}");
    }
    let told = door.locate(visit(&good, "")).unwrap();
    assert_eq!((told.reason(), &told.address), (proto::locate_reply::Reason::Served, &us.node(1)));
    let by_hand = format!("{}{path}?portolan-link={}", told.address, told.link);
    leads_to(&by_hand, 3, &layer);
    let bare = follow(&by_hand, 2);
    let none = format!("{eu_is}{path}?portolan-link=none");
    assert_eq!((bare.status, bare.header("location")), (307, &*none));

    // the repository goes in `us`: who was sent there goes back, and is served
    let fresh = sent_on(&eu, 1, &path, &us.node(1));
    let removed = admin(&us, "DELETE", "/v1/repositories/team/app?force=true").settled();
    assert_eq!(removed.status, 200, "{}", removed.text());
    let sent_back = follow(&fresh, 1);
    assert_eq!(sent_back.status, 307, "{}", sent_back.text());
    assert!(is_served(&follow(sent_back.header("location"), 1), &layer));
    // and nobody goes where a region wanted that is not known any more
    let removed = admin(&us, "DELETE", "/v1/regions/eu").settled();
    assert_eq!(removed.status, 204, "{}", removed.text());
    for link in [&fresh, &location, &by_hand] {
        for network in [1, 3] {
            let answer = follow(link, network);
            assert_eq!((answer.status, answer.header("location")), (403, ""), "{link}");
        }
    }
    let refused = door.locate(visit(&good, "")).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
}
