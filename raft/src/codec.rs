//! Our encodings of what openraft holds: entries, votes, log ids, memberships, snapshot descriptions.
//!
//! Everything that is stored is a *record*: magic, kind, version, body, CRC32C of all before it. Integers are
//! little-endian and of fixed width, byte strings carry a `u32` length. openraft's types are converted field by field,
//! never serialised as they are: a field added upstream must not make an old log unreadable. Golden bytes in the tests
//! hold the formats.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::{Command, Entry, LogId, Membership, Payload, Peer, Position, SnapshotMeta, StoredMembership, Vote};

/// Opens every record.
const MAGIC: u8 = 0xB7;
/// Magic, kind, version.
const HEADER_BYTES: usize = 3;
/// The checksum at the end.
const TRAILER_BYTES: usize = 4;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct CodecError {
    what: &'static str,
    why: &'static str,
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Entry = 1,
    Vote = 2,
    LogId = 3,
    /// Last applied position and members: the `meta` of the state machine and of a snapshot.
    Meta = 4,
    /// Lower bound of the fsynced log.
    Bound = 5,
    /// Identity of the data directory.
    Identity = 6,
    /// What a peer was heard to say.
    Heard = 7,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Entry => "entry",
            Kind::Vote => "vote",
            Kind::LogId => "log id",
            Kind::Meta => "state description",
            Kind::Bound => "log bound",
            Kind::Identity => "identity",
            Kind::Heard => "peer record",
        }
    }
}

/// Takes a record apart.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    what: &'static str,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes, what: &'static str) -> Reader {
        Reader { bytes, what }
    }

    pub(crate) fn error(&self, why: &'static str) -> CodecError {
        CodecError { what: self.what, why }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<Bytes, CodecError> {
        if self.bytes.len() < count {
            return Err(self.error("it ends early"));
        }
        Ok(self.bytes.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let Some((head, _)) = self.bytes.split_first_chunk::<N>() else { return Err(self.error("it ends early")) };
        let head = *head;
        drop(self.bytes.split_to(N));
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, CodecError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("a flag is neither 0 nor 1")),
        }
    }

    /// A length that precedes that many things of at least one byte each: bounded by what is left.
    pub(crate) fn count(&mut self) -> Result<usize, CodecError> {
        let count = self.u32()? as usize;
        if count > self.bytes.len() { Err(self.error("a length exceeds the record")) } else { Ok(count) }
    }

    pub(crate) fn blob(&mut self) -> Result<Bytes, CodecError> {
        let count = self.count()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.blob()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.error("text is not UTF-8"))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.bytes
    }

    /// Nothing may follow what was read.
    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.error("bytes follow its end")) }
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, CodecError> {
        let term = self.u64()?;
        let index = self.u64()?;
        Ok(Position { term, index }.into())
    }

    pub(crate) fn log_id_option(&mut self) -> Result<Option<LogId>, CodecError> {
        if self.bool()? { self.log_id().map(Some) } else { Ok(None) }
    }

    pub(crate) fn vote(&mut self) -> Result<Vote, CodecError> {
        let (term, node_id) = (self.u64()?, self.u64()?);
        Ok(if self.bool()? { Vote::new_committed(term, node_id) } else { Vote::new(term, node_id) })
    }

    pub(crate) fn peer(&mut self) -> Result<Peer, CodecError> {
        Ok(Peer { raft_addr: self.text()?, zone: self.text()?, meta: self.blob()? })
    }

    pub(crate) fn membership(&mut self) -> Result<Membership, CodecError> {
        let mut configs = Vec::new();
        for _ in 0..self.count()? {
            let mut config = BTreeSet::new();
            for _ in 0..self.count()? {
                config.insert(self.u64()?);
            }
            configs.push(config);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count()? {
            nodes.insert(self.u64()?, self.peer()?);
        }
        if configs.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| self.error("a voter is not among the nodes, or there is none"))
    }
}

pub(crate) fn put_blob(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("bounded far below 4 GiB"));
    out.put_slice(bytes);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("bounded far below 4 G"));
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: &LogId) {
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.index);
}

pub(crate) fn put_log_id_option(out: &mut BytesMut, id: Option<&LogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

pub(crate) fn put_peer(out: &mut BytesMut, peer: &Peer) {
    put_blob(out, peer.raft_addr.as_bytes());
    put_blob(out, peer.zone.as_bytes());
    put_blob(out, &peer.meta);
}

pub(crate) fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for config in configs {
        put_count(out, config.len());
        config.iter().for_each(|id| out.put_u64_le(*id));
    }
    put_count(out, membership.nodes().count());
    for (id, peer) in membership.nodes() {
        out.put_u64_le(*id);
        put_peer(out, peer);
    }
}

/// Writes a record at the end of `out`.
pub(crate) fn record(out: &mut BytesMut, kind: Kind, version: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&[MAGIC, kind as u8, version]);
    body(out);
    let sum = crc32c::crc32c(&out[start..]);
    out.put_u32_le(sum);
}

