//! Uploads have no row until something must be remembered about one: a takeover, or how it ended.
//!
//! `FinishUpload` comes first in the envelope of a push: from then on the upload can't be abandoned, so no holder frees
//! files that a commit under way may name.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::clock::ClockRow;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SLOTS, Slot, table};
use super::reply::Reply;
use super::tables::{Tables, TablesRead};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{NodeId, UploadId};
use crate::vocabulary::limits::{PURGE_ROWS_MAX, UPLOAD_LIFETIME_MS};
use crate::vocabulary::refusal::Refusal;

/// Where an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum UploadState {
    /// It goes on, with other holders than it began with.
    Open,
    /// A commit of these bytes is under way or done; the blob record tells which.
    Finishing(Digest),
    /// It was abandoned, or its bytes were wrong. Its files may go.
    Closed,
    /// The digest was here already and the repository uses that record. Its files may go.
    Deduplicated(Digest),
}

/// What is remembered about an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UploadRow {
    /// Fencing number of the pair of holders; 1 before any takeover.
    pub epoch: u32,
    /// The node that appends.
    pub primary: NodeId,
    /// The node in another zone that holds the same bytes.
    pub backup: Option<NodeId>,
    /// Where it stands.
    pub state: UploadState,
}

impl Stored for UploadRow {}

/// Reads what is remembered.
pub fn read(tables: &impl TablesRead, upload: &UploadId) -> Option<UploadRow> {
    tables.get(&keys::upload(upload)).map(|bytes| codec::row(&bytes))
}

/// Whether an upload begun in its tick is over by age at `tick`: from then on no command may name its bytes.
pub fn expired(upload: &UploadId, clock: &ClockRow) -> bool {
    let life_ticks = UPLOAD_LIFETIME_MS / clock.tick_ms.max(1);
    clock.tick.saturating_sub(upload.tick) > life_ticks.max(2)
}

fn put(tables: &mut impl Tables, upload: &UploadId, row: &UploadRow) {
    tables.put(keys::upload(upload), codec::encode(row));
}

/// Gives an upload another pair of holders. A compare-and-set on the epoch; one of the old pair stays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TakeUpload {
    /// Which.
    pub upload: UploadId,
    /// The epoch it ends.
    pub epoch: u32,
    /// The old pair, as the token or the row names it.
    pub before: (NodeId, Option<NodeId>),
    /// The new pair.
    pub after: (NodeId, Option<NodeId>),
}

impl Apply for TakeUpload {
    fn slot(&self) -> Slot {
        keys::upload_slot(&self.upload)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if expired(&self.upload, &context.clock) {
            return Err(Refusal::UploadUnknown);
        }
        let (before, epoch) = match read(tables, &self.upload) {
            Some(row) if row.state == UploadState::Open => ((row.primary, row.backup), row.epoch),
            Some(_) => return Err(Refusal::UploadUnknown),
            None => (self.before, 1),
        };
        let (primary, backup) = self.after;
        if epoch != self.epoch || before != self.before {
            return Err(Refusal::StaleEpoch { current: u64::from(epoch) });
        }
        if backup == Some(primary) {
            let detail = "two holders are two nodes".to_owned();
            return Err(Refusal::UploadInvalid { detail });
        }
        let survives = |node: NodeId| node == before.0 || Some(node) == before.1;
        if !survives(primary) && !backup.is_some_and(survives) {
            return Err(Refusal::UploadUnknown);
        }
        put(tables, &self.upload, &UploadRow { epoch: epoch + 1, primary, backup, state: UploadState::Open });
        Ok(Reply::Epoch(epoch + 1))
    }
}

/// A commit of an upload's bytes begins: they may not be freed from now on, and no older epoch may commit.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FinishUpload {
    /// Which.
    pub upload: UploadId,
    /// The epoch its holders sealed.
    pub epoch: u32,
    /// What the bytes hash to.
    pub digest: Digest,
    /// The pair it began with, for the row; after a takeover the row knows better.
    pub holders: (NodeId, Option<NodeId>),
}

