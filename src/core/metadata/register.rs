//! Records of tags, manifests and settings as two regions compare them, and the repair of a tag's row by its journal.
//!
//! Records are read from the rows themselves, never from what was noted about them: a row that was damaged beneath the
//! commands shows. Which of two sides is the damaged one a tag's journal tells, a second witness of each change.
//! Source: consensus-and-faults §6.5.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec;
use super::command::{Apply, Command};
use super::ended::{self, EndedRow};
use super::keys::{self, Slot};
use super::manifest::{self, ManifestRow};
use super::reply::Reply;
use super::repository::{self, RepositoryKey, Settings};
use super::settings::{self, MendSettings, SettingsRow};
use super::tables::{Tables, TablesRead};
use super::tag::{self, JournalRow, TagRow};
use super::{blob, gone, link, remote, untagged};
use crate::decide::replication::compare::{Here, Record, Register, Scope, Sums, There};
use crate::decide::replication::rank::Rank;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::reference::Reference;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

/// Rows read at once.
const PAGE_ROWS: usize = 1024;

/// What a register is set to.
pub fn record(tables: &impl TablesRead, repository: &RepositoryKey, register: &Register) -> Option<Record> {
    match register {
        Register::Manifest(digest) => manifest::read(tables, repository, digest).map(|row| of_manifest(*digest, &row)),
        Register::Tag(tag) => tag::read(tables, repository, tag).map(|row| of_tag(&row)),
        Register::Settings => of_settings(tables, repository),
    }
}

fn of_manifest(digest: Digest, row: &ManifestRow) -> Record {
    Record { digest, version: row.presence, base: row.presence }
}

/// Whether a register is a manifest that is here, and attached to another one.
pub fn is_attached(tables: &impl TablesRead, repository: &RepositoryKey, register: &Register) -> bool {
    let Register::Manifest(digest) = register else { return false };
    manifest::read(tables, repository, digest).is_some_and(|row| row.subject.is_some())
}

fn of_tag(row: &TagRow) -> Record {
    Record { digest: row.digest, version: row.version, base: row.base }
}

