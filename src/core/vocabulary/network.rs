//! Blocks of IP addresses, and where something is reached.

use std::fmt;
use std::net::IpAddr;

use super::limits::ADDRESS_BYTES_MAX;

/// Whether a text is scheme, host and port and nothing else, as `https://node-1.example.com:7400`; the port may be
/// left out.
pub fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let is_host = |host: &str| !host.is_empty() && host.bytes().all(is_legal);
    text.len() <= ADDRESS_BYTES_MAX && host.is_some_and(is_host)
}

/// Whether a client that came by one origin may be sent to another: https stays https.
pub fn is_as_safe(from: &str, to: &str) -> bool {
    from.starts_with("http://") || to.starts_with("https://")
}

/// A block of IP addresses, as `10.0.0.0/8`; a single address is a block of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `address` or `address/prefix`; bits beyond the prefix must be 0, so that what is written is what is meant.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) => digits.parse().ok().filter(|prefix| *prefix <= width && !digits.starts_with('+'))?,
        };
        let network = Network { address, prefix };
        (network.bits(address) == Some(raw_bits(address))).then_some(network)
    }

    /// Whether an address lies in it. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.bits(address.to_canonical()).is_some_and(|bits| bits == raw_bits(self.address))
    }

    /// How many bits of an address it fixes: of two that hold an address the longer one says more of it.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bits of an address of the same family that the prefix keeps.
    fn bits(&self, address: IpAddr) -> Option<u128> {
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let dropped = width - u32::from(self.prefix);
        let bits = raw_bits(address);
        Some(bits.checked_shr(dropped).and_then(|kept| kept.checked_shl(dropped)).unwrap_or(0))
    }
}

fn raw_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a client is sent to is a host of its scheme, and no place for a path, a name or a line of its own.
    #[test]
    fn origins() {
        for good in ["http://10.0.0.1", "https://node-1.example.com:7400", "https://[2001:db8::1]:7400", "http://a_b"] {
            assert!(is_origin(good), "{good}");
        }
        let long = format!("https://{}", "a".repeat(ADDRESS_BYTES_MAX));
        for bad in
            ["", "http://", "ftp://a", "a:7400", "https://a/b", "https://a?b", "https://u@a", "http://a\r\nb", &long]
        {
            assert!(!is_origin(bad), "{bad}");
        }
        for bad in ["https://a b", "https://a\\b", "https://a#b", "https://a%2f", "https://\u{e4}", "HTTPS://a", "//a"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    // https is never left, http may be.
    #[test]
    fn schemes() {
        let table =
            [("https://a", "https://b", true), ("https://a", "http://b", false), ("http://a", "http://b", true)];
        for (from, to, is_safe) in table {
            assert_eq!(is_as_safe(from, to), is_safe, "{from} {to}");
        }
        assert!(is_as_safe("http://a", "https://b"));
        assert!(!is_as_safe("", "http://b"));
    }

    // T19: a block holds its addresses, mapped ones included, and no others; sloppy blocks are refused.
    #[test]
    fn networks() {
        let holds = |block: &str, address: &str| Network::parse(block).unwrap().contains(address.parse().unwrap());
        let inside = [
            ("10.0.0.0/8", "10.255.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3"),
            ("0.0.0.0/0", "192.0.2.1"),
            ("2001:db8::/32", "2001:db8:1::1"),
            ("::/0", "2001:db8::1"),
        ];
        assert!(inside.iter().all(|(block, address)| holds(block, address)));
        let outside =
            [("10.0.0.0/8", "11.0.0.1"), ("10.0.0.1", "10.0.0.2"), ("::/0", "10.0.0.1"), ("0.0.0.0/0", "::1")];
        assert!(!outside.iter().any(|(block, address)| holds(block, address)));
        for bad in ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "localhost", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
