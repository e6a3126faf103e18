//! Blob records: which generation of which bytes lies on which volumes, and which repositories use it.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, SLOTS, Slot};
use super::need;
use super::node;
use super::replica;
use super::reply::Reply;
use super::repository::RepositoryKey;
use super::tables::{Tables, TablesRead};
use super::upload;
use crate::decide::placement::{Topology, write_rule};
use crate::mutants::{self, Mutant};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RepositoryId, StoreId, UploadId, UseId};
use crate::vocabulary::limits::BLOB_BYTES_MAX;
use crate::vocabulary::refusal::Refusal;

/// Whether a record's bytes are on their way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum BlobState {
    /// Somebody uses it.
    Present,
    /// Nobody has used it since this tick; a new use revives it.
    Condemned(u64),
}

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlobRow {
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The upload whose bytes these are; part of the files' names.
    pub generation: UploadId,
    /// The volumes with a confirmed copy.
    pub stores: Vec<StoreId>,
    /// Whether its bytes are on their way out.
    pub state: BlobState,
    /// When it was committed, replicated milliseconds since 1970.
    pub committed_at_ms: u64,
}

impl Stored for BlobRow {}

/// A repository's use of a record: the name under which to find the repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct UseRow {
    pub(crate) repository: RepositoryKey,
}

impl Stored for UseRow {}

/// When a generation was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ClosedRow {
    at_tick: u64,
}

impl Stored for ClosedRow {}

/// Up to `limit` repositories that use a record; some may have been deleted meanwhile.
pub fn users(tables: &impl TablesRead, digest: &Digest, limit: usize) -> Vec<RepositoryKey> {
    let rows = tables.prefix(&keys::blob_uses(digest), limit);
    let mut users: Vec<RepositoryKey> = rows.iter().map(|(_, value)| codec::row::<UseRow>(value).repository).collect();
    // a repository may have several uses for a while: they stand side by side
    users.dedup_by_key(|repository| repository.id);
    users
}

/// Whether a repository has this use of a record.
pub fn is_used(tables: &impl TablesRead, digest: &Digest, repository: RepositoryId, hold: UseId) -> bool {
    tables.contains(&keys::blob_use(digest, repository, hold))
}

pub use super::need::needs;

/// Reads a record.
pub fn read(tables: &impl TablesRead, digest: &Digest) -> Option<BlobRow> {
    tables.get(&keys::blob(digest)).map(|bytes| codec::row(&bytes))
}

/// Up to `limit` records of a slot after `after`, in digest order.
pub fn list(tables: &impl TablesRead, slot: Slot, after: Option<&Digest>, limit: usize) -> Vec<(Digest, BlobRow)> {
    let prefix = keys::blobs(slot);
    let from = match after {
        Some(after) => [&prefix[..], &after.key_bytes(), &[0]].concat(),
        None => prefix.clone(),
    };
    let digest = |key: &[u8]| keys::blob_in(key).expect("a blob key ends with a digest");
    let rows = tables.range(&from, &super::tables::after_prefix(&prefix), limit);
    rows.iter().map(|(key, value)| (digest(key), codec::row(value))).collect()
}

/// Where a walk over all records has come to. Holds no tables: they may be written between two pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The slot.
    pub slot: Slot,
    /// The last record of it that was looked at.
    pub after: Option<Digest>,
}

impl Cursor {
    /// Behind the last record looked at; without one the slot is done, and the next one begins.
    pub fn behind(self, last: Option<Digest>) -> Cursor {
        match last {
            Some(digest) => Cursor { after: Some(digest), ..self },
            None => Cursor { slot: self.slot + 1, after: None },
        }
    }

    /// Whether no slot is left.
    pub fn is_over(&self) -> bool {
        self.slot >= SLOTS
    }

    /// Up to `limit` records from here on, all of one slot; the cursor stands behind them then.
    pub fn page(&mut self, tables: &impl TablesRead, limit: usize) -> Vec<(Digest, BlobRow)> {
        let page = list(tables, self.slot, self.after.as_ref(), limit);
        *self = self.behind(page.last().filter(|_| page.len() == limit).map(|(digest, _)| *digest));
        page
    }
}

/// Whether files of this generation of `digest` may go: no command will ever name them again.
///
/// The second half of the rule of consensus-and-faults §5.5; the first is that the record does not name the volume.
pub fn generation_over(tables: &impl TablesRead, digest: &Digest, generation: &UploadId) -> bool {
    let clock = super::clock::read(tables);
    upload::expired(generation, &clock)
        || tables.contains(&keys::closed_generation(digest, generation))
        || upload::read(tables, generation).is_some_and(|row| match row.state {
            upload::UploadState::Closed | upload::UploadState::Deduplicated(_) => true,
            upload::UploadState::Finishing(other) => other != *digest,
            upload::UploadState::Open => false,
        })
}

