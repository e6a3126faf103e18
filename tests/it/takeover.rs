//! What came from elsewhere is sent on where a rule says so; a region that is lost for good is taken over from, and
//! made anew.

use std::time::Duration;

use registry_core::vocabulary::{Digest, Timestamp};
use serde_json::{Value, json};

use crate::backfill::{cli, cli_at, equal};
use crate::drift::verify;
use crate::regions::{PATIENCE, admin, arrives, card, introduce, link_state, linked, set_rule_with, start, tag, told};
use crate::support::image::{large, manifest, push};
use crate::support::link::Link;
use crate::support::{Cluster, now_ms, wait};
use crate::through::get;

/// The time that a document names, milliseconds since 1970.
fn ms_of(time: &Value) -> u64 {
    Timestamp::parse(time.as_str().unwrap()).unwrap().ms()
}

/// What a pull by tag is answered with.
fn pulled(cluster: &Cluster, name: &str) -> u16 {
    get(cluster, 1, &format!("team/app/manifests/{name}")).status
}

fn settled(cluster: &Cluster, region: &str) -> bool {
    let followed = link_state(cluster, region)["followed"].clone();
    followed["connected"] == true && followed["open"] == 0
}

// R9: three regions in a ring, each of which sends on what it has from the one before: everything comes everywhere,
// once, and each pair is equal. Where the rule does not send on, it does not.
#[test]
fn r9_what_came_from_elsewhere_is_sent_on() {
    let ring = [start(150, "eu", 1), start(151, "us", 1), start(152, "ap", 1)];
    let names = ["eu", "us", "ap"];
    let links: Vec<Link> = (0..3).map(|at| linked(&ring[at], &ring[(at + 1) % 3])).collect();
    let on = json!({ "transitive": { "enabled": true }, "deleteReplication": { "enabled": true } });
    for at in [0, 1] {
        set_rule_with(&ring[at], names[at + 1], "team/", &on);
    }
    set_rule_with(&ring[2], "eu", "team/", &json!({}));
    for at in 0..3 {
        push(&ring[at], 1, "team/app", names[at], format!("from {}", names[at]).as_bytes());
    }
    for (at, name) in [(1, "eu"), (2, "eu"), (2, "us"), (0, "ap"), (1, "ap")] {
        arrives(&ring[at], 1, "team/app", name, format!("from {name}").as_bytes());
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(tag(&ring[0], 1, "team/app", "us"), None, "this rule sends nothing on");
    set_rule_with(&ring[2], "eu", "team/", &on);
    push(&ring[1], 1, "team/app", "us", b"from us, again");
    arrives(&ring[0], 1, "team/app", "us", b"from us, again");
    push(&ring[1], 1, "team/app", "short", b"goes again");
    arrives(&ring[0], 1, "team/app", "short", b"goes again");
    crate::regions::delete(&ring[1], "team/app", "short");
    for cluster in [&ring[2], &ring[0]] {
        wait("the delete goes round", PATIENCE, || tag(cluster, 1, "team/app", "short").is_none());
    }

    // it dies out where it began
    let applied = || [0, 1, 2].map(|at| link_state(&ring[(at + 1) % 3], names[at])["followed"]["applied"].clone());
    let open = || (0..3).all(|at| settled(&ring[(at + 1) % 3], names[at]));
    wait("nothing is open", PATIENCE, open);
    let before = applied();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(applied(), before, "nothing goes round");
    for at in 0..3 {
        let report = verify(&ring[(at + 1) % 3], names[at]);
        assert_eq!((&report["clean"], &report["differences"]), (&json!(true), &json!(0)), "{report:#}");
        assert_eq!(report["verdicts"]["ahead"], Value::Null, "{report:#}");
    }
    drop(links);
}

/// Two regions that send each other everything, one of which is lost: what had arrived, and what had not.
struct Lost {
    eu: Cluster,
    us: Cluster,
    link: Link,
}

const ARRIVED: u32 = 6;
const MISSING: u32 = 3;

fn layer(number: u32) -> Vec<u8> {
    if number.is_multiple_of(2) { large(number) } else { format!("layer {number}").into_bytes() }
}

fn lost(regions: [u8; 2]) -> Lost {
    let (eu, us) = (start(regions[0], "eu", 1), start(regions[1], "us", 1));
    let link = linked(&eu, &us);
    let more = json!({ "readThrough": "full", "deleteReplication": { "enabled": true } });
    set_rule_with(&eu, "us", "team/", &more);
    set_rule_with(&us, "eu", "team/", &more);
    for number in 0..ARRIVED {
        push(&eu, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    push(&us, 1, "team/app", "ours", b"pushed in us");
    for number in 0..ARRIVED {
        arrives(&us, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    arrives(&eu, 1, "team/app", "ours", b"pushed in us");
    let heard = now_ms();
    let until = || link_state(&us, "eu")["complete_until"].clone();
    wait("all until now is here, and told so", PATIENCE, || until().is_string() && ms_of(&until()) >= heard);
    // who answers is not lost
    let (status, text) = cli(&us, &["region", "take-over", "eu", "--accept-loss"]);
    assert!(status != 0 && text.contains("answers, so it is not lost"), "{text}");
    link.cut();
    wait("the loss is seen", PATIENCE, || link_state(&us, "eu")["followed"]["connected"] == false);
    for number in ARRIVED..ARRIVED + MISSING {
        push(&eu, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    eu.kill_node(1);
    Lost { eu, us, link }
}

/// Takes over: what was said to be here is, what was said may be lost is told to be absent, and pushes go on.
fn take_over(us: &Cluster) {
    assert_eq!(pulled(us, &format!("v{ARRIVED}")), 503, "it may be on its way");
    let (status, text) = cli(us, &["region", "take-over", "eu"]);
    assert!(status != 0 && text.contains("acknowledged before") && text.contains("--accept-loss"), "{text}");
    let stated = ms_of(&link_state(us, "eu")["complete_until"]);
    let (status, text) = cli(us, &["region", "take-over", "eu", "--accept-loss"]);
    assert!(status == 0 && text.contains("has taken over"), "{status} {text}");
    let state = link_state(us, "eu");
    assert_eq!((ms_of(&state["taken_over"]["complete_until"]), &state["paused"]), (stated, &json!(true)), "{state}");
    for number in 0..ARRIVED {
        arrives(us, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    for number in ARRIVED..ARRIVED + MISSING {
        assert_eq!(pulled(us, &format!("v{number}")), 404, "v{number}");
    }
    push(us, 1, "team/app", "since", b"pushed since");
    // killed and started, it still knows
    us.kill_node(1);
    us.start_node(1);
    assert_eq!(pulled(us, &format!("v{ARRIVED}")), 404);
}

// Who does not follow a region can't know whether it answers, and does not take over from it.
#[test]
fn only_who_leads_takes_over() {
    let (eu, us) = (start(162, "eu", 1), start(163, "us", 3));
    let _link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({}));
    let leader = us.leader().unwrap();
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    let (status, text) = cli_at(&us, follower, &["region", "take-over", "eu", "--accept-loss"]);
    assert!(status != 0 && text.contains("does not lead"), "{status} {text}");
    assert_eq!(link_state(&us, "eu")["taken_over"], Value::Null);
}

// Promotion, and the region comes back with its disks: what it had acknowledged and not sent arrives after all, what
// was pushed meanwhile goes there, and both are equal.
#[test]
fn a_region_that_comes_back_loses_nothing() {
    let Lost { eu, us, link } = lost([153, 154]);
    take_over(&us);
    link.mend();
    eu.start_node(1);
    assert_eq!(cli(&us, &["region", "resume", "eu"]).0, 0);
    for number in ARRIVED..ARRIVED + MISSING {
        arrives(&us, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    arrives(&eu, 1, "team/app", "since", b"pushed since");
    assert_eq!(link_state(&us, "eu")["taken_over"], Value::Null);
    for (cluster, region) in [(&us, "eu"), (&eu, "us")] {
        let report = verify(cluster, region);
        assert_eq!((&report["clean"], &report["differences"]), (&json!(true), &json!(0)), "{report:#}");
    }
}

// Promotion, and the region is lost for good: a new one of its name gets all that was here of it, by a rule that sends
// on; then both send each other everything again, and are equal.
#[test]
fn a_region_is_made_anew() {
    let Lost { eu, us, .. } = lost([155, 156]);
    take_over(&us);
    drop(eu);
    let anew = start(157, "eu", 1);
    // another cluster can't take the name of one that is known
    let taken = admin(&us, "POST", "/v1/regions").header("Content-Type", "application/json");
    let taken = taken.body(card(&anew).to_string()).settled();
    assert!(taken.status == 400 && taken.text().contains("remove it first"), "{}", taken.text());
    told(&us, "PUT", "/v1/replication/rules", &json!({ "rules": [] }));
    assert_eq!(cli(&us, &["region", "remove", "eu"]).0, 0);
    let link = Link::default();
    introduce(&anew, &us, &link);
    introduce(&us, &anew, &link);
    let on = json!({ "transitive": { "enabled": true }, "backfill": { "enabled": true },
        "deleteReplication": { "enabled": true } });
    set_rule_with(&us, "eu", "team/", &on);
    for number in 0..ARRIVED {
        arrives(&anew, 1, "team/app", &format!("v{number}"), &layer(number));
    }
    for (name, bytes) in [("ours", &b"pushed in us"[..]), ("since", b"pushed since")] {
        arrives(&anew, 1, "team/app", name, bytes);
    }
    wait("it is over", PATIENCE, || link_state(&anew, "us")["backfill"]["ended_at"].is_string());
    set_rule_with(&anew, "us", "team/", &json!({ "deleteReplication": { "enabled": true } }));
    push(&anew, 1, "team/app", "v0", b"moved in the new one");
    arrives(&us, 1, "team/app", "v0", b"moved in the new one");
    for (cluster, region) in [(&us, "eu"), (&anew, "us")] {
        let report = verify(cluster, region);
        assert_eq!((&report["clean"], &report["differences"]), (&json!(true), &json!(0)), "{report:#}");
    }
    let (is_equal, text) = equal(&us, "us", &anew, "eu");
    assert!(is_equal, "{text}");
    let digest = Digest::sha256(manifest(&layer(1)).as_bytes()).to_string();
    assert_eq!(tag(&anew, 1, "team/app", "v1"), Some(digest));
}
