//! Changes that were made in another region, applied here: by rank, in any order, any number of times.
//!
//! Every path that brings a record from elsewhere passes here, so that none undoes a newer change or a delete. A record
//! that ranks below what is here answers [`Reply::Superseded`]. Source: consensus-and-faults §6.3.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::command::Apply;
use super::conflict::Arriving;
use super::ended::{self, EndedRow};
use super::gone::{self, Cause};
use super::keys::Slot;
use super::manifest::{self, ManifestRow, PutManifest};
use super::reply::Reply;
use super::repository::{self, RepositoryKey, Settings};
use super::settings::Home;
use super::tables::{Tables, TablesRead};
use super::tag;
use super::{clock, cluster, offer, peer, replication_rules, settings, untagged, usage};
use crate::decide::quota::Usage;
use crate::decide::replication::rank::Rank;
use crate::mutants::{self, Mutant};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::limits::{CLOCK_AHEAD_MS_MAX, HOME_EPOCHS_AHEAD_MAX, TAGS_PER_DELETE_MAX};
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// What a tag's register is here. A row that is missing although the journal says what the tag names is damage, and no
/// delete.
pub fn tag_rank(tables: &impl TablesRead, repository: &RepositoryKey, tag: &Tag) -> Rank {
    if let Some(row) = tag::read(tables, repository, tag) {
        return Rank::of_set(row.version, row.base);
    }
    if let Some(ended) = ended::read(tables, repository, tag) {
        return ended.rank();
    }
    match tag::last_change(tables, repository, tag) {
        Some((_, last)) if last.digest.is_none() && !mutants::is_on(Mutant::ForgetDeletes) => {
            Rank::of_delete(last.version)
        }
        Some(_) | None => Rank::NEVER,
    }
}

/// What the register of a manifest's presence is here. One that went by age is as one that never was: a tag of another
/// region may name it.
pub fn manifest_rank(tables: &impl TablesRead, repository: &RepositoryKey, digest: &Digest) -> Rank {
    match manifest::read(tables, repository, digest) {
        Some(row) => Rank::of_set(row.presence, row.presence),
        None => gone::read(tables, repository, digest).map_or(Rank::NEVER, |row| Rank::of_delete(row.version)),
    }
}

/// What the register of a repository's settings is here.
pub fn settings_rank(tables: &impl TablesRead, repository: &RepositoryKey) -> Rank {
    settings::version(tables, repository).map_or(Rank::NEVER, |last| Rank::of_set(last, last))
}

/// Clocks of two regions differ; one that is far ahead would win every conflict, and so would one that says it has had
/// many homes. And what is made here next must be newer than what has come.
fn follow(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    version: Version,
) -> Result<(), Refusal> {
    let latest = clock::hlc_at(context.clock.now_ms.saturating_add(CLOCK_AHEAD_MS_MAX), context.level);
    if version.hlc > latest {
        let detail = format!(
            "the change is of {} ms after this region's time: the clock of the other region is ahead, set it right",
            (version.hlc - latest) / 1000 + CLOCK_AHEAD_MS_MAX
        );
        return Err(Refusal::ParameterInvalid { parameter: "version".to_owned(), detail });
    }
    let known = settings::latest_epoch(tables, repository);
    if version.home_epoch > known.saturating_add(HOME_EPOCHS_AHEAD_MAX) {
        let detail =
            format!("the change is of home {} of its repository, and {known} are known here", version.home_epoch);
        return Err(Refusal::ParameterInvalid { parameter: "version".to_owned(), detail });
    }
    clock::raise_hlc(tables, repository.slot(), version.hlc);
    settings::raise_epoch(tables, repository, version.home_epoch);
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
        follow(tables, context, &self.put.repository, self.presence)?;
        self.put.place(context, tables, &row, Some(self.presence))
    }
}

fn no_base() -> Refusal {
    let detail = "a setting does not follow a later one".to_owned();
    Refusal::ParameterInvalid { parameter: "base".to_owned(), detail }
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
    /// Version of what its maker replaced; `None` where that is not known.
    pub previous: Option<Version>,
}

