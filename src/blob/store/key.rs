//! What a blob on a volume is called.

use std::fmt;

use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

/// One copy's name: the digest, and which upload made the bytes. Two generations of a digest are two files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey {
    /// What the bytes hash to.
    pub digest: Digest,
    /// The upload that made them.
    pub generation: UploadId,
}

impl BlobKey {
    /// A key.
    pub fn new(digest: Digest, generation: UploadId) -> BlobKey {
        BlobKey { digest, generation }
    }

    /// `<hex>.<generation>`; the length of the hex names the algorithm.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.digest.hex(), self.generation)
    }

    /// Reads [`BlobKey::file_name`].
    pub fn parse_file_name(name: &str) -> Option<BlobKey> {
        let (hex, generation) = name.split_once('.')?;
        let algorithm = match hex.len() {
            64 => Algorithm::Sha256,
            128 => Algorithm::Sha512,
            _ => return None,
        };
        Some(BlobKey { digest: Digest::from_hex(algorithm, hex).ok()?, generation: UploadId::parse(generation)? })
    }

    /// Which of the 256 directories the file lives in: the first byte of the hash.
    pub fn shard(&self) -> u8 {
        self.digest.raw()[0]
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.digest, self.generation)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A file name reads back as the key it was made from, and nothing else is a key.
    #[test]
    fn file_names() {
        let generation = UploadId { tick: 3, random: 4 };
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let key = BlobKey::new(Digest::of(algorithm, b"x"), generation);
            assert_eq!(BlobKey::parse_file_name(&key.file_name()), Some(key));
            assert_eq!(BlobKey::parse_file_name(&format!("{}.sum", key.file_name())), None);
            assert_eq!(BlobKey::parse_file_name(&key.file_name().to_uppercase()), None);
        }
        for bad in ["", ".", "..", "../etc/passwd", "ab.cd", "lost+found"] {
            assert_eq!(BlobKey::parse_file_name(bad), None, "{bad}");
        }
    }
}
