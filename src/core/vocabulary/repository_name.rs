//! Repository names: the OCI grammar, checked once and after one decoding.
//!
//! Source: OCI distribution specification 1.1 (`<name>`), ECR's pattern (the same language) and length. The policy and
//! the storage see exactly these bytes, so look-alikes (case, dot segments, doubled slashes) do not exist inside.

use std::sync::Arc;

use super::limits::REPOSITORY_NAME_BYTES_MAX;
use super::text::text;

/// Why a string is not a repository name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryNameError {
    /// Nothing at all.
    #[error("a repository name has at least one character")]
    Empty,
    /// Longer than [`REPOSITORY_NAME_BYTES_MAX`].
    #[error("a repository name has at most {REPOSITORY_NAME_BYTES_MAX} characters")]
    TooLong,
    /// Outside the grammar.
    #[error(
        "a repository name is made of lower-case letters and digits, separated by single '.', single or double '_', \
         any number of '-', or '/', and neither begins nor ends with a separator"
    )]
    Grammar,
}

/// The name of a repository within its registry, for example `team/app`. Slashes carry no hierarchy of objects.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// Parses `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`, at most [`REPOSITORY_NAME_BYTES_MAX`] bytes.
    pub fn parse(text: &str) -> Result<RepositoryName, RepositoryNameError> {
        if text.is_empty() {
            return Err(RepositoryNameError::Empty);
        }
        if text.len() > REPOSITORY_NAME_BYTES_MAX {
            return Err(RepositoryNameError::TooLong);
        }
        if !text.split('/').all(is_component) {
            return Err(RepositoryNameError::Grammar);
        }
        Ok(RepositoryName(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| is_word(byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|byte| !is_word(byte)).count();
        let is_legal = match &rest[..separator] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|byte| *byte == b'-'),
        };
        if !is_legal {
            return false;
        }
        rest = &rest[separator..];
    }
}

text!(RepositoryName, RepositoryNameError);

#[cfg(test)]
mod tests {
    use super::*;

    // A24, B13: only the OCI grammar is a name; words of the API inside a name are fine.
    #[test]
    fn parse_table() {
        for good in [
            "a",
            "7",
            "team/app",
            "a/blobs/uploads/b",
            "x/manifests/y",
            "a.b_c__d-e---f/0",
            "v2",
            "tags/list",
            &"a".repeat(256),
        ] {
            assert_eq!(RepositoryName::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(RepositoryName::parse(""), Err(RepositoryNameError::Empty));
        assert_eq!(RepositoryName::parse(&"a".repeat(257)), Err(RepositoryNameError::TooLong));
        for bad in [
            "A", "Team/app", "a//b", "/a", "a/", "a..b", "../a", "a/../b", ".", "..", "a/.", "a.", ".a", "-a", "a-",
            "_a", "a___b", "a._b", "a-_b", "a b", "a%2fb", "a%2e%2e", "a:b", "a@b", "a\0b", "a\nb", "ä", "a/ä",
            "_catalog", "a\\b", "a+b", "a*",
        ] {
            assert_eq!(RepositoryName::parse(bad), Err(RepositoryNameError::Grammar), "{bad:?}");
        }
    }

    // A record with an impossible name does not decode.
    #[test]
    fn decoding_parses() {
        let config = bincode::config::standard();
        let name = RepositoryName::parse("a/b").unwrap();
        let bytes = bincode::encode_to_vec(&name, config).unwrap();
        assert_eq!(bytes, b"\x03a/b");
        assert_eq!(bincode::decode_from_slice::<RepositoryName, _>(&bytes, config).unwrap(), (name, 4));
        assert!(bincode::decode_from_slice::<RepositoryName, _>(b"\x03a/B", config).is_err());
    }

    proptest::proptest! {
        // The hand-written grammar agrees with one derived from the specification's expression, letter by letter.
        #[test]
        fn agrees_with_rival(text in "[a0./_-]{0,12}") {
            proptest::prop_assert_eq!(RepositoryName::parse(&text).is_ok(), rival(&text));
        }
    }

    /// Reduces separators step by step until only words and slashes are left.
    fn rival(text: &str) -> bool {
        let words: String = text.chars().map(|c| if c == '0' { 'a' } else { c }).collect();
        !words.is_empty()
            && words.split('/').all(|component| {
                let mut left = component.to_owned();
                while left.contains("aa") || left.contains("a-a") || left.contains("a--") {
                    left = left.replace("aa", "a").replace("a-a", "a").replace("a--", "a-");
                }
                while left.contains("a.a") || left.contains("a_a") || left.contains("a__a") {
                    left = left.replace("a.a", "a").replace("a_a", "a").replace("a__a", "a").replace("aa", "a");
                    left = left.replace("a-a", "a");
                }
                left == "a"
            })
    }
}
