//! The past of tags, read from their journals: what changed one, and what all of a repository named at a time.
//!
//! A journal is bounded by [`TAG_JOURNAL_MAX`](crate::vocabulary::limits::TAG_JOURNAL_MAX).

use super::keys::{self, table};
use super::repository::RepositoryKey;
use super::tables::{Pages, Row, TablesRead, after_prefix};
use super::tag::{self, JournalRow};
use super::{codec, manifest};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::TAG_JOURNAL_MAX;
use crate::vocabulary::tag::Tag;

/// Rows of the journals of a repository read at once.
const PAGE_ROWS: usize = 1000;

/// A change of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number: the first change of a tag is 1.
    pub number: u64,
    /// What was noted of it.
    pub row: JournalRow,
    /// Whether the repository still holds the manifest; no for a delete.
    pub is_held: bool,
}

/// What a tag named at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// This manifest.
    Named(Digest),
    /// Nothing: it had been deleted, or had never been set.
    Absent,
    /// The journal does not reach back so far.
    Forgotten,
}

/// A tag then and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThenAndNow {
    /// Which tag.
    pub tag: Tag,
    /// What it named then.
    pub then: Past,
    /// What it names now.
    pub now: Option<Digest>,
    /// Whether the repository still holds what it named then.
    pub is_held: bool,
}

fn is_held(tables: &impl TablesRead, repository: &RepositoryKey, digest: Option<&Digest>) -> bool {
    digest.is_some_and(|digest| manifest::read(tables, repository, digest).is_some())
}

