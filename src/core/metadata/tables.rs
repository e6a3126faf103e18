//! The ordered key-value store that commands read and write, its in-memory form, and the overlay `apply` works on.
//!
//! The server's RocksDB implementation is in its `metadata` room; both run the suite at the end of this file's tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// One row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Reading access to the tables at one revision.
pub trait TablesRead {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Up to `limit` rows with `from <= key < to`, in key order.
    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row>;

    /// Whether there is a row under `key`.
    fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Whether any row's key begins with `prefix`.
    fn any(&self, prefix: &[u8]) -> bool {
        !self.prefix(prefix, 1).is_empty()
    }

    /// Up to `limit` rows whose key begins with `prefix`, in key order.
    fn prefix(&self, prefix: &[u8], limit: usize) -> Vec<Row> {
        self.range(prefix, &after_prefix(prefix), limit)
    }
}

/// Writing access, as a command's `apply` has it.
pub trait Tables: TablesRead {
    /// Writes `value` under `key`.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);

    /// Removes the row under `key`, if any.
    fn delete(&mut self, key: Vec<u8>);

    /// Removes the row under `key`, and writes nothing where there is none.
    fn delete_present(&mut self, key: Vec<u8>) {
        if self.contains(&key) {
            self.delete(key);
        }
    }
}

impl<T: TablesRead + ?Sized> TablesRead for &T {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        (**self).get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        (**self).range(from, to, limit)
    }

    fn any(&self, prefix: &[u8]) -> bool {
        (**self).any(prefix)
    }
}

/// The smallest key above every key that begins with `prefix`; all 0xff gives a key above all of ours.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 9]
}

/// The rows between two keys, a page at a time. It holds no tables: they may be written between two pages.
#[derive(Clone, Debug)]
pub struct Pages {
    from: Vec<u8>,
    to: Vec<u8>,
    rows: usize,
}

impl Pages {
    /// Rows with `from <= key < to`, in pages of at most `rows`.
    pub fn between(from: Vec<u8>, to: Vec<u8>, rows: usize) -> Pages {
        Pages { from, to, rows }
    }

    /// Rows whose key begins with `prefix`, in pages of at most `rows`.
    pub fn under(prefix: Vec<u8>, rows: usize) -> Pages {
        let to = after_prefix(&prefix);
        Pages::between(prefix, to, rows)
    }

    /// The next page, in key order; `None` when no row is left.
    pub fn read(&mut self, tables: &impl TablesRead) -> Option<Vec<Row>> {
        let page = tables.range(&self.from, &self.to, self.rows);
        self.from = [&page.last()?.0[..], &[0]].concat();
        Some(page)
    }

    /// Visits the key and value of every row that is left, in key order.
    pub fn each(mut self, tables: &impl TablesRead, mut visit: impl FnMut(&[u8], &[u8])) {
        while let Some(page) = self.read(tables) {
            page.iter().for_each(|(key, value)| visit(key, value));
        }
    }
}

/// Tables in memory: for tests, the simulator and the offline tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryTables {
    /// No rows.
    pub fn new() -> MemoryTables {
        MemoryTables::default()
    }

    /// Lands the writes of a batch, as the server does with a RocksDB `WriteBatch`.
    pub fn write(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    /// Every row in key order.
    pub fn rows(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.rows.iter()
    }
}

impl TablesRead for MemoryTables {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key).cloned()
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        if from >= to {
            return Vec::new();
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        self.rows.range::<[u8], _>(bounds).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Tables for MemoryTables {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert(key, value);
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.rows.remove(&key);
    }
}

