//! The keyspace, and the only place that builds keys.
//!
//! Every key begins with a slot, so that slots can move to other Raft groups later without a rewrite:
//! `[slot u16][table u8][…]`, numbers big-endian. A command reads and writes one slot, and may *read* [`SYSTEM`].
//!
//! | slot | table | rest of the key | row |
//! |---|---|---|---|
//! | `SYSTEM` | `CLUSTER` | | [`ClusterRow`](super::cluster::ClusterRow) |
//! | | `CLOCK` | | [`ClockRow`](super::clock::ClockRow): now, tick |
//! | | `NODE` | node id | [`NodeRow`](super::node::NodeRow) |
//! | | `STORE` | store id | [`StoreRow`](super::node::StoreRow) |
//! | | `USER` | registry, name | [`UserRow`](super::principal::UserRow) |
//! | | `KEY` | access key id | [`KeyRow`](super::principal::KeyRow) |
//! | | `KEY_OF` | registry, user, 0, access key id | nothing |
//! | | `POLICY` | registry, principal, 0, policy name | [`PolicyRow`](super::principal::PolicyRow) |
//! | | `AUTH_VERSION` | | counts every change of users, keys and policies |
//! | | `REQUEST` | log index | exactly-once window: request id and reply |
//! | | `STATE_DIGEST` | | running hash over all changes |
//! | | `DIGEST_ASKED` | | the last log index at which the running hash was asked for |
//! | | `OWN_DIGEST` | | what this node's running hash was there; the one row that may differ between nodes |
//! | | `DIGEST_REPORT` | node id | what a node's running hash was there |
//! | | `TOPOLOGY` | | nodes and stores in one row, for what 201 needs |
//! | | `GC` | | [`GcRow`](super::gc::GcRow): where garbage collection stands, and what operators want of it |
//! | | `UPGRADE` | | [`UpgradeRow`](super::upgrade::UpgradeRow): not all slots work at the cluster's level yet |
//! | | `REGISTRY_QUOTA` | registry | [`QuotaRow`](super::quota::QuotaRow): its limits, the round of its shares |
//! | | `ABSENCE` | node id | [`AbsenceRow`](super::absence::AbsenceRow): for how long no leader has heard of it |
//! | | `PEERS` | | [`PeersRow`](super::peer::PeersRow): numbers of the other regions that are known |
//! | | `PEER` | region number | [`PeerRow`](super::peer::PeerRow) |
//! | | `REPLICATION_RULES` | registry | [`RulesRow`](super::replication_rules::RulesRow) |
//! | | `SOURCE_CURSOR` | region number | [`CursorRow`](super::cursor::CursorRow): how far it is applied here |
//! | | `DESTINATION_CURSOR` | region number | the same, of changes made here, as it has said |
//! | | `PARKED` | region number, log index there, register | [`ParkedRow`](super::parked::ParkedRow) |
//! | | `BACKFILL` | region number | [`BackfillRow`](super::backfill::BackfillRow): what it held before its rules |
//! | | `REGION_LINK` | region number | [`RegionLinkRow`](super::region_link::RegionLinkRow) |
//! | | `OFFER` | region number | [`OfferRow`](super::offer::OfferRow): what it says it sends here |
//! | | `PLACES` | | [`PlacesRow`](super::places::PlacesRow): where clients and nodes are |
//! | by repository name | `NAME` | registry, name | repository id |
//! | | `REPOSITORY` | repository id | [`RepositoryRow`](super::repository::RepositoryRow) |
//! | | `DELETED` | repository id | nothing; the repository waits to be purged |
//! | | `MANIFEST` | repository id, digest | [`ManifestRow`](super::manifest::ManifestRow) |
//! | | `MANIFEST_BYTES` | repository id, digest | bytes of a manifest that is kept inline |
//! | | `TAG` | repository id, tag | [`TagRow`](super::tag::TagRow) |
//! | | `TAG_JOURNAL` | repository id, tag, 0, change number | [`JournalRow`](super::tag::JournalRow) |
//! | | `MANIFEST_TAG` | repository id, digest, tag | nothing |
//! | | `REFERRER` | repository id, subject digest, digest | [`ReferrerRow`](super::referrer::ReferrerRow) |
//! | | `LINK` | repository id, digest | [`LinkRow`](super::link::LinkRow) |
//! | | `MANIFEST_REFERENCES` | repository id, digest | [`ReferencesRow`](super::manifest::ReferencesRow) |
//! | | `REF` | repository id, digest, kind, manifest digest | nothing; a sparse manifest's missing ones too |
//! | | `LOOSE_USE` | repository id, digest, use id | log index since which no link stands on this use |
//! | | `UNTAGGED` | repository id, digest | [`UntaggedRow`](super::untagged::UntaggedRow): no tag, no index names it |
//! | | `GONE` | repository id, digest | [`GoneRow`](super::gone::GoneRow): a manifest that was deleted |
//! | | `TAG_ENDED` | repository id, tag | [`EndedRow`](super::ended::EndedRow): a tag that went with its manifest |
//! | | `CONFLICT` | repository id, log index, tag | [`ConflictRow`](super::conflict::ConflictRow): a lost setting |
//! | | `SETTINGS` | repository id | [`SettingsRow`](super::settings::SettingsRow): its settings, and since when |
//! | by repository | `HOME_EPOCH` | registry, name | [`EpochRow`](super::settings::EpochRow): its home, and the last |
//! | | `OUTBOX` | log index, repository id, register | [`OutboxRow`](super::outbox::OutboxRow): a change to be told |
//! | | `OUTBOX_TRIMMED` | | [`TrimmedRow`](super::outbox::TrimmedRow): where its slot's stream has a gap |
//! | | `USAGE` | repository id | [`UsageRow`](super::usage::UsageRow): what it holds and may hold |
//! | | `SLOT_USAGE` | registry | [`SlotUsageRow`](super::usage::SlotUsageRow): the same of a registry's in this slot |
//! | | `SLOT_LEVEL` | | [`SlotLevelRow`](super::upgrade::SlotLevelRow): the level it was migrated to |
//! | | `SLOT_CLOCK` | | last hybrid logical time of the slot |
//! | by upload id | `UPLOAD` | upload id | [`UploadRow`](super::upload::UploadRow): takeovers and closings only |
//! | by digest | `BLOB` | digest | [`BlobRow`](super::blob::BlobRow) |
//! | | `USE` | digest, repository id, use id | [`RepositoryKey`](super::repository::RepositoryKey): whose it is |
//! | | `CLOSED_GENERATION` | generation, digest | tick of the closing |
//! | | `NEED` | zone, 0, digest | tick since which the zone lacks a confirmed copy |
//! | | `FENCE` | digest, store id | [`FenceRow`](super::replica::FenceRow): older confirmations count no more |

