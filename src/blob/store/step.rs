//! Named steps of the store, so that tests can fail, stop or kill it exactly there. Costs one branch in production.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A point just *before* the named act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Staged bytes are written.
    StagingWrite,
    /// An epoch note is made durable.
    EpochNote,
    /// The blob's bytes are synced.
    FileSync,
    /// The block sums are written.
    SumWrite,
    /// The block sums are synced.
    SumSync,
    /// The block sums get their final name.
    SumRename,
    /// The blob gets its final name.
    FileRename,
    /// The directory with the new names is synced.
    DirSync,
    /// Everything is durable; the caller is about to be told.
    Placed,
    /// A blob's file is unlinked.
    Unlink,
    /// A batch of pack records is written.
    PackWrite,
    /// A batch of pack records is synced.
    PackSync,
    /// A new pack segment's directory entry is synced.
    PackDirSync,
    /// A finished pack segment's footer is written.
    PackSeal,
    /// A compacted segment is unlinked.
    PackUnlink,
}

impl Step {
    /// All of them, for tests that visit each.
    pub const ALL: [Step; 15] = [
        Step::StagingWrite,
        Step::EpochNote,
        Step::FileSync,
        Step::SumWrite,
        Step::SumSync,
        Step::SumRename,
        Step::FileRename,
        Step::DirSync,
        Step::Placed,
        Step::Unlink,
        Step::PackWrite,
        Step::PackSync,
        Step::PackDirSync,
        Step::PackSeal,
        Step::PackUnlink,
    ];
}

/// Sees each step before it happens. An error takes the place of the operating system's; a hook may also block, or kill
/// the process.
pub trait StepHook: Send + Sync + 'static {
    /// Called before `step`.
    fn before(&self, step: Step) -> io::Result<()>;
}

/// The hook of a store, normally none.
#[derive(Clone, Default)]
pub(crate) struct Steps(pub(crate) Option<Arc<dyn StepHook>>);

impl Steps {
    #[inline]
    pub(crate) fn before(&self, step: Step) -> io::Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(hook) => hook.before(step),
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_some() { "Steps(hooked)" } else { "Steps" })
    }
}
