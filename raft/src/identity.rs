//! Who this data directory is, how often it has started, and what peers were heard to say.
//!
//! A directory that went back in time (a restored disk image) would vote a second time in a term it has voted in. Every
//! start raises a counter durably; every node remembers, per peer, the highest counter, term and log position it was
//! told. A started voter takes no part in consensus until a majority of the voters has answered its hello and none knew
//! more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::codec::{self, CodecError, Kind};
use crate::fatal;
use crate::files;
use crate::reinstall;
use crate::suspect::Suspicion;
use crate::types::Position;

/// What a data directory says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u128,
    pub(crate) lineage: u64,
    pub(crate) node_id: u64,
    /// How often it was started, this time included.
    pub(crate) start: u64,
    /// What the program that wrote it understood; see [`FEATURE_LEVEL`].
    pub(crate) feature_level: u32,
    /// It has lost what it acknowledged, and must not vote.
    pub(crate) suspicion: Option<Suspicion>,
}

const FILE: &str = "node.id";

/// What this program understands of the formats in the directory.
pub(crate) const FEATURE_LEVEL: u32 = 1;

/// The directory belongs to somebody else, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another node's or cluster's directory.
    #[error("the data directory belongs to node {node_id:016x} of cluster {cluster_id:032x}, lineage {lineage:016x}")]
    Foreign {
        /// Whose it is.
        node_id: u64,
        /// Which cluster it belongs to.
        cluster_id: u128,
        /// Which life of that cluster.
        lineage: u64,
    },
    /// A newer program wrote it.
    #[error("the data directory has feature level {0}, newer than this program")]
    Newer(u32),
    /// The identity file is damaged.
    #[error(transparent)]
    Damaged(#[from] CodecError),
    /// The directory cannot be read or written.
    #[error("the identity of the data directory: {0}")]
    Io(#[from] io::Error),
}

impl Identity {
    /// Of a directory that no node was started on yet.
    fn new(cluster_id: u128, lineage: u64, node_id: u64) -> Identity {
        Identity { cluster_id, lineage, node_id, start: 0, feature_level: FEATURE_LEVEL, suspicion: None }
    }

    /// Whether the directory has an identity.
    pub(crate) fn is_in(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }
}

/// The identity of a directory in use, and the file that holds it.
#[derive(Debug)]
pub(crate) struct Directory {
    file: PathBuf,
    identity: Mutex<Identity>,
}

impl Directory {
    /// Reads the directory's identity, or gives it one; raises its start counter durably. A directory that has one
    /// keeps its own lineage.
    pub(crate) fn start(dir: &Path, cluster_id: u128, lineage: u64, node_id: u64) -> Result<Directory, IdentityError> {
        files::make_dir(dir)?;
        let mut identity = match read(dir)? {
            Some(identity) => identity,
            None => Identity::new(cluster_id, lineage, node_id),
        };
        if (identity.cluster_id, identity.node_id) != (cluster_id, node_id) {
            let Identity { cluster_id, lineage, node_id, .. } = identity;
            return Err(IdentityError::Foreign { node_id, cluster_id, lineage });
        }
        if identity.feature_level > FEATURE_LEVEL {
            return Err(IdentityError::Newer(identity.feature_level));
        }
        identity.start += 1;
        let directory = Directory { file: dir.join(FILE), identity: Mutex::new(identity) };
        files::replace(&directory.file, &encode(&identity))?;
        Ok(directory)
    }

    /// What the directory says of itself now.
    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock()
    }

    /// Says that the state beside this directory is rotten. Blocking.
    pub(crate) fn condemn_state(&self, why: &str) -> io::Result<()> {
        reinstall::condemn(self.file.parent().unwrap_or(Path::new(".")), why)
    }

    /// Changes what the directory says of itself; durable when this returns. Blocking.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Identity)) -> io::Result<()> {
        let mut identity = self.identity.lock();
        let mut changed = *identity;
        change(&mut changed);
        if changed != *identity {
            files::replace(&self.file, &encode(&changed))?;
            *identity = changed;
        }
        Ok(())
    }

    /// As [`Directory::change`], from the runtime of consensus. An error ends the process: a node must not go on under
    /// an identity that the disk has not. A runtime that ends is no error; see [`files::blocking`].
    pub(crate) async fn keep(self: Arc<Self>, change: impl FnOnce(&mut Identity) + Send + 'static) {
        if let Err(error) = files::blocking(move || self.change(change)).await {
            fatal::abort("the identity of this node cannot be kept", &error);
        }
    }
}

