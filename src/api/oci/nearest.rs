//! Blobs that another node serves better, of this region or of the client's own: where a client is sent, and what
//! becomes of one that was sent here.
//!
//! Only the bytes of blobs are sent elsewhere, by 307 and a link that carries its own right; never `/v2/`, manifests or
//! uploads, for which clients would have to show their credential again. Where a client is, its address says, after the
//! trusted-proxy rule, and no header of its own (T20).

use std::time::Instant;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, HeaderValue, LOCATION, USER_AGENT};
use axum::http::{HeaderMap, Response, StatusCode};
use registry_core::decide::nearest::{Choice, Declined};
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::network::is_as_safe;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::answer;
use super::error::Failure;
use super::exchange::{self, Exchange};
use crate::auth::{Action, Caller, Follower, Guest, Link, NoLink, audit};
use crate::registry::{At, BlobContent, Visit};

/// The query parameter that a link travels in.
pub(super) const LINK: &str = "portolan-link";
/// Its value for a client that was sent back: it is served where it is.
pub(super) const NONE: &str = "none";

/// Words in the `User-Agent` of clients that do not follow a redirect well, and are served where they are:
/// `go-containerregistry` (crane, cosign, ko, kaniko) refuses one to a private address, which a node's mostly is.
const SERVED_THROUGH: &[&str] = &["go-containerregistry"];

fn is_served_through(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let names = |word: &&str| agent.windows(word.len()).any(|part| part == word.as_bytes());
    SERVED_THROUGH.iter().any(names)
}

