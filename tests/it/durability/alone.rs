//! A node without a quorum: what it still answers, for how long, and after a restart.

use std::time::{Duration, Instant};

use super::push::content;
use super::{address, get, pusher, wire};
use crate::support::{Cluster, http};

/// How long pulls by digest go on without a quorum (`STALE_MAX_MS`).
const STALE_MAX: Duration = Duration::from_secs(60);

/// What node 3 says of its readiness.
fn ready(cluster: &Cluster) -> u16 {
    http::get(&format!("{}/readyz", cluster.admin(3))).unwrap().status
}

// Rule 1.7: without a quorum pulls by digest go on for a minute, then they are refused like everything else; nothing is
// acknowledged; after a restart the node answers nothing before a round of this life has told it how old its state is.
#[test]
fn pulls_go_on_for_a_minute() {
    let cluster = Cluster::start(92);
    let mut pusher = pusher(&cluster, Duration::from_secs(60), |_, _, _| {});
    let layer = content(92, 300_000);
    pusher.image("it/alone", "t", &layer, false);
    let by_digest: Vec<String> = pusher.acknowledged.iter().map(|one| format!("/v2/{}", one.path)).collect();
    let [config, blob, by_tag, manifest] = &by_digest[..] else { panic!("{by_digest:?}") };
    // the third copy, so that this node has all of them
    let until = Instant::now() + Duration::from_secs(30);
    while get(&cluster, 3, blob).is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(3));
    cluster.kill_node(1);
    cluster.kill_node(2);
    let alone = Instant::now();
    for path in [config, blob, manifest] {
        let answer = get(&cluster, 3, path).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let mut told = Vec::new();
    for what in
        [("GET", by_tag.as_str()), ("PUT", by_tag), ("DELETE", manifest), ("POST", "/v2/it/alone/blobs/uploads/")]
    {
        let answer = wire::send(address(&cluster, 3), Some(&cluster.key()), what, &[], b"").unwrap();
        assert!(answer.header("retry-after").is_some(), "{what:?}");
        told.push((what, answer.status));
    }
    assert!(told.iter().all(|(_, status)| *status == 503), "{told:?}");
    let until = alone + Duration::from_secs(40);
    while ready(&cluster) == 200 {
        assert!(Instant::now() < until, "a balancer would still send it requests");
        std::thread::sleep(Duration::from_millis(200));
    }

    // the last confirmation was at most a few seconds before the others were killed
    let over = STALE_MAX + Duration::from_secs(1);
    while alone.elapsed() < over {
        let before = alone.elapsed();
        let status = get(&cluster, 3, manifest).unwrap().status;
        assert!(status == 200 || before > STALE_MAX - Duration::from_secs(8), "{status} after {before:?}");
        std::thread::sleep(Duration::from_secs(2).min(over.saturating_sub(alone.elapsed())));
    }
    assert_eq!(get(&cluster, 3, manifest).unwrap().status, 503, "its state is older than a minute");

    cluster.kill_node(3);
    cluster.spawn_node(3);
    let until = Instant::now() + Duration::from_secs(20);
    let restarted = loop {
        match get(&cluster, 3, manifest) {
            Ok(answer) => break answer.status,
            Err(error) => assert!(Instant::now() < until, "it does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(restarted, 503, "it does not know how old its state is");
    assert_ne!(ready(&cluster), 200);
    cluster.start_node(1);
    cluster.wait_node_ready(3);
    assert_eq!(get(&cluster, 3, by_tag).unwrap().status, 200);
}
