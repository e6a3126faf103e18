//! A stopped node's directory, looked at and never changed: for an operator's offline check.
//!
//! Reads the identity and all of the log as a start would, and tells what a start would refuse, and more. Never raises
//! the start counter, never cuts a tail, never makes a file.

use std::path::Path;

use bytes::Bytes;

use crate::codec;
use crate::identity;
use crate::log_store;
use crate::types::Position;

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Cluster, lineage and node that it belongs to; `None` if it was never started or can't be read.
    pub owner: Option<Owner>,
    /// The term it voted in or followed last.
    pub term: Option<u64>,
    /// The last entry of the log, or of what was purged from it.
    pub last: Option<Position>,
    /// The last entry that was purged.
    pub purged: Option<Position>,
    /// Entries in the log.
    pub entries: u64,
    /// The last entry that the state has applied, as it says itself.
    pub applied: Option<Position>,
    /// What the copy of the state beside the log contains.
    pub snapshot: Option<Position>,
    /// What is wrong, for an operator.
    pub problems: Vec<String>,
}

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster_id: u128,
    /// Which life of its log.
    pub lineage: u64,
    /// The node.
    pub node_id: u64,
    /// How often it was started.
    pub starts: u64,
}

/// Looks at the directory of a node that does not run. `meta` is the mark beside the applied state
/// ([`StateMachine::meta`](crate::StateMachine::meta)).
pub fn inspect(dir: &Path, meta: Option<Vec<u8>>) -> Inspection {
    let mut found = Inspection::default();
    match identity::read(dir) {
        Ok(None) => found.problems.push("the directory of consensus has no identity".to_owned()),
        Ok(Some(read)) => {
            let identity::Identity { cluster_id, lineage, node_id, start, suspicion, .. } = read;
            found.owner = Some(Owner { cluster_id, lineage, node_id, starts: start });
            found.problems.extend(suspicion.map(|suspicion| suspicion.to_string()));
        }
        Err(error) => found.problems.push(error.to_string()),
    }
    match codec::meta(meta.map(Bytes::from).unwrap_or_default()) {
        Ok(meta) => found.applied = meta.last_log_id.map(Position::from),
        Err(error) => found.problems.push(format!("the mark of what was applied: {error}")),
    }
    found.snapshot = snapshot(&dir.join("snapshots"));
    match log_store::inspect(&dir.join("log")) {
        Ok(log) => {
            found.term = log.term;
            (found.last, found.purged, found.entries) = (log.last, log.purged, log.entries);
            found.problems.extend(log.problems);
            found.compare();
        }
        Err(error) => found.problems.push(error.to_string()),
    }
    found
}

impl Inspection {
    /// Whether log, state and snapshot fit together.
    fn compare(&mut self) {
        let Inspection { term, last, purged, applied, snapshot, .. } = *self;
        let shown = |position: Option<Position>| position.map_or("nothing".to_owned(), |at| at.to_string());
        // A state that was installed as a whole may be ahead until the log is purged up to it.
        if applied > last && applied != snapshot {
            let (applied, last) = (shown(applied), shown(last));
            self.problems.push(format!("the state has applied {applied}, but the log ends with {last}"));
        }
        if let Some(purged) = purged.filter(|purged| applied.max(snapshot) < Some(*purged)) {
            let applied = shown(applied);
            self.problems.push(format!("the state has applied {applied}, and the entries up to {purged} are purged"));
        }
        if last.is_some_and(|last| term < Some(last.term)) {
            self.problems.push(format!("the log has entries of a later term than {term:?}, the last one it voted in"));
        }
    }

    /// Entries of the log that the state has not applied yet; some of them may not be committed.
    pub fn unapplied(&self) -> u64 {
        let after = |position: Option<Position>| position.map_or(0, |position| position.index + 1);
        after(self.last).saturating_sub(after(self.applied))
    }
}

/// What the newest complete copy contains, by its name.
fn snapshot(dir: &Path) -> Option<Position> {
    let names = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let positions = names.filter_map(|name| {
        let (index, term) = name.split_once('-')?;
        Some(Position { term: term.parse().ok()?, index: index.parse().ok()? })
    });
    positions.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_store::{LogSettings, LogStore};

    fn at(term: u64, index: u64) -> Option<Position> {
        Some(Position { term, index })
    }

    // A state ahead of its log, a gap between them and a vote that was lost are told; a lag, and a state that was
    // installed as a whole, are not.
    #[test]
    fn what_does_not_fit() {
        let whole = Inspection { term: Some(3), last: at(3, 20), applied: at(3, 20), ..Inspection::default() };
        let problems = |mut changed: Inspection| {
            changed.compare();
            changed.problems.len()
        };
        assert_eq!(problems(whole.clone()), 0);
        let lag = Inspection { applied: at(2, 11), ..whole.clone() };
        assert_eq!(lag.unapplied(), 9);
        assert_eq!(problems(lag), 0);
        assert_eq!(problems(Inspection { applied: at(3, 21), ..whole.clone() }), 1);
        assert_eq!(problems(Inspection { applied: at(3, 30), snapshot: at(3, 30), ..whole.clone() }), 0);
        let gap = Inspection { purged: at(2, 15), applied: at(2, 11), ..whole.clone() };
        assert_eq!(problems(gap.clone()), 1);
        assert_eq!(problems(Inspection { snapshot: at(2, 15), ..gap }), 0);
        assert_eq!(problems(Inspection { term: Some(2), ..whole }), 1);
    }

    // Looking changes no file, and is not fooled by an empty directory.
    #[test]
    fn nothing_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("raft");
        assert_eq!(inspect(&dir, None).problems.len(), 2);
        assert!(!dir.exists());
        identity::Directory::start(&dir, 1, 2, 3).unwrap();
        let log = LogStore::open(LogSettings::new(dir.join("log"))).unwrap();
        let open = log.lifetime();
        drop(log);
        // its own thread closes it
        while open.strong_count() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        let files = || {
            let names = crate::files::walk(&dir).unwrap();
            names.iter().map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect::<Vec<_>>()
        };
        let before = files();
        let found = inspect(&dir, None);
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.owner, Some(Owner { cluster_id: 1, lineage: 2, node_id: 3, starts: 1 }));
        assert_eq!((found.last, found.entries, found.unapplied()), (None, 0, 0));
        assert_eq!(files(), before);
    }
}
