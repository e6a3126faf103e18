//! The past of tags: what changed one, and what all of a repository named at a time.
//!
//! Only told here. A tag is set back through the registry's own API, by a push of the old manifest under a condition:
//! so the same rights, immutability and quotas hold for it as for every push (A9).

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use registry_core::metadata::history::{Change, Past, ThenAndNow};
use registry_core::vocabulary::limits::HISTORY_PAGE_TAGS_MAX;
use registry_core::vocabulary::{Refusal, Tag, Timestamp};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use super::repositories::parse_name;
use crate::auth::Action;

type Answer = Result<Response<Body>, Failure>;

/// One of `tag` and `at`; with `at` also `after` and `n`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    tag: Option<String>,
    at: Option<String>,
    after: Option<String>,
    n: Option<usize>,
}

#[derive(Serialize)]
struct TagDocument {
    repository: String,
    tag: String,
    now: Option<String>,
    changes: Vec<ChangeDocument>,
}

#[derive(Serialize)]
struct ChangeDocument {
    number: u64,
    at: String,
    digest: Option<String>,
    by: String,
    revision: u64,
    held: bool,
}

impl From<Change> for ChangeDocument {
    fn from(Change { number, row, is_held }: Change) -> ChangeDocument {
        ChangeDocument {
            number,
            at: answer::time(row.at_ms),
            digest: row.digest.map(|digest| digest.to_string()),
            by: row.principal,
            revision: row.index,
            held: is_held,
        }
    }
}

#[derive(Serialize)]
struct TagsDocument {
    repository: String,
    at: String,
    tags: Vec<ThenDocument>,
    more: bool,
}

#[derive(Serialize)]
struct ThenDocument {
    tag: String,
    /// `named`, `absent` or `forgotten`.
    was: &'static str,
    then: Option<String>,
    now: Option<String>,
    held: bool,
}

impl From<ThenAndNow> for ThenDocument {
    fn from(ThenAndNow { tag, then, now, is_held }: ThenAndNow) -> ThenDocument {
        let (was, then) = match then {
            Past::Named(digest) => ("named", Some(digest.to_string())),
            Past::Absent => ("absent", None),
            Past::Forgotten => ("forgotten", None),
        };
        let now = now.map(|digest| digest.to_string());
        ThenDocument { tag: tag.as_str().to_owned(), was, then, now, held: is_held }
    }
}

fn parse_tag(text: &str) -> Result<Tag, Failure> {
    Tag::parse(text).map_err(|error| Refusal::TagInvalid { detail: error.to_string() }.into())
}

/// `GET /v1/history/{name}`: of one tag (`?tag=`), or all tags as they were (`?at=`, RFC 3339).
pub(super) async fn show(
    exchange: Exchange,
    Path(name): Path<String>,
    query: Result<Query<Wish>, QueryRejection>,
) -> Answer {
    let caller = exchange.caller().await?;
    let name = parse_name(&name)?;
    let permitted = exchange.auth().permit(&caller, Action::List, caller.registry(), &name);
    let permit = exchange.looked(&caller, "history.get", name.as_str(), permitted)?;
    let Query(wish) = query.map_err(|error| Failure::Body(error.body_text()))?;
    let registry = &exchange.admin().registry;
    match wish {
        Wish { tag: Some(tag), at: None, after: None, n: None } => {
            let tag = parse_tag(&tag)?;
            let found = registry.tag_history(&permit, &tag).await?;
            let document = TagDocument {
                repository: name.to_string(),
                tag: tag.as_str().to_owned(),
                now: found.value.now.map(|digest| digest.to_string()),
                changes: found.value.changes.into_iter().map(ChangeDocument::from).collect(),
            };
            Ok(answer::at(answer::json(StatusCode::OK, &document), found.revision))
        }
        Wish { tag: None, at: Some(at), after, n } => {
            let at = Timestamp::parse(&at)
                .ok_or_else(|| Failure::Body(format!("at: {at:?} is no time; write 2026-01-02T03:04:05Z")))?;
            let after = after.as_deref().map(parse_tag).transpose()?;
            let limit = n.unwrap_or(HISTORY_PAGE_TAGS_MAX).min(HISTORY_PAGE_TAGS_MAX);
            if limit == 0 {
                return Err(Refusal::PageInvalid.into());
            }
            let found = registry.tags_at(&permit, at.ms(), after.as_ref(), limit).await?;
            let document = TagsDocument {
                repository: name.to_string(),
                at: at.to_string(),
                tags: found.value.items.into_iter().map(ThenDocument::from).collect(),
                more: found.value.more,
            };
            Ok(answer::at(answer::json(StatusCode::OK, &document), found.revision))
        }
        Wish { .. } => Err(Failure::Body("one of tag and at is wanted; after and n go with at".into())),
    }
}
