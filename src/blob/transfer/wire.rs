//! The generated messages, and their translation to and from the room's own words. Nothing else knows the wire's forms.

use std::io;
use std::sync::Arc;

use prost::Message as _;
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::{ClusterId, NodeId, StoreId, UploadId};
use registry_core::vocabulary::limits::DETAIL_BYTES_MAX;
use tonic::{Code, Status};

use crate::blob::store::{BlobKey, Blocks, Pressure, StoreError};

use super::{Relayed, Staged, StoreHealth, TransferError, TransferResult, Verified};

#[allow(
    unused_qualifications,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; what it trips over changes"
)]
pub(super) mod proto {
    tonic::include_proto!("portolan.blob.v1");
}

/// Headers of every call: whose cluster, from whom, to whom. A stale address must not take or give another's bytes.
pub(super) const CLUSTER_HEADER: &str = "portolan-cluster";
pub(super) const FROM_HEADER: &str = "portolan-from";
pub(super) const TO_HEADER: &str = "portolan-to";

/// What every call names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) cluster: ClusterId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

impl Route {
    /// Writes the headers of a call.
    pub(super) fn stamp(&self, metadata: &mut tonic::metadata::MetadataMap) {
        let headers = [
            (CLUSTER_HEADER, self.cluster.to_string()),
            (FROM_HEADER, self.from.to_string()),
            (TO_HEADER, self.to.to_string()),
        ];
        for (name, value) in headers {
            // Hexadecimal text is always a legal value.
            if let Ok(value) = value.parse() {
                metadata.insert(name, value);
            }
        }
    }

    /// Reads the headers of a call.
    pub(super) fn read(metadata: &tonic::metadata::MetadataMap) -> Option<Route> {
        let text = |name| metadata.get(name)?.to_str().ok();
        Some(Route {
            cluster: ClusterId::parse(text(CLUSTER_HEADER)?)?,
            from: NodeId::parse(text(FROM_HEADER)?)?,
            to: NodeId::parse(text(TO_HEADER)?)?,
        })
    }
}

impl From<UploadId> for proto::UploadId {
    fn from(id: UploadId) -> proto::UploadId {
        // The halves of a u128: truncation is the point.
        proto::UploadId { tick: id.tick, random_high: (id.random >> 64) as u64, random_low: id.random as u64 }
    }
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("malformed {what}"))
}

/// Reads an upload id; it must be present.
pub(super) fn upload_id(id: Option<proto::UploadId>) -> Result<UploadId, Status> {
    let id = id.ok_or_else(|| malformed("upload id"))?;
    Ok(UploadId { tick: id.tick, random: (u128::from(id.random_high) << 64) | u128::from(id.random_low) })
}

/// Reads a digest.
pub(super) fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|_| malformed("digest"))
}

/// Reads which store and which blob.
pub(super) fn blob(request: proto::BlobRequest) -> Result<(StoreId, BlobKey), Status> {
    let key = BlobKey::new(digest(&request.digest)?, upload_id(request.generation)?);
    Ok((StoreId(request.store), key))
}

/// Writes which store and which blob.
pub(super) fn blob_request(store: StoreId, key: &BlobKey) -> proto::BlobRequest {
    proto::BlobRequest { store: store.0, digest: key.digest.to_string(), generation: Some(key.generation.into()) }
}

/// Writes what a copy was found to be.
pub(super) fn verify_reply(verified: Verified) -> proto::VerifyReply {
    use proto::verify_reply::State;
    let state = match verified {
        Verified::Good => State::Good,
        Verified::Bad => State::Bad,
        Verified::Missing => State::Missing,
    };
    proto::VerifyReply { state: state.into() }
}

/// Reads what a copy was found to be; `None` if it does not say.
pub(super) fn verified(reply: &proto::VerifyReply) -> Option<Verified> {
    use proto::verify_reply::State;
    match reply.state() {
        State::Good => Some(Verified::Good),
        State::Bad => Some(Verified::Bad),
        State::Missing => Some(Verified::Missing),
        State::Unspecified => None,
    }
}

