//! The cluster: what it looks like from here, founding, membership, leadership.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{Response, StatusCode};
use registry_core::decide::placement::Degradation;
use registry_core::decide::policy;
use registry_core::metadata::node::NodeState;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::limits::{RETRY_AFTER_MS, SEEDS_MAX};
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::{Document, Exchange, Nothing};
use super::users::NewKeyDocument;
use crate::cluster::{Accepted, ClusterStatus, Founded, FoundingError, MembershipError, NodeStatus, StoreStatus};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize)]
struct StatusDocument {
    node: String,
    cluster: Option<ClusterDocument>,
    term: u64,
    leader: Option<String>,
    applied_index: u64,
    last_log_index: u64,
    admitted: bool,
    /// What this node has lost, and until when it does not vote.
    suspicion: Option<String>,
    /// How its clock stands to the voters' ones.
    clock: &'static str,
    nodes: Vec<NodeDocument>,
    write_rule: RuleDocument,
}

/// The cluster's row without its secrets: written out field by field, so that a new secret never slips in.
#[derive(Serialize)]
struct ClusterDocument {
    id: String,
    lineage: String,
    region: String,
    region_number: u16,
    feature_level: u16,
    /// The step to that level is under way.
    migrates: bool,
    created_at: String,
}

#[derive(Serialize)]
struct NodeDocument {
    id: String,
    zone: Option<String>,
    state: Option<&'static str>,
    raft_address: Option<String>,
    blob_address: Option<String>,
    public_url: Option<String>,
    version: Option<String>,
    /// Highest feature level that its program knows.
    feature_level: Option<u16>,
    registered_at: Option<String>,
    votes: bool,
    suspect: bool,
    member: bool,
    leads: bool,
    matched_index: Option<u64>,
    /// Of its clock over the median of the voters' clocks; `null` if the asked node does not know.
    clock_ahead_ms: Option<i64>,
    stores: Vec<StoreDocument>,
}

#[derive(Serialize)]
struct StoreDocument {
    id: String,
    weight: u32,
}

/// What 201 needs before it is sent.
#[derive(Serialize)]
struct RuleDocument {
    zones: usize,
    nodes: usize,
    copies: usize,
    degradation: Option<&'static str>,
}

fn node_document(node: NodeStatus, leader: Option<NodeId>) -> NodeDocument {
    let state = node.row.as_ref().map(|row| match row.state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    });
    let store = |store: StoreStatus| StoreDocument { id: store.id.to_string(), weight: store.row.weight };
    let row = node.row;
    NodeDocument {
        id: node.id.to_string(),
        state,
        zone: row.as_ref().map(|row| row.zone.to_string()),
        raft_address: row.as_ref().map(|row| row.raft_address.clone()),
        blob_address: row.as_ref().map(|row| row.blob_address.clone()),
        public_url: row.as_ref().map(|row| row.public_url.clone()),
        version: row.as_ref().map(|row| row.version.clone()),
        feature_level: row.as_ref().map(|row| row.feature_level),
        registered_at: row.as_ref().map(|row| answer::time(row.registered_at_ms)),
        votes: node.votes,
        suspect: node.is_suspect,
        member: node.is_member,
        leads: leader == Some(node.id),
        matched_index: node.matched_index,
        clock_ahead_ms: node.clock_ahead_ms,
        stores: node.stores.into_iter().map(store).collect(),
    }
}

fn status_document(status: ClusterStatus) -> StatusDocument {
    let leader = status.leader;
    let cluster = status.cluster.map(|row| ClusterDocument {
        id: row.cluster.to_string(),
        lineage: row.lineage.to_string(),
        region: row.region,
        region_number: row.region_number,
        feature_level: row.feature_level,
        migrates: status.migrates,
        created_at: answer::time(row.created_at_ms),
    });
    let rule = status.write_rule;
    let degradation = rule.degradation.map(|degradation| match degradation {
        Degradation::NoStore => "no_store",
        Degradation::OneNode => "one_node",
        Degradation::OneZone => "one_zone",
        Degradation::TwoZones => "two_zones",
    });
    StatusDocument {
        node: status.node.to_string(),
        cluster,
        term: status.term,
        leader: leader.map(|leader| leader.to_string()),
        applied_index: status.applied_index,
        last_log_index: status.last_log_index,
        admitted: status.is_admitted,
        suspicion: status.suspicion,
        clock: status.clock.as_str(),
        nodes: status.nodes.into_iter().map(|node| node_document(node, leader)).collect(),
        write_rule: RuleDocument { zones: rule.zones, nodes: rule.nodes, copies: rule.copies, degradation },
    }
}

