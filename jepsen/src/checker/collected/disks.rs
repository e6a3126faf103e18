//! What `portolan check` and the harness found on the disks of the stopped nodes: what images name, and nothing beside.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::list;
use super::state::{Expected, State};
use crate::checker::{nemesis, pairs};
use crate::history::{Act, Event};

/// Below this many bytes of packs the server rewrites them when a hundredth of them is dead, above when half is.
const SMALL_PACK_BYTES: u64 = 4 << 20;
/// Bytes of a record in a pack beside those of its blob.
const RECORD_BYTES: u64 = 112;

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
    let Some(disks) = nemesis(events, Act::Disk).last().and_then(|disk| disk.value.as_object()) else {
        problems.push("nobody counted the bytes on the disks".to_owned());
        return Value::Null;
    };
    let mut nodes = serde_json::Map::new();
    for (node, disk) in disks {
        match list(report, "directories").iter().find(|directory| directory["path"] == disk["path"]) {
            Some(directory) => {
                drop(nodes.insert(node.clone(), judge_node(node, directory, disk, &interrupted, problems)))
            }
            None => problems.push(format!("`portolan check` tells nothing of {node}")),
        }
    }
    json!({
        "blobs": report["blobs"]["records"],
        "interrupted_pushes": interrupted.values().sum::<u64>(),
        "nodes": nodes,
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

/// What no record names on a node: files of their own, of which interrupted pushes explain one each; and the bytes in
/// packs, whose removed records stay until there are enough of them.
fn surplus(
    node: &str,
    directory: &Value,
    disk: &Value,
    interrupted: &BTreeMap<&str, u64>,
    problems: &mut Vec<String>,
) -> (u64, u64) {
    let names: BTreeSet<&str> = list(disk, "files").iter().filter_map(Value::as_str).collect();
    let all = list(&directory["surplus"], "first");
    if number(&directory["surplus"]["files"]) != all.len() as u64 {
        problems.push(format!("{node}: `portolan check` does not list all surplus files"));
    }
    let (mut left, mut explained, mut dead) = (interrupted.clone(), 0, 0);
    for file in all {
        let name = file["name"].as_str().unwrap_or_default();
        let hash = name.split('.').next().unwrap_or_default();
        match left.get_mut(format!("sha256:{hash}").as_str()) {
            Some(count) if *count > 0 => {
                *count -= 1;
                explained += 1;
            }
            _ if name.contains('.') && !names.contains(name) => dead += number(&file["bytes"]) + RECORD_BYTES,
            _ => problems.push(format!("GARBAGE: {node}: a surplus file: {file}")),
        }
    }
    (explained, dead)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Nothing beside what is named, and the bytes are the same whether the harness or the server counts them.
fn judge_node(
    node: &str,
    directory: &Value,
    disk: &Value,
    interrupted: &BTreeMap<&str, u64>,
    problems: &mut Vec<String>,
) -> Value {
    let (explained, dead) = surplus(node, directory, disk, interrupted, problems);
    let named = number(&directory["copies"]["bytes"]) + number(&directory["surplus"]["bytes"]);
    let (files, packs) = (number(&disk["bytes"]), number(&disk["pack_bytes"]));
    let packed = named.saturating_sub(files);
    if files > named || packed > packs {
        problems.push(format!("{node}: {files} bytes in files and {packs} in packs, but {named} by `portolan check`"));
    }
    let dead_max = if packs <= SMALL_PACK_BYTES { packs / 100 + RECORD_BYTES } else { packs / 2 + RECORD_BYTES };
    if dead > dead_max {
        problems.push(format!("GARBAGE: {node}: packs of {packs} bytes, of which {dead} belong to nothing"));
    }
    json!({"files": files, "packs": packs, "packed": packed, "dead_in_packs": dead,
        "surplus_of_interrupted_pushes": explained, "staged": directory["staged"]["files"]})
}