/// The net effect of a batch: per key its last value, `None` for a row that goes.
pub type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Pending writes over a base that does not change meanwhile: entries of one batch see each other, and a command that
/// refuses leaves nothing behind ([`Overlay::discard`]).
pub struct Overlay<'a, T> {
    base: &'a T,
    kept: Writes,
    staged: Writes,
    /// What the base answered: the commands of a batch ask for the same few rows (the cluster's, their repository's),
    /// and each look into the base may go through several files. As large as what the batch reads.
    seen: RefCell<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<'a, T: TablesRead> Overlay<'a, T> {
    /// No pending writes over `base`.
    pub fn new(base: &'a T) -> Overlay<'a, T> {
        Overlay { base, kept: Writes::new(), staged: Writes::new(), seen: RefCell::default() }
    }

    /// The writes of the command under way.
    pub fn staged(&self) -> &Writes {
        &self.staged
    }

    /// The command under way succeeded: its writes stay.
    pub fn keep(&mut self) {
        // one by one: `append` would build the larger map anew, for each command of a batch
        self.kept.extend(std::mem::take(&mut self.staged));
    }

    /// The command under way refused: its writes go.
    pub fn discard(&mut self) {
        self.staged.clear();
    }

    /// All kept writes. Staged ones must have been kept or discarded.
    pub fn into_writes(self) -> Writes {
        assert!(self.staged.is_empty(), "a command was neither kept nor discarded");
        self.kept
    }

    fn pending(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.staged.get(key).or_else(|| self.kept.get(key))
    }
}

impl<T: TablesRead> TablesRead for Overlay<'_, T> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.pending(key) {
            return value.clone();
        }
        let mut seen = self.seen.borrow_mut();
        if let Some(value) = seen.get(key) {
            return value.clone();
        }
        let value = self.base.get(key);
        seen.insert(key.to_vec(), value.clone());
        value
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        if from >= to || limit == 0 {
            return Vec::new();
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut pending: BTreeMap<&[u8], &Option<Vec<u8>>> = BTreeMap::new();
        for (key, value) in self.kept.range::<[u8], _>(bounds).chain(self.staged.range::<[u8], _>(bounds)) {
            pending.insert(key, value);
        }
        // each pending delete can hide one row of the base, and a pending value takes the place of its row: so this
        // many are enough
        let deletes = pending.values().filter(|value| value.is_none()).count();
        let below = self.base.range(from, to, limit.saturating_add(deletes));
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().collect();
        for (key, value) in pending {
            match value {
                Some(value) => {
                    merged.insert(key.to_vec(), value.clone());
                }
                None => {
                    merged.remove(key);
                }
            }
        }
        merged.into_iter().take(limit).collect()
    }

    // What is pending can answer alone: a manifest that was just tagged costs no look at what named it before.
    fn any(&self, prefix: &[u8]) -> bool {
        let end = after_prefix(prefix);
        let bounds = (Bound::Included(prefix), Bound::Excluded(&end[..]));
        let mut staged = self.staged.range::<[u8], _>(bounds);
        let mut kept = self.kept.range::<[u8], _>(bounds).filter(|(key, _)| !self.staged.contains_key(*key));
        staged.any(|(_, value)| value.is_some())
            || kept.any(|(_, value)| value.is_some())
            || !self.prefix(prefix, 1).is_empty()
    }
}

impl<T: TablesRead> Tables for Overlay<'_, T> {
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.staged.insert(key, Some(value));
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.staged.insert(key, None);
    }
}

/// The suite every implementation of [`Tables`] passes; `tables` is empty.
pub fn tables_suite(tables: &mut impl Tables) {
    assert_eq!(tables.get(b"a"), None);
    for key in ["b", "a", "ab", "c"] {
        tables.put(key.into(), key.to_uppercase().into_bytes());
    }
    tables.put(b"b".to_vec(), b"second".to_vec());
    tables.delete(b"c".to_vec());
    tables.delete(b"never there".to_vec());
    let keys = |rows: Vec<Row>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(tables.range(b"a", b"z", 10)), [b"a".to_vec(), b"ab".to_vec(), b"b".to_vec()]);
    assert_eq!(keys(tables.range(b"a", b"b", 10)), [b"a".to_vec(), b"ab".to_vec()]);
    assert_eq!(keys(tables.range(b"a", b"z", 1)), [b"a".to_vec()]);
    assert_eq!(keys(tables.range(b"b", b"a", 10)), Vec::<Vec<u8>>::new());
    assert_eq!(keys(tables.prefix(b"a", 10)), [b"a".to_vec(), b"ab".to_vec()]);
    assert_eq!(tables.get(b"b"), Some(b"second".to_vec()));
    assert!(tables.contains(b"ab") && !tables.contains(b"c"));
}

#[cfg(test)]
mod tests {
    use super::*;