fn of_settings(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<Record> {
    let SettingsRow { version, settings, home } = settings::read(tables, repository)?;
    Some(Record { digest: settings::digest(&settings, &home), version, base: version })
}

/// Up to `limit` records in a scope behind `after`, manifests before tags, and settings last; and where the next ones
/// begin.
pub fn page(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    scope: &Scope,
    after: Option<&Register>,
    limit: usize,
) -> (Vec<(Register, Record)>, Option<Register>) {
    let mut found: Vec<(Register, Record)> = Vec::new();
    let mut walk = Walk::of(scope, after.cloned());
    while !walk.is_over {
        let step = walk.step(tables, repository).into_iter();
        found.extend(
            step.filter(|walked| walked.is_in(scope)).map(|Walked { register, record, .. }| (register, record)),
        );
        if found.len() >= limit {
            // whole steps were taken; what is beyond the limit is read again
            let is_cut = found.len() > limit || !walk.is_over;
            found.truncate(limit);
            let rest = found.last().filter(|_| is_cut).map(|(register, _)| register.clone());
            return (found, rest);
        }
    }
    (found, None)
}

/// A record as a walk comes across it.
struct Walked {
    register: Register,
    record: Record,
    /// Of a manifest: it is attached to another one.
    is_attached: bool,
}

impl Walked {
    fn of_manifest(digest: Digest, row: &ManifestRow) -> Walked {
        let (register, record) = (Register::Manifest(digest), of_manifest(digest, row));
        Walked { register, record, is_attached: row.subject.is_some() }
    }

    fn new(register: Register, record: Record) -> Walked {
        Walked { register, record, is_attached: false }
    }

    fn is_in(&self, scope: &Scope) -> bool {
        scope.covers(&self.register, &self.record, self.is_attached)
    }
}

/// A walk over all records of a repository.
struct Walk {
    after: Option<Register>,
    only_settings: bool,
    is_over: bool,
}

impl Walk {
    /// Behind a register, without what can't be in a scope.
    fn of(scope: &Scope, after: Option<Register>) -> Walk {
        let only = scope.since.is_of_settings() && after != Some(Register::Settings);
        Walk { after, only_settings: only, is_over: false }
    }

    fn step(&mut self, tables: &impl TablesRead, repository: &RepositoryKey) -> Vec<Walked> {
        let settings = || of_settings(tables, repository).map(|record| Walked::new(Register::Settings, record));
        if self.only_settings || self.after == Some(Register::Settings) {
            self.is_over = true;
            return self.only_settings.then(settings).flatten().into_iter().collect();
        }
        if let after @ (None | Some(Register::Manifest(_))) = &self.after {
            let after = if let Some(Register::Manifest(digest)) = after { Some(digest) } else { None };
            let rows = manifest::list(tables, repository, after, PAGE_ROWS);
            if let Some((last, _)) = rows.last() {
                self.after = Some(Register::Manifest(*last));
                return rows.iter().map(|(digest, row)| Walked::of_manifest(*digest, row)).collect();
            }
        }
        let after = if let Some(Register::Tag(tag)) = &self.after { Some(tag.as_str()) } else { None };
        let rows = tag::list(tables, repository, after, PAGE_ROWS);
        self.is_over = rows.len() < PAGE_ROWS;
        if let Some((last, _)) = rows.last() {
            self.after = Some(Register::Tag(last.clone()));
        }
        let settings = self.is_over.then(settings).flatten();
        let tags = rows.into_iter().map(|(tag, row)| Walked::new(Register::Tag(tag), of_tag(&row)));
        tags.chain(settings).collect()
    }
}

/// A place among the records of a repository, from the newest to the oldest: version, then register.
type Newest = (Reverse<Version>, Register);

/// Up to `limit` records in a scope, not newer than a hybrid logical time, from the newest to the oldest, behind that
/// of a version and register. Holds no more than it returns; reads all rows for that.
pub fn newest(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    (scope, until): (&Scope, u64),
    after: Option<&(Version, Register)>,
    limit: usize,
) -> Vec<(Register, Record)> {
    let after = after.map(|(version, register)| (Reverse(*version), register.clone()));
    let (mut found, mut walk) = (BTreeMap::<Newest, Record>::new(), Walk::of(scope, None));
    while !walk.is_over {
        for walked in walk.step(tables, repository) {
            let is_meant = walked.is_in(scope) && walked.record.version.hlc <= until;
            let Walked { register, record, .. } = walked;
            let at = (Reverse(record.version), register);
            if !is_meant || after.as_ref().is_some_and(|after| at <= *after) {
                continue;
            }
            found.insert(at, record);
            if found.len() > limit {
                found.pop_last();
            }
        }
    }
    found.into_iter().map(|((_, register), record)| (register, record)).collect()
}

/// How many records in a scope are not newer than a hybrid logical time.
pub fn count(tables: &impl TablesRead, repository: &RepositoryKey, scope: &Scope, until: u64) -> u64 {
    let (mut count, mut walk) = (0, Walk::of(scope, None));
    while !walk.is_over {
        let rows = walk.step(tables, repository);
        let is_counted = |walked: &&Walked| walked.is_in(scope) && walked.record.version.hlc <= until;
        count += rows.iter().filter(is_counted).count() as u64;
    }
    count
}

/// Sums over the records in a scope.
pub fn sums(tables: &impl TablesRead, repository: &RepositoryKey, scope: &Scope) -> Sums {
    let (mut sums, mut walk) = (Sums::default(), Walk::of(scope, None));
    while !walk.is_over {
        let walked = walk.step(tables, repository);
        walked
            .iter()
            .filter(|walked| walked.is_in(scope))
            .for_each(|walked| sums.add(&walked.register, &walked.record));
    }
    sums
}

/// Something that is named here, and is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A blob without a copy on record, or not linked.
    Blob(Referenced),
    /// A manifest without a row.
    Manifest {
        /// Which.
        digest: Digest,
        /// Version of what names it.
        named_at: Version,
    },
}

impl Lost {
    /// Which it is.
    pub fn digest(&self) -> Digest {
        match self {
            Lost::Blob(blob) => blob.digest,
            Lost::Manifest { digest, .. } => *digest,
        }
    }
}

