//! What had been synced when 201 left, by the record of the kernel's own doors.

use std::path::Path;
use std::time::Duration;

use registry_core::vocabulary::Digest;

use super::push::content;
use super::trace::{Call, Tracer};
use super::{NODES, pusher};
use crate::support::{Cluster, not_tested};

/// Slow syncs and a tracer at every call must not look like dead nodes.
const PATIENT: [&str; 3] = ["raft.heartbeat=500ms", "raft.election_min=5s", "raft.election_max=10s"];

/// The calls of one node.
struct Node {
    data: String,
    calls: Vec<Call>,
}

/// Where a proof ends: with the moment in which it held, or with what is missing.
type Proof = Result<f64, String>;

impl Node {
    /// Calls on files whose path inside the data directory begins and ends like this.
    fn on<'a>(&'a self, begin: &str, end: &'a str) -> impl Iterator<Item = &'a Call> {
        let begin = format!("{}/{begin}", self.data);
        self.calls.iter().filter(move |call| call.file().starts_with(&begin) && call.file().ends_with(end))
    }

    /// When the first sync of `file` had ended that began after `after`.
    fn synced(&self, file: &str, after: f64) -> Proof {
        let syncs = self.calls.iter().filter(|call| call.is_sync() && call.file() == file && call.began >= after);
        let ended = syncs.filter_map(|sync| sync.ended).reduce(f64::min);
        ended.ok_or_else(|| format!("{file} was not synced after it was written"))
    }

    /// A large blob: its bytes, its block sums and both names are durable here.
    fn file_is_durable(&self, digest: &Digest) -> Proof {
        let hex = digest.to_string().split_once(':').unwrap().1.to_owned();
        let shard = format!("{}/blobs/blobs/{}", self.data, &hex[..2]);
        let mut moment = f64::MIN;
        let synced_before_named = |suffix: &str| -> Proof {
            let named = self.calls.iter().find(|call| {
                let words: Vec<&str> = call.arguments.split('"').collect();
                let is_named = |to: &str| to.starts_with(&hex) && to.ends_with(".sum") == (suffix == ".sum");
                call.name.starts_with("rename") && words.get(3).is_some_and(|to| is_named(to))
            });
            let named = named.ok_or_else(|| format!("nothing was renamed to {}…{suffix}", &hex[..8]))?;
            let staged = format!("{}/blobs/staging/{}", self.data, named.arguments.split('"').nth(1).unwrap());
            let writes = self.calls.iter().filter(|call| call.is_write() && call.file() == staged);
            let written = writes.map(|write| write.ended.unwrap_or(f64::MAX)).reduce(f64::max);
            let durable = self.synced(&staged, written.ok_or_else(|| format!("{staged} was not written"))?)?;
            if named.began < durable {
                return Err(format!("{staged} was renamed before it was synced"));
            }
            named.ended.ok_or_else(|| format!("{staged} was not renamed"))
        };
        for suffix in ["", ".sum"] {
            moment = moment.max(synced_before_named(suffix)?);
        }
        self.synced(&shard, moment)
    }

    /// A small blob: the record in a pack is durable here, and so is the pack's name.
    fn record_is_durable(&self, digest: &Digest) -> Proof {
        let record = self.on("blobs/pack/", ".seg").find(|call| call.is_write() && holds(call, digest));
        let record = record.ok_or("no pack got a record of it")?;
        let durable = self.synced(record.file(), record.ended.unwrap_or(f64::MAX))?;
        let name = record.file().rsplit('/').next().unwrap();
        let made = self
            .calls
            .iter()
            .find(|call| call.name == "openat" && call.arguments.contains("O_CREAT") && call.arguments.contains(name));
        let made = made.ok_or_else(|| format!("{name} was there before; the first small blob makes it"))?;
        let named = self.synced(&format!("{}/blobs/pack", self.data), made.ended.unwrap_or(f64::MAX))?;
        Ok(durable.max(named))
    }

    /// The log entry that names a digest, written after `after`, is durable here.
    fn log_is_durable(&self, digest: &Digest, after: f64) -> Proof {
        let writes = self.on("raft/log/", ".log");
        let entry = writes.filter(|call| call.is_write() && call.began >= after).find(|call| holds(call, digest));
        let entry = entry.ok_or("the log got no entry that names it")?;
        self.synced(entry.file(), entry.ended.unwrap_or(f64::MAX))
    }

