//! Manifests without a tag and without an index above them, and since when: what clean-up by age goes by.
//!
//! The row is kept by whatever gives a manifest a tag or an index or takes the last one, so that the age counts from
//! that change, in ticks, and not from the push. Deleting is by option and conditional: what was tagged, named by an
//! index or put again since the proposer looked stays, and so does whatever belongs to something that is kept: a
//! referrer of a subject that is here, a subject of a referrer that is tagged (G3).

use bincode::{Decode, Encode};

use super::apply::Context;
use super::clock::ClockRow;
use super::codec::{self, Stored};
use super::command::Apply;
use super::gone::Cause;
use super::idle::{self, Found};
use super::keys::{self, Slot, table};
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Pages, Tables, TablesRead};
use super::upgrade::LEVEL_2;
use super::{manifest, referrer, tag};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::REFERRERS_WALKED_MAX;
use crate::vocabulary::refusal::Refusal;

/// Since when nothing names a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UntaggedRow {
    /// The tick of the change.
    pub since_tick: u64,
}

impl Stored for UntaggedRow {}

/// Rows read at once while a repository is listed.
const LISTED_PAGE_ROWS: usize = 1024;

fn key(repository: &RepositoryKey, digest: &Digest) -> Vec<u8> {
    keys::by_digest(repository.slot(), table::UNTAGGED, repository.id, digest)
}

/// Since when nothing names a manifest; `None` while something does.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Option<UntaggedRow> {
    tables.get(&key(repository, digest)).map(|bytes| codec::row(&bytes))
}

/// Whether a tag or an index names a manifest.
fn is_named(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> bool {
    tag::names(tables, repository, digest) || manifest::parent(tables, repository, digest).is_some()
}

/// Brings the row of a manifest in line with what names it now.
pub(super) fn note(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, digest: &Digest) {
    if context.level < LEVEL_2 {
        return;
    }
    let is_free = manifest::read(tables, repository, digest).is_some() && !is_named(tables, repository, digest);
    match (is_free, read(tables, repository, digest).is_some()) {
        (true, false) => put(tables, context, repository, digest),
        (false, true) => tables.delete(key(repository, digest)),
        (true, true) | (false, false) => {}
    }
}

/// A manifest goes. The running hash counts what is deleted, whether it was there or not, so nothing is where an older
/// release would delete nothing.
pub(super) fn forget(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, digest: &Digest) {
    if context.level >= LEVEL_2 {
        tables.delete(key(repository, digest));
    }
}

/// Somebody counts on a manifest again: if nothing names it, its age starts anew.
pub(super) fn renew(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, digest: &Digest) {
    note(tables, context, repository, digest);
    if read(tables, repository, digest).is_some() {
        put(tables, context, repository, digest);
    }
}

fn put(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, digest: &Digest) {
    tables.put(key(repository, digest), codec::encode(&UntaggedRow { since_tick: context.clock.tick }));
}

/// What is attached to a manifest that goes has lost its subject: its age starts anew. Of very many some keep theirs.
pub(super) fn renew_referrers(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    subject: &Digest,
) {
    for (digest, _) in referrer::list(tables, repository, subject, None, REFERRERS_WALKED_MAX) {
        if read(tables, repository, &digest).is_some() {
            put(tables, context, repository, &digest);
        }
    }
}

/// Lists the manifests of a repository that nothing names, which nobody has listed so far: their age starts now.
pub(super) fn list_anew(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey) {
    let prefix = keys::of_repository(repository.slot(), table::MANIFEST, repository.id);
    let mut pages = Pages::under(prefix, LISTED_PAGE_ROWS);
    while let Some(page) = pages.read(tables) {
        for (key, _) in &page {
            let digest = keys::digest_in(key).expect("the key ends with a digest");
            note(tables, context, repository, &digest);
        }
    }
}

/// Whether something attached to a manifest, however far away, is named by a tag or an index. Where too much is
/// attached to look at it all, it counts as named.
fn is_held_by_referrers(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    digest: &Digest,
    budget: &mut usize,
) -> bool {
    let mut open = vec![*digest];
    while let Some(subject) = open.pop() {
        let referrers = referrer::list(tables, repository, &subject, None, *budget + 1);
        let Some(left) = budget.checked_sub(referrers.len()) else { return true };
        *budget = left;
        if referrers.iter().any(|(referrer, _)| is_named(tables, repository, referrer)) {
            return true;
        }
        open.extend(referrers.into_iter().map(|(referrer, _)| referrer));
    }
    false
}

/// Ages in ticks from which on manifests are deleted; `None` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Of those that nothing names and that are attached to nothing.
    pub untagged_ticks: Option<u64>,
    /// Of those whose subject is not here.
    pub orphaned_ticks: Option<u64>,
}

