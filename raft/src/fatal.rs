//! Ends the process when going on could lose or corrupt acknowledged data.

/// Logs and aborts: no destructor runs, nothing is completed, no half-done work is acknowledged.
///
/// Linux may report a failed write-back once, drop the dirty pages and return success on the next try: after a failed
/// fsync, or an apply that failed half-way, only a restart knows what is on the disk.
#[cold]
pub(crate) fn abort(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(%error, "{what}: ending the process");
    // also without a subscriber, the last words must be seen
    eprintln!("portolan: {what}: {error}; ending the process");
    std::process::abort()
}
