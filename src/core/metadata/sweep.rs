//! Records that nobody uses: condemned, then after a grace time swept, so that their files may go.
//!
//! `AddUse` and `CommitBlob` revive a condemned record inside their own apply: the files are still there. A sweep
//! closes the generation, after which no command can name its files again; only then may a node delete them
//! ([`fate`]). Both commands travel in bulk, so neither refuses. Source: consensus-and-faults §5.5.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob::{self, BlobRow, BlobState};
use super::clock::{self, ClockRow};
use super::codec;
use super::command::{Apply, Command};
use super::idle::{self, Found};
use super::keys::{self, Slot, table};
use super::need;
use super::replica::{self, FenceRow};
use super::reply::Reply;
use super::tables::{Tables, TablesRead, after_prefix};
use super::upload::{self, UploadRow, UploadState};
use crate::mutants::{self, Mutant};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{StoreId, UploadId};
use crate::vocabulary::refusal::Refusal;

/// Whether any repository uses a record.
pub fn is_used(tables: &impl TablesRead, digest: &Digest) -> bool {
    !mutants::is_on(Mutant::CollectUsed) && tables.any(&keys::blob_uses(digest))
}

/// Records and their bytes, as a walk has counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Records that are not condemned, and the bytes of one copy of each.
    pub records: u64,
    /// See `records`.
    pub bytes: u64,
    /// Those of them that nobody uses.
    pub unused: u64,
    /// See `unused`.
    pub unused_bytes: u64,
}

/// Those of some records, given in the order of their keys, that any repository uses.
fn used_among(tables: &impl TablesRead, records: &[Digest]) -> BTreeSet<Digest> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return BTreeSet::new() };
    if mutants::is_on(Mutant::CollectUsed) {
        return BTreeSet::new();
    }
    let behind = |digest: &Digest| after_prefix(&keys::blob_uses(digest));
    let of = |key: &[u8]| Some(keys::blob_use_in(key).expect("a use's key names its blob").0);
    idle::told_between(tables, keys::blob_uses(first), &behind(last), of, behind)
}

/// Walks up to `limit` records of a slot behind `after`; `each` is told too whether any repository uses it.
fn walk(
    tables: &impl TablesRead,
    slot: Slot,
    after: Option<&[u8]>,
    limit: usize,
    mut each: impl FnMut(Digest, BlobRow, bool) -> Option<Command>,
) -> Found {
    let rows = idle::page(tables, &keys::blobs(slot), after, limit);
    let digest_in = |key: &[u8]| keys::blob_in(key).expect("a blob key ends with a digest");
    let digests: Vec<Digest> = rows.iter().map(|(key, _)| digest_in(key)).collect();
    let used = used_among(tables, &digests);
    let records = digests.into_iter().zip(&rows);
    let commands = records.filter_map(|(digest, (_, row))| each(digest, codec::row(row), used.contains(&digest)));
    idle::found(&rows, limit, commands.collect())
}

/// Counts up to `limit` records of a slot behind `after`; nothing is proposed.
pub fn survey(tables: &impl TablesRead, slot: Slot, after: Option<&[u8]>, limit: usize, into: &mut Survey) -> Found {
    walk(tables, slot, after, limit, |_, row, is_used| {
        if row.state == BlobState::Present {
            into.records += 1;
            into.bytes += row.size_bytes;
            if !is_used {
                into.unused += 1;
                into.unused_bytes += row.size_bytes;
            }
        }
        None
    })
}

/// Records of a slot that can be condemned, as many as `allowed_bytes` lets through, and those that can be swept.
/// Answers too the bytes of those that it did not let through.
pub fn due(
    tables: &impl TablesRead,
    slot: Slot,
    clock: &ClockRow,
    after: Option<&[u8]>,
    limit: usize,
    allowed_bytes: &mut u64,
) -> (Found, u64) {
    let mut held_bytes = 0;
    let found = walk(tables, slot, after, limit, |digest, row, is_used| {
        let BlobRow { state, generation, size_bytes, .. } = row;
        match state {
            BlobState::Condemned(since) => {
                clock.is_past_grace(since).then(|| Sweep { digest, generation, size_bytes }.into())
            }
            BlobState::Present if is_used => None,
            BlobState::Present => match allowed_bytes.checked_sub(size_bytes) {
                Some(left) => {
                    *allowed_bytes = left;
                    Some(Condemn { digest, generation, size_bytes }.into())
                }
                None => {
                    held_bytes += size_bytes;
                    None
                }
            },
        }
    });
    (found, held_bytes)
}

