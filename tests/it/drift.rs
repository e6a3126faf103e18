//! Damage beneath the commands, in the store of a stopped node: the comparison of two regions finds it, says what it
//! is, and mends it; and what the stream lost comes by it.

use registry_core::metadata::codec;
use registry_core::metadata::keys;
use registry_core::metadata::outbox::TrimmedRow;
use registry_core::metadata::repository::{self, RepositoryKey, RepositoryRow, Settings};
use registry_core::metadata::tables::{Row, TablesRead};
use registry_core::metadata::tag::TagRow;
use registry_core::metadata::testing::{changes_prefix, manifest_key, repository_row_key, tag_key, trimmed_key};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::{Digest, RepositoryName, Tag, Version};
use rocksdb::{DB, Direction, IteratorMode, Options};
use serde_json::{Value, json};

use crate::backfill::cli;
use crate::regions::{PATIENCE, admin, arrives, delete, link_state, linked, set_rule, set_rule_with, start, tag};
use crate::support::image::{large, manifest, push};
use crate::support::{Cluster, run, wait};

/// The state of a stopped node.
pub(crate) struct Store(DB);

impl Store {
    pub(crate) fn open(cluster: &Cluster, node: u8) -> Store {
        let root = cluster.node_dir(node).join("data/state");
        let entries = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let mut states: Vec<_> = entries.filter(|path| path.join("CURRENT").exists()).collect();
        states.sort_by_key(|path| std::fs::metadata(path.join("CURRENT")).unwrap().modified().unwrap());
        let path = states.pop().unwrap_or_else(|| panic!("no state under {}", root.display()));
        let families = DB::list_cf(&Options::default(), &path).unwrap();
        Store(DB::open_cf(&Options::default(), &path, families).unwrap())
    }

    pub(crate) fn repository(&self, name: &str) -> RepositoryKey {
        let name = RepositoryName::parse(name).unwrap();
        repository::find(self, RegistryId::DEFAULT, &name).expect("the repository is here").0
    }

    /// Alters the settings in a repository's row.
    pub(crate) fn put_settings(&self, repository: &RepositoryKey, settings: Settings) {
        let key = repository_row_key(repository);
        let row: RepositoryRow = codec::row(&self.get(&key).expect("the repository is here"));
        self.0.put(key, codec::encode(&RepositoryRow { settings, ..row })).unwrap();
    }

    fn tag_row(&self, repository: &RepositoryKey, tag: &str) -> TagRow {
        codec::row(&self.get(&tag_key(repository, &Tag::parse(tag).unwrap())).expect("the tag is here"))
    }

    pub(crate) fn put_tag(&self, repository: &RepositoryKey, tag: &str, row: Option<&TagRow>) {
        let key = tag_key(repository, &Tag::parse(tag).unwrap());
        match row {
            Some(row) => self.0.put(key, codec::encode(row)).unwrap(),
            None => self.0.delete(key).unwrap(),
        }
    }

    /// Removes the row of a manifest, and nothing else of it.
    pub(crate) fn drop_manifest(&self, repository: &RepositoryKey, digest: &Digest) {
        let key = manifest_key(repository, digest);
        assert!(self.get(&key).is_some(), "{digest} is here");
        self.0.delete(key).unwrap();
    }

    /// Drops all rows of the change stream of a slot; how many there were, and the newest one's index.
    fn drop_changes(&self, slot: keys::Slot) -> (usize, u64) {
        let prefix = changes_prefix(slot);
        let rows = self.prefix(&prefix, usize::MAX);
        rows.iter().for_each(|(key, _)| self.0.delete(key).unwrap());
        let index = |key: &[u8]| u64::from_be_bytes(key[prefix.len()..][..8].try_into().unwrap());
        (rows.len(), rows.iter().map(|(key, _)| index(key)).max().unwrap_or_default())
    }
}

impl TablesRead for Store {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).unwrap()
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        let rows = self.0.iterator(IteratorMode::From(from, Direction::Forward)).map(Result::unwrap);
        let rows = rows.take_while(|(key, _)| &key[..] < to).take(limit);
        rows.map(|(key, value)| (key.into_vec(), value.into_vec())).collect()
    }
}

