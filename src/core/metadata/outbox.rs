//! Changes that other regions are told of: written with the change itself, in log order, kept until all have seen them.
//!
//! A row says what a register is since an index: a tag, a manifest's presence, or a repository's settings. What one
//! entry did to a register twice stands once. Rows are written while the registry has a rule of replication, whatever
//! the rule covers: what is sent is decided when it is read. Source: consensus-and-faults §6.1.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot, table};
use super::reply::Reply;
use super::repository::{RepositoryKey, Settings};
use super::settings::Home;
use super::tables::{Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{cluster, cursor, manifest, peer, replication_rules};
use crate::decide::replication::compare::Register;
use crate::decide::replication::tags::SentTags;
use crate::mutants::{self, Mutant};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{RegistryId, RepositoryId};
use crate::vocabulary::limits::{OUTBOX_RETENTION_MS, OUTBOX_TRIMMED_MAX};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::stored::stored_enum;
use crate::vocabulary::tag::Tag;
use crate::vocabulary::version::Version;

stored_enum! {
    /// What a register is since a change.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Change {
        /// A manifest is present, and everything it names.
        ManifestHere {
            /// Which.
            digest: Digest,
            /// Version of its presence.
            presence: Version,
        } = 1,
        /// A manifest was deleted.
        ManifestGone {
            /// Which.
            digest: Digest,
            /// Version of the delete.
            version: Version,
            /// It was attached to another one.
            is_attached: bool,
            /// A rule by which this came, or by which it is told, does not send all manifests: it may be of what was
            /// never sent.
            is_filtered: bool,
        } = 2,
        /// A tag names a manifest.
        TagSet {
            /// Which tag.
            tag: Tag,
            /// What it names.
            digest: Digest,
            /// Version of the setting.
            version: Version,
            /// What it ranks by; see [`rank`](crate::decide::replication::rank).
            base: Version,
            /// Version of what it replaced: the smallest for nothing, its own where that is not known.
            previous: Version,
        } = 3,
        /// A tag was deleted.
        TagGone {
            /// Which tag.
            tag: Tag,
            /// Version of the delete.
            version: Version,
            /// Version of what it deleted: the smallest for nothing.
            previous: Version,
        } = 4,
        /// The settings of the repository.
        SettingsSet {
            /// Which they are.
            settings: Settings,
            /// Where the repository is written.
            home: Home,
            /// Version of the setting.
            version: Version,
        } = 5,
    }
}

impl Change {
    /// The version that it gave the register.
    pub fn version(&self) -> Version {
        match self {
            Change::ManifestHere { presence: version, .. }
            | Change::ManifestGone { version, .. }
            | Change::TagSet { version, .. }
            | Change::TagGone { version, .. }
            | Change::SettingsSet { version, .. } => *version,
        }
    }

    /// Whether it ends something.
    pub fn is_delete(&self) -> bool {
        match self {
            Change::ManifestHere { .. } | Change::TagSet { .. } | Change::SettingsSet { .. } => false,
            Change::ManifestGone { .. } | Change::TagGone { .. } => true,
        }
    }

    /// Whether it waits for all that came before it in its repository: a delete may concern what is not here yet, and a
    /// home that is frozen says that everything is.
    pub fn waits(&self) -> bool {
        self.is_delete() || matches!(self, Change::SettingsSet { .. })
    }

    /// Whether it says that a manifest is here, by itself or by a tag.
    pub fn names(&self, manifest: &Digest) -> bool {
        match self {
            Change::ManifestHere { digest, .. } | Change::TagSet { digest, .. } => digest == manifest,
            Change::ManifestGone { .. } | Change::TagGone { .. } | Change::SettingsSet { .. } => false,
        }
    }

    /// What it changed.
    pub fn register(&self) -> Register {
        match self {
            Change::ManifestHere { digest, .. } | Change::ManifestGone { digest, .. } => Register::Manifest(*digest),
            Change::TagSet { tag, .. } | Change::TagGone { tag, .. } => Register::Tag(tag.clone()),
            Change::SettingsSet { .. } => Register::Settings,
        }
    }
}

