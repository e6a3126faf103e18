//! Watches the clocks: a node whose wall clock is off says so, stamps changes by the others' time, and does not go on
//! leading while it is ahead. Two regions that write one tag come to the later one, and a fast clock would always win.

use std::time::Duration;

use registry_core::decide::clock_skew::Standing;
use registry_core::vocabulary::ids::NodeId;

use super::room;
use crate::blob::transfer::{PeerHealth, Transfer};
use crate::cluster::{Clocks, Look};
use crate::ground::Shutdown;
use crate::metadata::Metadata;

/// Between two looks: as often as nodes ping each other; more often until the others were heard first.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Looks one after the other that must find the clock ahead before leadership goes elsewhere.
const LOOKS_AHEAD: u32 = 2;
/// How long handing leadership on may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// What was found lately.
#[derive(Default)]
struct Lately {
    /// What the log was told last; silence between is nothing to tell.
    told: Option<Standing>,
    /// Looks without a break that found this node leading and ahead.
    ahead: u32,
}

impl Lately {
    /// What is worth a line in the log.
    fn tell(&mut self, look: &Look, own_ms: Option<i64>) {
        let before = self.told.unwrap_or(Standing::Agrees);
        match (look.standing, own_ms) {
            (Standing::Unknown, _) | (_, None) => return,
            (now, _) if now == before => {}
            (Standing::Agrees, Some(ahead_ms)) => {
                tracing::info!(ahead_ms, "this node's clock agrees with the voters' clocks again");
            }
            (_, Some(ahead_ms)) => tracing::warn!(
                ahead_ms,
                "this node's clock is off the median of the voters' clocks: changes are stamped by theirs. Set it right"
            ),
        }
        self.told = Some(look.standing);
    }

    /// Whether leadership should go elsewhere now. Asked again, it waits as long again.
    fn hands_on(&mut self, standing: Standing, leads: bool) -> bool {
        self.ahead = if leads && standing == Standing::Ahead { self.ahead + 1 } else { 0 };
        self.ahead > 0 && self.ahead.is_multiple_of(LOOKS_AHEAD)
    }
}

/// Looks until shutdown.
pub(super) async fn keep(metadata: Metadata, transfer: Transfer, clocks: Clocks, shutdown: Shutdown) {
    let (own, mut lately) = (transfer.node(), Lately::default());
    loop {
        let (peers, voters) = (transfer.peers(), metadata.voters());
        let heard = peers.iter().filter_map(|peer| Some((peer.node, peer.clock_epoch_ms?))).collect();
        let look = clocks.judge(own, &voters, &heard);
        let own_ms = look.ahead_ms.get(&own).copied();
        metrics::gauge!("portolan_clock_offset_seconds").set(own_ms.unwrap_or(0) as f64 / 1000.0);
        metrics::gauge!("portolan_clock_judged").set(if own_ms.is_some() { 1.0 } else { 0.0 });
        lately.tell(&look, own_ms);
        if lately.hands_on(look.standing, metadata.leadership().is_leader) {
            hand_on(&metadata, heir(&metadata, &peers, &voters, &look, own)).await;
        }
        tokio::select! {
            () = tokio::time::sleep(if look.is_settled() { LOOK_EVERY } else { LOOK_FIRST }) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// Who leads better: a voter whose clock agrees, and of several the one that has the most of the log.
fn heir(metadata: &Metadata, peers: &[PeerHealth], voters: &[NodeId], look: &Look, own: NodeId) -> Option<NodeId> {
    let status = metadata.group().status();
    let agrees = |node: NodeId| look.ahead_ms.get(&node).is_some_and(|ahead_ms| !is_off(*ahead_ms));
    let fit = peers.iter().filter(|peer| room::may_lead(peer, own, voters) && agrees(peer.node));
    let trusted = fit.filter(|peer| !status.suspects.contains(&peer.node.0));
    let best = trusted.max_by_key(|peer| status.matched.get(&peer.node.0).copied().flatten());
    best.map(|peer| peer.node)
}

fn is_off(ahead_ms: i64) -> bool {
    registry_core::decide::clock_skew::is_off(ahead_ms, 0)
}

async fn hand_on(metadata: &Metadata, heir: Option<NodeId>) {
    let Some(heir) = heir else {
        tracing::debug!("this node's clock is ahead, and no voter whose clock agrees can lead");
        return;
    };
    tracing::warn!(%heir, "this node's clock is ahead: leadership goes to another one");
    if let Err(error) = metadata.group().transfer_leader(heir.0, HAND_OVER).await {
        tracing::warn!(%error, "leadership could not be handed on; it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One look is not enough, two are; then two more. Who follows, agrees or knows nothing hands nothing on.
    #[test]
    fn two_looks() {
        use Standing::{Agrees, Ahead, Behind, Unknown};
        let mut lately = Lately::default();
        let mut asked = |standing, leads| lately.hands_on(standing, leads);
        let all: Vec<bool> = (0..6).map(|_| asked(Ahead, true)).collect();
        assert_eq!(all, [false, true, false, true, false, true]);
        for (standing, leads) in [(Agrees, true), (Unknown, true), (Behind, true), (Ahead, false)] {
            assert!(!asked(standing, leads), "{standing:?}");
            assert!(!asked(Ahead, true), "it begins anew");
        }
    }
}
