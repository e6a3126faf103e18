//! Stored form of rows and commands: one version byte, then bincode. The only place that names bincode's configuration.
//!
//! A row type that changes keeps its old shape as `mod v1` with a step up, and a new version number; bincode is not
//! self-describing, so a shape without a number could not be read again.

use bincode::config::{self, Configuration, LittleEndian, Varint};
use bincode::{Decode, Encode};

use crate::vocabulary::limits::PROPOSAL_BYTES_MAX;

/// The one bincode configuration of stored bytes.
pub const BINCODE: Configuration<LittleEndian, Varint> = config::standard();

/// A value of the tables with its format version.
pub trait Stored: Encode + Decode<()> {
    /// Version written in front of the value.
    const VERSION: u8 = 1;
}

/// Stored bytes that can't be read: damaged, or written by a newer binary. Never skipped: the node stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored {what} can't be read: {why}")]
pub struct CodecError {
    what: &'static str,
    why: String,
}

impl CodecError {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> CodecError {
        CodecError { what, why: why.into() }
    }
}

/// Encodes a row.
pub fn encode<T: Stored>(value: &T) -> Vec<u8> {
    let mut out = vec![T::VERSION];
    bincode::encode_into_std_write(value, &mut out, BINCODE)
        .expect("our rows encode: no maps of unknown length, no IO");
    out
}

/// Decodes a row; trailing bytes and foreign versions are errors.
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, CodecError> {
    let what = std::any::type_name::<T>();
    match bytes.split_first() {
        Some((version, rest)) if *version == T::VERSION => decode_bare(what, rest),
        Some((version, _)) => {
            Err(CodecError::new(what, format!("format version {version}, this binary knows {}", T::VERSION)))
        }
        None => Err(CodecError::new(what, "no bytes")),
    }
}

/// Decodes a row of our own tables. Panics on damage: a node with rotten state must stop, not guess.
pub fn row<T: Stored>(bytes: &[u8]) -> T {
    decode(bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// Encodes a value whose version stands elsewhere.
pub(crate) fn encode_bare<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, BINCODE).expect("our values encode")
}

/// Decodes a value whose version stands elsewhere; the allocation is bounded by the largest command.
pub(crate) fn decode_bare<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let limited = BINCODE.with_limit::<{ PROPOSAL_BYTES_MAX * 4 }>();
    match bincode::decode_from_slice(bytes, limited) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(CodecError::new(what, format!("{} bytes too many", bytes.len() - used))),
        Err(error) => Err(CodecError::new(what, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Sample(u32, String);
    impl Stored for Sample {
        const VERSION: u8 = 3;
    }

    // A row reads back; a foreign version, trailing bytes and cut bytes are errors.
    #[test]
    fn versions_and_damage() {
        let bytes = encode(&Sample(300, "x".into()));
        assert_eq!(bytes, [3, 251, 44, 1, 1, b'x']);
        assert_eq!(decode::<Sample>(&bytes), Ok(Sample(300, "x".into())));
        let mut longer = bytes.clone();
        longer.push(0);
        let mut other = bytes.clone();
        other[0] = 4;
        for bad in [&longer[..], &other[..], &bytes[..4], &[]] {
            assert!(decode::<Sample>(bad).is_err(), "{bad:?}");
        }
    }
}
