//! What rules of replication would copy, told before they are set.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::decide::replication::rules::Rule;
use registry_core::metadata::dry_run::{Amount, Counted, Fate, Listed};
use serde::Serialize;

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::rules::RulesDocument;

#[derive(Serialize)]
struct AmountDocument {
    manifests: u64,
    tags: u64,
    bytes: u64,
}

impl From<Amount> for AmountDocument {
    fn from(Amount { manifests, tags, bytes }: Amount) -> AmountDocument {
        AmountDocument { manifests, tags, bytes }
    }
}

#[derive(Serialize)]
struct ListedDocument {
    repository: String,
    change: &'static str,
    manifests: u64,
    tags: u64,
}

impl From<Listed> for ListedDocument {
    fn from(Listed { name, fate, manifests, tags }: Listed) -> ListedDocument {
        let change = match fate {
            Fate::GoesOn => "goes on",
            Fate::Begins => "begins",
            Fate::Ends => "ends",
        };
        ListedDocument { repository: name.to_string(), change, manifests, tags }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationDocument {
    region: String,
    repositories: u64,
    begins: u64,
    ends: u64,
    sent_already: AmountDocument,
    added: AmountDocument,
    only_with_backfill: AmountDocument,
    listed: Vec<ListedDocument>,
    /// There are more repositories than are listed.
    more: bool,
}

impl From<Counted> for DestinationDocument {
    fn from(counted: Counted) -> DestinationDocument {
        let all = counted.repositories + counted.ending;
        DestinationDocument {
            region: counted.region.to_string(),
            repositories: counted.repositories,
            begins: counted.beginning,
            ends: counted.ending,
            sent_already: counted.standing.into(),
            added: counted.added.into(),
            only_with_backfill: counted.left.into(),
            more: counted.listed.len() as u64 != all,
            listed: counted.listed.into_iter().map(Into::into).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TriedDocument {
    destinations: Vec<DestinationDocument>,
    /// Bytes of some blobs may count more than once.
    at_most: bool,
}

/// `POST /v1/replication/dry-run`: what rules would copy, by destination; refused as setting them would be. Changes
/// nothing.
pub(super) async fn run(
    exchange: Exchange,
    Document(wish): Document<RulesDocument>,
) -> Result<Response<Body>, Failure> {
    let mut tried = None;
    let asked = exchange.change("replication.dry_run", "", async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let rules: Vec<Rule> = wish?.try_into()?;
        tried = Some(exchange.admin().cluster.try_replication_rules(caller.registry(), rules).await?);
        Ok(caller.revision())
    });
    asked.await?;
    let (destinations, at_most) = tried.map(|tried| (tried.destinations, tried.is_at_most)).unwrap_or_default();
    let destinations = destinations.into_iter().map(Into::into).collect();
    Ok(answer::json(StatusCode::OK, &TriedDocument { destinations, at_most }))
}