/// A row of the change stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutboxRow {
    /// What changed.
    pub change: Change,
    /// When, replicated milliseconds since 1970.
    pub at_ms: u64,
}

impl Stored for OutboxRow {}

/// Up to which index rows of a slot were trimmed before every destination had seen them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TrimmedRow(pub u64);

impl Stored for TrimmedRow {}

/// A change as it is read from the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the change.
    pub index: u64,
    /// The repository's internal id here.
    pub repository: RepositoryId,
    /// What changed, and when.
    pub row: OutboxRow,
}

/// Notes a change, if anybody may want it.
pub(super) fn note(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, change: Change) {
    let rules = keys::replication_rules(repository.registry);
    if context.level >= LEVEL_3 && tables.contains(&rules) {
        write(tables, context, repository, change);
    }
}

fn write(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, change: Change) {
    let is_dropping = mutants::is_on(Mutant::DropChange) || mutants::is_on(Mutant::SkipCompare);
    if is_dropping && (change.version().hlc / 1000).is_multiple_of(16) {
        return;
    }
    // manifests before tags, so that of one entry's changes a manifest comes first
    let key = keys::outbox(repository.slot(), context.index, repository.id, &change.register().key());
    tables.put(key, codec::encode(&OutboxRow { change, at_ms: context.clock.now_ms }));
}

/// Notes that what names some manifests, which are attached to others, has renewed them, where a rule may send the one
/// without the others: not all tags are sent. The rules are read for all of them at once.
pub(super) fn note_renewed(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    attached: &[Digest],
    presence: Version,
) {
    if context.level < LEVEL_3 || attached.is_empty() {
        return;
    }
    if replication_rules::read(tables, repository.registry).filters_tags(&repository.name) {
        for digest in attached {
            write(tables, context, repository, Change::ManifestHere { digest: *digest, presence });
        }
    }
}

/// Some events of a slot, and where the next ones begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events, in log order.
    pub events: Vec<Event>,
    /// The key behind which to go on; `None` when these were the last.
    pub rest: Option<Vec<u8>>,
}

/// Up to `limit` events of a slot with an index above `after` and at most `up_to`; `rest` is that of the page before.
pub fn read(
    tables: &impl TablesRead,
    slot: Slot,
    (after, up_to): (u64, u64),
    rest: Option<&[u8]>,
    limit: usize,
) -> EventPage {
    let Some(first) = after.checked_add(1) else { return EventPage::default() };
    let from = rest.map_or_else(|| keys::outbox_from(slot, first), |rest| [rest, &[0]].concat());
    let end =
        up_to.checked_add(1).map_or_else(|| keys::of_slot(slot, table::OUTBOX + 1), |end| keys::outbox_from(slot, end));
    let rows = tables.range(&from, &end, limit);
    let event = |key: &[u8], value: &[u8]| {
        let (index, repository) = keys::outbox_in(key).expect("a key of the outbox holds index and repository");
        Event { index, repository, row: codec::row(value) }
    };
    let rest = (rows.len() == limit).then(|| rows.last().map(|(key, _)| key.clone())).flatten();
    EventPage { events: rows.iter().map(|(key, value)| event(key, value)).collect(), rest }
}

