//! Does each tag reach a whole image? Follows every tag through its manifests to the blobs, as a client's pull would.

use std::collections::BTreeMap;

use super::super::keys::{self, SLOTS, Slot, table};
use super::super::link::LinkRow;
use super::super::manifest::{ManifestRow, ReferencesRow};
use super::super::repository::RepositoryRow;
use super::super::tables::{Pages, TablesRead};
use super::super::tag::TagRow;
use super::{PAGE_ROWS, get, value};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RepositoryId;
use crate::vocabulary::manifest::{ContentKind, Referenced};

/// Indexes inside indexes that are followed; deeper ones are told as broken.
const DEPTH_MAX: usize = 64;

/// A tag that does not reach a whole image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenTag {
    /// Name of the repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// What is missing.
    pub text: String,
}

/// What following all tags came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagReport {
    /// Repositories that are not deleted.
    pub repositories: u64,
    /// Their tags.
    pub tags: u64,
    /// Tags that do not reach a whole image.
    pub broken: u64,
    /// The first of them.
    pub examples: Vec<BrokenTag>,
}

/// Follows every tag of every repository. `is_lost` tells of a blob whether no good copy is left.
pub fn tags(tables: &impl TablesRead, is_lost: impl Fn(&Digest) -> bool, examples_max: usize) -> TagReport {
    let mut report = TagReport::default();
    let rows = |prefix| Pages::under(prefix, PAGE_ROWS);
    for slot in 0..SLOTS {
        rows(keys::of_slot(slot, table::REPOSITORY)).each(tables, |key, bytes| {
            let Some(id) = keys::repository_in(key) else { return };
            let Ok(row) = value::<RepositoryRow>(bytes) else { return };
            if row.deleted {
                return;
            }
            report.repositories += 1;
            let mut walk = Walk { tables, slot, id, is_lost: &is_lost, known: BTreeMap::new() };
            rows(keys::of_repository(slot, table::TAG, id)).each(tables, |key, bytes| {
                report.tags += 1;
                let found = match value::<TagRow>(bytes) {
                    Ok(tag) => walk.manifest(&tag.digest, 0),
                    Err(text) => Some(text),
                };
                let Some(text) = found else { return };
                report.broken += 1;
                if report.examples.len() < examples_max {
                    let tag = keys::tag_in(key).unwrap_or("?").to_owned();
                    report.examples.push(BrokenTag { repository: row.name.as_str().to_owned(), tag, text });
                }
            });
        });
    }
    report
}

/// Follows the manifests of one repository; each is looked at once.
struct Walk<'a, T, L> {
    tables: &'a T,
    slot: Slot,
    id: RepositoryId,
    is_lost: &'a L,
    /// What is wrong with each manifest seen so far.
    known: BTreeMap<Digest, Option<String>>,
}

