//! Links that nothing names and uses that no link stands on: what collection takes from repositories.
//!
//! Both commands travel in bulk, so neither refuses: what has moved on since the proposer looked is left as it is. What
//! they leave behind is a loose use, which [`settlement`](super::link::settlement) drops from its record. Source:
//! consensus-and-faults §5.5.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::apply::Context;
use super::blob::{DropUse, UseRow};
use super::clock::ClockRow;
use super::codec;
use super::command::{Apply, Command};
use super::keys::{self, Slot, table};
use super::link::{self, LinkRow};
use super::manifest;
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Row, Tables, TablesRead, after_prefix};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RepositoryId, UseId};
use crate::vocabulary::refusal::Refusal;

/// A page of a walk over rows: what is to be done about them, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What to propose.
    pub commands: Vec<Command>,
    /// Rows looked at.
    pub looked_at: usize,
    /// The row to go on after; `None` at the end of the slot.
    pub next: Option<Vec<u8>>,
}

/// Walks up to `limit` rows of a table of a slot behind `after`.
pub(super) fn walk(
    tables: &impl TablesRead,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    mut each: impl FnMut(&[u8], &[u8]) -> Option<Command>,
) -> Found {
    let rows = page(tables, prefix, after, limit);
    found(&rows, limit, rows.iter().filter_map(|(key, value)| each(key, value)).collect())
}

/// Up to `limit` rows of a table of a slot behind `after`.
pub(super) fn page(tables: &impl TablesRead, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Row> {
    let from = after.map_or_else(|| prefix.to_vec(), |after| [after, &[0]].concat());
    tables.range(&from, &after_prefix(prefix), limit)
}

/// What a page of `limit` rows at most came to.
pub(super) fn found(rows: &[Row], limit: usize, commands: Vec<Command>) -> Found {
    let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
    Found { commands, looked_at: rows.len(), next }
}

/// Rows read at once where those of many digests are walked over together.
pub(super) const ROWS_PER_JOIN: usize = 512;

/// The digests that rows between two keys tell of, in one walk: to look for the rows of each digest takes a cursor of
/// its own, most of what a cycle over a million rows cost. `of` is the digest of a row, unless the row doesn't count;
/// `behind` is where the rows of a digest end. Of a digest with many rows a page is read, and the rest passed over.
pub(super) fn told_between(
    tables: &impl TablesRead,
    mut from: Vec<u8>,
    end: &[u8],
    of: impl Fn(&[u8]) -> Option<Digest>,
    behind: impl Fn(&Digest) -> Vec<u8>,
) -> BTreeSet<Digest> {
    let mut told = BTreeSet::new();
    loop {
        let rows = tables.range(&from, end, ROWS_PER_JOIN);
        told.extend(rows.iter().filter_map(|(key, _)| of(key)));
        let Some((last, _)) = rows.last().filter(|_| rows.len() == ROWS_PER_JOIN) else { return told };
        from = of(last).map_or_else(|| [last.as_slice(), &[0]].concat(), |digest| behind(&digest));
    }
}

/// Links of a slot that no manifest names and nobody has counted on for a grace time.
pub fn idle_links(tables: &impl TablesRead, slot: Slot, clock: &ClockRow, after: Option<&[u8]>, limit: usize) -> Found {
    let rows = page(tables, &keys::of_slot(slot, table::LINK), after, limit);
    let mut old: BTreeMap<RepositoryId, Vec<(Digest, LinkRow)>> = BTreeMap::new();
    for (key, value) in &rows {
        let row: LinkRow = codec::row(value);
        if clock.is_past_grace(row.touched_tick) {
            let id = keys::of_repository_in(key).expect("a link's key begins with a repository");
            let digest = keys::digest_in(key).expect("a link's key ends with a digest");
            old.entry(id).or_default().push((digest, row));
        }
    }
    let mut commands = Vec::new();
    for (id, links) in old {
        // a deleted repository's links are its purge's business
        let Some((repository, _)) = repository::by_id(tables, slot, id).filter(|(_, row)| !row.deleted) else {
            continue;
        };
        let digests: Vec<Digest> = links.iter().map(|(digest, _)| *digest).collect();
        let held = manifest::held_among(tables, &repository, &digests);
        let free = links.into_iter().filter(|(digest, _)| !held.contains(digest));
        commands.extend(free.map(|(digest, LinkRow { hold, touched_tick, .. })| {
            Command::from(UnlinkIdle { repository: repository.clone(), digest, hold, touched_tick })
        }));
    }
    found(&rows, limit, commands)
}

/// Uses of records in a slot that no link stands on and no loose use remembers: their pushes broke off half-way. An
/// envelope is one log entry, so the link of a use that is seen without one was refused, or will be.
pub fn idle_uses(tables: &impl TablesRead, slot: Slot, after: Option<&[u8]>, limit: usize) -> Found {
    // many uses, few repositories
    let mut live: BTreeMap<RepositoryId, bool> = BTreeMap::new();
    walk(tables, &keys::of_slot(slot, table::USE), after, limit, |key, value| {
        let (digest, id, hold) = keys::blob_use_in(key).expect("a use's key holds digest, repository and use");
        let UseRow { repository } = codec::row(value);
        if !*live.entry(id).or_insert_with(|| repository::live(tables, &repository).is_some()) {
            // nothing can link into what is deleted
            return Some(DropUse { digest, repository, hold }.into());
        }
        // of nearly every use: nothing else is looked up
        if link::read(tables, &repository, &digest).is_some_and(|row| row.hold == hold) {
            return None;
        }
        let is_loose = tables.contains(&keys::loose_use(repository.slot(), id, &digest, hold));
        (!is_loose).then(|| FenceUse { repository, digest, hold }.into())
    })
}

/// Takes a blob from a repository in which no manifest names it and which nobody has counted on for a grace time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UnlinkIdle {
    /// From whom.
    pub repository: RepositoryKey,
    /// Which blob.
    pub digest: Digest,
    /// The use that the proposer saw; a newer push is not undone.
    pub hold: UseId,
    /// The last sign that the proposer saw; a newer one keeps the link.
    pub touched_tick: u64,
}

