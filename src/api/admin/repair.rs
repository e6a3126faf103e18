//! Missing copies: how many, how urgent, how fast they are made; nodes that are not heard or are being emptied.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::metadata::absence::Stage;
use registry_core::metadata::census::ZoneNeeds;
use registry_core::vocabulary::limits::{REPAIR_FAILURES_TOLD_MAX, RETRY_AFTER_MS};
use registry_core::vocabulary::refusal::Refusal;
use serde::Serialize;

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use crate::cluster::{Healing, Patient};
use crate::ground::clock::whole_ms;
use crate::jobs::repair_replicas::{Made, RepairSettings};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize)]
struct StatusDocument {
    /// All zones together.
    total: TotalDocument,
    zones: Vec<ZoneDocument>,
    /// Nodes that are not heard or are being emptied.
    nodes: Vec<NodeDocument>,
    /// The asked node's own part.
    here: HereDocument,
    settings: SettingsDocument,
}

#[derive(Serialize)]
struct TotalDocument {
    copies: u64,
    bytes: u64,
    /// At least so long, counted in ticks.
    oldest_ms: Option<u64>,
    rate_bytes_per_s: Option<u64>,
    seconds_left: Option<u64>,
}

#[derive(Serialize)]
struct ZoneDocument {
    zone: String,
    copies: u64,
    /// Of blobs without a copy that could be reached: nobody can make these now.
    none_left: u64,
    one_left: u64,
    more_left: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct NodeDocument {
    id: String,
    zone: String,
    /// `missed`, `replaced` (its copies are made elsewhere) or `stranded`; `null` while it is heard.
    absence: Option<&'static str>,
    absent_ms: Option<u64>,
    draining: bool,
    copies_left: Option<u64>,
    bytes_left: Option<u64>,
    /// Copies that wait until another one is made.
    held_back: Option<u64>,
    /// Copies for which no other node is there.
    stuck: Option<u64>,
}

#[derive(Serialize)]
struct HereDocument {
    node: String,
    made: u64,
    made_bytes: u64,
    rate_bytes_per_s: u64,
    /// Copies that moved here because this node held less than its share, and what is to come.
    moved: u64,
    moved_bytes: u64,
    to_move_bytes: u64,
    failing: usize,
    failures: Vec<FailureDocument>,
}

#[derive(Serialize)]
struct FailureDocument {
    digest: String,
    times: u32,
    reason: String,
    again_in_ms: u64,
}

#[derive(Serialize)]
struct SettingsDocument {
    mib_per_s: u32,
    replace_after_ms: u64,
    zone_after_ms: u64,
}

impl ZoneDocument {
    fn new(needs: &ZoneNeeds) -> ZoneDocument {
        ZoneDocument {
            zone: needs.zone.to_string(),
            copies: needs.copies(),
            none_left: needs.of_none,
            one_left: needs.of_one,
            more_left: needs.of_more,
            bytes: needs.bytes,
        }
    }
}

impl NodeDocument {
    fn new(patient: &Patient) -> NodeDocument {
        let absence = patient.absence.map(|row| match row.stage {
            Stage::Missed => "missed",
            Stage::Replaced => "replaced",
            Stage::Stranded => "stranded",
        });
        NodeDocument {
            id: patient.node.to_string(),
            zone: patient.zone.to_string(),
            absence,
            absent_ms: patient.absence.map(|row| row.absent_ms),
            draining: patient.leaving.is_some(),
            copies_left: patient.leaving.map(|on| on.copies),
            bytes_left: patient.leaving.map(|on| on.bytes),
            held_back: patient.leaving.map(|on| on.held_back),
            stuck: patient.leaving.map(|on| on.stuck),
        }
    }
}

fn here(node: String, made: Made) -> HereDocument {
    let failing = made.failures.len();
    let told = made.failures.into_iter().take(REPAIR_FAILURES_TOLD_MAX);
    let failure = |failure: crate::jobs::repair_replicas::Failure| FailureDocument {
        digest: failure.digest.to_string(),
        times: failure.times,
        reason: failure.reason,
        again_in_ms: whole_ms(failure.again_in),
    };
    HereDocument {
        node,
        made: made.copies,
        made_bytes: made.bytes,
        rate_bytes_per_s: made.rate_bytes_per_s,
        moved: made.moved,
        moved_bytes: made.moved_bytes,
        to_move_bytes: made.to_move_bytes,
        failing,
        failures: told.map(failure).collect(),
    }
}

fn document(healing: &Healing, here: HereDocument, settings: &RepairSettings) -> StatusDocument {
    StatusDocument {
        total: TotalDocument {
            copies: healing.zones.iter().map(ZoneNeeds::copies).sum(),
            bytes: healing.bytes(),
            oldest_ms: healing.oldest_ms,
            rate_bytes_per_s: healing.rate_bytes_per_s,
            seconds_left: healing.seconds_left(),
        },
        zones: healing.zones.iter().map(ZoneDocument::new).collect(),
        nodes: healing.nodes.iter().map(NodeDocument::new).collect(),
        here,
        settings: SettingsDocument {
            mib_per_s: settings.mib_per_s,
            replace_after_ms: whole_ms(settings.patience.node),
            zone_after_ms: whole_ms(settings.patience.zone),
        },
    }
}

/// `GET /v1/repair`: as the asked node's state knows, with or without a quorum.
pub(super) async fn status(exchange: Exchange) -> Answer {
    exchange.administrator(policy::Action::ReadCluster, "repair.get").await?;
    let admin = exchange.admin();
    let counted = admin.cluster.healing().await;
    let healing = counted.ok_or(Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS })?;
    let here = here(admin.cluster.node().to_string(), admin.repairs.told());
    Ok(answer::json(StatusCode::OK, &document(&healing, here, &admin.repair)))
}