use super::parked::ParkedId;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{NodeId, RegistryId, RepositoryId, StoreId, UploadId, UseId};
use crate::vocabulary::manifest::ContentKind;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::tag::Tag;

/// Unit of metadata a command stays inside. 1024 of them, and the system slot.
pub type Slot = u16;

/// How many slots there are beside [`SYSTEM`].
pub const SLOTS: Slot = 1024;

/// Rows that exist once per group; any command may read them.
pub const SYSTEM: Slot = u16::MAX;

macro_rules! tables {
    ($($name:ident = $number:literal,)*) => {
        /// Table numbers; stored, so a number is never used twice.
        pub(crate) mod table {
            $(pub(crate) const $name: u8 = $number;)*
        }

        /// Every table with its number, for tools that show rows.
        pub const TABLE_NAMES: &[(u8, &str)] = &[$(($number, stringify!($name)),)*];
    };
}

tables! {
    CLUSTER = 0x01,
    CLOCK = 0x02,
    NODE = 0x03,
    STORE = 0x04,
    USER = 0x05,
    KEY = 0x06,
    POLICY = 0x07,
    AUTH_VERSION = 0x08,
    REQUEST = 0x09,
    STATE_DIGEST = 0x0a,
    DIGEST_ASKED = 0x0b,
    OWN_DIGEST = 0x0c,
    DIGEST_REPORT = 0x0d,
    TOPOLOGY = 0x0e,
    KEY_OF = 0x0f,
    GC = 0x10,
    UPGRADE = 0x11,
    ABSENCE = 0x12,
    PEERS = 0x13,
    PEER = 0x14,
    REPLICATION_RULES = 0x15,
    SOURCE_CURSOR = 0x16,
    DESTINATION_CURSOR = 0x17,
    REGISTRY_QUOTA = 0x18,
    PARKED = 0x19,
    BACKFILL = 0x1a,
    REGION_LINK = 0x1b,
    OFFER = 0x1c,
    PLACES = 0x1d,
    NAME = 0x20,
    REPOSITORY = 0x21,
    MANIFEST = 0x22,
    MANIFEST_BYTES = 0x23,
    TAG = 0x24,
    TAG_JOURNAL = 0x25,
    MANIFEST_TAG = 0x26,
    REFERRER = 0x27,
    LINK = 0x28,
    REF = 0x29,
    MANIFEST_REFERENCES = 0x2a,
    SLOT_CLOCK = 0x2b,
    DELETED = 0x2c,
    LOOSE_USE = 0x2d,
    UNTAGGED = 0x2e,
    GONE = 0x2f,
    TAG_ENDED = 0x30,
    CONFLICT = 0x31,
    SETTINGS = 0x32,
    HOME_EPOCH = 0x33,
    USAGE = 0x38,
    SLOT_USAGE = 0x39,
    SLOT_LEVEL = 0x3a,
    UPLOAD = 0x40,
    OUTBOX = 0x50,
    OUTBOX_TRIMMED = 0x52,
    BLOB = 0x60,
    USE = 0x61,
    CLOSED_GENERATION = 0x62,
    NEED = 0x63,
    FENCE = 0x64,
}