/// A change of a log index as a rule of these tags sends it, `None` if it doesn't: of tags those that pass; of
/// manifests that are put, where not all tags are sent, those that are attached to others. A delete of a manifest says
/// whether it was made, or is sent, while not all of them are: who hears of it later may know of another filter.
pub fn sent(
    tables: &impl TablesRead,
    repository: &RepositoryKey,
    tags: &SentTags,
    (index, change): (u64, Change),
) -> Option<Change> {
    let is_sent = match &change {
        Change::TagSet { tag, .. } | Change::TagGone { tag, .. } => tags.passes(tag, index),
        Change::ManifestHere { digest, .. } => {
            let is_attached = || manifest::read(tables, repository, digest).is_some_and(|row| row.subject.is_some());
            tags.passes_manifests(index) || is_attached()
        }
        Change::ManifestGone { digest, version, is_attached, is_filtered } => {
            let is_filtered = *is_filtered || !tags.passes_manifests(index);
            let (digest, version, is_attached) = (*digest, *version, *is_attached);
            return Some(Change::ManifestGone { digest, version, is_attached, is_filtered });
        }
        Change::SettingsSet { .. } => true,
    };
    is_sent.then_some(change)
}

/// Up to which index rows of a slot were trimmed although a destination may not have seen them.
pub fn trimmed(tables: &impl TablesRead, slot: Slot) -> u64 {
    tables.get(&keys::of_slot(slot, table::OUTBOX_TRIMMED)).map_or(TrimmedRow::default(), |bytes| codec::row(&bytes)).0
}

/// Up to which index every destination of a registry's rules has applied all changes; `u64::MAX` without rules.
pub fn seen_by_all(tables: &impl TablesRead, registry: RegistryId) -> u64 {
    let rules = replication_rules::read(tables, registry);
    let regions = rules.0.iter().flat_map(|standing| &standing.rule.destinations).map(|to| &to.region);
    let lineage = cluster::read(tables).map(|row| row.lineage);
    let seen = regions.map(|region| {
        let (number, _) = peer::named(tables, region)?;
        let row = cursor::of_destination(tables, number)?;
        (Some(row.lineage) == lineage).then_some(row.index)
    });
    seen.map(Option::unwrap_or_default).min().unwrap_or(u64::MAX)
}

/// Whether a row need not be kept any more, by when it was written and what destinations have seen.
fn is_over(row: &OutboxRow, index: u64, seen: u64, now_ms: u64) -> bool {
    index <= seen || row.at_ms.saturating_add(OUTBOX_RETENTION_MS) <= now_ms
}

/// What trims a slot; nothing while all its rows are to be kept. Looks at the oldest row only.
pub fn due(tables: &impl TablesRead, slot: Slot, registry: RegistryId, seen: u64, now_ms: u64) -> Option<TrimOutbox> {
    let (key, value) = tables.prefix(&keys::of_slot(slot, table::OUTBOX), 1).pop()?;
    let (index, _) = keys::outbox_in(&key).expect("a key of the outbox holds its index");
    is_over(&codec::row(&value), index, seen, now_ms).then_some(TrimOutbox { slot, registry })
}

/// Removes the oldest rows of a slot that all destinations have seen, or that are older than the stream reaches back.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrimOutbox {
    /// Which slot.
    pub slot: Slot,
    /// Whose rules say who has to see them.
    pub registry: RegistryId,
}

