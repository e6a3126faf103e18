//! The running hashes of bytes on their way in: the digest and the block sums, from one pass over the same bytes.
//!
//! Both always cover exactly the same bytes, also after going back to an earlier offset: a sum that covered bytes which
//! the digest did not see would vouch for rot.

use registry_core::vocabulary::digest::{Algorithm, Digest, Hasher};
use xxhash_rust::xxh3::Xxh3Default;

use super::{BLOCK_BYTES, block_sum};

/// A state is kept at least this often, so that going back re-reads little.
const MARK_EVERY_BYTES: u64 = 16 << 20;
/// Most states kept. Each is about 1 KiB.
const MARKS_MAX: usize = 32;

/// Everything known at one offset.
#[derive(Clone)]
struct Running {
    offset: u64,
    digest: Hasher,
    block: Xxh3Default,
}

/// Running hashes and the states they can go back to.
pub(crate) struct Tally {
    algorithm: Algorithm,
    now: Running,
    sums: Vec<u64>,
    /// Ascending by offset; all at or below `now`.
    marks: Vec<Running>,
}

impl Tally {
    pub(crate) fn new(algorithm: Algorithm) -> Tally {
        let now = Running { offset: 0, digest: Hasher::new(algorithm), block: Xxh3Default::new() };
        Tally { algorithm, now, sums: Vec::new(), marks: Vec::new() }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn offset(&self) -> u64 {
        self.now.offset
    }

    /// Feeds bytes, a block at a time so that each is hashed twice while it is in the cache.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = (self.now.offset % BLOCK_BYTES as u64) as usize;
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - filled));
            self.feed(filled, piece);
            bytes = rest;
        }
    }

    fn feed(&mut self, filled: usize, piece: &[u8]) {
        self.now.digest.update(piece);
        self.now.offset += piece.len() as u64;
        if piece.len() == BLOCK_BYTES {
            self.sums.push(block_sum(piece));
        } else {
            self.now.block.update(piece);
            if filled + piece.len() == BLOCK_BYTES {
                self.sums.push(self.now.block.digest());
                self.now.block = Xxh3Default::new();
            }
        }
        if self.now.offset.is_multiple_of(MARK_EVERY_BYTES) {
            self.mark();
        }
    }

    /// Keeps the state of this offset: the end of a chunk, which may be acknowledged.
    pub(crate) fn mark(&mut self) {
        if self.marks.last().is_some_and(|mark| mark.offset == self.now.offset) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            // Old states thin out, young ones stay: an upload goes back to where its last chunk began.
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index > MARKS_MAX / 2 || index % 2 == 0
            });
        }
        self.marks.push(self.now.clone());
    }

    /// Forgets all states but the youngest two: those of the last chunk.
    pub(crate) fn rest(&mut self) {
        self.mark();
        let old = self.marks.len().saturating_sub(2);
        self.marks.drain(..old);
        self.marks.shrink_to_fit();
    }

    /// Goes back to the youngest state at or below `offset`. The caller feeds the staged bytes from [`Tally::offset`]
    /// up to `offset` again.
    pub(crate) fn go_back(&mut self, offset: u64) {
        if self.now.offset <= offset {
            return;
        }
        self.marks.retain(|mark| mark.offset <= offset);
        self.now = match self.marks.last() {
            Some(mark) => mark.clone(),
            None => Tally::new(self.algorithm).now,
        };
        self.sums.truncate((self.now.offset / BLOCK_BYTES as u64) as usize);
    }

    /// The sums of the whole blocks so far.
    pub(crate) fn whole_sums(&self) -> &[u64] {
        &self.sums
    }

    /// The digest and all block sums, the last partial block included.
    pub(crate) fn finish(&self) -> (Digest, Vec<u64>) {
        let mut sums = self.sums.clone();
        if !self.now.offset.is_multiple_of(BLOCK_BYTES as u64) {
            sums.push(self.now.block.digest());
        }
        (self.now.digest.clone().finish(), sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 253) as u8).collect()
    }

    fn naive(algorithm: Algorithm, bytes: &[u8]) -> (Digest, Vec<u64>) {
        (Digest::of(algorithm, bytes), bytes.chunks(BLOCK_BYTES).map(block_sum).collect())
    }

    // However the bytes are cut, digest and sums are those of the whole.
    #[test]
    fn cuts_do_not_matter() {
        for len in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 77] {
            let all = bytes(len);
            for cut in [1, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 4 * BLOCK_BYTES] {
                for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                    let mut tally = Tally::new(algorithm);
                    all.chunks(cut).for_each(|piece| tally.update(piece));
                    assert_eq!(tally.finish(), naive(algorithm, &all), "{len} by {cut}");
                }
            }
        }
    }

    // After going back anywhere and feeding the rest again, nothing differs; nor when all but two states were
    // forgotten.
    #[test]
    fn going_back() {
        let all = bytes(5 * BLOCK_BYTES + 9);
        for target in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 3, 4 * BLOCK_BYTES, 5 * BLOCK_BYTES + 9] {
            for rest in [false, true] {
                let mut tally = Tally::new(Algorithm::Sha256);
                for piece in all.chunks(50_000) {
                    tally.update(piece);
                    tally.mark();
                }
                if rest {
                    tally.rest();
                }
                tally.go_back(target as u64);
                let from = tally.offset() as usize;
                assert!(from <= target);
                tally.update(&all[from..target]);
                assert_eq!(tally.finish(), naive(Algorithm::Sha256, &all[..target]), "back to {target}");
                tally.update(&all[target..]);
                assert_eq!(tally.finish(), naive(Algorithm::Sha256, &all), "on from {target}");
            }
        }
    }

    // The states kept stay bounded, and the youngest survives.
    #[test]
    fn marks_are_bounded() {
        let mut tally = Tally::new(Algorithm::Sha256);
        for _ in 0..1000 {
            tally.update(b"x");
            tally.mark();
            assert!(tally.marks.len() <= MARKS_MAX);
        }
        tally.update(b"y");
        tally.go_back(1000);
        assert_eq!(tally.offset(), 1000);
    }
}
