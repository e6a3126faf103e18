//! Bodies of the frames: questions and answers of consensus, in our own encoding.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::alias::LogIdOf;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::codec::{self, CodecError, Reader, put_blob, put_log_id, put_log_id_option, put_peer, put_vote};
use crate::identity::Heard;
use crate::snapshot::{Manifest, ManifestFile};
use crate::suspect::{Reception, Report};
use crate::types::{Member, Position, Types, Vote};

/// What the body of a frame is. Numbers never change their meaning.
pub(crate) mod kind {
    pub(crate) const VOTE: u32 = 1;
    pub(crate) const PRE_VOTE: u32 = 2;
    pub(crate) const APPEND: u32 = 3;
    pub(crate) const TRANSFER: u32 = 4;
    pub(crate) const HELLO: u32 = 5;
    pub(crate) const PROPOSE: u32 = 6;
    pub(crate) const READ_INDEX: u32 = 7;
    pub(crate) const CHANGE: u32 = 8;
    pub(crate) const SNAPSHOT_OFFER: u32 = 9;
    pub(crate) const SNAPSHOT_CHUNK: u32 = 10;
    pub(crate) const SNAPSHOT_END: u32 = 11;
    pub(crate) const JOIN: u32 = 12;
    pub(crate) const SUSPECT: u32 = 13;
    pub(crate) const LOST: u32 = 14;
    pub(crate) const STATE_OFFER: u32 = 15;
    pub(crate) const STATE_READ: u32 = 16;
}

fn write(body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    body(&mut out);
    out.freeze()
}

/// Reads a whole body.
pub(crate) fn read<T>(bytes: Bytes, body: impl FnOnce(&mut Reader) -> Result<T, CodecError>) -> Result<T, CodecError> {
    let mut reader = Reader::new(bytes, "message");
    let value = body(&mut reader)?;
    reader.end()?;
    Ok(value)
}

pub(crate) fn vote_request(request: &VoteRequest<Types>) -> Bytes {
    write(|out| {
        put_vote(out, &request.vote);
        put_log_id_option(out, request.last_log_id.as_ref());
        out.put_u8(u8::from(request.leadership_transfer));
    })
}

pub(crate) fn read_vote_request(bytes: Bytes) -> Result<VoteRequest<Types>, CodecError> {
    read(bytes, |from| {
        let mut request = VoteRequest::new(from.vote()?, from.log_id_option()?);
        request.leadership_transfer = from.bool()?;
        Ok(request)
    })
}

pub(crate) fn vote_response(response: &VoteResponse<Types>) -> Bytes {
    write(|out| {
        put_vote(out, &response.vote);
        put_log_id_option(out, response.last_log_id.as_ref());
        out.put_u8(u8::from(response.vote_granted));
    })
}

pub(crate) fn read_vote_response(bytes: Bytes) -> Result<VoteResponse<Types>, CodecError> {
    read(bytes, |from| {
        let (vote, last_log_id) = (from.vote()?, from.log_id_option()?);
        Ok(VoteResponse { vote, last_log_id, vote_granted: from.bool()? })
    })
}

pub(crate) fn append_request(request: &AppendEntriesRequest<Types>) -> Bytes {
    let size: usize = request.entries.iter().map(|entry| codec::entry_size(entry) + 4).sum();
    let mut out = BytesMut::with_capacity(size + 64);
    put_vote(&mut out, &request.vote);
    put_log_id_option(&mut out, request.prev_log_id.as_ref());
    put_log_id_option(&mut out, request.leader_commit.as_ref());
    out.put_u32_le(u32::try_from(request.entries.len()).expect("bounded by the settings"));
    for entry in &request.entries {
        let start = out.len();
        out.put_u32_le(0);
        codec::put_entry(&mut out, entry);
        let length = u32::try_from(out.len() - start - 4).expect("bounded far below 4 GiB");
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    out.freeze()
}

pub(crate) fn read_append_request(bytes: Bytes) -> Result<AppendEntriesRequest<Types>, CodecError> {
    read(bytes, |from| {
        let (vote, prev_log_id, leader_commit) = (from.vote()?, from.log_id_option()?, from.log_id_option()?);
        let entries = (0..from.count()?).map(|_| codec::entry(from.blob()?)).collect::<Result<_, _>>()?;
        Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
    })
}

pub(crate) fn append_response(response: &AppendEntriesResponse<Types>) -> Bytes {
    write(|out| match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(matching) => {
            out.put_u8(1);
            put_log_id_option(out, matching.as_ref());
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(out, vote);
        }
    })
}

