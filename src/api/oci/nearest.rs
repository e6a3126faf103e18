//! Blobs that another node serves better: where a client is sent, and what becomes of one that was sent here.
//!
//! Only the bytes of blobs are sent elsewhere, by 307 and a link that carries its own right; never `/v2/`, manifests or
//! uploads, for which clients would have to show their credential again. Where a client is, its address says, after the
//! trusted-proxy rule, and no header of its own (T20).

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, HeaderValue, LOCATION, USER_AGENT};
use axum::http::{HeaderMap, Response, StatusCode};
use registry_core::decide::nearest::Choice;
use registry_core::decide::permit::Permit;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use registry_core::vocabulary::{Digest, Refusal, RepositoryName};

use super::answer;
use super::error::Failure;
use super::exchange::{self, Exchange};
use crate::auth::{Action, Caller, Link, NoLink};
use crate::registry::{At, BlobContent};

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
fn to(location: String) -> Response<Body> {
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
    let nearest = registry.nearest(client, content).await;
    let location = match nearest.choice {
        Choice::Here(_) => None,
        Choice::There(node) => {
            let origin = exchange.info.origin();
            let ways = registry.address_of(node, client).zip(registry.own_address(client));
            let ways = ways.filter(|(url, back)| is_as_safe(&origin, url) && is_as_safe(&origin, back));
            ways.and_then(|(url, back)| {
                let repository = registry.repository_id(permit)?;
                let digest = content.info.digest;
                let link = Link { repository, digest, node, client, back };
                let link = exchange.auth().link(caller, &permit.repository, link)?;
                Some(format!("{url}{}?{LINK}={link}", path(&permit.repository, &digest)))
            })
        }
    };
    let reason = nearest.choice.reason(location.is_some());
    metrics::counter!("portolan_nearest_decisions_total", "reason" => reason).increment(1);
    location.map(to)
}

/// Whether a client that came by `from` may be sent to `url`: https stays https.
fn is_as_safe(from: &str, url: &str) -> bool {
    from.starts_with("http://") || url.starts_with("https://")
}

/// What becomes of a client that was sent here.
pub(super) enum Followed {
    /// It is served.
    Here(At<BlobContent>, Digest),
    /// It came too late, and is sent back.
    Back(Response<Body>),
}

/// Looks at a link: it must be of this path and this node, and who follows it must be allowed to, now and here.
pub(super) async fn follow(exchange: &Exchange<'_>, name: &str, text: &str, sealed: &str) -> Result<Followed, Failure> {
    let denied = || Failure::from(Refusal::Denied { detail: "the link is not for this, or not any more".to_owned() });
    let name = RepositoryName::parse(name).map_err(|_| denied())?;
    let digest = exchange::digest(text)?;
    let sent_back = |link: &Link, right: &str| {
        let back = format!("{}{}?{LINK}={right}", link.back, path(&name, &digest));
        is_as_safe(&exchange.info.origin(), &link.back).then(|| Followed::Back(to(back)))
    };
    let (caller, link) = match exchange.auth().follow(sealed, &exchange.evidence()).await {
        Ok(followed) => followed,
        Err(NoLink::Expired(link)) if link.digest == digest => return sent_back(&link, NONE).ok_or_else(denied),
        Err(NoLink::Expired(_) | NoLink::Foreign) => return Err(denied()),
        Err(NoLink::Unavailable) => return Err(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }.into()),
    };
    exchange.info.note_principal(caller.name());
    let registry = exchange.registry();
    let permit = exchange.auth().permit(&caller, Action::Pull, exchange.registry_id(), &name).map_err(|refused| {
        drop(exchange.refused(&caller, "blob.get", name.as_str(), refused));
        denied()
    })?;
    // where the client was before the link holds as well: for one that has another address elsewhere and comes back
    let is_back = registry.own_address(link.client).as_ref() == Some(&link.back);
    let is_here = link.digest == digest && (is_back || link.node == registry.node());
    if !is_here || !registry.is_repository(&permit, link.repository).await? {
        return Err(denied());
    }
    // many clients don't show their credential again where they are sent back to, so that the link goes with them; one
    // that it was not made for has to
    if link.client != exchange.info.client() {
        return sent_back(&link, if is_back { NONE } else { sealed }).ok_or_else(denied);
    }
    Ok(Followed::Here(registry.pull_blob(&permit, &digest).await?, digest))
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

    // https is never left, http may be.
    #[test]
    fn schemes() {
        let table =
            [("https://a", "https://b", true), ("https://a", "http://b", false), ("http://a", "http://b", true)];
        for (from, url, is_safe) in table {
            assert_eq!(is_as_safe(from, url), is_safe, "{from} {url}");
        }
        assert!(is_as_safe("http://a", "https://b"));
    }
}