/// The changes of a tag that its journal still has, oldest first.
pub fn of_tag(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Vec<Change> {
    let rows = tables.prefix(&keys::tag_journal_of(repository.slot(), repository.id, tag), TAG_JOURNAL_MAX + 1);
    let change = |(key, value): &Row| {
        let (_, number, row) = read(key, value);
        Change { number, is_held: is_held(tables, repository, row.digest.as_ref()), row }
    };
    rows.iter().map(change).collect()
}

fn read(key: &[u8], value: &[u8]) -> (Tag, u64, JournalRow) {
    let (tag, number) = keys::tag_journal_in(key).expect("a journal key holds tag and number");
    (Tag::parse(tag).expect("stored tags were parsed"), number, codec::row(value))
}

/// What up to `limit` tags behind `after` named at `at_ms` (replicated milliseconds since 1970), in byte order: all
/// tags that ever were, but for those that neither were then nor are now.
pub fn at(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    at_ms: u64,
    after: Option<&Tag>,
    limit: usize,
) -> Vec<ThenAndNow> {
    let slot = repository.slot();
    let all = keys::of_repository(slot, table::TAG_JOURNAL, repository.id);
    let from = match after {
        Some(after) => [&keys::tag_journal(slot, repository.id, after, u64::MAX)[..], &[0]].concat(),
        None => all.clone(),
    };
    let mut pages = Pages::between(from, after_prefix(&all), PAGE_ROWS);
    let (mut found, mut open) = (Vec::new(), None::<(Tag, Past)>);
    let mut close = |open: Option<(Tag, Past)>| {
        let Some((tag, then)) = open else { return found.len() };
        let now = tag::read(tables, repository, &tag).map(|row| row.digest);
        if then != Past::Absent || now.is_some() {
            let named = if let Past::Named(digest) = &then { Some(digest) } else { None };
            let is_held = is_held(tables, repository, named);
            found.push(ThenAndNow { tag, then, now, is_held });
        }
        found.len()
    };
    while let Some(page) = pages.read(tables) {
        for (key, value) in page {
            let (tag, number, row) = read(&key, &value);
            if open.as_ref().is_none_or(|(of, _)| *of != tag) {
                if close(open.take()) == limit {
                    return found;
                }
                // what stands before the first change that is kept is known only if that is the first of all
                open = Some((tag, if number == 1 { Past::Absent } else { Past::Forgotten }));
            }
            if let Some((_, then)) = open.as_mut().filter(|_| row.at_ms <= at_ms) {
                *then = row.digest.map_or(Past::Absent, Past::Named);
            }
        }
    }
    close(open);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, tags};

    fn named(bytes: &[u8]) -> Past {
        Past::Named(Digest::sha256(bytes))
    }

    // A tag that moved, one that went, one that came, one that came and went: each as it was at each moment, in pages
    // of any size; and a manifest that went is told to be gone.
    #[test]
    fn the_past_is_what_was_read_then() {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        let mut moments = Vec::new();
        let put = |world: &mut World, tag: &str, bytes: &[u8]| {
            world.ok(PutManifest { tags: tags(&[tag]), ..manifest(&repository, bytes) });
        };
        let drop_tag = |world: &mut World, tag: &str| {
            world.ok(DeleteTag { repository: repository.clone(), tag: tags(&[tag]).remove(0), expected: None });
        };
        type Act<'a> = &'a dyn Fn(&mut World);
        let acts: [Act<'_>; 8] = [
            &|world| put(world, "moved", b"1"),
            &|world| put(world, "went", b"1"),
            &|world| put(world, "moved", b"2"),
            &|world| drop_tag(world, "went"),
            &|world| put(world, "brief", b"3"),
            &|world| drop_tag(world, "brief"),
            &|world| put(world, "came", b"1"),
            &|world| put(world, "went", b"4"),
        ];
        let names = ["brief", "came", "moved", "went"].map(|name| tags(&[name]).remove(0));
        for act in acts {
            act(&mut world);
            world.at_ms += 10;
            let seen = names.clone().map(|tag| tag::read(&world.tables, &repository, &tag).map(|row| row.digest));
            moments.push((world.at_ms, seen));
        }
        for (at_ms, seen) in &moments {
            for limit in 1..6 {
                let mut all: Vec<ThenAndNow> = Vec::new();
                loop {
                    let page = at(&world.tables, &repository, *at_ms, all.last().map(|last| &last.tag), limit);
                    assert!(page.len() <= limit);
                    if page.is_empty() {
                        break;
                    }
                    all.extend(page);
                }
                for (tag, seen) in names.iter().zip(seen) {
                    let found = all.iter().find(|found| found.tag == *tag);
                    let then = found.map_or(Past::Absent, |found| found.then);
                    assert_eq!(then, seen.map_or(Past::Absent, Past::Named), "{tag} at {at_ms}, pages of {limit}");
                    assert!(found.is_none_or(|found| found.is_held == seen.is_some()));
                }
                assert!(all.is_sorted_by_key(|found| found.tag.as_str().to_owned()));
            }
        }
        assert_eq!(
            at(&world.tables, &repository, 0, None, 9).len(),
            3,
            "what never was then and is not now is left out"
        );
        drop_tag(&mut world, "moved");
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"2") });
        let changes = of_tag(&world.tables, &repository, &names[2]);
        let told: Vec<_> = changes.iter().map(|change| (change.number, change.row.digest, change.is_held)).collect();
        let digest = |bytes: &[u8]| Some(Digest::sha256(bytes));
        assert_eq!(told, [(1, digest(b"1"), true), (2, digest(b"2"), false), (3, None, false)]);
        let found = at(&world.tables, &repository, moments[2].0, None, 9);
        assert_eq!((found[1].tag.as_str(), found[1].then, found[1].is_held), ("moved", named(b"2"), false));
    }

    // Behind the end of the journal nothing is claimed.
    #[test]
    fn forgotten_is_not_absent() {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        let mut first_ms = 0;
        for number in 0..TAG_JOURNAL_MAX as u64 + 5 {
            world.ok(PutManifest { tags: tags(&["busy"]), ..manifest(&repository, &number.to_be_bytes()) });
            world.at_ms += 10;
            first_ms = if number == 4 { world.at_ms } else { first_ms };
        }
        let then = |at_ms| at(&world.tables, &repository, at_ms, None, 9).remove(0).then;
        assert_eq!(then(first_ms), Past::Forgotten);
        assert_eq!(then(first_ms + 5), named(&5u64.to_be_bytes()));
        assert_eq!(of_tag(&world.tables, &repository, &tags(&["busy"])[0])[0].number, 6);
    }
}
