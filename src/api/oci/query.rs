//! Query parameters: decoded once, looked at only where an endpoint asks for them; all others are ignored (`ns`,
//! `origin`).

use std::borrow::Cow;

use registry_core::vocabulary::limits::TOKEN_SCOPES_MAX;
use registry_core::vocabulary::{Digest, Refusal};

/// Parameters looked at in one request.
const PARAMETERS_MAX: usize = 2 * TOKEN_SCOPES_MAX;

/// The query of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The part of the request target behind `?`, or nothing.
    pub(super) fn new(text: Option<&'a str>) -> Query<'a> {
        Query(text.unwrap_or(""))
    }

    /// The parameters as they stand, not decoded.
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parts = self.0.split('&').filter(|part| !part.is_empty()).take(PARAMETERS_MAX);
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    /// All values of a parameter. `+` stands for itself: no value here holds a blank, and media types hold `+`.
    pub(super) fn all(self, name: &'static str) -> impl Iterator<Item = Result<Cow<'a, str>, Refusal>> {
        self.pairs().filter(move |(key, _)| *key == name).map(move |(_, value)| decode(name, value))
    }

    /// All values of a parameter that holds words: `+` stands for the blank between them, as forms have it.
    pub(super) fn words(self, name: &'static str) -> impl Iterator<Item = Result<String, Refusal>> {
        let values = self.pairs().filter(move |(key, _)| *key == name);
        values.map(move |(_, value)| decode(name, &value.replace('+', " ")).map(Cow::into_owned))
    }

    /// The value of a parameter that is given once at most; an empty one counts as none.
    pub(super) fn one(self, name: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
        let mut values = self.all(name);
        let first = values.next().transpose()?;
        if values.next().is_some() {
            let detail = "it is given more than once".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: name.to_owned(), detail });
        }
        Ok(first.filter(|value| !value.is_empty()))
    }

    /// A digest that is given once at most; two of them are no digest (M7).
    pub(super) fn digest(self, name: &'static str) -> Result<Option<Digest>, Refusal> {
        let invalid = |detail: String| Refusal::DigestInvalid { detail };
        match self.one(name) {
            Ok(Some(text)) => Digest::parse(&text).map(Some).map_err(|error| invalid(error.to_string())),
            Ok(None) => Ok(None),
            Err(_) => Err(invalid(format!("'{name}' is given more than once, or is no text"))),
        }
    }
}

fn decode<'v>(name: &'static str, value: &'v str) -> Result<Cow<'v, str>, Refusal> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map_err(|_| Refusal::ParameterInvalid { parameter: name.to_owned(), detail: "it is not UTF-8".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values are decoded once, `+` is itself, unknown parameters do not matter, and doubles are refused where one is
    // meant.
    #[test]
    fn one_table() {
        for (query, value) in [
            ("", Ok(None)),
            ("last=", Ok(None)),
            ("last", Ok(None)),
            ("n=1&last=a&ns=docker.io", Ok(Some("a"))),
            ("last=a%2Fb", Ok(Some("a/b"))),
            ("last=%2541", Ok(Some("%41"))),
            ("last=a+b", Ok(Some("a+b"))),
            ("last=a=b", Ok(Some("a=b"))),
            ("xlast=a&lastx=b", Ok(None)),
            ("last=a&last=b", Err(())),
            ("last=a&last=a", Err(())),
            ("last=%ff", Err(())),
        ] {
            let found = Query::new(Some(query)).one("last");
            assert_eq!(found.as_ref().map(Option::as_deref).map_err(|_| ()), value, "{query}");
        }
    }

    // M7, M8: two digests, or one that is none, are DigestInvalid before anything is looked up.
    #[test]
    fn digest_table() {
        let good = format!("sha256:{}", "a".repeat(64));
        let query = format!("digest={}&x=y", good.replace(':', "%3A"));
        assert_eq!(Query::new(Some(&query)).digest("digest"), Ok(Some(Digest::parse(&good).unwrap())));
        assert_eq!(Query::new(None).digest("digest"), Ok(None));
        for bad in [format!("digest={good}&digest={good}"), "digest=md5:00".to_owned(), "digest=%ff".to_owned()] {
            let found = Query::new(Some(&bad)).digest("digest");
            assert!(matches!(found, Err(Refusal::DigestInvalid { .. })), "{bad}: {found:?}");
        }
    }

    // Scopes come apart at blanks however a client writes these, and `%2B` is a plus all the same.
    #[test]
    fn words_table() {
        let query = Query::new(Some("scope=a:b:c+d:e:f&x=y&scope=g%20h&scope=i%2Bj&scope="));
        let words: Vec<String> = query.words("scope").map(Result::unwrap).collect();
        assert_eq!(words, ["a:b:c d:e:f", "g h", "i+j", ""]);
        assert!(Query::new(Some("scope=%ff")).words("scope").all(|word| word.is_err()));
    }

    proptest::proptest! {
        // M7, M8: a digest that is read out of a query is the only one in it and spelled as it prints.
        #[test]
        fn queries_of_noise(text in "([a-z]{0,6}(=|%3D)?(sha256:|sha256%3A)?[0-9a-fA-F%+&=]{0,80}&?){0,4}|[ -~]{0,80}") {
            let query = Query::new(Some(&text));
            for name in ["digest", "mount", "last", "n", "tag", "scope", ""] {
                drop(query.one(name));
                proptest::prop_assert!(query.all(name).count() <= PARAMETERS_MAX);
                proptest::prop_assert!(query.words(name).count() <= PARAMETERS_MAX);
                if let Ok(Some(digest)) = query.digest(name) {
                    let given: Vec<_> = query.all(name).collect();
                    proptest::prop_assert_eq!(given.len(), 1);
                    proptest::prop_assert_eq!(given[0].as_deref().unwrap(), digest.to_string());
                }
            }
        }
    }

    // L9: a query of a thousand parameters is looked at only so far.
    #[test]
    fn parameters_are_bounded() {
        let query = format!("{}last=a", "x=y&".repeat(PARAMETERS_MAX));
        assert_eq!(Query::new(Some(&query)).one("last"), Ok(None));
    }
}