/// Nobody uses a record: it is kept for a grace time, in which a new use revives it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Condemn {
    /// Which blob.
    pub digest: Digest,
    /// The generation that the proposer saw.
    pub generation: UploadId,
    /// Its size, for who counts what went; decides nothing.
    pub size_bytes: u64,
}

impl Apply for Condemn {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(row) = blob::read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        let is_same = row.generation == self.generation && row.state == BlobState::Present;
        if !is_same || is_used(tables, &self.digest) {
            return Ok(Reply::Unchanged);
        }
        let state = BlobState::Condemned(context.clock.tick);
        blob::put(tables, &self.digest, &BlobRow { state, ..row });
        Ok(Reply::Done)
    }
}

/// A condemned record was not used again for a grace time: it goes, and its files may.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sweep {
    /// Which blob.
    pub digest: Digest,
    /// The generation that the proposer saw.
    pub generation: UploadId,
    /// Its size, for who counts what went; decides nothing.
    pub size_bytes: u64,
}

impl Apply for Sweep {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(row) = blob::read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        let is_over = matches!(row.state, BlobState::Condemned(since) if context.clock.is_past_grace(since));
        if row.generation != self.generation || !is_over || is_used(tables, &self.digest) {
            return Ok(Reply::Unchanged);
        }
        tables.delete(keys::blob(&self.digest));
        need::forget(tables, &self.digest);
        replica::forget(tables, &self.digest);
        blob::close(tables, &self.digest, &self.generation, context.clock.tick);
        Ok(Reply::Done)
    }
}

/// What may become of a file, by a state that was read after a round to the leader that began while the digest was
/// locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The state names it.
    Named,
    /// The record names other volumes for these bytes: an extra copy, which a confirmation under way may still name.
    Extra,
    /// No record names these bytes, but a commit under way still may.
    Pending,
    /// No command can name it again; it was told so, by a sweep, a replacement or an end without use.
    Closed,
    /// No command can name it again, because its upload is over by age; why it is here nobody remembers.
    Expired,
}

/// What may become of the file of a generation on a volume.
pub fn fate(tables: &impl TablesRead, digest: &Digest, generation: &UploadId, store: StoreId) -> Fate {
    if let Some(row) = blob::read(tables, digest).filter(|row| row.generation == *generation) {
        return if row.stores.contains(&store) { Fate::Named } else { Fate::Extra };
    }
    match blob::generation_over(tables, digest, generation) {
        false if mutants::is_on(Mutant::DeletePending) => Fate::Closed,
        false => Fate::Pending,
        true if is_closed(tables, digest, generation) => Fate::Closed,
        true => Fate::Expired,
    }
}

fn is_closed(tables: &impl TablesRead, digest: &Digest, generation: &UploadId) -> bool {
    // an unexpired one that is over was closed by a row; of an expired one the row may still be there
    !upload::expired(generation, &clock::read(tables)) || tables.contains(&keys::closed_generation(digest, generation))
}