/// What the last comparison with a region found.
pub(crate) fn report(cluster: &Cluster, region: &str) -> Value {
    let (status, text) = cli(cluster, &["replication", "report"]);
    assert_eq!(status, 0, "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    let regions = document["regions"].as_array().unwrap();
    regions.iter().find(|told| told["region"] == region).expect("the region is known")["last"].clone()
}

/// Kind and tag, or kind alone, of everything that was found.
pub(crate) fn found(report: &Value) -> Vec<String> {
    let all = report["found"].as_array().unwrap();
    assert!(all.iter().all(|found| found["repaired"] == true), "{report:#}");
    let told = |found: &Value| format!("{} {}", found["kind"].as_str().unwrap(), found["tag"].as_str().unwrap_or("-"));
    let mut told: Vec<String> = all.iter().map(told).collect();
    told.sort();
    told
}

/// Compares everything with a region; what was found.
pub(crate) fn verify(cluster: &Cluster, region: &str) -> Value {
    wait("the region is followed", PATIENCE, || link_state(cluster, region)["followed"]["connected"] == true);
    let (status, text) = cli(cluster, &["replication", "verify", region]);
    assert_eq!(status, 0, "{text}");
    report(cluster, region)
}

// R15: rows altered, removed and added at the destination, and changes that the source's stream lost, are
// found by one comparison, named, and mended; what differs by design is explained, and left alone.
#[test]
fn r15_drift_is_found_and_mended() {
    let (eu, us) = (start(108, "eu", 1), start(109, "us", 1));
    push(&eu, 1, "team/app", "before", b"before the rule");
    let link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    for number in 1..=6 {
        push(&eu, 1, "team/app", &format!("v{number}"), format!("layer {number}").as_bytes());
    }
    // changes are applied side by side: the last one to be there says nothing of the others
    for number in 1..=6 {
        arrives(&us, 1, "team/app", &format!("v{number}"), format!("layer {number}").as_bytes());
    }
    // by design: deleted here, deleted there, pushed here
    delete(&us, "team/app", "v4");
    delete(&eu, "team/app", "v5");
    push(&us, 1, "team/app", "v6", b"ours");
    let clean = verify(&us, "eu");
    assert_eq!((&clean["clean"], &clean["repositories"]), (&json!(true), &json!(1)), "{clean:#}");
    let verdicts = &clean["verdicts"];
    assert_eq!([&verdicts["deleted_here"], &verdicts["kept_here"], &verdicts["won_here"]], [1; 3], "{clean:#}");

    us.kill_node(1);
    {
        let store = Store::open(&us, 1);
        let repository = store.repository("team/app");
        let (two, three) = (store.tag_row(&repository, "v2"), store.tag_row(&repository, "v3"));
        store.put_tag(&repository, "v1", None);
        store.put_tag(&repository, "v2", Some(&TagRow { digest: three.digest, ..two.clone() }));
        let version = Version { hlc: two.version.hlc + 1, ..two.version };
        store.put_tag(&repository, "ghost", Some(&TagRow { version, base: version, ..two }));
    }
    // beside them, a push that the stream of changes has lost
    link.cut();
    push(&eu, 1, "team/app", "v7", b"layer 7");
    eu.kill_node(1);
    {
        let store = Store::open(&eu, 1);
        let (dropped, _) = store.drop_changes(store.repository("team/app").slot());
        assert!(dropped >= 2, "manifest and tag of v7 were to be told: {dropped}");
    }
    eu.start_node(1);
    us.start_node(1);
    assert_eq!(tag(&us, 1, "team/app", "v1"), None);
    assert!(tag(&us, 1, "team/app", "ghost").is_some());
    link.mend();

    let drift = verify(&us, "eu");
    assert_eq!(found(&drift), ["different v2", "extra ghost", "missing -", "missing v1", "missing v7"], "{drift:#}");
    for number in [1, 2, 3, 7] {
        arrives(&us, 1, "team/app", &format!("v{number}"), format!("layer {number}").as_bytes());
    }
    for (absent, repository) in [("ghost", "team/app"), ("v4", "team/app"), ("before", "team/app")] {
        assert_eq!(tag(&us, 1, repository, absent), None, "{absent}");
    }
    let ours = Digest::sha256(manifest(b"ours").as_bytes()).to_string();
    assert_eq!(tag(&us, 1, "team/app", "v6"), Some(ours));
    let again = verify(&us, "eu");
    assert_eq!((&again["clean"], &again["differences"]), (&json!(true), &json!(0)), "{again:#}");
}

// R15: a blob whose only copy here is gone comes back from the other region.
#[test]
fn r15_lost_blobs_come_back() {
    let (eu, us) = (start(110, "eu", 1), start(111, "us", 1));
    let _link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    push(&eu, 1, "team/app", "v1", &large(1));
    arrives(&us, 1, "team/app", "v1", &large(1));
    let lost = Digest::sha256(&large(1)).to_string();
    let hex = lost.strip_prefix("sha256:").unwrap();
    let mut open = vec![us.node_dir(1).join("data/blobs")];
    let mut removed = 0;
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => open.push(entry),
                false if entry.to_string_lossy().contains(hex) => {
                    std::fs::remove_file(&entry).unwrap();
                    removed += 1;
                }
                false => {}
            }
        }
    }
    assert!(removed > 0, "no file of {lost}");
    let (address, key) = (us.admin(1), us.key_file());
    let scrub = ["scrub", "run", "--admin", &address, "--credentials-file", key.to_str().unwrap()];
    assert_eq!(run(&scrub).0, 0);
    // what hashes blobs would find it before the scrub does
    let record = || admin(&us, "GET", &format!("/v1/blobs/{lost}")).settled().json();
    wait("the loss is on record", PATIENCE, || record()["copies"] == json!([]));
    let mended = verify(&us, "eu");
    assert_eq!(found(&mended), ["blob_lost -"], "{mended:#}");
    arrives(&us, 1, "team/app", "v1", &large(1));
    assert_eq!(verify(&us, "eu")["clean"], true);
}

