//! Changes that were made in another region, applied here: by rank, in any order, any number of times.
//!
//! Every path that brings a record from elsewhere passes here, so that none undoes a newer change or a delete. A record
//! that ranks below what is here answers [`Reply::Superseded`]. Source: consensus-and-faults §6.3.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::command::Apply;
use super::keys::Slot;
use super::manifest::{self, PutManifest};
use super::reply::Reply;
use super::repository::{self, RepositoryKey};
use super::tables::{Tables, TablesRead};
use super::tag;
use super::{clock, gone, untagged, usage};
use crate::decide::quota::Usage;
use crate::decide::replication::rank::Rank;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::CLOCK_AHEAD_MS_MAX;
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// What a tag's register is here.
pub fn tag_rank(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Rank {
    match tag::read(tables, repository, tag) {
        Some(row) => Rank::of_set(row.version, row.base),
        None => match tag::last_delete(tables, repository, tag) {
            (0, _) => Rank::NEVER,
            (_, version) => Rank::of_delete(version),
        },
    }
}

/// What the register of a manifest's presence is here.
pub fn manifest_rank(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Rank {
    match manifest::read(tables, repository, digest) {
        Some(row) => Rank::of_set(row.presence, row.presence),
        None => gone::read(tables, repository, digest).map_or(Rank::NEVER, |row| Rank::of_delete(row.version)),
    }
}

/// Clocks of two regions differ; one that is far ahead would win every conflict. And what is made here next must be
/// newer than what has come.
fn follow(tables: &mut impl Tables, context: &Context<'_>, slot: Slot, version: Version) -> Result<(), Refusal> {
    if version.hlc > context.clock.now_ms.saturating_add(CLOCK_AHEAD_MS_MAX) {
        let detail = format!(
            "the change is of {} ms after this region's time: the clock of the other region is ahead, set it right",
            version.hlc - context.clock.now_ms
        );
        return Err(Refusal::ParameterInvalid { parameter: "version".to_owned(), detail });
    }
    clock::raise_hlc(tables, slot, version.hlc);
    Ok(())
}

/// A manifest was put in another region. Everything it names must be here before, as for any put.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutRemoteManifest {
    /// The manifest, without tags and conditions.
    pub put: PutManifest,
    /// Version of its presence.
    pub presence: Version,
}

impl Apply for PutRemoteManifest {
    fn slot(&self) -> Slot {
        self.put.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let row = repository::require(tables, &self.put.repository)?;
        if !self.put.tags.is_empty() || self.put.expected.is_some() {
            let detail = "tags come on their own".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "tags".to_owned(), detail });
        }
        let rank = Rank::of_set(self.presence, self.presence);
        if rank <= manifest_rank(tables, &self.put.repository, &self.put.digest) {
            return Ok(Reply::Superseded);
        }
        follow(tables, context, self.put.slot(), self.presence)?;
        self.put.place(context, tables, &row, Some(self.presence))
    }
}

/// A tag was set in another region. Its manifest must be here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetRemoteTag {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub tag: Tag,
    /// What it names.
    pub digest: Digest,
    /// Version of the setting.
    pub version: Version,
    /// What it ranks by.
    pub base: Version,
}

impl Apply for SetRemoteTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let SetRemoteTag { repository, tag, digest, version, base } = self;
        repository::require(tables, &repository)?;
        if base > version {
            let detail = "a setting does not follow a later one".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "base".to_owned(), detail });
        }
        if Rank::of_set(version, base) <= tag_rank(tables, &repository, &tag) {
            return Ok(Reply::Superseded);
        }
        if manifest::read(tables, &repository, &digest).is_none() {
            // deleted here since: a tag can't name it, and the delete is the newer word
            return match gone::read(tables, &repository, &digest) {
                Some(gone) if gone.version > version => Ok(Reply::Superseded),
                Some(_) | None => Err(Refusal::ManifestUnknown { reference: Reference::Digest(digest) }),
            };
        }
        follow(tables, context, repository.slot(), version)?;
        let before = tag::read(tables, &repository, &tag);
        if before.is_none() {
            usage::grow(tables, context, &repository, Usage { bytes: 0, tags: 1 })?;
        }
        let moved = tag::place(tables, context, &repository, before, &tag, &digest, (version, base));
        untagged::note(tables, context, &repository, &digest);
        if let Some(previous) = moved.previous {
            untagged::note(tables, context, &repository, &previous);
        }
        Ok(Reply::Manifest { created: false, tags: vec![moved] })
    }
}

