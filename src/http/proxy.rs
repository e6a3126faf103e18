//! Whom to believe about where a request came from: only proxies that were configured (T19, T20).

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use axum::http::header::HeaderName;

use crate::config::Network;

/// Header with the chain of addresses a request came through, the client first.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Header with the scheme the client used.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Header with the host the client used.
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Hops looked at in one chain.
const HOPS_MAX: usize = 16;
/// Longest host with port in bytes (RFC 1035: 253 and `:65535`).
const HOST_BYTES_MAX: usize = 260;

/// Where a request came from, as far as it can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Provenance {
    /// The client: the peer, or the right-most address of the chain that is not a trusted proxy.
    pub(super) client: IpAddr,
    /// Whether the client used https.
    pub(super) secure: bool,
    /// The host and port the client used, if that is a sane one.
    pub(super) host: Option<String>,
    /// Whether the peer is a trusted proxy.
    pub(super) proxied: bool,
}

/// Works out the provenance of a request that came from `peer`; `own_host` is its own `Host` or `:authority`.
pub(super) fn provenance(
    trusted: &[Network],
    peer: IpAddr,
    secure: bool,
    own_host: Option<&str>,
    headers: &HeaderMap,
) -> Provenance {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let own_host = || own_host.filter(|host| is_host(host)).map(str::to_owned);
    if !is_trusted(peer) {
        return Provenance { client: peer, secure, host: own_host(), proxied: false };
    }
    let secure = match last(headers, &X_FORWARDED_PROTO) {
        Some(scheme) => scheme.eq_ignore_ascii_case("https"),
        None => secure,
    };
    let host = last(headers, &X_FORWARDED_HOST).filter(|host| is_host(host)).map(str::to_owned).or_else(own_host);
    Provenance { client: walk(headers, peer, is_trusted), secure, host, proxied: true }
}

/// Goes through the chain from its right end, which the nearest proxy wrote, while the hops are proxies we trust.
fn walk(headers: &HeaderMap, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer;
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    let hops = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.rsplit(','));
    for hop in hops.take(HOPS_MAX) {
        let Some(address) = parse_hop(hop.trim()) else { return client };
        client = address;
        if !is_trusted(address) {
            return client;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:1234`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:1234`.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// The right-most value over all lines of a header.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// A host with an optional port, made of nothing that means anything in a URL, a header or a log.
fn is_host(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= HOST_BYTES_MAX && text.bytes().all(is_legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    // T19, T20: a client's own claims count for nothing; of a trusted chain the right-most foreign hop is the client.
    #[test]
    fn client_table() {
        let trusted: Vec<Network> = networks(&["10.0.0.0/8", "fd00::/8"]);
        for (peer, chain, client) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.9.9.9"], "10.9.9.9"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, "], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711, [fd00::2]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
        ] {
            let lines: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let found = provenance(&trusted, ip(peer), false, None, &headers(&lines));
            assert_eq!(found.client, ip(client), "{peer} {chain:?}");
        }
        assert_eq!(
            provenance(&[], ip("10.0.0.1"), false, None, &headers(&[("x-forwarded-for", "1.2.3.4")])).client,
            ip("10.0.0.1")
        );
    }

    // H8: scheme and host come from a trusted proxy, else from the connection; an insane host is none.
    #[test]
    fn origin_table() {
        let trusted: Vec<Network> = networks(&["10.0.0.1"]);
        let forwarded = headers(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "reg.example:5000")]);
        let believed = provenance(&trusted, ip("10.0.0.1"), false, Some("inner"), &forwarded);
        assert_eq!(
            (believed.secure, believed.host.as_deref(), believed.proxied),
            (true, Some("reg.example:5000"), true)
        );
        let ignored = provenance(&trusted, ip("10.0.0.2"), false, Some("inner"), &forwarded);
        assert_eq!((ignored.secure, ignored.host.as_deref(), ignored.proxied), (false, Some("inner"), false));
        let appended = headers(&[("x-forwarded-proto", "https, http"), ("x-forwarded-host", "evil\"><")]);
        let last_wins = provenance(&trusted, ip("10.0.0.1"), true, Some("inner"), &appended);
        assert_eq!((last_wins.secure, last_wins.host.as_deref()), (false, Some("inner")));
        for bad in ["", "a/b", "a b", "a@b", "a\"b", &"a".repeat(300)] {
            assert_eq!(provenance(&[], ip("::1"), false, Some(bad), &HeaderMap::new()).host, None, "{bad:?}");
        }
    }
}