pub(super) fn put(tables: &mut impl Tables, digest: &Digest, row: &BlobRow) {
    tables.put(keys::blob(digest), codec::encode(row));
}

/// Whether copies on these volumes are what 201 needs now; those that are not registered any more don't count.
fn is_durable(topology: &Topology, stores: &[StoreId]) -> bool {
    let known: Vec<StoreId> = stores.iter().copied().filter(|store| topology.store(*store).is_some()).collect();
    write_rule(topology).check(topology, &known).is_ok()
}

fn add_use(tables: &mut impl Tables, digest: &Digest, repository: RepositoryKey, hold: UseId) {
    tables.put(keys::blob_use(digest, repository.id, hold), codec::encode(&UseRow { repository }));
}

/// No command may name this generation of the digest any more.
pub(super) fn close(tables: &mut impl Tables, digest: &Digest, generation: &UploadId, tick: u64) {
    tables.put(keys::closed_generation(digest, generation), codec::encode(&ClosedRow { at_tick: tick }));
}

/// The bytes of an upload are durable on these volumes: they become the blob, and the repository uses it.
///
/// If the digest is here already and durable, its record stays unless `replace`; the files of the loser are closed. A
/// record whose copies are too few gives way: fresh bytes that could heal it are never thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CommitBlob {
    /// What the bytes hash to.
    pub digest: Digest,
    /// Their size.
    pub size_bytes: u64,
    /// The upload; the generation in the files' names.
    pub upload: UploadId,
    /// The volumes that have sealed, verified and synced them.
    pub stores: Vec<StoreId>,
    /// Who will link it.
    pub repository: RepositoryKey,
    /// Its use of the record.
    pub hold: UseId,
    /// The copies of the present record could not be confirmed: these take their place.
    pub replace: bool,
}

impl CommitBlob {
    /// Its files may be gone: all it can do is repeat how it ended, that the repository uses what took their place.
    fn closed<T: Tables>(self, tables: &mut T, present: Option<BlobRow>) -> Result<Reply, Refusal> {
        match present {
            Some(row) if !self.replace && !row.stores.is_empty() => Ok(self.join(tables, row)),
            Some(_) | None => Err(Refusal::UploadUnknown),
        }
    }

    /// Uses the record that is there.
    fn join<T: Tables>(self, tables: &mut T, mut row: BlobRow) -> Reply {
        if row.state != BlobState::Present {
            row.state = BlobState::Present;
            put(tables, &self.digest, &row);
        }
        add_use(tables, &self.digest, self.repository, self.hold);
        Reply::Blob { generation: row.generation }
    }

    /// It was committed before. Copies confirmed now count if those on record are too few.
    fn repeat<T: Tables>(self, tables: &mut T, tick: u64, topology: &Topology, mut row: BlobRow) -> Reply {
        if !is_durable(topology, &row.stores) {
            // what was fenced since then may have lost its file
            let is_whole = |store: &StoreId| replica::fence(tables, &self.digest, &self.upload, *store) == 0;
            let is_here = |store: &StoreId| topology.store(*store).is_some() && is_whole(store);
            let confirmed: Vec<StoreId> = self.stores.iter().copied().filter(is_here).collect();
            row.stores.extend(confirmed);
            row.stores.sort_unstable();
            row.stores.dedup();
            put(tables, &self.digest, &row);
            need::note(tables, topology, &self.digest, &row.stores, tick);
        }
        self.join(tables, row)
    }
}

impl Apply for CommitBlob {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let (digest, tick) = (self.digest, context.clock.tick);
        if upload::expired(&self.upload, &context.clock) {
            return Err(Refusal::UploadUnknown);
        }
        if self.size_bytes > BLOB_BYTES_MAX {
            return Err(Refusal::BlobTooLarge { allowed: BLOB_BYTES_MAX });
        }
        let present = read(tables, &digest);
        if let Some(row) = present.as_ref().filter(|row| row.size_bytes != self.size_bytes) {
            let (stored_bytes, claimed_bytes) = (row.size_bytes, self.size_bytes);
            return Err(Refusal::SizeMismatch { digest, stored_bytes, claimed_bytes });
        }
        if tables.contains(&keys::closed_generation(&digest, &self.upload)) {
            return self.closed(tables, present);
        }
        let topology = node::topology(tables);
        let replaced = match present {
            Some(row) if row.generation == self.upload => return Ok(self.repeat(tables, tick, &topology, row)),
            Some(row) if !self.replace && is_durable(&topology, &row.stores) => {
                close(tables, &digest, &self.upload, tick);
                return Ok(self.join(tables, row));
            }
            Some(row) => Some(row.generation),
            None => None,
        };
        write_rule(&topology).check(&topology, &self.stores)?;
        if let Some(generation) = replaced {
            close(tables, &digest, &generation, tick);
        }
        let mut stores = self.stores.clone();
        stores.sort_unstable();
        stores.dedup();
        let row = BlobRow {
            size_bytes: self.size_bytes,
            generation: self.upload,
            stores,
            state: BlobState::Present,
            committed_at_ms: context.clock.now_ms,
        };
        put(tables, &digest, &row);
        need::note(tables, &topology, &digest, &row.stores, tick);
        add_use(tables, &digest, self.repository, self.hold);
        Ok(Reply::Blob { generation: self.upload })
    }
}

