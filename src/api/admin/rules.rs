//! Rules of replication, as operators read and set them.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::decide::replication::rules::{Destination, Prefix, ReadThrough, Rule};
use registry_core::decide::replication::tags::TagScope;
use registry_core::decide::tag_move::TagFilter;
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::names::RegionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::regions::invalid;

type Answer = Result<Response<Body>, Failure>;

/// Rules in the shape of ECR's `ReplicationConfiguration`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RulesDocument {
    rules: Vec<RuleDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleDocument {
    destinations: Vec<DestinationDocument>,
    #[serde(default)]
    repository_filters: Vec<FilterDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete_replication: Option<SwitchDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backfill: Option<SwitchDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_through: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transitive: Option<SwitchDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<SwitchDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<TagsDocument>,
}

/// Which tags are meant: what one of `include` matches, anything if there is none of it, and none of `exclude` does.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TagsDocument {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
}

impl TagsDocument {
    /// `None` for all tags.
    pub(super) fn of(tags: &TagScope) -> Option<TagsDocument> {
        (!tags.is_all()).then(|| TagsDocument {
            include: tags.include().map(ToString::to_string).collect(),
            exclude: tags.exclude().map(ToString::to_string).collect(),
        })
    }
}

impl TryFrom<TagsDocument> for TagScope {
    type Error = Failure;