impl Apply for UnlinkIdle {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let Some(row) = link::read(tables, &self.repository, &self.digest) else { return Ok(Reply::Unchanged) };
        let is_same = row.hold == self.hold && row.touched_tick == self.touched_tick;
        if !is_same
            || !context.clock.is_past_grace(row.touched_tick)
            || repository::live(tables, &self.repository).is_none()
            || manifest::holder(tables, &self.repository, &self.digest).is_some()
        {
            return Ok(Reply::Unchanged);
        }
        link::remove(tables, context, &self.repository, &self.digest, &row);
        Ok(Reply::Done)
    }
}

/// No link stands on a use: none may from now on, so that it can be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FenceUse {
    /// Whose.
    pub repository: RepositoryKey,
    /// Of which blob.
    pub digest: Digest,
    /// The use.
    pub hold: UseId,
}

impl Apply for FenceUse {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let stands = link::read(tables, &self.repository, &self.digest).is_some_and(|row| row.hold == self.hold);
        let loose = keys::loose_use(self.slot(), self.repository.id, &self.digest, self.hold);
        if stands || tables.contains(&loose) || repository::live(tables, &self.repository).is_none() {
            return Ok(Reply::Unchanged);
        }
        link::loosen(tables, &self.repository, &self.digest, self.hold, context.index);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::blob;
    use crate::metadata::clock;
    use crate::metadata::link::TouchLink;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::repository::DeleteRepository;
    use crate::metadata::testing::{World, manifest, mount, push_parts, reference};
    use crate::vocabulary::limits::TICKS_PER_GRACE;
    use crate::vocabulary::manifest::ContentKind;

    fn idle(world: &World, repository: &RepositoryKey) -> Vec<Command> {
        let clock = clock::read(&world.tables);
        let mut found = idle_links(&world.tables, repository.slot(), &clock, None, 1);
        let mut commands = found.commands;
        while let Some(after) = found.next {
            found = idle_links(&world.tables, repository.slot(), &clock, Some(&after), 1);
            commands.append(&mut found.commands);
        }
        commands
    }

