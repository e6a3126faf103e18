//! Randomness from the kernel: ids, and secrets of at least 160 bits.
//!
//! A kernel that gives no randomness leaves nothing safe to do, so these functions panic instead of returning an error.

use data_encoding::{BASE32, BASE64URL_NOPAD};
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RepositoryId, RequestId, StoreId, UploadId, UseId};

use super::Secret;

/// `N` random bytes.
///
/// # Panics
/// When the kernel refuses randomness.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    #[cfg(feature = "sim")]
    if super::simulated::draw(&mut out) {
        return out;
    }
    getrandom::fill(&mut out).expect("the kernel gives no randomness; nothing safe can be done without it");
    out
}

/// A random 64-bit number, never 0: zero is left for "none".
pub fn number64() -> u64 {
    loop {
        let drawn = u64::from_le_bytes(bytes());
        if drawn != 0 {
            return drawn;
        }
    }
}

/// A random 128-bit number.
pub fn number128() -> u128 {
    u128::from_le_bytes(bytes())
}

/// A new cluster's id.
pub fn cluster_id() -> ClusterId {
    ClusterId(number128())
}

/// A new life of a log.
pub fn lineage() -> Lineage {
    Lineage(number64())
}

/// A new node's id.
pub fn node_id() -> NodeId {
    NodeId(number64())
}

/// A new blob volume's id.
pub fn store_id() -> StoreId {
    StoreId(number64())
}

/// A new repository's internal id.
pub fn repository_id() -> RepositoryId {
    RepositoryId(number128())
}

/// A new hold on a blob.
pub fn use_id() -> UseId {
    UseId(number64())
}

/// A new proposal's id.
pub fn request_id() -> RequestId {
    RequestId(number128())
}

/// A new upload that begins in `tick`.
pub fn upload_id(tick: u64) -> UploadId {
    UploadId { tick, random: number128() }
}

/// An access key id: `PTLN` and 16 characters of base32 (80 bits; a name, not a secret).
pub fn access_key_id() -> String {
    format!("PTLN{}", BASE32.encode(&bytes::<10>()))
}

/// A secret access key: 40 characters, 240 bits, safe in URLs and shells.
pub fn secret_access_key() -> Secret<String> {
    Secret::new(BASE64URL_NOPAD.encode(&bytes::<30>()))
}

/// A value between 0 and `below`, for jitter only: a slight bias is of no account there.
pub fn jitter_below(below: u64) -> u64 {
    if below == 0 { 0 } else { u64::from_le_bytes(bytes()) % below }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Keys have the promised shape, and no two draws are alike.
    #[test]
    fn shapes() {
        let (first, second) = (access_key_id(), access_key_id());
        assert_ne!(first, second);
        assert_eq!(first.len(), 20);
        assert!(first.starts_with("PTLN") && first.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()));
        let secret = secret_access_key();
        assert_eq!(secret.expose().len(), 40);
        assert!(secret.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_ne!(node_id(), node_id());
        assert!((0..1000).all(|_| jitter_below(3) < 3) && jitter_below(0) == 0);
    }
}
