//! One lock per digest, shared by placing, confirming and removing.
//!
//! Exact, not striped: the remover holds it while it asks the quorum, and must not stop a push of another digest.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use registry_core::vocabulary::digest::Digest;

/// The digests that somebody works on.
#[derive(Clone, Default)]
pub(crate) struct DigestLocks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    held: Mutex<HashSet<Digest>>,
    freed: Condvar,
}

/// Proof that the holder alone places, confirms or removes copies of one digest. Not re-entrant. `Send`, so that it can
/// be held across an `await`.
pub struct DigestLock {
    digest: Digest,
    shared: Arc<Shared>,
}

impl DigestLock {
    /// The locked digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl DigestLocks {
    pub(crate) fn lock(&self, digest: &Digest) -> DigestLock {
        let mut held = self.0.held.lock();
        while !held.insert(*digest) {
            self.0.freed.wait(&mut held);
        }
        DigestLock { digest: *digest, shared: Arc::clone(&self.0) }
    }

    pub(crate) fn try_lock(&self, digest: &Digest) -> Option<DigestLock> {
        self.0.held.lock().insert(*digest).then(|| DigestLock { digest: *digest, shared: Arc::clone(&self.0) })
    }
}

impl Drop for DigestLock {
    fn drop(&mut self) {
        self.shared.held.lock().remove(&self.digest);
        // All: waiters of different digests share the condition.
        self.shared.freed.notify_all();
    }
}

impl fmt::Debug for DigestLock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DigestLock({})", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    // A held digest excludes itself and nothing else; dropping frees it.
    #[test]
    fn exact() {
        let locks = DigestLocks::default();
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let held = locks.lock(&a);
        assert!(locks.try_lock(&a).is_none());
        assert!(locks.try_lock(&b).is_some());
        drop(held);
        assert!(locks.try_lock(&a).is_some());
    }

    // Many threads that add one under the lock lose no addition.
    #[test]
    fn excludes() {
        let locks = DigestLocks::default();
        let digest = Digest::sha256(b"a");
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _held = locks.lock(&digest);
                        let seen = count.load(Ordering::Relaxed);
                        std::thread::yield_now();
                        count.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1600);
    }
}
