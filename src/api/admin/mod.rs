//! The admin API: JSON over its own listener, for operators and the command line.
//!
//! Parses, asks auth for the caller and its right, calls one method of auth, registry or cluster, and renders. Never on
//! the public listener (A28). Everything but liveness needs an access key or an operator's certificate; only before the
//! cluster is founded may a process on the same machine found it or have the node join. Unknown fields are refused
//! (A14). Every change, made or refused, is audited. Start at [`Admin::router`].
//!
//! | Path | Methods |
//! |---|---|
//! | `/livez`, `/readyz`, `/startupz` | GET, without a credential |
//! | `/metrics` | GET |
//! | `/v1/cluster` | GET |
//! | `/v1/cluster/init`, `/join`, `/transfer` | POST |
//! | `/v1/cluster/nodes/{id}`, `…/drain` | DELETE / POST |
//! | `/v1/repair` | GET |
//! | `/v1/users`, `/v1/users/{user}` | GET, POST / GET, PATCH, DELETE |
//! | `/v1/users/{user}/keys`, `…/{key}` | GET, POST / PATCH, DELETE |
//! | `/v1/users/{user}/policies`, `…/{policy}` | GET / PUT, DELETE |
//! | `/v1/users/{user}/grants` | PUT |
//! | `/v1/whoami`, `/v1/explain` | GET / POST |
//! | `/v1/blobs/{digest}`, `…/uses` | GET |
//! | `/v1/gc`; `/v1/gc/run`, `/pause`, `/resume`, `/adopt-bucket` | GET; POST |
//! | `/v1/scrub`; `/v1/scrub/run`, `/pause`, `/resume` | GET; POST |
//! | `/v1/backups`, `/v1/backups/{id}`, `…/files/{number}` | POST / DELETE / GET |
//! | `/v1/registry` | GET, PATCH |
//! | `/v1/history/{name}` | GET |
//! | `/v1/regions`, `/v1/regions/{region}`, `/v1/regions/own/card` | GET, POST / PATCH, DELETE / GET |
//! | `/v1/regions/{region}/take-over` | POST |
//! | `/v1/replication/rules`, `…/dry-run`, `…/report`, `…/compare/{region}` | GET, PUT / POST / GET / POST |
//! | `/v1/replication/parked/{region}`, `…/retry` | GET / POST |
//! | `/v1/replication/images/{name}`, `…/conflicts`, `…/export/{region}` | GET |
//! | `/v1/places`, `/v1/nearest/{name}` | GET, PUT / GET |
//! | `/v1/repositories`, `/v1/repositories/{name}` | GET, POST / GET, PATCH, DELETE |
//!
//! `{user}` may be `anonymous` for policies and grants: what requests without a credential may do.

mod answer;
mod backups;
mod blobs;
mod cluster;
mod comparisons;
mod dry_run;
mod error;
mod exchange;
mod gc;
mod health;
mod history;
mod places;
mod quotas;
mod regions;
mod repair;
mod replication;
mod repositories;
mod rules;
mod scrub;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, patch, post, put};
use registry_core::vocabulary::limits::ADMIN_BODY_BYTES_MAX;

use crate::auth::{Auth, RootKey};
use crate::cluster::{Cluster, Founding};
use crate::ground::Shutdown;
use crate::ground::telemetry::Metrics;
use crate::jobs::free_files::Freed;
use crate::jobs::repair_replicas::{RepairSettings, Repairs};
use crate::jobs::replicate::Links;
use crate::jobs::scrub_copies::Scrub;
use crate::registry::Registry;

/// What the admin API is built from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Who may.
    pub auth: Auth,
    /// The repositories.
    pub registry: Registry,
    /// This node among the others.
    pub cluster: Cluster,
    /// What `init` would found, prepared by the node: ids, region, its own membership.
    pub founding: Founding,
    /// The first access key, if the operator brought one along.
    pub root_key: Option<RootKey>,
    /// What this node has deleted from its volume.
    pub freed: Freed,
    /// Where the verification of this node's copies stands.
    pub scrub: Scrub,
    /// What this node's repair has made.
    pub repairs: Repairs,
    /// Where this node stands with the regions that it follows.
    pub links: Links,
    /// How repair is set up.
    pub repair: RepairSettings,
    /// What `/metrics` shows; `None` where another recorder was installed.
    pub metrics: Option<Metrics>,
    /// The wish to stop: a node that drains is not ready.
    pub shutdown: Shutdown,
}

