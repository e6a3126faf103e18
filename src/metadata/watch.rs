//! Wakes who waits for rows: reconcilers for their work, readers of cached views for a change.

use std::collections::VecDeque;

use parking_lot::Mutex;
use registry_core::metadata::keys::{self, Kind, SLOTS, Slot};
use registry_core::metadata::tables::Writes;
use registry_core::metadata::{replica, sweep};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::UploadId;
use registry_core::vocabulary::limits::FREED_REMEMBERED_MAX;
use tokio::sync::watch;

/// What has changed since somebody looked; levels, never events: a waiter reads the rows themselves.
#[derive(Debug)]
pub struct Watch {
    needs: watch::Sender<u64>,
    slots: Mutex<NeedSlots>,
    topology: watch::Sender<u64>,
    overfull: watch::Sender<u64>,
    digests: watch::Sender<u64>,
    freed: watch::Sender<u64>,
    files: Mutex<FreedFiles>,
    outbox: watch::Sender<u64>,
    outbox_slots: Mutex<OutboxSlots>,
    regions: watch::Sender<u64>,
}

impl Default for Watch {
    fn default() -> Watch {
        let new = || watch::Sender::new(0);
        Watch {
            needs: new(),
            slots: Mutex::default(),
            topology: new(),
            overfull: new(),
            digests: new(),
            freed: new(),
            files: Mutex::default(),
            outbox: new(),
            outbox_slots: Mutex::default(),
            regions: new(),
        }
    }
}

/// In which slots changes for other regions were noted, and when: who tells them need not look at all slots.
#[derive(Debug)]
struct OutboxSlots {
    /// How often the state was replaced, which marks nothing.
    replaced: u64,
    /// An index at or behind the last change noted in each slot since the process began.
    written: Vec<u64>,
}

impl Default for OutboxSlots {
    fn default() -> OutboxSlots {
        OutboxSlots { replaced: 0, written: vec![0; usize::from(SLOTS)] }
    }
}

/// Files that the state has let go, for the one job that looks after them here. A hint: what is lost of it is found by
/// a walk over the volume.
#[derive(Debug, Default)]
struct FreedFiles {
    files: VecDeque<(Digest, UploadId)>,
    some_were_lost: bool,
}

impl FreedFiles {
    fn add(&mut self, files: Vec<(Digest, UploadId)>) {
        let room = FREED_REMEMBERED_MAX.saturating_sub(self.files.len());
        self.some_were_lost |= files.len() > room;
        self.files.extend(files.into_iter().take(room));
    }
}

/// In which slots a need was written, and when: who looks again need not look at all of them.
#[derive(Debug)]
struct NeedSlots {
    round: u64,
    /// The round in which each slot got its last need.
    written: Vec<u64>,
}

impl Default for NeedSlots {
    fn default() -> NeedSlots {
        NeedSlots { round: 0, written: vec![0; usize::from(SLOTS)] }
    }
}

/// What a batch wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    /// Slots that got a need; one that went wakes nobody.
    needs: Vec<Slot>,
    topology: bool,
    /// Some record may have more copies than wanted.
    overfull: bool,
    digests: bool,
    /// Slots that got a change for other regions.
    outbox: Vec<Slot>,
    regions: bool,
    /// Files that the state lets go.
    freed: Vec<(Digest, UploadId)>,
    /// The state was replaced: what it lets go is not told.
    is_replaced: bool,
}

impl Touched {
    /// By these writes, which are in key order.
    pub(crate) fn of(writes: &Writes) -> Touched {
        let mut touched = Touched::default();
        for (key, value) in writes {
            match keys::kind(key) {
                Kind::Need if value.is_some() => touched.needs.extend(keys::slot(key)),
                Kind::Topology => touched.topology = true,
                Kind::Digest => touched.digests = true,
                Kind::Outbox if value.is_some() => touched.outbox.extend(keys::slot(key)),
                Kind::Regions => touched.regions = true,
                Kind::Need | Kind::Outbox | Kind::Other => {}
            }
            touched.overfull |= value.as_ref().is_some_and(|value| replica::may_overfill(key, value));
            touched.freed.extend(value.as_ref().and_then(|value| sweep::freed_by(key, value)));
        }
        touched.needs.dedup();
        touched.outbox.dedup();
        touched
    }
}