pub(crate) fn read_append_response(bytes: Bytes) -> Result<AppendEntriesResponse<Types>, CodecError> {
    read(bytes, |from| match from.u8()? {
        0 => Ok(AppendEntriesResponse::Success),
        1 => Ok(AppendEntriesResponse::PartialSuccess(from.log_id_option()?)),
        2 => Ok(AppendEntriesResponse::Conflict),
        3 => Ok(AppendEntriesResponse::HigherVote(from.vote()?)),
        _ => Err(from.error("an unknown answer to an append")),
    })
}

pub(crate) fn stream_result(result: &StreamAppendResult<Types>) -> Bytes {
    write(|out| match result {
        Ok(matching) => {
            out.put_u8(0);
            put_log_id_option(out, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(1);
            put_log_id(out, at);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(out, vote);
        }
    })
}

pub(crate) fn read_stream_result(bytes: Bytes) -> Result<StreamAppendResult<Types>, CodecError> {
    read(bytes, |from| {
        Ok(match from.u8()? {
            0 => Ok(from.log_id_option()?),
            1 => Err(StreamAppendError::Conflict(from.log_id()?)),
            2 => Err(StreamAppendError::HigherVote(from.vote()?)),
            _ => return Err(from.error("an unknown answer to an append")),
        })
    })
}

pub(crate) fn transfer_request(request: &TransferLeaderRequest<Types>) -> Bytes {
    write(|out| {
        put_vote(out, request.from_leader());
        out.put_u64_le(*request.to_node_id());
        put_log_id_option(out, request.last_log_id());
    })
}

pub(crate) fn read_transfer_request(bytes: Bytes) -> Result<TransferLeaderRequest<Types>, CodecError> {
    read(bytes, |from| Ok(TransferLeaderRequest::new(from.vote()?, from.u64()?, from.log_id_option()?)))
}

pub(crate) fn transfer_response(response: &TransferLeaderResponse<Types>) -> Bytes {
    write(|out| match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(out, expected);
            put_vote(out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_log_id_option(out, expected.as_ref());
            put_log_id_option(out, actual.as_ref());
        }
    })
}

pub(crate) fn read_transfer_response(bytes: Bytes) -> Result<TransferLeaderResponse<Types>, CodecError> {
    read(bytes, |from| {
        Ok(match from.u8()? {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged { expected: from.vote()?, actual: from.vote()? }),
            2 => {
                let (expected, actual): (Option<LogIdOf<Types>>, _) = (from.log_id_option()?, from.log_id_option()?);
                Err(TransferLeaderError::LogNotFlushed { expected, actual })
            }
            _ => return Err(from.error("an unknown answer to a transfer")),
        })
    })
}

/// Proposals that one node forwards to the leader together.
pub(crate) fn proposals<'a>(payloads: impl ExactSizeIterator<Item = &'a Bytes>) -> Bytes {
    write(|out| {
        out.put_u32_le(u32::try_from(payloads.len()).expect("bounded by the forwarder"));
        payloads.for_each(|payload| put_blob(out, payload));
    })
}

pub(crate) fn read_proposals(bytes: Bytes) -> Result<Vec<Bytes>, CodecError> {
    read(bytes, |from| (0..from.count()?).map(|_| from.blob()).collect())
}

/// What became of one forwarded proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the log at that index, applied, with that reply.
    Applied { index: u64, reply: Bytes },
    /// Certainly not applied: whoever was asked does not lead, or takes no proposals now.
    Refused,
    /// It may be applied, now or later.
    Unknown,
}

pub(crate) fn outcomes(outcomes: &[Outcome]) -> Bytes {
    write(|out| {
        out.put_u32_le(u32::try_from(outcomes.len()).expect("bounded by the forwarder"));
        for outcome in outcomes {
            match outcome {
                Outcome::Applied { index, reply } => {
                    out.put_u8(0);
                    out.put_u64_le(*index);
                    put_blob(out, reply);
                }
                Outcome::Refused => out.put_u8(1),
                Outcome::Unknown => out.put_u8(2),
            }
        }
    })
}

pub(crate) fn read_outcomes(bytes: Bytes) -> Result<Vec<Outcome>, CodecError> {
    read(bytes, |from| {
        let outcome = |from: &mut Reader| match from.u8()? {
            0 => Ok(Outcome::Applied { index: from.u64()?, reply: from.blob()? }),
            1 => Ok(Outcome::Refused),
            2 => Ok(Outcome::Unknown),
            _ => Err(from.error("an unknown outcome")),
        };
        (0..from.count()?).map(|_| outcome(from)).collect()
    })
}

