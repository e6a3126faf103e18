//! Keeps this node's rows true: where it is, what it runs, which volume it serves.

use std::time::Duration;

use registry_core::metadata::cluster::{self, FEATURE_LEVEL};
use registry_core::metadata::command::Command;
use registry_core::metadata::node::{self, RegisterNode, RegisterStore};
use registry_core::vocabulary::ids::{NodeId, StoreId};
use registry_core::vocabulary::names::ZoneName;

use super::Cluster;
use crate::ground::Shutdown;
use crate::metadata::{Metadata, ProposeError};

/// What a node tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Itself.
    pub node: NodeId,
    /// Its failure domain.
    pub zone: ZoneName,
    /// Where consensus reaches it, `host:port`.
    pub raft_address: String,
    /// Where other nodes reach its blobs, `host:port`.
    pub blob_address: String,
    /// Where clients reach it, a URL.
    pub public_url: String,
    /// Its blob volume.
    pub store: StoreId,
    /// Share of new copies.
    pub weight: u32,
}

/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(5);
/// Pause until the cluster exists, or has a quorum.
const PAUSE: Duration = Duration::from_millis(100);

impl Seat {
    /// The commands that bring the rows in line; none if they are.
    fn commands(&self, metadata: &Metadata) -> Vec<Command> {
        metadata.peek(|view| {
            if cluster::read(view).is_none() {
                return Vec::new();
            }
            let mut commands = Vec::new();
            let version = env!("CARGO_PKG_VERSION");
            let is_told = node::read(view, self.node).is_some_and(|row| {
                row.raft_address == self.raft_address
                    && row.blob_address == self.blob_address
                    && row.public_url == self.public_url
                    && row.zone == self.zone
                    && row.version == version
                    && row.feature_level == FEATURE_LEVEL
            });
            if !is_told {
                let register = RegisterNode {
                    node: self.node,
                    zone: self.zone.clone(),
                    raft_address: self.raft_address.clone(),
                    blob_address: self.blob_address.clone(),
                    public_url: self.public_url.clone(),
                    version: version.to_owned(),
                    feature_level: FEATURE_LEVEL,
                };
                commands.push(register.into());
            }
            let is_served = node::stores(view)
                .iter()
                .any(|(id, row)| *id == self.store && row.node == self.node && row.weight == self.weight);
            if !is_served {
                commands.push(RegisterStore { store: self.store, node: self.node, weight: self.weight }.into());
            }
            commands
        })
    }

    /// Whether this node's rows are true.
    pub fn is_registered(&self, metadata: &Metadata) -> bool {
        metadata.peek(|view| cluster::read(view).is_some()) && self.commands(metadata).is_empty()
    }

    /// Keeps the rows true until shutdown.
    pub async fn keep(self, metadata: Metadata, shutdown: Shutdown) {
        let principal = Cluster::principal(self.node);
        loop {
            let commands = self.commands(&metadata);
            let is_settled = commands.is_empty() && metadata.peek(|view| cluster::read(view).is_some());
            if !commands.is_empty() {
                match metadata.propose(&principal, commands).await {
                    Ok(_) => tracing::info!(zone = %self.zone, "this node is registered"),
                    Err(ProposeError::Refused { refusal, .. }) => {
                        tracing::error!(%refusal, "the cluster does not take this node");
                    }
                    Err(error) => tracing::debug!(%error, "this node is not registered yet"),
                }
            }
            let pause = if is_settled { PERIOD } else { PAUSE };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
