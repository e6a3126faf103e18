use super::super::testing::demands;
use super::*;
use crate::history::Kind;
use crate::history::testing::{Line, history};

const NODES: [&str; 3] = ["a-1", "b-1", "c-1"];

fn op(at: f64, f: Act, key: &'static str, node: &'static str, given: Value, got: Value) -> [Line<'static>; 2] {
    let line = |kind, value| (at, Some(1), kind, f, key, node, value);
    [line(Kind::Invoke, given), line(Kind::Ok, got)]
}

fn whole(digest: Option<&str>) -> Value {
    json!({"digest": digest, "told": digest, "read": 2, "missing": [], "wrong": [], "unread": []})
}

fn push(at: f64, tag: &'static str, number: u8) -> [Line<'static>; 2] {
    let image = json!({"digest": format!("sha256:{number}"), "blobs": [format!("sha256:c{number}"), "sha256:l"]});
    let told = json!({"tries": 1, "pushed_again": 0, "troubles": [], "interrupted": [], "unsure": false});
    op(at, Act::PushImage, tag, "", image, told)
}

fn nemesis_line(at: f64, f: Act, value: Value) -> Line<'static> {
    (at, None, Kind::Info, f, "", "", value)
}

/// Image 1 stays, 2 is deleted, 3 loses its tag to 4; read while the load is on and at the end from every node.
fn good() -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    lines.extend(push(0.0, "r:one", 1));
    lines.extend(push(0.1, "r:two", 2));
    lines.extend(push(0.2, "r:three", 3));
    lines.extend(push(0.3, "r:three", 4));
    lines.extend(op(0.4, Act::Verify, "r:one", "b-1", Value::Null, whole(Some("sha256:1"))));
    lines.extend(op(0.5, Act::DeleteImage, "r@sha256:2", "a-1", Value::Null, Value::Null));
    lines.push(nemesis_line(1.0, Act::Collection, json!({"cycles": 3, "last": {"swept": 4}})));
    lines.push(nemesis_line(1.1, Act::Collection, json!({"cycles": 4, "last": {"swept": 2}})));
    lines.push(nemesis_line(2.0, Act::Quiesce, json!({"settled": true, "took_ms": 5})));
    for node in NODES {
        for (name, digest) in [
            ("r:one", Some("sha256:1")),
            ("r:two", None),
            ("r:three", Some("sha256:4")),
            ("r@sha256:1", Some("sha256:1")),
            ("r@sha256:2", None),
            ("r@sha256:3", Some("sha256:3")),
            ("r@sha256:4", Some("sha256:4")),
        ] {
            lines.extend(op(3.0, Act::FinalVerify, name, node, Value::Null, whole(digest)));
        }
    }
    let used: Vec<&str> = vec!["sha256:c1", "sha256:c3", "sha256:c4", "sha256:l"];
    let used: serde_json::Map<String, Value> = used.into_iter().map(|digest| (digest.to_owned(), json!(3))).collect();
    let directory = |node: &str| {
        json!({"path": format!("/{node}"), "copies": {"bytes": 100},
            "surplus": {"files": 0, "bytes": 0, "first": []}, "staged": {"files": 0}})
    };
    let directories: Vec<Value> = NODES.iter().map(|node| directory(node)).collect();
    let disk = |node: &str| json!({"path": format!("/{node}"), "files": ["abc.7"], "bytes": 70, "pack_bytes": 40});
    let disks: serde_json::Map<String, Value> = NODES.iter().map(|node| ((*node).to_owned(), disk(node))).collect();
    lines.push(nemesis_line(4.0, Act::Disk, Value::Object(disks)));
    let blobs = json!({"records": 4, "unused": 0});
    let report = json!({"good": true, "blobs": blobs, "blob_zones": used, "directories": directories});
    lines.push(nemesis_line(4.1, Act::Check, report));
    lines
}

