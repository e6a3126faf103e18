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
}