/// A redirect; what it says holds for a minute and for one client.
pub(super) fn to(location: String) -> Response<Body> {
    let mut response = answer::empty(StatusCode::TEMPORARY_REDIRECT);
    let headers = response.headers_mut();
    headers.insert(LOCATION, answer::value(location));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn path(name: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

/// Where the caller gets the bytes better than here; `None` to serve them.
pub(super) async fn redirect(
    exchange: &Exchange<'_>,
    caller: &Caller,
    permit: &Permit,
    content: &BlobContent,
) -> Option<Response<Body>> {
    let (registry, client) = (exchange.registry(), exchange.info.client());
    if is_served_through(&exchange.parts.headers) {
        metrics::counter!("portolan_nearest_decisions_total", "reason" => "client").increment(1);
        return None;
    }
    let began = Instant::now();
    let nearest = registry.nearest(client, content).await;
    let digest = &content.info.digest;
    let (location, reason) = match nearest.choice {
        Choice::Here(why) => (None, why.as_str()),
        Choice::There(node) => {
            let location = within(exchange, caller, permit, digest, node);
            let reason = nearest.choice.reason(location.is_some());
            (location, reason)
        }
        Choice::Region => match abroad(exchange, caller, permit, content, nearest.region.as_ref()).await {
            Ok(location) => (Some(location), nearest.choice.reason(true)),
            Err(declined) => (None, declined.as_str()),
        },
    };
    let asked = if nearest.choice == Choice::Region { "region" } else { "node" };
    metrics::histogram!("portolan_nearest_decision_seconds", "asked" => asked).record(began.elapsed().as_secs_f64());
    metrics::counter!("portolan_nearest_decisions_total", "reason" => reason).increment(1);
    location.map(to)
}

/// The way to another node of this region; `None` if the client knows none.
fn within(exchange: &Exchange<'_>, caller: &Caller, permit: &Permit, digest: &Digest, node: NodeId) -> Option<String> {
    let (registry, client, origin) = (exchange.registry(), exchange.info.client(), exchange.info.origin());
    let ways = registry.address_of(node, client).zip(registry.own_address(client));
    let (url, back) = ways.filter(|(url, back)| is_as_safe(&origin, url) && is_as_safe(&origin, back))?;
    let repository = registry.repository_id(permit)?;
    let link = Link { repository, digest: *digest, node, client, back, guest: None };
    let link = exchange.auth().link(caller, &permit.repository, link)?;
    Some(format!("{url}{}?{LINK}={link}", path(&permit.repository, digest)))
}

/// The way to a node of the client's own region, if that one says where, and has the right to.
async fn abroad(
    exchange: &Exchange<'_>,
    caller: &Caller,
    permit: &Permit,
    content: &BlobContent,
    region: Option<&RegionName>,
) -> Result<String, Declined> {
    let (registry, client, digest) = (exchange.registry(), exchange.info.client(), &content.info.digest);
    let region = region.ok_or(Declined::Unknown)?;
    if exchange.auth().is_bound_to_address(caller) {
        return Err(Declined::Bound);
    }
    let back = registry.own_address(client).filter(|back| is_as_safe(&exchange.info.origin(), back));
    let back = back.ok_or(Declined::NoAddress)?;
    // many clients don't show their credential again where they are sent back to: what lets them in here goes along
    let (repository, node) = (registry.repository_id(permit).ok_or(Declined::Apart)?, registry.node());
    let right = Link { repository, digest: *digest, node, client, back: back.clone(), guest: None };
    let right = exchange.auth().link(caller, &permit.repository, right).ok_or(Declined::Bound)?;
    let visit = Visit { repository: permit.repository.clone(), digest: *digest, client, back, right };
    let located = registry.locate(permit, region, visit, content).await?;
    Ok(format!("{}{}?{LINK}={}", located.address, path(&permit.repository, digest), located.link))
}

/// Counts what became of a client that was sent here.
pub(super) fn count(answered: &Result<Response<Body>, Failure>) {
    let result = match answered {
        Ok(response) if response.status() == StatusCode::TEMPORARY_REDIRECT => "back",
        Ok(_) => "served",
        Err(_) => "refused",
    };
    metrics::counter!("portolan_nearest_links_total", "result" => result).increment(1);
}

/// What becomes of a client that was sent here.
pub(super) enum Followed {
    /// It is served; where it goes if that fails.
    Here(Box<At<BlobContent>>, Option<String>),
    /// It goes back to where it was.
    Back(String),
}

fn denied() -> Failure {
    Refusal::Denied { detail: "the link is not for this, or not any more".to_owned() }.into()
}

fn unavailable() -> Failure {
    Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }.into()
}

/// Looks at a link: it must be of this path and this node, and who follows it must be allowed to, now and here. Who
/// can't be served by a link that is good is sent back, if it came from another node or region: it was served there.
pub(super) async fn follow(exchange: &Exchange<'_>, name: &str, text: &str, sealed: &str) -> Result<Followed, Failure> {
    let name = RepositoryName::parse(name).map_err(|_| denied())?;
    let digest = exchange::digest(text)?;
    let registry = exchange.registry();
    let followed = exchange.auth().follow(sealed, &exchange.evidence()).await;
    let link = match &followed {
        Ok((_, link)) | Err(NoLink::Expired(link) | NoLink::Unavailable(Some(link))) => link,
        Err(NoLink::Foreign) => return Err(denied()),
        Err(NoLink::Unavailable(None)) => return Err(unavailable()),
    };
    // where the client was before the link holds as well: for one that has another address elsewhere and comes back
    let is_back = link.guest.is_none() && registry.own_address(link.client).as_ref() == Some(&link.back);
    let is_for = link.guest.as_ref().is_none_or(|guest| guest.repository == name);
    if !is_for || link.digest != digest || !(is_back || link.node == registry.node()) {
        return Err(denied());
    }
    // many clients don't show their credential again where they are sent back to, so that the link goes with them, or
    // that of the region they come from, which judges it anew; one that it does not hold for any more has to
    let right: &str = match &link.guest {
        Some(guest) if guest.right.is_empty() => NONE,
        Some(guest) => &guest.right,
        None if is_back || matches!(followed, Err(NoLink::Expired(_))) => NONE,
        None => sealed,
    };
    let back = way_back(exchange, &name, link, right);
    let (follower, link) = match followed {
        Ok(followed) => followed,
        Err(NoLink::Unavailable(_)) => {
            return back.filter(|_| !is_back).map(Followed::Back).ok_or_else(unavailable);
        }
        Err(NoLink::Expired(_) | NoLink::Foreign) => return back.map(Followed::Back).ok_or_else(denied),
    };
    exchange.info.note_principal(&follower.name());
    let is_guest = link.guest.is_some();
    match open(exchange, &follower, &name, &link).await {
        Ok(Some(found)) => Ok(Followed::Here(Box::new(found), back.filter(|_| is_guest))),
        Ok(None) => back.map(Followed::Back).ok_or_else(denied),
        Err(failure) if is_guest => back.map(Followed::Back).ok_or(failure),
        Err(failure) => Err(failure),
    }
}

/// By which address who follows a link comes back to where it was. `None` if that is less safe than this one, or its
/// word for it is that of a region which is not known any more.
fn way_back(exchange: &Exchange<'_>, name: &RepositoryName, link: &Link, right: &str) -> Option<String> {
    let is_linked = |guest: &Guest| exchange.registry().is_linked(&guest.region);
    let is_good = is_as_safe(&exchange.info.origin(), &link.back) && link.guest.as_ref().is_none_or(is_linked);
    is_good.then(|| format!("{}{}?{LINK}={right}", link.back, path(name, &link.digest)))
}

/// The blob, for who follows a link; `None` for a client that the link was not made for.
async fn open(
    exchange: &Exchange<'_>,
    follower: &Follower,
    name: &RepositoryName,
    link: &Link,
) -> Result<Option<At<BlobContent>>, Failure> {
    let registry = exchange.registry();
    let permit = match let_in(exchange, follower, name, link).await {
        Err(Failure::Refusal(refusal @ Refusal::Unavailable { .. })) => return Err(refusal.into()),
        permit => permit.map_err(|_| denied())?,
    };
    if !registry.is_repository(&permit, link.repository).await? {
        return Err(denied());
    }
    if link.client != exchange.info.client() {
        return Ok(None);
    }
    // what is not here is not looked for elsewhere for a client of another region: it is to be had where it was
    let found = match &link.guest {
        None => registry.pull_blob(&permit, &link.digest).await?,
        Some(_) => registry.open_blob(&permit, &link.digest).await?,
    };
    Ok(Some(found))
}

/// That who follows a link may pull, now and here. A no is told to the audit.
async fn let_in(
    exchange: &Exchange<'_>,
    follower: &Follower,
    name: &RepositoryName,
    link: &Link,
) -> Result<Permit, Failure> {
    const ACT: &str = "blob.get";
    match follower {
        Follower::Caller(caller) => {
            let permitted = exchange.auth().permit(caller, Action::Pull, exchange.registry_id(), name);
            permitted.map_err(|refused| exchange.refused(caller, ACT, name.as_str(), refused))
        }
        Follower::Guest(region) => {
            let permitted = exchange.auth().permit_guest(region, name, link).await;
            permitted.map_err(|refusal| {
                if matches!(refusal, Refusal::Denied { .. }) {
                    let (who, client, why) = (follower.name(), exchange.info.client(), refusal.to_string());
                    audit::before_anybody(&who, client, exchange.info.id(), ACT, name.as_str(), Some(&why));
                }
                refusal.into()
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Clients are known by a word anywhere in what they call themselves.
    #[test]
    fn agents() {
        let agent = |text: &'static str| HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(text))]);
        assert!(is_served_through(&agent("crane/v0.21.0 (linux; amd64) go-containerregistry/v0.21.0")));
        for text in ["docker/28.0.0 go/go1.24", "", "go-container"] {
            assert!(!is_served_through(&agent(text)), "{text}");
        }
        assert!(!is_served_through(&HeaderMap::new()));
    }
}
