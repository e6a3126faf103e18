//! Writing the log, as openraft asks for it.

use std::io;

use bytes::{Bytes, BytesMut};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use rocksdb::{IteratorMode, WriteBatch};

use super::sync::Job;
use super::{KEY_COMMITTED, KEY_MEMBERS, KEY_PURGED, KEY_VOTE, LogStore, PREFIX_FORMER, PREFIX_HEARD, key, keys};
use crate::codec::{self, Kind};
use crate::fatal;
use crate::types::{Entry, LogId, Payload, Position, StoredMembership, Types, Vote};

impl LogStore {
    /// Hands a batch to RocksDB's log. A failure leaves RocksDB read-only, and what it kept is unknown.
    fn write(&self, batch: WriteBatch) {
        if let Err(error) = self.0.db.write(batch) {
            fatal::abort("the log cannot be written", &error);
        }
    }

    fn write_meta(&self, name: &[u8], value: &[u8]) {
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.0.meta(), name, value);
        self.write(batch);
    }

    fn read_meta(&self, name: &[u8]) -> io::Result<Option<Bytes>> {
        self.0.db.get_cf(&self.0.meta(), name).map(|found| found.map(Bytes::from)).map_err(io::Error::other)
    }

    /// Keeps what a peer was heard to say; durable when this returns.
    pub(crate) async fn put_heard(&self, node_id: u64, value: &[u8]) -> io::Result<()> {
        self.write_meta(&[PREFIX_HEARD, &node_id.to_be_bytes()].concat(), value);
        self.0.sync.written().await
    }

    /// Waits until all that was written so far is durable.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        self.0.sync.written().await
    }

    /// Begins the log anew behind what the state has applied, durably; what was in it goes. For a log that has lost
    /// its end up to there: the state has only what was committed.
    pub(crate) fn restart_behind(&self, applied: Position) -> io::Result<()> {
        let (start, end) = keys(0..=u64::MAX);
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&self.0.log(), start.as_slice(), end.as_slice());
        batch.put_cf(&self.0.meta(), KEY_PURGED, codec::log_id_record(Kind::LogId, &applied.into()));
        self.write(batch);
        self.0.db.flush_wal(true).map_err(io::Error::other)?;
        self.0.tail.lock().truncate(0);
        let mut edges = self.0.edges.lock();
        (edges.purged, edges.last) = (Some(applied.into()), Some(applied.into()));
        Ok(())
    }

    /// Writes the first entries of a new life and the vote for oneself, and forgets what peers of the former one said;
    /// durable when this returns.
    pub(crate) fn begin_life(&self, entries: Vec<Entry>, vote: &Vote) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        for (id, _) in self.heard()? {
            batch.delete_cf(&self.0.meta(), [PREFIX_HEARD, &id.to_be_bytes()].concat());
        }
        batch.delete_cf(&self.0.meta(), KEY_MEMBERS);
        batch.put_cf(&self.0.meta(), KEY_VOTE, codec::vote_record(vote));
        let mut buffer = BytesMut::new();
        for entry in &entries {
            buffer.clear();
            codec::put_entry(&mut buffer, entry);
            batch.put_cf(&self.0.log(), key(entry.log_id.index), &buffer);
        }
        self.write(batch);
        self.0.db.flush_wal(true).map_err(io::Error::other)
    }

    /// The newest members that the log itself tells.
    pub(crate) fn membership(&self) -> io::Result<Option<StoredMembership>> {
        let mut found = None;
        for item in self.0.db.iterator_cf(&self.0.log(), IteratorMode::Start) {
            let (_, value) = item.map_err(io::Error::other)?;
            let entry = codec::entry(Bytes::from(value)).map_err(io::Error::other)?;
            if let Payload::Membership(membership) = entry.payload {
                found = Some(StoredMembership::new(Some(entry.log_id), membership));
            }
        }
        Ok(found)
    }

    /// Keeps who the members are, beside what entries tell of it; durable with what is written next.
    pub(crate) fn put_members(&self, members: &StoredMembership) {
        self.write_meta(KEY_MEMBERS, &codec::meta_record(None, members));
    }

    /// The members that were kept last.
    pub(crate) fn members(&self) -> io::Result<Option<StoredMembership>> {
        let found = self.read_meta(KEY_MEMBERS)?.map(codec::meta).transpose().map_err(io::Error::other)?;
        Ok(found.map(|found| found.last_membership))
    }

    /// All that peers were heard to say.
    pub(crate) fn heard(&self) -> io::Result<Vec<(u64, Bytes)>> {
        self.by_node(PREFIX_HEARD)
    }

    /// Keeps that a node was removed; durable when this returns.
    pub(crate) async fn put_former(&self, node_id: u64) -> io::Result<()> {
        self.write_meta(&[PREFIX_FORMER, &node_id.to_be_bytes()].concat(), &[]);
        self.0.sync.written().await
    }

    /// All nodes that were removed.
    pub(crate) fn former(&self) -> io::Result<Vec<u64>> {
        Ok(self.by_node(PREFIX_FORMER)?.into_iter().map(|(id, _)| id).collect())
    }

    fn by_node(&self, prefix: &[u8]) -> io::Result<Vec<(u64, Bytes)>> {
        let mut found = Vec::new();
        for item in self.0.db.prefix_iterator_cf(&self.0.meta(), prefix) {
            let (name, value) = item.map_err(io::Error::other)?;
            let Some(id) = name.strip_prefix(prefix) else { break };
            let id = id.try_into().map_err(|_| io::Error::other("a record of a peer has a malformed key"))?;
            found.push((u64::from_be_bytes(id), Bytes::from(value)));
        }
        Ok(found)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let edges = *self.0.edges.lock();
        Ok(LogState { last_purged_log_id: edges.purged, last_log_id: edges.last.or(edges.purged) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_meta(KEY_VOTE, &codec::vote_record(vote));
        self.0.sync.written().await?;
        self.0.edges.lock().vote = Some(*vote);
        Ok(())
    }

    /// A hint, not synced: it follows its entries in the same write-ahead log, so it never names one that is lost.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.write_meta(KEY_COMMITTED, &codec::log_id_record(Kind::LogId, &committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let found = self.read_meta(KEY_COMMITTED)?;
        let committed = found.map(|bytes| codec::log_id(bytes, Kind::LogId)).transpose().map_err(io::Error::other)?;
        let edges = *self.0.edges.lock();
        Ok(committed.min(edges.last.or(edges.purged)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let slot = self.0.depth.clone().acquire_owned().await.map_err(io::Error::other)?;
        let Some(last) = self.write_entries(entries) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        self.0.sync.send(Job::Append { last, done: callback, slot });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let purged = self.0.edges.lock().purged;
        // openraft's suite also asks to cut behind the end, which changes nothing
        let last = last_log_id.max(purged).min(self.last().map(LogId::from));
        self.0.sync.lowered(last.map(Position::from)).await?;
        let from = last.map_or(0, |last| last.index + 1);
        let (start, end) = keys(from..=u64::MAX);
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&self.0.log(), start.as_slice(), end.as_slice());
        self.write(batch);
        self.0.tail.lock().truncate(from);
        self.0.edges.lock().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        if self.puts_purge_off(&log_id) {
            // the engine never reads what it has purged; that it is still here only costs space
            return Ok(());
        }
        let (start, end) = keys(0..=log_id.index);
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.0.meta(), KEY_PURGED, codec::log_id_record(Kind::LogId, &log_id));
        batch.delete_range_cf(&self.0.log(), start.as_slice(), end.as_slice());
        self.write(batch);
        self.0.tail.lock().purge(log_id.index);
        {
            let mut edges = self.0.edges.lock();
            edges.purged = Some(log_id);
            edges.last = edges.last.max(Some(log_id));
        }
        self.0.sync.send(Job::Reclaim { upto: log_id.index });
        Ok(())
    }
}

impl LogStore {
    /// Writes entries so that they can be read; `None` if there were none.
    fn write_entries(&self, entries: impl IntoIterator<Item = Entry>) -> Option<Position> {
        let mut batch = WriteBatch::default();
        let log = self.0.log();
        let mut buffer = BytesMut::new();
        let entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &entries {
            buffer.clear();
            codec::put_entry(&mut buffer, entry);
            batch.put_cf(&log, key(entry.log_id.index), &buffer);
        }
        let last = entries.last()?.log_id;
        self.write(batch);
        let mut tail = self.0.tail.lock();
        entries.into_iter().for_each(|entry| tail.push(entry));
        self.0.edges.lock().last = Some(last);
        Some(last.into())
    }
}
