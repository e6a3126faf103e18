//! A node whose wall clock is wrong: it does not go on leading, no change bears its time, and no client is sent to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_core::vocabulary::Timestamp;
use serde_json::Value;

use crate::nearest::say_places;
use crate::regions::{PATIENCE, admin};
use crate::support::image::{large, manifest, push, put};
use crate::support::{Cluster, http, not_tested, now_ms, wait};

const REPOSITORY: &str = "it/clocks";
/// What is told of a time may be wrong by what clocks are allowed to be, and a little.
const TOLERANCE_MS: u64 = 1_000;
const HOUR_S: i64 = 3600;

/// A wall clock that a test sets, beside others of the machine that stay right.
struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Of node `n`, right at first; `None` where no library comes between a program and the time.
    fn of(cluster: &Cluster, n: u8) -> Option<WallClock> {
        let homes = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let library = homes.map(|home| home.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())?;
        let clock = WallClock { library, file: cluster.node_dir(n).join("clock") };
        clock.set(0);
        Some(clock)
    }

    /// Sets it, in seconds after the right time; below 0: before.
    fn set(&self, ahead_s: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead_s:+}\n")).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    fn start(&self, cluster: &Cluster, n: u8) {
        let (library, file) = (self.library.to_str().unwrap(), self.file.to_str().unwrap());
        let environment = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        cluster.spawn_node_in(n, &environment);
        cluster.wait_node_ready(n);
    }
}

/// What node `n` says about the cluster.
fn status(cluster: &Cluster, n: u8) -> Value {
    http::request("GET", &format!("{}/v1/cluster", cluster.admin(n))).key(&cluster.key()).settled().json()
}

/// What node `n` knows of node `of`.
fn known(cluster: &Cluster, n: u8, of: u8) -> Value {
    let url = cluster.node(of);
    let status = status(cluster, n);
    status["nodes"].as_array().unwrap().iter().find(|node| node["public_url"] == url).unwrap().clone()
}

fn ahead_ms(cluster: &Cluster, n: u8, of: u8) -> Option<i64> {
    known(cluster, n, of)["clock_ahead_ms"].as_i64()
}

fn is_about(found: Option<i64>, wanted_s: i64) -> bool {
    found.is_some_and(|found| found.abs_diff(wanted_s * 1000) <= 2_000)
}

/// Hands leadership to node `n`, as an operator.
fn lead(cluster: &Cluster, n: u8) {
    let body = format!(r#"{{"to":{}}}"#, known(cluster, 1, n)["id"]);
    let url = format!("{}/v1/cluster/transfer", cluster.admin(1));
    let request = http::request("POST", &url).key(&cluster.key()).header("Content-Type", "application/json");
    let answer = request.body(body).settled();
    assert_eq!(answer.status, 204, "{}", answer.text());
}

fn leads(cluster: &Cluster, n: u8) -> bool {
    cluster.leader() == Some(n)
}

/// Sets tags, one after the other, while something happens: when each was set, at the earliest and at the latest.
fn set_tags(cluster: &Cluster, name: &str, meanwhile: impl FnOnce()) -> Vec<(String, u64, u64)> {
    let (layer, is_over) = (large(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let setting = scope.spawn(|| {
            let mut tags = Vec::new();
            while !is_over.load(Ordering::Acquire) || tags.len() < 10 {
                let (tag, began_ms) = (format!("{name}{}", tags.len()), now_ms());
                put(cluster, 1, REPOSITORY, &tag, &manifest(&layer));
                tags.push((tag, began_ms, now_ms()));
                std::thread::sleep(Duration::from_millis(50));
            }
            tags
        });
        // also when it fails, so that the other one ends
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        is_over.store(true, Ordering::Release);
        let tags = setting.join().unwrap();
        ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed));
        tags
    })
}

/// Every one of these tags bears a time at which it was set.
fn are_of_their_time(cluster: &Cluster, tags: &[(String, u64, u64)]) {
    for (tag, began_ms, ended_ms) in tags {
        let history = admin(cluster, "GET", &format!("/v1/history/{REPOSITORY}?tag={tag}")).settled().json();
        let at = Timestamp::parse(history["changes"][0]["at"].as_str().unwrap()).unwrap().ms();
        let times = began_ms.saturating_sub(TOLERANCE_MS)..=ended_ms + TOLERANCE_MS;
        assert!(times.contains(&at), "{tag}: set within {began_ms}..{ended_ms}, and bears {at}");
    }
}

