//! Reading entries: from memory in steady state, from RocksDB on a blocking thread for who is far behind.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::storage::RaftLogReader;
use rocksdb::{Direction, IteratorMode};

use super::{Inner, LogStore, key};
use crate::codec;
use crate::files;
use crate::types::{Entry, Types, Vote};

impl LogStore {
    /// Whether an entry that is not here may have been: purged meanwhile, which the engine holds back while it
    /// replicates; or another node leads, has had this log cut off or is installing a state that goes beyond it, and
    /// who still reads for this node's followers hears of that next.
    fn may_be_gone(&self, index: u64) -> bool {
        let edges = *self.0.edges.lock();
        let is_others = edges.vote.is_some_and(|vote| Some(vote.leader_id.voted_for) != self.0.settings.node);
        is_others || edges.purged.is_some_and(|purged| purged.index >= index)
    }

    /// Entries of `from..to` in order, as many as fit `bytes_max` and at least one if there is one.
    async fn some(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(found) = self.0.tail.lock().range(from, to, bytes_max) {
            return Ok(found);
        }
        let store = self.clone();
        files::blocking(move || store.0.read_disk(from, to, bytes_max)).await
    }
}

impl Inner {
    fn read_disk(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for item in self.db.iterator_cf(&self.log(), IteratorMode::From(&key(from), Direction::Forward)) {
            let (_, value) = item.map_err(io::Error::other)?;
            bytes += value.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let entry = codec::entry(Bytes::from(value)).map_err(io::Error::other)?;
            let index = entry.log_id.index;
            if index >= to {
                break;
            }
            if found.last().is_some_and(|last: &Entry| last.log_id.index + 1 != index) {
                return Err(io::Error::other(format!("the log has a hole before entry {index}")));
            }
            found.push(entry);
        }
        Ok(found)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        let to = self.last().map_or(0, |last| to.min(last.index + 1));
        self.some(from, to, usize::MAX).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        let store = self.clone();
        // piece by piece: after a restart tens of thousands of entries may be due
        stream::unfold(from, move |next| {
            let store = store.clone();
            async move {
                if next >= to {
                    return None;
                }
                let piece = store.some(next, to.min(next + 1024), store.0.settings.read_bytes).await;
                let (items, next) = match piece {
                    Ok(found) if found.is_empty() => (Vec::new(), u64::MAX),
                    Ok(found) => {
                        let next = next + found.len() as u64;
                        (found.into_iter().map(Ok).collect(), next)
                    }
                    Err(error) => (vec![Err(error)], u64::MAX),
                };
                Some((stream::iter(items), next))
            }
        })
        .flatten()
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let found = self.some(start, end, self.0.settings.read_bytes).await?;
        match found.first() {
            Some(first) if first.log_id.index == start => Ok(found),
            None if start >= end => Ok(found),
            // What must never happen is to pass later entries off as these; an empty answer sends none
            Some(_) | None if self.may_be_gone(start) => Ok(Vec::new()),
            Some(_) | None => Err(io::Error::other(format!("entry {start} is not in the log"))),
        }
    }
}
