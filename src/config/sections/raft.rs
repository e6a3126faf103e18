//! `[raft]`

use std::path::PathBuf;
use std::time::Duration;

use super::{ms, s};
use crate::config::section::section;
use crate::config::value::ByteSize;

section! {
    /// Consensus. The times decide how soon a lost leader is replaced: after election_max plus a wait between
    /// election_min and election_max. Raise all three in proportion when zones are more than 20 ms apart.
    RaftSection "raft"

    /// How often a leader shows that it lives.
    heartbeat: Duration = ms(100) => ms(10)..=s(10);

    /// Shortest silence after which a node stands for election; at least three heartbeats.
    election_min: Duration = ms(400) => ms(50)..=s(60);

    /// Longest silence, and the leader's lease; above election_min, best twice that.
    election_max: Duration = ms(800) => ms(50)..=s(120);

    /// Log entries between two snapshots. More: fewer checkpoints, a larger log, a longer replay after a crash.
    snapshot_every: u64 = 50_000 => 100..=10_000_000;

    /// Room to be kept free on the volume of the log. Below it no pushes are taken, so that the log can go on with
    /// deletes; as much is held back in a file that is given away when the volume is full. At most a sixteenth of it.
    reserve: ByteSize = ByteSize(64 << 20);

    /// Directory of the log, best on a disk of its own. Left out: raft/ in node.data_dir.
    dir: Option<PathBuf> = None;
}
