//! Paging: how many, from where, and the link to the next page (L1–L4).

use axum::http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::limits::{PAGE_ENTRIES_MAX, PAGE_TOKEN_BYTES_MAX};

use super::query::Query;

/// What is encoded in a value of a query: everything but the unreserved characters of RFC 3986 §2.3.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Paging {
    /// Entries on it at most. Zero is a page without entries and without a next one (specification, "Listing Tags").
    pub(super) limit: usize,
    /// Only entries behind this one.
    pub(super) after: Option<String>,
    /// Whether the client gave a number: the link repeats it then.
    is_limited: bool,
}

impl Paging {
    /// Reads `n` and `last`. A number above the bound is cut to it; what is no number is refused. `is_entry` tells what
    /// may be an entry of this list: nothing else was ever the end of a page (L4).
    pub(super) fn read(
        query: Query<'_>,
        default: usize,
        is_entry: impl FnOnce(&str) -> bool,
    ) -> Result<Paging, Refusal> {
        let number = query.one("n").map_err(|_| Refusal::PageInvalid)?;
        let limit = match number.as_deref() {
            None => default,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                // More digits than a number has room for is more than the bound, too.
                digits.parse().unwrap_or(usize::MAX).min(PAGE_ENTRIES_MAX)
            }
            Some(_) => return Err(Refusal::PageInvalid),
        };
        let after = query.one("last").map_err(|_| Refusal::PageInvalid)?;
        if after.as_deref().is_some_and(|after| after.len() > PAGE_TOKEN_BYTES_MAX || !is_entry(after)) {
            return Err(Refusal::PageInvalid);
        }
        Ok(Paging { limit, after: after.map(Into::into), is_limited: number.is_some() })
    }

    /// The link to the page behind `last`, relative, so that it holds behind any proxy (H8).
    pub(super) fn next(&self, path: &str, last: &str, filter: Option<(&str, &str)>) -> HeaderValue {
        let mut link = format!("<{path}?last={}", utf8_percent_encode(last, VALUE));
        if self.is_limited {
            link.push_str(&format!("&n={}", self.limit));
        }
        if let Some((name, value)) = filter {
            link.push_str(&format!("&{name}={}", utf8_percent_encode(value, VALUE)));
        }
        link.push_str(">; rel=\"next\"");
        HeaderValue::try_from(link).expect("names, digests and percent-encoding are visible ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(usize, Option<String>), Refusal> {
        Paging::read(Query::new(Some(query)), 100, |entry| entry != "bad").map(|paging| (paging.limit, paging.after))
    }

    // L1, L4, clients §12.16: numbers are bounded, nonsense is refused, and a page may be empty.
    #[test]
    fn read_table() {
        for (query, page) in [
            ("", (100, None)),
            ("n=", (100, None)),
            ("n=0", (0, None)),
            ("n=7", (7, None)),
            ("n=007", (7, None)),
            ("n=1000", (1000, None)),
            ("n=1001", (PAGE_ENTRIES_MAX, None)),
            ("n=2147483647", (PAGE_ENTRIES_MAX, None)),
            ("n=99999999999999999999999999", (PAGE_ENTRIES_MAX, None)),
            ("last=zzz", (100, Some("zzz"))),
            ("last=a%2Fb&n=2", (2, Some("a/b"))),
        ] {
            assert_eq!(read(query), Ok((page.0, page.1.map(str::to_owned))), "{query}");
        }
        let long = format!("last={}", "a".repeat(PAGE_TOKEN_BYTES_MAX + 1));
        for query in ["n=-1", "n=abc", "n=+5", "n=5.0", "n=0x10", "n=1&n=2", "last=bad", "last=a&last=b", &long] {
            assert_eq!(read(query), Err(Refusal::PageInvalid), "{query}");
        }
    }

    // clients §6: the link is relative, quoted, repeats what was asked for, and nothing in it can end it early.
    #[test]
    fn next_table() {
        let link = |query: &str, last: &str, filter| {
            let paging = Paging::read(Query::new(Some(query)), 100, |_| true).unwrap();
            paging.next("/v2/a/tags/list", last, filter).to_str().unwrap().to_owned()
        };
        assert_eq!(link("", "v1", None), r#"</v2/a/tags/list?last=v1>; rel="next""#);
        assert_eq!(link("n=2&last=x", "v1", None), r#"</v2/a/tags/list?last=v1&n=2>; rel="next""#);
        assert_eq!(
            link("n=2", "sha256:aa", Some(("artifactType", "a/b+json>\"&\r\n"))),
            r#"</v2/a/tags/list?last=sha256%3Aaa&n=2&artifactType=a%2Fb%2Bjson%3E%22%26%0D%0A>; rel="next""#
        );
    }
}
