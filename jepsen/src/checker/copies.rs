//! What lies on the disks of the stopped nodes, as `portolan check` read it: every blob of an acknowledged push in at
//! least two zones, every tag whole, nothing damaged.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Verdict, nemesis, pairs};
use crate::history::{Act, Event};

/// Zones that must have a good copy.
const ZONES_MIN: u64 = 2;

pub(super) fn check(events: &[Event]) -> Verdict {
    let Some(check) = nemesis(events, Act::Check).last() else {
        return Verdict::new("copies", Value::Null, vec!["the stopped nodes were not checked".to_owned()]);
    };
    let report = &check.value;
    let mut problems = Vec::new();
    if report.get("good") != Some(&Value::Bool(true)) {
        problems.push(format!("`portolan check` says: {}", report.get("problems").unwrap_or(report)));
    }
    let pushes = pairs(events, &[Act::PutManifest]);
    let acknowledged = pushes.iter().filter(|push| push.is_ok());
    let named = acknowledged.filter_map(|push| push.invoke.value.get("blobs")?.as_array()).flatten();
    let named: BTreeSet<&str> = named.filter_map(Value::as_str).collect();
    for digest in &named {
        let zones = report.pointer("/blob_zones").and_then(|zones| zones.get(digest)?.as_u64());
        match zones {
            Some(zones) if zones >= ZONES_MIN => {}
            Some(zones) => problems.push(format!("{digest} has good copies in {zones} zones")),
            None => problems.push(format!("{digest} was acknowledged and is in no state")),
        }
    }
    let figures = json!({
        "acknowledged_blobs": named.len(),
        "blobs": report.get("blobs"),
        "images": report.get("images"),
        "surplus_files": surplus(report),
    });
    Verdict::new("copies", figures, problems)
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
        let push = json!({"digest": "sha256:m", "blobs": ["sha256:1", "sha256:2"]});
        let mut lines: Vec<Line<'_>> = vec![
            (0.0, Some(1), Kind::Invoke, Act::PutManifest, "r:t", "", push),
            (0.1, Some(1), Kind::Ok, Act::PutManifest, "r:t", "", Value::Null),
        ];
        lines.extend(reports.iter().map(|report| (1.0, None, Kind::Info, Act::Check, "", "", report.clone())));
        check(&history(&lines)).problems
    }

    // A blob in one zone, one that is nowhere, a report that is not good, and no report at all.
    #[test]
    fn table() {
        let report = |first: u64, good: bool| json!({"good": good, "problems": ["rot"], "blob_zones": {"sha256:1": first, "sha256:2": 3}});
        assert_eq!(problems(&[report(2, true)]), Vec::<String>::new());
        assert!(problems(&[report(1, true)])[0].contains("good copies in 1 zones"));
        assert!(problems(&[report(3, false)])[0].contains("rot"));
        let absent = json!({"good": true, "blob_zones": {"sha256:1": 3}});
        assert!(problems(&[absent])[0].contains("sha256:2 was acknowledged and is in no state"));
        assert!(problems(&[])[0].contains("not checked"));
    }
}
