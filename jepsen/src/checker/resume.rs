//! An upload goes on after any one node was killed: at the last acknowledged byte or behind it, never behind what was
//! sent, and what it becomes has the right bytes on every node.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Demands, Pair, Verdict, at, key, nemesis, node, pairs};
use crate::history::{Act, Event};

const ACTS: [Act; 5] = [Act::Begin, Act::Append, Act::Resume, Act::Finish, Act::ReadBlob];

/// One upload, as far as its history was read.
#[derive(Default)]
struct Upload<'a> {
    acknowledged: u64,
    sent: u64,
    begun_at: u64,
    finished_at: Option<u64>,
    read_from: BTreeSet<&'a str>,
    resumes: u64,
}

fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

pub(super) fn check(events: &[Event], demands: &Demands) -> Verdict {
    let mut uploads: BTreeMap<&str, Upload<'_>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut broken_chunks = 0u64;
    for pair in pairs(events, &ACTS) {
        let name = key(pair.invoke);
        let upload = uploads.entry(name).or_default();
        broken_chunks += u64::from(pair.invoke.f == Act::Append && !pair.is_ok());
        if let Err(problem) = follow(upload, &pair) {
            problems.push(format!("{name}: {problem}, at {}", at(pair.invoke)));
        }
    }
    for (name, upload) in &uploads {
        let Some(finished) = upload.finished_at else {
            problems.push(format!("{name}: never finished"));
            continue;
        };
        let mut kills = nemesis(events, Act::Kill);
        if !kills.any(|kill| kill.time > upload.begun_at && kill.time < finished) {
            problems.push(format!("{name}: no node was killed while it was under way"));
        }
        for node in demands.nodes.iter().filter(|node| !upload.read_from.contains(node.as_str())) {
            problems.push(format!("{name}: not read from {node}"));
        }
    }
    let victims: BTreeSet<&str> = nemesis(events, Act::Kill).map(node).collect();
    for node in demands.nodes.iter().filter(|node| !victims.contains(node.as_str())) {
        problems.push(format!("{node} was never killed: perhaps no primary was"));
    }
    let resumes: u64 = uploads.values().map(|upload| upload.resumes).sum();
    let figures = json!({"uploads": uploads.len(), "resumes": resumes, "broken_chunks": broken_chunks});
    Verdict::new("resume", figures, problems)
}

/// Takes one operation into account; what is wrong with it, if something is.
fn follow<'a>(upload: &mut Upload<'a>, pair: &Pair<'a>) -> Result<(), String> {
    let given = &pair.invoke.value;
    if pair.invoke.f == Act::Append {
        upload.sent = upload.sent.max(number(given, "to"));
    }
    let Some(end) = pair.end.filter(|_| pair.is_ok()) else {
        // a chunk may be cut; everything else has been repeated, or asks a node that lives
        let is_chunk = pair.invoke.f == Act::Append;
        return if is_chunk { Ok(()) } else { Err(format!("{:?} failed: {}", pair.invoke.f, pair.error())) };
    };
    let (act, reported) = (pair.invoke.f, number(&end.value, "reported"));
    if act == Act::Begin {
        upload.begun_at = end.time;
    } else if act == Act::Append {
        let (from, to) = (number(given, "from"), number(given, "to"));
        if reported != to {
            return Err(format!("bytes {from} to {to} were taken, and {reported} reported"));
        }
        upload.acknowledged = to;
    } else if act == Act::Resume {
        upload.resumes += 1;
        let (acknowledged, sent) = (upload.acknowledged, upload.sent);
        if reported < acknowledged || reported > sent {
            return Err(format!("{acknowledged} acknowledged, {sent} sent, and {reported} reported"));
        }
    } else if act == Act::Finish {
        upload.finished_at = Some(end.time);
    } else {
        upload.read_from.insert(node(pair.invoke));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::demands;
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::{Line, history};

    /// An upload of three chunks; one node is killed behind the first; all nodes are killed at some time.
    fn good() -> Vec<Line<'static>> {
        let (invoke, ok, info) = (Kind::Invoke, Kind::Ok, Kind::Info);
        let append = |from: u64, to: u64| json!({"from": from, "to": to});
        let reported = |bytes: u64| json!({"reported": bytes});
        let mut lines: Vec<Line<'static>> = vec![
            (0.0, Some(1), invoke, Act::Begin, "u", "", Value::Null),
            (0.1, Some(1), ok, Act::Begin, "u", "", Value::Null),
            (0.2, Some(1), invoke, Act::Append, "u", "", append(0, 100)),
            (0.3, Some(1), ok, Act::Append, "u", "", reported(100)),
            (1.0, None, info, Act::Kill, "", "a-1", Value::Null),
            (1.1, Some(1), invoke, Act::Append, "u", "", append(100, 200)),
            (1.2, Some(1), info, Act::Append, "u", "", Value::Null),
            (1.3, Some(2), invoke, Act::Resume, "u", "", Value::Null),
            (1.4, Some(2), ok, Act::Resume, "u", "", reported(100)),
            (1.5, Some(2), invoke, Act::Append, "u", "", append(100, 200)),
            (1.6, Some(2), ok, Act::Append, "u", "", reported(200)),
            (1.7, Some(2), invoke, Act::Finish, "u", "", Value::Null),
            (1.8, Some(2), ok, Act::Finish, "u", "", Value::Null),
        ];
        for name in ["a-1", "b-1", "c-1"] {
            lines.push((2.0, Some(2), invoke, Act::ReadBlob, "u", name, Value::Null));
            lines.push((2.0, Some(2), ok, Act::ReadBlob, "u", name, Value::Null));
        }
        lines.push((3.0, None, info, Act::Kill, "", "b-1", Value::Null));
        lines.push((4.0, None, info, Act::Kill, "", "c-1", Value::Null));
        lines
    }

    fn told(lines: &[Line<'_>]) -> String {
        check(&history(lines), &demands()).problems.join("; ")
    }

    #[test]
    fn goes_on() {
        assert_eq!(told(&good()), "");
        let mut more = good();
        more[8].6 = json!({"reported": 150});
        assert_eq!(told(&more), "", "bytes that were sent may be there");
    }

    // Each injected damage is seen.
    #[test]
    fn damages() {
        for (line, value, words) in
            [(8, 99, "100 acknowledged"), (8, 201, "201 reported"), (10, 150, "150 reported"), (3, 0, "0 reported")]
        {
            let mut lines = good();
            lines[line].6 = json!({"reported": value});
            assert!(told(&lines).contains(words), "{line}: {}", told(&lines));
        }
        for (line, words) in [(8, "Resume failed"), (12, "never finished"), (18, "not read from c-1")] {
            let mut lines = good();
            lines[line].2 = Kind::Fail;
            assert!(told(&lines).contains(words), "{line}: {}", told(&lines));
        }
        let mut quiet = good();
        quiet.remove(4);
        assert!(told(&quiet).contains("no node was killed while"), "{}", told(&quiet));
        assert!(told(&good()[..good().len() - 1]).contains("c-1 was never killed"));
    }
}
