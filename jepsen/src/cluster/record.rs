//! `run.json`: what a run was asked for, and what it has to undo.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::made::Made;
use crate::fault::{Fault, told};

/// Name of the file in a run's directory.
const FILE: &str = "run.json";

/// A process that was started, named so that its number can't mean another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// For people.
    pub(crate) what: String,
    /// Its number.
    pub(crate) pid: u32,
    /// When it started, in ticks since boot: a number is used again, but not together with this.
    pub(crate) since: u64,
}

impl Started {
    pub(super) fn of(what: &str, pid: u32) -> Result<Started, Fault> {
        let since = start_of(pid).ok_or_else(|| Fault::new(format!("{what} (process {pid}) ended at once")))?;
        Ok(Started { what: what.to_owned(), pid, since })
    }

    /// Whether it is still the same process, and runs.
    pub(crate) fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.since)
    }
}

/// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold spaces and brackets.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.rsplit_once(')')?.1;
    let mut fields = behind_name.split_ascii_whitespace();
    let state = fields.next()?;
    // a zombie runs no more
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Document {
    /// What was asked for.
    options: Value,
    /// What runs.
    processes: Vec<Started>,
    /// What was listened on.
    addresses: Vec<String>,
    /// The harness itself: while it lives, what it made is not left over.
    #[serde(default)]
    harness: Option<Started>,
    /// What was made outside the run's directory, in this order.
    #[serde(default)]
    made: Vec<Made>,
}

/// Writes the document again at every change, so that it is right whenever this process ends.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    document: Document,
}

impl Record {
    /// Begins the document in `dir`.
    pub(crate) fn create(dir: &Path, options: Value, addresses: Vec<String>) -> Result<Record, Fault> {
        let harness = Some(Started::of("harness", std::process::id())?);
        let document = Document { options, processes: Vec::new(), addresses, harness, made: Vec::new() };
        let record = Record { path: dir.join(FILE), document };
        record.write()?;
        Ok(record)
    }

    /// What a run was asked for.
    pub(crate) fn options(dir: &Path) -> Result<Value, Fault> {
        Ok(read(&dir.join(FILE))?.options)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn add(&mut self, started: Started) -> Result<(), Fault> {
        self.document.processes.push(started);
        self.write()
    }

    pub(super) fn remove(&mut self, pid: u32) -> Result<(), Fault> {
        self.document.processes.retain(|started| started.pid != pid);
        self.write()
    }

    /// Notes what is about to be made.
    pub(super) fn made(&mut self, made: Made) -> Result<(), Fault> {
        self.document.made.push(made);
        self.write()
    }

    fn write(&self) -> Result<(), Fault> {
        write(&self.path, &self.document)
    }
}

fn write(path: &Path, document: &Document) -> Result<(), Fault> {
    let text = serde_json::to_vec_pretty(document).expect("documents have text keys");
    let new = path.with_extension("json.new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    written.map_err(told(&format!("{} can't be written", path.display())))
}

fn read(path: &Path) -> Result<Document, Fault> {
    let text = std::fs::read(path).map_err(told(&format!("{} can't be read", path.display())))?;
    serde_json::from_slice(&text).map_err(told(&format!("{}", path.display())))
}

/// The processes of a run that are still there.
pub(super) fn alive(path: &Path) -> Result<Vec<Started>, Fault> {
    Ok(read(path)?.processes.into_iter().filter(Started::is_alive).collect())
}

/// What a run made outside its directory, the last first.
pub(super) fn made(path: &Path) -> Result<Vec<Made>, Fault> {
    Ok(read(path)?.made.into_iter().rev().collect())
}

/// Forgets processes and what was made: all of it is undone.
pub(super) fn forget(path: &Path) -> Result<(), Fault> {
    write(path, &Document { processes: Vec::new(), made: Vec::new(), ..read(path)? })
}

/// Runs in `store` whose harness is gone and that have something to undo.
pub(super) fn left_over(store: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store).into_iter().flatten().flatten();
    let is_left_over = |path: &PathBuf| {
        // of a file that can't be read nothing is known, so nothing is touched
        read(path).is_ok_and(|document| {
            let is_over = document.harness.is_some_and(|harness| !harness.is_alive());
            is_over && !(document.processes.is_empty() && document.made.is_empty())
        })
    };
    entries.map(|entry| entry.path().join(FILE)).filter(is_left_over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a run left is found when its harness is gone, and only then; once it is undone nothing is left.
    #[test]
    fn left_overs() {
        let store = tempfile::tempdir().unwrap();
        let dir = store.path().join("1-1");
        std::fs::create_dir(&dir).unwrap();
        let mut record = Record::create(&dir, Value::Null, Vec::new()).unwrap();
        let (first, second) = (Made::Mount { at: "/a".into() }, Made::Cgroup { path: "/b".into() });
        record.made(first.clone()).unwrap();
        record.made(second.clone()).unwrap();
        assert_eq!(made(record.path()).unwrap(), [second, first], "undone in reverse");
        assert!(left_over(store.path()).is_empty(), "the harness lives");
        if let Some(harness) = &mut record.document.harness {
            harness.since += 1;
        }
        record.write().unwrap();
        assert_eq!(left_over(store.path()), [record.path()]);
        forget(record.path()).unwrap();
        assert!(left_over(store.path()).is_empty());
    }

    // A process is known by number and start; one that ended, or another one under its number, is not it.
    #[test]
    fn processes() {
        let own = Started::of("own", std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!Started { since: own.since + 1, ..own.clone() }.is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(Started::of("ended", pid).is_err());
    }

    // What was asked for is found again; only what still runs is to be undone.
    #[test]
    fn undone() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::create(dir.path(), serde_json::json!({"seed": 5}), Vec::new()).unwrap();
        let own = Started::of("own", std::process::id()).unwrap();
        record.add(own.clone()).unwrap();
        record.add(Started { pid: u32::MAX, ..own.clone() }).unwrap();
        assert_eq!(Record::options(dir.path()).unwrap()["seed"], 5);
        assert_eq!(alive(record.path()).unwrap(), std::slice::from_ref(&own));
        record.remove(own.pid).unwrap();
        assert_eq!(alive(record.path()).unwrap(), []);
    }
}
