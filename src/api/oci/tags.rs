//! `GET /v2/<name>/tags/list`: the tags of a repository, in byte order.

use axum::body::Body;
use axum::http::header::LINK;
use axum::http::{Response, StatusCode};
use registry_core::vocabulary::Tag;
use registry_core::vocabulary::limits::PAGE_ENTRIES_DEFAULT;

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use super::page::Paging;
use crate::auth::Action;

/// A page of tags. An empty one is an empty list and has no link, never `null` (L3, L7).
pub(super) async fn list(exchange: &Exchange<'_>, name: &str) -> Result<Response<Body>, Failure> {
    let (caller, permit) = exchange.permit(exchange.freshness(false)?, Action::List, "tag.list", name).await?;
    let paging = Paging::read(exchange.query(), PAGE_ENTRIES_DEFAULT, |tag| Tag::parse(tag).is_ok())?;
    let consistency = exchange.consistency(&caller)?;
    let found = exchange.registry().list_tags(&permit, paging.after.as_deref(), paging.limit, consistency).await?;
    let (page, name) = (found.value, &permit.repository);
    let tags = join_quoted(page.items.iter().map(Tag::as_str));
    let mut response = answer::json(StatusCode::OK, format!(r#"{{"name":"{name}","tags":[{tags}]}}"#));
    if page.more
        && let Some(last) = page.items.last()
    {
        let link = paging.next(&format!("/v2/{name}/tags/list"), last.as_str(), None);
        response.headers_mut().insert(LINK, link);
    }
    answer::mark_revision(&mut response, found.revision);
    Ok(response)
}

/// The inside of a JSON list of strings. For names and tags only: their grammars leave nothing to escape.
pub(super) fn join_quoted<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let mut list = String::new();
    for item in items {
        list.push_str(if list.is_empty() { "\"" } else { ",\"" });
        list.push_str(item);
        list.push('"');
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    // The inside of a list is JSON whatever the number of entries.
    #[test]
    fn join_table() {
        assert_eq!(join_quoted([].into_iter()), "");
        assert_eq!(join_quoted(["a"].into_iter()), r#""a""#);
        assert_eq!(join_quoted(["a", "b.c"].into_iter()), r#""a","b.c""#);
    }
}