impl Watch {
    pub(crate) fn applied(&self, index: u64, touched: Touched) {
        if !touched.needs.is_empty() {
            {
                let mut slots = self.slots.lock();
                slots.round += 1;
                let round = slots.round;
                for slot in touched.needs {
                    if let Some(written) = slots.written.get_mut(usize::from(slot)) {
                        *written = round;
                    }
                }
            }
            self.needs.send_replace(index);
        }
        if touched.topology {
            self.topology.send_replace(index);
        }
        if touched.topology || touched.overfull {
            self.overfull.send_replace(index);
        }
        if touched.digests {
            self.digests.send_replace(index);
        }
        if touched.regions {
            self.regions.send_replace(index);
        }
        if touched.is_replaced || !touched.outbox.is_empty() {
            {
                let mut slots = self.outbox_slots.lock();
                slots.replaced += u64::from(touched.is_replaced);
                for slot in touched.outbox {
                    if let Some(written) = slots.written.get_mut(usize::from(slot)) {
                        *written = index;
                    }
                }
            }
            self.outbox.send_replace(index);
        }
        if touched.is_replaced || !touched.freed.is_empty() {
            {
                let mut files = self.files.lock();
                files.add(touched.freed);
                files.some_were_lost |= touched.is_replaced;
            }
            self.freed.send_replace(index);
        }
    }

    /// The state was replaced as a whole.
    pub(crate) fn replaced(&self) {
        let needs = (0..SLOTS).collect();
        let replaced = Touched {
            needs,
            topology: true,
            overfull: true,
            digests: true,
            outbox: Vec::new(),
            regions: true,
            freed: Vec::new(),
            is_replaced: true,
        };
        self.applied(u64::MAX, replaced);
    }

    /// Changes when a zone may lack a copy it should have.
    pub fn needs(&self) -> watch::Receiver<u64> {
        self.needs.subscribe()
    }

    /// The slots that got a need after this round, and the present round. What was there before the process started is
    /// of no round.
    pub fn needs_since(&self, round: u64) -> (u64, Vec<Slot>) {
        let slots = self.slots.lock();
        let written = |slot: &Slot| slots.written[usize::from(*slot)] > round;
        (slots.round, (0..SLOTS).filter(written).collect())
    }

    /// Changes when a change was noted for other regions.
    pub fn outbox(&self) -> watch::Receiver<u64> {
        self.outbox.subscribe()
    }

    /// The slots in which changes were noted behind a log index, as far as they were applied one by one since the
    /// process began; and how often the state was replaced as a whole, which tells of no slot.
    pub fn outbox_since(&self, index: u64) -> (u64, Vec<Slot>) {
        let slots = self.outbox_slots.lock();
        let written = |slot: &Slot| slots.written[usize::from(*slot)] > index;
        (slots.replaced, (0..SLOTS).filter(written).collect())
    }

    /// Changes when other regions, or what they are sent, may have changed.
    pub fn regions(&self) -> watch::Receiver<u64> {
        self.regions.subscribe()
    }

    /// Changes when the state let files go.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }

    /// Takes up to `limit` files that the state let go since the process started; and whether some were not told, so
    /// that only a walk over the volume finds them.
    pub fn take_freed(&self, limit: usize) -> (Vec<(Digest, UploadId)>, bool) {
        let mut files = self.files.lock();
        let taken = files.files.len().min(limit);
        let taken = files.files.drain(..taken).collect();
        (taken, std::mem::take(&mut files.some_were_lost))
    }