/// The name of the table that a key belongs to.
pub fn table_name(key: &[u8]) -> Option<&'static str> {
    let number = key.get(2)?;
    TABLE_NAMES.iter().find(|(table, _)| table == number).map(|(_, name)| *name)
}

/// What somebody may be waiting for, by the key of a written row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A zone's need of a copy.
    Need,
    /// Nodes or volumes.
    Topology,
    /// Running hashes asked for or reported.
    Digest,
    /// A change for other regions.
    Outbox,
    /// Other regions, or what they are sent.
    Regions,
    /// Anything else.
    Other,
}

/// Tells what a key is about.
pub fn kind(key: &[u8]) -> Kind {
    match key.get(2) {
        Some(&table::NEED) => Kind::Need,
        Some(&(table::NODE | table::STORE | table::TOPOLOGY)) => Kind::Topology,
        Some(&(table::DIGEST_ASKED | table::DIGEST_REPORT)) => Kind::Digest,
        Some(&table::OUTBOX) => Kind::Outbox,
        Some(&(table::PEER | table::REPLICATION_RULES | table::REGION_LINK)) => Kind::Regions,
        Some(_) | None => Kind::Other,
    }
}

/// The slot and table of a key.
pub(crate) fn place(key: &[u8]) -> Option<(Slot, u8)> {
    Some((u16::from_be_bytes(key.get(..2)?.try_into().ok()?), *key.get(2)?))
}

/// A key under construction.
struct Key(Vec<u8>);

impl Key {
    fn new(slot: Slot, table: u8) -> Key {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(&slot.to_be_bytes());
        bytes.push(table);
        Key(bytes)
    }

