//! Sealed texts: what the cluster hands out and takes back unchanged (bearer tokens, upload tokens, page tokens,
//! links).
//!
//! A sealed text is `base64url([format u8][purpose u8][key id 4 bytes][body][MAC 32 bytes])` without padding. The body
//! is the canonical bincode of one value (every field with its length, so that no two values have one encoding, T14);
//! the MAC is HMAC-SHA256 over everything before it. Its key is derived from the cluster's secret *for the purpose*, so
//! that a text made for one use never opens for another. There is no algorithm to choose and no key in the text (T1,
//! T2). It is readable by whoever holds it: put no secret in. Expiry is a field of the value; whoever opens it checks
//! it.

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::metadata::cluster::ClusterRow;
use crate::metadata::codec;
use crate::vocabulary::limits::AUTHORIZATION_BYTES_MAX;

/// What a sealed text is for. Numbers stand in the text: append, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Bearer tokens of the token service.
    Bearer = 1,
    /// Uploads: the last element of their `Location`.
    Upload = 2,
    /// Places in lists (`nextToken`, `last` where it is opaque).
    Page = 3,
    /// Links to another node that carry their own right.
    Link = 4,
    /// Passwords of the user `AWS` (`GetAuthorizationToken`).
    AuthorizationToken = 5,
}

/// Why a text does not open. Callers answer all of them alike; the difference is for tests and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is no sealed text: too long, not base64url, too short, or of another format.
    #[error("not a sealed text")]
    Malformed,
    /// It was sealed for something else.
    #[error("sealed for another purpose")]
    Purpose,
    /// It was sealed by a key that is not accepted, or it was changed.
    #[error("the seal does not hold")]
    Forged,
}

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 6;
const MAC_BYTES: usize = 32;

/// Derives a key from the cluster's secret for one use, named by a label that no other use has.
pub fn derive(secret: &[u8; 32], label: &str) -> [u8; 32] {
    mac_of(&keyed(secret), &[b"portolan key\0", label.as_bytes()])
}

/// HMAC-SHA256 under `key` over the parts, joined: only the last one may be of variable length.
pub fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    mac_of(&keyed(key), parts)
}

