//! The state machine that consensus drives: implemented by the server, opaque here.

use std::path::Path;

use bytes::Bytes;

/// What consensus replicates onto.
///
/// All calls are synchronous and come from threads made for them, never from an async worker. `apply` and `install`
/// come from one thread, one after the other; `checkpoint` and `inspect` may run beside `apply`.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies committed entries in order, in **one** atomic batch together with `meta`: opaque bytes that say what was
    /// applied last and who the members are; store them and give them back. Returns one effect per entry, also for
    /// entries with an empty payload (theirs are dropped).
    ///
    /// Entries of one call must see each other's effects. An error or a panic ends the process: a node that applied
    /// half a batch must not go on.
    fn apply(&self, entries: &[Committed], meta: &[u8]) -> Result<Vec<Effect>, MachineError>;

    /// The `meta` stored last, `None` when nothing was ever applied.
    fn meta(&self) -> Result<Option<Vec<u8>>, MachineError>;

    /// Writes a consistent copy of the state into `dir`, which doesn't exist yet and lies in the data directory, and
    /// returns the `meta` read **from the copy**: the live state may be ahead of it by then.
    ///
    /// Files ending in `.sst` or `.blob` must never change once written; they are shared by hard links.
    fn checkpoint(&self, dir: &Path) -> Result<Vec<u8>, MachineError>;

    /// Opens a copy without changing it and returns its `meta`: how a received snapshot is verified before it is
    /// installed.
    fn inspect(&self, dir: &Path) -> Result<Vec<u8>, MachineError>;

    /// The same, and reads all of the copy: how one that replaces a rotten state is judged. It takes as long as
    /// reading.
    fn verify(&self, dir: &Path) -> Result<Vec<u8>, MachineError>;

    /// Replaces the whole state by the copy in `dir`, which may be renamed away. A crash at any moment leaves the old
    /// state or the new one. Rebuilds every view that `apply` feeds: applies were skipped.
    fn install(&self, dir: &Path) -> Result<(), MachineError>;
}

/// One committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// The leader's wall clock when it took the proposal, milliseconds since 1970; 0 for entries of consensus itself.
    /// It may run backwards between leaders.
    pub at_ms: u64,
    /// What was proposed; empty for entries of consensus itself (a new leader's first entry, changes of members,
    /// records of suspect nodes).
    pub payload: Bytes,
}

/// What applying one entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Where in the log the proposal took effect. A proposal without an answer is repeated, so the log may hold copies
    /// of it: a machine that tells them apart names the first one's index, and it is what the proposer hears.
    pub index: u64,
    /// What the proposer hears beside it.
    pub reply: Bytes,
}

/// The state could not be read or written. Ends the process when it comes out of `apply`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MachineError(String);

impl MachineError {
    /// With a message for the log.
    pub fn new(message: impl Into<String>) -> MachineError {
        MachineError(message.into())
    }
}