/// Reads what is to be relayed.
pub(super) fn relayed(request: &proto::RelayRequest) -> Result<Relayed, Status> {
    let region = u16::try_from(request.region).map_err(|_| Status::invalid_argument("no number of a region"))?;
    let repository = RepositoryName::parse(&request.repository);
    let repository = repository.map_err(|_| Status::invalid_argument("no name of a repository"))?;
    Ok(Relayed { region, repository, digest: digest(&request.digest)?, offset: request.offset })
}

/// Writes what is to be relayed.
pub(super) fn relay_request(wanted: &Relayed) -> proto::RelayRequest {
    let Relayed { region, repository, digest, offset } = wanted;
    let (repository, digest) = (repository.to_string(), digest.to_string());
    proto::RelayRequest { region: (*region).into(), repository, digest, offset: *offset }
}

/// Reads an algorithm by its stored number.
pub(super) fn algorithm(number: u32) -> Result<Algorithm, Status> {
    match number {
        1 => Ok(Algorithm::Sha256),
        2 => Ok(Algorithm::Sha512),
        _ => Err(malformed("algorithm")),
    }
}

impl From<Staged> for proto::Staged {
    fn from(staged: Staged) -> proto::Staged {
        proto::Staged {
            store: staged.store.0,
            epoch: staged.epoch,
            offset: staged.offset,
            algorithm: staged.algorithm as u32,
            sealed: staged.sealed.map(|digest| digest.to_string()).unwrap_or_default(),
        }
    }
}

/// Reads what a holder staged.
pub(super) fn staged(node: NodeId, staged: proto::Staged) -> TransferResult<Staged> {
    let read = || -> Result<Staged, Status> {
        Ok(Staged {
            node,
            store: StoreId(staged.store),
            epoch: staged.epoch,
            offset: staged.offset,
            algorithm: algorithm(staged.algorithm)?,
            sealed: if staged.sealed.is_empty() { None } else { Some(digest(&staged.sealed)?) },
        })
    };
    read().map_err(|status| error_of(node, &status))
}

/// Writes how full a store is.
pub(super) fn store_usage(health: &StoreHealth) -> proto::StoreUsage {
    proto::StoreUsage {
        store: health.store.0,
        total_bytes: health.total_bytes,
        free_bytes: health.free_bytes,
        pressure: match health.pressure {
            Pressure::None => 0,
            Pressure::Full => 1,
            Pressure::Refuse => 2,
            Pressure::Urgent => 3,
        },
        failed: health.is_failed,
    }
}

/// Reads how full a store is.
pub(super) fn store_health(usage: &proto::StoreUsage) -> StoreHealth {
    StoreHealth {
        store: StoreId(usage.store),
        total_bytes: usage.total_bytes,
        free_bytes: usage.free_bytes,
        pressure: match usage.pressure {
            0 => Pressure::None,
            1 => Pressure::Full,
            2 => Pressure::Refuse,
            _ => Pressure::Urgent,
        },
        is_failed: usage.failed,
    }
}

/// Writes blocks with their sums.
pub(super) fn blocks_reply(blocks: Blocks) -> proto::BlocksReply {
    proto::BlocksReply { offset: blocks.offset, bytes: blocks.bytes, sums: blocks.sums }
}

/// Reads blocks with their sums; they are not checked yet.
pub(super) fn blocks(reply: proto::BlocksReply) -> Blocks {
    Blocks { offset: reply.offset, bytes: reply.bytes, sums: reply.sums }
}

