//! Histories that were recorded at a real cluster (`recorded/`), judged as they are and with one violation each: every
//! judge must say no to what it is for, and the second judge of registers must say what the first says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::second::Judge;
use super::testing::demands;
use super::*;
use crate::history::{FILE, verify};

/// A tag while leaders were killed: some writes that nobody knows about, some of them seen later.
const REGISTER: &str = include_str!("recorded/register.jsonl");
/// The first second of a list of tags.
const LISTING: &str = include_str!("recorded/listing.jsonl");
/// Two clients of `gc` for three seconds, where untagged images go by their age.
const GC: &str = include_str!("recorded/gc.jsonl");
/// The first moments of `blob-bytes`.
const BYTES: &str = include_str!("recorded/bytes.jsonl");

fn recorded(text: &str) -> Vec<Event> {
    let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    verify(&events).unwrap();
    events
}

/// Place of the end of the last operation for which `is_wanted` holds, given what was asked and answered.
fn last(events: &[Event], act: Act, is_wanted: impl Fn(&Event, &Event) -> bool) -> usize {
    let found = pairs(events, &[act]).into_iter().rev();
    let mut found = found.filter_map(|pair| Some((pair.invoke, pair.end?)));
    found.find(|(invoke, end)| is_wanted(invoke, end)).expect("the recorded history has one").1.index as usize
}

fn is_ok(_: &Event, end: &Event) -> bool {
    end.kind == Kind::Ok
}

fn read_digest(end: &Event) -> Option<&str> {
    end.value.get("digest").and_then(Value::as_str)
}

/// The end of the last read that saw a digest.
fn last_seen(events: &[Event]) -> usize {
    last(events, Act::Get, |_, end| end.kind == Kind::Ok && read_digest(end).is_some())
}

/// The digest of the first put that was acknowledged.
fn first_put(events: &[Event]) -> String {
    let puts = pairs(events, &[Act::Put]);
    puts.iter().find(|put| put.is_ok()).unwrap().invoke.value["digest"].as_str().unwrap().to_owned()
}

/// A violation, and which judges of registers see it.
struct Violation {
    name: &'static str,
    inject: fn(&mut [Event]),
    chain: bool,
    linear: bool,
}

fn stale_read(events: &mut [Event]) {
    let (old, at) = (first_put(events), last_seen(events));
    events[at].value = json!({"digest": old});
}

/// Nothing of an acknowledged put is seen by those who read afterwards: they see what was there before it.
fn lost_write(events: &mut [Event]) {
    let at = last(events, Act::Put, |put, acknowledged| {
        let digest = put.value["digest"].as_str();
        let is_seen = pairs(events, &[Act::Get])
            .into_iter()
            .any(|get| get.invoke.index > acknowledged.index && get.end.and_then(read_digest) == digest);
        acknowledged.kind == Kind::Ok && is_seen
    });
    let process = events[at].process;
    let put = events[..at].iter().rfind(|event| event.process == process).unwrap().clone();
    let before = events[..put.index as usize].iter().rfind(|event| event.f == Act::Get && read_digest(event).is_some());
    let before = before.unwrap().value.clone();
    for event in events.iter_mut().filter(|event| event.f == Act::Get && event.kind == Kind::Ok) {
        if event.value["digest"] == put.value["digest"] {
            event.value = before.clone();
        }
    }
}

/// Two writes at one revision.
fn duplicate(events: &mut [Event]) {
    let second = last(events, Act::Put, is_ok);
    let first = last(&events[..second], Act::Put, is_ok);
    events[second].rev = events[first].rev;
}

/// A condition that did not hold is said to have held.
fn broken_condition(events: &mut [Event]) {
    let at = last(events, Act::PutIf, |put, end| {
        end.value["status"] == json!(412) && put.value["from"].is_string() && end.index - put.index == 1
    });
    (events[at].kind, events[at].value, events[at].error) = (Kind::Ok, Value::Null, None);
    // behind everything that was told before
    events[at].rev = events[..at].iter().filter_map(|event| event.rev).max().map(|rev| rev + 1);
}

