//! Moments: milliseconds since 1970 in UTC, handed in from outside. Nothing here reads a clock.

use std::fmt;

use bincode::{Decode, Encode};

const DAY_MS: u64 = 24 * 3600 * 1000;
/// 9999-12-31T23:59:59.999Z: the last moment that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

/// A moment, in milliseconds since 1970-01-01T00:00:00Z, leap seconds left out.
///
/// Written as RFC 3339 with milliseconds in UTC. Own code, because core's list of dependencies stays short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment so many milliseconds after 1970; later than the year 9999 is cut down to its end.
    pub fn from_ms(ms: u64) -> Timestamp {
        Timestamp(ms.min(LAST_MS))
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds from `earlier` to here; 0 if that lies after.
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ms` later.
    pub fn plus_ms(self, ms: u64) -> Timestamp {
        Timestamp::from_ms(self.0.saturating_add(ms))
    }

    /// Parses RFC 3339 (`2026-01-02T03:04:05[.678](Z|±hh:mm)`) or a date alone (`2026-01-02`, midnight UTC), from
    /// 1970 on.
    ///
    /// Source: ISO 8601 as the policy language's date operators take it. Digits finer than a millisecond are dropped.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let date = text.get(..10)?;
        let [year, month, day] = numbers(date, b'-', [4, 2, 2])?;
        let days = days_from_civil(year, month, day)?;
        let rest = &text[10..];
        if rest.is_empty() {
            return Some(Timestamp(days.checked_mul(DAY_MS)?));
        }
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let [hour, minute, second] = numbers(rest.get(..8)?, b':', [2, 2, 2])?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (fraction_ms, rest) = fraction(&rest[8..])?;
        let local_ms = days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + fraction_ms;
        let ms = i64::try_from(local_ms).ok()?.checked_sub(offset_ms(rest)?)?;
        u64::try_from(ms).ok().filter(|ms| *ms <= LAST_MS).map(Timestamp)
    }
}

/// Fixed-width numbers with one separator, for example `2026-01-02`.
fn numbers(text: &str, separator: u8, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut out = [0; 3];
    let mut parts = text.split(char::from(separator));
    for (value, width) in out.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *value = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// `.678` as milliseconds, and what follows it.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let count = digits.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return None;
    }
    let ms = digits.bytes().take(count).chain([b'0', b'0']).take(3).fold(0, |ms, d| ms * 10 + u64::from(d - b'0'));
    Some((ms, &digits[count..]))
}

/// `Z` or `±hh:mm` as milliseconds east of UTC.
fn offset_ms(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let bytes = rest.as_bytes();
    if bytes.len() != 5 || bytes[2] != b':' || ![0, 1, 3, 4].iter().all(|at: &usize| bytes[*at].is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i64, i64) = (rest[..2].parse().ok()?, rest[3..].parse().ok()?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; `None` before 1970 or if there is no such day.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    if year < 1970 || day < 1 || day > length {
        return None;
    }
    // Years begin in March, so that the leap day is the last of its year (H. Hinnant, "days_from_civil").
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Year, month and day of the day that many days after 1970-01-01 (H. Hinnant, "civil_from_days").
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / DAY_MS);
        let ms = self.0 % DAY_MS;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Moments known from elsewhere print and parse; a day outside the calendar, or before 1970, is none.
    #[test]
    fn table() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_ms(ms).to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp(ms)));
        }
        assert_eq!(Timestamp::from_ms(u64::MAX), Timestamp(LAST_MS));
        for (text, same) in [
            ("2024-02-29", "2024-02-29T00:00:00.000Z"),
            ("2024-02-29T12:34:56Z", "2024-02-29T12:34:56.000Z"),
            ("2024-02-29T12:34:56.7891234z", "2024-02-29T12:34:56.789Z"),
            ("2024-02-29T12:34:56.5+01:30", "2024-02-29T11:04:56.500Z"),
            ("2024-02-29 23:34:56-01:00", "2024-03-01T00:34:56.000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), same, "{text}");
        }
        for bad in [
            "",
            "2023-02-29",
            "2100-02-29",
            "1969-12-31",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-1-1",
            "2024-01-01T",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1:00",
            "2024-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+00:01",
            "2024-01-01T00:00:00Zx",
            "+024-01-01",
            "2024-01-01T00:00:00+ä",
            "ä24-01-01T00:00:00Z",
            "2024-01-0ä",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        // Every moment reads back what it prints, and text sorts as time does.
        #[test]
        fn round_trip(one in 0..=LAST_MS, other in 0..=LAST_MS) {
            let (one, other) = (Timestamp(one), Timestamp(other));
            proptest::prop_assert_eq!(Timestamp::parse(&one.to_string()), Some(one));
            proptest::prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
        }

        // No text makes it panic.
        #[test]
        fn parse_is_total(text in "[0-9TZ:. +ä-]{0,32}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
