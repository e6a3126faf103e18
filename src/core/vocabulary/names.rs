//! Names of places and people: regions, zones, users.

use std::sync::Arc;

use super::limits::{PLACE_NAME_BYTES_MAX, USER_NAME_BYTES_MAX};
use super::text::text;

/// Why a string is not the name of a zone or a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a zone or region name has 1 to {PLACE_NAME_BYTES_MAX} lower-case letters, digits and '-', and begins and \
     ends with a letter or digit"
)]
pub struct PlaceNameError;

/// Why a string is not a user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user name has 1 to {USER_NAME_BYTES_MAX} letters, digits and _ . @ + = , -")]
pub struct UserNameError;

/// A failure domain inside a region (an availability zone), for example `zone-a`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ZoneName(Arc<str>);

/// A latency domain: one cluster, for example `eu-central-1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionName(Arc<str>);

/// A user of a registry. Source: IAM's grammar (`[\w+=,.@-]{1,64}`), which holds no `:` and so fits Basic credentials.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(Arc<str>);

impl ZoneName {
    /// Parses a DNS label in lower case.
    pub fn parse(text: &str) -> Result<ZoneName, PlaceNameError> {
        if is_place(text) { Ok(ZoneName(text.into())) } else { Err(PlaceNameError) }
    }
}

impl RegionName {
    /// Parses a DNS label in lower case.
    pub fn parse(text: &str) -> Result<RegionName, PlaceNameError> {
        if is_place(text) { Ok(RegionName(text.into())) } else { Err(PlaceNameError) }
    }
}

impl UserName {
    /// Parses 1 to 64 characters of `[A-Za-z0-9_+=,.@-]`.
    pub fn parse(text: &str) -> Result<UserName, UserNameError> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if text.is_empty() || text.len() > USER_NAME_BYTES_MAX || !text.bytes().all(is_legal) {
            return Err(UserNameError);
        }
        Ok(UserName(text.into()))
    }
}

fn is_place(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= PLACE_NAME_BYTES_MAX
        && bytes.first().is_some_and(is_word)
        && bytes.last().is_some_and(is_word)
        && bytes.iter().all(|byte| is_word(byte) || *byte == b'-')
}

text!(ZoneName, PlaceNameError);
text!(RegionName, PlaceNameError);
text!(UserName, UserNameError);

#[cfg(test)]
mod tests {
    use super::*;

    // Places are DNS labels; users are IAM names and cannot hold what separates a credential or a path.
    #[test]
    fn parse_table() {
        for good in ["a", "zone-a", "eu-central-1", "1"] {
            assert_eq!(ZoneName::parse(good).unwrap().as_str(), good);
            assert_eq!(RegionName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert_eq!(ZoneName::parse(bad), Err(PlaceNameError), "{bad}");
            assert_eq!(RegionName::parse(bad), Err(PlaceNameError), "{bad}");
        }
        for good in ["root", "ci+bot=1,a.b@example-x_Y", &"a".repeat(64)] {
            assert_eq!(UserName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a:b", "a/b", "a b", "a*", "ä", "a\n", &"a".repeat(65)] {
            assert_eq!(UserName::parse(bad), Err(UserNameError), "{bad}");
        }
    }
}