/// A dropped tag is back.
fn resurrected(events: &mut [Event]) {
    let at = last(events, Act::Get, |get, end| {
        let before = &events[..get.index as usize];
        let change = before.iter().rfind(|event| event.kind == Kind::Ok && event.f != Act::Get);
        end.kind == Kind::Ok && read_digest(end).is_none() && change.is_some_and(|change| change.f == Act::Delete)
    });
    let before = events[..at].iter().rfind(|event| read_digest(event).is_some() && event.f == Act::Get);
    let before = before.unwrap().value.clone();
    events[at].value = before;
    events[at].rev = events[..at].iter().filter_map(|event| event.rev).max();
}

fn phantom(events: &mut [Event]) {
    let at = last_seen(events);
    events[at].value = json!({"digest": "sha256:nobody"});
}

/// What was refused is seen.
fn refused(events: &mut [Event]) {
    let refused = last(events, Act::PutIf, |_, end| end.kind == Kind::Fail);
    let process = events[refused].process;
    let put = events[..refused].iter().rfind(|event| event.process == process).unwrap().value["digest"].clone();
    let at = last_seen(events);
    events[at].value = json!({"digest": put});
}

fn revision_of_the_past(events: &mut [Event]) {
    let at = last_seen(events);
    events[at].rev = Some(1);
}

const VIOLATIONS: [Violation; 9] = [
    Violation { name: "none", inject: |_| (), chain: false, linear: false },
    Violation { name: "stale read", inject: stale_read, chain: true, linear: true },
    Violation { name: "lost write", inject: lost_write, chain: true, linear: true },
    Violation { name: "duplicate", inject: duplicate, chain: true, linear: false },
    Violation { name: "broken condition", inject: broken_condition, chain: true, linear: true },
    Violation { name: "resurrected", inject: resurrected, chain: true, linear: true },
    Violation { name: "phantom", inject: phantom, chain: true, linear: true },
    Violation { name: "refused", inject: refused, chain: true, linear: true },
    Violation { name: "revision of the past", inject: revision_of_the_past, chain: true, linear: false },
];

fn violated(violation: &Violation) -> Vec<Event> {
    let mut events = recorded(REGISTER);
    (violation.inject)(&mut events);
    verify(&events).unwrap();
    events
}

// Values and times show one half of the violations to `linear`, revisions show them and the other half to `chain`.
#[test]
fn registers() {
    for violation in &VIOLATIONS {
        let events = violated(violation);
        let (chain, linear) = (chain::check(&events), linear::check(&events));
        assert_eq!(!chain.is_good, violation.chain, "{}: {:?}", violation.name, chain.problems);
        assert_eq!(!linear.is_good, violation.linear, "{}: {:?}", violation.name, linear.problems);
        assert!(linear.figures["unknown"].as_u64().unwrap() > 0, "the recorded history has unknown ones");
    }
}