/// `GET /v1/cluster`: what this node knows, also before the cluster is founded and without a quorum.
pub(super) async fn status(exchange: Exchange) -> Answer {
    if !(exchange.is_unfounded() && exchange.may_found()) {
        exchange.administrator(policy::Action::ReadCluster, "cluster.get").await?;
    }
    Ok(answer::json(StatusCode::OK, &status_document(exchange.admin().cluster.status())))
}

#[derive(Serialize)]
struct InitDocument<'a> {
    cluster: String,
    region: &'a str,
    /// The root user's first access key, shown this once; `null` when the operator brought it along.
    root_key: Option<NewKeyDocument<'a>>,
}

/// `POST /v1/cluster/init`: founds the cluster with this node as its first, and makes the first access key. Everything
/// else about the new cluster stands in the node's configuration.
///
/// Open to processes on the same machine until it has succeeded; afterwards refused. A founding that broke off between
/// its steps is completed.
pub(super) async fn init(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    let resource = exchange.admin().founding.cluster.to_string();
    if !(exchange.is_unfounded() && exchange.may_found()) {
        let caller = exchange.caller_of("cluster.init", &resource).await?;
        let no = match exchange.auth().permit_admin(&caller, policy::Action::ManageCluster) {
            Ok(()) => Refusal::ClusterInitialised.into(),
            Err(refused) => Failure::from(refused),
        };
        return exchange.audited(&caller, "cluster.init", &resource, |_| caller.revision(), Err(no));
    }
    let ended = match wish {
        Ok(Nothing {}) => found(&exchange).await,
        Err(failure) => Err(failure),
    };
    exchange.audited_by_nobody("cluster.init", &resource, &ended);
    ended
}

async fn found(exchange: &Exchange) -> Answer {
    let admin = exchange.admin();
    match admin.cluster.found(admin.founding.clone()).await {
        Ok(Founded::Now | Founded::Completed) | Err(FoundingError::Exists) => {}
        Err(FoundingError::Known(known)) => return Err(Failure::Conflict(known.to_string())),
        Err(FoundingError::Consensus(why)) => return Err(Failure::Conflict(why)),
        Err(FoundingError::Propose(error)) => return Err(Refusal::from(error).into()),
    }
    let is_brought = admin.root_key.is_some();
    let Some(made) = admin.auth.bootstrap(admin.root_key.clone()).await? else {
        return Err(Refusal::ClusterInitialised.into());
    };
    let shown = NewKeyDocument { key_id: &made.key_id, secret: made.secret.expose() };
    let status = admin.cluster.status();
    let cluster = status.cluster.map_or(admin.founding.cluster, |row| row.cluster).to_string();
    let root_key = (!is_brought).then_some(shown);
    Ok(answer::json(StatusCode::CREATED, &InitDocument { cluster, region: &admin.founding.region, root_key }))
}

/// Body of `POST /v1/cluster/join`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    /// Consensus addresses (`host:port`) of nodes of the cluster.
    seeds: Vec<String>,
}

/// `POST /v1/cluster/join`: this node asks to be taken into a cluster. The cluster's authority, by the certificates of
/// the nodes, decides.
pub(super) async fn join(exchange: Exchange, Document(wish): Document<Join>) -> Answer {
    let resource = wish.as_ref().map_or_else(|_| String::new(), |wish| wish.seeds.join(","));
    if exchange.is_unfounded() && exchange.may_found() {
        let ended = join_at(&exchange, wish).await;
        exchange.audited_by_nobody("cluster.join", &resource, &ended);
        ended?;
        return Ok(done());
    }
    let caller = exchange.caller_of("cluster.join", &resource).await?;
    let ended = match exchange.auth().permit_admin(&caller, policy::Action::ManageCluster) {
        Ok(()) => join_at(&exchange, wish).await,
        Err(refused) => Err(refused.into()),
    };
    exchange.audited(&caller, "cluster.join", &resource, |()| caller.revision(), ended)?;
    Ok(done())
}

