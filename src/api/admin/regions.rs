//! Other regions: who is known, how far changes have gone, and taking over from one that is lost.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::metadata::cursor::CursorRow;
use registry_core::metadata::region_link::TakenOver;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::ClusterId;
use registry_core::vocabulary::names::RegionName;
use serde::{Deserialize, Serialize};

use super::answer;
use super::comparisons::follows_nobody;
use super::error::Failure;
use super::exchange::{Document, Exchange};
use super::replication::BackfillDocument;
use crate::cluster::{KnownRegion, RegionCard};
use crate::jobs::replicate::SourceState;

type Answer = Result<Response<Body>, Failure>;

/// A region's card as it is handed over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardDocument {
    region: String,
    number: u16,
    cluster: String,
    endpoints: Vec<String>,
    ca_pem: String,
}

impl From<RegionCard> for CardDocument {
    fn from(RegionCard { region, number, cluster, endpoints, ca_pem }: RegionCard) -> CardDocument {
        CardDocument { region: region.to_string(), number, cluster: cluster.to_string(), endpoints, ca_pem }
    }
}

/// The region that a path names; one that can't be a name is not known.
pub(super) fn parse_region(text: &str) -> Result<RegionName, Failure> {
    RegionName::parse(text).map_err(|_| Failure::NotFound)
}

pub(super) fn invalid(parameter: &str, detail: impl ToString) -> Failure {
    Refusal::ParameterInvalid { parameter: parameter.to_owned(), detail: detail.to_string() }.into()
}

impl TryFrom<CardDocument> for RegionCard {
    type Error = Failure;

    fn try_from(document: CardDocument) -> Result<RegionCard, Failure> {
        let CardDocument { region, number, cluster, endpoints, ca_pem } = document;
        let region = RegionName::parse(&region).map_err(|error| invalid("region", error))?;
        let cluster = ClusterId::parse(&cluster).ok_or_else(|| invalid("cluster", "32 hexadecimal digits"))?;
        Ok(RegionCard { region, number, cluster, endpoints, ca_pem })
    }
}

#[derive(Serialize)]
struct CursorDocument {
    lineage: String,
    index: u64,
    at: String,
}

impl From<CursorRow> for CursorDocument {
    fn from(CursorRow { lineage, index, at_ms, .. }: CursorRow) -> CursorDocument {
        CursorDocument { lineage: lineage.to_string(), index, at: answer::time(at_ms) }
    }
}

/// What the leader knows of a region that it follows.
#[derive(Serialize)]
struct FollowedDocument {
    connected: bool,
    problem: Option<String>,
    gap: bool,
    received_index: u64,
    applied_index: u64,
    open: u64,
    lag_seconds: f64,
    applied: u64,
    parked: u64,
}

impl From<SourceState> for FollowedDocument {
    fn from(state: SourceState) -> FollowedDocument {
        let lag_seconds = std::time::Duration::from_millis(state.lag_ms()).as_secs_f64();
        FollowedDocument {
            connected: state.is_connected,
            problem: state.problem,
            gap: state.has_gap,
            received_index: state.received_index,
            applied_index: state.applied_index,
            open: state.open,
            lag_seconds,
            applied: state.applied,
            parked: state.parked,
        }
    }
}

#[derive(Serialize)]
struct RegionDocument {
    region: String,
    number: u16,
    cluster: String,
    endpoints: Vec<String>,
    added_at: String,
    taken: Option<CursorDocument>,
    given: Option<CursorDocument>,
    followed: Option<FollowedDocument>,
    /// All that the region acknowledged before this time of its clock is here, but for what was put aside.
    complete_until: Option<String>,
    paused: bool,
    taken_over: Option<TakenOverDocument>,
    /// Zero for as many as there can be.
    bytes_per_second: u64,
    backfill: Option<BackfillDocument>,
}

/// What was here of a region when this one took over from it.
#[derive(Serialize)]
struct TakenOverDocument {
    at: String,
    lineage: Option<String>,
    index: Option<u64>,
    complete_until: Option<String>,
}

impl From<TakenOver> for TakenOverDocument {
    fn from(TakenOver { at_ms, applied, complete_ms }: TakenOver) -> TakenOverDocument {
        TakenOverDocument {
            at: answer::time(at_ms),
            lineage: applied.map(|(lineage, _)| lineage.to_string()),
            index: applied.map(|(_, index)| index),
            complete_until: known_time(complete_ms),
        }
    }
}

/// A time that may not be known, which is zero then.
fn known_time(ms: u64) -> Option<String> {
    (ms > 0).then(|| answer::time(ms))
}

/// All that a region acknowledged before this time of its clock, milliseconds since 1970, is here: by the state, and by
/// what this node knows beyond it. Zero where nothing is known.
fn complete_ms(taken: Option<&CursorRow>, followed: Option<&SourceState>) -> u64 {
    taken.map_or(0, |row| row.complete_ms).max(followed.map_or(0, SourceState::complete_ms))
}

#[derive(Serialize)]
struct RegionsDocument {
    regions: Vec<RegionDocument>,
}

