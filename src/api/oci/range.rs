//! Byte ranges: of a blob that is read, and of a chunk that is sent.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, IF_RANGE, RANGE};
use registry_core::vocabulary::Refusal;

/// What part of a blob a `GET` is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it, 200.
    Whole,
    /// A part that is not empty, 206.
    Range(Range<u64>),
    /// Nothing that is asked for exists, 416.
    Unsatisfiable,
}

/// Reads `Range` and `If-Range` (RFC 9110 §13.1.5, §14.2). One range is served. Several, other units and what cannot be
/// read are answered with the whole blob, as the RFC allows; so ten thousand overlapping ranges cost no more than none
/// (B11). A range that ends before it begins is unsatisfiable, as the OCI conformance program has it.
pub(super) fn part(headers: &HeaderMap, size_bytes: u64, etag: &str) -> Part {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Part::Whole };
    if headers.get(IF_RANGE).is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Part::Whole;
    }
    let Some((unit, spec)) = line.to_str().ok().and_then(|line| line.split_once('=')) else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size_bytes),
        (Some(first), None) if last.is_empty() => first..size_bytes,
        (None, Some(suffix)) if first.is_empty() => size_bytes.saturating_sub(suffix)..size_bytes,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Unsatisfiable } else { Part::Range(range) }
}

/// Digits only; more than fit are as good as the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Where a chunk says it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Offset of its first byte.
    pub(super) offset: u64,
    /// How many bytes it has.
    pub(super) length: u64,
}

/// Reads `Content-Range: <first>-<last>` of a chunk (specification, "Pushing a blob in chunks"); also as
/// `bytes <first>-<last>/<total>`, as HTTP has it. `None` without the header: the chunk belongs where the upload ends.
pub(super) fn chunk(headers: &HeaderMap) -> Result<Option<Chunk>, Refusal> {
    let invalid = |detail: &str| Refusal::UploadInvalid { detail: detail.to_owned() };
    let mut lines = headers.get_all(CONTENT_RANGE).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(invalid("Content-Range is given more than once"));
    }
    let chunk = line.to_str().ok().and_then(parse_chunk);
    let chunk = chunk.ok_or_else(|| invalid("Content-Range must be <first byte>-<last byte>"))?;
    match content_length(headers) {
        Some(length) if length != chunk.length => Err(invalid("Content-Range and Content-Length differ")),
        Some(_) | None => Ok(Some(chunk)),
    }
}