    // Memory and overlay obey the same suite, also when the overlay hides rows of its base.
    #[test]
    fn suite() {
        tables_suite(&mut MemoryTables::new());
        let empty = MemoryTables::new();
        tables_suite(&mut Overlay::new(&empty));
        let mut base = MemoryTables::new();
        for key in ["a", "b", "c", "d"] {
            base.put(key.into(), b"old".to_vec());
        }
        let mut overlay = Overlay::new(&base);
        for key in ["a", "b", "c", "d"] {
            overlay.delete(key.into());
        }
        overlay.keep();
        tables_suite(&mut overlay);
    }

    // A discarded command leaves nothing, a kept one all of its writes; the base never changes.
    #[test]
    fn keep_and_discard() {
        let mut base = MemoryTables::new();
        base.put(b"a".to_vec(), b"1".to_vec());
        let mut overlay = Overlay::new(&base);
        overlay.put(b"a".to_vec(), b"2".to_vec());
        overlay.keep();
        overlay.delete(b"a".to_vec());
        overlay.put(b"b".to_vec(), b"3".to_vec());
        assert_eq!(overlay.get(b"a"), None);
        overlay.discard();
        assert_eq!(overlay.get(b"a"), Some(b"2".to_vec()));
        assert_eq!(overlay.prefix(b"", 9), [(b"a".to_vec(), b"2".to_vec())]);
        assert_eq!(overlay.into_writes(), Writes::from([(b"a".to_vec(), Some(b"2".to_vec()))]));
    }

    // Whether there is a row, and which come first, is told right whatever is pending over the base.
    #[test]
    fn pending_rows_hide_and_show() {
        let states = |number: usize| [None, Some(None), Some(Some(b"new".to_vec()))][number % 3].clone();
        for number in 0..4usize.pow(4) * 81 {
            let (base_bits, changes) = (number % 16, number / 16 % 81);
            let (keys, mut base, mut expected) = (["pa", "pb", "pc", "pd"], MemoryTables::new(), MemoryTables::new());
            for (at, key) in keys.iter().enumerate().filter(|(at, _)| base_bits >> at & 1 == 1) {
                base.put((*key).into(), vec![at as u8]);
                expected.put((*key).into(), vec![at as u8]);
            }
            let mut overlay = Overlay::new(&base);
            for (at, key) in keys.iter().enumerate() {
                let change = states(changes / 3usize.pow(at as u32));
                let Some(change) = change else { continue };
                match change.clone() {
                    Some(value) => overlay.put((*key).into(), value),
                    None => overlay.delete((*key).into()),
                }
                expected.write(Writes::from([((*key).into(), change)]));
                if number & 1 << 12 != 0 {
                    overlay.keep();
                }
            }
            assert_eq!(overlay.any(b"p"), expected.any(b"p"));
            (1..6).for_each(|limit| assert_eq!(overlay.prefix(b"p", limit), expected.prefix(b"p", limit)));
        }
    }

    // Pages hold every row once, whatever their size, also when rows come and go between them; a prefix ends them.
    #[test]
    fn pages() {
        let mut tables = MemoryTables::new();
        for key in ["a", "b", "b1", "b2", "b3", "c"] {
            tables.put(key.into(), key.into());
        }
        for rows in 1..=5 {
            let mut seen = Vec::new();
            Pages::under(b"b".to_vec(), rows).each(&tables, |key, value| seen.push((key.to_vec(), value.to_vec())));
            assert_eq!(seen, tables.prefix(b"b", 9));
        }
        let mut pages = Pages::between(b"a".to_vec(), b"c".to_vec(), 2);
        assert_eq!(pages.read(&tables), Some(tables.range(b"a", b"b1", 9)));
        tables.delete(b"b1".to_vec());
        assert_eq!(pages.read(&tables), Some(tables.range(b"b2", b"c", 9)));
        assert_eq!(pages.read(&tables), None);
    }

    // The end of a prefix is above every key with that prefix.
    #[test]
    fn prefix_ends() {
        assert_eq!(after_prefix(b"a"), b"b");
        assert_eq!(after_prefix(&[1, 255]), [2]);
        assert!(after_prefix(&[255, 255]) > vec![255, 255, 254]);
    }
}