/// `GET /v1/regions`: who is known, and how far changes have gone; what is followed is told by the leader.
pub(super) async fn list(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "region.list").await?;
    let admin = exchange.admin();
    let mut states: std::collections::BTreeMap<u16, SourceState> = admin.links.states().into_iter().collect();
    let document = |KnownRegion { number, row, taken, given, link, backfill }| {
        let followed = states.remove(&number);
        RegionDocument {
            region: row.region.to_string(),
            number,
            cluster: row.cluster.to_string(),
            endpoints: row.endpoints,
            added_at: answer::time(row.added_at_ms),
            complete_until: known_time(complete_ms(taken.as_ref(), followed.as_ref())),
            taken: taken.map(Into::into),
            given: given.map(Into::into),
            followed: followed.map(Into::into),
            paused: link.is_paused,
            taken_over: link.taken_over.map(Into::into),
            bytes_per_second: link.bytes_per_second,
            backfill: backfill.map(Into::into),
        }
    };
    let regions = admin.cluster.regions().into_iter().map(document).collect();
    Ok(answer::json(StatusCode::OK, &RegionsDocument { regions }))
}

/// `GET /v1/regions/own/card`: what this region tells others of itself.
pub(super) async fn card(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "region.card").await?;
    let closed = || {
        Failure::Conflict(
            "this node has no door for other regions: set listen.region on every node, with the same port, and \
             restart it"
                .to_owned(),
        )
    };
    let card = exchange.admin().cluster.region_card().ok_or_else(closed)?;
    Ok(answer::json(StatusCode::OK, &CardDocument::from(card)))
}

/// `POST /v1/regions`: makes a region known by its card.
pub(super) async fn add(exchange: Exchange, Document(wish): Document<CardDocument>) -> Answer {
    let name = wish.as_ref().map_or_else(|_| String::new(), |card| card.region.clone());
    let revision = exchange.change("region.add", &name, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let card = RegionCard::try_from(wish?)?;
        Ok(exchange.admin().cluster.add_region(caller.name(), card).await?)
    });
    Ok(answer::changed(revision.await?))
}

/// `DELETE /v1/regions/{region}`
pub(super) async fn remove(exchange: Exchange, Path(region): Path<String>) -> Answer {
    let revision = exchange.change("region.remove", &region, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let name = parse_region(&region)?;
        exchange.admin().cluster.remove_region(caller.name(), &name).await?.ok_or(Failure::NotFound)
    });
    Ok(answer::changed(revision.await?))
}

/// Whether who asks knows what taking over may cost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeOverDocument {
    #[serde(default)]
    accept_loss: bool,
}

/// `POST /v1/regions/{region}/take-over`: this region takes over from one that is lost.
pub(super) async fn take_over(
    exchange: Exchange,
    Path(region): Path<String>,
    Document(wish): Document<TakeOverDocument>,
) -> Answer {
    let revision = exchange.change("region.take-over", &region, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let TakeOverDocument { accept_loss } = wish?;
        let name = parse_region(&region)?;
        let admin = exchange.admin();
        let known = admin.cluster.regions().into_iter().find(|known| known.row.region == name);
        let known = known.ok_or(Failure::NotFound)?;
        let followed = admin.links.states().into_iter().find(|(number, _)| *number == known.number);
        let followed = followed.map(|(_, state)| state);
        let complete_ms = complete_ms(known.taken.as_ref(), followed.as_ref());
        if !admin.cluster.leads() {
            return Err(follows_nobody());
        }
        // where nothing is asked of the region, nobody knows whether it would answer
        let is_asked = !known.link.is_paused;
        let has_asked = followed.as_ref().is_some_and(|state| state.is_connected || state.problem.is_some());
        if is_asked && !has_asked {
            return Err(Failure::Conflict(format!(
                "this node leads since a moment ago and has not asked region '{name}' yet: try again in a few seconds"
            )));
        }
        may_take_over(&name, complete_ms, followed.as_ref(), accept_loss)?;
        admin.cluster.take_over_region(caller.name(), &name, complete_ms).await?.ok_or(Failure::NotFound)
    });
    Ok(answer::changed(revision.await?))
}

/// Who takes over from a region that answers, or does not know what may be lost, is told so.
fn may_take_over(
    region: &RegionName,
    complete_ms: u64,
    followed: Option<&SourceState>,
    accept_loss: bool,
) -> Result<(), Failure> {
    if followed.is_some_and(|state| state.is_connected) {
        return Err(Failure::Conflict(format!(
            "region '{region}' answers, so it is not lost: to move clients while both live, let them use this region's \
             name; to take nothing from it for a while, 'portolan region pause {region}'"
        )));
    }
    if accept_loss {
        return Ok(());
    }
    let here = match known_time(complete_ms) {
        Some(until) => {
            format!("What '{region}' acknowledged before {until} (its clock) is here, but for changes put aside")
        }
        None => format!("How much of what '{region}' acknowledged is here is not known"),
    };
    Err(Failure::Conflict(format!(
        "{here}; what it acknowledged later, and what no rule sends, is lost unless it comes back. Clients that ask for \
         that are told that it does not exist. If it is lost for good, say accept_loss (--accept-loss)"
    )))
}
