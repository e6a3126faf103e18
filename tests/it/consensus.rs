//! What clients see of consensus when it is put to the test: leaders that were away, first pushes at once (R2, R22).

use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use crate::support::{Cluster, http};

const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
/// How long a change may take while a leader is away and when it comes back.
const PATIENCE: Duration = Duration::from_secs(15);

/// A manifest of no layers, whose bytes differ by the mark.
fn manifest(mark: &str) -> String {
    let empty = Digest::sha256(b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{KIND}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"annotations":{{"mark":"{mark}"}}}}"#
    )
}

/// One repository behind the nodes of a cluster.
struct Place<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

impl Place<'_> {
    fn url(&self, node: u8, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.cluster.node(node), self.name)
    }

    fn begin(&self) {
        let url = self.url(1, &format!("blobs/uploads/?digest={}", Digest::sha256(b"{}")));
        let answer = http::request("POST", &url).key(&self.cluster.key()).body("{}").send();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    fn put(&self, node: u8, tag: &str, mark: &str) -> Result<http::Answer, reqwest::Error> {
        let put = http::request("PUT", &self.url(node, &format!("manifests/{tag}")));
        put.key(&self.cluster.key()).header("Content-Type", KIND).body(manifest(mark)).try_send()
    }

    /// Repeats until it is acknowledged.
    fn put_at_last(&self, node: u8, tag: &str, mark: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.put(node, tag, mark).is_ok_and(|answer| answer.status == 201) {
            assert!(Instant::now() < until, "no node takes {tag}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a tag names there, if the node answers.
    fn get(&self, node: u8, tag: &str) -> Option<String> {
        let get = http::request("GET", &self.url(node, &format!("manifests/{tag}")));
        let answer = get.key(&self.cluster.key()).header("Accept", KIND).try_send().ok()?;
        assert!(matches!(answer.status, 200 | 404 | 503), "{} {}", answer.status, answer.text());
        (answer.status == 200).then(|| answer.text())
    }
}

// R2: a leader that was stopped for longer than an election takes does not know that another one has taken over and
// moved tags. Back again, it answers no read with what it knew, and a push that it took before is either refused or
// there for all.
#[test]
fn r02_a_leader_that_was_away_answers_nothing_stale() {
    let cluster = Cluster::start(75);
    let place = Place { cluster: &cluster, name: "r2/app" };
    place.begin();
    for round in 0..4 {
        let leader = cluster.leader().expect("somebody leads");
        let other = leader % 3 + 1;
        let (moved, taken) = (format!("moved-{round}"), format!("taken-{round}"));
        place.put_at_last(leader, &moved, "before");
        cluster.signal(leader, "-STOP");
        std::thread::scope(|scope| {
            let late = scope.spawn(|| place.put(leader, &taken, "late"));
            place.put_at_last(other, &moved, "after");
            cluster.signal(leader, "-CONT");
            let until = Instant::now() + PATIENCE;
            let (mut seen, wanted) = (0, manifest("after"));
            while seen < 20 {
                assert!(Instant::now() < until, "the old leader does not answer again");
                let Some(found) = place.get(leader, &moved) else { continue };
                assert_eq!(found, wanted, "round {round}: what was there before the leader was away");
                seen += 1;
            }
            let late = late.join().unwrap();
            if late.is_ok_and(|answer| answer.status == 201) {
                let wanted = Some(manifest("late"));
                assert!((1..=3).all(|node| place.get(node, &taken) == wanted), "an acknowledged push is gone");
            }
        });
    }
}

// R22: clients push different images under one new tag at the same moment through all nodes. All are told 201; the
// revisions that they are told order them, and the tag names the last one, at every node.
#[test]
fn r22_first_pushes_of_one_tag() {
    let cluster = Cluster::shared();
    let place = Place { cluster, name: "r22/app" };
    place.begin();
    for round in 0..10 {
        let tag = format!("v{round}");
        let mut pushes: Vec<(u64, String)> = std::thread::scope(|scope| {
            let (place, tag) = (&place, &tag);
            let push = |number: u8| {
                let mark = format!("{round}-{number}");
                let answer = place.put(number % 3 + 1, tag, &mark).unwrap();
                assert_eq!(answer.status, 201, "{}", answer.text());
                let revision = answer.header("portolan-revision").rsplit('.').next().unwrap().parse();
                (revision.expect("a revision ends with an index"), manifest(&mark))
            };
            let clients: Vec<_> = (0..6).map(|number| scope.spawn(move || push(number))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        pushes.sort();
        let (last, wanted) = pushes.pop().unwrap();
        assert!(pushes.iter().all(|(revision, _)| *revision < last), "two pushes have one revision");
        for node in 1..=3 {
            assert_eq!(place.get(node, &tag).as_ref(), Some(&wanted), "{tag} at node {node}");
        }
    }
}
