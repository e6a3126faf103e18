//! Clients of other regions: each is served blobs where its own region says, if that has them and says so in time.
//!
//! Both ends of the question are here, and nothing of how it travels. No key is shared: who serves makes the link, who
//! asks looks at what it was told before it sends a client anywhere. Source: consensus-and-faults §6.6.

use std::net::IpAddr;

use registry_core::decide::nearest::{self, Declined};
use registry_core::decide::permit::Permit;
use registry_core::decide::replication::rules::ReadThrough;
use registry_core::metadata::blob::{self, BlobState};
use registry_core::metadata::{link, offer, repository, shared};
use registry_core::vocabulary::ids::{NodeId, RegistryId, RepositoryId};
use registry_core::vocabulary::limits::LINK_BYTES_MAX;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::network::{is_as_safe, is_origin};
use registry_core::vocabulary::{Digest, RepositoryName};

use super::blobs::{BlobContent, source};
use super::nearest::is_same_origin;
use super::{Consistency, Registry};

/// A client that is to be served a blob by its own region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The repository, of the default registry.
    pub repository: RepositoryName,
    /// The blob.
    pub digest: Digest,
    /// The client, as the region that it asked sees it.
    pub client: IpAddr,
    /// Scheme, host and port by which it comes back there.
    pub back: String,
    /// The link by which it is served there then; empty if it has none.
    pub right: String,
}

/// Where its region serves it, as that one says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Scheme, host and port of a node.
    pub address: String,
    /// The link for it.
    pub link: String,
}

/// Where this region serves a client that another one sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The repository, by its internal id here.
    pub repository: RepositoryId,
    /// The node.
    pub node: NodeId,
    /// Scheme, host and port by which the client reaches it.
    pub address: String,
}

/// Whether a text can be a link: nothing in it has a meaning in a URL or a header.
pub fn is_link(text: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= LINK_BYTES_MAX && text.bytes().all(is_legal)
}

/// Whether a client that comes back by `back` may be sent where a region says. It never is sent to where it is, to
/// anything but a host with a link for it, or from https to http.
fn is_sound(Located { address, link }: &Located, back: &str) -> bool {
    is_origin(address) && !is_same_origin(address, back) && is_as_safe(back, address) && is_link(link)
}

impl Registry {
    /// Asks a client's own region where it is served a blob. What is known here to be no use is not asked, and neither
    /// is what the other region is not sent or has not sent itself: it is not told of it.
    pub async fn locate(
        &self,
        permit: &Permit,
        region: &RegionName,
        visit: Visit,
        content: &BlobContent,
    ) -> Result<Located, Declined> {
        let elsewhere = self.0.elsewhere.get().ok_or(Declined::Unknown)?;
        self.metadata().peek(|view| {
            let Visit { repository: name, digest, .. } = &visit;
            let number = shared::region(view, region).ok_or(Declined::Unknown)?;
            if permit.registry != RegistryId::DEFAULT || !shared::is_shared(view, region, name) {
                return Err(Declined::Apart);
            }
            // what is not here is asked for there by its name anyway
            let is_asked_for = offer::read(view, number).read_through(name) != ReadThrough::Off;
            let is_coming = content.copies().is_none() && is_asked_for;
            let (key, _) = repository::find(view, RegistryId::DEFAULT, name).ok_or(Declined::Apart)?;
            let may_have = is_coming || shared::may_have(view, region, &key, digest);
            if may_have { Ok(()) } else { Err(Declined::NoCopy) }
        })?;
        let back = visit.back.clone();
        if !is_origin(&back) {
            return Err(Declined::NoAddress);
        }
        let located = elsewhere.locate(region, visit).await?;
        // no node of this region knows what to do with a link of another one
        if !is_sound(&located, &back) || self.is_own_address(&located.address) {
            tracing::warn!(%region, "a region sends its clients where they can't go");
            return Err(Declined::NoAddress);
        }
        Ok(located)
    }

    /// Whether a region is known, and not one that this region has taken over from.
    pub fn is_linked(&self, region: &RegionName) -> bool {
        self.metadata().peek(|view| shared::region(view, region).is_some())
    }

    /// Where this region serves a client that another one sends, if that one, and so its clients, may have the blob.
    /// Nobody waits for a state that is newer than a fresh one, because the other region serves as well.
    pub async fn receive(&self, from: &RegionName, visit: &Visit) -> Result<Received, Declined> {
        self.metadata().ready(Consistency::Fresh).await.map_err(|_| Declined::Unfit)?;
        let Visit { repository: name, digest, client, back, .. } = visit;
        let (repository, row) = self.metadata().peek(|view| {
            if !shared::is_shared(view, from, name) {
                return Err(Declined::Apart);
            }
            // whether there is anything that the other region may not have is not told
            let (key, _) = repository::find(view, RegistryId::DEFAULT, name).ok_or(Declined::NoCopy)?;
            let may_have = shared::may_have(view, from, &key, digest);
            let row = link::read(view, &key, digest).filter(|_| may_have).and_then(|_| blob::read(view, digest));
            let row = row.filter(|row| row.state == BlobState::Present).ok_or(Declined::NoCopy)?;
            Ok((key.id, row))
        })?;
        // a way back that leads here is none: the other region's link is no good here
        if self.is_own_address(back) {
            return Err(Declined::NoAddress);
        }
        let candidates = self.candidates(&source(digest, row), None).await;
        let zone = self.zone_of(*client);
        // both ways have to be as safe as each other, or a client could not be sent back
        let is_alike = |address: &String| is_as_safe(back, address) && is_as_safe(address, back);
        let way = |node: NodeId| self.address_of(node, *client).filter(is_alike);
        let node = nearest::receive(zone.as_ref(), &candidates, |node| way(node).is_some())?;
        let address = way(node).ok_or(Declined::NoAddress)?;
        Ok(Received { repository, node, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a region says is no more than a host and a link, or it is nothing.
    #[test]
    fn soundness() {
        let located = |address: &str, link: &str| Located { address: address.to_owned(), link: link.to_owned() };
        let back = "https://eu.example.com";
        assert!(is_sound(&located("https://us.example.com:7400", "AbC-_9"), back));
        assert!(is_sound(&located("http://us.example.com", "A"), "http://eu.example.com"));
        let long = "A".repeat(LINK_BYTES_MAX + 1);
        for (address, link) in [
            (back, "A"),
            ("https://EU.example.com:443", "A"),
            ("http://us.example.com", "A"),
            ("https://us.example.com/v2/", "A"),
            ("https://us.example.com?a=", "A"),
            ("https://us.example.com\r\nSet-Cookie:", "A"),
            ("javascript:alert(1)", "A"),
            ("", "A"),
            ("https://us.example.com", ""),
            ("https://us.example.com", "A&ns=x"),
            ("https://us.example.com", "A\nB"),
            ("https://us.example.com", "A B"),
            ("https://us.example.com", long.as_str()),
        ] {
            assert!(!is_sound(&located(address, link), back), "{address} {link}");
        }
    }
}
