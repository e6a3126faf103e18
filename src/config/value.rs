//! Types that a setting can have: how each is read, and how it is written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::names::{RegionName, ZoneName};
pub use registry_core::vocabulary::network::Network;

use super::raw::Given;
use crate::ground::Secret;
use crate::ground::telemetry::LogFormat;

/// A type of setting. Errors are the end of the sentence that begins with the setting and what was given.
pub(super) trait Value: Sized {
    /// Whether it may only come from the environment, and is never shown.
    const IS_SECRET: bool = false;

    /// Reads what was given.
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    fn read(given: &Given) -> Result<Self, String>;

    /// As it is written in the file; `None` for what is left out.
    fn to_toml(&self) -> Option<String>;
}

/// The text of a setting that is written as text.
fn text<'a>(given: &'a Given, expected: &str) -> Result<&'a str, String> {
    match given {
        Given::Word(text) | Given::Text(text) => Ok(text),
        Given::Number(_) | Given::Truth(_) => Err(format!("is not in quotes; write {expected}")),
        Given::List(_) | Given::Other(_) => Err(format!("is not text; write {expected}")),
    }
}

fn quoted(text: impl fmt::Display) -> Option<String> {
    Some(toml::Value::String(text.to_string()).to_string())
}

macro_rules! parsed {
    ($type:ty, $expected:literal, $parse:expr) => {
        impl Value for $type {
            fn read(given: &Given) -> Result<$type, String> {
                let parse: fn(&str) -> Option<$type> = $parse;
                parse(text(given, $expected)?).ok_or_else(|| concat!("is not understood; write ", $expected).to_owned())
            }

            fn to_toml(&self) -> Option<String> {
                quoted(self)
            }
        }
    };
}

parsed!(SocketAddr, "an IP address with a port, as \"127.0.0.1:7400\"", |text| text.parse().ok());
parsed!(IpAddr, "an IP address, as \"10.0.0.1\"", |text| text.parse().ok());
parsed!(ZoneName, "a name of lower-case letters, digits and dashes, as \"zone-a\"", |text| ZoneName::parse(text).ok());
parsed!(RegionName, "a name of lower-case letters, digits and dashes, as \"eu-1\"", |text| RegionName::parse(text)
    .ok());
parsed!(NodeId, "16 hexadecimal digits in lower case", NodeId::parse);
parsed!(Network, "an IP address with or without a prefix length, as \"10.0.0.0/8\"", Network::parse);
parsed!(PublicUrl, "a URL without a path, as \"https://registry.example.com\"", PublicUrl::parse);