/// The file that a written row lets go, if it does: who is told of it looks whether it has that file.
pub fn freed_by(key: &[u8], value: &[u8]) -> Option<(Digest, UploadId)> {
    match keys::place(key)? {
        (_, table::CLOSED_GENERATION) => {
            keys::closed_generation_in(key).map(|(generation, digest)| (digest, generation))
        }
        (_, table::FENCE) => Some((keys::fence_in(key)?.0, codec::decode::<FenceRow>(value).ok()?.generation)),
        (_, table::UPLOAD) => match codec::decode::<UploadRow>(value).ok()?.state {
            UploadState::Deduplicated(digest) => Some((digest, keys::upload_in(key)?)),
            UploadState::Open | UploadState::Finishing(_) | UploadState::Closed => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob::{AddUse, ConfirmReplica, DropUse};
    use crate::metadata::link::Unlink;
    use crate::metadata::node::{NodeState, SetNodeState};
    use crate::metadata::repository::RepositoryKey;
    use crate::metadata::testing::{World, mount, push, push_parts, upload};
    use crate::vocabulary::ids::{NodeId, RepositoryId, UseId};
    use crate::vocabulary::limits::TICKS_PER_GRACE;

    const SIZE: u64 = 5;

    fn digest() -> Digest {
        Digest::sha256(b"layer")
    }

    // A page says of each record what is said of it alone, also behind one with more uses than are read at once.
    #[test]
    fn a_page_knows_who_is_used() {
        let (mut world, _) = world();
        let slot = keys::digest_slot(&digest());
        let mut records: Vec<Digest> = (0..60_000u32)
            .map(|number| Digest::sha256(&number.to_be_bytes()))
            .filter(|digest| keys::digest_slot(digest) == slot)
            .collect();
        records.sort_unstable_by_key(keys::blob_uses);
        assert!(records.len() > 20, "too few for a test");
        for (at, digest) in records.iter().enumerate() {
            let uses = if at == 7 { 2 * idle::ROWS_PER_JOIN + 1 } else { usize::from(at % 3 == 0) };
            for number in 0..uses as u64 {
                let key = keys::blob_use(digest, RepositoryId(u128::from(number)), UseId(number));
                world.tables.put(key, Vec::new());
            }
        }
        let used = used_among(&world.tables, &records);
        assert!(records.iter().all(|digest| used.contains(digest) == is_used(&world.tables, digest)));
        assert!(used.len() > 7 && used.len() < records.len());
        assert!(used_among(&world.tables, &[]).is_empty());
    }

    fn world() -> (World, RepositoryKey) {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("r", 1, Default::default());
        world.push_blob(&repository, b"layer", 1, &[1, 2]);
        (world, repository)
    }

    fn free(world: &mut World, repository: &RepositoryKey, hold: u64) {
        let (repository, digest, hold) = (repository.clone(), digest(), UseId(hold));
        let unlink = Unlink { repository: repository.clone(), digest, hold };
        let outcome = world.propose(vec![unlink.into(), DropUse { digest, repository, hold }.into()]);
        assert_eq!(outcome.refusal, None);
    }

    fn condemn(number: u64) -> Condemn {
        Condemn { digest: digest(), generation: upload(number), size_bytes: SIZE }
    }

    fn sweep(number: u64) -> Sweep {
        Sweep { digest: digest(), generation: upload(number), size_bytes: SIZE }
    }

    fn fate_on(world: &World, number: u64, store: u64) -> Fate {
        fate(&world.tables, &digest(), &upload(number), StoreId(store))
    }

    fn found(world: &World, allowed: u64) -> (Vec<Command>, u64) {
        let mut allowed = allowed;
        let clock = clock::read(&world.tables);
        let (found, held) = due(&world.tables, keys::digest_slot(&digest()), &clock, None, 9, &mut allowed);
        (found.commands, held)
    }

    // Used, unused, condemned, a grace time later swept: each step only when its time has come, and the files are
    // nobody's only at the end.
    #[test]
    fn the_way_out() {
        let (mut world, repository) = world();
        assert_eq!(found(&world, 100), (vec![], 0));
        assert_eq!(world.ok(condemn(1)), Reply::Unchanged, "it is used");
        free(&mut world, &repository, 1);
        assert_eq!(found(&world, SIZE - 1), (vec![], SIZE), "the fuse holds it");
        assert_eq!(found(&world, SIZE), (vec![condemn(1).into()], 0));
        assert_eq!(world.ok(condemn(7)), Reply::Unchanged, "another generation");
        assert_eq!(world.ok(sweep(1)), Reply::Unchanged, "not condemned");
        assert_eq!(world.ok(condemn(1)), Reply::Done);
        assert_eq!(world.ok(condemn(1)), Reply::Unchanged);
        world.pass(TICKS_PER_GRACE);
        assert_eq!(found(&world, 0), (vec![], 0));
        assert_eq!(world.ok(sweep(1)), Reply::Unchanged, "too early");
        world.pass(1);
        assert_eq!(found(&world, 0), (vec![sweep(1).into()], 0));
        assert_eq!((fate_on(&world, 1, 1), fate_on(&world, 1, 3)), (Fate::Named, Fate::Extra));
        assert_eq!(world.ok(sweep(7)), Reply::Unchanged, "another generation");
        assert_eq!(world.ok(sweep(1)), Reply::Done);
        assert_eq!(world.ok(sweep(1)), Reply::Unchanged);
        assert_eq!(blob::read(&world.tables, &digest()), None);
        assert_eq!((fate_on(&world, 1, 1), fate_on(&world, 2, 1)), (Fate::Closed, Fate::Pending));
    }

    // G1: whoever comes before the sweep revives the record; whoever comes after it pushes again.
    #[test]
    fn a_new_use_revives() {
        let (mut world, repository) = world();
        for hold in 1..4 {
            free(&mut world, &repository, if hold == 1 { 1 } else { hold + 10 });
            assert_eq!(world.ok(condemn(1)), Reply::Done);
            world.pass(20);
            let revived = match hold {
                1 => world.propose(mount(&repository, b"layer", 12)),
                2 => world.propose(push(&repository, b"layer", 13, &[2, 3])),
                _ => break,
            };
            assert_eq!(revived.refusal, None);
            assert_eq!(blob::read(&world.tables, &digest()).unwrap().state, BlobState::Present);
            assert_eq!(world.ok(sweep(1)), Reply::Unchanged, "the sweep comes late");
        }
        world.ok(sweep(1));
        let add = AddUse { digest: digest(), size_bytes: SIZE, repository: repository.clone(), hold: UseId(20) };
        assert_eq!(world.refused(add), Refusal::BlobUnknown { digest: digest() });
    }

    // G8: what was swept can be pushed again at once, under a generation of its own; late commands of the old life
    // touch neither the new record nor bring the old files back.
    #[test]
    fn g8_pushed_again_at_once() {
        let (mut world, repository) = world();
        free(&mut world, &repository, 1);
        world.ok(condemn(1));
        world.pass(9);
        world.ok(sweep(1));
        let (_, late, _) = push_parts(&repository, b"layer", 1, &[1, 2]);
        assert_eq!(world.refused(late), Refusal::UploadUnknown);
        assert_eq!(world.propose(push(&repository, b"layer", 2, &[1, 3])).refusal, None);
        let late = ConfirmReplica { digest: digest(), generation: upload(1), store: StoreId(1) };
        assert_eq!(world.ok(late), Reply::Unchanged);
        assert_eq!((world.ok(condemn(1)), world.ok(sweep(1))), (Reply::Unchanged, Reply::Unchanged));
        assert_eq!(blob::read(&world.tables, &digest()).unwrap().generation, upload(2));
        assert_eq!((fate_on(&world, 1, 1), fate_on(&world, 2, 1)), (Fate::Closed, Fate::Named));
        let closed = keys::closed_generation(&digest(), &upload(1));
        assert_eq!(freed_by(&closed, &[]), Some((digest(), upload(1))));
    }

    // A sweep leaves nothing of the digest but the closed generation: needs of zones that are gone go as well.
    #[test]
    fn nothing_is_left() {
        let (mut world, repository) = world();
        world.add_node(4, "d");
        world.ok(SetNodeState { node: NodeId(3), state: NodeState::Removed });
        let slot = keys::digest_slot(&digest());
        let needing = |world: &World| -> usize {
            ["a", "b", "c", "d"].iter().map(|zone| need::needs(&world.tables, slot, zone, 9).len()).sum()
        };
        assert!(needing(&world) > 0);
        free(&mut world, &repository, 1);
        world.ok(condemn(1));
        world.pass(9);
        world.ok(sweep(1));
        assert_eq!(needing(&world), 0);
    }

    // A survey counts what is kept and what nobody uses, page by page; the condemned are no part of either.
    #[test]
    fn surveys_count() {
        let (mut world, repository) = world();
        let count = |world: &World| {
            let mut survey = Survey::default();
            for slot in 0..keys::SLOTS {
                let mut after = None;
                loop {
                    let found = super::survey(&world.tables, slot, after.as_deref(), 1, &mut survey);
                    assert_eq!(found.commands, []);
                    let Some(next) = found.next else { break };
                    after = Some(next);
                }
            }
            survey
        };
        world.push_blob(&repository, b"other", 5, &[1, 2]);
        assert_eq!(count(&world), Survey { records: 2, bytes: 10, unused: 0, unused_bytes: 0 });
        free(&mut world, &repository, 1);
        assert_eq!(count(&world), Survey { records: 2, bytes: 10, unused: 1, unused_bytes: 5 });
        world.ok(condemn(1));
        assert_eq!(count(&world), Survey { records: 1, bytes: 5, unused: 0, unused_bytes: 0 });
    }
}