/// Checks a record and returns its version and body.
pub(crate) fn open(mut bytes: Bytes, kind: Kind) -> Result<(u8, Reader), CodecError> {
    let fail = |why| CodecError { what: kind.name(), why };
    if bytes.len() < HEADER_BYTES + TRAILER_BYTES {
        return Err(fail("it ends early"));
    }
    let trailer = bytes.split_off(bytes.len() - TRAILER_BYTES);
    if crc32c::crc32c(&bytes).to_le_bytes() != *trailer {
        return Err(fail("its checksum does not match"));
    }
    if bytes[0] != MAGIC || bytes[1] != kind as u8 {
        return Err(fail("it is a record of another kind"));
    }
    let version = bytes[2];
    Ok((version, Reader::new(bytes.split_off(HEADER_BYTES), kind.name())))
}

/// Checks a record of which only version 1 exists.
pub(crate) fn open_v1(bytes: Bytes, kind: Kind) -> Result<Reader, CodecError> {
    match open(bytes, kind)? {
        (1, reader) => Ok(reader),
        _ => Err(CodecError { what: kind.name(), why: "its version is newer than this program" }),
    }
}

/// One log entry. The index is part of it, so that a record read from the wrong place is noticed.
pub(crate) fn put_entry(out: &mut BytesMut, entry: &Entry) {
    record(out, Kind::Entry, 1, |out| {
        put_log_id(out, &entry.log_id);
        match &entry.payload {
            Payload::Blank => out.put_u8(0),
            Payload::Normal(Command::Proposal { at_ms, payload }) => {
                out.put_u8(1);
                out.put_u64_le(*at_ms);
                out.put_slice(payload);
            }
            Payload::Normal(Command::Suspect(node_id)) => {
                out.put_u8(3);
                out.put_u64_le(*node_id);
            }
            Payload::Membership(membership) => {
                out.put_u8(2);
                put_membership(out, membership);
            }
        }
    });
}

/// Upper bound of what [`put_entry`] adds for an ordinary entry of that payload.
pub(crate) fn entry_size(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        Payload::Normal(Command::Proposal { payload, .. }) => payload.len(),
        Payload::Blank | Payload::Membership(_) | Payload::Normal(Command::Suspect(_)) => 256,
    };
    HEADER_BYTES + TRAILER_BYTES + 25 + payload
}

