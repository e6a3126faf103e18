//! Access keys: how their secrets are hashed and sealed.
//!
//! A drawn secret has 240 random bits, so a keyed hash is stored and no slow one (decision 0020): guessing is hopeless
//! with or without the stored hash, and a login costs a microsecond instead of 50 ms. The secret itself is kept sealed,
//! because SigV4 signs with it.

use std::fmt;

use registry_core::decide::seal;
use registry_core::metadata::cluster::ClusterRow;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::ground::{Secret, random};

/// Fewest characters of a secret that an operator brings along.
pub(super) const SECRET_CHARS_MIN: usize = 32;
/// Most characters of a secret that an operator brings along.
pub(super) const SECRET_CHARS_MAX: usize = 128;

const SEALED_FORMAT: u8 = 1;

/// Why an access key brought along by an operator is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The text is not `<key id>:<secret>`.
    #[error("expected one line: access key id, ':', secret")]
    Form,
    /// The id has another alphabet or length.
    #[error("an access key id has 16 to 128 letters, digits and '_'")]
    KeyId,
    /// The secret is short, or has few different characters.
    #[error(
        "the secret must be random: {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} visible ASCII characters without ':', at least \
         12 different ones (for example the output of: openssl rand -hex 24)"
    )]
    Weak,
}

/// Takes a secret that an operator made. Refuses what a person may have thought up.
pub(super) fn parse_secret(text: &str) -> Result<Secret<String>, KeyFileError> {
    let mut distinct: Vec<u8> = text.bytes().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let is_legal = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    let is_long = (SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&text.len());
    if is_legal && is_long && distinct.len() >= 12 { Ok(Secret::new(text.into())) } else { Err(KeyFileError::Weak) }
}

/// Whether this can be an access key id: 16 to 128 letters, digits and `_`, what SigV4 clients accept.
pub(super) fn key_id_valid(text: &str) -> bool {
    (16..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads the first line of a key file: `<key id>:<secret>`.
pub fn parse_key_file(text: &str) -> Result<(String, Secret<String>), KeyFileError> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(KeyFileError::Form) };
    let (key_id, secret) = line.split_once(':').ok_or(KeyFileError::Form)?;
    if !key_id_valid(key_id) {
        return Err(KeyFileError::KeyId);
    }
    Ok((key_id.to_owned(), parse_secret(secret)?))
}

/// Hashes and seals the secrets of access keys, under keys derived from the cluster's secret.
pub(super) struct SecretKeys {
    current: Pair,
    before: Option<Pair>,
}

struct Pair {
    hash: [u8; 32],
    seal: LessSafeKey,
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretKeys(***)")
    }
}

impl Pair {
    fn new(secret: &[u8; 32]) -> Pair {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &seal::derive(secret, "access key sealing"));
        let seal = LessSafeKey::new(key.expect("the cipher takes keys of 32 bytes"));
        Pair { hash: seal::derive(secret, "access key hash"), seal }
    }

    fn hash(&self, key_id: &str, secret: &str) -> [u8; 32] {
        // the id is part of it, so that a hash copied to another key's row is worth nothing; it holds no zero byte
        seal::mac(&self.hash, &[key_id.as_bytes(), &[0], secret.as_bytes()])
    }
}

impl SecretKeys {
    /// With the secrets of a cluster: the one before still verifies and opens.
    pub(super) fn of(cluster: &ClusterRow) -> SecretKeys {
        let before = cluster.token_secret_before.as_ref().map(Pair::new);
        SecretKeys { current: Pair::new(&cluster.token_secret), before }
    }

    /// The hash to store.
    pub(super) fn hash(&self, key_id: &str, secret: &Secret<String>) -> [u8; 32] {
        self.current.hash(key_id, secret.expose())
    }

    /// Whether `presented` is the secret with this hash. The time depends on the lengths only.
    pub(super) fn verify(&self, key_id: &str, presented: &str, hash: &[u8; 32]) -> bool {
        let current = seal::same(&self.current.hash(key_id, presented), hash);
        let before = self.before.as_ref().is_some_and(|pair| seal::same(&pair.hash(key_id, presented), hash));
        current | before
    }

