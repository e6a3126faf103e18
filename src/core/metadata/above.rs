//! Which tags lead to a manifest: those that name it, and those that name an index above it.
//!
//! What a rule sends that covers some tags only can't be told from a manifest's own row. For who wants to know it of
//! one manifest, or of each in turn; comparing two regions needs no more than the rows.

use std::collections::BTreeSet;

use super::manifest::{self, ManifestRow};
use super::repository::RepositoryKey;
use super::tables::TablesRead;
use super::tag;
use crate::decide::replication::compare::Scope;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::{REFERENCES_ABOVE_MAX, TAGS_ABOVE_MAX};
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// The tags that lead to a manifest, with the versions at which they were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagsAbove {
    tags: Vec<(Tag, Version)>,
    /// There are more, or too many indexes to look at them all.
    is_cut: bool,
}

impl TagsAbove {
    /// Whether not all of them are known: then all tags count.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether a rule of this scope sends the manifest, for its own sake or because a tag leads to it.
    pub fn are_in(&self, scope: &Scope, row: &ManifestRow) -> bool {
        let is_own = scope.covers_manifest(row.presence, self.is_cut || row.subject.is_some());
        is_own || !scope.tags.is_all() && self.tags.iter().any(|(tag, version)| scope.covers_tag(tag, *version))
    }
}

/// The tags that lead to a manifest. Looks at [`TAGS_ABOVE_MAX`] tags at most, and follows
/// [`REFERENCES_ABOVE_MAX`] references up from it.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> TagsAbove {
    let mut above = TagsAbove::default();
    let (mut open, mut seen) = (vec![*digest], BTreeSet::from([*digest]));
    let mut references_left = REFERENCES_ABOVE_MAX;
    while let Some(digest) = open.pop() {
        let room = TAGS_ABOVE_MAX - above.tags.len();
        let names = tag::of_manifest(tables, repository, &digest, room + 1);
        let parents = manifest::parents(tables, repository, &digest, references_left + 1);
        above.is_cut = names.len() > room || parents.len() > references_left;
        if above.is_cut {
            return above;
        }
        references_left -= parents.len();
        let set = |tag: Tag| tag::read(tables, repository, &tag).map(|row| (tag, row.version));
        above.tags.extend(names.into_iter().filter_map(set));
        open.extend(parents.into_iter().filter(|parent| seen.insert(*parent)));
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::compare::Since;
    use crate::decide::replication::tags::{SentTags, TagScope};
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::manifest::PutManifest;
    use crate::metadata::testing::{World, manifest, reference, tags};
    use crate::vocabulary::limits::TAGS_PER_PUSH_MAX;
    use crate::vocabulary::manifest::ContentKind;

    fn world() -> (World, RepositoryKey) {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        (world, repository)
    }

    fn put(world: &mut World, repository: &RepositoryKey, bytes: &[u8], names: &[&str], children: &[&[u8]]) {
        let references = children.iter().map(|child| reference(child, ContentKind::Manifest)).collect();
        world.ok(PutManifest { tags: tags(names), references, ..manifest(repository, bytes) });
    }

    fn scope(include: &str) -> Scope {
        let tags = TagScope::new([TagFilter::parse(include).unwrap()], []).unwrap();
        Scope { source: 1, destination: 2, since: Since::default(), tags: tags.into() }
    }

    fn is_sent(world: &World, repository: &RepositoryKey, scope: &Scope, bytes: &[u8]) -> bool {
        let digest = Digest::sha256(bytes);
        let row = manifest::read(&world.tables, repository, &digest).unwrap();
        read(&world.tables, repository, &digest).are_in(scope, &row)
    }

    // A tag leads to what it names, and to all below it; what is attached to another manifest needs none; without a
    // filter nothing does.
    #[test]
    fn what_tags_lead_to() {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"child", &[], &[]);
        put(&mut world, &repository, b"other", &["dev"], &[]);
        put(&mut world, &repository, b"inner", &[], &[b"child"]);
        put(&mut world, &repository, b"outer", &["v1"], &[b"inner", b"other"]);
        put(&mut world, &repository, b"untagged", &[], &[b"child"]);
        let subject = Some(Digest::sha256(b"untagged"));
        world.ok(PutManifest { subject, ..manifest(&repository, b"signature") });
        let (some, others) = (scope("v*"), scope("dev"));
        let all = Scope { tags: SentTags::ALL, ..scope("*") };
        let late = Scope { since: Since { own: u64::MAX, ..Since::default() }, ..scope("v*") };
        let sent = |scope: &Scope| {
            let names = [&b"child"[..], b"other", b"inner", b"outer", b"untagged", b"signature"];
            names.map(|bytes| is_sent(&world, &repository, scope, bytes))
        };
        assert_eq!(sent(&some), [true, true, true, true, false, true]);
        assert_eq!(sent(&others), [false, true, false, false, false, true]);
        assert_eq!((sent(&all), sent(&late)), ([true; 6], [false; 6]));
    }

    // What has more tags than are looked at counts as led to by all of them.
    #[test]
    fn very_many_tags() {
        let (mut world, repository) = world();
        let names: Vec<String> = (0..=TAGS_ABOVE_MAX).map(|number| format!("dev{number}")).collect();
        for names in names.chunks(TAGS_PER_PUSH_MAX) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            assert!(!is_cut(&world, &repository));
            put(&mut world, &repository, b"child", &names, &[]);
        }
        put(&mut world, &repository, b"index", &[], &[b"child"]);
        assert!(is_cut(&world, &repository));
        assert!(is_sent(&world, &repository, &scope("v*"), b"child"));
        assert!(!is_sent(&world, &repository, &scope("v*"), b"index"));
    }

    // Indexes that all name each other's children are looked at once each, and all they name counts: what is read stays
    // bounded however they are woven.
    #[test]
    fn woven_indexes() {
        // each index names all those of the level below: WIDTH² references between two levels
        const WIDTH: usize = 30;
        let levels = REFERENCES_ABOVE_MAX / (WIDTH * WIDTH) + 1;
        let (mut world, repository) = world();
        let names = |level: usize| (0..WIDTH).map(|at| format!("{level}.{at}").into_bytes()).collect::<Vec<_>>();
        put(&mut world, &repository, b"child", &[], &[]);
        names(0).iter().for_each(|bytes| put(&mut world, &repository, bytes, &[], &[b"child"]));
        for level in 1..=levels {
            let below = names(level - 1);
            let below: Vec<&[u8]> = below.iter().map(Vec::as_slice).collect();
            assert!(!is_cut(&world, &repository), "level {level}");
            names(level).iter().for_each(|bytes| put(&mut world, &repository, bytes, &[], &below));
        }
        assert!(is_cut(&world, &repository), "{levels} levels above the first one");
        assert!(is_sent(&world, &repository, &scope("v*"), b"child"));
    }

    fn is_cut(world: &World, repository: &RepositoryKey) -> bool {
        read(&world.tables, repository, &Digest::sha256(b"child")).is_cut()
    }
}