impl Apply for FinishUpload {
    fn slot(&self) -> Slot {
        keys::upload_slot(&self.upload)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if expired(&self.upload, &context.clock) {
            return Err(Refusal::UploadUnknown);
        }
        let (primary, backup) = match read(tables, &self.upload) {
            Some(UploadRow { state: UploadState::Finishing(digest), .. }) if digest == self.digest => {
                return Ok(Reply::Unchanged);
            }
            Some(UploadRow { state: UploadState::Open, epoch, primary, backup }) if epoch == self.epoch => {
                (primary, backup)
            }
            Some(UploadRow { state: UploadState::Open, epoch, .. }) => {
                return Err(Refusal::StaleEpoch { current: u64::from(epoch) });
            }
            Some(_) => return Err(Refusal::UploadUnknown),
            None if self.epoch == 1 => self.holders,
            None => return Err(Refusal::StaleEpoch { current: 1 }),
        };
        let state = UploadState::Finishing(self.digest);
        put(tables, &self.upload, &UploadRow { epoch: self.epoch, primary, backup, state });
        Ok(Reply::Done)
    }
}

/// An upload ends without a blob of its own: its holders may free the bytes. Refused once a commit of them has begun.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CloseUpload {
    /// Which.
    pub upload: UploadId,
    /// The pair it began with, for the row; after a takeover the row knows better.
    pub holders: (NodeId, Option<NodeId>),
    /// The digest that was here already, if that is why; a repeated request finds it here.
    pub deduplicated: Option<Digest>,
}

impl Apply for CloseUpload {
    fn slot(&self) -> Slot {
        keys::upload_slot(&self.upload)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let (epoch, (primary, backup)) = match read(tables, &self.upload) {
            Some(UploadRow { state: UploadState::Closed | UploadState::Deduplicated(_), .. }) => {
                return Ok(Reply::Unchanged);
            }
            Some(UploadRow { state: UploadState::Finishing(_), .. }) => return Err(Refusal::UploadUnknown),
            Some(UploadRow { state: UploadState::Open, epoch, primary, backup }) => (epoch, (primary, backup)),
            None if expired(&self.upload, &context.clock) => return Ok(Reply::Unchanged),
            None => (1, self.holders),
        };
        let state = self.deduplicated.map_or(UploadState::Closed, UploadState::Deduplicated);
        put(tables, &self.upload, &UploadRow { epoch, primary, backup, state });
        Ok(Reply::Done)
    }
}

/// Drops the rows of expired uploads and closed generations of one slot, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForgetUploads {
    /// Which slot.
    pub slot: Slot,
}

/// Tables whose keys begin with an upload's id, so that the oldest come first.
const FORGOTTEN_TABLES: [u8; 2] = [table::UPLOAD, table::CLOSED_GENERATION];

/// Whether a slot has rows that [`ForgetUploads`] would drop.
pub fn forgettable(tables: &impl TablesRead, slot: Slot, clock: &ClockRow) -> bool {
    FORGOTTEN_TABLES.iter().any(|table| {
        let oldest = tables.prefix(&keys::of_slot(slot, *table), 1);
        oldest.first().and_then(|(key, _)| keys::upload_in(key)).is_some_and(|upload| expired(&upload, clock))
    })
}