/// A repository begins to use a record that is here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AddUse {
    /// Which blob.
    pub digest: Digest,
    /// Its size as the caller knows it, bytes.
    pub size_bytes: u64,
    /// Who will link it.
    pub repository: RepositoryKey,
    /// Its use of the record.
    pub hold: UseId,
}

impl Apply for AddUse {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        // a record without a copy is lost: a push heals it, a mount would only spread the loss
        let usable = |row: &BlobRow| row.size_bytes == self.size_bytes && !row.stores.is_empty();
        let Some(mut row) = read(tables, &self.digest).filter(usable) else {
            return Err(Refusal::BlobUnknown { digest: self.digest });
        };
        if row.state != BlobState::Present {
            row.state = BlobState::Present;
            put(tables, &self.digest, &row);
        }
        add_use(tables, &self.digest, self.repository, self.hold);
        Ok(Reply::Blob { generation: row.generation })
    }
}

/// No link of the repository stands on this use any more: it goes. Every push has a use of its own, so this undoes no
/// other one. Proposed only after [`Unlink`](super::link::Unlink), or another [`Link`](super::link::Link) in its place,
/// or the repository's delete has been applied: those fence the use.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropUse {
    /// Which blob.
    pub digest: Digest,
    /// Who linked it.
    pub repository: RepositoryKey,
    /// The use that the link stood on.
    pub hold: UseId,
}

impl Apply for DropUse {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let key = keys::blob_use(&self.digest, self.repository.id, self.hold);
        if mutants::is_on(Mutant::SkipUse) {
            let uses = tables.prefix(&keys::blob_uses(&self.digest), 99);
            let is_theirs = |value: &[u8]| codec::row::<UseRow>(value).repository.id == self.repository.id;
            uses.into_iter().filter(|(_, value)| is_theirs(value)).for_each(|(key, _)| tables.delete(key));
            return Ok(Reply::Done);
        }
        if !tables.contains(&key) {
            return Ok(Reply::Unchanged);
        }
        tables.delete(key);
        Ok(Reply::Done)
    }
}

/// A volume has placed, verified and synced a copy. Never refuses: many travel in one envelope.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfirmReplica {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// Where it lies.
    pub store: StoreId,
}

impl Apply for ConfirmReplica {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let ConfirmReplica { digest, generation, store } = self;
        Ok(confirm(tables, context, digest, generation, store, 0))
    }
}

/// Puts a copy on record, unless it was let go since the one who confirms it looked at `fence`.
pub(super) fn confirm<T: Tables>(
    tables: &mut T,
    context: &Context<'_>,
    digest: Digest,
    generation: UploadId,
    store: StoreId,
    fence: u64,
) -> Reply {
    let topology = node::topology(tables);
    let Some(mut row) = read(tables, &digest) else { return Reply::Unchanged };
    if row.generation != generation || topology.zone_of(store).is_none() {
        return Reply::Unchanged;
    }
    if let Err(at) = row.stores.binary_search(&store) {
        if replica::fence(tables, &digest, &generation, store) != fence {
            return Reply::Unchanged;
        }
        row.stores.insert(at, store);
        put(tables, &digest, &row);
    }
    need::note(tables, &topology, &digest, &row.stores, context.clock.tick);
    Reply::Done
}

/// A volume has found its copy missing or bad. Never refuses.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnconfirmReplica {
    /// Which blob.
    pub digest: Digest,
    /// The generation of the copy.
    pub generation: UploadId,
    /// Where it lay.
    pub store: StoreId,
}