/// Changes the identity of a stopped node's directory; durable when this returns.
pub(crate) fn rewrite(dir: &Path, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
    let mut identity = read(dir)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the directory has none"))?;
    change(&mut identity);
    Ok(files::replace(&dir.join(FILE), &encode(&identity))?)
}

/// Gives a directory its identity before its first start.
pub(crate) fn create(dir: &Path, cluster_id: u128, lineage: u64, node_id: u64) -> Result<(), IdentityError> {
    Ok(files::replace(&dir.join(FILE), &encode(&Identity::new(cluster_id, lineage, node_id)))?)
}

/// Reads the directory's identity; `None` if it has none yet.
pub(crate) fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
    let bytes = files::read(&dir.join(FILE))?;
    Ok(bytes.map(|bytes| decode(Bytes::from(bytes))).transpose()?)
}

fn encode(identity: &Identity) -> Bytes {
    let mut out = BytesMut::new();
    // nothing but a suspicion differs between the versions, and a program before 0.2.0 reads the first only
    let version = if identity.suspicion.is_none() { 1 } else { 2 };
    codec::record(&mut out, Kind::Identity, version, |out| {
        out.put_u128_le(identity.cluster_id);
        out.put_u64_le(identity.lineage);
        out.put_u64_le(identity.node_id);
        out.put_u64_le(identity.start);
        out.put_u32_le(identity.feature_level);
        Suspicion::put(identity.suspicion, out);
    });
    out.freeze()
}

fn decode(bytes: Bytes) -> Result<Identity, CodecError> {
    let (version, mut reader) = codec::open(bytes, Kind::Identity)?;
    if !(1..=2).contains(&version) {
        return Err(reader.error("its version is newer than this program"));
    }
    let (cluster_id, lineage, node_id) = (reader.u128()?, reader.u64()?, reader.u64()?);
    let (start, feature_level) = (reader.u64()?, reader.u32()?);
    let suspicion = match version {
        // version 1 had a flag here that nothing ever set
        1 => Suspicion::from_flag(reader.bool()?),
        _ => Suspicion::take(&mut reader)?,
    };
    reader.end()?;
    Ok(Identity { cluster_id, lineage, node_id, start, feature_level, suspicion })
}

/// What a node says of itself when it starts, and what its peers remember of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Its start counter.
    pub(crate) start: u64,
    /// The highest term it voted in or followed.
    pub(crate) term: u64,
    /// What it acknowledged to the leader of that term, or says its log ends with.
    pub(crate) last: Option<Position>,
}

impl Heard {
    /// Whether this memory of a node proves that `hello` comes from an older copy of it.
    ///
    /// Positions are compared within one term only: a leader of a later term may have cut the log.
    pub(crate) fn is_ahead_of(&self, hello: &Heard) -> bool {
        self.start > hello.start || self.term > hello.term || (self.term == hello.term && self.last > hello.last)
    }

    /// Reads the record of a node.
    pub(crate) fn decode(bytes: Bytes) -> Result<Heard, CodecError> {
        let mut reader = codec::open_v1(bytes, Kind::Heard)?;
        let heard = Heard::take(&mut reader)?;
        reader.end()?;
        Ok(heard)
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        codec::record(&mut out, Kind::Heard, 1, |out| {
            self.put(out);
        });
        out.freeze()
    }