/// A change of the members, for the leader to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner(Member),
    Voters(Vec<u64>),
    Remove(u64),
    Transfer(u64),
}

pub(crate) fn change(change: &Change) -> Bytes {
    write(|out| match change {
        Change::AddLearner(member) => {
            out.put_u8(0);
            let (node_id, peer) = member.clone().split();
            out.put_u64_le(node_id);
            put_peer(out, &peer);
        }
        Change::Voters(ids) => {
            out.put_u8(1);
            out.put_u32_le(u32::try_from(ids.len()).expect("few"));
            ids.iter().for_each(|id| out.put_u64_le(*id));
        }
        Change::Remove(id) => {
            out.put_u8(2);
            out.put_u64_le(*id);
        }
        Change::Transfer(id) => {
            out.put_u8(3);
            out.put_u64_le(*id);
        }
    })
}

pub(crate) fn read_change(bytes: Bytes) -> Result<Change, CodecError> {
    read(bytes, |from| match from.u8()? {
        0 => {
            let node_id = from.u64()?;
            Ok(Change::AddLearner(Member::join(node_id, &from.peer()?)))
        }
        1 => Ok(Change::Voters((0..from.count()?).map(|_| from.u64()).collect::<Result<_, _>>()?)),
        2 => Ok(Change::Remove(from.u64()?)),
        3 => Ok(Change::Transfer(from.u64()?)),
        _ => Err(from.error("an unknown change")),
    })
}

/// A node asks to be added, and says whether its log is empty.
pub(crate) fn join(me: &Member, is_empty: bool) -> Bytes {
    write(|out| {
        let (node_id, peer) = me.clone().split();
        out.put_u64_le(node_id);
        put_peer(out, &peer);
        out.put_u8(u8::from(is_empty));
    })
}

pub(crate) fn read_join(bytes: Bytes) -> Result<(Member, bool), CodecError> {
    read(bytes, |from| {
        let node_id = from.u64()?;
        Ok((Member::join(node_id, &from.peer()?), from.bool()?))
    })
}

/// The answer to a hello: what is remembered, if that is more than the caller knows of itself.
pub(crate) fn greeting(more: Option<&Heard>) -> Bytes {
    write(|out| {
        out.put_u8(u8::from(more.is_some()));
        if let Some(more) = more {
            more.put(out);
        }
    })
}

pub(crate) fn read_greeting(bytes: Bytes) -> Result<Option<Heard>, CodecError> {
    read(bytes, |from| if from.bool()? { Heard::take(from).map(Some) } else { Ok(None) })
}

/// A suspect node says what it has left, and where a leader has recorded it, if one has.
pub(crate) fn report(report: &Report) -> Bytes {
    write(|out| {
        report.left.put(out);
        put_log_id_option(out, report.recorded.map(Into::into).as_ref());
    })
}

pub(crate) fn read_report(bytes: Bytes) -> Result<Report, CodecError> {
    read(bytes, |from| Ok(Report { left: Heard::take(from)?, recorded: from.log_id_option()?.map(Position::from) }))
}

/// The answer to a report.
pub(crate) fn reception(reception: &Reception) -> Bytes {
    write(|out| {
        put_log_id_option(out, reception.recorded.map(Into::into).as_ref());
        reception.known.put(out);
        out.put_u8(u8::from(reception.is_suspect));
        put_log_id_option(out, reception.last.map(Into::into).as_ref());
    })
}

pub(crate) fn read_reception(bytes: Bytes) -> Result<Reception, CodecError> {
    read(bytes, |from| {
        Ok(Reception {
            recorded: from.log_id_option()?.map(Position::from),
            known: Heard::take(from)?,
            is_suspect: from.bool()?,
            last: from.log_id_option()?.map(Position::from),
        })
    })
}

/// How a change ended, when it could be asked for at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Done,
    NotLeader,
    Unknown,
    Rejected(String),
    /// The cluster is in this life of its log: the caller, who belongs to nothing yet, shall ask again in it.
    Lineage(u64),
}

pub(crate) fn changed(changed: &Changed) -> Bytes {
    write(|out| match changed {
        Changed::Done => out.put_u8(0),
        Changed::NotLeader => out.put_u8(1),
        Changed::Unknown => out.put_u8(2),
        Changed::Rejected(why) => {
            out.put_u8(3);
            put_blob(out, why.as_bytes());
        }
        Changed::Lineage(lineage) => {
            out.put_u8(4);
            out.put_u64_le(*lineage);
        }
    })
}