/// What manifests name that were made where a scope has records of, whatever tags it covers, and that is lost here: of
/// up to `limit` manifests behind `after`; and where the next ones begin. `see` is shown all blobs that are not lost.
pub fn lost_content(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    scope: &Scope,
    after: Option<&Digest>,
    limit: usize,
    mut see: impl FnMut(&Referenced),
) -> (Vec<Lost>, Option<Digest>) {
    let rows = manifest::list(tables, repository, after, limit);
    let rest = (rows.len() == limit).then(|| rows.last().map(|(digest, _)| *digest)).flatten();
    let is_lost = |blob: &Referenced| {
        link::read(tables, repository, &blob.digest).is_none()
            || blob::read(tables, &blob.digest).is_none_or(|row| row.stores.is_empty())
    };
    let mut lost = Vec::new();
    for (digest, row) in rows.into_iter().filter(|(_, row)| !row.sparse && scope.covers_version(row.presence)) {
        for named in manifest::references(tables, repository, &digest) {
            match named.kind {
                ContentKind::Blob if is_lost(&named) => lost.push(Lost::Blob(named)),
                ContentKind::Blob => see(&named),
                ContentKind::Manifest if manifest::read(tables, repository, &named.digest).is_none() => {
                    lost.push(Lost::Manifest { digest: named.digest, named_at: row.presence });
                }
                ContentKind::Manifest | ContentKind::Foreign => {}
            }
        }
    }
    lost.sort_by_key(Lost::digest);
    lost.dedup_by_key(|lost| lost.digest());
    (lost, rest)
}

/// Manifests that tags in a scope name and that are lost here: of up to `limit` tags behind `after`; and where the next
/// ones begin. Looked for where manifests are not compared themselves, because the scope does not cover all tags.
pub fn lost_targets(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    scope: &Scope,
    after: Option<&Tag>,
    limit: usize,
) -> (Vec<Lost>, Option<Tag>) {
    if scope.tags.is_all() {
        return (Vec::new(), None);
    }
    let rows = tag::list(tables, repository, after.map(Tag::as_str), limit);
    let rest = (rows.len() == limit).then(|| rows.last().map(|(tag, _)| tag.clone())).flatten();
    let is_lost = |(tag, row): &&(Tag, TagRow)| {
        scope.covers_tag(tag, row.version) && manifest::read(tables, repository, &row.digest).is_none()
    };
    let lost = |(_, row): &(Tag, TagRow)| Lost::Manifest { digest: row.digest, named_at: row.version };
    let mut lost: Vec<Lost> = rows.iter().filter(is_lost).map(lost).collect();
    lost.sort_by_key(Lost::digest);
    lost.dedup_by_key(|lost| lost.digest());
    (lost, rest)
}

/// What a source says of a register, whoever set it.
pub fn there(tables: &impl TablesRead, repository: &RepositoryKey, scope: &Scope, register: &Register) -> There {
    if let Some(record) = record(tables, repository, register) {
        let is_sent = scope.covers(register, &record, is_attached(tables, repository, register));
        return if is_sent { There::Sent(record) } else { There::Apart(record) };
    }
    match register {
        Register::Manifest(digest) => match gone::read(tables, repository, digest) {
            Some(row) if row.cleaned > row.version => There::Cleaned,
            Some(row) => There::Gone(row.version),
            None => There::Never,
        },
        Register::Tag(tag) => match tag::last_change(tables, repository, tag) {
            Some((_, last)) if last.digest.is_none() => match ended::read(tables, repository, tag) {
                Some(EndedRow { version, base }) => There::Ended { version, base },
                None => There::Gone(last.version),
            },
            // a row that is missing is no delete
            Some(_) | None => There::Never,
        },
        Register::Settings => There::Never,
    }
}

/// What a destination has of a register. `target` is what the source's tag names.
pub fn here(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    register: &Register,
    target: Option<&Digest>,
    is_parked: bool,
) -> Here {
    let gone = |digest: &Digest| gone::read(tables, repository, digest);
    let (rank, target) = match register {
        // what went by age here is not brought again for that
        Register::Manifest(digest) => {
            let cleaned = gone(digest).map_or(Rank::NEVER, |row| Rank::of_delete(row.cleaned));
            (remote::manifest_rank(tables, repository, digest).max(cleaned), None)
        }
        Register::Tag(tag) => (remote::tag_rank(tables, repository, tag), target),
        Register::Settings => (remote::settings_rank(tables, repository), None),
    };
    let target_gone = target.and_then(gone).map(|row| row.version);
    Here { record: record(tables, repository, register), rank, target_gone, is_parked }
}

/// Whether a register's row is what this region's own journal, or what was noted beside settings, says of it. Manifests
/// have none: their digest is their witness.
pub fn is_proven(tables: &impl TablesRead, repository: &RepositoryKey, register: &Register) -> bool {
    match register {
        Register::Manifest(_) => true,
        Register::Tag(tag) => {
            is_told(tag::read(tables, repository, tag).as_ref(), tag::last_change(tables, repository, tag).as_ref())
        }
        Register::Settings => settings::is_proven(tables, repository),
    }
}