    fn try_from(TagsDocument { include, exclude }: TagsDocument) -> Result<TagScope, Failure> {
        let filters = |texts: &[String]| {
            let filters = texts.iter().map(|text| TagFilter::parse(text)).collect::<Result<Vec<_>, _>>();
            filters.map_err(|error| invalid("tags", error))
        };
        TagScope::new(filters(&include)?, filters(&exclude)?).map_err(|error| invalid("tags", error))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchDocument {
    enabled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DestinationDocument {
    region: String,
    registry_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FilterDocument {
    filter: String,
    filter_type: FilterType,
}

#[derive(Serialize, Deserialize)]
enum FilterType {
    #[serde(rename = "PREFIX_MATCH")]
    PrefixMatch,
}

impl From<&Rule> for RuleDocument {
    fn from(rule: &Rule) -> RuleDocument {
        let destination = |to: &Destination| DestinationDocument {
            region: to.region.to_string(),
            registry_id: to.registry.to_string(),
        };
        let filter =
            |filter: &Prefix| FilterDocument { filter: filter.to_string(), filter_type: FilterType::PrefixMatch };
        let read_through = match rule.read_through {
            ReadThrough::Off => None,
            ReadThrough::Digest => Some("digest".into()),
            ReadThrough::Full => Some("full".into()),
        };
        RuleDocument {
            destinations: rule.destinations.iter().map(destination).collect(),
            repository_filters: rule.filters.iter().map(filter).collect(),
            delete_replication: rule.deletes.then_some(SwitchDocument { enabled: true }),
            backfill: rule.backfill.then_some(SwitchDocument { enabled: true }),
            read_through,
            transitive: rule.transitive.then_some(SwitchDocument { enabled: true }),
            settings: rule.settings.then_some(SwitchDocument { enabled: true }),
            tags: TagsDocument::of(&rule.tags),
        }
    }
}

/// What of what has not arrived a client there gets.
fn read_through(given: Option<&Value>) -> Result<ReadThrough, Failure> {
    match given.map(Value::as_str) {
        None | Some(Some("off")) => Ok(ReadThrough::Off),
        Some(Some("digest")) => Ok(ReadThrough::Digest),
        Some(Some("full")) => Ok(ReadThrough::Full),
        Some(_) => Err(invalid("readThrough", "\"off\", \"digest\" or \"full\"")),
    }
}

impl TryFrom<RuleDocument> for Rule {
    type Error = Failure;

    fn try_from(document: RuleDocument) -> Result<Rule, Failure> {
        let destination = |to: DestinationDocument| {
            let registry = RegistryId::parse(&to.registry_id);
            Ok::<_, Failure>(Destination {
                region: RegionName::parse(&to.region).map_err(|error| invalid("region", error))?,
                registry: registry.ok_or_else(|| invalid("registryId", "twelve decimal digits"))?,
            })
        };
        let filter = |given: FilterDocument| Prefix::parse(&given.filter).map_err(|error| invalid("filter", error));
        Ok(Rule {
            destinations: document.destinations.into_iter().map(destination).collect::<Result<_, _>>()?,
            filters: document.repository_filters.into_iter().map(filter).collect::<Result<_, _>>()?,
            deletes: document.delete_replication.is_some_and(|switch| switch.enabled),
            backfill: document.backfill.is_some_and(|switch| switch.enabled),
            read_through: read_through(document.read_through.as_ref())?,
            transitive: document.transitive.is_some_and(|switch| switch.enabled),
            settings: document.settings.is_some_and(|switch| switch.enabled),
            tags: document.tags.map_or(Ok(TagScope::ALL), TagScope::try_from)?,
        })
    }
}

impl TryFrom<RulesDocument> for Vec<Rule> {
    type Error = Failure;

    fn try_from(document: RulesDocument) -> Result<Vec<Rule>, Failure> {
        document.rules.into_iter().map(Rule::try_from).collect()
    }
}

/// `GET /v1/replication/rules`: the rules of the caller's registry.
pub(super) async fn rules(exchange: Exchange) -> Answer {
    let caller = exchange.administrator(policy::Action::ReadCluster, "replication.get").await?;
    let row = exchange.admin().cluster.replication_rules(caller.registry());
    let rules = row.0.iter().map(|standing| (&standing.rule).into()).collect();
    Ok(answer::json(StatusCode::OK, &RulesDocument { rules }))
}

/// `PUT /v1/replication/rules`: all rules of the caller's registry, in place of those there are.
pub(super) async fn set_rules(exchange: Exchange, Document(wish): Document<RulesDocument>) -> Answer {
    let revision = exchange.change("replication.set", "", async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let rules: Vec<Rule> = wish?.try_into()?;
        let cluster = &exchange.admin().cluster;
        Ok(cluster.set_replication_rules(caller.name(), caller.registry(), rules).await?)
    });
    Ok(answer::changed(revision.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A filter of tags comes back as it was set, in one order; none is all of them; anything else is refused.
    #[test]
    fn filters_of_tags() {
        let rule = |tags: &str| {
            let text = format!(r#"{{"destinations":[{{"region":"us","registryId":"000000000000"}}],"tags":{tags}}}"#);
            let document = serde_json::from_str::<RuleDocument>(&text).map_err(drop)?;
            Rule::try_from(document).map_err(drop)
        };
        let shown =
            |tags: &str| serde_json::to_value(RuleDocument::from(&rule(tags).unwrap())).unwrap()["tags"].clone();
        let both = serde_json::json!({ "include": ["latest", "v*"], "exclude": ["*-rc*"] });
        assert_eq!(shown(r#"{"include":["v*","latest"],"exclude":["*-rc*"]}"#), both);
        assert_eq!(shown(r#"{"include":["v*","latest","v*"],"exclude":["*-rc*","*-rc*"]}"#), both, "each once");
        assert_eq!(shown(r#"{"exclude":["dev"]}"#), serde_json::json!({ "exclude": ["dev"] }));
        for all in ["{}", r#"{"include":[]}"#, "null"] {
            assert_eq!(shown(all), Value::Null, "{all}");
        }
        let many = serde_json::json!({ "include": ["a", "b", "c", "d", "e", "f"] }).to_string();
        for bad in [r#"{"only":["v*"]}"#, r#"{"include":["a b"]}"#, r#"{"exclude":"v*"}"#, r#"{"exclude":[""]}"#, &many]
        {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }

    // Only the three words, whatever else a rule's switches look like.
    #[test]
    fn words_of_read_through() {
        let words = [("off", ReadThrough::Off), ("digest", ReadThrough::Digest), ("full", ReadThrough::Full)];
        for (word, expected) in words {
            assert_eq!(read_through(Some(&word.into())).ok(), Some(expected));
        }
        assert_eq!(read_through(None).ok(), Some(ReadThrough::Off));
        for bad in [Value::Bool(true), serde_json::json!({ "enabled": true }), "FULL".into(), Value::Null] {
            assert!(read_through(Some(&bad)).is_err(), "{bad}");
        }
    }
}