pub(crate) fn read_changed(bytes: Bytes) -> Result<Changed, CodecError> {
    read(bytes, |from| match from.u8()? {
        0 => Ok(Changed::Done),
        1 => Ok(Changed::NotLeader),
        2 => Ok(Changed::Unknown),
        3 => Ok(Changed::Rejected(from.text()?)),
        4 => Ok(Changed::Lineage(from.u64()?)),
        _ => Err(from.error("an unknown answer to a change")),
    })
}

/// A snapshot that a leader offers to send.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) vote: Vote,
    pub(crate) meta_bytes: Bytes,
    pub(crate) manifest: Manifest,
}

pub(crate) fn offer(vote: &Vote, meta_bytes: &Bytes, manifest: &Manifest) -> Bytes {
    write(|out| {
        put_vote(out, vote);
        put_blob(out, meta_bytes);
        out.put_u32_le(u32::try_from(manifest.files.len()).expect("few"));
        for file in &manifest.files {
            put_blob(out, file.path.as_bytes());
            out.put_u64_le(file.size_bytes);
            out.put_slice(&file.sha256);
        }
    })
}

pub(crate) fn read_offer(bytes: Bytes) -> Result<Offer, CodecError> {
    read(bytes, |from| {
        let (vote, meta_bytes) = (from.vote()?, from.blob()?);
        let file = |from: &mut Reader| {
            let (path, size_bytes) = (from.text()?, from.u64()?);
            let mut sha256 = [0; 32];
            sha256.copy_from_slice(&from.take(32)?);
            Ok(ManifestFile { path, size_bytes, sha256 })
        };
        let files = (0..from.count()?).map(|_| file(from)).collect::<Result<_, _>>()?;
        Ok(Offer { vote, meta_bytes, manifest: Manifest { files } })
    })
}

/// A node without a state asks for a copy of one at this position or later.
pub(crate) fn beyond(position: Option<Position>) -> Bytes {
    write(|out| put_log_id_option(out, position.map(Into::into).as_ref()))
}

pub(crate) fn read_beyond(bytes: Bytes) -> Result<Option<Position>, CodecError> {
    read(bytes, |from| Ok(from.log_id_option()?.map(Position::from)))
}

/// The answer to that: an offer, or nothing of a node whose own state is older.
pub(crate) fn read_state_offer(bytes: Bytes) -> Result<Option<Offer>, CodecError> {
    if bytes.is_empty() { Ok(None) } else { read_offer(bytes).map(Some) }
}

/// A piece of a file that a node without a state reads from a copy it was lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: [u8; 32],
    pub(crate) file: u32,
    pub(crate) offset: u64,
}

pub(crate) fn piece(piece: &Piece) -> Bytes {
    write(|out| {
        out.put_slice(&piece.id);
        out.put_u32_le(piece.file);
        out.put_u64_le(piece.offset);
    })
}

pub(crate) fn read_piece(bytes: Bytes) -> Result<Piece, CodecError> {
    read(bytes, |from| {
        let mut id = [0; 32];
        id.copy_from_slice(&from.take(32)?);
        Ok(Piece { id, file: from.u32()?, offset: from.u64()? })
    })
}

/// The answer to an offer: which files are still wanted, by their place in the manifest.
pub(crate) fn wanted(id: &[u8; 32], files: &[u32]) -> Bytes {
    write(|out| {
        out.put_slice(id);
        out.put_u32_le(u32::try_from(files.len()).expect("few"));
        files.iter().for_each(|file| out.put_u32_le(*file));
    })
}

pub(crate) fn read_wanted(bytes: Bytes) -> Result<([u8; 32], Vec<u32>), CodecError> {
    read(bytes, |from| {
        let mut id = [0; 32];
        id.copy_from_slice(&from.take(32)?);
        Ok((id, (0..from.count()?).map(|_| from.u32()).collect::<Result<_, _>>()?))
    })
}

/// A piece of a snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

pub(crate) fn chunk(id: &[u8; 32], chunk: &Chunk) -> Bytes {
    let mut out = BytesMut::with_capacity(chunk.bytes.len() + 64);
    out.put_slice(id);
    out.put_u32_le(chunk.file);
    out.put_u64_le(chunk.offset);
    out.put_u32_le(crc32c::crc32c(&chunk.bytes));
    out.put_slice(&chunk.bytes);
    out.freeze()
}