fn parse_chunk(line: &str) -> Option<Chunk> {
    let line = line.trim();
    let line = line.strip_prefix("bytes ").map_or(line, str::trim_start);
    let range = match line.split_once('/') {
        Some((range, total)) if total == "*" || exact(total).is_some() => range,
        Some(_) => return None,
        None => line,
    };
    let (first, last) = range.split_once('-')?;
    let (first, last) = (exact(first)?, exact(last)?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some(Chunk { offset: first, length })
}

fn exact(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The length the body will have, if the client said so. The listener has refused what is no number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok().and_then(exact)
}

#[cfg(test)]
mod tests {
    use axum::http::header::HeaderName;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).fold(
            HeaderMap::new(),
            |mut all, (name, value)| {
                all.append(name, value);
                all
            },
        )
    }

    // B11: one range is served, cut to the blob; nonsense and many ranges are the whole; beyond the end is 416.
    #[test]
    fn part_table() {
        let many = format!("bytes={}", "0-1,".repeat(10_000));
        for (range, expected) in [
            ("bytes=0-0", Part::Range(0..1)),
            ("bytes=500-1499", Part::Range(500..1500)),
            ("bytes=500-", Part::Range(500..2048)),
            ("bytes=-500", Part::Range(1548..2048)),
            ("bytes=-5000", Part::Range(0..2048)),
            ("bytes=2000-5000", Part::Range(2000..2048)),
            ("bytes=0-99999999999999999999999", Part::Range(0..2048)),
            ("Bytes = 1-2 ", Part::Range(1..3)),
            ("bytes=500-0", Part::Unsatisfiable),
            ("bytes=2048-", Part::Unsatisfiable),
            ("bytes=5000-10000", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=0-1,5-6", Part::Whole),
            (&many, Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=1", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=1 - 2", Part::Whole),
            ("items=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(&headers(&[(RANGE, range)]), 2048, "\"e\""), expected, "{range}");
        }
        assert_eq!(part(&HeaderMap::new(), 2048, "\"e\""), Part::Whole);
        assert_eq!(part(&headers(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")]), 2048, "\"e\""), Part::Whole);
        assert_eq!(
            part(&headers(&[(RANGE, "bytes=0-")]), 0, "\"e\""),
            Part::Unsatisfiable,
            "a blob of no bytes has no range"
        );
    }

    // A range under a condition that does not hold is the whole: the client's part is of something else.
    #[test]
    fn if_range_table() {
        for (condition, expected) in [
            ("\"e\"", Part::Range(0..2)),
            ("\"f\"", Part::Whole),
            ("W/\"e\"", Part::Whole),
            ("Tue, 15 Nov 1994 12:45:26 GMT", Part::Whole),
        ] {
            let found = part(&headers(&[(RANGE, "bytes=0-1"), (IF_RANGE, condition)]), 2048, "\"e\"");
            assert_eq!(found, expected, "{condition}");
        }
    }

    // B2: a chunk says where it belongs, consistently, or it is refused; whether it belongs there the upload knows.
    #[test]
    fn chunk_table() {
        let at = |offset, length| Ok(Some(Chunk { offset, length }));
        for (range, length, expected) in [
            ("0-4", "5", at(0, 5)),
            ("5-5", "1", at(5, 1)),
            ("bytes 5-9/*", "5", at(5, 5)),
            ("bytes 5-9/10", "5", at(5, 5)),
            ("4294967296-8589934591", "4294967296", at(1 << 32, 1 << 32)),
        ] {
            assert_eq!(chunk(&headers(&[(CONTENT_RANGE, range), (CONTENT_LENGTH, length)])), expected, "{range}");
        }
        assert_eq!(chunk(&headers(&[(CONTENT_RANGE, "0-4")])), at(0, 5));
        assert_eq!(chunk(&headers(&[(CONTENT_LENGTH, "5")])), Ok(None));
        for bad in [
            "",
            "0",
            "-",
            "0-",
            "-4",
            "4-0",
            "a-b",
            "0-4-5",
            "+0-4",
            "0--4",
            "0x0-4",
            "*/5",
            "bytes */5",
            "0-4/x",
            "0-4/",
            "0-18446744073709551615",
            "0-18446744073709551616",
            "bytes=0-4",
            "0-5",
        ] {
            let found = chunk(&headers(&[(CONTENT_RANGE, bad), (CONTENT_LENGTH, "5")]));
            assert!(matches!(found, Err(Refusal::UploadInvalid { .. })), "{bad}: {found:?}");
        }
        let twice = headers(&[(CONTENT_RANGE, "0-4"), (CONTENT_RANGE, "5-9")]);
        assert!(matches!(chunk(&twice), Err(Refusal::UploadInvalid { .. })));
    }

    proptest::proptest! {
        // B2, B10, B11: whatever a header says, a part lies inside the blob, and a chunk has the length it claims.
        #[test]
        fn ranges_of_noise(text in "(bytes[ =])?[0-9]{0,21}-?[0-9]{0,21}(/[0-9*]{0,21})?|[ -~]{0,40}", size in proptest::num::u64::ANY) {
            let size = size >> 1;
            if let Part::Range(range) = part(&headers(&[(RANGE, &text)]), size, "\"e\"") {
                proptest::prop_assert!(range.start < range.end && range.end <= size, "{} of {}", text, size);
            }
            if let Ok(Some(Chunk { offset, length })) = chunk(&headers(&[(CONTENT_RANGE, &text)])) {
                proptest::prop_assert!(length > 0 && offset.checked_add(length - 1).is_some(), "{}", text);
                let last = offset + (length - 1);
                let told = [offset, last].iter().all(|number| text.contains(&number.to_string()));
                proptest::prop_assert!(told, "{} is no chunk of {} bytes at {}", text, length, offset);
            }
        }
    }
}
