//! What operators ask of replication beside rules and comparisons: the links, one image's way, what was lost, and the
//! records themselves.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use registry_core::decide::policy;
use registry_core::decide::replication::compare::{Record, Register};
use registry_core::decide::replication::tags::TagScope;
use registry_core::metadata::backfill::BackfillRow;
use registry_core::metadata::conflict::Conflict;
use registry_core::vocabulary::{Digest, Reference, Refusal, RepositoryName};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::regions::parse_region;
use super::repositories::{parse_name, parse_reference};
use super::rules::TagsDocument;
use crate::auth::Action;
use crate::cluster::{Direction, ExportPage, ExportPlace};
use crate::ground::clock::{Clock as _, SystemClock};
use crate::jobs::replicate::{Arrival, ImageStatus};
use crate::registry::Consistency;

type Answer = Result<Response<Body>, Failure>;

/// Conflicts that one answer lists.
const CONFLICTS_LISTED: usize = 500;

/// How much of what a region held before its rules is here.
#[derive(Serialize)]
pub(super) struct BackfillDocument {
    settled: u64,
    total: u64,
    began_at: String,
    ended_at: Option<String>,
    eta_seconds: Option<u64>,
}

impl From<BackfillRow> for BackfillDocument {
    fn from(row: BackfillRow) -> BackfillDocument {
        BackfillDocument {
            settled: row.settled,
            total: row.total,
            began_at: answer::time(row.began_at_ms),
            ended_at: row.ended_at_ms.map(answer::time),
            eta_seconds: eta_seconds(&row, SystemClock.wall_ms()),
        }
    }
}

/// What is left takes as long as what was done took, record for record.
fn eta_seconds(row: &BackfillRow, now_ms: u64) -> Option<u64> {
    let left = row.total.saturating_sub(row.settled);
    let took_ms = now_ms.saturating_sub(row.began_at_ms);
    (row.ended_at_ms.is_none() && row.settled > 0).then(|| took_ms / 1000 * left / row.settled)
}

/// What is wanted of a link.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkDocument {
    paused: Option<bool>,
    bytes_per_second: Option<u64>,
}

/// `PATCH /v1/regions/{region}`: pauses or resumes what is taken from a region, and how fast it is.
pub(super) async fn set_link(
    exchange: Exchange,
    Path(region): Path<String>,
    Document(wish): Document<LinkDocument>,
) -> Answer {
    let revision = exchange.change("region.set", &region, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let LinkDocument { paused, bytes_per_second } = wish?;
        let name = parse_region(&region)?;
        let cluster = &exchange.admin().cluster;
        cluster.set_region_link(caller.name(), &name, paused, bytes_per_second).await?.ok_or(Failure::NotFound)
    });
    Ok(answer::changed(revision.await?))
}

