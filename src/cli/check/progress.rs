//! How far a check is, on the terminal; nothing when standard error is none.

use indicatif::{ProgressBar, ProgressStyle};
use registry_core::metadata::tables::{Row, TablesRead};

/// A bar that goes when it is dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Over rows; without an end when their number is not known.
    pub(super) fn rows(what: &'static str, count: u64) -> Progress {
        match count {
            0 => Progress::new(what, 0, "{msg:>8} {spinner}"),
            count => Progress::new(what, count, "{msg:>8} [{bar:40}] {pos}/~{len} {eta}"),
        }
    }

    /// Over bytes.
    pub(super) fn bytes(what: &'static str, count: u64) -> Progress {
        Progress::new(what, count, "{msg:>8} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    fn new(what: &'static str, count: u64, template: &str) -> Progress {
        let bar = ProgressBar::new(count).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress(bar)
    }

    /// So many more were looked at.
    pub(super) fn add(&self, count: u64) {
        self.0.inc(count);
    }

    /// Tables whose rows are counted while they are read in order.
    pub(super) fn counting<'a, T>(&'a self, tables: &'a T) -> Counting<'a, T> {
        Counting { tables, progress: self }
    }

    pub(super) fn done(self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Moves the bar by every page.
pub(super) struct Counting<'a, T> {
    tables: &'a T,
    progress: &'a Progress,
}

impl<T: TablesRead> TablesRead for Counting<'_, T> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.tables.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        let rows = self.tables.range(from, to, limit);
        self.progress.add(rows.len() as u64);
        rows
    }
}
