//! Tags: human names that point at one manifest digest each.
//!
//! Source: OCI distribution specification 1.1 (`<reference>` as a tag), M13, M15. A tag that looks like a digest
//! (`sha256-<hex>.sig`) is a plain tag.

use std::sync::Arc;

use super::limits::TAG_BYTES_MAX;
use super::text::text;

/// Why a string is not a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Nothing at all.
    #[error("a tag has at least one character")]
    Empty,
    /// Longer than [`TAG_BYTES_MAX`].
    #[error("a tag has at most {TAG_BYTES_MAX} characters")]
    TooLong,
    /// Outside `[a-zA-Z0-9_][a-zA-Z0-9._-]*`.
    #[error("a tag is made of letters, digits, '_', '.' and '-', and begins with a letter, digit or '_'")]
    Grammar,
}

/// Digits of a digest in a tag that is made of one (OCI distribution specification 1.1, "Referrers Tag Schema").
const DIGEST_TAG_DIGITS: usize = 64;

/// A tag, for example `latest` or `1.2.0`. Ordered by bytes, as lists of tags are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    pub fn parse(text: &str) -> Result<Tag, TagError> {
        let (first, rest) = text.as_bytes().split_first().ok_or(TagError::Empty)?;
        if text.len() > TAG_BYTES_MAX {
            return Err(TagError::TooLong);
        }
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if !is_word(first) || !rest.iter().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-')) {
            return Err(TagError::Grammar);
        }
        Ok(Tag(text.into()))
    }

    /// Whether it is made of the digest of a manifest, as the tags of what belongs to one are: cosign's signatures,
    /// attestations and SBOMs (`sha256-<hex>.sig`), and lists of referrers by the OCI tag schema (`sha256-<hex>`, of a
    /// longer digest its first 64 digits).
    pub fn is_of_digest(&self) -> bool {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let rest = ["sha256-", "sha512-"].iter().find_map(|algorithm| self.0.strip_prefix(algorithm));
        let parts = rest.and_then(|rest| rest.split_at_checked(DIGEST_TAG_DIGITS));
        parts.is_some_and(|(digits, behind)| {
            let is_whole = behind.is_empty() || behind.len() > 1 && behind.starts_with('.');
            is_whole && digits.bytes().all(is_digit)
        })
    }
}

text!(Tag, TagError);

#[cfg(test)]
mod tests {
    use super::*;

    // M13, M15: the OCI grammar and nothing else; odd signature tags are plain tags.
    #[test]
    fn parse_table() {
        let longest = "x".repeat(128);
        for good in ["latest", "1.0", "_", "A", "0-_.", "sha256-zz.sig", "sha256-.att", &longest] {
            assert_eq!(Tag::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Tag::parse(""), Err(TagError::Empty));
        assert_eq!(Tag::parse(&"x".repeat(129)), Err(TagError::TooLong));
        for bad in [".a", "-a", "a b", "a/b", "a:b", "a@b", "a+b", "ä", "a\0", "a\n", "a%20b", "\u{202e}a"] {
            assert_eq!(Tag::parse(bad), Err(TagError::Grammar), "{bad:?}");
        }
    }

    // Only whole digests, in lower case, with nothing but an ending behind them.
    #[test]
    fn tags_of_digests() {
        let hex = "0123456789abcdef".repeat(4);
        let is_of_digest = |text: &str| Tag::parse(text).unwrap().is_of_digest();
        for good in ["", ".sig", ".att", ".sbom", ".0123456789abcdef.meta"] {
            assert!(is_of_digest(&format!("sha256-{hex}{good}")), "{good}");
        }
        assert!(is_of_digest(&format!("sha512-{hex}")));
        for bad in [
            format!("sha256-{hex}."),
            format!("sha256-{hex}0"),
            format!("sha256-{hex}-sig"),
            format!("sha256-{}", hex.to_uppercase()),
            format!("sha256-{}", &hex[1..]),
            format!("md5-{hex}"),
            format!("x-sha256-{hex}"),
            "sha256-.sig".to_owned(),
            "sha256-zz.sig".to_owned(),
            hex,
        ] {
            assert!(!is_of_digest(&bad), "{bad}");
        }
    }
}
