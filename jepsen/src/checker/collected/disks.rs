//! What `portolan check` and the harness found on the disks of the stopped nodes: what images name, and nothing beside.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::list;
use super::state::{Expected, State};
use crate::checker::{nemesis, pairs};
use crate::history::{Act, Event};

/// Bytes that packs may hold beside twice what is alive in them: below this the server rewrites them at any loss.
const PACK_SLACK_BYTES: u64 = 4 << 20;

/// Judges; what was read, for the figures.
pub(super) fn judge(events: &[Event], state: &State<'_>, problems: &mut Vec<String>) -> Value {
    let Some(report) = nemesis(events, Act::Check).last().map(|check| &check.value) else {
        problems.push("the stopped nodes were not checked: nothing is proven of their disks".to_owned());
        return Value::Null;
    };
    if report["blobs"]["unused"] != 0 {
        problems.push(format!("GARBAGE: {} records that no repository uses", report["blobs"]["unused"]));
    }
    names(report, state, problems);
    let interrupted = interrupted(events);
    let (mut explained, mut staged) = (0u64, 0u64);
    for directory in list(report, "directories") {
        explained += surplus(directory, &interrupted, problems);
        staged += directory["staged"]["files"].as_u64().unwrap_or_default();
    }
    let counted = nemesis(events, Act::Disk).last().map(|disk| &disk.value);
    let bytes = bytes(report, counted, problems);
    json!({
        "blobs": report["blobs"]["records"],
        "interrupted_pushes": interrupted.values().sum::<u64>(),
        "surplus_of_interrupted_pushes": explained,
        "staged": staged,
        "nodes": bytes,
    })
}

/// What repositories use is what images name; all of it.
fn names(report: &Value, state: &State<'_>, problems: &mut Vec<String>) {
    let Some(used) = report["blob_zones"].as_object() else {
        problems.push("`portolan check` does not list the blobs in use".to_owned());
        return;
    };
    let (may, must) = (state.blobs(&[Expected::There, Expected::Either]), state.blobs(&[Expected::There]));
    let garbage = used.keys().filter(|digest| !may.contains(digest.as_str()));
    problems.extend(garbage.map(|digest| format!("GARBAGE: a repository uses {digest}, and no image names it")));
    let lost = must.iter().filter(|digest| !used.contains_key(**digest));
    problems.extend(lost.map(|digest| format!("LOST: {digest} is named by an image, and no repository uses it")));
}

/// How often the push of a blob broke off: so many nodes' files each may be there that its upload can still be ended
/// with, for two days.
fn interrupted(events: &[Event]) -> BTreeMap<&str, u64> {
    let pushes = pairs(events, &[Act::PushImage]);
    let ends = pushes.iter().filter_map(|push| push.end);
    let mut counts = BTreeMap::new();
    for digest in ends.flat_map(|end| list(&end.value, "interrupted")).filter_map(Value::as_str) {
        *counts.entry(digest).or_default() += 1;
    }
    counts
}

/// Files of a node that no record names; how many of them interrupted pushes explain, each one file.
fn surplus(directory: &Value, interrupted: &BTreeMap<&str, u64>, problems: &mut Vec<String>) -> u64 {
    let (mut left, mut explained, mut others) = (interrupted.clone(), 0, Vec::new());
    for file in list(&directory["surplus"], "first") {
        let hash = file["name"].as_str().and_then(|name| name.split('.').next()).unwrap_or_default();
        match left.get_mut(format!("sha256:{hash}").as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                explained += 1;
            }
            _ => others.push(file),
        }
    }
    let all = directory["surplus"]["files"].as_u64().unwrap_or_default();
    let path = directory["path"].as_str().unwrap_or_default();
    if all > explained {
        problems.push(format!("GARBAGE: {} surplus files in {path}: {}", all - explained, json!(others)));
    }
    explained
}

/// Counted by the harness and by the server, the bytes are the same: blobs with files of their own, and those in packs.
fn bytes(report: &Value, counted: Option<&Value>, problems: &mut Vec<String>) -> Value {
    let Some(counted) = counted.and_then(Value::as_object) else {
        problems.push("nobody counted the bytes on the disks".to_owned());
        return Value::Null;
    };
    let mut told = serde_json::Map::new();
    for (node, disk) in counted {
        let directory = list(report, "directories").iter().find(|directory| directory["path"] == disk["path"]);
        let Some(directory) = directory else {
            problems.push(format!("`portolan check` tells nothing of {node}"));
            continue;
        };
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let named = number(&directory["copies"]["bytes"]) + number(&directory["surplus"]["bytes"]);
        let (files, packs) = (number(&disk["bytes"]), number(&disk["pack_bytes"]));
        let packed = named.saturating_sub(files);
        if files > named || packed > packs {
            problems
                .push(format!("{node}: {files} bytes in files and {packs} in packs, but {named} by `portolan check`"));
        }
        if packs > 2 * packed + PACK_SLACK_BYTES {
            problems.push(format!("GARBAGE: {node}: packs of {packs} bytes, of which {packed} are alive"));
        }
        told.insert(node.clone(), json!({"files": files, "packs": packs, "packed": packed}));
    }
    Value::Object(told)
}