// Kinds of `Failure`; append only.
const UPLOAD_UNKNOWN: u32 = 1;
const BUSY: u32 = 2;
const FENCED: u32 = 3;
const SEALED: u32 = 4;
const NOT_SEALED: u32 = 5;
const OFFSET_MISMATCH: u32 = 6;
const DIGEST_MISMATCH: u32 = 7;
const SIZE_MISMATCH: u32 = 8;
const TOO_LARGE: u32 = 9;
const EXISTS: u32 = 10;
const NOT_FOUND: u32 = 11;
const OUT_OF_RANGE: u32 = 12;
const DAMAGED: u32 = 13;
const FULL: u32 = 14;
const NO_SPACE: u32 = 15;
const TOO_MANY_UPLOADS: u32 = 16;
const VOLUME_FAILED: u32 = 17;
const IO: u32 = 18;
const UNAVAILABLE: u32 = 19;
const UNREACHABLE: u32 = 32;
const NODE_UNKNOWN: u32 = 33;
const STORE_UNKNOWN: u32 = 34;
const REJECTED: u32 = 35;
const OVERLOADED: u32 = 36;
const EPOCH_UNKNOWN: u32 = 37;
const BODY: u32 = 38;
const SHARE_USED_UP: u32 = 39;

/// Writes an error for the wire.
pub(super) fn failure(error: &TransferError) -> proto::Failure {
    let fill = |kind, node: NodeId, number, text: &str| proto::Failure {
        kind,
        node: node.0,
        number,
        second_number: 0,
        text: clip(text),
    };
    match error {
        TransferError::Store { node, error } => proto::Failure { node: node.0, ..store_failure(error) },
        TransferError::Unreachable { node, detail } => fill(UNREACHABLE, *node, 0, detail),
        TransferError::NodeUnknown(node) => fill(NODE_UNKNOWN, *node, 0, ""),
        TransferError::StoreUnknown(store) => fill(STORE_UNKNOWN, NodeId(0), store.0, ""),
        TransferError::Rejected { node, detail } => fill(REJECTED, *node, 0, detail),
        TransferError::Overloaded { node } => fill(OVERLOADED, *node, 0, ""),
        TransferError::ShareUsedUp { node } => fill(SHARE_USED_UP, *node, 0, ""),
        TransferError::EpochUnknown { node } => fill(EPOCH_UNKNOWN, *node, 0, ""),
        TransferError::Body { error, offset } => fill(BODY, NodeId(0), offset.unwrap_or(0), &error.to_string()),
        // Decided by the node that the client talks to, never by a holder.
        TransferError::NoPair(error) => fill(REJECTED, NodeId(0), 0, &error.to_string()),
        TransferError::NoCopy { .. } => fill(REJECTED, NodeId(0), 0, &error.to_string()),
    }
}

fn store_failure(error: &StoreError) -> proto::Failure {
    let fill =
        |kind, number, second_number, text: String| proto::Failure { kind, number, second_number, text, node: 0 };
    let plain = |kind| fill(kind, 0, 0, String::new());
    match error {
        StoreError::UploadUnknown => plain(UPLOAD_UNKNOWN),
        StoreError::Busy => plain(BUSY),
        StoreError::Fenced { current } => fill(FENCED, *current, 0, String::new()),
        StoreError::Sealed => plain(SEALED),
        StoreError::NotSealed => plain(NOT_SEALED),
        StoreError::OffsetMismatch { expected } => fill(OFFSET_MISMATCH, *expected, 0, String::new()),
        StoreError::DigestMismatch { actual } => fill(DIGEST_MISMATCH, 0, 0, actual.to_string()),
        StoreError::SizeMismatch { expected, actual } => fill(SIZE_MISMATCH, *expected, *actual, String::new()),
        StoreError::TooLarge { max } => fill(TOO_LARGE, *max, 0, String::new()),
        StoreError::Exists => plain(EXISTS),
        StoreError::NotFound => plain(NOT_FOUND),
        StoreError::OutOfRange { size_bytes } => fill(OUT_OF_RANGE, *size_bytes, 0, String::new()),
        StoreError::Damaged { key, offset, .. } => fill(DAMAGED, *offset, 0, key.file_name()),
        StoreError::Full { used_percent, limit_percent } => {
            fill(FULL, u64::from(*used_percent), u64::from(*limit_percent), String::new())
        }
        StoreError::NoSpace => plain(NO_SPACE),
        StoreError::TooManyUploads { max } => fill(TOO_MANY_UPLOADS, *max as u64, 0, String::new()),
        StoreError::VolumeFailed { reason } => fill(VOLUME_FAILED, 0, 0, clip(reason)),
        StoreError::Io { .. } => fill(IO, 0, 0, clip(&error.to_string())),
        StoreError::Unavailable { .. } => fill(UNAVAILABLE, 0, 0, clip(&error.to_string())),
    }
}

