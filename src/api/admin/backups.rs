//! Backups of the cluster's metadata: made on the asked node, fetched in pieces, dropped. They hold every secret of the
//! cluster, so whoever makes one may do anything.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::vocabulary::Refusal;
use registry_core::vocabulary::limits::RETRY_AFTER_MS;
use serde::{Deserialize, Serialize};

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use crate::cluster::backup::{BackupError, Contents, NoBackup};

type Answer = Result<Response<Body>, Failure>;

#[derive(Serialize)]
struct BackupDocument<'a> {
    id: &'a str,
    cluster: String,
    lineage: String,
    index: u64,
    node: String,
    version: &'static str,
    blobs: u64,
    blob_bytes: u64,
    files: Vec<FileDocument<'a>>,
}

#[derive(Serialize)]
struct FileDocument<'a> {
    path: &'a str,
    size_bytes: u64,
    digest: String,
}

fn document<'a>(id: &'a str, contents: &'a Contents, node: String) -> BackupDocument<'a> {
    let files = contents.files.iter().map(|part| FileDocument {
        path: &part.path,
        size_bytes: part.size_bytes,
        digest: part.digest.to_string(),
    });
    BackupDocument {
        id,
        cluster: contents.cluster.to_string(),
        lineage: contents.lineage.to_string(),
        index: contents.index,
        node,
        version: env!("CARGO_PKG_VERSION"),
        blobs: contents.blobs,
        blob_bytes: contents.blob_bytes,
        files: files.collect(),
    }
}

/// `POST /v1/backups`: makes one on this node.
pub(super) async fn create(exchange: Exchange) -> Answer {
    let caller = exchange.caller_of("backup.create", "").await?;
    let cluster = &exchange.admin().cluster;
    let ended = async {
        exchange.auth().permit_admin(&caller, policy::Action::ManageCluster)?;
        cluster.back_up().await.map_err(failure)
    };
    let ended: Result<_, Failure> = ended.await;
    let (id, contents) = exchange.audited(&caller, "backup.create", "", |_| caller.revision(), ended)?;
    Ok(answer::json(StatusCode::CREATED, &document(&id, &contents, cluster.node().to_string())))
}

fn failure(no: NoBackup) -> Failure {
    match no {
        NoBackup::Failed(BackupError::Read(_)) => Refusal::Unavailable { retry_after_ms: RETRY_AFTER_MS }.into(),
        NoBackup::Busy | NoBackup::Failed(_) => Failure::Conflict(no.to_string()),
    }
}

/// Query of `GET /v1/backups/{id}/files/{number}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    /// First byte wanted.
    #[serde(default)]
    offset: u64,
}

/// `GET /v1/backups/{id}/files/{number}?offset=`: a piece of a file, empty behind its end.
pub(super) async fn read(
    exchange: Exchange,
    Path((id, number)): Path<(String, String)>,
    piece: Result<Query<Piece>, QueryRejection>,
) -> Answer {
    exchange.administrator(policy::Action::ManageCluster, "backup.read").await?;
    let Query(piece) = piece.map_err(|error| Failure::Body(error.body_text()))?;
    let number = number.parse().map_err(|_| Failure::NotFound)?;
    let found = exchange.admin().cluster.read_backup(&id, number, piece.offset).await.ok_or(Failure::NotFound)?;
    let bytes = found.map_err(|error| Failure::Conflict(format!("the backup can't be read: {error}")))?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// `DELETE /v1/backups/{id}`: it was fetched, or is not wanted any more.
pub(super) async fn remove(exchange: Exchange, Path(id): Path<String>) -> Answer {
    let revision = exchange.change("backup.delete", &id, async |auth, caller| {
        auth.permit_admin(caller, policy::Action::ManageCluster)?;
        if exchange.admin().cluster.drop_backup(&id) { Ok(caller.revision()) } else { Err(Failure::NotFound) }
    });
    Ok(answer::changed(revision.await?))
}