impl Apply for ForgetUploads {
    fn slot(&self) -> Slot {
        self.slot
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if self.slot >= SLOTS {
            let detail = format!("there are {SLOTS} slots");
            return Err(Refusal::ParameterInvalid { parameter: "slot".to_owned(), detail });
        }
        let mut dropped = 0;
        for table in FORGOTTEN_TABLES {
            for (key, _) in tables.prefix(&keys::of_slot(self.slot, table), PURGE_ROWS_MAX / 2) {
                // ids sort by tick: the first one that lives ends the walk
                if !keys::upload_in(&key).is_some_and(|upload| expired(&upload, &context.clock)) {
                    break;
                }
                tables.delete(key);
                dropped += 1;
            }
        }
        Ok(Reply::Purged(dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::testing::{World, upload};

    const PAIR: (NodeId, Option<NodeId>) = (NodeId(1), Some(NodeId(2)));
    const NEXT: (NodeId, Option<NodeId>) = (NodeId(2), Some(NodeId(3)));

    fn take(epoch: u32, before: (NodeId, Option<NodeId>), after: (NodeId, Option<NodeId>)) -> TakeUpload {
        TakeUpload { upload: upload(1), epoch, before, after }
    }

    fn finish(epoch: u32, bytes: &[u8]) -> FinishUpload {
        FinishUpload { upload: upload(1), epoch, digest: Digest::sha256(bytes), holders: PAIR }
    }

    fn close() -> CloseUpload {
        CloseUpload { upload: upload(1), holders: PAIR, deduplicated: None }
    }

    // A takeover is a compare-and-set that keeps one holder; the older epoch can do nothing any more.
    #[test]
    fn takeovers() {
        let mut world = World::cluster();
        let strangers = (NodeId(3), Some(NodeId(4)));
        assert_eq!(world.refused(take(1, PAIR, strangers)), Refusal::UploadUnknown);
        assert!(matches!(world.refused(take(1, PAIR, (NodeId(1), Some(NodeId(1))))), Refusal::UploadInvalid { .. }));
        assert_eq!(world.refused(take(2, PAIR, NEXT)), Refusal::StaleEpoch { current: 1 });
        assert_eq!(world.ok(take(1, PAIR, NEXT)), Reply::Epoch(2));
        assert_eq!(world.refused(take(1, PAIR, NEXT)), Refusal::StaleEpoch { current: 2 });
        assert_eq!(world.refused(take(2, PAIR, NEXT)), Refusal::StaleEpoch { current: 2 });
        assert_eq!(world.refused(finish(1, b"x")), Refusal::StaleEpoch { current: 2 });
        assert_eq!(world.ok(finish(2, b"x")), Reply::Done);
        let row = read(&world.tables, &upload(1)).unwrap();
        assert_eq!((row.epoch, row.primary, row.backup), (2, NEXT.0, NEXT.1));
        assert_eq!(world.refused(take(2, NEXT, PAIR)), Refusal::UploadUnknown);
    }

    // B3: of a finish and a close one wins, whichever comes first; a repeat of the winner succeeds.
    #[test]
    fn finish_or_close() {
        let mut world = World::cluster();
        assert_eq!(world.refused(finish(2, b"x")), Refusal::StaleEpoch { current: 1 });
        assert_eq!(world.ok(finish(1, b"x")), Reply::Done);
        assert_eq!(world.ok(finish(1, b"x")), Reply::Unchanged);
        assert_eq!(world.refused(finish(1, b"y")), Refusal::UploadUnknown);
        assert_eq!(world.refused(close()), Refusal::UploadUnknown);

        let mut world = World::cluster();
        assert_eq!(world.ok(close()), Reply::Done);
        assert_eq!(world.ok(close()), Reply::Unchanged);
        assert_eq!(world.refused(finish(1, b"x")), Refusal::UploadUnknown);
        assert_eq!(world.refused(take(1, PAIR, NEXT)), Refusal::UploadUnknown);
    }

    // Expiry goes by ticks alone, and what is over by age is neither taken, finished nor written down.
    #[test]
    fn expiry() {
        let clock = |tick| ClockRow { now_ms: 0, tick, tick_ms: 3_600_000 };
        for (tick, is_over) in [(0, false), (48, false), (49, true), (1000, true)] {
            assert_eq!(expired(&upload(1), &clock(tick)), is_over, "{tick}");
        }
        let ahead = UploadId { tick: 100, random: 1 };
        assert!(!expired(&ahead, &clock(7)));
        let short = ClockRow { now_ms: 0, tick: 2, tick_ms: u64::MAX };
        assert!(!expired(&upload(1), &short), "an upload lives for two ticks at least");
    }
}
