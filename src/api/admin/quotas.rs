//! Quotas: how they are shown and given, and those of a registry as a whole.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::decide::quota::{Limits, Usage};
use serde::{Deserialize, Deserializer, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use crate::registry::{At, Consistency, Quota};

type Answer = Result<Response<Body>, Failure>;

/// What is held.
#[derive(Serialize)]
pub(super) struct UsageDocument {
    bytes: u64,
    tags: u64,
}

/// What may be held; `null` is no limit.
#[derive(Serialize)]
pub(super) struct LimitsDocument {
    bytes: Option<u64>,
    tags: Option<u64>,
}

impl From<Usage> for UsageDocument {
    fn from(Usage { bytes, tags }: Usage) -> UsageDocument {
        UsageDocument { bytes, tags }
    }
}

impl From<Limits> for LimitsDocument {
    fn from(Limits { bytes, tags }: Limits) -> LimitsDocument {
        LimitsDocument { bytes, tags }
    }
}

/// Limits as they are given: what is left out stays, `null` lifts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsWish {
    #[serde(default, deserialize_with = "given")]
    bytes: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    tags: Option<Option<u64>>,
}

/// Told from a field that is left out: `null` is a value here.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl LimitsWish {
    /// The limits in place of `present`.
    pub(super) fn over(self, present: Limits) -> Limits {
        Limits { bytes: self.bytes.unwrap_or(present.bytes), tags: self.tags.unwrap_or(present.tags) }
    }
}

#[derive(Serialize)]
struct RegistryDocument {
    registry: String,
    usage: UsageDocument,
    quota: LimitsDocument,
}

fn shown(registry: &str, found: &At<Quota>) -> Response<Body> {
    let Quota { used, limits } = found.value;
    let document = RegistryDocument { registry: registry.to_owned(), usage: used.into(), quota: limits.into() };
    answer::at(answer::json(StatusCode::OK, &document), found.revision)
}

/// `GET /v1/registry`: what the caller's registry holds and may hold.
pub(super) async fn show(exchange: Exchange) -> Answer {
    let caller = exchange.administrator(policy::Action::ReadCluster, "registry.get").await?;
    let consistency = Consistency::AtLeast(caller.revision());
    let found = exchange.admin().registry.registry_quota(caller.registry(), consistency).await?;
    Ok(shown(&caller.registry().to_string(), &found))
}

/// Body of `PATCH /v1/registry`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeRegistry {
    quota: LimitsWish,
}

/// `PATCH /v1/registry`
pub(super) async fn change(exchange: Exchange, Document(wish): Document<ChangeRegistry>) -> Answer {
    let caller = exchange.caller_of("registry.change", "").await?;
    let registry = caller.registry();
    let ended = async {
        exchange.auth().permit_admin(&caller, policy::Action::ManageCluster)?;
        let ChangeRegistry { quota } = wish?;
        let rooms = &exchange.admin().registry;
        let present = rooms.registry_quota(registry, Consistency::AtLeast(caller.revision())).await?;
        Ok(rooms.set_registry_quota(caller.name(), registry, quota.over(present.value.limits)).await?)
    };
    let ended: Result<At<Quota>, Failure> = ended.await;
    let name = registry.to_string();
    let changed = exchange.audited(&caller, "registry.change", &name, |changed: &At<_>| changed.revision, ended)?;
    Ok(shown(&name, &changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A limit left out stays, null lifts it, and nothing else is taken for a limit.
    #[test]
    fn wishes() {
        let present = Limits { bytes: Some(7), tags: Some(8) };
        for (text, bytes, tags) in [
            ("{}", Some(7), Some(8)),
            (r#"{"bytes":null}"#, None, Some(8)),
            (r#"{"bytes":0,"tags":9}"#, Some(0), Some(9)),
            (r#"{"tags":null}"#, Some(7), None),
        ] {
            let wish: LimitsWish = serde_json::from_str(text).unwrap();
            assert_eq!(wish.over(present), Limits { bytes, tags }, "{text}");
        }
        for bad in [r#"{"bytes":-1}"#, r#"{"bytes":"1"}"#, r#"{"bytes":1.5}"#, r#"{"byte":1}"#] {
            assert!(serde_json::from_str::<LimitsWish>(bad).is_err(), "{bad}");
        }
    }
}
