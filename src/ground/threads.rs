//! Calls that wait for a disk, kept off the workers of the runtime.

use tokio::task::JoinHandle;

/// Runs a call on a thread made for it. Dropping the handle lets the call go on.
pub fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(feature = "sim")]
    if super::simulated::is_on() {
        return super::simulated::later(call);
    }
    tokio::task::spawn_blocking(call)
}
