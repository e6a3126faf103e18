//! `GET /v2/_catalog`: the repositories that the caller may see.

use axum::body::Body;
use axum::http::header::LINK;
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::RepositoryName;
use registry_core::vocabulary::limits::PAGE_ENTRIES_DEFAULT;

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use super::page::Paging;
use super::tags::join_quoted;

/// A page of names in byte order. What the caller may not see is left out before pages are cut, so neither their size
/// nor their borders tell of it (A19).
pub(super) async fn list(exchange: &Exchange<'_>) -> Result<Response<Body>, Failure> {
    let caller = exchange.caller(exchange.freshness(false)?).await?;
    exchange.auth().permit_catalog(&caller)?;
    let is_name = |name: &str| RepositoryName::parse(name).is_ok();
    let paging = Paging::read(exchange.query(), PAGE_ENTRIES_DEFAULT, is_name)?;
    let (registry, registry_id) = (exchange.registry(), exchange.registry_id());
    let visible = |name: &RepositoryName| exchange.auth().may_see(&caller, registry_id, name);
    let consistency = exchange.consistency(&caller)?;
    let found =
        registry.list_repositories(registry_id, paging.after.as_deref(), paging.limit, &visible, consistency).await?;
    let page = found.value;
    let names = join_quoted(page.items.iter().map(RepositoryName::as_str));
    let mut response = answer::json(StatusCode::OK, format!(r#"{{"repositories":[{names}]}}"#));
    if page.more
        && let Some(last) = page.items.last()
    {
        response.headers_mut().insert(LINK, paging.next("/v2/_catalog", last.as_str(), None));
    }
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}
