//! Damage beneath the product: rows of a region's state are altered while none of its nodes runs, on all of them alike,
//! so that no node can heal another one. Only comparing with the other region tells it, and mends it.
//!
//! Tables and keys are those of `src/core/metadata/keys.rs`; rows are copied and removed, never made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rocksdb::{DB, IteratorMode, Options, WriteBatch, WriteOptions};
use serde_json::{Value, json};

use crate::fault::{Fault, told};

/// Numbers of the tables of tags and of the stream of changes, behind two bytes of a slot.
const TAGS: u8 = 0x24;
const OUTBOX: u8 = 0x50;
/// Slot, table and repository: the tag follows.
const TAG_AT: usize = 2 + 1 + 16;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The state of a node that does not run.
struct State(DB);

impl State {
    fn open(data: &Path) -> Result<State, Fault> {
        let of = |path: &PathBuf| path.join("CURRENT").metadata().and_then(|data| data.modified()).ok();
        let entries = std::fs::read_dir(data.join("state")).map_err(told("a node's state"))?;
        let states = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        // one that was taken from a peer stands beside the one before it
        let newest = states.filter_map(|path| Some((of(&path)?, path))).max();
        let (_, path) = newest.ok_or_else(|| Fault::new(format!("no state in {}", data.display())))?;
        let families = DB::list_cf(&Options::default(), &path).map_err(told("a node's state"))?;
        Ok(State(DB::open_cf(&Options::default(), &path, families).map_err(told("a node's state"))?))
    }

    /// Rows of tags that one region puts once, and of changes.
    fn rows(&self) -> Result<Rows, Fault> {
        let mut rows = Rows::new();
        for row in self.0.iterator(IteratorMode::Start) {
            let (key, value) = row.map_err(told("a row"))?;
            let is_own_tag = key.get(2) == Some(&TAGS) && key.get(TAG_AT..).is_some_and(|tag| tag.contains(&b'-'));
            if is_own_tag || key.get(2) == Some(&OUTBOX) {
                rows.insert(key.into_vec(), value.into_vec());
            }
        }
        Ok(rows)
    }
}

/// What is done to the rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Damage {
    removed: Vec<Vec<u8>>,
    added: Option<(Vec<u8>, Vec<u8>)>,
    /// How many of those that are removed are changes.
    changes: usize,
}

/// Removes a tag, adds one that nobody has put, and drops the changes of another slot: of a tag that is gone in its own
/// region before any other one was told of it, nobody is a witness. `ghost`: the tag that is added.
fn choose(rows: &Rows, ghost: &str, draw: u64) -> Damage {
    let mut random = fastrand::Rng::with_seed(draw);
    let (tags, changes): (Vec<_>, Vec<_>) = rows.iter().partition(|(key, _)| key[2] == TAGS);
    let mut damage = Damage::default();
    if let Some((key, _)) = random.choice(&tags) {
        damage.removed.push((*key).clone());
    }
    if let Some((key, value)) = random.choice(&tags) {
        damage.added = Some(([&key[..TAG_AT], ghost.as_bytes()].concat(), (*value).clone()));
    }
    let is_apart = |(key, _): &&(&Vec<u8>, &Vec<u8>)| damage.removed.iter().all(|tag| tag[..2] != key[..2]);
    if let Some((of, _)) = random.choice(changes.iter().filter(is_apart).collect::<Vec<_>>()) {
        let dropped = changes.iter().filter(|(key, _)| key[..2] == of[..2]).map(|(key, _)| (*key).clone());
        let before = damage.removed.len();
        damage.removed.extend(dropped);
        damage.changes = damage.removed.len() - before;
    }
    damage
}

