//! How many uploads each user has staged with this node as their primary: nobody takes all the room there is (B8).
//!
//! Counts from memory: after a restart everybody begins anew, bounded by what the store stages at most. What ended
//! without a word, by expiry or a takeover, is found when somebody's share seems to be used up.

use std::collections::HashMap;

use parking_lot::Mutex;
use registry_core::vocabulary::ids::UploadId;
use registry_core::vocabulary::limits::{UPLOADS_PER_PRINCIPAL_MAX, UPLOADS_REMEMBERED_MAX};

/// Who stages what.
#[derive(Default)]
pub(super) struct Shares(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    owners: HashMap<UploadId, u64>,
    counts: HashMap<u64, usize>,
}

impl Taken {
    fn remove(&mut self, upload: UploadId) {
        let Some(owner) = self.owners.remove(&upload) else { return };
        if let Some(count) = self.counts.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&owner);
            }
        }
    }
}

impl Shares {
    /// Counts an upload that begins; false when its owner has too many, or all together have.
    pub(super) fn take(&self, owner: u64, upload: UploadId) -> bool {
        let mut taken = self.0.lock();
        if taken.owners.contains_key(&upload) {
            return true;
        }
        let own = taken.counts.get(&owner).copied().unwrap_or(0);
        if own >= UPLOADS_PER_PRINCIPAL_MAX || taken.owners.len() >= UPLOADS_REMEMBERED_MAX {
            return false;
        }
        taken.owners.insert(upload, owner);
        taken.counts.insert(owner, own + 1);
        true
    }

    /// An upload is over.
    pub(super) fn give_back(&self, upload: UploadId) {
        self.0.lock().remove(upload);
    }

    /// Forgets uploads that are not staged any more. `is_staged` may block, so nothing is locked meanwhile.
    pub(super) fn sweep(&self, is_staged: impl Fn(UploadId) -> bool) {
        let all: Vec<UploadId> = self.0.lock().owners.keys().copied().collect();
        for upload in all.into_iter().filter(|upload| !is_staged(*upload)) {
            self.give_back(upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(number: usize) -> UploadId {
        UploadId { tick: 0, random: number as u128 }
    }

    // B8: each owner has its share; what ends gives back, and what ended unseen is swept.
    #[test]
    fn shares() {
        let shares = Shares::default();
        assert!((0..UPLOADS_PER_PRINCIPAL_MAX).all(|number| shares.take(1, upload(number))));
        assert!(!shares.take(1, upload(usize::MAX)));
        assert!(shares.take(1, upload(7)), "a repeat is the same upload");
        assert!(shares.take(2, upload(usize::MAX)));
        shares.give_back(upload(7));
        shares.give_back(upload(7));
        assert!(shares.take(1, upload(7)) && !shares.take(1, upload(5000)));
        shares.sweep(|upload| upload.random % 2 == 0);
        assert!((0..UPLOADS_PER_PRINCIPAL_MAX / 2).all(|number| shares.take(1, upload(10_000 + number))));
        assert!(!shares.take(1, upload(5000)));
        shares.sweep(|_| false);
        assert!(shares.0.lock().owners.is_empty() && shares.0.lock().counts.is_empty(), "nothing is kept of the past");
    }
}
