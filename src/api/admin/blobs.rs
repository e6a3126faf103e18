//! Blobs as an operator looks at them: where their copies lie.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Response, StatusCode};
use registry_core::decide::policy;
use registry_core::vocabulary::{Digest, Refusal};
use serde::Serialize;

use super::answer;
use super::error::Failure;
use super::exchange::Exchange;
use crate::registry::{BlobCopies, Consistency};

#[derive(Serialize)]
struct CopiesDocument {
    digest: String,
    size_bytes: u64,
    committed_at: String,
    condemned: bool,
    copies: Vec<CopyDocument>,
    /// Zones where another copy is wanted and not there yet.
    wanted: Vec<String>,
}

/// Node and zone are `null` for a volume that is not registered any more.
#[derive(Serialize)]
struct CopyDocument {
    store: String,
    node: Option<String>,
    zone: Option<String>,
}

impl From<BlobCopies> for CopiesDocument {
    fn from(found: BlobCopies) -> CopiesDocument {
        let copies = found.copies.into_iter().map(|copy| CopyDocument {
            store: copy.store.to_string(),
            node: copy.seat.as_ref().map(|(node, _)| node.to_string()),
            zone: copy.seat.as_ref().map(|(_, zone)| zone.to_string()),
        });
        CopiesDocument {
            digest: found.digest.to_string(),
            size_bytes: found.size_bytes,
            committed_at: answer::time(found.committed_at_ms),
            condemned: found.is_condemned,
            copies: copies.collect(),
            wanted: found.wanted.iter().map(ToString::to_string).collect(),
        }
    }
}

/// `GET /v1/blobs/{digest}`
pub(super) async fn show(exchange: Exchange, Path(digest): Path<String>) -> Result<Response<Body>, Failure> {
    let caller = exchange.administrator(policy::Action::ReadCluster, "blob.get").await?;
    let digest = Digest::parse(&digest).map_err(|error| Refusal::DigestInvalid { detail: error.to_string() })?;
    let consistency = Consistency::AtLeast(caller.revision());
    let found = exchange.admin().registry.copies(&digest, consistency).await?;
    Ok(answer::at(answer::json(StatusCode::OK, &CopiesDocument::from(found.value)), found.revision))
}