impl Apply for TrimOutbox {
    fn slot(&self) -> Slot {
        self.slot
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let seen = seen_by_all(tables, self.registry);
        let mut unseen = None;
        let mut purged = 0;
        for (key, value) in tables.prefix(&keys::of_slot(self.slot, table::OUTBOX), OUTBOX_TRIMMED_MAX) {
            let (index, _) = keys::outbox_in(&key).expect("a key of the outbox holds its index");
            if !is_over(&codec::row(&value), index, seen, context.clock.now_ms) {
                break;
            }
            if index > seen {
                unseen = Some(index);
            }
            tables.delete(key);
            purged += 1;
        }
        if let Some(index) = unseen {
            let index = index.max(trimmed(tables, self.slot));
            tables.put(keys::of_slot(self.slot, table::OUTBOX_TRIMMED), codec::encode(&TrimmedRow(index)));
        }
        Ok(Reply::Purged(purged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::tags::TagScope;
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::cursor::NoteDestination;
    use crate::metadata::manifest::{DeleteManifest, PutManifest};
    use crate::metadata::remote::{DropRemoteManifest, PutRemoteManifest};
    use crate::metadata::tag::DeleteTag;
    use crate::metadata::testing::{World, manifest, peer, reference, sends_all, tags};
    use crate::vocabulary::ids::Lineage;
    use crate::vocabulary::manifest::ContentKind;

    fn world() -> (World, RepositoryKey) {
        let mut world = World::cluster();
        let repository = world.repository("r", 1, Default::default());
        (world, repository)
    }

    fn linked() -> (World, RepositoryKey) {
        let (mut world, repository) = world();
        world.ok(peer(2, "eu"));
        world.ok(sends_all("eu"));
        (world, repository)
    }

    fn put(world: &mut World, repository: &RepositoryKey, bytes: &[u8], names: &[&str]) {
        world.ok(PutManifest { tags: tags(names), ..manifest(repository, bytes) });
    }

    fn all(world: &World, repository: &RepositoryKey) -> Vec<Event> {
        let page = read(&world.tables, repository.slot(), (0, u64::MAX), None, usize::MAX);
        assert_eq!(page.rest, None);
        page.events
    }

    fn told(events: &[Event]) -> Vec<String> {
        let tell = |event: &Event| match &event.row.change {
            Change::ManifestHere { .. } => "here".to_owned(),
            Change::ManifestGone { .. } => "gone".to_owned(),
            Change::TagSet { tag, .. } => format!("set {tag}"),
            Change::TagGone { tag, .. } => format!("gone {tag}"),
            Change::SettingsSet { .. } => "settings".to_owned(),
        };
        events.iter().map(tell).collect()
    }

    // Without a rule nothing is written; with one, every change of a tag or a manifest is, manifests before tags.
    #[test]
    fn every_change_is_noted() {
        let (mut world, repository) = world();
        put(&mut world, &repository, b"1", &["before"]);
        world.ok(peer(2, "eu"));
        put(&mut world, &repository, b"1", &["before"]);
        assert_eq!(all(&world, &repository), []);
        world.ok(sends_all("eu"));
        put(&mut world, &repository, b"2", &["b", "a"]);
        let first = world.index;
        put(&mut world, &repository, b"2", &["a"]);
        put(&mut world, &repository, b"3", &["a"]);
        world.ok(DeleteTag { repository: repository.clone(), tag: tags(&["a"]).remove(0), expected: None });
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"2") });
        let events = all(&world, &repository);
        let expected = ["here", "set a", "set b", "here", "set a", "here", "set a", "gone a", "gone", "gone b"];
        assert_eq!(told(&events), expected);
        assert!(events.is_sorted_by_key(|event| event.index));
        assert_eq!(events[0].index, first);
        assert!(events.iter().all(|event| event.repository == repository.id && event.row.at_ms > 0));
    }

    // What an envelope does to a tag twice stands once, as it is in the end.
    #[test]
    fn one_row_for_a_register_and_entry() {
        let (mut world, repository) = linked();
        let set = |bytes: &[u8]| PutManifest { tags: tags(&["t"]), ..manifest(&repository, bytes) }.into();
        assert_eq!(world.propose(vec![set(b"1"), set(b"2")]).refusal, None);
        let events = all(&world, &repository);
        assert_eq!(told(&events), ["here", "here", "set t"]);
        let Change::TagSet { digest, .. } = &events[2].row.change else { panic!("another change") };
        assert_eq!(*digest, Digest::sha256(b"2"));
    }