impl Apply for UnconfirmReplica {
    fn slot(&self) -> Slot {
        keys::digest_slot(&self.digest)
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(mut row) = read(tables, &self.digest) else { return Ok(Reply::Unchanged) };
        if row.generation != self.generation || !row.stores.contains(&self.store) {
            return Ok(Reply::Unchanged);
        }
        row.stores.retain(|store| *store != self.store);
        put(tables, &self.digest, &row);
        let topology = node::topology(tables);
        need::note(tables, &topology, &self.digest, &row.stores, context.clock.tick);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::link::{Link, Unlink};
    use crate::metadata::testing::{World, mount, push_parts, upload};

    fn digest() -> Digest {
        Digest::sha256(b"layer")
    }

    /// Only the commit out of a push.
    fn commit(repository: &RepositoryKey, number: u64, stores: &[u64], replace: bool) -> CommitBlob {
        let (_, commit, _) = push_parts(repository, b"layer", number, stores);
        CommitBlob { replace, ..commit }
    }

    fn world() -> (World, RepositoryKey) {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("r", 1, Default::default());
        (world, repository)
    }

    fn reply(number: u64) -> Reply {
        Reply::Blob { generation: upload(number) }
    }

    // A commit needs registered stores in enough zones, and leaves nothing if it is refused.
    #[test]
    fn commits_are_durable_or_refused() {
        let (mut world, repository) = world();
        world.add_node(4, "a");
        for stores in [&[][..], &[1], &[1, 4], &[1, 9]] {
            let refusal = world.refused(commit(&repository, 1, stores, false));
            assert!(matches!(refusal, Refusal::PlacementInvalid { .. } | Refusal::StoreUnknown { .. }), "{refusal:?}");
            assert_eq!(read(&world.tables, &digest()), None);
            assert_eq!(users(&world.tables, &digest(), 9), []);
        }
        world.ok(commit(&repository, 1, &[2, 1, 2], false));
        assert_eq!(read(&world.tables, &digest()).unwrap().stores, [StoreId(1), StoreId(2)]);
        let huge = CommitBlob { size_bytes: BLOB_BYTES_MAX + 1, ..commit(&repository, 2, &[1, 2], false) };
        assert!(matches!(world.refused(huge), Refusal::BlobTooLarge { .. }));
        let longer = CommitBlob { size_bytes: 6, ..commit(&repository, 2, &[1, 2], true) };
        assert!(matches!(world.refused(longer), Refusal::SizeMismatch { stored_bytes: 5, claimed_bytes: 6, .. }));
    }

    // Of two pushes of the same bytes one record stays; the other's files are closed, and its repeated commit answers
    // the same (B3), but can't bring its files back.
    #[test]
    fn the_second_push_joins() {
        let (mut world, repository) = world();
        assert_eq!(world.ok(commit(&repository, 1, &[1, 2], false)), reply(1));
        assert_eq!(world.ok(commit(&repository, 1, &[1, 2], false)), reply(1));
        for _ in 0..2 {
            assert_eq!(world.ok(commit(&repository, 2, &[2, 3], false)), reply(1));
        }
        assert!(generation_over(&world.tables, &digest(), &upload(2)));
        assert!(!generation_over(&world.tables, &digest(), &upload(1)));
        assert_eq!(world.refused(commit(&repository, 2, &[2, 3], true)), Refusal::UploadUnknown);
        assert_eq!(users(&world.tables, &digest(), 9).len(), 1);
    }

    // A replacement closes the old generation for good: its late confirmations and its repeated commit change nothing.
    #[test]
    fn a_replacement_closes() {
        let (mut world, repository) = world();
        world.ok(commit(&repository, 1, &[1, 2], false));
        assert_eq!(world.ok(commit(&repository, 2, &[2, 3], true)), reply(2));
        assert!(generation_over(&world.tables, &digest(), &upload(1)));
        let late = ConfirmReplica { digest: digest(), generation: upload(1), store: StoreId(1) };
        assert_eq!(world.ok(late), Reply::Unchanged);
        assert_eq!(world.ok(commit(&repository, 1, &[1, 2], false)), reply(2));
        assert_eq!(read(&world.tables, &digest()).unwrap().stores, [StoreId(2), StoreId(3)]);
    }

    // B6: bytes that could heal a record with too few copies take its place, also if nobody asked for that.
    #[test]
    fn a_push_heals() {
        let (mut world, repository) = world();
        world.ok(commit(&repository, 1, &[1, 2], false));
        for store in [1, 2] {
            world.ok(UnconfirmReplica { digest: digest(), generation: upload(1), store: StoreId(store) });
        }
        assert_eq!(
            world.propose(mount(&repository, b"layer", 7)).refusal,
            Some(Refusal::BlobUnknown { digest: digest() })
        );
        assert_eq!(world.ok(commit(&repository, 2, &[1, 3], false)), reply(2));
        for store in [1, 3] {
            world.ok(UnconfirmReplica { digest: digest(), generation: upload(2), store: StoreId(store) });
        }
        assert_eq!(world.ok(commit(&repository, 2, &[1, 3], false)), reply(2));
        assert_eq!(read(&world.tables, &digest()).unwrap().stores, [StoreId(1), StoreId(3)]);
    }

    // No commit of an expired upload succeeds, and nothing is remembered of it later.
    #[test]
    fn expired_uploads_commit_nothing() {
        let (mut world, repository) = world();
        world.ok(commit(&repository, 1, &[1, 2], false));
        world.ok(commit(&repository, 2, &[1, 2], false));
        let mut clock = super::super::clock::read(&world.tables);
        let mut ticks = 0;
        while !upload::expired(&upload(2), &clock) {
            clock.tick += 1;
            ticks += 1;
        }
        assert!(ticks * clock.tick_ms > crate::vocabulary::limits::UPLOAD_LIFETIME_MS);
        Tables::put(&mut world.tables, keys::system(keys::table::CLOCK), codec::encode(&clock));
        for number in [1, 2, 3] {
            assert_eq!(world.refused(commit(&repository, number, &[1, 2], false)), Refusal::UploadUnknown);
        }
        let slot = keys::digest_slot(&digest());
        assert!(upload::forgettable(&world.tables, slot, &clock));
        assert_eq!(world.ok(upload::ForgetUploads { slot }), Reply::Purged(1));
        assert!(!upload::forgettable(&world.tables, slot, &clock));
        assert!(generation_over(&world.tables, &digest(), &upload(2)));
        assert!(matches!(world.refused(upload::ForgetUploads { slot: 5000 }), Refusal::ParameterInvalid { .. }));
    }

    // Needs follow confirmations: a lost copy is needed until it is confirmed again, in every order, any number of
    // times.
    #[test]
    fn needs_follow() {
        let (mut world, repository) = world();
        world.ok(commit(&repository, 1, &[1, 2], false));
        let needing = |world: &World| -> Vec<&str> {
            let slot = keys::digest_slot(&digest());
            ["a", "b", "c"].into_iter().filter(|zone| !needs(&world.tables, slot, zone, 9).is_empty()).collect()
        };
        let confirm = |store| ConfirmReplica { digest: digest(), generation: upload(1), store: StoreId(store) };
        let unconfirm = |store| UnconfirmReplica { digest: digest(), generation: upload(1), store: StoreId(store) };
        assert_eq!(needing(&world), ["c"]);
        world.ok(confirm(3));
        world.ok(confirm(3));
        assert_eq!(needing(&world), [""; 0]);
        world.ok(unconfirm(1));
        assert_eq!(world.ok(unconfirm(1)), Reply::Unchanged);
        assert_eq!(needing(&world), ["a"]);
        assert_eq!(world.ok(confirm(9)), Reply::Unchanged);
        assert_eq!(read(&world.tables, &digest()).unwrap().stores, [StoreId(2), StoreId(3)]);
    }

    // A use that came first and went last: whatever the order of two pushes and a delete between their parts, no link
    // is left without a use. The first of these was lost when a repository had one use of a digest at a time.
    #[test]
    fn parts_of_pushes_and_deletes_cross() {
        let (mut world, repository) = world();
        let hold = UseId;
        let link =
            |number| Link { repository: repository.clone(), digest: digest(), size_bytes: 5, hold: hold(number) };
        let unlink = |number| Unlink { repository: repository.clone(), digest: digest(), hold: hold(number) };
        let add =
            |number| AddUse { digest: digest(), size_bytes: 5, repository: repository.clone(), hold: hold(number) };
        let drop = |number| DropUse { digest: digest(), repository: repository.clone(), hold: hold(number) };
        world.ok(commit(&repository, 1, &[1, 2], false));
        world.ok(add(2));
        world.ok(link(2));
        world.ok(unlink(2));
        world.ok(link(1));
        world.ok(drop(2));
        assert!(super::super::link::read(&world.tables, &repository, &digest()).is_some());
        assert_eq!(world.ok(drop(2)), Reply::Unchanged);
        // the use of the link that was replaced is loose: no late link may stand on it again
        world.ok(add(3));
        world.ok(link(3));
        assert_eq!(world.refused(unlink(1)), Refusal::Changed);
        world.ok(drop(1));
        assert_eq!(world.refused(link(1)), Refusal::Changed);
        assert_eq!(world.refused(link(2)), Refusal::Changed);
        world.ok(link(3));
    }
}