    fn with(mut self, bytes: &[u8]) -> Key {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Text that more follows: no text of ours holds a zero byte, so the end is unambiguous and order is kept.
    fn text(self, text: &str) -> Key {
        debug_assert!(!text.as_bytes().contains(&0));
        self.with(text.as_bytes()).with(&[0])
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

fn slot_of(bytes: &[u8]) -> Slot {
    let hash = xxhash_rust::xxh3::xxh3_64(bytes) % u64::from(SLOTS);
    Slot::try_from(hash).expect("below 1024")
}

/// The slot that a stored key belongs to; `None` for what is no key of ours.
pub fn slot(key: &[u8]) -> Option<Slot> {
    key.first_chunk().map(|slot| Slot::from_be_bytes(*slot))
}

/// The slot of everything of a repository.
pub fn repository_slot(registry: RegistryId, name: &RepositoryName) -> Slot {
    let mut bytes = registry.number().to_be_bytes().to_vec();
    bytes.extend_from_slice(name.as_str().as_bytes());
    slot_of(&bytes)
}

/// The slot of a blob record and its users.
pub fn digest_slot(digest: &Digest) -> Slot {
    slot_of(&digest.key_bytes())
}

/// The slot of an upload's takeovers and closing.
pub fn upload_slot(upload: &UploadId) -> Slot {
    slot_of(&upload.key_bytes())
}

fn number(registry: RegistryId) -> [u8; 8] {
    registry.number().to_be_bytes()
}

fn id(repository: RepositoryId) -> [u8; 16] {
    repository.0.to_be_bytes()
}

/// The one row of a system table, or the beginning of its rows.
pub(crate) fn system(table: u8) -> Vec<u8> {
    Key::new(SYSTEM, table).done()
}

/// A node.
pub(crate) fn node(node: NodeId) -> Vec<u8> {
    Key::new(SYSTEM, table::NODE).with(&node.0.to_be_bytes()).done()
}

/// For how long no leader has heard of a node.
pub(crate) fn absence(node: NodeId) -> Vec<u8> {
    Key::new(SYSTEM, table::ABSENCE).with(&node.0.to_be_bytes()).done()
}

/// A blob volume.
pub(crate) fn store(store: StoreId) -> Vec<u8> {
    Key::new(SYSTEM, table::STORE).with(&store.0.to_be_bytes()).done()
}

/// The id in a key made by [`node`], [`absence`] or [`digest_report`].
pub(crate) fn node_in(key: &[u8]) -> Option<NodeId> {
    Some(NodeId(u64::from_be_bytes(key.get(3..)?.try_into().ok()?)))
}

/// The id in a key made by [`store`].
pub(crate) fn store_in(key: &[u8]) -> Option<StoreId> {
    Some(StoreId(u64::from_be_bytes(key.get(3..)?.try_into().ok()?)))
}

/// Another region.
pub(crate) fn peer(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::PEER).with(&region.to_be_bytes()).done()
}

/// How far changes of a region are applied here.
pub(crate) fn source_cursor(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::SOURCE_CURSOR).with(&region.to_be_bytes()).done()
}

/// How far a region has applied changes made here.
pub(crate) fn destination_cursor(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::DESTINATION_CURSOR).with(&region.to_be_bytes()).done()
}

/// How much of what a region held before its rules is here.
pub(crate) fn backfill(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::BACKFILL).with(&region.to_be_bytes()).done()
}

/// What is wanted of the link to a region.
pub(crate) fn region_link(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::REGION_LINK).with(&region.to_be_bytes()).done()
}

/// What a region says it sends here.
pub(crate) fn offer(region: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::OFFER).with(&region.to_be_bytes()).done()
}

/// The region number in a key that ends in one.
pub(crate) fn region_in(key: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(key.get(3..)?.try_into().ok()?))
}

/// A change of another region that was put aside.
pub(crate) fn parked(id: ParkedId) -> Vec<u8> {
    let key = Key::new(SYSTEM, table::PARKED).with(&id.source.to_be_bytes());
    key.with(&id.index.to_be_bytes()).with(&id.register.to_be_bytes()).done()
}

/// The beginning of all changes of a region that were put aside.
pub(crate) fn parked_of(source: u16) -> Vec<u8> {
    Key::new(SYSTEM, table::PARKED).with(&source.to_be_bytes()).done()
}

/// What a key made by [`parked`] names.
pub(crate) fn parked_in(key: &[u8]) -> Option<ParkedId> {
    Some(ParkedId {
        source: u16::from_be_bytes(key.get(3..5)?.try_into().ok()?),
        index: u64::from_be_bytes(key.get(5..13)?.try_into().ok()?),
        register: u64::from_be_bytes(key.get(13..)?.try_into().ok()?),
    })
}

/// The rules of replication of a registry.
pub(crate) fn replication_rules(registry: RegistryId) -> Vec<u8> {
    Key::new(SYSTEM, table::REPLICATION_RULES).with(&number(registry)).done()
}

/// A change of a register of a repository, for other regions.
pub(crate) fn outbox(slot: Slot, index: u64, repository: RepositoryId, register: &[u8]) -> Vec<u8> {
    Key::new(slot, table::OUTBOX).with(&index.to_be_bytes()).with(&id(repository)).with(register).done()
}

/// The beginning of all changes of a slot from a log index on.
pub(crate) fn outbox_from(slot: Slot, index: u64) -> Vec<u8> {
    Key::new(slot, table::OUTBOX).with(&index.to_be_bytes()).done()
}