    /// For a record, and for a hello on the wire.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.start);
        out.put_u64_le(self.term);
        codec::put_log_id_option(out, self.last.map(Into::into).as_ref());
    }

    /// Reads what [`Heard::put`] wrote.
    pub(crate) fn take(reader: &mut codec::Reader) -> Result<Heard, CodecError> {
        let (start, term) = (reader.u64()?, reader.u64()?);
        Ok(Heard { start, term, last: reader.log_id_option()?.map(Position::from) })
    }
}

/// The memory of all peers.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<u64, Heard>>);

impl Memory {
    pub(crate) fn load(records: Vec<(u64, Bytes)>) -> Result<Memory, CodecError> {
        let mut memory = BTreeMap::new();
        for (node_id, bytes) in records {
            memory.insert(node_id, Heard::decode(bytes)?);
        }
        Ok(Memory(Mutex::new(memory)))
    }

    pub(crate) fn of(&self, node_id: u64) -> Heard {
        self.0.lock().get(&node_id).copied().unwrap_or_default()
    }

    /// A node has voted in, or followed, a term.
    pub(crate) fn heard_term(&self, node_id: u64, term: u64) {
        let mut memory = self.0.lock();
        let heard = memory.entry(node_id).or_default();
        if term > heard.term {
            *heard = Heard { term, last: None, ..*heard };
        }
    }

    /// A node has acknowledged entries to the leader of a term.
    pub(crate) fn heard_ack(&self, node_id: u64, term: u64, last: Position) {
        let mut memory = self.0.lock();
        let heard = memory.entry(node_id).or_default();
        if term > heard.term {
            *heard = Heard { term, last: Some(last), ..*heard };
        } else if term == heard.term {
            heard.last = heard.last.max(Some(last));
        }
    }

    /// Whether a node that says it lacks the entry at `at` has acknowledged it, or a later one, to the leader of this
    /// term: then it has lost it since.
    pub(crate) fn has_lost(&self, node_id: u64, term: u64, at: Position) -> bool {
        let heard = self.of(node_id);
        heard.term == term && heard.last >= Some(at)
    }

    /// A node has lost what it had acknowledged to the leader of this term, and begins again.
    pub(crate) fn forget_acks(&self, node_id: u64) {
        if let Some(heard) = self.0.lock().get_mut(&node_id) {
            heard.last = None;
        }
    }

    /// A node has started and was found to be no older than what was known of it.
    pub(crate) fn heard_start(&self, node_id: u64, hello: Heard) {
        let mut memory = self.0.lock();
        let heard = memory.entry(node_id).or_default();
        heard.start = heard.start.max(hello.start);
        if hello.term > heard.term {
            *heard = Heard { term: hello.term, last: None, ..*heard };
        }
    }

    /// The record to keep of a node.
    pub(crate) fn record(&self, node_id: u64) -> Bytes {
        self.of(node_id).encode()
    }

    /// All that is known, to see what changed.
    pub(crate) fn all(&self) -> BTreeMap<u64, Heard> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suspect::Why;