impl Value for String {
    fn read(given: &Given) -> Result<String, String> {
        let text = text(given, "text in quotes")?;
        if text.is_empty() { Err("is empty; leave it out instead".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn to_toml(&self) -> Option<String> {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn read(given: &Given) -> Result<PathBuf, String> {
        let text = text(given, "a path in quotes")?;
        if text.is_empty() { Err("is empty; write a path, or leave it out".to_owned()) } else { Ok(text.into()) }
    }

    fn to_toml(&self) -> Option<String> {
        if self.as_os_str().is_empty() { None } else { quoted(self.display()) }
    }
}

impl Value for Secret<String> {
    const IS_SECRET: bool = true;

    fn read(given: &Given) -> Result<Secret<String>, String> {
        Ok(Secret::new(text(given, "text")?.to_owned()))
    }

    fn to_toml(&self) -> Option<String> {
        quoted(self)
    }
}

// Secrets are compared only for equality; the order exists so that a secret can be a setting, and tells nothing.
impl PartialOrd for Secret<String> {
    fn partial_cmp(&self, other: &Secret<String>) -> Option<std::cmp::Ordering> {
        (self == other).then_some(std::cmp::Ordering::Equal)
    }
}

impl Value for bool {
    fn read(given: &Given) -> Result<bool, String> {
        match given {
            Given::Truth(truth) => Ok(*truth),
            Given::Word(text) if text == "true" => Ok(true),
            Given::Word(text) if text == "false" => Ok(false),
            Given::Text(_) | Given::Word(_) | Given::Number(_) | Given::List(_) | Given::Other(_) => {
                Err("is neither true nor false; write one of them, without quotes".to_owned())
            }
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! number {
    ($type:ty) => {
        impl Value for $type {
            fn read(given: &Given) -> Result<$type, String> {
                let number = match given {
                    Given::Number(number) => <$type>::try_from(*number).ok(),
                    Given::Word(text) => text.parse().ok(),
                    Given::Text(_) | Given::Truth(_) | Given::List(_) | Given::Other(_) => None,
                };
                let most = <$type>::MAX;
                number.ok_or_else(|| format!("is no whole number from 0 to {most}; write digits, without quotes"))
            }

            fn to_toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    };
}

number!(u8);
number!(u16);
number!(u32);
number!(u64);

impl Value for Duration {
    fn read(given: &Given) -> Result<Duration, String> {
        let expected = "a number with its unit in quotes, as \"100ms\", \"30s\" or \"24h\"";
        if let Given::Number(_) = given {
            return Err(format!("has no unit; write {expected}"));
        }
        let parsed = humantime::parse_duration(text(given, expected)?);
        parsed.map_err(|_| format!("is not understood; write {expected}"))
    }

    fn to_toml(&self) -> Option<String> {
        quoted(humantime::format_duration(*self).to_string().replace(' ', ""))
    }
}

/// A number of bytes, written with its unit: "64MiB".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

impl ByteSize {
    /// Reads digits and a unit; without a fraction, because a size must be exact.
    pub fn parse(text: &str) -> Option<ByteSize> {
        let at = text.find(|c: char| !c.is_ascii_digit())?;
        let (digits, unit) = text.split_at(at);
        let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
        digits.parse::<u64>().ok()?.checked_mul(*bytes).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, bytes): &&(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        let (unit, bytes) = UNITS.iter().find(whole).unwrap_or(&("B", 1));
        write!(out, "{}{unit}", self.0 / bytes)
    }
}

impl Value for ByteSize {
    fn read(given: &Given) -> Result<ByteSize, String> {
        let expected = "a whole number with its unit in quotes, as \"64MiB\" or \"500GB\"";
        if let Given::Number(_) = given {
            return Err(format!("has no unit; write {expected}"));
        }
        ByteSize::parse(text(given, expected)?).ok_or_else(|| format!("is not understood; write {expected}"))
    }

    fn to_toml(&self) -> Option<String> {
        quoted(self)
    }
}

impl Value for LogFormat {
    fn read(given: &Given) -> Result<LogFormat, String> {
        match text(given, "\"text\" or \"json\"")? {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("is not known; write \"text\" or \"json\"".to_owned()),
        }
    }

    fn to_toml(&self) -> Option<String> {
        quoted(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

impl<T: Value> Value for Option<T> {
    const IS_SECRET: bool = T::IS_SECRET;

    fn read(given: &Given) -> Result<Option<T>, String> {
        T::read(given).map(Some)
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(Value::to_toml)
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(given: &Given) -> Result<Vec<T>, String> {
        match given {
            Given::List(items) => items.iter().map(T::read).collect(),
            Given::Word(text) => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                words.map(|word| T::read(&Given::Word(word.to_owned()))).collect()
            }
            Given::Text(_) | Given::Number(_) | Given::Truth(_) | Given::Other(_) => {
                Err("is no list; write [\"one\", \"two\"]".to_owned())
            }
        }
    }

    fn to_toml(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(Value::to_toml).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// The URL that clients know the registry by: scheme and host, perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicUrl {
    text: String,
    scheme: usize,
}

impl PublicUrl {
    /// Reads `https://host`, `http://host:port`; a single `/` at the end is dropped.
    pub fn parse(text: &str) -> Option<PublicUrl> {
        let text = text.strip_suffix('/').unwrap_or(text);
        let (scheme, authority) = text.split_once("://")?;
        let parsed: axum::http::uri::Authority = authority.parse().ok()?;
        let is_plain = matches!(scheme, "http" | "https") && !authority.contains('@') && !parsed.host().is_empty();
        is_plain.then(|| PublicUrl { text: text.to_owned(), scheme: scheme.len() })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &str {
        &self.text[..self.scheme]
    }

    /// Host, with the port if there is one: what a `Host` header should say.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme + 3..]
    }

    /// The whole, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Given {
        Given::Word(text.to_owned())
    }

    // Sizes are exact and carry a unit; what is printed reads back.
    #[test]
    fn sizes() {
        let table = [("0B", 0), ("1KiB", 1024), ("64MiB", 64 << 20), ("64 MiB", 64 << 20), ("500GB", 500_000_000_000)];
        for (text, bytes) in table {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "64", "MiB", "1.5GiB", "64mib", "-1B", "99999999999TiB"] {
            assert_eq!(ByteSize::parse(bad), None, "{bad}");
        }
    }

    // Durations carry a unit; what is printed reads back.
    #[test]
    fn durations() {
        let table =
            [("100ms", 100), ("30s", 30_000), ("24h", 86_400_000), ("1h 30m", 5_400_000), ("2days", 172_800_000)];
        for (text, ms) in table {
            let duration = Duration::from_millis(ms);
            assert_eq!(Duration::read(&word(text)), Ok(duration), "{text}");
            let printed = duration.to_toml().unwrap();
            assert_eq!(Duration::read(&word(printed.trim_matches('"'))), Ok(duration), "{printed}");
        }
        assert!(Duration::read(&Given::Number(30)).unwrap_err().contains("has no unit"));
        assert!(Duration::read(&word("soon")).is_err());
    }

    // A public URL is scheme and host; a path, a user or another scheme is refused.
    #[test]
    fn urls() {
        let url = PublicUrl::parse("https://registry.example.com:8443/").unwrap();
        assert_eq!((url.scheme(), url.authority()), ("https", "registry.example.com:8443"));
        assert_eq!(url.as_str(), "https://registry.example.com:8443");
        for bad in
            ["registry.example.com", "https://", "ftp://a", "https://a/b", "https://u@a", "https://a?b", "https:// a"]
        {
            assert_eq!(PublicUrl::parse(bad), None, "{bad}");
        }
    }

    // The file is strict about types; words of the environment are read by the setting's type; lists are
    // comma-separated.
    #[test]
    fn strictness() {
        assert_eq!(u32::read(&Given::Number(5)), Ok(5));
        assert_eq!(u32::read(&word("5")), Ok(5));
        assert!(u32::read(&Given::Text("5".into())).unwrap_err().contains("without quotes"));
        assert!(u8::read(&Given::Number(256)).unwrap_err().contains("from 0 to 255"));
        assert!(u8::read(&Given::Number(-1)).is_err());
        assert_eq!(bool::read(&word("true")), Ok(true));
        assert!(bool::read(&Given::Text("true".into())).is_err() && bool::read(&Given::Number(1)).is_err());
        assert!(String::read(&Given::Number(1)).unwrap_err().contains("not in quotes"));
        let networks = Vec::<Network>::read(&word("10.0.0.0/8, ::1")).unwrap();
        assert_eq!(networks.to_toml().unwrap(), "[\"10.0.0.0/8\", \"::1/128\"]");
        assert_eq!(Vec::<Network>::read(&word("")), Ok(Vec::new()));
        assert!(Vec::<Network>::read(&Given::Text("10.0.0.0/8".into())).unwrap_err().contains("no list"));
    }
}
