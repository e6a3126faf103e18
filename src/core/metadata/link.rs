//! Links: a repository's permission to serve a blob it holds. `Ref ⇒ Link ⇒ Use ⇒ record`, added from right to left.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob::{self, DropUse};
use super::codec::{self, Stored};
use super::command::Apply;
use super::idle::{self, Found};
use super::keys::{self, Slot, table};
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Row, Tables, TablesRead};
use super::usage;
use crate::decide::quota::Usage;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RepositoryId, UseId};
use crate::vocabulary::limits::REQUEST_WINDOW_ENTRIES;
use crate::vocabulary::refusal::Refusal;

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LinkRow {
    /// The repository's use of the blob record that this link stands on.
    pub hold: UseId,
    /// Size of the blob, bytes.
    pub size_bytes: u64,
    /// Tick of the last sign that somebody counts on it.
    pub touched_tick: u64,
}

impl Stored for LinkRow {}

/// Reads a link.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<LinkRow> {
    let key = keys::by_digest(repository.slot(), table::LINK, repository.id, digest);
    tables.get(&key).map(|bytes| codec::row(&bytes))
}

/// Since when no link of the repository stands on a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LooseRow {
    /// Log index of the change.
    pub since_index: u64,
}

impl Stored for LooseRow {}

/// Up to `limit` loose uses of a slot, with the repository's id: their record's use is to be dropped
/// ([`DropUse`](super::blob::DropUse)), and then they, once `since_index` is out of the window ([`ForgetUse`]).
pub fn loose_uses(tables: &impl TablesRead, slot: Slot, limit: usize) -> Vec<(RepositoryId, Digest, UseId, LooseRow)> {
    let rows = tables.prefix(&keys::of_slot(slot, table::LOOSE_USE), limit);
    let read = |(key, value): &Row| {
        let (repository, digest, hold) = keys::loose_use_in(key).expect("a loose use's key ends with it");
        (repository, digest, hold, codec::row(value))
    };
    rows.iter().map(read).collect()
}

/// What settles up to `limit` loose uses of a slot behind `after`, at an applied index: those still on record are
/// dropped, those out of the window are forgotten. Deleted repositories are left to their purge.
pub fn settlement(
    tables: &impl TablesRead,
    slot: Slot,
    applied_index: u64,
    after: Option<&[u8]>,
    limit: usize,
) -> Found {
    let rows = idle::page(tables, &keys::of_slot(slot, table::LOOSE_USE), after, limit);
    let mut commands = Vec::new();
    for (key, value) in &rows {
        let (id, digest, hold) = keys::loose_use_in(key).expect("a loose use's key ends with it");
        let LooseRow { since_index } = codec::row(value);
        let found = repository::by_id(tables, slot, id).filter(|(_, row)| !row.deleted);
        let Some((repository, _)) = found else { continue };
        if blob::is_used(tables, &digest, id, hold) {
            commands.push(DropUse { digest, repository: repository.clone(), hold }.into());
        }
        if applied_index.saturating_sub(since_index) > REQUEST_WINDOW_ENTRIES {
            commands.push(ForgetUse { repository, digest, hold }.into());
        }
    }
    idle::found(&rows, limit, commands)
}

/// From now on no link may stand on this use, so that it can be dropped without one arriving late. Work for a
/// reconciler.
pub(super) fn loosen(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest, hold: UseId, index: u64) {
    let key = keys::loose_use(repository.slot(), repository.id, digest, hold);
    tables.put(key, codec::encode(&LooseRow { since_index: index }));
}

/// Gives a repository a blob. Its use must have been added before. Takes the place of a link that stands on another
/// use.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// To whom.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The use it stands on.
    pub hold: UseId,
}

impl Apply for Link {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let slot = self.slot();
        if tables.contains(&keys::loose_use(slot, self.repository.id, &self.digest, self.hold)) {
            return Err(Refusal::Changed);
        }
        let before = read(tables, &self.repository, &self.digest);
        let (held, holds) = (before.map_or(0, |row| row.size_bytes), self.size_bytes);
        usage::grow(tables, context, &self.repository, Usage::of_bytes(holds.saturating_sub(held)))?;
        usage::shrink(tables, context, &self.repository, Usage::of_bytes(held.saturating_sub(holds)));
        if let Some(before) = before
            && before.hold != self.hold
        {
            loosen(tables, &self.repository, &self.digest, before.hold, context.index);
        }
        let row = LinkRow { hold: self.hold, size_bytes: self.size_bytes, touched_tick: context.clock.tick };
        tables.put(keys::by_digest(slot, table::LINK, self.repository.id, &self.digest), codec::encode(&row));
        Ok(Reply::Done)
    }
}

/// Takes a blob from a repository. Refused while a manifest of it names the blob. The use it stood on is loose from now
/// on: the same envelope goes on with its [`DropUse`](super::blob::DropUse).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Unlink {
    /// From whom.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// The use that the proposer saw; a newer push is not undone.
    pub hold: UseId,
}

impl Apply for Unlink {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        let Some(row) = read(tables, &self.repository, &self.digest) else {
            return Err(Refusal::BlobUnknown { digest: self.digest });
        };
        if row.hold != self.hold {
            return Err(Refusal::Changed);
        }
        if let Some(manifest) = super::manifest::holder(tables, &self.repository, &self.digest) {
            return Err(Refusal::BlobReferenced { digest: self.digest, manifest: manifest.into() });
        }
        remove(tables, context, &self.repository, &self.digest, &row);
        Ok(Reply::Done)
    }
}