impl<T: TablesRead, L: Fn(&Digest) -> bool> Walk<'_, T, L> {
    /// What is missing of a manifest or below it; `None` if it is whole.
    fn manifest(&mut self, digest: &Digest, depth: usize) -> Option<String> {
        if let Some(known) = self.known.get(digest) {
            return known.clone();
        }
        let found = if depth > DEPTH_MAX { Some(format!("{digest} lies too deep")) } else { self.look(digest, depth) };
        self.known.insert(*digest, found.clone());
        found
    }

    fn look(&mut self, digest: &Digest, depth: usize) -> Option<String> {
        let by_digest = |table| keys::by_digest(self.slot, table, self.id, digest);
        let Some(row) = get::<ManifestRow>(self.tables, &by_digest(table::MANIFEST)) else {
            return Some(format!("manifest {digest} is not here"));
        };
        let bytes = self.tables.get(&by_digest(table::MANIFEST_BYTES));
        let is_whole = match row.inline {
            true => bytes.is_some_and(|bytes| Digest::of(digest.algorithm(), &bytes) == *digest),
            false => !(self.is_lost)(digest),
        };
        if !is_whole {
            return Some(format!("the bytes of manifest {digest} are lost"));
        }
        let Some(references) = get::<ReferencesRow>(self.tables, &by_digest(table::MANIFEST_REFERENCES)) else {
            return Some(format!("manifest {digest} has no list of what it names"));
        };
        references.0.iter().find_map(|reference| self.content(&row, reference, depth))
    }

    fn content(&mut self, row: &ManifestRow, reference: &Referenced, depth: usize) -> Option<String> {
        let content = &reference.digest;
        let has = |table| self.tables.contains(&keys::by_digest(self.slot, table, self.id, content));
        match reference.kind {
            ContentKind::Foreign => None,
            ContentKind::Manifest if row.sparse && !has(table::MANIFEST) => None,
            ContentKind::Manifest => self.manifest(content, depth + 1),
            ContentKind::Blob if row.sparse && !has(table::LINK) => None,
            ContentKind::Blob => {
                let key = keys::by_digest(self.slot, table::LINK, self.id, content);
                match get::<LinkRow>(self.tables, &key) {
                    None => Some(format!("blob {content} is not linked in the repository")),
                    Some(_) => (self.is_lost)(content).then(|| format!("no good copy of blob {content} is left")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::repository::Settings;
    use crate::metadata::tables::Tables;
    use crate::metadata::testing::{World, manifest, reference, tags as names};

    fn broken(world: &World, lost: &[Digest]) -> Vec<(String, String)> {
        let report = tags(&world.tables, |digest| lost.contains(digest), 10);
        assert_eq!(report.broken, report.examples.len() as u64);
        report.examples.into_iter().map(|broken| (broken.tag, broken.text)).collect()
    }

    // An image behind an index is reached from its tag; a lost blob, a lost manifest and a lost row are each told, for
    // the tags that need them and no other.
    #[test]
    fn what_is_lost_is_told() {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("team/app", 1, Settings::default());
        let layer = world.push_blob(&repository, b"layer", 1, &[1, 2]);
        let put = |world: &mut World, bytes: &[u8], references, tag: &[&str]| {
            let mut command = manifest(&repository, bytes);
            command.references = references;
            command.tags = names(tag);
            let digest = command.digest;
            world.ok(command);
            digest
        };
        let image = put(&mut world, b"image", vec![reference(b"layer", ContentKind::Blob)], &[]);
        let index = put(&mut world, b"index", vec![reference(b"image", ContentKind::Manifest)], &["all"]);
        put(&mut world, b"alone", Vec::new(), &["alone"]);
        let report = tags(&world.tables, |_| false, 10);
        assert_eq!((report.repositories, report.tags, report.broken), (1, 2, 0));
        assert_eq!(broken(&world, &[layer]), [("all".into(), format!("no good copy of blob {layer} is left"))]);

        let key = |table, digest| keys::by_digest(repository.slot(), table, repository.id, &digest);
        for (table, digest, told) in [
            (table::MANIFEST, image, format!("manifest {image} is not here")),
            (table::MANIFEST_BYTES, image, format!("the bytes of manifest {image} are lost")),
            (table::MANIFEST_REFERENCES, index, format!("manifest {index} has no list of what it names")),
            (table::LINK, layer, format!("blob {layer} is not linked in the repository")),
        ] {
            let mut damaged = World { tables: world.tables.clone(), ..World::empty() };
            damaged.tables.delete(key(table, digest));
            assert_eq!(broken(&damaged, &[]), [("all".to_owned(), told)]);
        }
        let mut damaged = World { tables: world.tables.clone(), ..World::empty() };
        damaged.tables.put(key(table::MANIFEST_BYTES, image), b"imagf".to_vec());
        assert_eq!(broken(&damaged, &[]).len(), 1);
    }

    // Where a repository allows it, what never came is not missed; what came and was lost is.
    #[test]
    fn sparse_images() {
        let mut world = World::region(&["a", "b", "c"]);
        let repository = world.repository("sparse", 1, Settings { sparse: true, ..Settings::default() });
        let mut command = manifest(&repository, b"image");
        command.references = vec![reference(b"here", ContentKind::Blob), reference(b"never", ContentKind::Blob)];
        command.tags = names(&["t"]);
        let here = world.push_blob(&repository, b"here", 1, &[1, 2]);
        world.ok(command);
        assert_eq!(broken(&world, &[]), []);
        assert_eq!(broken(&world, &[here]).len(), 1);
    }

    // A state with a row in every table has no broken tag.
    #[test]
    fn a_whole_state() {
        let world = World::busy();
        let report = tags(&world.tables, |_| false, 10);
        assert_eq!((report.broken, report.tags > 0), (0, true), "{report:?}");
    }
}
