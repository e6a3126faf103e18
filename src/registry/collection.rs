//! Garbage collection as an operator sees it: where it stands, who uses a blob, what becomes of it and when.

use std::collections::BTreeSet;

use registry_core::metadata::blob::{self, BlobState};
use registry_core::metadata::clock::{self, ClockRow};
use registry_core::metadata::gc::{self, ControlGc, GcRow};
use registry_core::metadata::repository::{self, RepositoryKey};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::{link, manifest, tag};
use registry_core::vocabulary::ids::Revision;
use registry_core::vocabulary::limits::{TICKS_PER_GRACE, WALK_DEPTH_MAX};
use registry_core::vocabulary::{Digest, Refusal, Tag};

use super::uploads::refusal;
use super::{At, Consistency, Registry};
use crate::metadata::revision;

/// Repositories shown that use a blob.
const REPOSITORIES_MAX: usize = 100;
/// Manifests shown of one repository, and tags of one manifest.
const HOLDERS_MAX: usize = 100;
const TAGS_MAX: usize = 20;

/// Where collection stands.
#[derive(Clone, Debug)]
pub struct Collection {
    /// What the cycles wrote down, and what operators want.
    pub row: GcRow,
    /// The replicated clock: grace counts in its ticks.
    pub clock: ClockRow,
}

impl Collection {
    /// The grace time, milliseconds of ticks.
    pub fn grace_ms(&self) -> u64 {
        self.clock.tick_ms.saturating_mul(TICKS_PER_GRACE)
    }
}

/// A manifest that keeps a blob, at the end of a way up from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The manifest.
    pub digest: Digest,
    /// It names the blob itself; otherwise it is an index above one that does.
    pub is_direct: bool,
    /// Some of its tags.
    pub tags: Vec<Tag>,
}

/// A repository that uses a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUse {
    /// Which.
    pub repository: RepositoryKey,
    /// It links the blob; a use without a link is on its way out.
    pub is_linked: bool,
    /// Ticks until the link may go, if no manifest names the blob.
    pub ticks_left: Option<u64>,
    /// Manifests that name it, and the indexes above them.
    pub holders: Vec<Holder>,
}

/// What becomes of a blob next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// Manifests name it: it stays.
    Stays,
    /// No manifest names it: repositories let it go after so many ticks at the earliest.
    Unlinked(u64),
    /// Nobody uses it: the next cycle condemns it.
    Condemned,
    /// It is condemned: it is swept after so many ticks, unless somebody uses it again.
    Swept(u64),
}

/// Who uses a blob, and what becomes of it.
#[derive(Clone, Debug)]
pub struct BlobUses {
    /// Which blob.
    pub digest: Digest,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The tick it was condemned in.
    pub condemned_tick: Option<u64>,
    /// The replicated clock.
    pub clock: ClockRow,
    /// Some of the repositories that use it.
    pub repositories: Vec<RepositoryUse>,
    /// There may be more than those.
    pub is_cut: bool,
    /// What happens next.
    pub next: NextStep,
}

impl Registry {
    /// Lets this life of the cluster delete in the bucket what an earlier one has stored. Refuses with `Unsupported`
    /// where blobs are on disks, with `Unavailable` while the bucket is out of reach.
    pub async fn adopt_bucket(&self) -> Result<(), Refusal> {
        if !self.transfer().shares_bytes() {
            let detail = "the blobs of this cluster are on the disks of its nodes: there is no bucket".to_owned();
            return Err(Refusal::Unsupported { detail });
        }
        self.transfer().adopt().await.map_err(|error| refusal(&error))
    }

    /// Where collection stands.
    pub async fn collection(&self, consistency: Consistency) -> Result<At<Collection>, Refusal> {
        let read = self.metadata().read(consistency, |view| {
            let value = Collection { row: gc::read(view), clock: clock::read(view) };
            At { value, revision: revision(view) }
        });
        Ok(read.await?)
    }

    /// Pauses collection, resumes it, or has a cycle begin at once.
    pub async fn control_collection(&self, principal: &str, wish: ControlGc) -> Result<Revision, Refusal> {
        Ok(self.metadata().propose(principal, vec![wish.into()]).await?.revision)
    }

    /// Who uses a blob, and what becomes of it. Refuses with `BlobUnknown`.
    pub async fn blob_uses(&self, digest: &Digest, consistency: Consistency) -> Result<At<BlobUses>, Refusal> {
        let found = self
            .metadata()
            .read(consistency, |view| Some(At { value: blob_uses(view, digest)?, revision: revision(view) }));
        found.await?.ok_or(Refusal::BlobUnknown { digest: *digest })
    }
}

fn blob_uses(tables: &impl TablesRead, digest: &Digest) -> Option<BlobUses> {
    let row = blob::read(tables, digest)?;
    let clock = clock::read(tables);
    let users = blob::users(tables, digest, REPOSITORIES_MAX + 1);
    let is_cut = users.len() > REPOSITORIES_MAX;
    let shown = users.into_iter().take(REPOSITORIES_MAX);
    let repositories: Vec<RepositoryUse> = shown.map(|key| repository_use(tables, &clock, key, digest)).collect();
    let condemned_tick = match row.state {
        BlobState::Present => None,
        BlobState::Condemned(tick) => Some(tick),
    };
    let next = next_step(&clock, condemned_tick, &repositories);
    let size_bytes = row.size_bytes;
    Some(BlobUses { digest: *digest, size_bytes, condemned_tick, clock, repositories, is_cut, next })
}