pub(crate) fn read_chunk(bytes: Bytes) -> Result<([u8; 32], Chunk), CodecError> {
    let mut from = Reader::new(bytes, "snapshot chunk");
    let mut id = [0; 32];
    id.copy_from_slice(&from.take(32)?);
    let (file, offset, sum) = (from.u32()?, from.u64()?, from.u32()?);
    let bytes = from.rest();
    if crc32c::crc32c(&bytes) != sum {
        return Err(Reader::new(Bytes::new(), "snapshot chunk").error("its checksum does not match"));
    }
    Ok((id, Chunk { file, offset, bytes }))
}

pub(crate) fn vote_body(vote: &Vote) -> Bytes {
    write(|out| put_vote(out, vote))
}

pub(crate) fn read_vote_body(bytes: Bytes) -> Result<Vote, CodecError> {
    read(bytes, Reader::vote)
}

/// An index, or none for want of leadership.
pub(crate) fn index(index: Option<u64>) -> Bytes {
    write(|out| {
        out.put_u8(u8::from(index.is_some()));
        out.put_u64_le(index.unwrap_or(0));
    })
}

pub(crate) fn read_index(bytes: Bytes) -> Result<Option<u64>, CodecError> {
    read(bytes, |from| {
        let some = from.bool()?;
        let index = from.u64()?;
        Ok(some.then_some(index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::normal;

    // Every message reads back as it was written, and no cut message is taken for a whole one.
    #[test]
    fn round_trips() {
        let id = |term, index| Position { term, index }.into();
        let append = AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(3, 1),
            prev_log_id: Some(id(2, 9)),
            entries: vec![normal(3, 10, b"a"), normal(3, 11, b"")],
            leader_commit: None,
        };
        let bytes = append_request(&append);
        let read = read_append_request(bytes.clone()).unwrap();
        assert_eq!((read.vote, read.prev_log_id, read.entries), (append.vote, append.prev_log_id, append.entries));
        for cut in 0..bytes.len() {
            assert!(read_append_request(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
        for result in [
            Ok(None),
            Ok(Some(id(1, 2))),
            Err(StreamAppendError::Conflict(id(1, 2))),
            Err(StreamAppendError::HigherVote(Vote::new(9, 9))),
        ] {
            assert_eq!(read_stream_result(stream_result(&result)).unwrap(), result);
        }
        let found =
            vec![Outcome::Applied { index: 4, reply: Bytes::from_static(b"r") }, Outcome::Refused, Outcome::Unknown];
        assert_eq!(read_outcomes(outcomes(&found)).unwrap(), found);
        let member = Member { node_id: 4, raft_addr: "h:1".into(), zone: "z".into(), meta: Bytes::from_static(b"m") };
        let joiner = member.clone();
        for asked in [Change::AddLearner(member), Change::Voters(vec![1, 2]), Change::Remove(3), Change::Transfer(4)] {
            assert_eq!(read_change(change(&asked)).unwrap(), asked);
        }
        assert_eq!(read_join(join(&joiner, true)).unwrap(), (joiner, true));
        let (left, at) = (Heard { start: 3, term: 2, last: None }, Some(Position { term: 2, index: 8 }));
        for recorded in [None, at] {
            let told = Report { left, recorded };
            assert_eq!(read_report(report(&told)).unwrap(), told);
            let answer = Reception { recorded, known: left, is_suspect: recorded.is_none(), last: at };
            assert_eq!(read_reception(reception(&answer)).unwrap(), answer);
        }
        let wanted = Piece { id: [3; 32], file: 4, offset: 5 };
        assert_eq!(read_piece(piece(&wanted)).unwrap(), wanted);
        assert_eq!(read_beyond(beyond(at)).unwrap(), at);
        for more in [None, Some(left)] {
            assert_eq!(read_greeting(greeting(more.as_ref())).unwrap(), more);
        }
        for index in [None, Some(7)] {
            assert_eq!(read_index(super::index(index)).unwrap(), index);
        }
    }

    // A damaged piece of a snapshot is not written.
    #[test]
    fn chunks_are_checked() {
        let sent = Chunk { file: 1, offset: 2, bytes: Bytes::from_static(b"data") };
        let bytes = chunk(&[7; 32], &sent);
        assert_eq!(read_chunk(bytes.clone()).unwrap(), ([7; 32], sent));
        let mut damaged = bytes.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(read_chunk(damaged.into()).is_err());
    }
}