/// Damages the state of nodes, below their data directories, none of which runs; what was done. Touched are rows that
/// all of them have: what one has not applied yet it applies as the others did.
pub(super) fn inject(nodes: &[PathBuf], ghost: &str, draw: u64) -> Result<Value, Fault> {
    let states = nodes.iter().map(|data| State::open(data)).collect::<Result<Vec<_>, _>>()?;
    let mut rows: Option<Rows> = None;
    for state in &states {
        let own = state.rows()?;
        rows = Some(match rows {
            None => own,
            Some(common) => common.into_iter().filter(|(key, value)| own.get(key) == Some(value)).collect(),
        });
    }
    let damage = choose(&rows.unwrap_or_default(), ghost, draw);
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    for State(state) in &states {
        let mut batch = WriteBatch::default();
        damage.removed.iter().for_each(|key| batch.delete(key));
        damage.added.iter().for_each(|(key, value)| batch.put(key, value));
        state.write_opt(batch, &synced).map_err(told("a row"))?;
    }
    let removed = damage.removed.len() - damage.changes;
    let added = damage.added.as_ref().map(|_| ghost);
    Ok(json!({"tags_removed": removed, "ghost": added, "changes_dropped": damage.changes}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u8, table: u8, rest: &str) -> Vec<u8> {
        [&[0, slot, table][..], &[7; 16], rest.as_bytes()].concat()
    }

    // One tag goes, one that nobody put comes beside another of its repository, and all changes of one slot are
    // dropped; the same draw does the same.
    #[test]
    fn what_is_damaged() {
        let tags = ["t1-1", "t1-2", "t2-1"].map(|tag| (key(1, TAGS, tag), tag.as_bytes().to_vec()));
        let changes = [(1, "a"), (2, "b"), (2, "c"), (3, "d")].map(|(slot, rest)| (key(slot, OUTBOX, rest), vec![]));
        let rows: Rows = tags.into_iter().chain(changes).collect();
        for draw in 0..20 {
            let damage = choose(&rows, "ghost-1", draw);
            assert_eq!(damage, choose(&rows, "ghost-1", draw));
            let (gone, dropped): (Vec<_>, Vec<_>) = damage.removed.iter().partition(|key| key[2] == TAGS);
            assert!(gone.len() == 1 && rows.contains_key(gone[0]));
            assert_eq!(dropped.len(), damage.changes);
            assert!(dropped.iter().all(|key| key[1] == dropped[0][1]));
            assert_eq!(dropped.len(), if dropped[0][1] == 2 { 2 } else { 1 });
            assert_ne!(dropped[0][1], gone[0][1]);
            let (ghost, value) = damage.added.unwrap();
            assert_eq!((&ghost[TAG_AT..], rows.values().any(|other| *other == value)), (&b"ghost-1"[..], true));
        }
        assert_eq!(choose(&Rows::new(), "ghost-1", 1), Damage::default());
    }

    // Only what all nodes have is touched, and it is the same on all of them afterwards.
    #[test]
    fn all_nodes_alike() {
        let dir = tempfile::tempdir().unwrap();
        let nodes: Vec<PathBuf> = (0..3).map(|node| dir.path().join(format!("n{node}"))).collect();
        let mut options = Options::default();
        options.create_if_missing(true);
        for (at, data) in nodes.iter().enumerate() {
            let path = data.join("state/1");
            std::fs::create_dir_all(&path).unwrap();
            let state = DB::open(&options, path).unwrap();
            state.put(key(1, TAGS, "t1-1"), b"one").unwrap();
            state.put(key(1, TAGS, "shared"), b"two").unwrap();
            if at == 0 {
                state.put(key(1, TAGS, "t1-2"), b"late").unwrap();
            }
        }
        let told = inject(&nodes, "ghost-1", 1).unwrap();
        assert_eq!(told, json!({"tags_removed": 1, "ghost": "ghost-1", "changes_dropped": 0}));
        for (at, data) in nodes.iter().enumerate() {
            let State(state) = State::open(data).unwrap();
            assert_eq!(state.get(key(1, TAGS, "t1-1")).unwrap(), None);
            assert_eq!(state.get(key(1, TAGS, "ghost-1")).unwrap().as_deref(), Some(&b"one"[..]));
            assert_eq!(state.get(key(1, TAGS, "shared")).unwrap().as_deref(), Some(&b"two"[..]));
            assert_eq!(state.get(key(1, TAGS, "t1-2")).unwrap().is_some(), at == 0);
        }
    }
}
