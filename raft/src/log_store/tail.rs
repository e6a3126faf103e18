//! The last entries, decoded: in steady state neither replication nor apply reads RocksDB.

use std::collections::VecDeque;

use crate::codec::entry_size;
use crate::types::Entry;

/// A contiguous run of entries that ends with the last one of the log.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

impl Tail {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, entries_max, bytes_max }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += entry_size(&entry);
        self.entries.push_back(entry);
        while self.entries.len() > self.entries_max || (self.bytes > self.bytes_max && self.entries.len() > 1) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry_size(&entry);
        }
    }

    /// Removes entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|last| last.log_id.index >= index) {
            let entry = self.entries.pop_back().expect("just seen");
            self.bytes -= entry_size(&entry);
        }
    }

    /// Removes entries up to and including `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.log_id.index <= index) {
            self.drop_first();
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// The entries of `from..to`, up to about `bytes_max` of them and at least one; `None` if the first one isn't here.
    pub(super) fn range(&self, from: u64, to: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id.index;
        let start = usize::try_from(from.checked_sub(first)?).ok()?;
        if start >= self.entries.len() {
            return None;
        }
        let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX).min(self.entries.len() - start);
        let mut bytes = 0;
        let mut found = Vec::with_capacity(count);
        for entry in self.entries.range(start..start + count) {
            bytes += entry_size(entry);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::normal;

    fn indexes(tail: &Tail, from: u64, to: u64, bytes_max: usize) -> Option<Vec<u64>> {
        tail.range(from, to, bytes_max).map(|found| found.iter().map(|entry| entry.log_id.index).collect())
    }

    // The tail answers only what it holds without a gap, and forgets from the front.
    #[test]
    fn holds_a_contiguous_run() {
        let mut tail = Tail::new(4, 1 << 20);
        (1..=6).for_each(|index| tail.push(normal(1, index, b"x")));
        assert_eq!(indexes(&tail, 2, 5, usize::MAX), None);
        assert_eq!(indexes(&tail, 3, 5, usize::MAX), Some(vec![3, 4]));
        assert_eq!(indexes(&tail, 5, 100, usize::MAX), Some(vec![5, 6]));
        assert_eq!(indexes(&tail, 7, 8, usize::MAX), None);
        assert_eq!(indexes(&tail, 3, 7, 1), Some(vec![3]));
        tail.truncate(5);
        tail.purge(3);
        assert_eq!(indexes(&tail, 4, 9, usize::MAX), Some(vec![4]));
        tail.push(normal(2, 9, b"x"));
        assert_eq!(indexes(&tail, 4, 5, usize::MAX), None);
        tail.truncate(0);
        assert_eq!((tail.bytes, tail.entries.len()), (0, 0));
    }

    // Few large entries do not fill the memory.
    #[test]
    fn is_bounded_by_bytes() {
        let mut tail = Tail::new(1000, 500);
        (1..=100).for_each(|index| tail.push(normal(1, index, &[0; 100])));
        assert!(tail.bytes <= 500 && tail.entries.len() >= 3, "{} bytes", tail.bytes);
    }
}
