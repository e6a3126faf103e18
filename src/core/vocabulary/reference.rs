//! References: a tag or a digest, as they stand in a URL. Never both, never guessed.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

use super::digest::{Digest, DigestError};
use super::tag::{Tag, TagError};

/// Why a string is not a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It holds a colon, so it was meant as a digest, and is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It holds no colon, so it was meant as a tag, and is none.
    #[error(transparent)]
    Tag(#[from] TagError),
}

/// What names a manifest within a repository.
///
/// No tag contains a colon and every digest does, so the two never overlap (M16): a digest is never looked up among
/// tags.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Reference {
    /// A tag.
    Tag(Tag),
    /// A digest.
    Digest(Digest),
}

impl Reference {
    /// Parses a reference that was percent-decoded once.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.contains(':') {
            Ok(Reference::Digest(Digest::parse(text)?))
        } else {
            Ok(Reference::Tag(Tag::parse(text)?))
        }
    }

    /// The tag, if it is one.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        }
    }

    /// The digest, if it is one.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Reference::Tag(_) => None,
            Reference::Digest(digest) => Some(digest),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => fmt::Display::fmt(tag, out),
            Reference::Digest(digest) => fmt::Display::fmt(digest, out),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    // M8, M16: a colon makes a digest and nothing falls back to the other kind.
    #[test]
    fn parse_table() {
        assert!(matches!(Reference::parse("latest"), Ok(Reference::Tag(_))));
        assert!(matches!(Reference::parse(HEX), Ok(Reference::Tag(_))));
        assert!(matches!(Reference::parse(&format!("sha256-{HEX}")), Ok(Reference::Tag(_))));
        assert!(matches!(Reference::parse(&format!("sha256:{HEX}")), Ok(Reference::Digest(_))));
        for (text, error) in [
            ("", ReferenceError::Tag(TagError::Empty)),
            ("a/b", ReferenceError::Tag(TagError::Grammar)),
            (&format!("sha256%3A{HEX}"), ReferenceError::Tag(TagError::Grammar)),
            ("latest:1", ReferenceError::Digest(DigestError::Algorithm)),
            ("sha256:latest", ReferenceError::Digest(DigestError::Hex)),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", ReferenceError::Digest(DigestError::Algorithm)),
            (&format!("latest@sha256:{HEX}"), ReferenceError::Digest(DigestError::Algorithm)),
        ] {
            assert_eq!(Reference::parse(text), Err(error), "{text}");
        }
    }
}
