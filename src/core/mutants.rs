//! Faults put in on purpose, to see that the fault harness and the tests catch them.
//!
//! Without the feature `mutants` none is compiled in and nothing can switch one on; a release can't be built with it
//! (`build.rs`). With it the process chooses at most one, once, before anything else. Source: consensus-and-faults §4.8
//! and §5.9.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The log says that it is synced, and is not.
    SkipLogSync = 1,
    /// Bytes of blobs are not synced.
    SkipBlobSync = 2,
    /// Names of blobs are not synced.
    SkipDirSync = 3,
    /// A blob is acknowledged with one copy.
    OneZone = 4,
    /// Reads answer from the state as it is, without asking whether it is the newest.
    StaleReads = 5,
    /// Records are condemned and swept although somebody uses them.
    CollectUsed = 6,
    /// That a zone lacks a copy is not written down.
    ForgetNeeds = 7,
    /// A leader loses patience with a follower and counts what it has sent: it answers before a quorum has it.
    AckAtSend = 8,
    /// Files that no record names yet are deleted, though a commit may be under way.
    DeletePending = 9,
    /// A commit links its blob before it makes the record.
    LinkFirst = 10,
    /// To drop a use drops all uses of the repository.
    SkipUse = 11,
    /// Some changes are not noted for other regions.
    DropChange = 12,
    /// The cursor of another region's changes stands where they were received, not where they were applied.
    EarlyCursor = 13,
    /// A delete of a tag is forgotten when another region speaks of the tag.
    ForgetDeletes = 14,
    /// As [`DropChange`](Mutant::DropChange), and comparing with another region finds that all is equal.
    SkipCompare = 15,
}

/// Every mutant with its name.
pub const ALL: [(&str, Mutant); 15] = [
    ("skip-log-sync", Mutant::SkipLogSync),
    ("skip-blob-sync", Mutant::SkipBlobSync),
    ("skip-dir-sync", Mutant::SkipDirSync),
    ("one-zone", Mutant::OneZone),
    ("stale-reads", Mutant::StaleReads),
    ("collect-used", Mutant::CollectUsed),
    ("forget-needs", Mutant::ForgetNeeds),
    ("ack-at-send", Mutant::AckAtSend),
    ("delete-pending", Mutant::DeletePending),
    ("link-first", Mutant::LinkFirst),
    ("skip-use", Mutant::SkipUse),
    ("drop-change", Mutant::DropChange),
    ("early-cursor", Mutant::EarlyCursor),
    ("forget-deletes", Mutant::ForgetDeletes),
    ("skip-compare", Mutant::SkipCompare),
];

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one on, for the life of the process.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Mutant) {
    CHOSEN.store(mutant as u8, std::sync::atomic::Ordering::Release);
}

/// Whether this one was chosen.
#[cfg(feature = "mutants")]
pub fn is_on(mutant: Mutant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Acquire) == mutant as u8
}

/// Whether this one was chosen: there are none.
#[cfg(not(feature = "mutants"))]
pub const fn is_on(_: Mutant) -> bool {
    false
}