impl Admin {
    /// The routes, for the admin listener.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/startupz", get(health::started))
            .route("/metrics", get(health::metrics))
            .route("/v1/cluster", get(cluster::status))
            .route("/v1/cluster/init", post(cluster::init))
            .route("/v1/cluster/join", post(cluster::join))
            .route("/v1/cluster/transfer", post(cluster::transfer))
            .route("/v1/cluster/finalize", post(cluster::finalize))
            .route("/v1/cluster/nodes/{id}", delete(cluster::remove))
            .route("/v1/cluster/nodes/{id}/drain", post(cluster::drain))
            .route("/v1/repair", get(repair::status))
            .route("/v1/blobs/{digest}", get(blobs::show))
            .route("/v1/blobs/{digest}/uses", get(gc::uses))
            .route("/v1/gc", get(gc::status))
            .route("/v1/gc/run", post(gc::run))
            .route("/v1/gc/pause", post(gc::pause))
            .route("/v1/gc/resume", post(gc::resume))
            .route("/v1/gc/adopt-bucket", post(gc::adopt_bucket))
            .route("/v1/scrub", get(scrub::status))
            .route("/v1/scrub/run", post(scrub::run))
            .route("/v1/scrub/pause", post(scrub::pause))
            .route("/v1/scrub/resume", post(scrub::resume))
            .route("/v1/backups", post(backups::create))
            .route("/v1/backups/{id}", delete(backups::remove))
            .route("/v1/backups/{id}/files/{number}", get(backups::read))
            .route("/v1/whoami", get(users::whoami))
            .route("/v1/explain", post(users::explain))
            .route("/v1/users", get(users::list).post(users::create))
            .route("/v1/users/{user}", get(users::show).patch(users::change).delete(users::remove))
            .route("/v1/users/{user}/keys", get(users::keys).post(users::create_key))
            .route("/v1/users/{user}/keys/{key}", patch(users::change_key).delete(users::remove_key))
            .route("/v1/users/{user}/policies", get(users::policies))
            .route("/v1/users/{user}/policies/{policy}", put(users::put_policy).delete(users::remove_policy))
            .route("/v1/users/{user}/grants", put(users::put_grants))
            .route("/v1/registry", get(quotas::show).patch(quotas::change))
            .route("/v1/history/{*name}", get(history::show))
            .route("/v1/regions", get(regions::list).post(regions::add))
            .route("/v1/regions/own/card", get(regions::card))
            .route("/v1/regions/{region}", delete(regions::remove).patch(replication::set_link))
            .route("/v1/regions/{region}/take-over", post(regions::take_over))
            .route("/v1/replication/rules", get(rules::rules).put(rules::set_rules))
            .route("/v1/replication/dry-run", post(dry_run::run))
            .route("/v1/replication/report", get(comparisons::report))
            .route("/v1/replication/compare/{region}", post(comparisons::compare))
            .route("/v1/replication/parked/{region}", get(comparisons::parked))
            .route("/v1/replication/parked/{region}/retry", post(comparisons::retry))
            .route("/v1/replication/images/{*name}", get(replication::image))
            .route("/v1/replication/conflicts", get(replication::conflicts))
            .route("/v1/replication/export/{region}", get(replication::export))
            .route("/v1/places", get(places::show).put(places::set))
            .route("/v1/nearest/{*name}", get(places::explain))
            .route("/v1/repositories", get(repositories::list).post(repositories::create))
            .route(
                "/v1/repositories/{*name}",
                get(repositories::show).patch(repositories::change).delete(repositories::remove),
            )
            .fallback(error::no_such_path)
            .method_not_allowed_fallback(error::no_such_method)
            .layer(DefaultBodyLimit::max(ADMIN_BODY_BYTES_MAX))
            .with_state(Arc::new(self))
    }
}
