//! A second opinion about registers, by a program that shares nothing with the first: Porcupine, in Go
//! (`jepsen/porcupine/`). Its sources are part of this program and are built where they are needed; without Go, or
//! without a way to its one module, it is told that nobody gave a second opinion.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::Verdict;
use crate::fault::{Fault, told};
use crate::history::FILE;

/// The sources of the program.
const SOURCES: [(&str, &str); 3] = [
    ("main.go", include_str!("../../porcupine/main.go")),
    ("go.mod", include_str!("../../porcupine/go.mod")),
    ("go.sum", include_str!("../../porcupine/go.sum")),
];
/// What is built from them.
const PROGRAM: &str = "judge";
/// Name of this judge.
const NAME: &str = "porcupine";

/// What the program says of one history.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Opinion {
    /// Registers it judged.
    pub(super) tags: usize,
    /// Operations of them.
    pub(super) operations: usize,
    /// Those that are not linearizable.
    pub(super) illegal: BTreeSet<String>,
    /// Those that would take too long.
    pub(super) unknown: BTreeSet<String>,
}

/// Judges the history in `dir` again; both must come to the same.
pub(super) fn check(dir: &Path, first: &Verdict) -> Verdict {
    let judge = match Judge::build() {
        Ok(judge) => judge,
        Err(reason) => {
            let figures = json!({"ran": false, "reason": reason.to_string()});
            return Verdict::new(NAME, figures, Vec::new());
        }
    };
    match judge.ask(&[&dir.join(FILE)]) {
        Ok(opinions) => compare(first, &opinions[0]),
        Err(reason) => Verdict::new(NAME, json!({"ran": true}), vec![reason.to_string()]),
    }
}

/// The program, built in a directory that goes with it.
#[derive(Debug)]
pub(super) struct Judge(PathBuf);

impl Drop for Judge {
    fn drop(&mut self) {
        // what is left lies among temporary files
        let _is_gone = std::fs::remove_dir_all(&self.0).is_ok();
    }
}

impl Judge {
    /// Builds it; fails without Go, or when its module can't be had.
    pub(super) fn build() -> Result<Judge, Fault> {
        let number = getrandom::u64().map_err(told("no randomness"))?;
        let dir = std::env::temp_dir().join(format!("porcupine-{number:016x}"));
        std::fs::create_dir(&dir).map_err(told("no room for the second judge"))?;
        let judge = Judge(dir);
        for (name, text) in SOURCES {
            std::fs::write(judge.0.join(name), text).map_err(told("the second judge's sources"))?;
        }
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-o", PROGRAM, "."]).current_dir(&judge.0).env("GOWORK", "off");
        let ended = go.stdin(Stdio::null()).output().map_err(told("there is no Go"))?;
        if ended.status.success() {
            Ok(judge)
        } else {
            let said = String::from_utf8_lossy(&ended.stderr);
            Err(Fault::new(format!("Go can't build the second judge: {}", said.trim())))
        }
    }

    /// What it says of each history.
    pub(super) fn ask(&self, histories: &[&Path]) -> Result<Vec<Opinion>, Fault> {
        run(&self.0.join(PROGRAM), histories)
    }
}

fn run(judge: &Path, histories: &[&Path]) -> Result<Vec<Opinion>, Fault> {
    let ended = Command::new(judge).args(histories).stdin(Stdio::null()).output();
    let ended = ended.map_err(told("the second judge can't be started"))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(Fault::new(format!("the second judge ended with {}: {}", ended.status, said.trim())));
    }
    let said = String::from_utf8_lossy(&ended.stdout);
    let lines: Result<Vec<Opinion>, _> = said.lines().map(serde_json::from_str).collect();
    let opinions = lines.map_err(told("the second judge's answer"))?;
    if opinions.len() == histories.len() {
        Ok(opinions)
    } else {
        Err(Fault::new(format!("the second judge read {} histories of {}", opinions.len(), histories.len())))
    }
}

/// Two judges that differ are as bad as one that says no.
pub(super) fn compare(first: &Verdict, second: &Opinion) -> Verdict {
    let listed = |field: &str| -> BTreeSet<String> {
        let names = first.figures.get(field).and_then(serde_json::Value::as_array).into_iter().flatten();
        names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let mut problems: Vec<String> = second.illegal.iter().map(|key| format!("{key} is not linearizable")).collect();
    problems.extend(second.unknown.iter().map(|key| format!("{key}: too much to try, so nothing is proven")));
    let undecided: BTreeSet<String> = listed("undecided").union(&second.unknown).cloned().collect();
    for key in listed("illegal").symmetric_difference(&second.illegal).filter(|key| !undecided.contains(*key)) {
        problems.push(format!("{key}: the two judges differ"));
    }
    for (field, count) in [("tags", second.tags), ("operations", second.operations)] {
        if first.figures.get(field) != Some(&json!(count)) {
            let other = first.figures.get(field);
            problems.push(format!("the judges did not read the same: {count} {field}, and {other:?}"));
        }
    }
    Verdict::new(NAME, json!({"ran": true, "tags": second.tags, "operations": second.operations}), problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Judges that differ, or that did not read the same, prove nothing.
    #[test]
    fn agreement() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let first = |illegal: &[&str], undecided: &[&str]| {
            let figures = json!({"tags": 3, "operations": 9, "illegal": illegal, "undecided": undecided});
            Verdict::new("linear", figures, Vec::new())
        };
        let second = |illegal: &[&str], unknown: &[&str]| Opinion {
            tags: 3,
            operations: 9,
            illegal: names(illegal),
            unknown: names(unknown),
        };
        let told = |first: &Verdict, second: &Opinion| compare(first, second).problems.join("; ");
        assert_eq!(told(&first(&[], &[]), &second(&[], &[])), "");
        assert_eq!(told(&first(&["a"], &[]), &second(&["a"], &[])), "a is not linearizable");
        assert!(told(&first(&["a"], &[]), &second(&[], &[])).contains("the two judges differ"));
        assert!(told(&first(&[], &[]), &second(&["a"], &[])).contains("the two judges differ"));
        assert!(told(&first(&[], &[]), &second(&[], &["a"])).contains("nothing is proven"));
        assert_eq!(told(&first(&[], &["a"]), &second(&[], &[])), "", "the first has said so");
        let other = Opinion { operations: 8, ..second(&[], &[]) };
        assert!(told(&first(&[], &[]), &other).contains("did not read the same"));
    }
}
