//! Whom a fault may hit: pure. In quorum-safe mode never more than a minority of the nodes is touched at a time, by all
//! faults together; without it only what can't overlap is kept apart.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::{FaultKind, Part};

/// What the nodes suffer at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Touched {
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// Parts that faults have taken; a node that is not yet well again has lost its process.
    pub(crate) taken: BTreeMap<usize, BTreeSet<Part>>,
    /// Whether a majority must stay untouched.
    pub(crate) is_safe: bool,
    /// The one node that may lose copies of data.
    pub(crate) fragile: usize,
    /// Who leads.
    pub(crate) leader: Option<usize>,
}

/// What was drawn for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    /// Whether the leader is wanted.
    pub(crate) prefers_leader: bool,
    /// Everything else.
    pub(crate) random: u64,
}

impl Touched {
    /// Nodes that faults may touch at a time.
    pub(crate) fn at_most(&self) -> usize {
        if self.is_safe { (self.nodes - 1) / 2 } else { self.nodes }
    }

    /// Whether these nodes may be touched as well.
    fn may(&self, kind: FaultKind, nodes: &BTreeSet<usize>) -> bool {
        let touched: BTreeSet<usize> = self.taken.keys().chain(nodes).copied().collect();
        let is_free =
            |at: &usize| self.taken.get(at).is_none_or(|taken| kind.parts().iter().all(|part| !taken.contains(part)));
        touched.len() <= self.at_most() && nodes.iter().all(is_free)
    }

    /// Single nodes that may be hit.
    fn candidates(&self, kind: FaultKind) -> Vec<usize> {
        let is_wanted = |at: &usize| !kind.is_destructive() || *at == self.fragile;
        (0..self.nodes).filter(is_wanted).filter(|at| self.may(kind, &BTreeSet::from([*at]))).collect()
    }

    /// The nodes that a fault hits; nobody when it can't be now.
    pub(crate) fn choose(&self, kind: FaultKind, draw: Draw) -> Option<Vec<usize>> {
        let mut random = fastrand::Rng::with_seed(draw.random);
        match kind {
            FaultKind::PowercutAll => {
                let all = (0..self.nodes).collect();
                (!self.is_safe && self.may(kind, &all)).then(|| all.into_iter().collect())
            }
            FaultKind::RestartRolling => self.taken.is_empty().then(|| (0..self.nodes).collect()),
            // hands over between two nodes that nothing is done to; it touches nobody
            FaultKind::TransferLeader => {
                let leader = self.leader.filter(|leader| !self.taken.contains_key(leader))?;
                let is_free = |at: &usize| *at != leader && !self.taken.contains_key(at);
                let others: Vec<usize> = (0..self.nodes).filter(is_free).collect();
                random.choice(others).map(|to| vec![to])
            }
            FaultKind::IsolateLeader => {
                let leader = self.leader.filter(|leader| self.candidates(kind).contains(leader))?;
                Some(vec![leader])
            }
            FaultKind::Halves => self.minority(kind, draw, &mut random),
            FaultKind::Ring if self.nodes > 4 => {
                self.taken.is_empty().then(|| self.minority(kind, draw, &mut random))?
            }
            FaultKind::Kill
            | FaultKind::Powercut
            | FaultKind::Pause
            | FaultKind::OneWay
            | FaultKind::Ring
            | FaultKind::Loss
            | FaultKind::Restart
            | FaultKind::IoError
            | FaultKind::DiskFull
            | FaultKind::SlowDisk
            | FaultKind::Clock
            | FaultKind::RotBlob
            | FaultKind::RotSst
            | FaultKind::RotWal
            | FaultKind::RotSnapshot
            | FaultKind::Wipe => self.one(kind, draw, &mut random).map(|at| vec![at]),
        }
    }

    fn one(&self, kind: FaultKind, draw: Draw, random: &mut fastrand::Rng) -> Option<usize> {
        let candidates = self.candidates(kind);
        let leader = self.leader.filter(|leader| draw.prefers_leader && candidates.contains(leader));
        leader.or_else(|| random.choice(candidates))
    }