// R10: a destination that the stream does not reach back to takes what it missed from a comparison, by rank, and the
// stream goes on from there; never a silent new start.
#[test]
fn r10_a_gap_is_closed_by_comparing() {
    let (eu, us) = (start(112, "eu", 1), start(113, "us", 1));
    let link = linked(&eu, &us);
    set_rule(&eu, "us", "team/");
    push(&eu, 1, "team/app", "v1", b"layer 1");
    push(&eu, 1, "team/app", "v2", b"layer 2");
    for (name, layer) in [("v1", b"layer 1"), ("v2", b"layer 2")] {
        arrives(&us, 1, "team/app", name, layer);
    }
    delete(&us, "team/app", "v1");
    link.cut();
    push(&eu, 1, "team/app", "v2", b"layer 2, newer");
    push(&eu, 1, "team/app", "v3", &large(3));
    eu.kill_node(1);
    {
        let store = Store::open(&eu, 1);
        let slot = store.repository("team/app").slot();
        let (dropped, newest) = store.drop_changes(slot);
        assert!(dropped > 0);
        let trimmed = codec::encode(&TrimmedRow(newest));
        store.0.put(trimmed_key(slot), trimmed).unwrap();
    }
    eu.start_node(1);
    link.mend();
    arrives(&us, 1, "team/app", "v2", b"layer 2, newer");
    arrives(&us, 1, "team/app", "v3", &large(3));
    wait("the comparison is reported", PATIENCE, || report(&us, "eu")["of"] == "a gap in the stream");
    push(&eu, 1, "team/app", "v4", b"layer 4");
    arrives(&us, 1, "team/app", "v4", b"layer 4");
    assert_eq!(tag(&us, 1, "team/app", "v1"), None, "a delete made here stays");
    let clean = verify(&us, "eu");
    assert_eq!(clean["clean"], true, "{clean:#}");
}

// R8, R13: where the rule says so, what is deleted at the source goes at the destination, with the tags on it; not
// what was pushed again there since. A delete that the stream lost is made up for by a comparison.
#[test]
fn r13_deletes_are_followed_by_rule() {
    let (eu, us) = (start(114, "eu", 1), start(115, "us", 1));
    let link = linked(&eu, &us);
    set_rule_with(&eu, "us", "team/", &json!({ "deleteReplication": { "enabled": true } }));
    let images = [("v1", "one"), ("v2", "two"), ("also", "two"), ("v3", "three"), ("v4", "four"), ("v5", "five")];
    for (name, layer) in images {
        push(&eu, 1, "team/app", name, layer.as_bytes());
    }
    for (name, layer) in images {
        arrives(&us, 1, "team/app", name, layer.as_bytes());
    }
    let digest_of = |layer: &[u8]| Digest::sha256(manifest(layer).as_bytes()).to_string();
    delete(&eu, "team/app", "v1");
    delete(&eu, "team/app", &digest_of(b"two"));
    for gone in ["v1", "v2", "also", &digest_of(b"two")] {
        wait(&format!("{gone} goes"), PATIENCE, || tag(&us, 1, "team/app", gone).is_none());
    }
    assert!(tag(&us, 1, "team/app", &digest_of(b"one")).is_some(), "a tag that goes leaves its image");

    link.cut();
    delete(&eu, "team/app", "v3");
    delete(&eu, "team/app", "v4");
    std::thread::sleep(std::time::Duration::from_millis(50));
    push(&us, 1, "team/app", "v3", b"three, again");
    // what deletes v4 is lost
    eu.kill_node(1);
    {
        let store = Store::open(&eu, 1);
        assert!(store.drop_changes(store.repository("team/app").slot()).0 >= 2);
    }
    eu.start_node(1);
    link.mend();
    let made_up = verify(&us, "eu");
    assert_eq!(found(&made_up), ["extra v4"], "{made_up:#}");
    assert_eq!(tag(&us, 1, "team/app", "v4"), None);
    arrives(&us, 1, "team/app", "v3", b"three, again");
    assert_eq!(verify(&us, "eu")["clean"], true);
}