/// Removes a link that no manifest needs.
pub(super) fn remove(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    digest: &Digest,
    row: &LinkRow,
) {
    tables.delete(keys::by_digest(repository.slot(), table::LINK, repository.id, digest));
    usage::shrink(tables, context, repository, Usage::of_bytes(row.size_bytes));
    loosen(tables, repository, digest, row.hold, context.index);
}

/// A loose use was dropped from its record: it is forgotten. Refused while a link with it may still be under way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ForgetUse {
    /// Whose.
    pub repository: RepositoryKey,
    /// Of which blob.
    pub digest: Digest,
    /// The use.
    pub hold: UseId,
}

impl Apply for ForgetUse {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let key = keys::loose_use(self.slot(), self.repository.id, &self.digest, self.hold);
        let Some(bytes) = tables.get(&key) else { return Ok(Reply::Unchanged) };
        if context.index - codec::row::<LooseRow>(&bytes).since_index <= REQUEST_WINDOW_ENTRIES {
            return Err(Refusal::Changed);
        }
        tables.delete(key);
        Ok(Reply::Done)
    }
}

/// Somebody counts on a link without a reference: its age starts anew. Refused if there is no link to count on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TouchLink {
    /// Whose.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
}

impl Apply for TouchLink {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        repository::require(tables, &self.repository)?;
        match touch(tables, &self.repository, &self.digest, context.clock.tick) {
            true => Ok(Reply::Done),
            false => Err(Refusal::BlobUnknown { digest: self.digest }),
        }
    }
}

/// Sets the tick of the last sign; false if there is no link.
pub(crate) fn touch(tables: &mut impl Tables, repository: &RepositoryKey, digest: &Digest, tick: u64) -> bool {
    let Some(row) = read(tables, repository, digest) else { return false };
    let key = keys::by_digest(repository.slot(), table::LINK, repository.id, digest);
    tables.put(key, codec::encode(&LinkRow { touched_tick: tick, ..row }));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::command::Command;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::testing::{World, manifest, mount, reference, repository_key};
    use crate::vocabulary::manifest::ContentKind;

    // A blob that a manifest names stays; freed by the manifest's delete it goes, and its use after it.
    #[test]
    fn unlink() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let digest = world.push_blob(&repository, b"x", 1, &[1, 2]);
        let image =
            PutManifest { references: vec![reference(b"x", ContentKind::Blob)], ..manifest(&repository, b"image") };
        let image_digest = image.digest;
        world.ok(image);
        let unlink = |hold| Unlink { repository: repository.clone(), digest, hold: UseId(hold) };
        assert!(matches!(world.refused(unlink(1)), Refusal::BlobReferenced { .. }));
        world.ok(DeleteManifest { repository: repository.clone(), digest: image_digest });
        assert_eq!(world.refused(unlink(9)), Refusal::Changed);
        let drop: Command = DropUse { digest, repository: repository.clone(), hold: UseId(1) }.into();
        assert_eq!(world.propose(vec![unlink(1).into(), drop]).refusal, None);
        assert_eq!(world.refused(unlink(1)), Refusal::BlobUnknown { digest });
        assert_eq!(blob::users(&world.tables, &digest, 9), []);
        let touch = TouchLink { repository: repository.clone(), digest };
        assert_eq!(world.refused(touch), Refusal::BlobUnknown { digest });
        assert_eq!(world.propose(mount(&repository, b"x", 2)).refusal, None);
    }

    // A loose use is fenced until no copy of a link with it can apply any more.
    #[test]
    fn loose_uses_are_forgotten_late() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let digest = world.push_blob(&repository, b"x", 1, &[1, 2]);
        world.ok(Unlink { repository: repository.clone(), digest, hold: UseId(1) });
        let since_index = world.index;
        let loose = loose_uses(&world.tables, repository.slot(), 9);
        assert_eq!(loose, [(repository.id, digest, UseId(1), LooseRow { since_index })]);
        let drop: Command = DropUse { digest, repository: repository.clone(), hold: UseId(1) }.into();
        let due = |world: &World| settlement(&world.tables, repository.slot(), world.index, None, 9).commands;
        assert_eq!(due(&world), std::slice::from_ref(&drop));
        world.ok(drop);
        assert_eq!(due(&world), []);
        let forget = ForgetUse { repository: repository.clone(), digest, hold: UseId(1) };
        assert_eq!(world.refused(forget.clone()), Refusal::Changed);
        world.index = since_index + REQUEST_WINDOW_ENTRIES + 1;
        assert_eq!(due(&world), [forget.clone().into()]);
        assert_eq!(world.ok(forget.clone()), Reply::Done);
        assert_eq!(world.ok(forget), Reply::Unchanged);
    }

    // A5: nothing links into a repository that is not there, or is another one of the same name.
    #[test]
    fn links_need_their_repository() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        world.push_blob(&repository, b"x", 1, &[1, 2]);
        for other in [repository_key("r", 2), repository_key("s", 1)] {
            let refusal = world.propose(mount(&other, b"x", 5)).refusal;
            assert!(matches!(refusal, Some(Refusal::RepositoryUnknown { .. })), "{refusal:?}");
        }
    }
}
