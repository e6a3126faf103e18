//! The kinds of faults, what of a node each one takes, and how they are named.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and what no disk has yet is gone.
    Powercut,
    /// The same of all nodes at once.
    PowercutAll,
    /// SIGSTOP, longer than an election takes: sockets stay open, nobody answers.
    Pause,
    /// The leader and the others don't hear each other.
    IsolateLeader,
    /// A minority and the others don't hear each other.
    Halves,
    /// One node can't call another one, or any other; it can be called.
    OneWay,
    /// Every node hears a majority, and no two the same; of three nodes: one link of three is cut.
    Ring,
    /// Some packets from and to one node are lost.
    Loss,
    /// Leadership is handed over.
    TransferLeader,
    /// One node is asked to end, and started again.
    Restart,
    /// Each node in turn.
    RestartRolling,
    /// The disk fails: every use is an error. The node has to end by itself.
    IoError,
    /// No byte is left on the disk.
    DiskFull,
    /// The disk takes few writes a second.
    SlowDisk,
    /// The wall clock jumps.
    Clock,
    /// A bit or a page of a blob's file changes under a running node.
    RotBlob,
    /// The same in a table of a stopped node.
    RotSst,
    /// In a write-ahead log.
    RotWal,
    /// In a copy of the state.
    RotSnapshot,
    /// A node loses all of its data and comes back as a new one.
    Wipe,
}

/// What a fault takes of a node: two faults that take the same part of a node don't overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Process,
    Disk,
    Speed,
    Network,
    Clock,
}

/// Every part.
const ALL_PARTS: [Part; 5] = [Part::Process, Part::Disk, Part::Speed, Part::Network, Part::Clock];

/// Names for several kinds.
const GROUPS: [(&str, &[FaultKind]); 3] = [
    ("partition", &[FaultKind::IsolateLeader, FaultKind::Halves, FaultKind::OneWay, FaultKind::Ring]),
    ("bitrot", &[FaultKind::RotBlob, FaultKind::RotSst, FaultKind::RotWal, FaultKind::RotSnapshot]),
    ("disk", &[FaultKind::IoError, FaultKind::DiskFull, FaultKind::SlowDisk]),
];

impl FaultKind {
    /// Its name, as on the command line and in histories.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What it takes of each node it is done to.
    pub(crate) fn parts(self) -> &'static [Part] {
        match self {
            FaultKind::Kill | FaultKind::Pause | FaultKind::Restart => &[Part::Process],
            FaultKind::Powercut | FaultKind::PowercutAll | FaultKind::IoError => &[Part::Process, Part::Disk],
            FaultKind::IsolateLeader | FaultKind::Halves | FaultKind::OneWay | FaultKind::Ring | FaultKind::Loss => {
                &[Part::Network]
            }
            // the new leader must be a node that nothing is done to
            FaultKind::TransferLeader | FaultKind::RestartRolling => &ALL_PARTS,
            FaultKind::DiskFull | FaultKind::RotBlob => &[Part::Disk],
            FaultKind::SlowDisk => &[Part::Speed],
            FaultKind::Clock => &[Part::Clock],
            // ends with a new start that has to succeed, or with a node that joins anew
            FaultKind::RotSst | FaultKind::RotWal | FaultKind::RotSnapshot | FaultKind::Wipe => &ALL_PARTS,
        }
    }

    /// Whether it destroys copies of data: then all of them hit one node, so that a majority of copies stays whole.
    pub(crate) fn is_destructive(self) -> bool {
        use FaultKind::{RotBlob, RotSnapshot, RotSst, RotWal, Wipe};
        matches!(self, RotBlob | RotSst | RotWal | RotSnapshot | Wipe)
    }

    /// Whether it damages what a node can't do without, and may meet at any later time.
    pub(crate) fn damages_node(self) -> bool {
        matches!(self, FaultKind::RotSst | FaultKind::RotWal | FaultKind::RotSnapshot)
    }

    /// Whether it is done and over at once: nothing is left to undo.
    pub(crate) fn is_moment(self) -> bool {
        matches!(self, FaultKind::TransferLeader | FaultKind::Restart | FaultKind::RestartRolling | FaultKind::RotBlob)
    }

    /// Whether a majority stays untouched all the while: what may happen when availability is judged.
    pub(crate) fn is_quorum_safe(self) -> bool {
        self != FaultKind::PowercutAll
    }

    /// Whether nodes need disks of their own for it.
    pub(crate) fn needs_volume(self) -> bool {
        use FaultKind::{DiskFull, IoError, Powercut, PowercutAll, SlowDisk};
        matches!(self, Powercut | PowercutAll | IoError | DiskFull | SlowDisk)
    }

    /// How long it lasts: shortest and longest, in milliseconds.
    pub(crate) fn lasts_ms(self) -> (u64, u64) {
        match self {
            FaultKind::Kill | FaultKind::Powercut | FaultKind::PowercutAll => (500, 8000),
            // an election takes up to the lease, the longest draw and some more: 1.6 s and more
            FaultKind::Pause => (2500, 8000),
            FaultKind::IsolateLeader | FaultKind::Halves | FaultKind::OneWay | FaultKind::Ring => (4000, 15_000),
            FaultKind::Loss | FaultKind::SlowDisk => (5000, 15_000),
            FaultKind::Clock => (4000, 20_000),
            FaultKind::DiskFull => (5000, 12_000),
            // looked at again and again meanwhile; over when the node has ended
            FaultKind::IoError => (1000, 2000),
            FaultKind::RotSst | FaultKind::RotWal | FaultKind::RotSnapshot | FaultKind::Wipe => (500, 3000),
            FaultKind::TransferLeader | FaultKind::Restart | FaultKind::RestartRolling | FaultKind::RotBlob => (0, 0),
        }
    }
}

/// Kinds by their names or the names of groups, each once.
pub(crate) fn parse(names: &[String]) -> Result<Vec<FaultKind>, Fault> {
    let mut found = Vec::new();
    for name in names {
        let group = GROUPS.iter().find(|(group, _)| group == name).map(|(_, kinds)| kinds.to_vec());
        let one = || FaultKind::from_str(name, false).ok().map(|kind| vec![kind]);
        let known = || {
            let groups = GROUPS.iter().map(|(group, _)| (*group).to_owned());
            let kinds = FaultKind::value_variants().iter().map(|kind| kind.name());
            groups.chain(kinds).collect::<Vec<_>>().join(", ")
        };
        let more = group.or_else(one).ok_or_else(|| Fault::new(format!("no fault {name:?}; there are {}", known())))?;
        found.extend(more);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Names and groups are understood, twice the same is once, and a wrong name is told with the right ones.
    #[test]
    fn names() {
        let parsed = |names: &str| parse(&names.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parsed("pause,kill,pause").unwrap(), [FaultKind::Kill, FaultKind::Pause]);
        assert_eq!(parsed("partition,ring").unwrap().len(), 4);
        assert_eq!(parsed("rot-sst").unwrap(), [FaultKind::RotSst]);
        let told = parsed("kil").unwrap_err().to_string();
        assert!(told.contains("\"kil\"") && told.contains("powercut-all") && told.contains("partition"), "{told}");
    }

    // A name is the same on the command line and in histories; what lasts has an order.
    #[test]
    fn forms() {
        for kind in FaultKind::value_variants() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let (shortest, longest) = kind.lasts_ms();
            assert!(shortest <= longest && (longest == 0) == kind.is_moment(), "{kind:?}");
        }
    }
}