/// Reads an error that `node` sent; `None` for a kind that this version does not know.
pub(super) fn error_of_failure(node: NodeId, failure: &proto::Failure) -> Option<TransferError> {
    let said_by = if failure.node == 0 { node } else { NodeId(failure.node) };
    let detail = || Arc::from(failure.text.as_str());
    Some(match failure.kind {
        UNREACHABLE => TransferError::Unreachable { node: said_by, detail: detail() },
        NODE_UNKNOWN => TransferError::NodeUnknown(said_by),
        STORE_UNKNOWN => TransferError::StoreUnknown(StoreId(failure.number)),
        REJECTED => TransferError::Rejected { node: said_by, detail: detail() },
        OVERLOADED => TransferError::Overloaded { node: said_by },
        SHARE_USED_UP => TransferError::ShareUsedUp { node: said_by },
        EPOCH_UNKNOWN => TransferError::EpochUnknown { node: said_by },
        BODY => {
            TransferError::Body { error: super::BodyError::new(failure.text.as_str()), offset: Some(failure.number) }
        }
        _ => TransferError::Store { node: said_by, error: store_error(failure)? },
    })
}

fn store_error(failure: &proto::Failure) -> Option<StoreError> {
    let (number, text) = (failure.number, failure.text.as_str());
    Some(match failure.kind {
        UPLOAD_UNKNOWN => StoreError::UploadUnknown,
        BUSY => StoreError::Busy,
        FENCED => StoreError::Fenced { current: number },
        SEALED => StoreError::Sealed,
        NOT_SEALED => StoreError::NotSealed,
        OFFSET_MISMATCH => StoreError::OffsetMismatch { expected: number },
        DIGEST_MISMATCH => StoreError::DigestMismatch { actual: Digest::parse(text).ok()? },
        SIZE_MISMATCH => StoreError::SizeMismatch { expected: number, actual: failure.second_number },
        TOO_LARGE => StoreError::TooLarge { max: number },
        EXISTS => StoreError::Exists,
        NOT_FOUND => StoreError::NotFound,
        OUT_OF_RANGE => StoreError::OutOfRange { size_bytes: number },
        DAMAGED => StoreError::Damaged {
            key: Box::new(BlobKey::parse_file_name(text)?),
            offset: number,
            detail: "found by the node that holds it",
        },
        FULL => StoreError::Full {
            used_percent: u8::try_from(number).ok()?,
            limit_percent: u8::try_from(failure.second_number).ok()?,
        },
        NO_SPACE => StoreError::NoSpace,
        TOO_MANY_UPLOADS => StoreError::TooManyUploads { max: usize::try_from(number).ok()? },
        VOLUME_FAILED => StoreError::VolumeFailed { reason: text.into() },
        IO => StoreError::Io { what: "on another node".into(), source: Arc::new(io::Error::other(text.to_owned())) },
        UNAVAILABLE => StoreError::Unavailable { what: "on another node".into(), detail: text.into() },
        _ => return None,
    })
}

/// Wraps an error into the status of a call.
pub(super) fn status_of(error: &TransferError) -> Status {
    let failure = failure(error);
    let code = match error {
        TransferError::Overloaded { .. } | TransferError::ShareUsedUp { .. } => Code::ResourceExhausted,
        TransferError::Unreachable { .. } | TransferError::EpochUnknown { .. } => Code::Unavailable,
        TransferError::Rejected { .. } => Code::PermissionDenied,
        TransferError::Store { .. }
        | TransferError::NodeUnknown(_)
        | TransferError::StoreUnknown(_)
        | TransferError::NoPair(_)
        | TransferError::NoCopy { .. }
        | TransferError::Body { .. } => Code::FailedPrecondition,
    };
    Status::with_details(code, clip(&error.to_string()), failure.encode_to_vec().into())
}

