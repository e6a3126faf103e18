//! What lies on the disks of the stopped nodes, as `portolan check` read it: every blob of an acknowledged push in all
//! three zones, or in two where disks were hurt; every tag whole, nothing damaged but what the nemesis damaged.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Verdict, nemesis, pairs};
use crate::history::{Act, Event};

/// Zones that must have a good copy: what 201 promises, and what repair has made of it when the nodes are stopped.
const ZONES_PROMISED: u64 = 2;
const ZONES_REPAIRED: u64 = 3;
/// Faults that leave more to repair than may be done in the time of a run.
const HURTS_DISKS: [&str; 8] =
    ["wipe", "rot-blob", "rot-sst", "rot-wal", "rot-snapshot", "io-error", "disk-full", "slow-disk"];

pub(super) fn check(events: &[Event]) -> Verdict {
    let Some(check) = nemesis(events, Act::Check).last() else {
        return Verdict::new("copies", Value::Null, vec!["the stopped nodes were not checked".to_owned()]);
    };
    let report = &check.value;
    let mut problems = Vec::new();
    let rotted = rotted(events);
    let said = report.get("problems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (excused, others): (Vec<&Value>, Vec<&Value>) = said.iter().partition(|problem| is_excused(problem, &rotted));
    let is_all_excused = !excused.is_empty() && others.is_empty() && report["problems_total"] == excused.len();
    if report.get("good") != Some(&Value::Bool(true)) && !is_all_excused {
        problems
            .push(format!("`portolan check` says: {}", if said.is_empty() { json!(report) } else { json!(others) }));
    }
    let pushes = pairs(events, &[Act::PutManifest]);
    let acknowledged = pushes.iter().filter(|push| push.is_ok());
    let named = acknowledged.filter_map(|push| push.invoke.value.get("blobs")?.as_array()).flatten();
    let named: BTreeSet<&str> = named.filter_map(Value::as_str).collect();
    let hurt = super::faults::windows(events).iter().any(|window| HURTS_DISKS.contains(&window.kind));
    let zones_min = if hurt { ZONES_PROMISED } else { ZONES_REPAIRED };
    for digest in &named {
        let zones = report.pointer("/blob_zones").and_then(|zones| zones.get(digest)?.as_u64());
        match zones {
            Some(zones) if zones >= zones_min => {}
            Some(zones) => problems.push(format!("{digest} has good copies in {zones} zones")),
            None => problems.push(format!("{digest} was acknowledged and is in no state")),
        }
    }
    let figures = json!({
        "acknowledged_blobs": named.len(),
        "blobs": report.get("blobs"),
        "images": report.get("images"),
        "surplus_files": surplus(report),
        "rotten_and_not_yet_found": excused.len(),
    });
    Verdict::new("copies", figures, problems)
}

/// Nodes whose copies of blobs the nemesis damaged.
fn rotted(events: &[Event]) -> BTreeSet<&str> {
    let windows = super::faults::windows(events).into_iter().filter(|window| window.kind == "rot-blob");
    windows.flat_map(|window| window.nodes).collect()
}

/// A bad copy on a node whose copies were damaged: it is found when it is read, and nobody may have read it.
fn is_excused(problem: &Value, rotted: &BTreeSet<&str>) -> bool {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_there = rotted.iter().any(|node| text("directory").contains(&format!("/nodes/{node}/")));
    is_there && matches!(text("kind"), "copy" | "sums" | "pack")
}

/// Files that no state names, on all nodes: what crashes left, freed when their uploads expire.
fn surplus(report: &Value) -> u64 {
    let directories = report.get("directories").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    directories.iter().filter_map(|directory| directory.pointer("/surplus/files")?.as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Kind;
    use crate::history::testing::{Line, history};

    fn problems(reports: &[Value]) -> Vec<String> {
        problems_after(&[], reports)
    }

    fn problems_after(faults: &[Value], reports: &[Value]) -> Vec<String> {
        let push = json!({"digest": "sha256:m", "blobs": ["sha256:1", "sha256:2"]});
        let mut lines: Vec<Line<'_>> = vec![
            (0.0, Some(1), Kind::Invoke, Act::PutManifest, "r:t", "", push),
            (0.1, Some(1), Kind::Ok, Act::PutManifest, "r:t", "", Value::Null),
        ];
        lines.extend(faults.iter().map(|fault| (0.5, None, Kind::Info, Act::Inject, "", "", fault.clone())));
        lines.extend(reports.iter().map(|report| (1.0, None, Kind::Info, Act::Check, "", "", report.clone())));
        check(&history(&lines)).problems
    }

    // Damage is excused only where it was done, only of copies, and only if nothing else is wrong.
    #[test]
    fn rot() {
        let fault = |node: &str| json!({"fault": 1, "kind": "rot-blob", "nodes": [node], "outcome": "installed"});
        let report = |kind: &str, node: &str, total: u64| {
            let problem = json!({"directory": format!("/r/data/nodes/{node}/data"), "kind": kind, "text": "x"});
            json!({"good": false, "problems": [problem], "problems_total": total,
                "blob_zones": {"sha256:1": 2, "sha256:2": 3}})
        };
        assert_eq!(problems_after(&[fault("a-1")], &[report("copy", "a-1", 1)]), Vec::<String>::new());
        for (node, bad) in [
            ("b-1", report("copy", "a-1", 1)),
            ("a-1", report("tables", "a-1", 1)),
            ("a-1", report("lost", "a-1", 1)),
            ("a-1", report("copy", "a-1", 2)),
            ("a-1", json!({"good": false, "problems": [], "problems_total": 0})),
        ] {
            assert!(!problems_after(&[fault(node)], std::slice::from_ref(&bad)).is_empty(), "{node} {bad}");
        }
        assert!(!problems(&[report("copy", "a-1", 1)]).is_empty(), "nothing was damaged");
    }

    // A blob in one zone, one that is nowhere, a report that is not good, and no report at all.
    #[test]
    fn table() {
        let report = |first: u64, good: bool| json!({"good": good, "problems": ["rot"], "blob_zones": {"sha256:1": first, "sha256:2": 3}});
        assert_eq!(problems(&[report(3, true)]), Vec::<String>::new());
        assert!(problems(&[report(2, true)])[0].contains("good copies in 2 zones"), "it was not made again");
        let wipe = json!({"fault": 1, "kind": "wipe", "nodes": ["a-1"], "outcome": "installed"});
        assert_eq!(problems_after(std::slice::from_ref(&wipe), &[report(2, true)]), Vec::<String>::new());
        assert!(problems_after(&[wipe], &[report(1, true)])[0].contains("good copies in 1 zones"));
        assert!(problems(&[report(3, false)])[0].contains("rot"));
        let absent = json!({"good": true, "blob_zones": {"sha256:1": 3}});
        assert!(problems(&[absent])[0].contains("sha256:2 was acknowledged and is in no state"));
        assert!(problems(&[])[0].contains("not checked"));
    }
}