/// Log index and repository in a key made by [`outbox`].
pub(crate) fn outbox_in(key: &[u8]) -> Option<(u64, RepositoryId)> {
    let index = u64::from_be_bytes(key.get(3..11)?.try_into().ok()?);
    Some((index, RepositoryId(u128::from_be_bytes(key.get(11..27)?.try_into().ok()?))))
}

/// A user of a registry; with an empty name the beginning of all of them.
pub(crate) fn user(registry: RegistryId, name: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::USER).with(&number(registry)).with(name.as_bytes()).done()
}

/// An access key.
pub(crate) fn access_key(key_id: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::KEY).with(key_id.as_bytes()).done()
}

/// That a user has an access key; with an empty id the beginning of all of them.
pub(crate) fn key_of(registry: RegistryId, user: &str, key_id: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::KEY_OF).with(&number(registry)).text(user).with(key_id.as_bytes()).done()
}

/// A policy of a principal; with an empty policy name the beginning of all of them.
pub(crate) fn policy(registry: RegistryId, principal: &str, name: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::POLICY).with(&number(registry)).text(principal).with(name.as_bytes()).done()
}

/// An entry of the exactly-once window.
pub(crate) fn request(index: u64) -> Vec<u8> {
    Key::new(SYSTEM, table::REQUEST).with(&index.to_be_bytes()).done()
}

/// The index of a key made by [`request`].
pub(crate) fn request_index(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(3..)?.try_into().ok()?))
}

/// What a node's running hash was at the index last asked for.
pub(crate) fn digest_report(node: NodeId) -> Vec<u8> {
    Key::new(SYSTEM, table::DIGEST_REPORT).with(&node.0.to_be_bytes()).done()
}

/// Name → id. `after` may be any text, to begin a listing.
pub(crate) fn name(slot: Slot, registry: RegistryId, name: &str) -> Vec<u8> {
    Key::new(slot, table::NAME).with(&number(registry)).with(name.as_bytes()).done()
}

/// The repository name in a key made by [`name`].
pub(crate) fn name_in(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(11..)?).ok()
}

/// A repository's own row.
pub(crate) fn repository(slot: Slot, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table::REPOSITORY).with(&id(repository)).done()
}

/// The id in a key made by [`repository`], [`deleted`] or [`usage`].
pub(crate) fn repository_in(key: &[u8]) -> Option<RepositoryId> {
    Some(RepositoryId(u128::from_be_bytes(key.get(3..)?.try_into().ok()?)))
}

/// That a repository waits to be purged.
pub(crate) fn deleted(slot: Slot, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table::DELETED).with(&id(repository)).done()
}

/// The beginning of all rows of one table in a slot.
pub(crate) fn of_slot(slot: Slot, table: u8) -> Vec<u8> {
    Key::new(slot, table).done()
}

/// The beginning of all rows of one table of a repository.
pub(crate) fn of_repository(slot: Slot, table: u8, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table).with(&id(repository)).done()
}

/// Length of [`of_repository`].
pub(crate) const OF_REPOSITORY_BYTES: usize = 3 + 16;

/// A row of a table keyed by repository and digest.
pub(crate) fn by_digest(slot: Slot, table: u8, repository: RepositoryId, digest: &Digest) -> Vec<u8> {
    Key::new(slot, table).with(&id(repository)).with(&digest.key_bytes()).done()
}

/// A row of a table keyed by repository and two digests.
pub(crate) fn by_digests(slot: Slot, table: u8, repository: RepositoryId, first: &Digest, second: &Digest) -> Vec<u8> {
    let key = Key::new(slot, table).with(&id(repository));
    key.with(&first.key_bytes()).with(&second.key_bytes()).done()
}

/// That a manifest names `digest` as content of this kind; without a manifest the beginning of all that do.
pub(crate) fn reference(
    slot: Slot,
    repository: RepositoryId,
    digest: &Digest,
    kind: ContentKind,
    manifest: Option<&Digest>,
) -> Vec<u8> {
    let kind = match kind {
        ContentKind::Blob => 1,
        ContentKind::Manifest => 2,
        ContentKind::Foreign => 3,
    };
    let key = Key::new(slot, table::REF).with(&id(repository)).with(&digest.key_bytes()).with(&[kind]);
    match manifest {
        Some(manifest) => key.with(&manifest.key_bytes()).done(),
        None => key.done(),
    }
}

