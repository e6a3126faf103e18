//! Blobs to push: as many different ones as wanted, of any size, for the price of one hash.

use bytes::Bytes;
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::digest::{Algorithm, Hasher};

use super::conversation::Parts;

/// What makes a blob different stands at its end, so the hash of all before is made once.
const MARK_BYTES: u64 = 16;
/// Smallest blob.
pub(super) const SIZE_MIN: u64 = MARK_BYTES;
/// What is repeated to make a large blob: even one of 10 GiB takes no more memory than this.
const REPEATED_BYTES: u64 = 1024 * 1024;

/// Makes blobs of one size.
pub(super) struct BlobMaker {
    size_bytes: u64,
    seed: u64,
    repeated: Bytes,
    before_mark: Hasher,
}

impl BlobMaker {
    /// Blobs of `size_bytes`; another seed makes others.
    pub(super) fn new(size_bytes: u64, seed: u64) -> BlobMaker {
        let mut before_mark = Hasher::new(Algorithm::Sha256);
        let body_bytes = size_bytes.saturating_sub(MARK_BYTES);
        let repeated = noise(seed, usize::try_from(body_bytes.min(REPEATED_BYTES)).unwrap_or(usize::MAX));
        parts(&repeated, body_bytes).for_each(|part| before_mark.update(&part));
        BlobMaker { size_bytes, seed, repeated, before_mark }
    }

    /// The blob with this number.
    pub(super) fn make(&self, number: u64) -> (Digest, Parts) {
        let mark: Vec<u8> = [number.to_le_bytes(), self.seed.to_le_bytes()].concat();
        let mut hasher = self.before_mark.clone();
        hasher.update(&mark);
        let body = parts(&self.repeated, self.size_bytes - MARK_BYTES);
        (hasher.finish(), Parts::new(body.chain([Bytes::from(mark)])))
    }
}

fn parts(repeated: &Bytes, mut left: u64) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(repeated.len());
        left -= len as u64;
        (len > 0).then(|| repeated.slice(..len))
    })
}

/// Bytes that do not compress; the same for the same seed.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*: speed and spread are all that is asked of it
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each blob has the size asked for and the digest told, and no two are alike.
    #[test]
    fn blobs() {
        for size in [16, 17, 1024, REPEATED_BYTES + 16, 3 * REPEATED_BYTES + 5] {
            let maker = BlobMaker::new(size, 7);
            let mut seen = std::collections::BTreeSet::new();
            for number in 0..3 {
                let (digest, mut body) = maker.make(number);
                assert_eq!(body.len(), size);
                let mut hasher = Hasher::new(Algorithm::Sha256);
                while body.len() > 0 {
                    hasher.update(&bytes_of(body.take(1000)));
                }
                assert_eq!(hasher.finish(), digest);
                assert!(seen.insert(digest));
            }
            assert_eq!(BlobMaker::new(size, 7).make(1).0, maker.make(1).0);
            assert_ne!(BlobMaker::new(size, 8).make(1).0, maker.make(1).0);
        }
    }

    fn bytes_of(body: Parts) -> Vec<u8> {
        use http_body_util::BodyExt;
        let collected = futures_util::future::FutureExt::now_or_never(body.collect());
        collected.unwrap().unwrap().to_bytes().to_vec()
    }
}