/// Why a client of zone c is served as it is, and by whom, asked of node 1.
fn decision(cluster: &Cluster) -> (String, Value) {
    let path = format!("/v1/nearest/{REPOSITORY}?client=127.77.3.9&reference=v1");
    let told = admin(cluster, "GET", &path).settled().json();
    let blobs = told["blobs"].as_array().unwrap();
    let blob = blobs.iter().find(|blob| blob["bytes"] == 100_000).unwrap();
    (blob["reason"].as_str().unwrap().to_owned(), blob.clone())
}

fn metric(cluster: &Cluster, n: u8, name: &str) -> f64 {
    let text = http::request("GET", &format!("{}/metrics", cluster.admin(n))).key(&cluster.key()).settled().text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

// A leader's clock jumps an hour ahead while tags are set: another node leads at once, also when an operator hands
// leadership back; no tag bears a time that was not, none is refused, and clients are not sent to that node. With the
// third node away nobody can say which of two clocks is wrong: the node goes on leading, and the jump is not followed.
#[test]
fn a_leader_that_is_ahead() {
    let cluster = Cluster::start(146);
    let Some(clock) = WallClock::of(&cluster, 3) else {
        return not_tested("clocks that are wrong: libfaketime is not installed");
    };
    cluster.kill_node(3);
    clock.start(&cluster, 3);
    say_places(&cluster);
    push(&cluster, 1, REPOSITORY, "v1", &large(1));
    wait("clients of zone c are sent to node 3", PATIENCE, || decision(&cluster).0 == "zone");
    wait("node 3 agrees", PATIENCE, || status(&cluster, 3)["clock"] == "agrees");
    lead(&cluster, 3);
    wait("node 3 leads", PATIENCE, || leads(&cluster, 3));

    let tags = set_tags(&cluster, "ahead", || {
        clock.set(HOUR_S);
        wait("another node leads", PATIENCE, || cluster.leader().is_some_and(|leader| leader != 3));
        lead(&cluster, 3);
        wait("another node leads again", PATIENCE, || cluster.leader().is_some_and(|leader| leader != 3));
    });
    are_of_their_time(&cluster, &tags);
    wait("all know of it", PATIENCE, || (1..=3).all(|n| is_about(ahead_ms(&cluster, n, 3), HOUR_S)));
    assert!(is_about(ahead_ms(&cluster, 3, 1), 0), "{}", known(&cluster, 3, 1));
    assert_eq!(
        (status(&cluster, 1)["clock"].as_str(), status(&cluster, 3)["clock"].as_str()),
        (Some("agrees"), Some("ahead"))
    );
    assert!((metric(&cluster, 3, "portolan_clock_offset_seconds") - HOUR_S as f64).abs() < 2.0);
    assert!(metric(&cluster, 1, "portolan_clock_offset_seconds").abs() < 0.5);
    let (reason, blob) = decision(&cluster);
    assert_eq!(reason, "clock", "{blob}");
    let told = cluster.node_log(3);
    assert!(told.contains("this node's clock is off the median"), "{told}");

    clock.set(0);
    wait("node 3 agrees again", PATIENCE, || status(&cluster, 3)["clock"] == "agrees");
    wait("clients are sent there again", PATIENCE, || decision(&cluster).0 == "zone");
    lead(&cluster, 3);
    wait("node 3 leads again", PATIENCE, || leads(&cluster, 3));
    cluster.kill_node(2);
    // what was heard of it a moment ago still counts
    wait("node 2 is not heard any more", PATIENCE, || ahead_ms(&cluster, 3, 2).is_none());
    let tags = set_tags(&cluster, "alone", || {
        clock.set(HOUR_S);
        wait("nobody is judged", PATIENCE, || status(&cluster, 3)["clock"] == "unknown");
        std::thread::sleep(Duration::from_secs(3));
    });
    assert!(leads(&cluster, 3), "nothing says that it is the one that is wrong");
    are_of_their_time(&cluster, &tags);
    assert_eq!(metric(&cluster, 3, "portolan_clock_judged"), 0.0);
    cluster.start_node(2);
    wait("another node leads at last", PATIENCE, || cluster.leader().is_some_and(|leader| leader != 3));
}