    /// The sealed form to store.
    pub(super) fn seal(&self, key_id: &str, secret: &Secret<String>) -> Vec<u8> {
        let nonce = random::bytes::<NONCE_LEN>();
        let mut text = secret.expose().clone().into_bytes();
        let sealing = self.current.seal.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(key_id),
            &mut text,
        );
        sealing.expect("a short text fits the cipher");
        [&[SEALED_FORMAT][..], &nonce, &text].concat()
    }

    /// Opens [`SecretKeys::seal`]; `None` for another key's form, or one sealed under a secret that is gone.
    #[cfg_attr(not(test), expect(dead_code, reason = "request signatures need the secret itself; their issue comes"))]
    pub(super) fn open(&self, key_id: &str, sealed: &[u8]) -> Option<Secret<String>> {
        let (&[SEALED_FORMAT], rest) = sealed.split_first_chunk::<1>()? else { return None };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        [Some(&self.current), self.before.as_ref()].into_iter().flatten().find_map(|pair| {
            let mut text = text.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let plain = pair.seal.open_in_place(nonce, Aad::from(key_id), &mut text).ok()?;
            String::from_utf8(plain.to_vec()).ok().map(Secret::new)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use registry_core::vocabulary::ids::{ClusterId, Lineage};

    use super::*;

    pub(in crate::auth) fn cluster(secret: u8, before: Option<u8>) -> ClusterRow {
        ClusterRow {
            cluster: ClusterId(7),
            lineage: Lineage(1),
            region: "eu-central-1".into(),
            region_number: 1,
            feature_level: 1,
            created_at_ms: 0,
            token_secret: [secret; 32],
            token_secret_before: before.map(|byte| [byte; 32]),
        }
    }

    // A hash verifies its own key and secret only, also after the cluster's secret changed once, not after twice.
    #[test]
    fn hash_and_seal() {
        let secret = random::secret_access_key();
        let keys = SecretKeys::of(&cluster(1, None));
        let (hash, sealed) = (keys.hash("PTLNA", &secret), keys.seal("PTLNA", &secret));
        assert!(keys.verify("PTLNA", secret.expose(), &hash));
        assert!(!keys.verify("PTLNB", secret.expose(), &hash));
        assert!(!keys.verify("PTLNA", &secret.expose()[1..], &hash));
        assert_ne!(sealed, keys.seal("PTLNA", &secret));
        assert_eq!(keys.open("PTLNA", &sealed), Some(secret.clone()));
        assert_eq!(keys.open("PTLNB", &sealed), None);
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(keys.open("PTLNA", &changed).is_none() && keys.open("PTLNA", &[]).is_none());
        let once = SecretKeys::of(&cluster(2, Some(1)));
        assert!(once.verify("PTLNA", secret.expose(), &hash) && once.open("PTLNA", &sealed).is_some());
        let twice = SecretKeys::of(&cluster(3, Some(2)));
        assert!(!twice.verify("PTLNA", secret.expose(), &hash) && twice.open("PTLNA", &sealed).is_none());
        assert!(!sealed.windows(8).any(|bytes| secret.expose().as_bytes().windows(8).any(|plain| plain == bytes)));
    }

    // T9: what a person may have thought up is no secret.
    #[test]
    fn key_files() {
        let good = "ROOTKEY000000000:4f9a0c1be2d35768a9b0c1d2e3f40516\n";
        assert_eq!(parse_key_file(good).unwrap().0, "ROOTKEY000000000");
        for (bad, error) in [
            ("", KeyFileError::Form),
            ("admin", KeyFileError::Form),
            ("a:b\nc:d", KeyFileError::Form),
            ("admin:4f9a0c1be2d35768a9b0c1d2e3f40516", KeyFileError::KeyId),
            ("ROOTKEY00000000-:4f9a0c1be2d35768a9b0c1d2e3f40516", KeyFileError::KeyId),
            ("ROOTKEY000000000:admin", KeyFileError::Weak),
            ("ROOTKEY000000000:", KeyFileError::Weak),
            ("ROOTKEY000000000:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", KeyFileError::Weak),
            ("ROOTKEY000000000:4f9a0c1be2d35768 9b0c1d2e3f405167", KeyFileError::Weak),
        ] {
            assert_eq!(parse_key_file(bad), Err(error), "{bad}");
        }
    }
}
