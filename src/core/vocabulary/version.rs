//! Versions of what regions replicate.

use std::fmt;

use bincode::{Decode, Encode};

/// Version of a register that regions replicate: larger wins (consensus-and-faults §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Version {
    /// Raised when the repository changes its home region.
    pub home_epoch: u32,
    /// Hybrid logical time: replicated milliseconds, or one more than the last of the slot.
    pub hlc: u64,
    /// Where the change was made.
    pub region: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.home_epoch, self.hlc, self.region)
    }
}
