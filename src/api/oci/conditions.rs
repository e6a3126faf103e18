//! Conditional requests (RFC 9110 §13): an entity tag here is a digest in quotes.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use registry_core::vocabulary::limits::ACCEPT_TYPES_MAX;
use registry_core::vocabulary::{Digest, Reference, Refusal};

/// The entity tag of a digest.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The tags of a condition, over all its lines, without quotes and marks of weakness: content under one digest is the
/// same, so weak and strong comparison agree.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let values = lines.flat_map(|line| line.split(',')).take(ACCEPT_TYPES_MAX).map(str::trim);
    values.map(|value| {
        let value = value.strip_prefix("W/").unwrap_or(value);
        value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
    })
}

/// Whether the client has this content already (`If-None-Match`): 304 then.
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let text = digest.to_string();
    tags(headers, &IF_NONE_MATCH).any(|tag| tag == "*" || tag == text)
}

/// What a tag must name for a `PUT` to set it: `If-Match: "<digest>"` or `If-None-Match: *`. `None` without condition.
pub(super) fn expected(headers: &HeaderMap, reference: &Reference) -> Result<Option<Option<Digest>>, Refusal> {
    let invalid = |parameter: &HeaderName, detail: &str| Refusal::ParameterInvalid {
        parameter: parameter.as_str().to_owned(),
        detail: detail.to_owned(),
    };
    let (matches, none) = (headers.contains_key(IF_MATCH), headers.contains_key(IF_NONE_MATCH));
    if (matches || none) && reference.tag().is_none() {
        let name = if matches { IF_MATCH } else { IF_NONE_MATCH };
        return Err(invalid(&name, "a condition needs a tag: what a digest names does not change"));
    }
    match (matches, none) {
        (false, false) => Ok(None),
        (true, true) => Err(invalid(&IF_MATCH, "it is not used together with If-None-Match")),
        (false, true) => {
            if tags(headers, &IF_NONE_MATCH).eq(["*"]) {
                Ok(Some(None))
            } else {
                Err(invalid(&IF_NONE_MATCH, "on a push only '*' is understood: the tag must not exist"))
            }
        }
        (true, false) => {
            let mut wanted = tags(headers, &IF_MATCH);
            let digest = wanted.next().and_then(|tag| Digest::parse(tag).ok());
            match (digest, wanted.next()) {
                (Some(digest), None) => Ok(Some(Some(digest))),
                _ => Err(invalid(&IF_MATCH, "on a push it is one digest in quotes: what the tag names now")),
            }
        }
    }
}

/// What a tag must name for a `DELETE` to drop it: `If-Match: "<digest>"`.
pub(super) fn expected_of_delete(headers: &HeaderMap, reference: &Reference) -> Result<Option<Digest>, Refusal> {
    match expected(headers, reference)? {
        None => Ok(None),
        Some(Some(digest)) => Ok(Some(digest)),
        Some(None) => Err(Refusal::ParameterInvalid {
            parameter: IF_NONE_MATCH.as_str().to_owned(),
            detail: "what is not there can't be deleted; only If-Match is understood".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append((*name).clone(), value.parse().unwrap());
        }
        headers
    }

    // A client that names what it has, in any of the ways HTTP knows, need not get it again.
    #[test]
    fn is_known_table() {
        let digest = Digest::sha256(b"x");
        let tag = etag(&digest);
        for (value, known) in [
            (tag.clone(), true),
            (format!("W/{tag}"), true),
            (format!("\"other\", {tag}"), true),
            ("*".to_owned(), true),
            (digest.to_string(), true),
            ("\"other\"".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_known(&headers(&[(&IF_NONE_MATCH, &value)]), &digest), known, "{value}");
        }
        assert!(is_known(&headers(&[(&IF_NONE_MATCH, "\"a\""), (&IF_NONE_MATCH, &tag)]), &digest));
        assert!(!is_known(&HeaderMap::new(), &digest));
    }

    // A push under a condition says exactly what the tag must name, or it is refused rather than done without it.
    #[test]
    fn expected_table() {
        let digest = Digest::sha256(b"x");
        let (tag, by_tag) = (etag(&digest), Reference::parse("latest").unwrap());
        assert_eq!(expected(&HeaderMap::new(), &by_tag), Ok(None));
        assert_eq!(expected(&headers(&[(&IF_MATCH, &tag)]), &by_tag), Ok(Some(Some(digest))));
        assert_eq!(expected(&headers(&[(&IF_NONE_MATCH, "*")]), &by_tag), Ok(Some(None)));
        let two = format!("{tag}, \"other\"");
        for bad in [
            &[(&IF_MATCH, "*")][..],
            &[(&IF_MATCH, "\"latest\"")],
            &[(&IF_MATCH, "")],
            &[(&IF_MATCH, &two)],
            &[(&IF_NONE_MATCH, &tag)],
            &[(&IF_NONE_MATCH, "*"), (&IF_MATCH, &tag)],
        ] {
            let found = expected(&headers(bad), &by_tag);
            assert!(matches!(found, Err(Refusal::ParameterInvalid { .. })), "{bad:?}: {found:?}");
        }
        let by_digest = Reference::Digest(digest);
        assert!(expected(&headers(&[(&IF_MATCH, &tag)]), &by_digest).is_err());
        assert_eq!(expected(&HeaderMap::new(), &by_digest), Ok(None));
    }
}