fn next_step(clock: &ClockRow, condemned_tick: Option<u64>, repositories: &[RepositoryUse]) -> NextStep {
    if let Some(tick) = condemned_tick {
        return NextStep::Swept(clock.grace_left(tick));
    }
    if repositories.is_empty() {
        return NextStep::Condemned;
    }
    if repositories.iter().any(|shown| !shown.holders.is_empty()) {
        return NextStep::Stays;
    }
    // it goes when the last link has gone
    NextStep::Unlinked(repositories.iter().filter_map(|shown| shown.ticks_left).max().unwrap_or(0))
}

fn repository_use(
    tables: &impl TablesRead,
    clock: &ClockRow,
    repository: RepositoryKey,
    digest: &Digest,
) -> RepositoryUse {
    let is_live = repository::live(tables, &repository).is_some();
    let link = link::read(tables, &repository, digest).filter(|_| is_live);
    let holders = if is_live { holders(tables, &repository, digest) } else { Vec::new() };
    let free = link.filter(|_| holders.is_empty());
    RepositoryUse {
        is_linked: link.is_some(),
        ticks_left: free.map(|link| clock.grace_left(link.touched_tick)),
        repository,
        holders,
    }
}

/// Manifests that name a blob, then the indexes above those, each once.
fn holders(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Vec<Holder> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::from([*digest]));
    let mut level = manifest::naming(tables, repository, digest, HOLDERS_MAX);
    // a manifest in the blob plane holds itself
    if manifest::read(tables, repository, digest).is_some() {
        seen.remove(digest);
    }
    for depth in 0..=WALK_DEPTH_MAX {
        let mut above = Vec::new();
        for digest in level {
            if found.len() >= HOLDERS_MAX || !seen.insert(digest) {
                continue;
            }
            let tags = tag::of_manifest(tables, repository, &digest, TAGS_MAX);
            found.push(Holder { digest, is_direct: depth == 0, tags });
            above.extend(manifest::naming(tables, repository, &digest, HOLDERS_MAX));
        }
        level = above;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry_core::metadata::blob::DropUse;
    use registry_core::metadata::link::Unlink;
    use registry_core::metadata::manifest::{DeleteManifest, PutManifest};
    use registry_core::metadata::sweep::Condemn;
    use registry_core::metadata::testing::{World, manifest as put, mount, reference, tags, upload};
    use registry_core::vocabulary::ids::UseId;
    use registry_core::vocabulary::manifest::ContentKind;

    fn uses(world: &World, digest: &Digest) -> BlobUses {
        blob_uses(&world.tables, digest).unwrap()
    }

    // Who keeps a blob is told up to the tags; what becomes of it follows its way out, with the time that is left.
    #[test]
    fn from_use_to_sweep() {
        let mut world = World::region(&["a", "b"]);
        let one = world.repository("one", 1, Default::default());
        let two = world.repository("two", 2, Default::default());
        let digest = world.push_blob(&one, b"layer", 1, &[1, 2]);
        assert_eq!(world.propose(mount(&two, b"layer", 2)).refusal, None);
        let image = PutManifest { references: vec![reference(b"layer", ContentKind::Blob)], ..put(&one, b"image") };
        let index = PutManifest {
            references: vec![reference(b"image", ContentKind::Manifest)],
            tags: tags(&["v1"]),
            ..put(&one, b"index")
        };
        world.ok(image.clone());
        world.ok(index.clone());
        let shown = uses(&world, &digest);
        assert_eq!((shown.next, shown.repositories.len()), (NextStep::Stays, 2));
        let holders = &shown.repositories[0].holders;
        assert_eq!((holders[0].digest, holders[0].is_direct, holders[0].tags.len()), (image.digest, true, 0));
        assert_eq!((holders[1].digest, holders[1].is_direct, &holders[1].tags), (index.digest, false, &tags(&["v1"])));
        assert_eq!(shown.repositories[1].ticks_left, Some(TICKS_PER_GRACE + 1));
        for digest in [index.digest, image.digest] {
            world.ok(DeleteManifest { repository: one.clone(), digest });
        }
        world.pass(3);
        assert_eq!(uses(&world, &digest).next, NextStep::Unlinked(TICKS_PER_GRACE - 2));
        for (repository, hold) in [(one, 1), (two, 2)] {
            let hold = UseId(hold);
            world.ok(Unlink { repository: repository.clone(), digest, hold });
            world.ok(DropUse { digest, repository, hold });
        }
        assert_eq!(uses(&world, &digest).next, NextStep::Condemned);
        world.ok(Condemn { digest, generation: upload(1), size_bytes: 5 });
        assert_eq!(uses(&world, &digest).next, NextStep::Swept(TICKS_PER_GRACE + 1));
    }

    // A large manifest that holds itself is shown as its own holder, and the walk ends.
    #[test]
    fn a_manifest_that_holds_itself() {
        let mut world = World::region(&["a", "b"]);
        let one = world.repository("one", 1, Default::default());
        let digest = world.push_blob(&one, b"large", 1, &[1, 2]);
        world.ok(PutManifest { inline: None, tags: tags(&["v1"]), ..put(&one, b"large") });
        let holders = uses(&world, &digest).repositories.remove(0).holders;
        assert_eq!((holders.len(), holders[0].digest), (1, digest));
    }
}
