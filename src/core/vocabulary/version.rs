//! Versions of what regions replicate.

use std::fmt;

use bincode::{Decode, Encode};

/// Version of a register that regions replicate: larger wins (consensus-and-faults §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Version {
    /// Raised when the repository changes its home region.
    pub home_epoch: u32,
    /// Hybrid logical time: replicated microseconds since 1970, or one more than the last of the slot. What was made
    /// below feature level 3 counts milliseconds, and so is older than everything since.
    pub hlc: u64,
    /// Where the change was made.
    pub region: u16,
}

impl Version {
    /// The largest version below this one; the smallest has none.
    pub fn predecessor(self) -> Version {
        match (self.region.checked_sub(1), self.hlc.checked_sub(1)) {
            (Some(region), _) => Version { region, ..self },
            (None, Some(hlc)) => Version { hlc, region: u16::MAX, ..self },
            (None, None) => self,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.home_epoch, self.hlc, self.region)
    }
}
