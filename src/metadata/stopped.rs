//! The state of a stopped node, opened read-only: nothing in its directory changes, and damage is told instead of
//! ending the process.

use std::path::Path;

use parking_lot::Mutex;
use registry_core::metadata::tables::{Row, TablesRead};
use rocksdb::{Direction, IteratorMode, ReadOptions};

use super::tables::{Instance, StateError, StateOptions, live_dir};

/// Errors kept; after the first ones the rest say the same.
const ERRORS_MAX: usize = 16;

/// The tables of a stopped node. A row that can't be read is absent here, and the error is kept.
#[derive(Debug)]
pub struct StoppedState {
    instance: Instance,
    errors: Mutex<Vec<String>>,
}

impl StoppedState {
    /// Opens the live instance under `root`.
    pub fn open(root: &Path) -> Result<StoppedState, StateError> {
        StoppedState::open_copy(&root.join(live_dir(root)?))
    }

    /// Opens a copy of an instance.
    pub fn open_copy(path: &Path) -> Result<StoppedState, StateError> {
        let options = StateOptions::default();
        let instance = Instance::open(path, &options, &options.cache(), true)?;
        Ok(StoppedState { instance, errors: Mutex::new(Vec::new()) })
    }

    /// The log index that everything here was applied up to.
    pub fn applied(&self) -> Result<u64, StateError> {
        self.instance.applied()
    }

    /// Consensus' own mark beside the tables.
    pub fn meta(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.instance.meta()
    }

    /// About how many rows there are.
    pub fn rows_estimate(&self) -> u64 {
        self.instance.db.property_int_value("rocksdb.estimate-num-keys").ok().flatten().unwrap_or(0)
    }

    /// Reads every row; an error is damage that no row below it may show.
    pub fn read_whole(&self) -> Result<(), StateError> {
        self.instance.read_whole()
    }

    /// What could not be read so far; the first few.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().clone()
    }

    fn failed(&self, error: &rocksdb::Error) {
        let mut errors = self.errors.lock();
        if errors.len() < ERRORS_MAX {
            errors.push(error.to_string());
        }
    }
}

impl TablesRead for StoppedState {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.instance.db.get(key).unwrap_or_else(|error| {
            self.failed(&error);
            None
        })
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        if from >= to || limit == 0 {
            return Vec::new();
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut rows = Vec::new();
        let mode = IteratorMode::From(from, Direction::Forward);
        for row in self.instance.db.iterator_opt(mode, options).take(limit) {
            match row {
                Ok((key, value)) => rows.push((key.into_vec(), value.into_vec())),
                Err(error) => {
                    self.failed(&error);
                    break;
                }
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::tables::State;

    fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                found.extend(files(&entry));
            } else {
                found.push((entry.clone(), std::fs::read(entry).unwrap()));
            }
        }
        found.sort();
        found
    }

    // What was written last is seen without a clean end, and looking changes no file.
    #[test]
    fn reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), StateOptions::default()).unwrap();
        let writes = [("a", "1"), ("b", "2"), ("c", "3")];
        let rows = writes.map(|(key, value)| (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
        state.write(rows.into_iter().collect(), 7, b"m7").unwrap();
        let before = files(dir.path());
        let stopped = StoppedState::open(dir.path()).unwrap();
        assert_eq!((stopped.applied().unwrap(), stopped.meta().unwrap()), (7, Some(b"m7".to_vec())));
        assert_eq!(stopped.get(b"b"), Some(b"2".to_vec()));
        assert_eq!(stopped.range(b"a", b"c", 9).len(), 2);
        assert_eq!(stopped.prefix(b"", 2).len(), 2);
        assert_eq!(stopped.errors(), Vec::<String>::new());
        assert_eq!(files(dir.path()), before);
    }

    // Without a state there is none, and none is made.
    #[test]
    fn nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(StoppedState::open(dir.path()).is_err());
        assert_eq!(files(dir.path()), []);
    }

    // A table file that rotted is told; the process lives on.
    #[test]
    fn rot_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), StateOptions::default()).unwrap();
        let rows = (0..1000u32).map(|row| (row.to_be_bytes().to_vec(), Some(vec![row as u8; 100])));
        state.write(rows.collect(), 1, b"m").unwrap();
        state.live().db.flush().unwrap();
        drop(state);
        let is_table = |path: &Path| path.extension().is_some_and(|extension| extension == "sst");
        let mut tables: Vec<_> = files(dir.path()).into_iter().filter(|(path, _)| is_table(path)).collect();
        tables.sort_by_key(|(_, bytes)| bytes.len());
        let (path, mut bytes) = tables.pop().unwrap();
        bytes[200..400].fill(0x5a);
        std::fs::write(path, bytes).unwrap();
        let stopped = StoppedState::open(dir.path()).unwrap();
        let seen = stopped.range(b"", &[0xff; 9], 2000).len();
        assert!(seen < 1000 && !stopped.errors().is_empty(), "{seen} rows, {:?}", stopped.errors());
    }
}