    // Each start counts, and a directory is refused to anyone but its owner.
    #[test]
    fn identity_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("raft");
        let start = |cluster, lineage, node| Directory::start(&dir, cluster, lineage, node);
        assert_eq!(start(1, 2, 3).unwrap().identity().start, 1);
        assert_eq!(start(1, 2, 3).unwrap().identity().start, 2);
        assert_eq!(start(1, 9, 3).unwrap().identity().lineage, 2, "a directory knows its own");
        for (cluster, node) in [(9, 3), (1, 9)] {
            let error = start(cluster, 2, node).unwrap_err();
            assert!(matches!(error, IdentityError::Foreign { node_id: 3, .. }), "{error}");
        }
        let recorded = Some(Position { term: 4, index: 5 });
        for suspicion in [None, Some(Suspicion { why: Why::Short, recorded })] {
            let directory = start(1, 2, 3).unwrap();
            directory.change(|identity| identity.suspicion = suspicion).unwrap();
            assert_eq!(start(1, 2, 3).unwrap().identity().suspicion, suspicion, "it is forgotten by a start");
        }
        start(1, 2, 3).unwrap().change(|identity| identity.feature_level = 2).unwrap();
        assert!(matches!(start(1, 2, 3), Err(IdentityError::Newer(2))));
        std::fs::write(dir.join("node.id"), b"rubbish").unwrap();
        assert!(matches!(start(1, 2, 3), Err(IdentityError::Damaged(_))));
    }

    // A node that is being ended has no thread left to write with. That is no failure, and nothing is taken as kept.
    #[test]
    fn an_ending_runtime_keeps_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::start(dir.path(), 1, 2, 3).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let handle = runtime.handle().clone();
        handle.block_on(directory.clone().keep(|identity| identity.lineage = 4));
        assert_eq!(directory.identity().lineage, 4);
        runtime.shutdown_background();
        let _entered = handle.enter();
        let mut keeping = std::pin::pin!(directory.clone().keep(|identity| identity.lineage = 5));
        let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(keeping.as_mut().poll(&mut nobody).is_pending());
        assert_eq!(directory.identity().lineage, 4);
    }

    // An identity file of version 1 is read as it was meant.
    #[test]
    fn version_1_is_read() {
        for (flag, suspicion) in [(0, None), (1, Some(Suspicion { why: Why::Short, recorded: None }))] {
            let mut out = BytesMut::new();
            codec::record(&mut out, Kind::Identity, 1, |out| {
                out.put_u128_le(1);
                [2, 3, 4].iter().for_each(|number| out.put_u64_le(*number));
                out.put_u32_le(1);
                out.put_u8(flag);
            });
            let read = decode(out.freeze()).unwrap();
            let want = Identity { cluster_id: 1, lineage: 2, node_id: 3, start: 4, feature_level: 1, suspicion };
            assert_eq!(read, want);
        }
    }

    // A peer knows more exactly if the node has started, voted or acknowledged since.
    #[test]
    fn who_went_back_in_time() {
        let at = |start, term, index: Option<u64>| {
            let last = index.map(|index| Position { term: 1, index });
            Heard { start, term, last }
        };
        let cases = [
            ("nothing known", Heard::default(), at(1, 0, None), false),
            ("the same", at(3, 5, Some(9)), at(4, 5, Some(9)), false),
            ("an older start", at(4, 5, Some(9)), at(3, 5, Some(9)), true),
            ("a term voted in since", at(3, 6, None), at(4, 5, Some(9)), true),
            ("entries acknowledged since", at(3, 5, Some(10)), at(4, 5, Some(9)), true),
            ("cut by a later leader", at(3, 5, Some(10)), at(4, 6, Some(9)), false),
        ];
        for (name, memory, hello, ahead) in cases {
            assert_eq!(memory.is_ahead_of(&hello), ahead, "{name}");
        }
    }

    // What was heard only grows, survives its record, and positions belong to the latest term.
    #[test]
    fn memory_grows() {
        let memory = Memory::default();
        let position = |term, index| Position { term, index };
        memory.heard_ack(7, 3, position(3, 10));
        memory.heard_ack(7, 3, position(3, 8));
        memory.heard_ack(7, 2, position(2, 50));
        memory.heard_start(7, Heard { start: 4, term: 1, last: None });
        assert_eq!(memory.of(7), Heard { start: 4, term: 3, last: Some(position(3, 10)) });
        assert!(memory.has_lost(7, 3, position(3, 10)) && memory.has_lost(7, 3, position(2, 4)));
        assert!(!memory.has_lost(7, 3, position(3, 11)) && !memory.has_lost(7, 4, position(3, 10)));
        memory.heard_term(7, 5);
        let kept = Memory::load(vec![(7, memory.record(7))]).unwrap();
        assert_eq!(kept.of(7), Heard { start: 4, term: 5, last: None });
    }
}
