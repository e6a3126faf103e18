//! What can go wrong, by remedy.

use std::io;
use std::sync::Arc;

use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::ids::{ClusterId, StoreId};

use super::BlobKey;

/// Why a store did not do what it was asked. Unless a variant says otherwise, nothing changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No such staging here: it was never begun, discarded, expired or placed.
    #[error("this upload is not staged here")]
    UploadUnknown,
    /// Another writer, seal or import works on it now. Retry later.
    #[error("the upload or blob is being written by someone else")]
    Busy,
    /// A higher epoch was noted: the caller lost its right to write.
    #[error("the upload was taken over under epoch {current}")]
    Fenced {
        /// The epoch in force.
        current: u64,
    },
    /// The upload takes no more bytes.
    #[error("the upload is sealed")]
    Sealed,
    /// The upload must be sealed first.
    #[error("the upload is not sealed")]
    NotSealed,
    /// The offset is not where the staging ends.
    #[error("the staged bytes end at offset {expected}")]
    OffsetMismatch {
        /// Where the next byte belongs.
        expected: u64,
    },
    /// The bytes hash to something else. Staged bytes are freed, unless the upload was sealed with this digest before.
    #[error("the bytes hash to {actual}")]
    DigestMismatch {
        /// What they hash to.
        actual: Digest,
    },
    /// An import had fewer bytes than announced.
    #[error("expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// Announced.
        expected: u64,
        /// Received.
        actual: u64,
    },
    /// More bytes than the call takes.
    #[error("at most {max} bytes are taken here")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The blob is here already.
    #[error("the blob is already stored")]
    Exists,
    /// The blob isn't here (never was, removed, or quarantined).
    #[error("the blob is not stored here")]
    NotFound,
    /// The range begins at or behind the end.
    #[error("the blob has {size_bytes} bytes")]
    OutOfRange {
        /// The blob's size.
        size_bytes: u64,
    },
    /// Stored bytes are not what was written. Go on with another replica from `offset`, quarantine this one, repair.
    #[error("stored bytes of {key} are damaged at offset {offset}: {detail}")]
    Damaged {
        /// Which blob.
        key: Box<BlobKey>,
        /// Start of the first bad block.
        offset: u64,
        /// What was seen.
        detail: &'static str,
    },
    /// Above a watermark: free space first. Reads, removes and discards go on.
    #[error("the blob volume is {used_percent} % full; new bytes are refused from {limit_percent} %")]
    Full {
        /// How full it is.
        used_percent: u8,
        /// The watermark.
        limit_percent: u8,
    },
    /// The file system had no room for these bytes; what was there before is untouched.
    #[error("no space left on the blob volume")]
    NoSpace,
    /// As many uploads are staged as the store takes.
    #[error("{max} uploads are staged already")]
    TooManyUploads {
        /// The limit.
        max: usize,
    },
    /// A sync failed once: what the disk holds is unknown, so nothing is written until an operator has looked and the
    /// process was started again. Reads go on, verified.
    #[error("the blob volume failed and takes no writes: {reason}")]
    VolumeFailed {
        /// The first failure.
        reason: Arc<str>,
    },
    /// What the store stands on does not answer, a bucket for instance; what was told durable stays so. Retry later.
    #[error("{what}: {detail}")]
    Unavailable {
        /// What was tried.
        what: Arc<str>,
        /// What came of it.
        detail: Arc<str>,
    },
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: Arc<str>,
        /// Its answer.
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// Wraps an error of the operating system; lack of space becomes [`StoreError::NoSpace`].
    pub(crate) fn io(what: impl AsRef<str>, source: impl Into<io::Error>) -> StoreError {
        let source = source.into();
        if is_full(&source) {
            return StoreError::NoSpace;
        }
        StoreError::Io { what: what.as_ref().into(), source: Arc::new(source) }
    }

    /// Whether the copy itself is bad, so that it should be quarantined and repaired.
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. })
    }
}

/// Whether reading failed for a reason that is not the file's, and goes away: too many open files, no memory. Nothing
/// is known of its bytes then. A file that may not be read is no use as a copy.
pub(crate) fn is_of_now(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let reasons = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| reasons.contains(&errno))
}

/// Whether the file system, or the quota on it, has no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a volume could not be opened. The node must not start with it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory has no marker, but the caller knows this volume: it is empty, swapped or not mounted.
    #[error(
        "{path} carries no store marker, but store {expected} is expected there: is the volume mounted? \
         If the disk was replaced, register it as a new store"
    )]
    MarkerMissing {
        /// The directory.
        path: String,
        /// Who should be there.
        expected: StoreId,
    },
    /// The directory has no marker and isn't empty.
    #[error("{path} carries no store marker and is not empty; give an empty directory for a new store")]
    NotEmpty {
        /// The directory.
        path: String,
    },
    /// Another store's marker.
    #[error("{path} holds store {found}, expected {expected}: were volumes swapped?")]
    WrongStore {
        /// The directory.
        path: String,
        /// Who is there.
        found: StoreId,
        /// Who should be.
        expected: StoreId,
    },
    /// Another cluster's marker.
    #[error("{path} belongs to cluster {found}, not to {expected}")]
    ForeignCluster {
        /// The directory.
        path: String,
        /// Whose it is.
        found: ClusterId,
        /// Who we are.
        expected: ClusterId,
    },
    /// The marker cannot be read.
    #[error("{path}: the store marker is unreadable: {detail}")]
    Marker {
        /// The directory.
        path: String,
        /// Why.
        detail: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The directory.
        path: String,
    },
    /// The volume can't be read.
    #[error("{0}")]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    // A node that is out of descriptors has no rotten copies; a disk that can't read has.
    #[test]
    fn reasons_that_pass() {
        let of = |errno: Errno| is_of_now(&errno.into());
        assert!([Errno::MFILE, Errno::NFILE, Errno::NOMEM].into_iter().all(of));
        assert!(![Errno::IO, Errno::NOENT, Errno::ISDIR, Errno::ACCESS].into_iter().any(of));
        assert!(!is_of_now(&io::ErrorKind::UnexpectedEof.into()));
    }
}