/// Reads the status of a call to `node`. Without our details it comes from the transport: the node is out of reach.
pub(super) fn error_of(node: NodeId, status: &Status) -> TransferError {
    let told = proto::Failure::decode(status.details()).ok().filter(|failure| failure.kind != 0);
    if let Some(error) = told.and_then(|failure| error_of_failure(node, &failure)) {
        return error;
    }
    let detail: Arc<str> = clip(&describe(status)).into();
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange | Code::PermissionDenied => {
            TransferError::Rejected { node, detail }
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => TransferError::Unreachable { node, detail },
    }
}

/// The status and what caused it: the transport's own message names no address and no reason.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn clip(text: &str) -> String {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every error that a holder can answer arrives as itself.
    #[test]
    fn errors_cross_the_wire() {
        let key = BlobKey::new(Digest::sha256(b"x"), UploadId { tick: 1, random: 2 });
        let store_errors = [
            StoreError::UploadUnknown,
            StoreError::Busy,
            StoreError::Fenced { current: 7 },
            StoreError::Sealed,
            StoreError::NotSealed,
            StoreError::OffsetMismatch { expected: 1 << 40 },
            StoreError::DigestMismatch { actual: key.digest },
            StoreError::SizeMismatch { expected: 1, actual: 2 },
            StoreError::TooLarge { max: 9 },
            StoreError::Exists,
            StoreError::NotFound,
            StoreError::OutOfRange { size_bytes: 3 },
            StoreError::Full { used_percent: 93, limit_percent: 92 },
            StoreError::NoSpace,
            StoreError::TooManyUploads { max: 5 },
            StoreError::VolumeFailed { reason: "sync failed".into() },
        ];
        let node = NodeId(5);
        let mut errors: Vec<_> = store_errors.into_iter().map(|error| TransferError::Store { node, error }).collect();
        errors.extend([
            TransferError::Unreachable { node, detail: "gone".into() },
            TransferError::NodeUnknown(node),
            TransferError::StoreUnknown(StoreId(3)),
            TransferError::Rejected { node, detail: "who?".into() },
            TransferError::Overloaded { node },
            TransferError::ShareUsedUp { node },
            TransferError::EpochUnknown { node },
        ]);
        for error in errors {
            let back = error_of(NodeId(1), &status_of(&error));
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
        let damaged = StoreError::Damaged { key: Box::new(key), offset: 65_536, detail: "sum" };
        let back = error_of(node, &status_of(&TransferError::Store { node, error: damaged }));
        assert!(
            matches!(back.store_error(), Some(StoreError::Damaged { key: k, offset: 65_536, .. }) if **k == key),
            "{back:?}"
        );
    }

    // A status that no holder made is the transport's: the node is out of reach; nonsense is a refusal.
    #[test]
    fn foreign_statuses() {
        let node = NodeId(5);
        assert!(matches!(error_of(node, &Status::unavailable("x")), TransferError::Unreachable { .. }));
        assert!(matches!(error_of(node, &Status::internal("h2")), TransferError::Unreachable { .. }));
        assert!(matches!(error_of(node, &Status::unimplemented("x")), TransferError::Rejected { .. }));
        let garbage = Status::with_details(Code::Unavailable, "x", vec![255; 9].into());
        assert!(matches!(error_of(node, &garbage), TransferError::Unreachable { .. }));
    }

    // The halves of an upload id join to the same id.
    #[test]
    fn upload_ids() {
        let id = UploadId { tick: 9, random: u128::MAX - (1 << 70) };
        assert_eq!(upload_id(Some(id.into())).unwrap(), id);
        assert!(upload_id(None).is_err());
    }
}