    /// When the answer 201 about a digest began to leave.
    fn answered(&self, digest: &Digest) -> Proof {
        let text = digest.to_string();
        let told = self.calls.iter().find(|call| {
            let bytes = if call.file().starts_with("TCP:") { call.bytes() } else { return false };
            bytes.starts_with(b"HTTP/1.1 201") && contains(&bytes, text.as_bytes())
        });
        told.map(|call| call.began).ok_or_else(|| "no 201 left".to_owned())
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn holds(call: &Call, digest: &Digest) -> bool {
    contains(&call.bytes(), digest.raw())
}

/// Proofs on at least two nodes, all of them before `limit`; the moment at which the second one held.
fn on_two(what: &str, proofs: &[Proof], limit: f64) -> f64 {
    let mut moments: Vec<f64> = proofs.iter().filter_map(|proof| proof.clone().ok()).collect();
    moments.sort_by(f64::total_cmp);
    let second = moments.get(1).unwrap_or_else(|| panic!("{what}: not on two nodes: {proofs:?}"));
    assert!(*second < limit, "{what}: 201 left {:.1} ms too early", (second - limit) * 1e3);
    *second
}

/// What an observed push has to hold to.
struct Pushed {
    large: Digest,
    small: Digest,
    manifest: Digest,
}

fn check(nodes: &[Node], pushed: &Pushed) {
    let by_all = |proof: &dyn Fn(&Node) -> Proof| nodes.iter().map(proof).collect::<Vec<_>>();
    let answered = |digest: &Digest| {
        let left = nodes.iter().filter_map(|node| node.answered(digest).ok()).reduce(f64::min);
        left.unwrap_or_else(|| panic!("no 201 about {digest} was seen"))
    };
    let Pushed { large, small, manifest } = pushed;

    let left = answered(large);
    let durable = on_two("bytes, sums and names of a large blob", &by_all(&|node| node.file_is_durable(large)), left);
    on_two("log entry of a large blob", &by_all(&|node| node.log_is_durable(large, durable)), left);

    let left = answered(small);
    let durable = on_two("record and name of a small blob", &by_all(&|node| node.record_is_durable(small)), left);
    on_two("log entry of a small blob", &by_all(&|node| node.log_is_durable(small, durable)), left);

    let left = answered(manifest);
    on_two("log entry of a manifest", &by_all(&|node| node.log_is_durable(manifest, f64::MIN)), left);
}

/// Adds what the nodes do during `push` to what was seen of them before.
fn observe(cluster: &Cluster, records: &Path, seen: &mut Vec<Node>, push: impl FnOnce()) -> Result<(), String> {
    let attach = |n: u8| Tracer::attach(cluster.pid(n).unwrap(), &records.join(format!("{n}.strace")));
    let tracers = (1..=NODES).map(attach).collect::<Result<Vec<_>, _>>()?;
    push();
    for (n, tracer) in (1..=NODES).zip(tracers) {
        let calls = tracer.detach();
        match seen.get_mut(usize::from(n) - 1) {
            Some(node) => node.calls.extend(calls),
            None => {
                let data = cluster.node_dir(n).join("data").canonicalize().unwrap();
                seen.push(Node { data: data.to_str().unwrap().to_owned(), calls });
            }
        }
    }
    Ok(())
}

// Before 201 leaves: data, name and directory are synced on two stores, and the log on a quorum. For a large blob, a
// small one and a manifest, pushed to a node that leads and to one that follows.
#[test]
fn synced_before_201() {
    let cluster = Cluster::start_with(91, &PATIENT);
    let records = tempfile::tempdir().unwrap();
    let leader = cluster.leader().expect("a leader");
    let mut nodes = Vec::new();
    for at in [leader, leader % NODES + 1] {
        let mut pusher = pusher(&cluster, Duration::from_secs(60), |_, _, _| {});
        pusher.turn_to(at);
        let layer = content(u64::from(at), 1_500_000);
        let push = || pusher.image("it/synced", &format!("t{at}"), &layer, false);
        if let Err(why) = observe(&cluster, records.path(), &mut nodes, push) {
            return not_tested(&format!("synced before 201: {why}"));
        }
        let digests: Vec<Digest> = pusher.acknowledged.iter().map(|one| one.digest).collect();
        let [small, large, manifest, _] = digests[..] else { panic!("an image is four acknowledgements: {digests:?}") };
        check(&nodes, &Pushed { large, small, manifest });
    }
}
