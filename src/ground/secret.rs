//! Values that must never be printed, and how to compare and read them.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Serialize, Serializer};
use sha2::Sha256;

use super::files;
use super::random;

/// What is printed in place of a secret.
pub const MASK: &str = "***";

/// Largest file that is read as a secret, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A value that prints and serializes as `***`; only [`Secret::expose`] gives it out.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Secret<T> {
        Secret(value)
    }

    /// The value itself: for the one place that uses it, never for a log, an error or an answer.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: AsRef<[u8]>> Secret<T> {
    /// Whether `candidate` is the same bytes; takes equally long wherever they differ and however long they are.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        equal(self.0.as_ref(), candidate)
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MASK)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(MASK)
    }
}

impl<T> Serialize for Secret<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<T: AsRef<[u8]>> PartialEq for Secret<T> {
    fn eq(&self, other: &Secret<T>) -> bool {
        equal(self.0.as_ref(), other.0.as_ref())
    }
}

impl<T: AsRef<[u8]>> Eq for Secret<T> {}

/// Compares two byte strings without telling by time where they differ, or whether only their lengths do.
///
/// Both are hashed under a key of this process, and the hashes are compared in constant time.
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    let key = KEY.get_or_init(random::bytes);
    let mac = |bytes: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(bytes);
        mac
    };
    let expected = mac(left).finalize().into_bytes();
    mac(right).verify_slice(&expected).is_ok()
}

/// Why a file did not give a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It has no content.
    #[error("is empty")]
    Empty,
    /// It is longer than any secret.
    #[error("is larger than {SECRET_FILE_BYTES_MAX} bytes, so it is no secret")]
    TooLarge,
}

/// Reads a secret from a file, without the line end that editors leave; with the warning to give when others may read
/// it.
///
/// # Errors
/// When the file can't be read, is empty or is far too long.
pub fn read_file(path: &Path) -> Result<(Secret<String>, Option<String>), SecretFileError> {
    if std::fs::metadata(path)?.len() > SECRET_FILE_BYTES_MAX {
        return Err(SecretFileError::TooLarge);
    }
    let text = std::fs::read_to_string(path)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(SecretFileError::Empty);
    }
    Ok((Secret::new(text.to_owned()), files::permission_warning(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // T10: no way of printing gives the value away.
    #[test]
    fn prints_stars() {
        let secret = Secret::new("hunter2".to_owned());
        let all = format!("{secret} {secret:?} {:#?} {}", Some(&secret), serde_json::to_string(&secret).unwrap());
        assert!(!all.contains("hunter2"));
        assert_eq!(all.matches(MASK).count(), 4);
        assert_eq!(secret.expose(), "hunter2");
    }

    // T7: equal is equal, and nothing else is, prefixes and empty strings included.
    #[test]
    fn compares() {
        let secret = Secret::new("hunter2".to_owned());
        assert!(secret.matches(b"hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2", "hunter3"] {
            assert!(!secret.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(equal(b"", b""));
    }

    // A secret file is read without its line end; an empty, missing or huge one is refused; a readable one is told.
    #[test]
    fn from_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(read_file(&path), Err(SecretFileError::Unreadable(_))));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read_file(&path), Err(SecretFileError::Empty)));
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(matches!(read_file(&path), Err(SecretFileError::TooLarge)));
        std::fs::write(&path, "hunter2\r\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (secret, warning) = read_file(&path).unwrap();
        assert_eq!((secret.expose().as_str(), warning), ("hunter2", None));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let warning = read_file(&path).unwrap().1.unwrap();
        assert!(warning.contains("mode 0644") && warning.contains("chmod 600"), "{warning}");
    }
}
