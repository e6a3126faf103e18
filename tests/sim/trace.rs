//! What happened, line by line: the last lines for people, the hash of all as the proof that a seed decides all.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Lines shown when something went wrong.
const LINES_MAX: usize = 160;

/// The trace of a run. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    began: Instant,
    hash: Xxh3,
    count: u64,
    last: VecDeque<String>,
    is_shown: bool,
    failure: Option<String>,
}

impl Trace {
    /// An empty one; `SHOW=1` prints each line.
    pub(crate) fn begin() -> Trace {
        let is_shown = std::env::var_os("SHOW").is_some();
        let (began, hash, last) = (Instant::now(), Xxh3::new(), VecDeque::new());
        Trace(Arc::new(Mutex::new(Inner { began, hash, count: 0, last, is_shown, failure: None })))
    }

    /// Adds a line.
    pub(crate) fn note(&self, line: impl AsRef<str>) {
        let mut inner = self.0.lock();
        let line = format!("{:>7} {}", inner.began.elapsed().as_millis(), line.as_ref());
        inner.hash.update(line.as_bytes());
        inner.count += 1;
        if inner.is_shown {
            eprintln!("{line}");
        }
        inner.last.push_back(line);
        if inner.last.len() > LINES_MAX {
            inner.last.pop_front();
        }
    }

    /// Something is wrong; the first such thing counts.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("VIOLATION {what}"));
        self.0.lock().failure.get_or_insert(what);
    }

    /// What is wrong.
    pub(crate) fn failure(&self) -> Option<String> {
        self.0.lock().failure.clone()
    }

    /// The hash of all lines, and how many there are.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.hash.digest(), inner.count)
    }

    /// The last lines.
    pub(crate) fn last(&self) -> String {
        self.0.lock().last.iter().map(|line| format!("{line}\n")).collect()
    }
}
