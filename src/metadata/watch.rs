//! Wakes who waits for rows: reconcilers for their work, readers of cached views for a change.

use parking_lot::Mutex;
use registry_core::metadata::keys::{self, Kind, SLOTS, Slot};
use registry_core::metadata::tables::Writes;
use tokio::sync::watch;

/// What has changed since somebody looked; levels, never events: a waiter reads the rows themselves.
#[derive(Debug)]
pub struct Watch {
    needs: watch::Sender<u64>,
    slots: Mutex<NeedSlots>,
    topology: watch::Sender<u64>,
    digests: watch::Sender<u64>,
}

impl Default for Watch {
    fn default() -> Watch {
        let (needs, slots) = (watch::Sender::new(0), Mutex::default());
        Watch { needs, slots, topology: watch::Sender::new(0), digests: watch::Sender::new(0) }
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
    digests: bool,
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
                Kind::Need | Kind::Other => {}
            }
        }
        touched.needs.dedup();
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
        if touched.digests {
            self.digests.send_replace(index);
        }
    }

    /// The state was replaced as a whole.
    pub(crate) fn replaced(&self) {
        self.applied(u64::MAX, Touched { needs: (0..SLOTS).collect(), topology: true, digests: true });
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

    /// Changes when nodes or volumes may have changed.
    pub fn topology(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
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
}