impl Apply for SetRemoteTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let SetRemoteTag { repository, tag, digest, version, base, previous } = self;
        repository::require(tables, &repository)?;
        if base > version {
            return Err(no_base());
        }
        let arriving = Arriving { repository: &repository, tag: &tag, digest: Some(digest), version, previous };
        if Rank::of_set(version, base) <= tag_rank(tables, &repository, &tag) {
            arriving.loses(tables, context);
            return Ok(Reply::Superseded);
        }
        if gone::read(tables, &repository, &digest).is_some_and(|gone| gone.is_deleted_after(version)) {
            // its manifest was deleted since, and the tag with it, as where the delete came after the setting
            return Ok(end_setting(tables, context, Arriving { digest: None, ..arriving }, base));
        }
        let Some(row) = manifest::read(tables, &repository, &digest) else {
            return Err(Refusal::ManifestUnknown { reference: Reference::Digest(digest) });
        };
        follow(tables, context, &repository, version)?;
        // the put that set the tag renewed its manifest; that change may come later
        manifest::renew(tables, context, &repository, &digest, row, version);
        let before = tag::read(tables, &repository, &tag);
        match &before {
            Some(row) => arriving.overrides(tables, context, row),
            None => usage::grow(tables, context, &repository, Usage { bytes: 0, tags: 1 })?,
        }
        let moved = tag::place(tables, context, &repository, before, &tag, &digest, (version, base));
        untagged::note(tables, context, &repository, &digest);
        if let Some(previous) = moved.previous {
            untagged::note(tables, context, &repository, &previous);
        }
        Ok(Reply::Manifest { created: false, tags: vec![moved] })
    }
}

/// Ends a setting that ranks above what the tag is now, or is that; `base` is what it ranks by.
fn end_setting(tables: &mut impl Tables, context: &Context<'_>, arriving: Arriving<'_>, base: Version) -> Reply {
    let Arriving { repository, tag, version, .. } = arriving;
    let row = tag::read(tables, repository, tag);
    let moved = tag::end(tables, context, repository, tag, row.as_ref(), &EndedRow { version, base });
    if let Some(row) = row {
        arriving.overrides(tables, context, &row);
        untagged::note(tables, context, repository, &row.digest);
        usage::shrink(tables, context, repository, Usage { bytes: 0, tags: 1 });
    }
    Reply::Deleted { tags: moved.into_iter().collect() }
}

/// A tag was deleted in another region, or went there with its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropRemoteTag {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub tag: Tag,
    /// Version of the delete; of one that went with its manifest that of the setting which ended so.
    pub version: Version,
    /// Of such a one what the setting ranked by: it ends here just so, or both would differ for ever. `None` of a
    /// delete.
    pub base: Option<Version>,
    /// Version of what its maker deleted; `None` where that is not known.
    pub previous: Option<Version>,
}

impl Apply for DropRemoteTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let DropRemoteTag { repository, tag, version, base, previous } = self;
        repository::require(tables, &repository)?;
        if base.is_some_and(|base| base > version) {
            return Err(no_base());
        }
        let rank = base.map_or_else(|| Rank::of_delete(version), |base| Rank::of_end(version, base));
        if rank <= tag_rank(tables, &repository, &tag) {
            return Ok(Reply::Superseded);
        }
        follow(tables, context, &repository, version)?;
        let arriving = Arriving { repository: &repository, tag: &tag, digest: None, version, previous };
        if let Some(base) = base {
            return Ok(end_setting(tables, context, arriving, base));
        }
        let Some(row) = tag::read(tables, &repository, &tag) else {
            // not here, and yet the newer word: remembered, or an older setting on its way would bring it to life
            tag::note_absent(tables, context, &repository, &tag, version);
            return Ok(Reply::Deleted { tags: Vec::new() });
        };
        arriving.overrides(tables, context, &row);
        let moved = tag::drop_tag(tables, context, &repository, &tag, &row, version);
        untagged::note(tables, context, &repository, &row.digest);
        usage::shrink(tables, context, &repository, Usage { bytes: 0, tags: 1 });
        Ok(Reply::Deleted { tags: vec![moved] })
    }
}

/// A manifest was deleted in another region, with the tags that named it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DropRemoteManifest {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub digest: Digest,
    /// Version of the delete.
    pub version: Version,
    /// Number of the region that tells of it, which need not be where it was made.
    pub from: u16,
    /// Not all manifests are sent by the rules that it came by, and this one was attached to none: what was deleted may
    /// never have been sent. As it was told with the delete: rules that are known here may be older, or newer.
    pub is_filtered: bool,
}