/// Setting a tag to what it is set to already gives it another version, and is no change for the journal.
fn is_told(row: Option<&TagRow>, last: Option<&(u64, JournalRow)>) -> bool {
    match (row, last) {
        (Some(row), Some((number, last))) => row.change == *number && last.digest == Some(row.digest),
        (None, last) => last.is_none_or(|(_, last)| last.digest.is_none()),
        (Some(_), None) => false,
    }
}

/// Brings a tag's row, which was damaged beneath the commands, back in line with its journal. No change of the tag: it
/// is for the journal what it was, and other regions are told nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MendTag {
    /// Where.
    pub repository: RepositoryKey,
    /// Which.
    pub tag: Tag,
    /// What another region has: digest, version, base. Believed of version and base where the journal has the same
    /// digest, and no later version.
    pub told: Option<(Digest, Version, Version)>,
}

impl MendTag {
    /// Version and base of a row that is to name what the journal says.
    fn versions(
        &self,
        tables: &impl TablesRead,
        settings: &Settings,
        row: Option<&TagRow>,
        (digest, last): (&Digest, &JournalRow),
    ) -> (Version, Version) {
        let told = self.told.filter(|(told, version, _)| told == digest && last.version <= *version);
        let own = row.filter(|row| row.version >= last.version).map(|row| (row.version, row.base));
        let of_journal = || {
            let base = match settings.mutability.fixes(&self.tag) {
                true => tag::delete_before(tables, &self.repository, &self.tag),
                false => last.version,
            };
            (last.version, base)
        };
        told.map(|(_, version, base)| (version, base)).or(own).unwrap_or_else(of_journal)
    }
}

impl Apply for MendTag {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let (repository, tag) = (&self.repository, &self.tag);
        let settings = repository::require(tables, repository)?.settings;
        let (row, last) = (tag::read(tables, repository, tag), tag::last_change(tables, repository, tag));
        if is_told(row.as_ref(), last.as_ref()) {
            return Ok(Reply::Unchanged);
        }
        let (slot, id) = (repository.slot(), repository.id);
        let key = keys::tag(slot, id, tag.as_str());
        let named = last.and_then(|(change, last)| Some((change, last.digest?, last)));
        match &named {
            Some((change, digest, last)) => {
                if manifest::read(tables, repository, digest).is_none() {
                    return Err(Refusal::ManifestUnknown { reference: Reference::Digest(*digest) });
                }
                let (version, base) = self.versions(tables, &settings, row.as_ref(), (digest, last));
                let mended = TagRow { digest: *digest, version, base, set_at_ms: last.at_ms, change: *change };
                tables.put(key, codec::encode(&mended));
                tables.put(keys::manifest_tag(slot, id, digest, tag.as_str()), Vec::new());
            }
            None => tables.delete(key),
        }
        let digest = named.map(|(_, digest, _)| digest);
        let damaged = row.map(|row| row.digest).filter(|damaged| digest != Some(*damaged));
        if let Some(damaged) = damaged {
            tables.delete(keys::manifest_tag(slot, id, &damaged, tag.as_str()));
        }
        for digest in digest.iter().chain(&damaged) {
            untagged::note(tables, context, repository, digest);
        }
        Ok(Reply::Done)
    }
}