/// Content, kind and manifest in a key made by [`reference`].
pub(crate) fn reference_in(key: &[u8]) -> Option<(Digest, ContentKind, Digest)> {
    let (digest, length) = Digest::from_key(key.get(OF_REPOSITORY_BYTES..)?)?;
    let rest = &key[OF_REPOSITORY_BYTES + length..];
    let kind = match rest.first()? {
        1 => ContentKind::Blob,
        2 => ContentKind::Manifest,
        3 => ContentKind::Foreign,
        _ => return None,
    };
    let (manifest, length) = Digest::from_key(&rest[1..])?;
    (rest.len() == 1 + length).then_some((digest, kind, manifest))
}

/// The repository id in a key that begins with one.
pub(crate) fn of_repository_in(key: &[u8]) -> Option<RepositoryId> {
    Some(RepositoryId(u128::from_be_bytes(key.get(3..OF_REPOSITORY_BYTES)?.try_into().ok()?)))
}

/// The digest at the end of a key made by [`by_digest`].
pub(crate) fn digest_in(key: &[u8]) -> Option<Digest> {
    let (digest, length) = Digest::from_key(key.get(OF_REPOSITORY_BYTES..)?)?;
    (key.len() == OF_REPOSITORY_BYTES + length).then_some(digest)
}

/// The two digests in a key made by [`by_digests`].
pub(crate) fn digests_in(key: &[u8]) -> Option<(Digest, Digest)> {
    let (first, length) = Digest::from_key(key.get(OF_REPOSITORY_BYTES..)?)?;
    let (second, _) = Digest::from_key(key.get(OF_REPOSITORY_BYTES + length..)?)?;
    Some((first, second))
}

/// Digest and tag in a key made by [`manifest_tag`].
pub(crate) fn manifest_tag_in(key: &[u8]) -> Option<(Digest, &str)> {
    let (digest, length) = Digest::from_key(key.get(OF_REPOSITORY_BYTES..)?)?;
    Some((digest, std::str::from_utf8(key.get(OF_REPOSITORY_BYTES + length..)?).ok()?))
}

/// Tag and change number in a key made by [`tag_journal`].
pub(crate) fn tag_journal_in(key: &[u8]) -> Option<(&str, u64)> {
    let rest = key.get(OF_REPOSITORY_BYTES..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let change = u64::from_be_bytes(rest.get(end + 1..)?.try_into().ok()?);
    Some((std::str::from_utf8(&rest[..end]).ok()?, change))
}

/// Digest, repository and use in a key made by [`blob_use`].
pub(crate) fn blob_use_in(key: &[u8]) -> Option<(Digest, RepositoryId, UseId)> {
    let (digest, length) = Digest::from_key(key.get(3..)?)?;
    let rest = key.get(3 + length..)?;
    let repository = u128::from_be_bytes(rest.get(..16)?.try_into().ok()?);
    let hold = u64::from_be_bytes(rest.get(16..)?.try_into().ok()?);
    Some((digest, RepositoryId(repository), UseId(hold)))
}

/// Generation and digest in a key made by [`closed_generation`].
pub(crate) fn closed_generation_in(key: &[u8]) -> Option<(UploadId, Digest)> {
    let (digest, _) = Digest::from_key(key.get(27..)?)?;
    Some((UploadId::from_key(key.get(3..27)?)?, digest))
}

/// Registry and the two texts behind it in a key made by [`policy`] or [`key_of`].
pub(crate) fn two_texts_in(key: &[u8]) -> Option<(RegistryId, &str, &str)> {
    let registry = RegistryId::from_number(u64::from_be_bytes(key.get(3..11)?.try_into().ok()?))?;
    let (first, second) = std::str::from_utf8(key.get(11..)?).ok()?.split_once('\0')?;
    Some((registry, first, second))
}

/// A tag. `tag` may be any text, to begin a listing.
pub(crate) fn tag(slot: Slot, repository: RepositoryId, tag: &str) -> Vec<u8> {
    Key::new(slot, table::TAG).with(&id(repository)).with(tag.as_bytes()).done()
}

/// The end of a tag.
pub(crate) fn tag_ended(slot: Slot, repository: RepositoryId, tag: &Tag) -> Vec<u8> {
    Key::new(slot, table::TAG_ENDED).with(&id(repository)).with(tag.as_str().as_bytes()).done()
}

/// The tag in a key made by [`tag`] or [`tag_ended`].
pub(crate) fn tag_in(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(OF_REPOSITORY_BYTES..)?).ok()
}

