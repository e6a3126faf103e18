//! `[repair]`

use std::time::Duration;

use registry_core::vocabulary::limits;

use super::s;
use crate::config::section::section;
use crate::config::value::ByteSize;

section! {
    /// Copies that are missing, and nodes that are away. All nodes of a cluster should have the same times; the
    /// leader's count.
    RepairSection "repair"

    /// A node that is not heard is waited for so long; then its copies are made elsewhere in its zone, if another node
    /// is there. When it returns, what is more than wanted goes again. Longer than a restart or an upgrade takes.
    replace_after: Duration = s(limits::REPLACE_AFTER_S) => s(1)..=s(30 * 24 * 3600);

    /// A zone of which no node is heard is waited for so long; then a blob with a single copy left gets a second one in
    /// the zones that are there. What a push needs does not change.
    zone_after: Duration = s(limits::ZONE_LOST_AFTER_S) => s(1)..=s(30 * 24 * 3600);

    /// Copies made by this node take at most so many MiB a second, of its network and of its disk.
    mib_per_s: u32 = 64 => 1..=100_000;

    /// Copies that move to this node because it holds less than its share, as a new one does, take at most so many MiB
    /// a second of that. 0: none move.
    rebalance_mib_per_s: u32 = 16 => 0..=100_000;

    /// How much less than its share a node must hold before copies move to it.
    rebalance_floor: ByteSize = ByteSize(limits::REBALANCE_FLOOR_BYTES);
}