/// Manifests of a slot that are older than wished and belong to nothing that is kept.
pub fn due(
    tables: &impl TablesRead,
    slot: Slot,
    clock: &ClockRow,
    wish: Wish,
    after: Option<&[u8]>,
    limit: usize,
) -> Found {
    if wish == Wish::default() {
        return Found::default();
    }
    idle::walk(tables, &keys::of_slot(slot, table::UNTAGGED), after, limit, |key, value| {
        let UntaggedRow { since_tick } = codec::row(value);
        let id = keys::of_repository_in(key).expect("the key begins with a repository");
        let digest = keys::digest_in(key).expect("the key ends with a digest");
        let (repository, _) = repository::by_id(tables, slot, id).filter(|(_, row)| !row.deleted)?;
        let row = manifest::read(tables, &repository, &digest)?;
        let after_ticks = if row.subject.is_some() { wish.orphaned_ticks } else { wish.untagged_ticks }?;
        let command = DeleteUntagged { repository, digest, since_tick, after_ticks };
        command.is_due(tables, clock).then(|| command.into())
    })
}

/// Deletes a manifest that nothing has named for some time, and that belongs to nothing that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeleteUntagged {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub digest: Digest,
    /// Since when nothing has named it, as the proposer saw; any change since then keeps it.
    pub since_tick: u64,
    /// How long it must have been so, in ticks.
    pub after_ticks: u64,
}

impl DeleteUntagged {
    fn is_due(&self, tables: &impl TablesRead, clock: &ClockRow) -> bool {
        let Self { repository, digest, since_tick, after_ticks } = self;
        let is_same = read(tables, repository, digest).is_some_and(|row| row.since_tick == *since_tick);
        if !is_same || clock.tick.saturating_sub(*since_tick) <= *after_ticks || is_named(tables, repository, digest) {
            return false;
        }
        let Some(row) = manifest::read(tables, repository, digest) else { return false };
        let is_attached = row.subject.is_some_and(|subject| manifest::read(tables, repository, &subject).is_some());
        !is_attached && !is_held_by_referrers(tables, repository, digest, &mut { REFERRERS_WALKED_MAX })
    }
}