    // One walk over the references of a page finds what a look at each digest finds, also behind more rows than it
    // reads at once, of a kind that doesn't count.
    #[test]
    fn a_page_knows_who_is_held() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let many = ROWS_PER_JOIN as u32 + 1;
        let mut digests: Vec<Digest> = (0..25u32).map(|number| Digest::sha256(&number.to_be_bytes())).collect();
        digests.sort_unstable_by_key(Digest::key_bytes);
        for (at, digest) in digests.iter().enumerate() {
            let named: &[(ContentKind, u32)] = match at % 5 {
                0 => &[],
                1 => &[(ContentKind::Blob, many)],
                2 => &[(ContentKind::Manifest, many)],
                3 => &[(ContentKind::Foreign, 1)],
                _ => &[(ContentKind::Manifest, many), (ContentKind::Foreign, 1)],
            };
            for (kind, count) in named {
                for number in 0..*count {
                    let by = Digest::sha256(&number.to_le_bytes());
                    let key = keys::reference(repository.slot(), repository.id, digest, *kind, Some(&by));
                    world.tables.put(key, Vec::new());
                }
            }
        }
        let held = manifest::held_among(&world.tables, &repository, &digests);
        let is_held = |digest: &Digest| manifest::holder(&world.tables, &repository, digest).is_some();
        assert!(digests.iter().all(|digest| held.contains(digest) == is_held(digest)));
        assert_eq!(held.len(), 15);
        assert!(manifest::held_among(&world.tables, &repository, &[]).is_empty());
    }

    // G7: a link goes after a whole grace time in ticks and not before, whatever the leader's clock says; named by a
    // manifest it stays for ever.
    #[test]
    fn links_wait_for_their_grace() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let free = world.push_blob(&repository, b"free", 1, &[1, 2]);
        let held = world.push_blob(&repository, b"held", 2, &[1, 2]);
        world
            .ok(PutManifest { references: vec![reference(b"held", ContentKind::Blob)], ..manifest(&repository, b"m") });
        world.at_ms += 1_000 * 86_400_000;
        world.pass(TICKS_PER_GRACE);
        assert_eq!(idle(&world, &repository), []);
        let early = UnlinkIdle { repository: repository.clone(), digest: free, hold: UseId(1), touched_tick: 0 };
        assert_eq!(world.ok(early.clone()), Reply::Unchanged);
        world.pass(1);
        assert_eq!(idle(&world, &repository), [early.clone().into()]);
        for wrong in [UnlinkIdle { hold: UseId(9), ..early.clone() }, UnlinkIdle { touched_tick: 1, ..early.clone() }] {
            assert_eq!(world.ok(wrong), Reply::Unchanged);
        }
        assert_eq!(world.ok(UnlinkIdle { digest: held, hold: UseId(2), ..early.clone() }), Reply::Unchanged);
        assert_eq!(world.ok(early.clone()), Reply::Done);
        assert_eq!(world.ok(early), Reply::Unchanged);
        assert!(link::read(&world.tables, &repository, &free).is_none());
        assert!(link::read(&world.tables, &repository, &held).is_some());
    }

    // G1: a sign that somebody counts on the link, or a manifest, comes between the look and the command: it stays.
    #[test]
    fn what_was_touched_since_stays() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let digest = world.push_blob(&repository, b"x", 1, &[1, 2]);
        world.pass(20);
        let late = idle(&world, &repository);
        world.ok(TouchLink { repository: repository.clone(), digest });
        assert_eq!(world.ok(late[0].clone()), Reply::Unchanged);
        world.pass(20);
        let late = idle(&world, &repository);
        let image = PutManifest { references: vec![reference(b"x", ContentKind::Blob)], ..manifest(&repository, b"m") };
        world.ok(image.clone());
        assert_eq!(world.ok(late[0].clone()), Reply::Unchanged);
        // a manifest's delete is such a sign as well
        world.ok(DeleteManifest { repository: repository.clone(), digest: image.digest });
        assert_eq!(idle(&world, &repository), []);
        assert_eq!(world.ok(late[0].clone()), Reply::Unchanged);
        world.pass(9);
        let due = idle(&world, &repository);
        assert_eq!(world.ok(due[0].clone()), Reply::Done);
    }

    // A use whose link never came is fenced and dropped; that of a deleted repository is dropped at once; the use
    // that a link stands on is neither.
    #[test]
    fn uses_without_links() {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        let gone = world.repository("gone", 2, Default::default());
        let (finish, commit, link) = push_parts(&repository, b"x", 1, &[1, 2]);
        let digest = commit.digest;
        world.propose(vec![finish.into(), commit.into()]);
        let found = |world: &World| idle_uses(&world.tables, keys::digest_slot(&digest), None, 9).commands;
        let fence: Command = FenceUse { repository: repository.clone(), digest, hold: UseId(1) }.into();
        assert_eq!(found(&world), std::slice::from_ref(&fence));
        world.ok(link.clone());
        assert_eq!(found(&world), []);
        assert_eq!(world.ok(fence), Reply::Unchanged);
        world.propose(mount(&gone, b"x", 2)[..1].to_vec());
        world.ok(DeleteRepository { key: gone.clone(), force: true });
        assert_eq!(found(&world), [DropUse { digest, repository: gone, hold: UseId(2) }.into()]);
        world.propose(mount(&repository, b"x", 3)[..1].to_vec());
        let fence = FenceUse { repository: repository.clone(), digest, hold: UseId(3) };
        assert_eq!(world.ok(fence.clone()), Reply::Done);
        assert_eq!(world.ok(fence), Reply::Unchanged);
        assert_eq!(world.refused(link::Link { hold: UseId(3), ..link }), Refusal::Changed);
        let due = link::settlement(&world.tables, repository.slot(), world.index, None, 9).commands;
        assert_eq!(due, [DropUse { digest, repository: repository.clone(), hold: UseId(3) }.into()]);
        assert!(blob::is_used(&world.tables, &digest, repository.id, UseId(1)));
    }
}
