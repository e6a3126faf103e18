//! What comparing with other regions found, and the changes of theirs that were put aside.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::metadata::outbox::Change;
use registry_core::metadata::parked::{ParkedId, ParkedRow};
use registry_core::vocabulary::Refusal;
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange, Nothing};
use super::regions::parse_region;
use crate::jobs::replicate::{ComparisonReport, ComparisonState, Found, Retried, SampleReport};

type Answer = Result<Response<Body>, Failure>;

/// Changes put aside that one answer lists.
const PARKED_LISTED: usize = 1000;

#[derive(Serialize)]
struct FoundDocument {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
    /// It is of the repository's settings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    settings: bool,
    kind: &'static str,
    repaired: bool,
    reason: Option<String>,
}

impl From<&Found> for FoundDocument {
    fn from(Found { repository, tag, digest, kind, left }: &Found) -> FoundDocument {
        let (tag, digest) = (tag.as_ref().map(ToString::to_string), digest.as_ref().map(ToString::to_string));
        let (repository, repaired) = (repository.to_string(), left.is_none());
        let settings = tag.is_none() && digest.is_none();
        FoundDocument { repository, tag, digest, settings, kind, repaired, reason: left.clone() }
    }
}

/// Blobs that were hashed on both sides.
#[derive(Serialize)]
struct SampleDocument {
    blobs: u64,
    bytes: u64,
    bad_here: u64,
    bad_there: u64,
    unread: u64,
    problem: Option<String>,
}

impl From<&SampleReport> for SampleDocument {
    fn from(report: &SampleReport) -> SampleDocument {
        let SampleReport { blobs, bytes, bad_here, bad_there, unread, problem } = report.clone();
        SampleDocument { blobs, bytes, bad_here, bad_there, unread, problem }
    }
}

#[derive(Serialize)]
struct ReportDocument {
    number: u64,
    of: &'static str,
    began_at: String,
    ended_at: Option<String>,
    lineage: u64,
    index: u64,
    repositories: u64,
    equal: u64,
    behind: u64,
    records: u64,
    verdicts: BTreeMap<&'static str, u64>,
    differences: u64,
    repaired: u64,
    clean: bool,
    sample: Option<SampleDocument>,
    problem: Option<String>,
    found: Vec<FoundDocument>,
}

impl From<&ComparisonReport> for ReportDocument {
    fn from(report: &ComparisonReport) -> ReportDocument {
        ReportDocument {
            number: report.number,
            of: match (report.is_resync, report.is_whole) {
                (true, _) => "a gap in the stream",
                (false, true) => "all repositories",
                (false, false) => "repositories that changed",
            },
            began_at: answer::time(report.began_at_ms),
            ended_at: report.ended_at_ms.map(answer::time),
            lineage: report.lineage,
            index: report.index,
            repositories: report.repositories,
            equal: report.equal,
            behind: report.behind,
            records: report.records,
            verdicts: report.verdicts.clone(),
            differences: report.drifts,
            repaired: report.repaired,
            clean: report.is_clean(),
            sample: report.sample.as_ref().map(Into::into),
            problem: report.problem.clone(),
            found: report.found.iter().map(Into::into).collect(),
        }
    }
}

#[derive(Serialize)]
struct ComparisonDocument {
    region: String,
    clean_at: Option<String>,
    differences: u64,
    repaired: u64,
    last: Option<ReportDocument>,
}

#[derive(Serialize)]
struct ComparisonsDocument {
    regions: Vec<ComparisonDocument>,
}

/// Only the leader follows other regions.
pub(super) fn follows_nobody() -> Failure {
    Failure::Conflict(
        "the node that leads follows other regions, and this one does not lead: ask the one that `portolan cluster \
         status` shows as leader, or wait a second after the region was made known"
            .to_owned(),
    )
}

/// `GET /v1/replication/report`: what the last comparison with each region found; told by the leader.
pub(super) async fn report(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "replication.report").await?;
    let admin = exchange.admin();
    let mut states: BTreeMap<u16, ComparisonState> = admin.links.comparisons().into_iter().collect();
    let known = admin.cluster.regions();
    if states.is_empty() && !known.is_empty() {
        return Err(follows_nobody());
    }
    let regions = known.into_iter().map(|known| {
        let state = states.remove(&known.number).unwrap_or_default();
        ComparisonDocument {
            region: known.row.region.to_string(),
            clean_at: state.clean_at_ms.map(answer::time),
            differences: state.drifts,
            repaired: state.repaired,
            last: state.last.as_ref().map(Into::into),
        }
    });
    Ok(answer::json(StatusCode::OK, &ComparisonsDocument { regions: regions.collect() }))
}

