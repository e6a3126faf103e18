//! Stops growth in time: carries what every node says about the volume of its log to where changes are proposed.

use std::time::Duration;

use registry_core::decide::voters::{Fitness, admits_growth};
use registry_core::vocabulary::ids::NodeId;

use crate::blob::store::Pressure;
use crate::blob::transfer::{PeerHealth, Transfer};
use crate::ground::Shutdown;
use crate::metadata::Metadata;

/// Between two looks: as often as nodes ping each other.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long handing leadership on may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Who should lead instead, when this node leads and its disks are nearly full: a leader writes more than others.
fn heir(metadata: &Metadata, transfer: &Transfer) -> Option<NodeId> {
    let leadership = metadata.leadership();
    let own = leadership.leader.filter(|_| leadership.is_leader)?;
    let peers = transfer.peers();
    let voters = metadata.voters();
    let leader = peers.iter().find(|peer| peer.node == own)?;
    let heir = || peers.iter().find(|peer| may_lead(peer, own, &voters)).map(|peer| peer.node);
    is_pressed(leader).then(heir).flatten()
}

fn is_pressed(peer: &PeerHealth) -> bool {
    peer.log_is_short || peer.stores.iter().any(|store| store.pressure >= Pressure::Urgent)
}

/// Whether another node of these voters can be handed leadership.
pub(super) fn may_lead(peer: &PeerHealth, own: NodeId, voters: &[NodeId]) -> bool {
    peer.node != own && peer.is_reachable && !is_pressed(peer) && voters.contains(&peer.node)
}

/// Looks until shutdown.
pub(super) async fn keep(metadata: Metadata, transfer: Transfer, shutdown: Shutdown) {
    loop {
        transfer.set_log_short(metadata.group().is_short_of_room());
        let voters = fitness(&metadata.voters(), &transfer);
        metadata.admit_growth(admits_growth(&voters));
        if let Some(heir) = heir(&metadata, &transfer) {
            tracing::warn!(%heir, "this node's disks are nearly full: leadership goes to another one");
            if let Err(error) = metadata.group().transfer_leader(heir.0, HAND_OVER).await {
                tracing::warn!(%error, "leadership could not be handed on; it is tried again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.requested() => return,
        }
    }
}

fn fitness(voters: &[NodeId], transfer: &Transfer) -> Vec<Fitness> {
    let peers = transfer.peers();
    let of = |voter: &NodeId| peers.iter().find(|peer| peer.node == *voter);
    let fitness = |voter| match of(voter) {
        Some(peer) => Fitness { is_reachable: peer.is_reachable, is_short_of_room: peer.log_is_short },
        // not registered yet: nothing is known against it
        None => Fitness { is_reachable: true, is_short_of_room: false },
    };
    voters.iter().map(fitness).collect()
}
