//! Content digests: `algorithm:hex` over received bytes, and the streaming hasher that makes them.
//!
//! Source: OCI image specification, "Digests"; only the registered algorithms sha256 and sha512 are accepted.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use sha2::{Digest as _, Sha256, Sha512};

/// Hash algorithm of a digest. The discriminants are stored; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[repr(u8)]
pub enum Algorithm {
    /// SHA-256, 32 bytes: what every client uses by default.
    Sha256 = 1,
    /// SHA-512, 64 bytes.
    Sha512 = 2,
}

impl Algorithm {
    /// The name used in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the raw hash in bytes.
    pub fn len_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    fn from_stored(value: u8) -> Option<Algorithm> {
        match value {
            1 => Some(Algorithm::Sha256),
            2 => Some(Algorithm::Sha512),
            _ => None,
        }
    }
}

/// Why a string is not a digest we serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon, or nothing in front of it.
    #[error("a digest is written algorithm:hex, for example sha256:9f86d0…")]
    Form,
    /// A grammatical algorithm we do not support.
    #[error("only the digest algorithms sha256 and sha512 are supported")]
    Algorithm,
    /// The part after the colon has the wrong length or is not lower-case hexadecimal.
    #[error("the hexadecimal part must be lower case and 64 (sha256) or 128 (sha512) characters long")]
    Hex,
}

/// A content digest. Equal only if algorithm *and* hash are equal: content of two algorithms is never compared by hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hash: [u8; 64],
}

impl Digest {
    /// Parses `algorithm:hex`; upper-case hex, unknown algorithms and wrong lengths are errors.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "" => return Err(DigestError::Form),
            _ => return Err(DigestError::Algorithm),
        };
        Digest::from_hex(algorithm, hex)
    }

    /// Builds a digest from an algorithm and its lower-case hexadecimal hash.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, DigestError> {
        let hex = hex.as_bytes();
        if hex.len() != algorithm.len_bytes() * 2 {
            return Err(DigestError::Hex);
        }
        let mut hash = [0u8; 64];
        for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
        }
        Ok(Digest { algorithm, hash })
    }

    /// Builds a digest from raw hash bytes; `None` if the length does not fit the algorithm.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Digest> {
        if raw.len() != algorithm.len_bytes() {
            return None;
        }
        let mut hash = [0u8; 64];
        hash[..raw.len()].copy_from_slice(raw);
        Some(Digest { algorithm, hash })
    }

    /// Hashes `bytes` in one go.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// SHA-256 of `bytes`, the canonical digest.
    pub fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    /// Whether `bytes` hash to this.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Digest::of(self.algorithm, bytes) == *self
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash, 32 or 64 bytes.
    pub fn raw(&self) -> &[u8] {
        &self.hash[..self.algorithm.len_bytes()]
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut out = String::with_capacity(self.algorithm.len_bytes() * 2);
        for byte in self.raw() {
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
        out
    }

    /// Stored key form: one algorithm byte, then the raw hash. Sorts by algorithm, then hash.
    pub fn key_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.algorithm.len_bytes());
        out.push(self.algorithm as u8);
        out.extend_from_slice(self.raw());
        out
    }

    /// Reads [`Digest::key_bytes`] from the front of `bytes`; returns the digest and how many bytes it took.
    pub fn from_key(bytes: &[u8]) -> Option<(Digest, usize)> {
        let algorithm = Algorithm::from_stored(*bytes.first()?)?;
        let end = 1 + algorithm.len_bytes();
        Some((Digest::from_raw(algorithm, bytes.get(1..end)?)?, end))
    }
}

fn nibble(character: u8) -> Result<u8, DigestError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(DigestError::Hex),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

impl Encode for Digest {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        use bincode::enc::write::Writer as _;
        (self.algorithm as u8).encode(encoder)?;
        encoder.writer().write(self.raw())
    }
}

impl<Context> Decode<Context> for Digest {
    fn decode<D: bincode::de::Decoder<Context = Context>>(
        decoder: &mut D,
    ) -> Result<Digest, bincode::error::DecodeError> {
        use bincode::de::read::Reader as _;
        let stored = u8::decode(decoder)?;
        let algorithm = Algorithm::from_stored(stored)
            .ok_or_else(|| bincode::error::DecodeError::OtherString(format!("unknown digest algorithm {stored}")))?;
        let mut hash = [0u8; 64];
        decoder.claim_bytes_read(algorithm.len_bytes())?;
        decoder.reader().read(&mut hash[..algorithm.len_bytes()])?;
        Ok(Digest { algorithm, hash })
    }
}

bincode::impl_borrow_decode!(Digest);

/// A running hash. Cloning keeps the state of an offset, so that an upload can go back to it.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Feeds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        let mut hash = [0u8; 64];
        let algorithm = match self.0 {
            State::Sha256(hasher) => {
                hash[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            State::Sha512(hasher) => {
                hash.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, hash }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    // A digest parses only in the canonical form, and prints as it was read.
    #[test]
    fn parse_table() {
        assert_eq!(Digest::parse(EMPTY).unwrap().to_string(), EMPTY);
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        let sha512 = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(Digest::parse(&sha512.to_string()), Ok(sha512));
        for (text, error) in [
            ("", DigestError::Form),
            ("sha256", DigestError::Form),
            (":abc", DigestError::Form),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::Algorithm),
            ("SHA256:e3b0", DigestError::Algorithm),
            ("blake3:e3b0", DigestError::Algorithm),
            ("sha256:", DigestError::Hex),
            ("sha256:e3b0", DigestError::Hex),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), DigestError::Hex),
            (&format!("{EMPTY}0"), DigestError::Hex),
            ("sha256:../../../../../../../../../../../../../../../../../../../../etc/pass", DigestError::Hex),
        ] {
            assert_eq!(Digest::parse(text), Err(error), "{text}");
        }
    }

    // Key form and bincode form both read back.
    #[test]
    fn stored_forms_round_trip() {
        for digest in [Digest::sha256(b"a"), Digest::of(Algorithm::Sha512, b"a")] {
            let mut key = digest.key_bytes();
            key.push(7);
            assert_eq!(Digest::from_key(&key), Some((digest, key.len() - 1)));
            let bytes = bincode::encode_to_vec(digest, bincode::config::standard()).unwrap();
            let (back, _): (Digest, usize) = bincode::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
            assert_eq!(back, digest);
        }
    }
}