/// A setting of a tag that was lost.
pub(crate) fn conflict(slot: Slot, repository: RepositoryId, index: u64, tag: &Tag) -> Vec<u8> {
    let key = Key::new(slot, table::CONFLICT).with(&id(repository)).with(&index.to_be_bytes());
    key.with(tag.as_str().as_bytes()).done()
}

/// Log index and tag in a key made by [`conflict`].
pub(crate) fn conflict_in(key: &[u8]) -> Option<(u64, &str)> {
    let index = u64::from_be_bytes(key.get(OF_REPOSITORY_BYTES..OF_REPOSITORY_BYTES + 8)?.try_into().ok()?);
    Some((index, std::str::from_utf8(key.get(OF_REPOSITORY_BYTES + 8..)?).ok()?))
}

/// A change in a tag's journal.
pub(crate) fn tag_journal(slot: Slot, repository: RepositoryId, tag: &Tag, change: u64) -> Vec<u8> {
    [tag_journal_of(slot, repository, tag), change.to_be_bytes().to_vec()].concat()
}

/// The beginning of all changes of a tag.
pub(crate) fn tag_journal_of(slot: Slot, repository: RepositoryId, tag: &Tag) -> Vec<u8> {
    Key::new(slot, table::TAG_JOURNAL).with(&id(repository)).text(tag.as_str()).done()
}

/// That `digest` is named by `tag`; with an empty tag the beginning of all of its tags.
pub(crate) fn manifest_tag(slot: Slot, repository: RepositoryId, digest: &Digest, tag: &str) -> Vec<u8> {
    let key = Key::new(slot, table::MANIFEST_TAG).with(&id(repository)).with(&digest.key_bytes());
    key.with(tag.as_bytes()).done()
}

/// What a registry may hold.
pub(crate) fn registry_quota(registry: RegistryId) -> Vec<u8> {
    Key::new(SYSTEM, table::REGISTRY_QUOTA).with(&number(registry)).done()
}

/// When a repository's settings were set.
pub(crate) fn settings(slot: Slot, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table::SETTINGS).with(&id(repository)).done()
}

/// The latest home of a name.
pub(crate) fn home_epoch(slot: Slot, registry: RegistryId, name: &str) -> Vec<u8> {
    Key::new(slot, table::HOME_EPOCH).with(&number(registry)).with(name.as_bytes()).done()
}

/// Registry and repository name in a key made by [`home_epoch`].
pub(crate) fn home_epoch_in(key: &[u8]) -> Option<(RegistryId, &str)> {
    let (registry, name) = key.get(3..)?.split_first_chunk()?;
    Some((RegistryId::from_number(u64::from_be_bytes(*registry))?, std::str::from_utf8(name).ok()?))
}

/// What a repository holds and may hold.
pub(crate) fn usage(slot: Slot, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table::USAGE).with(&id(repository)).done()
}

/// What a registry's repositories in a slot hold and may hold.
pub(crate) fn slot_usage(slot: Slot, registry: RegistryId) -> Vec<u8> {
    Key::new(slot, table::SLOT_USAGE).with(&number(registry)).done()
}

/// The registry in a key made by [`registry_quota`], [`slot_usage`] or [`replication_rules`].
pub(crate) fn registry_in(key: &[u8]) -> Option<RegistryId> {
    RegistryId::from_number(u64::from_be_bytes(key.get(3..)?.try_into().ok()?))
}

/// The last hybrid logical time of a slot.
pub(crate) fn slot_clock(slot: Slot) -> Vec<u8> {
    Key::new(slot, table::SLOT_CLOCK).done()
}

/// An upload's takeovers and closing.
pub(crate) fn upload(upload: &UploadId) -> Vec<u8> {
    Key::new(upload_slot(upload), table::UPLOAD).with(&upload.key_bytes()).done()
}