/// A tag was deleted in another region.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropRemoteTag {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub tag: Tag,
    /// Version of the delete.
    pub version: Version,
}

impl Apply for DropRemoteTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let DropRemoteTag { repository, tag, version } = self;
        repository::require(tables, &repository)?;
        if Rank::of_delete(version) <= tag_rank(tables, &repository, &tag) {
            return Ok(Reply::Superseded);
        }
        follow(tables, context, repository.slot(), version)?;
        let Some(row) = tag::read(tables, &repository, &tag) else {
            // not here, and yet the newer word: remembered, or an older setting on its way would bring it to life
            tag::note_absent(tables, context, &repository, &tag, version);
            return Ok(Reply::Deleted { tags: Vec::new() });
        };
        let moved = tag::drop_tag(tables, context, &repository, &tag, &row, version);
        untagged::note(tables, context, &repository, &row.digest);
        usage::shrink(tables, context, &repository, Usage { bytes: 0, tags: 1 });
        Ok(Reply::Deleted { tags: vec![moved] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tag_move::Mutability;
    use crate::metadata::manifest::DeleteManifest;
    use crate::metadata::repository::Settings;
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, peer, tags};

    fn world() -> (World, RepositoryKey) {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let repository = world.repository("r", 1, Default::default());
        (world, repository)
    }

    fn version(hlc: u64) -> Version {
        Version { home_epoch: 0, hlc, region: 2 }
    }

    fn tag() -> Tag {
        tags(&["t"]).remove(0)
    }

    fn here(repository: &RepositoryKey, bytes: &[u8], hlc: u64) -> PutRemoteManifest {
        PutRemoteManifest { put: manifest(repository, bytes), presence: version(hlc) }
    }

    fn set(repository: &RepositoryKey, bytes: &[u8], hlc: u64, base: Option<u64>) -> SetRemoteTag {
        let (repository, digest, base) = (repository.clone(), Digest::sha256(bytes), base.unwrap_or(hlc));
        let base = if base == 0 { Version::default() } else { version(base) };
        SetRemoteTag { repository, tag: tag(), digest, version: version(hlc), base }
    }

    fn drop_tag(repository: &RepositoryKey, hlc: u64) -> DropRemoteTag {
        DropRemoteTag { repository: repository.clone(), tag: tag(), version: version(hlc) }
    }

    fn named(world: &World, repository: &RepositoryKey) -> Option<Digest> {
        tag::read(&world.tables, repository, &tag()).map(|row| row.digest)
    }

    // The newer setting stays, whichever comes first, and a repeat changes nothing; what is set here next is newer.
    #[test]
    fn newer_settings_stay() {
        let (mut world, repository) = world();
        for (bytes, hlc) in [(b"1", 10), (b"2", 20)] {
            world.ok(here(&repository, bytes, hlc));
        }
        assert_eq!(world.ok(here(&repository, b"1", 10)), Reply::Superseded);
        world.ok(set(&repository, b"2", 20, None));
        let rows = world.tables.clone();
        assert_eq!(world.ok(set(&repository, b"1", 10, None)), Reply::Superseded);
        assert_eq!(world.ok(set(&repository, b"2", 20, None)), Reply::Superseded);
        let tags_of = |tables: &crate::metadata::tables::MemoryTables| tag::list(tables, &repository, None, 9);
        assert_eq!(tags_of(&rows), tags_of(&world.tables));
        world.ok(set(&repository, b"2", world.at_ms + 90_000, None));
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"3") });
        let row = tag::read(&world.tables, &repository, &tag()).unwrap();
        assert!(row.digest == Digest::sha256(b"3") && row.version.hlc > 90_000 && row.version.region == 1);
    }

    // R8: no delete is undone by a setting older than it, also where the tag never was; a later setting begins anew.
    #[test]
    fn deletes_stay() {
        let (mut world, repository) = world();
        world.ok(here(&repository, b"1", 10));
        world.ok(drop_tag(&repository, 30));
        assert_eq!(world.ok(set(&repository, b"1", 20, None)), Reply::Superseded);
        world.ok(set(&repository, b"1", 40, None));
        assert_eq!(world.ok(drop_tag(&repository, 35)), Reply::Superseded);
        world.ok(drop_tag(&repository, 50));
        assert_eq!(named(&world, &repository), None);
        assert_eq!(world.ok(drop_tag(&repository, 50)), Reply::Superseded);
        // a delete made here
        world.ok(set(&repository, b"1", 60, None));
        world.ok(DeleteTag { repository: repository.clone(), tag: tag(), expected: None });
        assert_eq!(world.ok(set(&repository, b"1", 61, None)), Reply::Superseded);
    }

    // A manifest deleted here does not come back by an older presence, nor does a tag on it; a newer one brings it.
    #[test]
    fn deleted_manifests_stay_away() {
        let (mut world, repository) = world();
        world.ok(here(&repository, b"1", 10));
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"1") });
        assert_eq!(world.ok(here(&repository, b"1", 20)), Reply::Superseded);
        assert_eq!(world.ok(set(&repository, b"1", 20, None)), Reply::Superseded);
        let later = world.at_ms + 1000;
        assert!(matches!(world.refused(set(&repository, b"1", later, None)), Refusal::ManifestUnknown { .. }));
        world.ok(here(&repository, b"1", later));
        assert_eq!(gone::read(&world.tables, &repository, &Digest::sha256(b"1")), None);
        world.ok(set(&repository, b"1", later, None));
        assert_eq!(named(&world, &repository), Some(Digest::sha256(b"1")));
    }

    // A8, §6.3: of two writers of a fixed tag the first wins in both regions, whoever is told later; its journal says
    // what happened.
    #[test]
    fn first_writer_of_a_fixed_tag() {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let settings = Settings { mutability: Mutability::Immutable, sparse: false };
        let repository = world.repository("r", 1, settings);
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"ours") });
        let ours = tag::read(&world.tables, &repository, &tag()).unwrap();
        assert_eq!(ours.base, Version::default());
        for bytes in [b"theirs", b"late!!"] {
            world.ok(here(&repository, bytes, 10));
        }
        assert_eq!(world.ok(set(&repository, b"late!!", ours.version.hlc + 5, Some(0))), Reply::Superseded);
        world.ok(set(&repository, b"theirs", ours.version.hlc - 5, Some(0)));
        assert_eq!(named(&world, &repository), Some(Digest::sha256(b"theirs")));
        // the same again from us is refused at our door, and a setting of a life before this one by rank
        let again = PutManifest { tags: vec![tag()], ..manifest(&repository, b"ours") };
        assert!(matches!(world.refused(again), Refusal::TagImmutable { .. }));
    }

    // What lies too far in the future is refused, before anything changes.
    #[test]
    fn clocks_ahead() {
        let (mut world, repository) = world();
        let ahead = world.at_ms + CLOCK_AHEAD_MS_MAX + 10_000;
        assert!(matches!(world.refused(here(&repository, b"1", ahead)), Refusal::ParameterInvalid { .. }));
        world.ok(here(&repository, b"1", world.at_ms + CLOCK_AHEAD_MS_MAX));
        assert!(matches!(world.refused(set(&repository, b"1", ahead, None)), Refusal::ParameterInvalid { .. }));
        assert!(matches!(world.refused(drop_tag(&repository, ahead)), Refusal::ParameterInvalid { .. }));
        assert!(matches!(world.refused(set(&repository, b"1", 9, Some(10))), Refusal::ParameterInvalid { .. }));
        let tagged = PutRemoteManifest {
            put: PutManifest { tags: vec![tag()], ..manifest(&repository, b"2") },
            presence: version(10),
        };
        assert!(matches!(world.refused(tagged), Refusal::ParameterInvalid { .. }));
    }
}