/// Whether two MACs are equal, in a time that does not depend on where they differ (T7).
pub fn same(one: &[u8; 32], two: &[u8; 32]) -> bool {
    let differing = one.iter().zip(two).fold(0u8, |bits, (a, b)| bits | (a ^ b));
    std::hint::black_box(differing) == 0
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn mac_of(keyed: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed.clone();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// One key with its id.
#[derive(Clone)]
struct Key {
    id: [u8; 4],
    keyed: Hmac<Sha256>,
}

impl Key {
    fn new(secret: &[u8; 32], purpose: Purpose) -> Key {
        let key = mac_of(&keyed(secret), &[b"portolan seal\0", &[FORMAT, purpose as u8]]);
        let keyed = keyed(&key);
        let digest = mac_of(&keyed, &[b"id"]);
        Key { id: [digest[0], digest[1], digest[2], digest[3]], keyed }
    }
}

/// Seals and opens texts for one purpose. Make it once and keep it: opening then costs one hash over the text.
#[derive(Clone)]
pub struct Sealer {
    purpose: Purpose,
    current: Key,
    before: Option<Key>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Sealer({:?}, ***)", self.purpose)
    }
}

impl Sealer {
    /// With the secret in force, and the one before it, whose texts still open.
    pub fn new(purpose: Purpose, secret: &[u8; 32], before: Option<&[u8; 32]>) -> Sealer {
        Sealer { purpose, current: Key::new(secret, purpose), before: before.map(|secret| Key::new(secret, purpose)) }
    }

    /// With the secrets of a cluster.
    pub fn of(cluster: &ClusterRow, purpose: Purpose) -> Sealer {
        Sealer::new(purpose, &cluster.token_secret, cluster.token_secret_before.as_ref())
    }

    /// Seals a value.
    pub fn seal<T: Encode>(&self, value: &T) -> String {
        let body = codec::encode_bare(value);
        let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + MAC_BYTES);
        out.extend_from_slice(&[FORMAT, self.purpose as u8]);
        out.extend_from_slice(&self.current.id);
        out.extend_from_slice(&body);
        let mac = mac_of(&self.current.keyed, &[&out]);
        out.extend_from_slice(&mac);
        BASE64URL_NOPAD.encode(&out)
    }

    /// Opens what [`Sealer::seal`] made: nothing of the body is looked at before the MAC holds.
    pub fn open<T: Decode<()>>(&self, text: &str) -> Result<T, SealError> {
        if text.len() > AUTHORIZATION_BYTES_MAX {
            return Err(SealError::Malformed);
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| SealError::Malformed)?;
        let (sealed, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(SealError::Malformed)?;
        let (head, body) = sealed.split_at_checked(HEAD_BYTES).ok_or(SealError::Malformed)?;
        if head[0] != FORMAT {
            return Err(SealError::Malformed);
        }
        if head[1] != self.purpose as u8 {
            return Err(SealError::Purpose);
        }
        let key = [Some(&self.current), self.before.as_ref()].into_iter().flatten().find(|key| key.id == head[2..]);
        if !same(&mac_of(&key.ok_or(SealError::Forged)?.keyed, &[sealed]), mac) {
            return Err(SealError::Forged);
        }
        // a body that we sealed and can't read was sealed by another version
        codec::decode_bare("sealed text", body).map_err(|_| SealError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Claims = (String, u64);

    fn claims() -> Claims {
        ("team/app".into(), 1_700_000_000)
    }

    // What is sealed opens, under the present and the former secret; not for another purpose, not in another cluster.
    #[test]
    fn opens_only_what_was_sealed_here_for_this() {
        let (old, new, other) = ([1; 32], [2; 32], [3; 32]);
        let text = Sealer::new(Purpose::Bearer, &old, None).seal(&claims());
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
        let rotated = Sealer::new(Purpose::Bearer, &new, Some(&old));
        assert_eq!(rotated.open::<Claims>(&text), Ok(claims()));
        assert_eq!(rotated.open::<Claims>(&rotated.seal(&claims())), Ok(claims()));
        assert_eq!(Sealer::new(Purpose::Bearer, &new, None).open::<Claims>(&text), Err(SealError::Forged));
        assert_eq!(Sealer::new(Purpose::Bearer, &other, None).open::<Claims>(&text), Err(SealError::Forged));
        assert_eq!(Sealer::new(Purpose::Upload, &old, None).open::<Claims>(&text), Err(SealError::Purpose));
    }

    // T1, T2, T5, T14: no changed, cut or lengthened text opens; the purpose byte is covered and the key differs as
    // well.
    #[test]
    fn every_changed_bit_is_found() {
        let sealer = Sealer::new(Purpose::Bearer, &[7; 32], None);
        let bytes = BASE64URL_NOPAD.decode(sealer.seal(&claims()).as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open::<Claims>(&BASE64URL_NOPAD.encode(&changed)).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(sealer.open::<Claims>(&BASE64URL_NOPAD.encode(&bytes[..length])).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        for bad in [BASE64URL_NOPAD.encode(&longer), "a.b.c".into(), String::new(), "A".repeat(20 << 10)] {
            assert!(sealer.open::<Claims>(&bad).is_err());
        }
        let mut relabelled = bytes.clone();
        relabelled[1] = Purpose::Upload as u8;
        let upload = Sealer::new(Purpose::Upload, &[7; 32], None);
        assert_eq!(upload.open::<Claims>(&BASE64URL_NOPAD.encode(&relabelled)), Err(SealError::Forged));
    }

    // T4: a text of another shape than asked for does not open as something else.
    #[test]
    fn shapes_do_not_mix() {
        let sealer = Sealer::new(Purpose::Page, &[7; 32], None);
        assert_eq!(sealer.open::<u64>(&sealer.seal(&claims())), Err(SealError::Malformed));
    }

    // The format is fixed, so that a text of an older binary opens after an upgrade. The text was also made by another
    // implementation (Python's hmac) from the description above.
    #[test]
    fn golden() {
        let sealer = Sealer::new(Purpose::Bearer, &[0; 32], None);
        let golden = "AQGOk3SKCHRlYW0vYXBw_ADxU2WbxaEY0MrDaX4zB5hrW6BsZBBjA8CQP_AvEHZ1oPIIgw";
        assert_eq!(sealer.seal(&claims()), golden);
    }

    // Keys for different uses differ; comparison is by value.
    #[test]
    fn derivation() {
        assert_ne!(derive(&[0; 32], "a"), derive(&[0; 32], "b"));
        assert_ne!(derive(&[0; 32], "a"), derive(&[1; 32], "a"));
        assert!(same(&[5; 32], &[5; 32]));
        let mut other = [5; 32];
        other[31] = 4;
        assert!(!same(&[5; 32], &other));
    }
}
