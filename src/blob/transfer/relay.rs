//! Bytes that one node is bringing from elsewhere, handed on to the others as they come: so that a blob crosses the way
//! from there once, however many nodes have clients who wait for it.
//!
//! Where they come from is the relay's own affair. They are not checked on the way, but by whoever asked, at the end.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use registry_core::vocabulary::ids::NodeId;
use registry_core::vocabulary::{Digest, RepositoryName};
use tonic::{Code, Status};

use super::wire::proto;
use super::{Transfer, wire};

/// What is wanted of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relayed {
    /// Number of the region that has it.
    pub region: u16,
    /// The repository there.
    pub repository: RepositoryName,
    /// Which blob.
    pub digest: Digest,
    /// From which byte on.
    pub offset: u64,
}

/// Why nothing is relayed, or no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// It is not there, or not for this cluster.
    #[error("it is not there")]
    Unknown,
    /// It may be there: to be tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// A blob on its way.
pub struct OnItsWay {
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Its bytes from the offset on.
    pub bytes: BoxStream<'static, Result<Bytes, RelayError>>,
}

/// Brings blobs from elsewhere.
pub trait Relay: Send + Sync + 'static {
    /// A blob that is being brought already, or is from now on.
    fn open(&self, wanted: Relayed) -> BoxFuture<'_, Result<OnItsWay, RelayError>>;
}

impl From<RelayError> for Status {
    fn from(error: RelayError) -> Status {
        match error {
            RelayError::Unknown => Status::not_found("it is not there"),
            RelayError::Unavailable(told) => Status::unavailable(told),
        }
    }
}

fn error_of(status: &Status) -> RelayError {
    if status.code() == Code::NotFound {
        return RelayError::Unknown;
    }
    RelayError::Unavailable(format!("{:?}: {}", status.code(), status.message()))
}

/// Answers another node.
pub(super) type RelayAnswer = BoxStream<'static, Result<proto::RelayReply, Status>>;

impl Transfer {
    /// From now on other nodes are handed on what this relay brings.
    pub fn set_relay(&self, relay: Arc<dyn Relay>) {
        // one that was set stays
        drop(self.inner.relay.set(relay));
    }

    pub(super) async fn relay_to(&self, request: proto::RelayRequest) -> Result<RelayAnswer, Status> {
        let wanted = wire::relayed(&request)?;
        let relay = self.inner.relay.get().ok_or_else(|| Status::unavailable("this node relays nothing yet"))?;
        let OnItsWay { size_bytes, bytes } = relay.open(wanted).await?;
        let first = proto::RelayReply { size_bytes, data: Bytes::new() };
        let rest = bytes.map(|part| Ok(proto::RelayReply { size_bytes: 0, data: part? }));
        Ok(futures_util::stream::iter([Ok(first)]).chain(rest).boxed())
    }

    /// What another node brings from elsewhere.
    pub async fn relayed(&self, node: NodeId, wanted: &Relayed) -> Result<OnItsWay, RelayError> {
        let peer = self.inner.peers.get(node);
        let peer = peer.map_err(|error| RelayError::Unavailable(error.to_string()))?;
        let mut client = peer.bulk();
        let mut replies =
            client.relay(wire::relay_request(wanted)).await.map_err(|status| error_of(&status))?.into_inner();
        let first = replies.message().await.map_err(|status| error_of(&status))?;
        let first = first.ok_or_else(|| RelayError::Unavailable("the relay broke off".to_owned()))?;
        let bytes = replies.map(|reply| reply.map(|reply| reply.data).map_err(|status| error_of(&status)));
        Ok(OnItsWay { size_bytes: first.size_bytes, bytes: bytes.boxed() })
    }
}