/// Which image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageWish {
    reference: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusDocument {
    region: String,
    registry_id: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<ImageStatus> for StatusDocument {
    fn from(ImageStatus { region, registry, arrival, reason }: ImageStatus) -> StatusDocument {
        let (status, failure_code) = match arrival {
            Arrival::InProgress => ("IN_PROGRESS", None),
            Arrival::Complete => ("COMPLETE", None),
            Arrival::Failed => ("FAILED", Some("ReplicationFailure")),
        };
        StatusDocument { region: region.to_string(), registry_id: registry.to_string(), status, failure_code, reason }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageDocument {
    repository_name: String,
    image_digest: String,
    replication_statuses: Vec<StatusDocument>,
}

/// `GET /v1/replication/images/{name}?reference=`: what has become of an image in the regions that rules send it to
/// (ECR `DescribeImageReplicationStatus`).
pub(super) async fn image(
    exchange: Exchange,
    Path(name): Path<String>,
    query: Result<Query<ImageWish>, QueryRejection>,
) -> Answer {
    let caller = exchange.caller().await?;
    let name = parse_name(&name)?;
    let permitted = exchange.auth().permit(&caller, Action::List, caller.registry(), &name);
    let permit = exchange.looked(&caller, "replication.image", name.as_str(), permitted)?;
    let Query(ImageWish { reference }) = query.map_err(|error| Failure::Body(error.body_text()))?;
    let parsed = parse_reference(&reference)?;
    let admin = exchange.admin();
    let found = admin.registry.stat_manifest(&permit, &parsed, Consistency::Linearizable).await?;
    let digest = found.value.digest;
    let statuses = admin.links.image(&name, &digest).await?;
    let statuses = statuses.ok_or(Refusal::ManifestUnknown { reference: Reference::Digest(digest) })?;
    let document = ImageDocument {
        repository_name: name.to_string(),
        image_digest: digest.to_string(),
        replication_statuses: statuses.into_iter().map(Into::into).collect(),
    };
    Ok(answer::at(answer::json(StatusCode::OK, &document), found.revision))
}

/// Behind which entry of a listing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterWish {
    after: Option<String>,
}

#[derive(Serialize)]
struct ConflictDocument {
    repository: String,
    tag: String,
    kept: Option<String>,
    kept_region: u16,
    lost: String,
    lost_region: u16,
    found_at: String,
}

#[derive(Serialize)]
struct ConflictsDocument {
    conflicts: Vec<ConflictDocument>,
    after: Option<String>,
}

impl From<&Conflict> for ConflictDocument {
    fn from(Conflict { repository, tag, row, .. }: &Conflict) -> ConflictDocument {
        ConflictDocument {
            repository: repository.name.to_string(),
            tag: tag.to_string(),
            kept: row.kept.as_ref().map(Digest::to_string),
            kept_region: row.kept_version.region,
            lost: row.lost.to_string(),
            lost_region: row.lost_version.region,
            found_at: answer::time(row.at_ms),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// `GET /v1/replication/conflicts`: settings of tags that were lost to those of another region.
pub(super) async fn conflicts(exchange: Exchange, query: Result<Query<AfterWish>, QueryRejection>) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "replication.conflicts").await?;
    let Query(AfterWish { after }) = query.map_err(|error| Failure::Body(error.body_text()))?;
    let bad = || Failure::Body("after: what the last page ended with".to_owned());
    let after = after.map(|text| unhex(&text).ok_or_else(bad)).transpose()?;
    let found = exchange.admin().cluster.conflicts(after.as_deref(), CONFLICTS_LISTED);
    let is_full = found.len() == CONFLICTS_LISTED;
    let after = found.last().filter(|_| is_full).map(|last| HEXLOWER.encode(&last.key));
    let document = ConflictsDocument { conflicts: found.iter().map(Into::into).collect(), after };
    Ok(answer::json(StatusCode::OK, &document))
}

/// Which records, and behind what.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportWish {
    direction: String,
    repository: Option<String>,
    register: Option<String>,
}

#[derive(Serialize)]
struct RecordDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    /// It is of the repository's settings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    settings: bool,
    digest: String,
    version: String,
    base: String,
}

impl From<&(Register, Record)> for RecordDocument {
    fn from((register, record): &(Register, Record)) -> RecordDocument {
        RecordDocument {
            tag: register.named().0.map(ToString::to_string),
            settings: *register == Register::Settings,
            digest: record.digest.to_string(),
            version: record.version.to_string(),
            base: record.base.to_string(),
        }
    }
}

#[derive(Serialize)]
struct PlaceDocument {
    repository: String,
    register: Option<String>,
}

/// Tags that a rule had, and up to which hybrid logical time.
#[derive(Serialize)]
struct FormerTagsDocument {
    until: u64,
    /// `None` for all.
    tags: Option<TagsDocument>,
}

#[derive(Serialize)]
struct ExportDocument {
    origin: u16,
    index: u64,
    repository: Option<String>,
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    others_since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings_since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<TagsDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags_before: Vec<FormerTagsDocument>,
    records: Vec<RecordDocument>,
    rest: Option<PlaceDocument>,
}

impl From<ExportPage> for ExportDocument {
    fn from(page: ExportPage) -> ExportDocument {
        let ExportPage { origin, index, repository, since, tags, records, rest } = page;
        let place = |ExportPlace { repository, register }| PlaceDocument {
            repository: repository.to_string(),
            register: register.map(|register: Register| HEXLOWER.encode(&register.key())),
        };
        let former =
            |(until, tags): &(u64, TagScope)| FormerTagsDocument { until: *until, tags: TagsDocument::of(tags) };
        ExportDocument {
            origin,
            index,
            repository: repository.as_ref().map(RepositoryName::to_string),
            since: since.own,
            others_since: since.others,
            settings_since: since.settings,
            tags: TagsDocument::of(&tags.now),
            tags_before: tags.before.iter().map(former).collect(),
            records: records.iter().map(Into::into).collect(),
            rest: rest.map(place),
        }
    }
}

/// `GET /v1/replication/export/{region}?direction=to|from`: records that both regions should have, a page of one
/// repository at a time.
pub(super) async fn export(
    exchange: Exchange,
    Path(region): Path<String>,
    query: Result<Query<ExportWish>, QueryRejection>,
) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "replication.export").await?;
    let Query(ExportWish { direction, repository, register }) =
        query.map_err(|error| Failure::Body(error.body_text()))?;
    let direction = match direction.as_str() {
        "to" => Direction::To,
        "from" => Direction::From,
        _ => return Err(Failure::Body("direction: 'to' or 'from'".to_owned())),
    };
    let bad = || Failure::Body("register: what the last page ended with".to_owned());
    let register = register.map(|text| unhex(&text).and_then(|key| Register::from_key(&key)).ok_or_else(bad));
    let (register, repository) = (register.transpose()?, repository.map(|text| parse_name(&text)).transpose()?);
    let after = repository.map(|repository| ExportPlace { repository, register });
    let name = parse_region(&region)?;
    let page = exchange.admin().cluster.export(&name, direction, after.as_ref()).ok_or(Failure::NotFound)?;
    Ok(answer::json(StatusCode::OK, &ExportDocument::from(page)))
}

#[cfg(test)]
mod tests {
    use registry_core::vocabulary::ids::Lineage;

    use super::*;

    // Keys go out and come back; nothing else is taken for one.
    #[test]
    fn keys_there_and_back() {
        for bytes in [&[][..], &[0, 255, 16]] {
            assert_eq!(unhex(&HEXLOWER.encode(bytes)).as_deref(), Some(bytes));
        }
        for text in ["0", "zz", "+1", "ä0"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }

    // Half done in ten seconds: ten more.
    #[test]
    fn etas() {
        let row = |settled, ended_at_ms| BackfillRow {
            lineage: Lineage(1),
            rule: 2,
            done: 0,
            at: None,
            settled,
            total: 100,
            began_at_ms: 5_000,
            ended_at_ms,
        };
        assert_eq!(eta_seconds(&row(50, None), 15_000), Some(10));
        assert_eq!(eta_seconds(&row(0, None), 15_000), None);
        assert_eq!(eta_seconds(&row(100, Some(9)), 15_000), None);
        assert_eq!(eta_seconds(&row(120, None), 15_000), Some(0));
    }
}
