//! What an operator tunes, and what the composition root passes in.

use std::fmt;
use std::sync::Arc;

use registry_core::vocabulary::limits::{WATERMARK_FULL_PERCENT, WATERMARK_REFUSE_PERCENT, WATERMARK_URGENT_PERCENT};

use super::step::{StepHook, Steps};
use super::{Pressure, StoreError, StoreResult};

/// Numbers of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes the store may use when it shares its file system with others; `None` means all of it. Counting what is
    /// there takes a walk at open.
    pub capacity_bytes: Option<u64>,
    /// Most uploads staged at once. Each costs about 4 KiB of memory while it is idle.
    pub uploads_max: usize,
    /// A pack segment is finished at this size.
    pub segment_bytes_max: u64,
    /// Blob files kept open between reads.
    pub open_files_max: usize,
    /// Memory for the sums of open files.
    pub sums_bytes_max: usize,
    /// From this fill on the store is not chosen for new placements.
    pub full_percent: u8,
    /// From this fill on new uploads are refused.
    pub refuse_percent: u8,
    /// From this fill on imports are refused too.
    pub urgent_percent: u8,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            capacity_bytes: None,
            uploads_max: 65_536,
            segment_bytes_max: 64 << 20,
            open_files_max: 512,
            sums_bytes_max: 64 << 20,
            full_percent: WATERMARK_FULL_PERCENT,
            refuse_percent: WATERMARK_REFUSE_PERCENT,
            urgent_percent: WATERMARK_URGENT_PERCENT,
        }
    }
}

impl Settings {
    /// What a fill of `used_percent` demands.
    pub(crate) fn pressure(&self, used_percent: u8) -> Pressure {
        match used_percent {
            percent if percent >= self.urgent_percent => Pressure::Urgent,
            percent if percent >= self.refuse_percent => Pressure::Refuse,
            percent if percent >= self.full_percent => Pressure::Full,
            _ => Pressure::None,
        }
    }

    /// Refuses new bytes when the pressure has reached `from`.
    pub(crate) fn admit(&self, used_percent: u8, from: Pressure) -> StoreResult<()> {
        if self.pressure(used_percent) < from {
            return Ok(());
        }
        let limit_percent = match from {
            Pressure::None | Pressure::Full => self.full_percent,
            Pressure::Refuse => self.refuse_percent,
            Pressure::Urgent => self.urgent_percent,
        };
        Err(StoreError::Full { used_percent, limit_percent })
    }
}

/// Milliseconds of the holder's own clock; only ever compared with itself.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Settings and components of a store.
#[derive(Clone)]
pub struct Options {
    /// Numbers.
    pub settings: Settings,
    /// Tells how long an upload is idle and when something was quarantined.
    pub clock: Clock,
    pub(crate) steps: Steps,
}

impl Options {
    /// Default settings with this clock.
    pub fn new(clock: Clock) -> Options {
        Options { settings: Settings::default(), clock, steps: Steps::default() }
    }

    /// Calls `hook` before each step; for tests that inject faults.
    pub fn with_hook(mut self, hook: Arc<dyn StepHook>) -> Options {
        self.steps = Steps(Some(hook));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options")
            .field("settings", &self.settings)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Each watermark begins exactly at its percentage.
    #[test]
    fn watermarks() {
        let settings = Settings::default();
        for (percent, pressure) in [
            (0, Pressure::None),
            (84, Pressure::None),
            (85, Pressure::Full),
            (91, Pressure::Full),
            (92, Pressure::Refuse),
            (94, Pressure::Refuse),
            (95, Pressure::Urgent),
            (100, Pressure::Urgent),
        ] {
            assert_eq!(settings.pressure(percent), pressure, "{percent}");
        }
    }
}
