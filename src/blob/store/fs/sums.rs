//! The sidecar `<name>.sum`: one XXH3-64 per block, written from hashed content, with a checksum of its own.
//!
//! Layout, little-endian: magic `PTLSUM01`, size of the blob (u64), number of sums (u32), the sums (u64 each), CRC32C
//! of all that came before (u32). A sidecar that does not read back is rebuilt; it never makes a replica bad.

use bytes::Bytes;

use crate::blob::store::{BLOCK_BYTES, Blocks};

const MAGIC: &[u8; 8] = b"PTLSUM01";
const HEAD_BYTES: usize = 8 + 8 + 4;
const TAIL_BYTES: usize = 4;

/// The sums of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::blob::store) struct Sums {
    pub(in crate::blob::store) size_bytes: u64,
    pub(in crate::blob::store) sums: Vec<u64>,
}

impl Sums {
    /// How long the sidecar of a blob is.
    pub(in crate::blob::store) fn encoded_bytes(size_bytes: u64) -> u64 {
        (HEAD_BYTES + TAIL_BYTES) as u64 + 8 * size_bytes.div_ceil(BLOCK_BYTES as u64)
    }

    /// Bytes of the blob from the block boundary `begin` on, as blocks.
    pub(in crate::blob::store) fn blocks(&self, begin: u64, bytes: Bytes) -> Blocks {
        let first = (begin / BLOCK_BYTES as u64) as usize;
        let sums = self.sums[first..first + bytes.len().div_ceil(BLOCK_BYTES)].to_vec();
        Blocks { offset: begin, bytes, sums }
    }

    pub(in crate::blob::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + 8 * self.sums.len() + TAIL_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.size_bytes.to_le_bytes());
        // A blob of 256 TiB would be needed to pass u32.
        out.extend_from_slice(&(self.sums.len() as u32).to_le_bytes());
        for sum in &self.sums {
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the sidecar of a blob with this size; `None` if anything about it is wrong.
    pub(in crate::blob::store) fn decode(bytes: &[u8], size_bytes: u64) -> Option<Sums> {
        if bytes.len() as u64 != Sums::encoded_bytes(size_bytes) {
            return None;
        }
        let (body, crc) = bytes.split_last_chunk::<TAIL_BYTES>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (head, sums) = body.split_at_checked(HEAD_BYTES)?;
        let stated = u64::from_le_bytes(head[8..16].try_into().ok()?);
        let count = u32::from_le_bytes(head[16..20].try_into().ok()?);
        if &head[..8] != MAGIC || stated != size_bytes || sums.len() as u64 != 8 * u64::from(count) {
            return None;
        }
        let (sums, _) = sums.as_chunks::<8>();
        Some(Sums { size_bytes, sums: sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The stored form is pinned: other versions read it.
    #[test]
    fn golden() {
        let sums = Sums { size_bytes: 65_537, sums: vec![1, 0x0102_0304_0506_0708] };
        let hex = data_encoding::HEXLOWER.encode(&sums.encode());
        assert_eq!(
            hex,
            "50544c53554d303101000100000000000200000001000000000000000807060504030201\
             909943ad"
        );
    }

    // It reads back for its blob's size only, and no flipped bit or cut goes unseen.
    #[test]
    fn damage_is_seen() {
        for (size, count) in [(0, 0), (1, 1), (65_536, 1), (65_537, 2), (1 << 20, 16)] {
            let sums = Sums { size_bytes: size, sums: (0..count).collect() };
            let bytes = sums.encode();
            assert_eq!(Sums::decode(&bytes, size), Some(sums));
            assert_eq!(Sums::decode(&bytes, size + 1), None);
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                assert_eq!(Sums::decode(&bad, size), None, "{size} at {at}");
                assert_eq!(Sums::decode(&bytes[..at], size), None, "{size} cut at {at}");
            }
        }
    }
}