    /// As many nodes as are a minority, those included that are touched already.
    fn minority(&self, kind: FaultKind, draw: Draw, random: &mut fastrand::Rng) -> Option<Vec<usize>> {
        let first = self.one(kind, draw, random)?;
        let mut chosen: BTreeSet<usize> = BTreeSet::from([first]);
        let mut others: Vec<usize> = (0..self.nodes).collect();
        random.shuffle(&mut others);
        others.sort_by_key(|at| !self.taken.contains_key(at));
        for at in others {
            let mut more = chosen.clone();
            more.insert(at);
            if more.len() <= (self.nodes - 1) / 2 && self.may(kind, &more) {
                chosen = more;
            }
        }
        Some(chosen.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    fn touched(nodes: usize, taken: &[(usize, &[Part])], is_safe: bool) -> Touched {
        let taken = taken.iter().map(|(at, parts)| (*at, parts.iter().copied().collect())).collect();
        Touched { nodes, taken, is_safe, fragile: 1, leader: Some(0) }
    }

    // Whatever is drawn, and whatever is touched already: a majority stays untouched, and nothing is taken twice.
    #[test]
    fn a_majority_stays() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..2000 {
            let nodes = 3 + round % 4;
            let mut now = touched(nodes, &[], true);
            for _ in 0..6 {
                let kind = *random.choice(FaultKind::value_variants()).unwrap();
                let draw = Draw { prefers_leader: random.bool(), random: random.u64(..) };
                let Some(chosen) = now.choose(kind, draw) else { continue };
                assert!(kind.is_quorum_safe(), "{kind:?}");
                if kind.is_destructive() {
                    assert_eq!(chosen, [now.fragile]);
                }
                if kind.is_moment() {
                    continue;
                }
                for at in chosen {
                    let parts = now.taken.entry(at).or_default();
                    assert!(kind.parts().iter().all(|part| parts.insert(*part)), "{kind:?} took a part twice");
                }
                assert!(now.taken.len() * 2 < nodes, "{kind:?}: {:?}", now.taken);
            }
        }
    }

    // The leader is hit when it is wanted and may be hit; else another one is found.
    #[test]
    fn the_leader() {
        let wanted = |random| Draw { prefers_leader: true, random };
        let free = touched(3, &[], true);
        assert!((0..20).all(|draw| free.choose(FaultKind::Kill, wanted(draw)) == Some(vec![0])));
        let busy = touched(3, &[(2, &[Part::Network])], true);
        assert_eq!(busy.choose(FaultKind::Kill, wanted(1)), Some(vec![2]), "the one that is touched already");
        assert_eq!(busy.choose(FaultKind::Loss, wanted(1)), None, "its network is taken, others may not be touched");
        assert_eq!(busy.choose(FaultKind::IsolateLeader, wanted(1)), None);
        let any: BTreeSet<_> =
            (0..50).filter_map(|random| free.choose(FaultKind::Kill, Draw { prefers_leader: false, random })).collect();
        assert_eq!(any.len(), 3, "every node is hit at some time");
    }

    // Leadership goes to a node that nothing is done to; a rolling restart waits until nobody is touched.
    #[test]
    fn whole_cluster() {
        let draw = Draw { prefers_leader: false, random: 3 };
        let busy = touched(3, &[(2, &[Part::Clock])], true);
        assert_eq!(busy.choose(FaultKind::TransferLeader, draw), Some(vec![1]));
        assert_eq!(busy.choose(FaultKind::RestartRolling, draw), None);
        assert_eq!(touched(3, &[(0, &[Part::Clock])], true).choose(FaultKind::TransferLeader, draw), None);
        assert_eq!(touched(3, &[], true).choose(FaultKind::PowercutAll, draw), None);
        assert_eq!(touched(3, &[], false).choose(FaultKind::PowercutAll, draw), Some(vec![0, 1, 2]));
        assert_eq!(touched(5, &[], true).choose(FaultKind::Halves, draw).unwrap().len(), 2);
        assert!(touched(5, &[(4, &[Part::Clock])], true).choose(FaultKind::Halves, draw).unwrap().contains(&4));
    }

    // Without quorum safety more nodes are touched, but no part of a node twice.
    #[test]
    fn unsafe_mode() {
        let draw = Draw { prefers_leader: false, random: 3 };
        let busy = touched(3, &[(0, &[Part::Process]), (1, &[Part::Process])], false);
        assert_eq!(busy.choose(FaultKind::Kill, draw), Some(vec![2]));
        let all = touched(3, &[(0, &[Part::Process]), (1, &[Part::Process]), (2, &[Part::Process])], false);
        assert_eq!(all.choose(FaultKind::Kill, draw), None);
        assert!(all.choose(FaultKind::Loss, draw).is_some());
    }
}