/// The number of a region that is known.
fn number(exchange: &Exchange, region: &str) -> Result<u16, Failure> {
    let name = parse_region(region)?;
    exchange.admin().cluster.region_number(&name).ok_or(Failure::NotFound)
}

/// `POST /v1/replication/compare/{region}`: everything is compared with a region now.
pub(super) async fn compare(
    exchange: Exchange,
    Path(region): Path<String>,
    Document(wish): Document<Nothing>,
) -> Answer {
    let asked = exchange.change("replication.compare", &region, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let Nothing {} = wish?;
        let number = number(&exchange, &region)?;
        if exchange.admin().links.compare(number) { Ok(caller.revision()) } else { Err(follows_nobody()) }
    });
    asked.await?;
    Ok(answer::json(StatusCode::ACCEPTED, &serde_json::json!({ "asked": true })))
}

#[derive(Serialize)]
struct ParkedDocument {
    id: String,
    repository: String,
    change: &'static str,
    tag: Option<String>,
    digest: Option<String>,
    reason: String,
    at: String,
}

fn id_text(id: &ParkedId) -> String {
    format!("{}-{:016x}", id.index, id.register)
}

fn id(source: u16, text: &str) -> Option<ParkedId> {
    let (index, register) = text.split_once('-')?;
    Some(ParkedId { source, index: index.parse().ok()?, register: u64::from_str_radix(register, 16).ok()? })
}

impl ParkedDocument {
    fn new((id, row): &(ParkedId, ParkedRow)) -> ParkedDocument {
        let register = row.change.register();
        let (tag, digest) = register.named();
        let (tag, digest) = (tag.map(ToString::to_string), digest.map(ToString::to_string));
        let change = match &row.change {
            Change::ManifestHere { .. } => "manifest put",
            Change::ManifestGone { .. } => "manifest deleted",
            Change::TagSet { .. } => "tag set",
            Change::TagGone { .. } => "tag deleted",
            Change::SettingsSet { .. } => "settings set",
        };
        let (id, repository) = (id_text(id), row.repository.to_string());
        ParkedDocument { id, repository, change, tag, digest, reason: row.reason.clone(), at: answer::time(row.at_ms) }
    }
}

#[derive(Serialize)]
struct ParkedListDocument {
    parked: Vec<ParkedDocument>,
    more: bool,
}

/// `GET /v1/replication/parked/{region}`: changes of a region that were put aside, oldest first.
pub(super) async fn parked(exchange: Exchange, Path(region): Path<String>) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "replication.parked").await?;
    let number = number(&exchange, &region)?;
    let rows = exchange.admin().cluster.parked(number, None, PARKED_LISTED + 1);
    let parked = rows.iter().take(PARKED_LISTED).map(ParkedDocument::new).collect();
    Ok(answer::json(StatusCode::OK, &ParkedListDocument { parked, more: rows.len() > PARKED_LISTED }))
}

/// Where to go on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryDocument {
    after: Option<String>,
}

#[derive(Serialize)]
struct RetriedDocument {
    settled: u64,
    failed: Vec<FailedDocument>,
    rest: Option<String>,
}

#[derive(Serialize)]
struct FailedDocument {
    id: String,
    reason: String,
}

/// `POST /v1/replication/parked/{region}/retry`: some of them are tried once more.
pub(super) async fn retry(
    exchange: Exchange,
    Path(region): Path<String>,
    Document(wish): Document<RetryDocument>,
) -> Answer {
    let mut retried = Retried::default();
    let asked = exchange.change("replication.retry", &region, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let number = number(&exchange, &region)?;
        let invalid = || Refusal::ParameterInvalid {
            parameter: "after".to_owned(),
            detail: "the id of a change that is put aside".to_owned(),
        };
        let after = wish?.after.map(|text| id(number, &text).ok_or_else(invalid)).transpose()?;
        retried = exchange.admin().links.retry_parked(number, after).await.ok_or_else(follows_nobody)?;
        Ok(caller.revision())
    });
    asked.await?;
    let failed = retried.failed.into_iter().map(|(id, reason)| FailedDocument { id: id_text(&id), reason });
    let (failed, rest) = (failed.collect(), retried.rest.as_ref().map(id_text));
    Ok(answer::json(StatusCode::OK, &RetriedDocument { settled: retried.settled, failed, rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Ids go out and come back; nothing else is taken for one.
    #[test]
    fn ids_there_and_back() {
        let of = ParkedId { source: 2, index: 300, register: u64::MAX - 1 };
        assert_eq!(id(2, &id_text(&of)), Some(of));
        for text in ["", "3", "x-1", "1-x", "1-11112222333344445"] {
            assert_eq!(id(2, text), None, "{text}");
        }
    }
}
