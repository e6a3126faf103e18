//! Blocks: the unit in which stored bytes are checked before they are used.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::{BLOCK_BYTES, StoreError, StoreResult};

/// Most bytes one read returns.
pub const READ_BYTES_MAX: usize = 1024 * 1024;

/// XXH3-64 of one block: finds rot and torn writes; says nothing against malice, which the digest is for.
pub fn block_sum(block: &[u8]) -> u64 {
    xxh3_64(block)
}

/// Consecutive whole blocks of a blob with their sums, so that the node that faces the client can check them again.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Where the first block begins in the blob; a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// The bytes; only the blob's last block is shorter than [`BLOCK_BYTES`].
    pub bytes: Bytes,
    /// One [`block_sum`] per block.
    pub sums: Vec<u64>,
}

impl Blocks {
    /// The offset of the first block whose bytes do not match their sum; also when there are more or fewer sums than
    /// blocks. `None` means every byte is good.
    pub fn first_damaged(&self) -> Option<u64> {
        let mut sums = self.sums.iter();
        let mut at = self.offset;
        for block in self.bytes.chunks(BLOCK_BYTES) {
            if sums.next() != Some(&block_sum(block)) {
                return Some(at);
            }
            at += block.len() as u64;
        }
        sums.next().map(|_| at)
    }

    /// The part of these blocks inside `from .. until` (offsets in the blob), without copying.
    pub fn slice(&self, from: u64, until: u64) -> Bytes {
        let end = self.end();
        let from = from.clamp(self.offset, end);
        let until = until.clamp(from, end);
        // Both fit: they lie inside a buffer that is in memory.
        self.bytes.slice((from - self.offset) as usize..(until - self.offset) as usize)
    }

    /// Where the last block ends in the blob.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// The whole blocks that cover a range: where they begin, and how many bytes they are.
pub(crate) fn cover(offset: u64, len: usize, size_bytes: u64) -> StoreResult<(u64, usize)> {
    if offset >= size_bytes && (offset, size_bytes) != (0, 0) {
        return Err(StoreError::OutOfRange { size_bytes });
    }
    let block = BLOCK_BYTES as u64;
    let begin = offset / block * block;
    let end = offset.saturating_add(len.max(1) as u64).min(size_bytes).div_ceil(block).saturating_mul(block);
    let end = end.min(begin + READ_BYTES_MAX as u64).min(size_bytes);
    // At most READ_BYTES_MAX.
    Ok((begin, end.saturating_sub(begin) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(len: usize) -> Blocks {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let sums = bytes.chunks(BLOCK_BYTES).map(block_sum).collect();
        Blocks { offset: 2 * BLOCK_BYTES as u64, bytes: bytes.into(), sums }
    }

    // Good blocks pass; one flipped bit, one missing or one extra sum is found at its offset.
    #[test]
    fn damage_is_found() {
        let good = blocks(BLOCK_BYTES * 2 + 5);
        assert_eq!(good.first_damaged(), None);
        for at in [0, BLOCK_BYTES, BLOCK_BYTES * 2 + 4] {
            let mut bytes = good.bytes.to_vec();
            bytes[at] ^= 0x10;
            let bad = Blocks { bytes: bytes.into(), ..good.clone() };
            assert_eq!(bad.first_damaged(), Some(good.offset + (at / BLOCK_BYTES * BLOCK_BYTES) as u64));
        }
        let mut short = good.clone();
        short.sums.pop();
        assert_eq!(short.first_damaged(), Some(good.offset + 2 * BLOCK_BYTES as u64));
        let mut long = good.clone();
        long.sums.push(1);
        assert_eq!(long.first_damaged(), Some(good.end()));
    }

    // A slice is exactly the asked range, cut to what is there.
    #[test]
    fn slices() {
        let all = blocks(1000);
        assert_eq!(all.slice(all.offset + 3, all.offset + 7), all.bytes.slice(3..7));
        assert_eq!(all.slice(0, u64::MAX), all.bytes);
        assert_eq!(all.slice(0, 5), Bytes::new());
        assert_eq!(all.slice(u64::MAX, 0), Bytes::new());
    }

    // The cover begins and ends at block borders or the blob's end, is bounded, and holds the first byte asked for.
    #[test]
    fn covers() {
        let block = BLOCK_BYTES as u64;
        let size = 40 * block + 10;
        for (offset, len, want) in [
            (0, 1, (0, BLOCK_BYTES)),
            (0, BLOCK_BYTES, (0, BLOCK_BYTES)),
            (1, BLOCK_BYTES, (0, 2 * BLOCK_BYTES)),
            (block - 1, 2, (0, 2 * BLOCK_BYTES)),
            (0, usize::MAX, (0, READ_BYTES_MAX)),
            (5, READ_BYTES_MAX, (0, READ_BYTES_MAX)),
            (40 * block + 3, 1, (40 * block, 10)),
            (39 * block, 3 * BLOCK_BYTES, (39 * block, BLOCK_BYTES + 10)),
            (size - 1, usize::MAX, (40 * block, 10)),
            (7, 0, (0, BLOCK_BYTES)),
            (0, 0, (0, BLOCK_BYTES)),
            (block, 0, (block, BLOCK_BYTES)),
        ] {
            assert_eq!(cover(offset, len, size).unwrap(), want, "{offset} {len}");
        }
        assert!(matches!(cover(size, 1, size), Err(StoreError::OutOfRange { .. })));
        assert!(matches!(cover(u64::MAX, 1, size), Err(StoreError::OutOfRange { .. })));
        assert_eq!(cover(0, 10, 0).unwrap(), (0, 0));
        assert!(matches!(cover(1, 1, 0), Err(StoreError::OutOfRange { .. })));
    }
}