/// The upload id in a key made by [`upload`] or [`closed_generation`].
pub(crate) fn upload_in(key: &[u8]) -> Option<UploadId> {
    UploadId::from_key(key.get(3..)?)
}

/// A blob record.
pub(crate) fn blob(digest: &Digest) -> Vec<u8> {
    Key::new(digest_slot(digest), table::BLOB).with(&digest.key_bytes()).done()
}

/// The beginning of all blob records of a slot.
pub(crate) fn blobs(slot: Slot) -> Vec<u8> {
    Key::new(slot, table::BLOB).done()
}

/// The digest in a key made by [`blob`].
pub(crate) fn blob_in(key: &[u8]) -> Option<Digest> {
    Digest::from_key(key.get(3..)?).map(|(digest, _)| digest)
}

/// The beginning of all uses of a blob.
pub(crate) fn blob_uses(digest: &Digest) -> Vec<u8> {
    Key::new(digest_slot(digest), table::USE).with(&digest.key_bytes()).done()
}

/// A repository's use of a blob.
pub(crate) fn blob_use(digest: &Digest, repository: RepositoryId, hold: UseId) -> Vec<u8> {
    let key = Key::new(digest_slot(digest), table::USE).with(&digest.key_bytes());
    key.with(&id(repository)).with(&hold.0.to_be_bytes()).done()
}

/// A use that no link of the repository stands on any more.
pub(crate) fn loose_use(slot: Slot, repository: RepositoryId, digest: &Digest, hold: UseId) -> Vec<u8> {
    let key = Key::new(slot, table::LOOSE_USE).with(&id(repository)).with(&digest.key_bytes());
    key.with(&hold.0.to_be_bytes()).done()
}

/// Repository, digest and use in a key made by [`loose_use`].
pub(crate) fn loose_use_in(key: &[u8]) -> Option<(RepositoryId, Digest, UseId)> {
    let repository = u128::from_be_bytes(key.get(3..OF_REPOSITORY_BYTES)?.try_into().ok()?);
    let (digest, length) = Digest::from_key(key.get(OF_REPOSITORY_BYTES..)?)?;
    let hold = u64::from_be_bytes(key.get(OF_REPOSITORY_BYTES + length..)?.try_into().ok()?);
    Some((RepositoryId(repository), digest, UseId(hold)))
}

/// A generation of a digest that no command may name again. Generations begin with their tick, so the oldest come
/// first.
pub(crate) fn closed_generation(digest: &Digest, generation: &UploadId) -> Vec<u8> {
    let key = Key::new(digest_slot(digest), table::CLOSED_GENERATION).with(&generation.key_bytes());
    key.with(&digest.key_bytes()).done()
}

/// That a zone lacks a confirmed copy of a digest.
pub(crate) fn need(zone: &str, digest: &Digest) -> Vec<u8> {
    needs(digest_slot(digest), zone, Some(digest))
}

/// The beginning of a zone's needs in a slot, or one of them.
pub(crate) fn needs(slot: Slot, zone: &str, digest: Option<&Digest>) -> Vec<u8> {
    let key = Key::new(slot, table::NEED).text(zone);
    match digest {
        Some(digest) => key.with(&digest.key_bytes()).done(),
        None => key.done(),
    }
}

/// Zone and digest in a key made by [`need`].
pub(crate) fn need_in(key: &[u8]) -> Option<(&str, Digest)> {
    let rest = key.get(3..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (digest, _) = Digest::from_key(rest.get(end + 1..)?)?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, digest))
}

/// The fence of a copy on a volume.
pub(crate) fn fence(digest: &Digest, store: StoreId) -> Vec<u8> {
    let key = Key::new(digest_slot(digest), table::FENCE).with(&digest.key_bytes());
    key.with(&store.0.to_be_bytes()).done()
}

/// The beginning of all fences of a digest.
pub(crate) fn fences(digest: &Digest) -> Vec<u8> {
    Key::new(digest_slot(digest), table::FENCE).with(&digest.key_bytes()).done()
}

/// Digest and volume in a key made by [`fence`].
pub(crate) fn fence_in(key: &[u8]) -> Option<(Digest, StoreId)> {
    let (digest, length) = Digest::from_key(key.get(3..)?)?;
    let store = u64::from_be_bytes(key.get(3 + length..)?.try_into().ok()?);
    Some((digest, StoreId(store)))
}