impl Apply for DeleteUntagged {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        if repository::live(tables, &self.repository).is_none() || !self.is_due(tables, &context.clock) {
            return Ok(Reply::Unchanged);
        }
        let row = manifest::read(tables, &self.repository, &self.digest).expect("what is due is here");
        manifest::remove(tables, context, &self.repository, &self.digest, &row, Cause::Cleaned);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::clock;
    use crate::metadata::command::Command;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest as put, reference, tags};
    use crate::vocabulary::manifest::ContentKind;

    const AGE: u64 = 5;

    fn world() -> (World, RepositoryKey) {
        let mut world = World::region(&["a", "b"]);
        let repository = world.repository("r", 1, Default::default());
        (world, repository)
    }

    fn tagged(repository: &RepositoryKey, bytes: &[u8], names: &[&str]) -> PutManifest {
        PutManifest { tags: tags(names), ..put(repository, bytes) }
    }

    fn attached(repository: &RepositoryKey, bytes: &[u8], subject: &[u8]) -> PutManifest {
        PutManifest { subject: Some(Digest::sha256(subject)), ..put(repository, bytes) }
    }

    fn untag(world: &mut World, repository: &RepositoryKey, name: &str) {
        let tag = tags(&[name]).remove(0);
        world.ok(DeleteTag { repository: repository.clone(), tag, expected: None });
    }

    fn wish() -> Wish {
        Wish { untagged_ticks: Some(AGE), orphaned_ticks: Some(AGE) }
    }

    fn found(world: &World, repository: &RepositoryKey, wish: Wish) -> Vec<Command> {
        due(&world.tables, repository.slot(), &clock::read(&world.tables), wish, None, 99).commands
    }

    /// Deletes what is due until nothing is; the contents that are left.
    fn clean(world: &mut World, repository: &RepositoryKey, contents: &[&[u8]]) -> Vec<String> {
        loop {
            let due = found(world, repository, wish());
            if due.is_empty() {
                break;
            }
            due.into_iter().for_each(|command| assert_eq!(world.ok(command), Reply::Done));
        }
        let is_left = |bytes: &&&[u8]| manifest::read(&world.tables, repository, &Digest::sha256(bytes)).is_some();
        contents.iter().filter(is_left).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    // Without a wish nothing goes; with one, what has been without a tag for the whole time and no tick less.
    #[test]
    fn ages() {
        let (mut world, repository) = world();
        world.ok(tagged(&repository, b"old", &["v1"]));
        world.ok(put(&repository, b"loose"));
        world.pass(10);
        // the tag moves: from now on the old one is untagged
        world.ok(tagged(&repository, b"new", &["v1"]));
        assert_eq!(found(&world, &repository, Wish::default()), []);
        assert_eq!(clean(&mut world, &repository, &[b"old", b"loose", b"new"]), ["old", "new"]);
        world.pass(AGE);
        assert_eq!(clean(&mut world, &repository, &[b"old", b"new"]), ["old", "new"]);
        // a put by digest says that somebody counts on it
        world.ok(put(&repository, b"old"));
        world.pass(AGE);
        assert_eq!(clean(&mut world, &repository, &[b"old", b"new"]), ["old", "new"]);
        world.pass(1);
        assert_eq!(clean(&mut world, &repository, &[b"old", b"new"]), ["new"]);
    }

    // What was tagged, named or put again after the look stays.
    #[test]
    fn deletes_are_conditional() {
        let (mut world, repository) = world();
        world.ok(put(&repository, b"m"));
        world.pass(10);
        let late = found(&world, &repository, wish()).remove(0);
        world.ok(tagged(&repository, b"m", &["v1"]));
        assert_eq!(world.ok(late.clone()), Reply::Unchanged);
        untag(&mut world, &repository, "v1");
        assert_eq!(world.ok(late), Reply::Unchanged);
        world.pass(10);
        let late = found(&world, &repository, wish()).remove(0);
        let index = PutManifest {
            references: vec![reference(b"m", ContentKind::Manifest)],
            ..tagged(&repository, b"index", &["i"])
        };
        world.ok(index);
        assert_eq!(world.ok(late), Reply::Unchanged);
        let early = DeleteUntagged {
            repository: repository.clone(),
            digest: Digest::sha256(b"m"),
            since_tick: 20,
            after_ticks: 0,
        };
        assert_eq!(world.ok(early), Reply::Unchanged);
    }

    // G3: nothing that a kept manifest reaches goes: children that two indexes share, attestations of a tagged image,
    // an image of which only the signature is tagged. What is reached by nothing goes, from the top down.
    #[test]
    fn g3_what_is_reached_stays() {
        let (mut world, repository) = world();
        let index = |bytes: &[u8], children: &[&[u8]], names: &[&str]| PutManifest {
            references: children.iter().map(|child| reference(child, ContentKind::Manifest)).collect(),
            ..tagged(&repository, bytes, names)
        };
        for bytes in [&b"amd64"[..], b"arm64", b"riscv"] {
            world.ok(put(&repository, bytes));
        }
        world.ok(index(b"kept index", &[b"amd64", b"arm64"], &["v1"]));
        world.ok(index(b"loose index", &[b"arm64", b"riscv"], &[]));
        world.ok(attached(&repository, b"sbom of amd64", b"amd64"));
        world.ok(attached(&repository, b"signature of the sbom", b"sbom of amd64"));
        world.ok(put(&repository, b"signed"));
        world.ok(PutManifest { tags: tags(&["sig"]), ..attached(&repository, b"tagged signature", b"signed") });
        world.ok(put(&repository, b"unsigned"));
        world.ok(attached(&repository, b"note on unsigned", b"unsigned"));
        world.pass(10);
        let all: [&[u8]; 11] = [
            b"amd64",
            b"arm64",
            b"riscv",
            b"kept index",
            b"loose index",
            b"sbom of amd64",
            b"signature of the sbom",
            b"signed",
            b"tagged signature",
            b"unsigned",
            b"note on unsigned",
        ];
        let kept =
            ["amd64", "arm64", "kept index", "sbom of amd64", "signature of the sbom", "signed", "tagged signature"];
        let left = clean(&mut world, &repository, &all);
        // what lost its index or its subject just now waits for an age of its own
        assert_eq!(left.iter().filter(|name| !kept.contains(&name.as_str())).count(), 2, "{left:?}");
        world.pass(10);
        assert_eq!(clean(&mut world, &repository, &all), kept);
        // and when the tags go, all of it does
        for name in ["v1", "sig"] {
            untag(&mut world, &repository, name);
        }
        for _ in 0..5 {
            world.pass(10);
            clean(&mut world, &repository, &all);
        }
        assert_eq!(clean(&mut world, &repository, &all), [""; 0]);
    }

    // G4: the last tag goes while an index names the image: the image stays, for ever.
    #[test]
    fn g4_the_index_keeps_its_image() {
        let (mut world, repository) = world();
        world.ok(tagged(&repository, b"image", &["v1"]));
        let index = PutManifest {
            references: vec![reference(b"image", ContentKind::Manifest)],
            ..tagged(&repository, b"index", &["all"])
        };
        world.ok(index.clone());
        untag(&mut world, &repository, "v1");
        world.pass(100);
        assert_eq!(found(&world, &repository, wish()), []);
        let image = Digest::sha256(b"image");
        let refused = world.refused(DeleteManifest { repository: repository.clone(), digest: image });
        assert!(matches!(refused, Refusal::ManifestReferenced { .. }), "{refused:?}");
        world.ok(DeleteManifest { repository: repository.clone(), digest: index.digest });
        assert!(read(&world.tables, &repository, &image).is_some_and(|row| row.since_tick == 100));
    }

    // Orphans go by a wish of their own, counted from their subject's delete; one that waits for its subject to be
    // pushed has the same time.
    #[test]
    fn orphans() {
        let (mut world, repository) = world();
        world.ok(tagged(&repository, b"image", &["v1"]));
        world.ok(attached(&repository, b"signature", b"image"));
        world.pass(100);
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"image") });
        let only = |wish: Wish| found(&world, &repository, wish).len();
        assert_eq!(only(wish()), 0);
        world.pass(AGE + 1);
        let only = |wish: Wish| found(&world, &repository, wish).len();
        assert_eq!(
            (only(Wish { orphaned_ticks: None, ..wish() }), only(Wish { untagged_ticks: None, ..wish() })),
            (0, 1)
        );
        world.ok(tagged(&repository, b"image", &["v1"]));
        assert_eq!(found(&world, &repository, wish()), []);
    }
}