/// What brings a register's row that is not proven back in line with its witness; manifests have none. `told`: of a tag
/// what another region has, as [`MendTag`] believes it.
pub fn mend(
    repository: RepositoryKey,
    register: &Register,
    told: Option<(Digest, Version, Version)>,
) -> Option<Command> {
    match register {
        Register::Manifest(_) => None,
        Register::Tag(tag) => Some(MendTag { repository, tag: tag.clone(), told }.into()),
        Register::Settings => Some(MendSettings { repository }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::compare::Since;
    use crate::decide::replication::tags::{SentTags, TagScope};
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::remote::PutRemoteSettings;
    use crate::metadata::settings::Home;
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, manifest_key, peer, reference, tag_key, tags};
    use crate::vocabulary::names::RegionName;

    const SINCE: Since = Since { own: 0, others: None, settings: Some(0) };
    const SCOPE: Scope = Scope { source: 1, destination: 2, since: SINCE, tags: SentTags::ALL };

    fn world() -> (World, RepositoryKey) {
        let mut world = World::cluster();
        world.ok(peer(2, "eu"));
        let settings = Settings { sparse: true, ..Settings::default() };
        let repository = world.repository("r", 1, settings);
        (world, repository)
    }

    fn tag() -> Tag {
        tags(&["t"]).remove(0)
    }

    fn put(world: &mut World, repository: &RepositoryKey, bytes: &[u8], names: &[&str]) {
        world.ok(PutManifest { tags: tags(names), ..manifest(repository, bytes) });
    }

    // Pages of any size give every record in scope once, and the sums over them.
    #[test]
    fn pages_and_sums() {
        let (mut world, repository) = world();
        for number in 0..9u8 {
            put(&mut world, &repository, &[number % 4], &["a", "b", &format!("t{number}")]);
        }
        let (all, rest) = page(&world.tables, &repository, &SCOPE, None, usize::MAX);
        assert_eq!((all.len(), rest), (4 + 11 + 1, None));
        let mut expected = Sums::default();
        all.iter().for_each(|(register, record)| expected.add(register, record));
        assert_eq!(sums(&world.tables, &repository, &SCOPE), expected);
        for limit in [1, 2, 4, 7, 14, 15, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (records, rest) = page(&world.tables, &repository, &SCOPE, after.as_ref(), limit);
                assert!(records.len() <= limit);
                found.extend(records);
                after = rest;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, all, "pages of {limit}");
        }
        let late = Scope { since: Since { own: all[0].1.version.hlc, ..SINCE }, ..SCOPE };
        assert!(page(&world.tables, &repository, &late, None, 99).0.len() < all.len());
        assert_eq!(page(&world.tables, &repository, &Scope { source: 2, ..SCOPE }, None, 99).0, []);
    }

    // Where nothing but settings is sent, nothing else is walked; behind them there is nothing.
    #[test]
    fn settings_alone() {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"1", &["t"]);
        let alone = Scope { since: Since { own: u64::MAX, ..SINCE }, ..SCOPE };
        let of = record(&world.tables, &repository, &Register::Settings).unwrap();
        let found = page(&world.tables, &repository, &alone, None, 9);
        assert_eq!(found, (vec![(Register::Settings, of)], None));
        assert_eq!(page(&world.tables, &repository, &alone, Some(&Register::Settings), 9), (vec![], None));
        assert_eq!(page(&world.tables, &repository, &SCOPE, Some(&Register::Settings), 9), (vec![], None));
        let newest = |after| newest(&world.tables, &repository, (&alone, u64::MAX), after, 9);
        assert_eq!(newest(None), [(Register::Settings, of)]);
        assert_eq!(newest(Some(&(of.version, Register::Settings))), []);
        assert_eq!(count(&world.tables, &repository, &alone, u64::MAX), 1);
        assert_eq!(there(&world.tables, &repository, &alone, &Register::Settings), There::Sent(of));
        assert!(is_proven(&world.tables, &repository, &Register::Settings));
    }

    // From the newest to the oldest, in pages of any size, each record once.
    #[test]
    fn newest_first() {
        let (mut world, repository) = world();
        for number in 0..9u8 {
            put(&mut world, &repository, &[number % 4], &["a", "b", &format!("t{number}")]);
        }
        let until = u64::MAX;
        let all = newest(&world.tables, &repository, (&SCOPE, until), None, usize::MAX);
        assert_eq!(all.len(), 4 + 11 + 1);
        assert!(all.is_sorted_by_key(|(register, record)| (Reverse(record.version), register.clone())));
        for limit in [1, 4, 7, 15, 100] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let records = newest(&world.tables, &repository, (&SCOPE, until), after.as_ref(), limit);
                let Some((register, record)) = records.last() else { break };
                after = Some((record.version, register.clone()));
                found.extend(records);
            }
            assert_eq!(found, all, "pages of {limit}");
        }
        assert_eq!(newest(&world.tables, &repository, (&Scope { source: 2, ..SCOPE }, until), None, 9), []);
        let counted = |until: u64| count(&world.tables, &repository, &SCOPE, until);
        let newest = all[0].1.version.hlc;
        let older = all.iter().filter(|(_, record)| record.version.hlc < newest).count() as u64;
        assert_eq!((counted(u64::MAX), counted(newest - 1), counted(0)), (16, older, 0));
        let found = super::newest(&world.tables, &repository, (&SCOPE, newest - 1), None, 99);
        assert_eq!(found.len() as u64, older);
    }

    /// An index and a child under `v1`, another image under `dev`, and what is attached to that.
    fn filtered() -> (World, RepositoryKey, Scope) {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"child", &[]);
        let references = vec![reference(b"child", ContentKind::Manifest)];
        world.ok(PutManifest { tags: tags(&["v1"]), references, ..manifest(&repository, b"index") });
        put(&mut world, &repository, b"other", &["dev", "v1-rc1"]);
        let subject = Some(Digest::sha256(b"other"));
        world.ok(PutManifest { subject, ..manifest(&repository, b"signature") });
        let filter = |text: &str| TagFilter::parse(text).unwrap();
        let some = TagScope::new([filter("v*")], [filter("*-rc*")]).unwrap();
        (world, repository, Scope { tags: some.into(), ..SCOPE })
    }

    // With a filter, tags that pass are walked, and manifests that are attached to others; by whatever walk.
    #[test]
    fn some_tags() {
        let (world, repository, scope) = filtered();
        let (records, _) = page(&world.tables, &repository, &scope, None, 99);
        let registers: Vec<&Register> = records.iter().map(|(register, _)| register).collect();
        let (signature, v1) =
            (Register::Manifest(Digest::sha256(b"signature")), Register::Tag(tags(&["v1"]).remove(0)));
        assert_eq!(registers, [&signature, &v1, &Register::Settings]);
        let mut by_time = newest(&world.tables, &repository, (&scope, u64::MAX), None, 99);
        by_time.sort_by_key(|(register, _)| register.clone());
        assert_eq!(by_time, records);
        assert_eq!(count(&world.tables, &repository, &scope, u64::MAX), 3);
        let mut expected = Sums::default();
        records.iter().for_each(|(register, record)| expected.add(register, record));
        assert_eq!(sums(&world.tables, &repository, &scope), expected);
        let is_sent =
            |register: &Register| matches!(there(&world.tables, &repository, &scope, register), There::Sent(_));
        let apart = [Register::Manifest(Digest::sha256(b"index")), Register::Tag(tags(&["dev"]).remove(0))];
        assert!(is_sent(&signature) && is_sent(&v1) && !apart.iter().any(is_sent));
    }

    // A manifest whose row is lost shows where a tag that passes names it, or an index that is there; what only other
    // tags name does not.
    #[test]
    fn lost_manifests() {
        let (mut world, repository, scope) = filtered();
        let targets = |world: &World, scope: &Scope| {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (lost, rest) = lost_targets(&world.tables, &repository, scope, after.as_ref(), 1);
                found.extend(lost);
                after = rest;
                if after.is_none() {
                    return found;
                }
            }
        };
        let children =
            |world: &World, scope: &Scope| lost_content(&world.tables, &repository, scope, None, 99, |_| {}).0;
        assert_eq!((targets(&world, &scope), children(&world, &scope)), (vec![], vec![]));
        let index = manifest::read(&world.tables, &repository, &Digest::sha256(b"index")).unwrap();
        let v1 = tag::read(&world.tables, &repository, &tags(&["v1"])[0]).unwrap();
        let lose = |world: &mut World, bytes: &[u8]| {
            let digest = Digest::sha256(bytes);
            world.tables.write([(manifest_key(&repository, &digest), None)].into());
            digest
        };
        lose(&mut world, b"other");
        assert_eq!((targets(&world, &scope), children(&world, &scope)), (vec![], vec![]));
        let child = Lost::Manifest { digest: lose(&mut world, b"child"), named_at: index.presence };
        assert_eq!((targets(&world, &scope), children(&world, &scope)), (vec![], vec![child]));
        let named = Lost::Manifest { digest: lose(&mut world, b"index"), named_at: v1.version };
        assert_eq!((targets(&world, &scope), children(&world, &scope)), (vec![named], vec![]));
        assert_eq!(targets(&world, &SCOPE), [], "without a filter its own register tells");
        let late = Scope { since: Since { own: u64::MAX, ..SINCE }, ..scope };
        assert_eq!(targets(&world, &late), []);
    }

    // What is asked about a register is told from its row, or from what deleted it.
    #[test]
    fn what_is_there() {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"1", &["t"]);
        let (of_tag, of_manifest) = (Register::Tag(tag()), Register::Manifest(Digest::sha256(b"1")));
        let ask = |world: &World, register: &Register| there(&world.tables, &repository, &SCOPE, register);
        for register in [&of_tag, &of_manifest] {
            let record = record(&world.tables, &repository, register).unwrap();
            assert_eq!(ask(&world, register), There::Sent(record));
            let late = Scope { since: Since { own: u64::MAX, ..SINCE }, ..SCOPE };
            assert_eq!(there(&world.tables, &repository, &late, register), There::Apart(record));
        }
        world.ok(DeleteTag { repository: repository.clone(), tag: tag(), expected: None });
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"1") });
        assert!(matches!(ask(&world, &of_tag), There::Gone(_)));
        assert!(matches!(ask(&world, &of_manifest), There::Gone(_)));
        assert_eq!(ask(&world, &Register::Tag(tags(&["never"]).remove(0))), There::Never);
    }

    // A row that was altered, removed or added beneath the commands is told by the journal, and made what that says;
    // what is in order stays, whoever asks.
    #[test]
    fn damaged_rows_are_mended() {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"1", &[]);
        put(&mut world, &repository, b"2", &["t"]);
        put(&mut world, &repository, b"2", &["t"]);
        let (register, key) = (Register::Tag(tag()), tag_key(&repository, &tag()));
        let good = tag::read(&world.tables, &repository, &tag()).unwrap();
        let told = Some((good.digest, good.version, good.base));
        let mend = MendTag { repository: repository.clone(), tag: tag(), told };
        assert!(is_proven(&world.tables, &repository, &register));
        assert_eq!(world.ok(mend.clone()), Reply::Unchanged);
        let altered = TagRow { digest: Digest::sha256(b"1"), ..good.clone() };
        for damaged in [Some(altered.clone()), None] {
            world.tables.write([(key.clone(), damaged.as_ref().map(codec::encode))].into());
            assert!(!is_proven(&world.tables, &repository, &register), "{damaged:?}");
            world.ok(mend.clone());
            let mended = tag::read(&world.tables, &repository, &tag()).unwrap();
            assert_eq!((mended.digest, mended.version, mended.change), (good.digest, good.version, good.change));
            assert!(tag::names(&world.tables, &repository, &good.digest));
            assert!(!tag::names(&world.tables, &repository, &Digest::sha256(b"1")));
        }
        // nothing is believed of another digest, or of a version below the journal's
        for told in
            [None, Some((good.digest, Version::default(), good.base)), Some((altered.digest, good.version, good.base))]
        {
            world.tables.write([(key.clone(), None)].into());
            world.ok(MendTag { told, ..mend.clone() });
            let mended = tag::read(&world.tables, &repository, &tag()).unwrap();
            assert_eq!(mended.digest, good.digest, "{told:?}");
            assert!(mended.version == mended.base && mended.version > Version::default(), "{told:?}");
        }
        world.ok(DeleteTag { repository: repository.clone(), tag: tag(), expected: None });
        world.tables.write([(key, Some(codec::encode(&altered)))].into());
        assert!(!is_proven(&world.tables, &repository, &register));
        world.ok(mend);
        assert_eq!(tag::read(&world.tables, &repository, &tag()), None);
    }

    // Two witnesses of settings that contradict each other are told, and agree once they are mended; it is not the same
    // again at the next comparison.
    #[test]
    fn damaged_settings_are_mended() {
        let (mut world, repository) = world();
        let home = Home { region: Some(RegionName::parse("eu").unwrap()), epoch: 1, is_frozen: false };
        let version = Version { home_epoch: 1, hlc: 5, region: 2 };
        let settings = Settings::default();
        world.ok(PutRemoteSettings { repository: repository.clone(), settings, home, version });
        let of = |world: &World| record(&world.tables, &repository, &Register::Settings);
        let good = of(&world);
        let row = settings::read(&world.tables, &repository).unwrap();
        let key = keys::settings(repository.slot(), repository.id);
        let bad = SettingsRow { home: Home::default(), version: Version { home_epoch: 0, ..version }, ..row };
        world.tables.write([(key, Some(codec::encode(&bad)))].into());
        assert!(of(&world) != good && !is_proven(&world.tables, &repository, &Register::Settings));
        world.ok(mend(repository.clone(), &Register::Settings, None).unwrap());
        assert!(of(&world) == good && is_proven(&world.tables, &repository, &Register::Settings));
    }
}