// The second judge says of each of them what the first says.
#[test]
fn second_judge_agrees() {
    let judge = match Judge::build() {
        Ok(judge) => judge,
        Err(reason) => {
            eprintln!("SKIPPED, NOTHING IS PROVEN OF THE SECOND JUDGE: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let write = |(number, violation): (usize, &Violation)| -> PathBuf {
        let path = dir.path().join(format!("{number}-{FILE}"));
        let lines = violated(violation).into_iter().map(|event| serde_json::to_string(&event).unwrap() + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        path
    };
    let histories: Vec<PathBuf> = VIOLATIONS.iter().enumerate().map(write).collect();
    let paths: Vec<&Path> = histories.iter().map(PathBuf::as_path).collect();
    let opinions = judge.ask(&paths).unwrap();
    for (violation, opinion) in VIOLATIONS.iter().zip(opinions) {
        let first = linear::check(&violated(violation));
        assert_eq!(opinion.illegal.is_empty(), !violation.linear, "{}: {opinion:?}", violation.name);
        let problems = second::compare(&first, &opinion).problems;
        assert!(!problems.iter().any(|problem| problem.contains("judge")), "{}: {problems:?}", violation.name);
    }
}

// A recorded list is whole; with an entry left out, told twice or made up, or of an older revision, it is not.
#[test]
fn lists() {
    let told = |inject: fn(&mut Value)| {
        let mut events = recorded(LISTING);
        let is_long = |_: &Event, end: &Event| end.value["pages"].as_array().is_some_and(|pages| pages.len() > 2);
        let at = last(&events, Act::List, is_long);
        inject(&mut events[at].value["pages"]);
        listing::check(&events, &demands()).problems.join("; ")
    };
    fn items(pages: &mut Value, page: usize) -> &mut Vec<Value> {
        pages[page]["items"].as_array_mut().unwrap()
    }
    assert_eq!(told(|_| ()), "");
    let torn = told(|pages| drop(items(pages, 1).pop()));
    assert!(torn.contains("TORN") && torn.contains("is not listed"), "{torn}");
    let twice = told(|pages| {
        let entry = items(pages, 0)[0].clone();
        items(pages, 2).push(entry);
    });
    assert!(twice.contains("listed 2 times"), "{twice}");
    let phantom = told(|pages| items(pages, 1).push(json!("ffff-nobody")));
    assert!(phantom.contains("absent all the time"), "{phantom}");
    let stale = told(|pages| pages[2]["rev"] = json!(1));
    assert!(stale.contains("STALE"), "{stale}");
}

// Recorded reads are right; with one other digest they are not.
#[test]
fn bytes() {
    let mut events = recorded(BYTES);
    assert_eq!(blob_bytes::check(&events, &demands()).problems, Vec::<String>::new());
    for act in [Act::ReadWhole, Act::ReadRange] {
        let at = last(&events, act, is_ok);
        events[at].value["got"] = json!("sha256:other");
    }
    assert_eq!(blob_bytes::check(&events, &demands()).problem_count, 2);
}

// A recorded run collected all garbage and nothing else; with a blob gone under an image, an image gone or back,
// garbage left, or nothing collected, it did not.
#[test]
fn garbage() {
    let told = |inject: fn(&mut Vec<Event>)| {
        let mut events = recorded(GC);
        inject(&mut events);
        let wanted = Collected { blobs_min: 10, untagged_go: true };
        collected::check(&events, &demands(), wanted).problems.join("; ")
    };
    fn is_there(_: &Event, end: &Event) -> bool {
        end.value["digest"].is_string()
    }
    fn report(events: &mut [Event]) -> &mut Value {
        &mut events.iter_mut().rfind(|event| event.f == Act::Check).unwrap().value
    }
    assert_eq!(told(|_| ()), "");
    let half = told(|events| {
        let at = last(events, Act::Verify, is_there);
        events[at].value["missing"] = json!([{"digest": "sha256:x", "node": "b-1", "manifest_is_there": true}]);
    });
    assert!(half.contains("HALF"), "{half}");
    let gone = told(|events| {
        let at = last(events, Act::FinalVerify, is_there);
        events[at].value["digest"] = Value::Null;
    });
    assert!(gone.contains("LOST on"), "{gone}");
    let back = told(|events| {
        let is_deleted = |read: &Event, end: &Event| key(read).contains('@') && end.value["digest"].is_null();
        let at = last(events, Act::FinalVerify, is_deleted);
        let digest = key(&events[at]).split_once('@').unwrap().1.to_owned();
        events[at].value["digest"] = json!(digest);
    });
    assert!(back.contains("was deleted"), "{back}");
    let left = told(|events| report(events)["blob_zones"]["sha256:left"] = json!(3));
    assert!(left.contains("GARBAGE: a repository uses sha256:left"), "{left}");
    let surplus = told(|events| report(events)["directories"][0]["surplus"]["files"] = json!(1));
    assert!(surplus.contains("does not list all surplus"), "{surplus}");
    let idle = told(|events| {
        let cycles = events.iter_mut().filter(|event| event.f == Act::Collection);
        cycles.for_each(|cycle| cycle.value["last"]["swept"] = json!(0));
    });
    assert!(idle.contains("0 blobs were collected"), "{idle}");
}
