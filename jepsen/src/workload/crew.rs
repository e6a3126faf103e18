//! Who does what: how many clients of each kind a workload has, and their start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Client, Credential};
use super::nodes::Nodes;
use super::register::{CLIENTS_PER_TAG, Group};
use super::{Shared, blob_bytes, gc, listing, pull, push, register};
use crate::cluster::Seat;
use crate::fault::Fault;
use crate::history::{Act, Actor};
use crate::options::Workload;

/// Pause between two pulls of one client, where pulls are not the main thing.
const PULL_PAUSE: Duration = Duration::from_millis(50);
/// Clients of each kind in a mixed workload at least: a tag is shared, a list has owner and reader of each kind.
const SHARE_MIN: usize = 6;
/// Process numbers between two rounds of final reads.
const FINAL_STRIDE: usize = 1 << 36;

/// How many clients of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crew {
    pushers: usize,
    pullers: usize,
    registers: usize,
    bytes: usize,
    listers: usize,
    collectors: usize,
    /// Whether pulls are the main thing.
    pulls_first: bool,
}

/// The acts of which a run with this workload must have had enough.
pub(crate) fn kinds(workload: Workload) -> &'static [Act] {
    const PUSH: [Act; 4] = [Act::PutBlob, Act::PutManifest, Act::ReadBack, Act::Pull];
    const REGISTER: [Act; 4] = [Act::Put, Act::PutIf, Act::Get, Act::Delete];
    const BYTES: [Act; 4] = [Act::Upload, Act::Mount, Act::ReadWhole, Act::ReadRange];
    const LISTING: [Act; 4] = [Act::Add, Act::Remove, Act::List, Act::Look];
    const GC: [Act; 6] = [Act::PushImage, Act::Untag, Act::DeleteImage, Act::DeleteBlob, Act::MountLayer, Act::Verify];
    const MIXED: [Act; 16] = {
        let [a, b, c, d] = [PUSH, REGISTER, BYTES, LISTING];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    };
    match workload {
        Workload::PushSet | Workload::PullByDigest | Workload::QuietElection => &PUSH,
        Workload::UploadResume | Workload::Region => &[],
        Workload::TagRegister => &REGISTER,
        Workload::BlobBytes => &BYTES,
        Workload::Listing => &LISTING,
        Workload::Gc => &GC,
        Workload::Mixed => &MIXED,
    }
}

impl Crew {
    /// Of `clients` clients; the shares of a mixed workload are drawn from the seed.
    pub(crate) fn draw(workload: Workload, clients: usize, nodes: usize, seed: u64) -> Crew {
        let none = Crew::default();
        match workload {
            Workload::PushSet | Workload::QuietElection | Workload::UploadResume | Workload::Region => {
                Crew { pushers: clients, pullers: nodes * 2, ..none }
            }
            Workload::PullByDigest => {
                Crew { pushers: (clients / 10).max(2), pullers: clients, pulls_first: true, ..none }
            }
            Workload::TagRegister => Crew { registers: clients.max(2), ..none },
            Workload::BlobBytes => Crew { bytes: clients, ..none },
            Workload::Listing => Crew { listers: clients.max(SHARE_MIN), ..none },
            Workload::Gc => Crew { collectors: clients, ..none },
            Workload::Mixed => {
                let mut random = fastrand::Rng::with_seed(seed);
                let weights: [usize; 4] = std::array::from_fn(|_| random.usize(1..=4));
                let sum: usize = weights.iter().sum();
                let [pushers, registers, bytes, listers] =
                    weights.map(|weight| (clients * weight / sum).max(SHARE_MIN));
                Crew { pushers, pullers: nodes, registers, bytes, listers, ..none }
            }
        }
    }

    fn count(&self) -> usize {
        self.pushers + self.pullers + self.registers + self.bytes + self.listers + self.collectors
    }

    /// For the history.
    pub(crate) fn told(&self) -> Value {
        let Crew { pushers, pullers, registers, bytes, listers, collectors, .. } = *self;
        json!({"pushers": pushers, "pullers": pullers, "registers": registers, "bytes": bytes, "listers": listers,
            "collectors": collectors})
    }