async fn join_at(exchange: &Exchange, wish: Result<Join, Failure>) -> Result<(), Failure> {
    let Join { seeds } = wish?;
    if seeds.is_empty() || seeds.len() > SEEDS_MAX {
        return Err(Failure::Body(format!("seeds: 1 to {SEEDS_MAX} consensus addresses of nodes, host:port")));
    }
    let admin = exchange.admin();
    admin.cluster.join(seeds, admin.founding.member.clone()).await.map_err(membership)
}

/// Body of `POST /v1/cluster/transfer`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Transfer {
    /// The node that shall lead.
    to: String,
}

/// `POST /v1/cluster/transfer`
pub(super) async fn transfer(exchange: Exchange, Document(wish): Document<Transfer>) -> Answer {
    let resource = wish.as_ref().map_or_else(|_| String::new(), |wish| wish.to.clone());
    let caller = exchange.caller_of("cluster.transfer", &resource).await?;
    let ended = async {
        exchange.auth().permit_admin(&caller, policy::Action::ManageCluster)?;
        exchange.admin().cluster.transfer(parse_node(&wish?.to)?).await.map_err(membership)
    };
    let ended: Result<(), Failure> = ended.await;
    exchange.audited(&caller, "cluster.transfer", &resource, |()| caller.revision(), ended)?;
    Ok(done())
}

#[derive(Serialize)]
struct FinalizedDocument {
    feature_level: u16,
}

/// `POST /v1/cluster/finalize`: the cluster steps up to this node's feature level, for good.
pub(super) async fn finalize(exchange: Exchange, Document(wish): Document<Nothing>) -> Answer {
    let resource = exchange.admin().founding.cluster.to_string();
    let caller = exchange.caller_of("cluster.finalize", &resource).await?;
    let ended = async {
        exchange.auth().permit_admin(&caller, policy::Action::ManageCluster)?;
        let Nothing {} = wish?;
        Ok(exchange.admin().cluster.finalize(caller.name()).await.map_err(Refusal::from)?)
    };
    let ended: Result<u16, Failure> = ended.await;
    let level = exchange.audited(&caller, "cluster.finalize", &resource, |_| caller.revision(), ended)?;
    Ok(answer::json(StatusCode::OK, &FinalizedDocument { feature_level: level }))
}

/// Query of `DELETE /v1/cluster/nodes/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// Whatever it costs.
    #[serde(default)]
    force: bool,
    /// Another node stands in for it: copies may be too few until they are made again, but no blob may be lost.
    #[serde(default)]
    replaced: bool,
}

/// `DELETE /v1/cluster/nodes/{id}`: removes a member for good. 409 while blobs would be worse off, unless the query
/// says that this is meant.
pub(super) async fn remove(
    exchange: Exchange,
    Path(id): Path<String>,
    wish: Result<Query<Removal>, QueryRejection>,
) -> Answer {
    let removed = exchange.change("node.remove", &id, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let Query(Removal { force, replaced }) = wish.map_err(|wrong| Failure::Body(wrong.body_text()))?;
        let accepted = match (force, replaced) {
            (true, _) => Accepted::Losses,
            (false, true) => Accepted::FewerCopies,
            (false, false) => Accepted::Nothing,
        };
        let cluster = &exchange.admin().cluster;
        cluster.remove(parse_node(&id)?, accepted, caller.name()).await.map_err(membership)?;
        Ok(caller.revision())
    });
    removed.await?;
    Ok(done())
}

/// Body of `POST /v1/cluster/nodes/{id}/drain`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    /// The node is taken back into service.
    #[serde(default)]
    cancel: bool,
}

/// `POST /v1/cluster/nodes/{id}/drain`: the node gets nothing new, and its copies are moved to others; or no more.
pub(super) async fn drain(exchange: Exchange, Path(id): Path<String>, Document(wish): Document<Drain>) -> Answer {
    let drained = exchange.change("node.drain", &id, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        let Drain { cancel } = wish?;
        let cluster = &exchange.admin().cluster;
        cluster.drain(parse_node(&id)?, cancel, caller.name()).await.map_err(membership)?;
        Ok(caller.revision())
    });
    drained.await?;
    Ok(done())
}

fn parse_node(text: &str) -> Result<NodeId, Failure> {
    NodeId::parse(text).ok_or_else(|| Failure::Body(format!("'{text}' is no node id: 16 hexadecimal digits")))
}

fn membership(error: MembershipError) -> Failure {
    if let MembershipError::Propose(error) = error {
        return Refusal::from(error).into();
    }
    if error.is_passing() {
        return Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }.into();
    }
    Failure::Conflict(error.to_string())
}

fn done() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