impl Apply for DropRemoteManifest {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let DropRemoteManifest { repository, digest, version, from, is_filtered } = self;
        repository::require(tables, &repository)?;
        if gone::read(tables, &repository, &digest).is_some_and(|gone| gone.version >= version) {
            return Ok(Reply::Superseded);
        }
        follow(tables, context, &repository, version)?;
        let row = manifest::read(tables, &repository, &digest);
        if is_filtered {
            return match row {
                Some(row) => drop_filtered(tables, context, &repository, (&digest, &row), (from, version)),
                // nothing of that region's is here, and what comes of others' is no matter of its; each of its own tags
                // tells its end
                None => Ok(Reply::Superseded),
            };
        }
        // put again since, it stays, without the tags of before
        let goes = row.as_ref().is_none_or(|row| row.presence < version);
        let names = match goes {
            true => manifest::tags_to_delete(tables, &repository, &digest)?,
            false => tag::of_manifest(tables, &repository, &digest, TAGS_PER_DELETE_MAX),
        };
        let mut tags = Vec::new();
        for name in names {
            let set = tag::read(tables, &repository, &name).expect("a manifest's tags exist");
            if set.version < version {
                let ended = EndedRow { version: set.version, base: set.base };
                tags.extend(tag::end(tables, context, &repository, &name, Some(&set), &ended));
            }
        }
        match row.filter(|_| goes) {
            Some(row) => manifest::remove(tables, context, &repository, &digest, &row, Cause::Deleted(version)),
            None => {
                // remembered, or an older put on its way, or a tag of before, would come to life
                gone::note(tables, context, &repository, &digest, Cause::Deleted(version));
                untagged::note(tables, context, &repository, &digest);
            }
        }
        usage::shrink(tables, context, &repository, Usage { bytes: 0, tags: tags.len() as u64 });
        Ok(Reply::Deleted { tags })
    }
}

/// Follows the delete of a manifest that is here, told by a region of which some tags come only: what was deleted may
/// never have been sent. What was made here, or came another way, is no matter of its. Of the tags on the manifest
/// those go that came from there, and those that both regions are to have the same; the manifest goes if it came from
/// there and nothing names it then. It is not remembered as deleted: each of that region's tags tells its end, and what
/// others set before it is as good as it was.
fn drop_filtered(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    (digest, row): (&Digest, &ManifestRow),
    (from, version): (u16, Version),
) -> Result<Reply, Refusal> {
    let (own, name) = (cluster::region_number(tables), &repository.name);
    let offer = offer::read(tables, from);
    let (is_on, sent) = (offer.is_transitive(name), offer.tags(name));
    let is_theirs = |made: Version| [from, version.region].contains(&made.region);
    let came = |made: Version| is_theirs(made) || is_on && made.region != own;
    // of other regions' tags it sends on those that its filter lets through: others on the manifest came another way
    let has_come = |tag: &Tag, made: Version| is_theirs(made) || came(made) && sent.passes(tag);
    let rules = replication_rules::read(tables, repository.registry);
    let back = peer::read(tables, from).map(|peer| peer.region).filter(|to| rules.serves(name, to));
    let sent_back = back.map(|to| rules.tags(name, &to).now);
    let is_shared = |tag: &Tag| sent_back.as_ref().is_some_and(|tags| tags.passes(tag));

    let names = tag::of_manifest(tables, repository, digest, TAGS_PER_DELETE_MAX + 1);
    if names.len() > TAGS_PER_DELETE_MAX {
        let limit = "tags deleted with one manifest".to_owned();
        return Err(Refusal::LimitReached { limit, allowed: TAGS_PER_DELETE_MAX as u64 });
    }
    let (mut moved, mut is_named) = (Vec::new(), manifest::parent(tables, repository, digest).is_some());
    for name in names {
        let set = tag::read(tables, repository, &name).expect("a manifest's tags exist");
        if set.version < version && (has_come(&name, set.version) || is_shared(&name)) {
            let ended = EndedRow { version: set.version, base: set.base };
            moved.extend(tag::end(tables, context, repository, &name, Some(&set), &ended));
        } else {
            is_named = true;
        }
    }
    match came(row.presence) && row.presence < version && !is_named {
        true => manifest::remove(tables, context, repository, digest, row, Cause::Filtered(version)),
        false => untagged::note(tables, context, repository, digest),
    }
    usage::shrink(tables, context, repository, Usage { bytes: 0, tags: moved.len() as u64 });
    Ok(Reply::Deleted { tags: moved })
}