    /// Starts all clients; `balancer` is where pushers go.
    pub(crate) fn spawn(
        &self,
        shared: &Arc<Shared>,
        balancer: SocketAddr,
        seats: &[Seat],
        credential: &Credential,
    ) -> Result<JoinSet<()>, Fault> {
        let mut tasks = JoinSet::new();
        let mut started = 0;
        let count = self.count();
        let mut actor = || {
            started += 1;
            Actor::new(&shared.recorder, started - 1, count)
        };
        let nodes = Nodes::new(seats, credential)?;
        for _ in 0..self.pushers {
            let client = Client::new(balancer, credential)?;
            tasks.spawn(push::run(Arc::clone(shared), client, actor()));
        }
        for number in 0..self.pullers {
            let Seat { name, public, .. } = &seats[number % seats.len()];
            let client = Client::new(*public, credential)?;
            let pause = if self.pulls_first { Duration::ZERO } else { PULL_PAUSE };
            tasks.spawn(pull::run(Arc::clone(shared), name.clone(), client, actor(), pause));
        }
        for (number, group) in groups(shared.seed, self.registers).into_iter().enumerate() {
            tasks.spawn(register::run(Arc::clone(shared), group, nodes.clone(), actor(), number));
        }
        for number in 0..self.bytes {
            tasks.spawn(blob_bytes::run(Arc::clone(shared), nodes.clone(), actor(), number));
        }
        let lists = if self.listers > 0 { listing::lists(shared.seed, self.listers) } else { Vec::new() };
        shared.lists.lock().clone_from(&lists);
        for number in 0..self.listers {
            let (list, round) = (Arc::clone(&lists[number % lists.len()]), number / lists.len());
            let (shared, nodes) = (Arc::clone(shared), nodes.clone());
            // owners and readers by turns
            if round.is_multiple_of(2) {
                tasks.spawn(listing::own(shared, list, nodes, actor(), (number, round == 0)));
            } else {
                tasks.spawn(listing::page(shared, list, nodes, actor(), number));
            }
        }
        if self.collectors > 0 {
            let pool = gc::pool(shared, self.collectors);
            tasks.spawn(gc::watch(Arc::clone(shared), nodes.clone()));
            for number in 0..self.collectors {
                tasks.spawn(gc::run(Arc::clone(shared), nodes.clone(), Arc::clone(&pool), actor(), number));
            }
        }
        Ok(tasks)
    }
}

/// The group of each register client: groups of two to five.
fn groups(seed: u64, clients: usize) -> Vec<Arc<Group>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut all, mut number) = (Vec::new(), 0);
    while all.len() < clients {
        let size = random.usize(2..=CLIENTS_PER_TAG).min(clients - all.len());
        let group = Group::new(seed, number);
        all.extend(std::iter::repeat_n(group, size));
        number += 1;
    }
    all
}

/// Reads everything that the run's registers, blobs, lists and images of `gc` hold from every node. Process numbers
/// begin at `first`.
pub(crate) async fn read_all(
    shared: &Shared,
    seats: &[Seat],
    credential: &Credential,
    first: usize,
) -> Result<(), Fault> {
    let nodes = Nodes::new(seats, credential)?;
    register::read_all(shared, &nodes, first).await;
    blob_bytes::read_all(shared, &nodes, first + FINAL_STRIDE).await;
    listing::read_all(shared, &nodes, first + 2 * FINAL_STRIDE).await;
    gc::read_all(shared, &nodes, first + 3 * FINAL_STRIDE).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every client has a group, no group is larger than a judge can follow, and the same seed gives the same ones.
    #[test]
    fn groups_are_small() {
        for clients in [2, 7, 100] {
            let all = groups(5, clients);
            assert_eq!(all.len(), clients);
            for group in &all {
                let size = all.iter().filter(|other| Arc::ptr_eq(other, group)).count();
                assert!(size <= CLIENTS_PER_TAG, "{size}");
            }
        }
    }

    // A mixed workload has enough of everybody, in shares that the seed fixes.
    #[test]
    fn shares() {
        let draw = |seed| Crew::draw(Workload::Mixed, 40, 3, seed);
        assert_eq!(draw(1), draw(1));
        assert!((0..20).any(|seed| draw(seed) != draw(1)));
        for seed in 0..50 {
            let Crew { pushers, pullers, registers, bytes, listers, .. } = draw(seed);
            assert!([pushers, registers, bytes, listers].iter().all(|share| *share >= SHARE_MIN) && pullers > 0);
        }
    }
}