fn told_with(lines: &[Line<'_>], untagged_go: bool) -> Vec<String> {
    check(&history(lines), &demands(), Collected { blobs_min: 6, untagged_go }).problems
}

fn told(lines: &[Line<'_>]) -> Vec<String> {
    told_with(lines, false)
}

/// The value of the last line of an act and a key.
fn value<'a>(lines: &'a mut [Line<'static>], f: Act, name: &str) -> &'a mut Value {
    &mut lines.iter_mut().rfind(|line| line.3 == f && line.4 == name).unwrap().6
}

#[test]
fn nothing_lost_and_nothing_left() {
    assert_eq!(told(&good()), Vec::<String>::new());
}

// A blob of an image that is still there is absent, has other bytes, or was not read; one whose image was deleted
// meanwhile may be absent.
#[test]
fn half_images() {
    for f in [Act::Verify, Act::FinalVerify] {
        let with = |name: &str, what: Value| {
            let mut lines = good();
            value(&mut lines, f, "r:one")[name] = json!([what]);
            told(&lines).join("; ")
        };
        let missing = |is_there: Value| json!({"digest": "sha256:l", "node": "c-1", "manifest_is_there": is_there});
        assert!(with("missing", missing(json!(true))).contains("HALF"), "{f:?}");
        assert_eq!(with("missing", missing(json!(false))), "");
        assert!(with("wrong", json!({"digest": "sha256:l", "got": "sha256:x"})).contains("WRONG BYTES"), "{f:?}");
        let unread = with("unread", json!("503"));
        assert_eq!(unread.contains("not whole on c-1"), f == Act::FinalVerify, "{unread}");
    }
}

// An acknowledged image that is gone, another one in its place, a deleted one that is back, one that was never read
// again: seen at the end, by tag and by digest, and by who wants to delete it.
#[test]
fn images_gone_and_back() {
    for (name, found, words) in [
        ("r:one", whole(None), "LOST on c-1"),
        ("r@sha256:3", whole(None), "LOST on c-1"),
        ("r:three", whole(Some("sha256:3")), "LOST on c-1: it names sha256:3"),
        ("r:three", whole(Some("sha256:1")), "nobody pushed sha256:1 there"),
        ("r@sha256:2", whole(Some("sha256:2")), "was deleted"),
        ("r:two", whole(Some("sha256:2")), "was deleted"),
    ] {
        let mut lines = good();
        *value(&mut lines, Act::FinalVerify, name) = found;
        assert!(told(&lines).join("; ").contains(words), "{name}: {:?}", told(&lines));
    }
    let mut unread = good();
    unread.retain(|line| !(line.3 == Act::FinalVerify && line.4 == "r:one" && line.5 == "b-1"));
    assert!(told(&unread)[0].contains("never read from b-1"));
    let mut refused = good();
    let at = refused.iter().position(|line| line.3 == Act::DeleteImage && line.2 == Kind::Ok).unwrap();
    (refused[at].2, refused[at].6) = (Kind::Fail, json!({"status": 404}));
    assert!(told(&refused)[0].contains("LOST: to be deleted"), "{:?}", told(&refused));
}

// Where untagged images go by their age, one that stayed is garbage; where they don't, one that went is lost.
#[test]
fn untagged_images() {
    assert!(
        told_with(&good(), true).iter().any(|problem| problem.contains("r@sha256:3") && problem.contains("deleted"))
    );
    let mut gone = good();
    for line in gone.iter_mut().filter(|line| line.4 == "r@sha256:3" && line.2 == Kind::Ok) {
        line.6 = whole(None);
    }
    assert!(value(&mut gone, Act::Check, "")["blob_zones"].as_object_mut().unwrap().remove("sha256:c3").is_some());
    assert_eq!(told_with(&gone, true), Vec::<String>::new());
    assert!(told(&gone)[0].contains("r@sha256:3: LOST on a-1"));
}

// What nobody knows may be there or not, never half.
#[test]
fn unknown_answers() {
    for found in [None, Some("sha256:2")] {
        let mut lines = good();
        let at = lines.iter().position(|line| line.3 == Act::DeleteImage && line.2 == Kind::Ok).unwrap();
        lines[at].2 = Kind::Info;
        lines.iter_mut().skip(at + 1).filter(|line| line.1.is_some()).for_each(|line| line.1 = Some(2));
        for line in lines.iter_mut().filter(|line| line.3 == Act::FinalVerify && line.2 == Kind::Ok) {
            if matches!(line.4, "r:two" | "r@sha256:2") {
                line.6 = whole(found);
            }
        }
        assert_eq!(told(&lines), Vec::<String>::new(), "{found:?}");
        value(&mut lines, Act::FinalVerify, "r@sha256:2")["unread"] = json!(["x"]);
        assert_eq!(!told(&lines).is_empty(), found.is_some());
    }
}

// A late put may bring back what was deleted after it.
#[test]
fn late_puts() {
    let mut lines = good();
    value(&mut lines, Act::FinalVerify, "r@sha256:2")["digest"] = json!("sha256:2");
    assert!(told(&lines).iter().any(|problem| problem.contains("was deleted")));
    let at = lines.iter().position(|line| line.3 == Act::PushImage && line.2 == Kind::Ok && line.4 == "r:two").unwrap();
    lines[at].6["unsure"] = json!(true);
    let told = told(&lines).join("; ");
    assert!(!told.contains("was deleted"), "{told}");
}

// Garbage that is left: a record nobody uses, a blob no image names, a file no record names, a pack mostly dead; and
// bytes that differ.
#[test]
fn garbage_left() {
    let report = |change: fn(&mut Value)| {
        let mut lines = good();
        change(value(&mut lines, Act::Check, ""));
        told(&lines).join("; ")
    };
    assert!(report(|report| report["blobs"]["unused"] = json!(1)).contains("GARBAGE: 1 records"));
    assert!(report(|report| report["blob_zones"]["sha256:c2"] = json!(3)).contains("GARBAGE: a repository uses"));
    assert!(report(|report| report["blob_zones"] = json!({})).contains("LOST: sha256:c1"));
    let file = |report: &mut Value| {
        let first = json!([{"name": "abc.7", "bytes": 0, "text": "no record names it"}]);
        report["directories"][1]["surplus"] = json!({"files": 1, "bytes": 0, "first": first});
    };
    assert!(report(file).contains("GARBAGE: b-1: a surplus file"));
    assert!(report(|report| report["directories"][0]["copies"]["bytes"] = json!(60)).contains("by `portolan check`"));
    assert!(report(|report| report["directories"][0]["copies"]["bytes"] = json!(111)).contains("by `portolan check`"));
    assert!(report(|report| *report = json!({})).contains("does not list"));
    let hidden = |report: &mut Value| report["directories"][0]["surplus"]["files"] = json!(1);
    assert!(report(hidden).contains("does not list all"));
    // records in packs may be dead, a few of them
    for (bytes, is_good) in [(0, true), (1000, false)] {
        let mut packs = good();
        let disk = &mut value(&mut packs, Act::Disk, "")["b-1"];
        disk["files"] = json!([]);
        disk["pack_bytes"] = json!(10_000);
        file(value(&mut packs, Act::Check, ""));
        value(&mut packs, Act::Check, "")["directories"][1]["surplus"]["first"][0]["bytes"] = json!(bytes);
        let told = told(&packs).join("");
        assert_eq!(told.contains("belong to nothing"), !is_good, "{told}");
        assert_eq!(told.is_empty(), is_good, "{told}");
    }
    // a push of these bytes broke off: its upload may still be ended
    let mut broken_off = good();
    file(value(&mut broken_off, Act::Check, ""));
    value(&mut broken_off, Act::PushImage, "r:one")["interrupted"] = json!(["sha256:abc"]);
    assert_eq!(told(&broken_off), Vec::<String>::new());
    // one file on a node for each time it did, not two
    let surplus = &mut value(&mut broken_off, Act::Check, "")["directories"][1]["surplus"];
    surplus["files"] = json!(2);
    let again = surplus["first"][0].clone();
    surplus["first"].as_array_mut().unwrap().push(again);
    assert!(told(&broken_off)[0].contains("GARBAGE: b-1: a surplus file"));
}

// A run that collected nothing, did not wait, waited in vain, or did not look at the disks proves nothing.
#[test]
fn nothing_proven() {
    let without = |f: Act| {
        let mut lines = good();
        lines.retain(|line| line.3 != f);
        told(&lines).join("; ")
    };
    assert!(without(Act::Collection).contains("0 blobs were collected, fewer than 6"));
    assert!(without(Act::Quiesce).contains("nobody waited"));
    assert!(without(Act::Check).contains("not checked"));
    assert!(without(Act::Disk).contains("nobody counted"));
    let mut restless = good();
    value(&mut restless, Act::Quiesce, "")["settled"] = json!(false);
    assert!(told(&restless)[0].contains("did not come to rest"));
    let mut twice = good();
    value(&mut twice, Act::Collection, "")["cycles"] = json!(3);
    assert!(told(&twice)[0].contains("2 blobs were collected"), "one cycle seen twice counts once");
}