/// The settings of a repository were set in another region.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PutRemoteSettings {
    /// Where.
    pub repository: RepositoryKey,
    /// Which they are.
    pub settings: Settings,
    /// Where the repository is written.
    pub home: Home,
    /// Version of the setting.
    pub version: Version,
}

impl Apply for PutRemoteSettings {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let PutRemoteSettings { repository, settings: wish, home, version } = self;
        let row = repository::require(tables, &repository)?;
        if home.epoch > version.home_epoch || home.is_frozen && home.region.is_none() {
            let detail = "it was not set when it says".to_owned();
            return Err(Refusal::ParameterInvalid { parameter: "home".to_owned(), detail });
        }
        let last = settings::last_version(tables, &repository).map_or(Rank::NEVER, |last| Rank::of_set(last, last));
        if Rank::of_set(version, version) <= last {
            return Ok(Reply::Superseded);
        }
        follow(tables, context, &repository, version)?;
        settings::set(tables, context, &repository, (row, wish), (home, version));
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::ReadThrough;
    use crate::decide::replication::tags::TagScope;
    use crate::decide::tag_move::{Mutability, TagFilter};
    use crate::metadata::conflict;
    use crate::metadata::manifest::DeleteManifest;
    use crate::metadata::offer::{NoteOffer, OfferRow};
    use crate::metadata::replication_rules::SentRow;
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, peer, sends_all, tags};

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
        SetRemoteTag { repository, tag: tag(), digest, version: version(hlc), base, previous: None }
    }

    fn drop_tag(repository: &RepositoryKey, hlc: u64) -> DropRemoteTag {
        DropRemoteTag { repository: repository.clone(), tag: tag(), version: version(hlc), base: None, previous: None }
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
        let later = (world.at_ms + 90_000) * 1000;
        world.ok(set(&repository, b"2", later, None));
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"3") });
        let row = tag::read(&world.tables, &repository, &tag()).unwrap();
        assert!(row.digest == Digest::sha256(b"3") && row.version.hlc > later && row.version.region == 1);
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
        // the tag was deleted with it, as it would have been had it come first
        assert_eq!(world.ok(set(&repository, b"1", 20, None)), Reply::Deleted { tags: vec![] });
        assert_eq!(world.ok(set(&repository, b"1", 20, None)), Reply::Superseded);
        assert_eq!(world.ok(set(&repository, b"1", 21, None)), Reply::Deleted { tags: vec![] });
        let later = (world.at_ms + 1000) * 1000;
        assert!(matches!(world.refused(set(&repository, b"1", later, None)), Refusal::ManifestUnknown { .. }));
        world.ok(here(&repository, b"1", later));
        // what was set before the delete stays deleted, also now
        let first = tags(&["first"]).remove(0);
        let old = SetRemoteTag { tag: first.clone(), ..set(&repository, b"1", 20, None) };
        assert_eq!(world.ok(old), Reply::Deleted { tags: vec![] });
        assert_eq!(tag::read(&world.tables, &repository, &first), None);
        world.ok(set(&repository, b"1", later, None));
        assert_eq!(named(&world, &repository), Some(Digest::sha256(b"1")));
    }

    // A delete of a manifest takes the tags on it, is not undone by older puts, and does not undo newer ones.
    #[test]
    fn deletes_of_manifests() {
        let (mut world, repository) = world();
        let gone = |bytes: &[u8], hlc: u64| {
            let (repository, digest) = (repository.clone(), Digest::sha256(bytes));
            DropRemoteManifest { repository, digest, version: version(hlc), from: 2, is_filtered: false }
        };
        world.ok(here(&repository, b"1", 10));
        world.ok(set(&repository, b"1", 10, None));
        // put again since: it stays, and so does its tag
        assert_eq!(world.ok(gone(b"1", 9)), Reply::Deleted { tags: vec![] });
        assert_eq!(world.ok(gone(b"1", 9)), Reply::Superseded);
        assert_eq!(named(&world, &repository), Some(Digest::sha256(b"1")));
        assert!(matches!(world.ok(gone(b"1", 20)), Reply::Deleted { tags } if tags.len() == 1));
        assert_eq!(world.ok(gone(b"1", 20)), Reply::Superseded);
        assert_eq!(world.ok(here(&repository, b"1", 15)), Reply::Superseded);
        assert_eq!((named(&world, &repository), usage::read(&world.tables, &repository).used.tags), (None, 0));
        // never here, and yet the newer word
        assert_eq!(world.ok(gone(b"2", 30)), Reply::Deleted { tags: vec![] });
        assert_eq!(world.ok(here(&repository, b"2", 25)), Reply::Superseded);
        // what an index names stays, as for any delete
        let child = crate::metadata::testing::reference(b"3", crate::vocabulary::manifest::ContentKind::Manifest);
        world.ok(here(&repository, b"3", 40));
        let index = PutManifest { references: vec![child], ..manifest(&repository, b"index") };
        world.ok(PutRemoteManifest { put: index, presence: version(41) });
        assert!(matches!(world.refused(gone(b"3", 50)), Refusal::ManifestReferenced { .. }));
    }

    // Where a region sends some tags only, its delete of a manifest takes what came from there, and not what was pushed
    // here or came from a third region; tags that are sent back there end as they do there. That is as it was told with
    // the delete, whatever the region offers now.
    #[test]
    fn deletes_under_a_filter() {
        let (mut world, repository) = world();
        world.ok(peer(3, "us"));
        // each is behind all that was made before it
        let begun = world.at_ms * 1000;
        let at = |step: u64| begun + step * 1_000_000;
        let whole = |bytes: &[u8], step: u64| {
            let (repository, digest) = (repository.clone(), Digest::sha256(bytes));
            DropRemoteManifest { repository, digest, version: version(at(step)), from: 2, is_filtered: false }
        };
        let gone = |bytes: &[u8], step: u64| DropRemoteManifest { is_filtered: true, ..whole(bytes, step) };
        let is_here =
            |world: &World, bytes: &[u8]| manifest::read(&world.tables, &repository, &Digest::sha256(bytes)).is_some();
        let named = |bytes: &[u8], name: &str| PutManifest { tags: tags(&[name]), ..manifest(&repository, bytes) };
        let count = |reply: Reply| if let Reply::Deleted { tags } = reply { tags.len() } else { usize::MAX };

        world.ok(here(&repository, b"theirs", 10));
        world.ok(set(&repository, b"theirs", 10, None));
        assert_eq!((count(world.ok(gone(b"theirs", 1))), is_here(&world, b"theirs")), (1, false));
        assert_eq!(world.ok(set(&repository, b"theirs", 10, None)), Reply::Superseded, "the tag has ended");
        // pushed here; theirs stayed behind
        world.ok(named(b"ours", "mine"));
        assert_eq!((count(world.ok(gone(b"ours", 2))), is_here(&world, b"ours")), (0, true));
        // pushed here, and came from there since: it loses their tag and stays under ours
        world.ok(named(b"both", "also"));
        world.ok(here(&repository, b"both", at(3)));
        world.ok(set(&repository, b"both", at(3), None));
        assert_eq!((count(world.ok(gone(b"both", 4))), is_here(&world, b"both")), (1, true));
        // from a third region, until this one sends that on
        let third = |hlc: u64| Version { region: 3, ..version(hlc) };
        let put_third =
            |bytes: &[u8], hlc: u64| PutRemoteManifest { put: manifest(&repository, bytes), presence: third(hlc) };
        let set_third = |bytes: &[u8], hlc: u64, name: &str| {
            let (version, base, tag) = (third(hlc), third(hlc), tags(&[name]).remove(0));
            SetRemoteTag { tag, version, base, ..set(&repository, bytes, hlc, None) }
        };
        world.ok(put_third(b"third", 12));
        world.ok(set_third(b"third", 12, "third"));
        assert_eq!((count(world.ok(gone(b"third", 5))), is_here(&world, b"third")), (0, true));
        let some = TagScope::new([TagFilter::parse("t*").unwrap()], []).unwrap();
        world.ok(offers_on(2, some));
        // and then under names that it sends on: under others it came another way
        world.ok(set_third(b"third", 13, "other"));
        assert_eq!((count(world.ok(gone(b"third", 6))), is_here(&world, b"third")), (1, true));
        let other = DropRemoteTag { version: third(14), tag: tags(&["other"]).remove(0), ..drop_tag(&repository, 14) };
        assert_eq!(count(world.ok(other)), 1);
        assert_eq!((count(world.ok(gone(b"third", 7))), is_here(&world, b"third")), (0, false));
        // what goes back there by a name ends here as there
        world.ok(sends_all("eu"));
        assert_eq!((count(world.ok(gone(b"ours", 7))), is_here(&world, b"ours")), (1, true));
        // without a filter it is one register in both
        assert_eq!((count(world.ok(whole(b"ours", 8))), is_here(&world, b"ours")), (0, false));
        assert_eq!(usage::read(&world.tables, &repository).used.tags, 1, "also");
    }

    fn offers_on(number: u16, tags: TagScope) -> NoteOffer {
        let read_through = ReadThrough::Off;
        let sent = SentRow { filters: vec![], read_through, transitive: true, settings: false, tags };
        NoteOffer { number, offer: OfferRow(vec![sent]) }
    }

    // A delete by a filter is no word about what others set before it, whether the manifest goes by it or was never
    // here; any other one is.
    #[test]
    fn filtered_deletes_are_not_remembered() {
        let (mut world, repository) = world();
        world.ok(peer(3, "us"));
        let third = |hlc: u64| Version { region: 3, ..version(hlc) };
        let mut comes = |bytes: &[u8], is_filtered: bool, is_first: bool| {
            let digest = Digest::sha256(bytes);
            if is_first {
                world.ok(here(&repository, bytes, 10));
            }
            let (to, of) = (repository.clone(), version(30));
            let drop = DropRemoteManifest { repository: to, digest, version: of, from: 2, is_filtered };
            let dropped = world.ok(drop.clone());
            assert_eq!(world.ok(drop), Reply::Superseded);
            world.ok(PutRemoteManifest { put: manifest(&repository, bytes), presence: third(20) });
            let is_here = manifest::read(&world.tables, &repository, &digest).is_some();
            let (version, base) = (third(20), third(20));
            let tag = tags(&[std::str::from_utf8(bytes).unwrap()]).remove(0);
            let set = world.ok(SetRemoteTag { tag, version, base, ..set(&repository, bytes, 20, None) });
            assert_eq!(is_here, matches!(set, Reply::Manifest { .. }));
            (dropped == Reply::Superseded, is_here)
        };
        assert_eq!(comes(b"never-here", true, false), (true, true));
        assert_eq!(comes(b"went-by-it", true, true), (false, true));
        assert_eq!(comes(b"whole", false, false), (false, false));
        assert_eq!(comes(b"whole-went", false, true), (false, false));
        // what is made here next is newer all the same
        let late = version((world.at_ms + 60_000) * 1000);
        let (key, digest) = (repository.clone(), Digest::sha256(b"late"));
        let drop = DropRemoteManifest { repository: key, digest, version: late, from: 2, is_filtered: true };
        assert_eq!(world.ok(drop), Reply::Superseded);
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"late") });
        assert!(tag::read(&world.tables, &repository, &tag()).unwrap().version > late);
    }

    // One that was made in a third region goes by who passed it on, not by what the third one sends here itself.
    #[test]
    fn filtered_deletes_that_are_passed_on() {
        let (mut world, repository) = world();
        world.ok(peer(3, "us"));
        let digest = Digest::sha256(b"image");
        let third = |hlc: u64| Version { region: 3, ..version(hlc) };
        let gone = |from: u16, hlc: u64| {
            let repository = repository.clone();
            DropRemoteManifest { repository, digest, version: third(hlc), from, is_filtered: true }
        };
        let named = |world: &World| {
            let names = tag::of_manifest(&world.tables, &repository, &digest, 9);
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        world.ok(PutManifest { tags: tags(&["ours"]), ..manifest(&repository, b"image") });
        let begun = world.at_ms * 1000;
        let set_by = |region: u16, name: &str| {
            let version = Version { region, ..version(begun) };
            SetRemoteTag { tag: tags(&[name]).remove(0), version, base: version, ..set(&repository, b"image", 0, None) }
        };
        for (region, name) in [(2, "eu"), (3, "us"), (4, "ap")] {
            world.ok(set_by(region, name));
        }
        world.ok(gone(3, begun + 1));
        assert_eq!(named(&world), ["ap", "eu", "ours"], "told by its maker");
        world.ok(set_by(3, "us2"));
        world.ok(gone(2, begun + 2));
        assert_eq!(named(&world), ["ap", "ours"], "told by one that has it from there");
        world.ok(offers_on(2, TagScope::ALL));
        world.ok(gone(2, begun + 3));
        assert_eq!(named(&world), ["ours"], "and that sends on what it has from others");
        assert!(manifest::read(&world.tables, &repository, &digest).is_some());
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

    // R8: a setting that was lost to another region's, which had not seen it, is listed once on either side; one that
    // was seen, or comes again, is no conflict.
    #[test]
    fn r8_conflicts_are_listed() {
        let (mut world, repository) = world();
        let listed = |world: &World| {
            let all = conflict::list(&world.tables, None, 99);
            all.into_iter().map(|found| (found.row.kept, found.row.lost)).collect::<Vec<_>>()
        };
        let of = |bytes: &[u8]| Digest::sha256(bytes);
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"ours") });
        let ours = tag::read(&world.tables, &repository, &tag()).unwrap().version;
        let later = |by: u64| ours.hlc + by;
        for bytes in [b"theirs", b"second", b"unseen"] {
            world.ok(here(&repository, bytes, later(1)));
        }
        let unseen = SetRemoteTag { previous: Some(Version::default()), ..set(&repository, b"theirs", later(2), None) };
        world.ok(unseen.clone());
        assert_eq!(listed(&world), [(Some(of(b"theirs")), of(b"ours"))]);
        assert_eq!(world.ok(unseen), Reply::Superseded);
        let seen = SetRemoteTag { previous: Some(version(later(2))), ..set(&repository, b"second", later(3), None) };
        world.ok(seen);
        assert_eq!(listed(&world).len(), 1);
        // ours again, newer than what comes
        world.at_ms += 1000;
        world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, b"again") });
        let late = SetRemoteTag { previous: Some(version(later(3))), ..set(&repository, b"unseen", later(4), None) };
        for _ in 0..2 {
            assert_eq!(world.ok(late.clone()), Reply::Superseded);
        }
        assert_eq!(listed(&world)[1..], [(Some(of(b"again")), of(b"unseen"))]);
        // what its journal has is no news, and neither is what a comparison brings
        let known = SetRemoteTag { previous: Some(ours), ..set(&repository, b"theirs", later(2), None) };
        assert_eq!(world.ok(known), Reply::Superseded);
        assert_eq!(world.ok(set(&repository, b"unseen", later(5), None)), Reply::Superseded);
        // a delete loses what was set here and not seen there
        let drop = DropRemoteTag { previous: Some(version(later(3))), ..drop_tag(&repository, later(90_000_000)) };
        world.ok(drop);
        assert_eq!(listed(&world)[2..], [(None, of(b"again"))]);
        let first = conflict::list(&world.tables, None, 1).remove(0).key;
        assert_eq!(conflict::list(&world.tables, Some(&first), 99).len(), 2);
    }

    // A slot that takes more changes in a millisecond than another region allows for skew stays in step with the clock.
    #[test]
    fn busy_slots_do_not_run_ahead() {
        let (mut world, repository) = world();
        for number in 0..200u32 {
            world.at_ms -= 1;
            world.ok(PutManifest { tags: vec![tag()], ..manifest(&repository, &number.to_be_bytes()) });
        }
        let row = tag::read(&world.tables, &repository, &tag()).unwrap();
        assert!(row.version.hlc < (world.at_ms + 1) * 1000, "{} at {} ms", row.version, world.at_ms);
    }

    // A repository may have had many homes before the regions were linked; a number that nobody comes to is refused.
    #[test]
    fn many_homes() {
        let (mut world, repository) = world();
        let of = |home_epoch: u32| Version { home_epoch, ..version(10) };
        let here = |home_epoch: u32| PutRemoteManifest { presence: of(home_epoch), ..here(&repository, b"1", 10) };
        assert!(matches!(world.refused(here(u32::MAX)), Refusal::ParameterInvalid { .. }));
        assert!(matches!(world.refused(here(HOME_EPOCHS_AHEAD_MAX + 1)), Refusal::ParameterInvalid { .. }));
        world.ok(here(20_000));
        assert!(manifest::read(&world.tables, &repository, &Digest::sha256(b"1")).is_some());
    }

    // What lies too far in the future is refused, before anything changes.
    #[test]
    fn clocks_ahead() {
        let (mut world, repository) = world();
        let ahead = (world.at_ms + CLOCK_AHEAD_MS_MAX + 10_000) * 1000;
        assert!(matches!(world.refused(here(&repository, b"1", ahead)), Refusal::ParameterInvalid { .. }));
        world.ok(here(&repository, b"1", (world.at_ms + CLOCK_AHEAD_MS_MAX) * 1000));
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