/// Reads what [`put_entry`] wrote; the payload shares the memory of `bytes`.
pub(crate) fn entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let mut reader = open_v1(bytes, Kind::Entry)?;
    let log_id = reader.log_id()?;
    let payload = match reader.u8()? {
        0 => {
            reader.end()?;
            Payload::Blank
        }
        1 => Payload::Normal(Command::Proposal { at_ms: reader.u64()?, payload: reader.rest() }),
        2 => {
            let membership = reader.membership()?;
            reader.end()?;
            Payload::Membership(membership)
        }
        3 => {
            let node_id = reader.u64()?;
            reader.end()?;
            Payload::Normal(Command::Suspect(node_id))
        }
        _ => return Err(reader.error("its payload is of an unknown kind")),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn vote_record(vote: &Vote) -> Bytes {
    let mut out = BytesMut::new();
    record(&mut out, Kind::Vote, 1, |out| put_vote(out, vote));
    out.freeze()
}

pub(crate) fn vote(bytes: Bytes) -> Result<Vote, CodecError> {
    let mut reader = open_v1(bytes, Kind::Vote)?;
    let vote = reader.vote()?;
    reader.end()?;
    Ok(vote)
}

pub(crate) fn log_id_record(kind: Kind, id: &LogId) -> Bytes {
    let mut out = BytesMut::new();
    record(&mut out, kind, 1, |out| put_log_id(out, id));
    out.freeze()
}

pub(crate) fn log_id(bytes: Bytes, kind: Kind) -> Result<LogId, CodecError> {
    let mut reader = open_v1(bytes, kind)?;
    let id = reader.log_id()?;
    reader.end()?;
    Ok(id)
}

/// What the state machine keeps for us beside its data, and what describes a snapshot: same bytes.
pub(crate) fn meta_record(applied: Option<&LogId>, membership: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    record(&mut out, Kind::Meta, 1, |out| {
        put_log_id_option(out, applied);
        put_log_id_option(out, membership.log_id().as_ref());
        put_membership(out, membership.membership());
    });
    out.freeze()
}

/// Reads what [`meta_record`] wrote. Empty bytes are a state to which nothing was ever applied.
pub(crate) fn meta(bytes: Bytes) -> Result<SnapshotMeta, CodecError> {
    if bytes.is_empty() {
        return Ok(SnapshotMeta::default());
    }
    let mut reader = open_v1(bytes, Kind::Meta)?;
    let last_log_id = reader.log_id_option()?;
    let log_id = reader.log_id_option()?;
    let membership = reader.membership()?;
    reader.end()?;
    Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::new(log_id, membership) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn id(term: u64, index: u64) -> LogId {
        Position { term, index }.into()
    }

    pub(crate) fn normal(term: u64, index: u64, payload: &'static [u8]) -> Entry {
        let command = Command::Proposal { at_ms: 7, payload: Bytes::from_static(payload) };
        Entry { log_id: id(term, index), payload: Payload::Normal(command) }
    }

    fn members() -> Membership {
        let peer = |addr: &str| Peer { raft_addr: addr.into(), zone: "a".into(), meta: Bytes::from_static(b"m") };
        let nodes: BTreeMap<u64, Peer> = [(1, peer("x:1")), (2, peer("y:2"))].into();
        Membership::new(vec![[1].into(), [1, 2].into()], nodes).unwrap()
    }

    fn encoded(entry: &Entry) -> Bytes {
        let mut out = BytesMut::new();
        put_entry(&mut out, entry);
        out.freeze()
    }

    // Formats on disk do not change by accident: these bytes were written by version 1.
    #[test]
    fn golden_bytes() {
        let blank = Entry { log_id: id(2, 3), payload: Payload::Blank };
        let membership = Entry { log_id: id(1, 0), payload: Payload::Membership(members()) };
        let suspect = Entry { log_id: id(2, 5), payload: Payload::Normal(Command::Suspect(6)) };
        let stored = StoredMembership::new(Some(id(1, 0)), members());
        let cases: Vec<(&str, Bytes, &str)> = vec![
            ("blank", encoded(&blank), GOLDEN_BLANK),
            ("normal", encoded(&normal(2, 4, b"hi")), GOLDEN_NORMAL),
            ("membership", encoded(&membership), GOLDEN_MEMBERSHIP),
            ("suspect", encoded(&suspect), GOLDEN_SUSPECT),
            ("vote", vote_record(&Vote::new_committed(5, 6)), GOLDEN_VOTE),
            ("log id", log_id_record(Kind::LogId, &id(5, 6)), GOLDEN_LOG_ID),
            ("meta", meta_record(Some(&id(2, 4)), &stored), GOLDEN_META),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(hex(&bytes), want, "{name}");
        }
    }

    const GOLDEN_BLANK: &str = "b70101020000000000000003000000000000000018d64d78";
    const GOLDEN_NORMAL: &str = "b70101020000000000000004000000000000000107000000000000006869ec62af75";
    const GOLDEN_MEMBERSHIP: &str = "b701010100000000000000000000000000000002020000000100000001000000000000000200000001000000000000000200\
        00000000000002000000010000000000000003000000783a310100000061010000006d020000000000000003000000793a32\
        0100000061010000006d37bdc177";
    const GOLDEN_SUSPECT: &str = "b701010200000000000000050000000000000003060000000000000095b10616";
    const GOLDEN_VOTE: &str = "b702010500000000000000060000000000000001d48124f4";
    const GOLDEN_LOG_ID: &str = "b70301050000000000000006000000000000004efabf0a";
    const GOLDEN_META: &str = "b704010102000000000000000400000000000000010100000000000000000000000000000002000000010000000100000000\
        000000020000000100000000000000020000000000000002000000010000000000000003000000783a310100000061010000\
        006d020000000000000003000000793a320100000061010000006d5948f619";

    // What was written reads back equal.
    #[test]
    fn round_trips() {
        let suspect = Payload::Normal(Command::Suspect(7));
        for payload in [Payload::Blank, normal(1, 1, b"").payload, Payload::Membership(members()), suspect] {
            let written = Entry { log_id: id(9, 10), payload };
            assert_eq!(entry(encoded(&written)).unwrap(), written);
        }
        let uncommitted = Vote::new(3, 4);
        assert_eq!(vote(vote_record(&uncommitted)).unwrap(), uncommitted);
        let stored = StoredMembership::new(None, Membership::default());
        let read = meta(meta_record(None, &stored)).unwrap();
        assert_eq!((read.last_log_id, read.last_membership), (None, stored));
        assert_eq!(meta(Bytes::new()).unwrap(), SnapshotMeta::default());
    }

    // No single flipped bit, no cut and no foreign record passes.
    #[test]
    fn damage_is_noticed() {
        let whole = encoded(&normal(2, 4, b"some payload"));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(entry(bytes.into()).is_err(), "bit {bit}");
        }
        for cut in 0..whole.len() {
            assert!(entry(whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(entry(vote_record(&Vote::new(1, 1))).is_err());
        let mut newer = BytesMut::new();
        record(&mut newer, Kind::Entry, 2, |out| out.put_u64_le(1));
        assert_eq!(entry(newer.freeze()).unwrap_err().why, "its version is newer than this program");
    }
}