    /// Changes when nodes or volumes may have changed.
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
    }

    /// Changes when records may have more copies than they should: a copy too many, another topology.
    pub fn overfull(&self) -> watch::Receiver<u64> {
        self.overfull.subscribe()
    }

    /// Changes when running hashes were asked for or reported.
    pub fn digests(&self) -> watch::Receiver<u64> {
        self.digests.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> u8 {
        keys::TABLE_NAMES.iter().find(|(_, known)| *known == name).unwrap().0
    }

    fn write(slot: Slot, table: u8, is_put: bool) -> (Vec<u8>, Option<Vec<u8>>) {
        let key = [&slot.to_be_bytes()[..], &[table], b"zone\0x"].concat();
        (key, is_put.then(Vec::new))
    }

    // Who asks for needs is told of the slots that got one since it asked, and of all after the state was replaced; a
    // need that is gone wakes nobody.
    #[test]
    fn needs_by_slot() {
        let watch = Watch::default();
        let mut woken = watch.needs();
        let batch = |rows: &[(Slot, u8, bool)]| {
            let writes: Writes = rows.iter().map(|(slot, table, is_put)| write(*slot, *table, *is_put)).collect();
            watch.applied(1, Touched::of(&writes));
        };
        batch(&[(3, table("NEED"), false), (4, table("BLOB"), true)]);
        assert!(!woken.has_changed().unwrap());
        assert_eq!(watch.needs_since(0), (0, vec![]));
        batch(&[(3, table("NEED"), true), (9, table("NEED"), true)]);
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();
        let (round, slots) = watch.needs_since(0);
        assert_eq!(slots, [3, 9]);
        batch(&[(7, table("NEED"), true)]);
        assert_eq!(watch.needs_since(round).1, [7]);
        assert_eq!(watch.needs_since(0).1, [3, 7, 9]);
        watch.replaced();
        assert_eq!(watch.needs_since(round).1.len(), usize::from(SLOTS));
    }

    // Who tells other regions is told of the slots that got a change behind where it stands, as often as it asks, and
    // that the state was replaced.
    #[test]
    fn outbox_by_slot() {
        let watch = Watch::default();
        let mut woken = watch.outbox();
        let batch = |index: u64, rows: &[(Slot, bool)]| {
            let writes: Writes = rows.iter().map(|(slot, is_put)| write(*slot, table("OUTBOX"), *is_put)).collect();
            watch.applied(index, Touched::of(&writes));
        };
        batch(5, &[(3, false)]);
        assert!(!woken.has_changed().unwrap());
        batch(7, &[(3, true), (9, true)]);
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();
        for _ in 0..2 {
            assert_eq!(watch.outbox_since(0), (0, vec![3, 9]));
        }
        batch(8, &[(4, true)]);
        assert_eq!(watch.outbox_since(7), (0, vec![4]));
        assert_eq!(watch.outbox_since(8), (0, vec![]));
        woken.mark_unchanged();
        watch.replaced();
        assert!(woken.has_changed().unwrap());
        assert_eq!(watch.outbox_since(8), (1, vec![]));
    }

    // What a sweep closed is told once, in order; beyond the bound, and after a replacement, only that there was more.
    #[test]
    fn freed_files_are_told() {
        let watch = Watch::default();
        let mut freed = watch.freed();
        let upload = |number| UploadId { tick: 0, random: number };
        let digest = Digest::sha256(b"x");
        let closed = |number| (digest, upload(number));
        watch.applied(1, Touched::default());
        assert!(!freed.has_changed().unwrap());
        watch.applied(2, Touched { freed: (0..5).map(closed).collect(), ..Touched::default() });
        assert!(freed.has_changed().unwrap());
        freed.mark_unchanged();
        assert_eq!(watch.take_freed(3), ((0..3).map(closed).collect(), false));
        assert_eq!(watch.take_freed(3), ((3..5).map(closed).collect(), false));
        let many = (0..=FREED_REMEMBERED_MAX as u128).map(closed).collect();
        watch.applied(3, Touched { freed: many, ..Touched::default() });
        let (taken, some_were_lost) = watch.take_freed(usize::MAX);
        assert_eq!((taken.len(), some_were_lost), (FREED_REMEMBERED_MAX, true));
        assert_eq!(watch.take_freed(9), (vec![], false));
        watch.replaced();
        assert_eq!(watch.take_freed(9), (vec![], true));
    }
}