    // With a filter, tags go by it, deletes of manifests as ever, with a word about it, and of manifests only those
    // that are attached to others; which are told of also when an index that is not sent renews one.
    #[test]
    fn a_filter_of_tags() {
        let (mut world, repository) = linked();
        let filter = |text: &str| TagFilter::parse(text).unwrap();
        let some = TagScope::new([filter("v*")], [filter("*-rc*")]).unwrap();
        let mut rules = sends_all("eu");
        rules.rules[0].tags = some.clone();
        world.ok(rules);
        put(&mut world, &repository, b"image", &["v1", "v1-rc1", "dev"]);
        put(&mut world, &repository, b"image", &["dev"]);
        let subject = Some(Digest::sha256(b"image"));
        world.ok(PutManifest { subject, ..manifest(&repository, b"signature") });
        let references = [&b"image"[..], b"signature"].map(|child| reference(child, ContentKind::Manifest)).to_vec();
        world.ok(PutManifest { tags: tags(&["dev"]), references, ..manifest(&repository, b"index") });
        for name in ["v1", "dev"] {
            world.ok(DeleteTag { repository: repository.clone(), tag: tags(&[name]).remove(0), expected: None });
        }
        world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"index") });

        let presence = manifest::read(&world.tables, &repository, &Digest::sha256(b"signature")).unwrap().presence;
        let sent = |tags: &SentTags| {
            let told = |event: Event| {
                let change = sent(&world.tables, &repository, tags, (event.index, event.row.change))?;
                Some(Event { row: OutboxRow { change, ..event.row }, ..event })
            };
            all(&world, &repository).into_iter().filter_map(told).collect::<Vec<_>>()
        };
        assert_eq!(sent(&SentTags::ALL), all(&world, &repository));
        let events = sent(&some.into());
        assert_eq!(told(&events), ["set v1", "here", "here", "gone v1", "gone"]);
        let here = Change::ManifestHere { digest: Digest::sha256(b"signature"), presence };
        assert_eq!(events[2].row.change, here);
    }

    // What waits when a rule gets other tags is sent still, if they let it through as well; what only the new ones let
    // through is from then on.
    #[test]
    fn a_filter_that_changes() {
        let (mut world, repository) = linked();
        let tagged = |world: &mut World, texts: &[&str]| {
            let mut rules = sends_all("eu");
            rules.rules[0].tags = TagScope::new(texts.iter().map(|text| TagFilter::parse(text).unwrap()), []).unwrap();
            world.ok(rules);
        };
        tagged(&mut world, &["v*"]);
        put(&mut world, &repository, b"waits", &["v1", "v2", "dev"]);
        tagged(&mut world, &["v1*", "dev"]);
        put(&mut world, &repository, b"later", &["v1.1", "v2.1", "dev"]);
        let eu = crate::vocabulary::names::RegionName::parse("eu").unwrap();
        let rules = replication_rules::read(&world.tables, repository.registry);
        let is_sent = |event: &Event| {
            let tags = rules.tags(&repository.name, &eu);
            let sent = sent(&world.tables, &repository, &tags, (event.index, event.row.change.clone()));
            sent.is_some() && rules.sends(&repository.name, &eu, (event.index, true))
        };
        let events: Vec<Event> = all(&world, &repository).into_iter().filter(is_sent).collect();
        assert_eq!(told(&events), ["set v1", "set dev", "set v1.1"]);
        assert!(events[0].index < events[1].index, "the first dev was of no rule's");
    }

    // A delete of a manifest says for itself what it was of, and whether all manifests are sent, when it was made and
    // now: a filter that comes or goes before it is heard of changes nothing about that. Passed on it keeps what it
    // came with.
    #[test]
    fn deletes_tell_of_filters() {
        let (mut world, repository) = linked();
        let subject = Some(Digest::sha256(b"image"));
        put(&mut world, &repository, b"image", &["v1"]);
        world.ok(PutManifest { subject, ..manifest(&repository, b"signature") });
        for bytes in [&b"image"[..], b"signature"] {
            world.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(bytes) });
        }
        let told = |world: &World, tags: &SentTags| {
            let told = |event: Event| sent(&world.tables, &repository, tags, (event.index, event.row.change));
            let mut found = Vec::new();
            for change in all(world, &repository).into_iter().filter_map(told) {
                if let Change::ManifestGone { is_attached, is_filtered, .. } = change {
                    found.push((is_attached, is_filtered));
                }
            }
            found
        };
        let some = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
        let freed = |until: u64| SentTags { now: TagScope::ALL, before: vec![(until, some.clone())] };
        let (first, last) = (world.index - 1, world.index);
        assert_eq!(told(&world, &SentTags::ALL), [(false, false), (true, false)]);
        assert_eq!(told(&world, &freed(first - 1)), [(false, false), (true, false)]);
        assert_eq!(told(&world, &freed(first)), [(false, true), (true, false)], "made under a filter that went");
        assert_eq!(told(&world, &freed(last)), [(false, true), (true, true)]);
        let came = SentTags { now: some.clone(), before: vec![(last, TagScope::ALL)] };
        assert_eq!(told(&world, &came), [(false, true), (true, true)], "sent under one that came");

        world.ok(peer(3, "us"));
        let version = |hlc: u64| Version { home_epoch: 0, hlc, region: 3 };
        for (bytes, is_filtered) in [(b"1", true), (b"2", false)] {
            world.ok(PutRemoteManifest { put: manifest(&repository, bytes), presence: version(10) });
            let (repository, digest) = (repository.clone(), Digest::sha256(bytes));
            world.ok(DropRemoteManifest { repository, digest, version: version(20), from: 3, is_filtered });
        }
        assert_eq!(told(&world, &SentTags::ALL)[2..], [(false, true), (false, false)]);
    }

    // Pages of any size give the same events, from any index to any other.
    #[test]
    fn pages() {
        let (mut world, repository) = linked();
        for number in 0..10u8 {
            put(&mut world, &repository, &[number], &["a", "b"]);
        }
        let whole = all(&world, &repository);
        assert_eq!(whole.len(), 30);
        let (after, up_to) = (whole[3].index, whole[20].index);
        let between: Vec<Event> =
            whole.iter().filter(|event| event.index > after && event.index <= up_to).cloned().collect();
        for limit in [1, 2, 7, 100] {
            let (mut found, mut rest) = (Vec::new(), None);
            loop {
                let page = read(&world.tables, repository.slot(), (after, up_to), rest.as_deref(), limit);
                found.extend(page.events);
                rest = page.rest;
                if rest.is_none() {
                    break;
                }
            }
            assert_eq!(found, between, "pages of {limit}");
        }
        assert_eq!(read(&world.tables, repository.slot(), (u64::MAX, u64::MAX), None, 9), EventPage::default());
    }

    // Rows go when every destination has seen them, or when they are too old; only then the stream has a gap.
    #[test]
    fn trimming() {
        let (mut world, repository) = linked();
        put(&mut world, &repository, b"1", &["a"]);
        let first = world.index;
        put(&mut world, &repository, b"2", &["a"]);
        let (slot, registry) = (repository.slot(), repository.registry);
        let due = |world: &World| due(&world.tables, slot, registry, seen_by_all(&world.tables, registry), world.at_ms);
        let trim = TrimOutbox { slot, registry };
        assert_eq!(due(&world), None);
        assert_eq!(world.ok(trim.clone()), Reply::Purged(0));
        world.ok(NoteDestination { number: 2, lineage: Lineage(1), index: first });
        assert_eq!(due(&world), Some(trim.clone()));
        assert_eq!(world.ok(trim.clone()), Reply::Purged(2));
        assert_eq!((trimmed(&world.tables, slot), all(&world, &repository).len()), (0, 2));
        world.at_ms += OUTBOX_RETENTION_MS;
        let last = all(&world, &repository).last().unwrap().index;
        assert_eq!(world.ok(trim.clone()), Reply::Purged(2));
        assert_eq!(trimmed(&world.tables, slot), last);
        assert_eq!(due(&world), None);
        // without a rule nobody has to see anything
        put(&mut world, &repository, b"3", &["a"]);
        world.ok(replication_rules::PutReplicationRules { registry, rules: vec![] });
        assert_eq!(world.ok(trim), Reply::Purged(2));
        assert_eq!(trimmed(&world.tables, slot), last);
    }
}
