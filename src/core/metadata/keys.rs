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
//! | | `POLICY` | registry, principal, 0, policy name | [`PolicyRow`](super::principal::PolicyRow) |
//! | | `AUTH_VERSION` | | counts every change of users, keys and policies |
//! | | `REQUEST` | log index | exactly-once window: request id and reply |
//! | | `STATE_DIGEST` | | running hash over all changes |
//! | | `DIGEST_ASKED` | | the last log index at which the running hash was asked for |
//! | | `OWN_DIGEST` | | what this node's running hash was there; the one row that may differ between nodes |
//! | | `DIGEST_REPORT` | node id | what a node's running hash was there |
//! | | `TOPOLOGY` | | stores per zone, for what 201 needs |
//! | by repository name | `NAME` | registry, name | repository id |
//! | | `REPOSITORY` | repository id | [`RepositoryRow`](super::repository::RepositoryRow) |
//! | | `MANIFEST` | repository id, digest | [`ManifestRow`](super::manifest::ManifestRow) |
//! | | `MANIFEST_BYTES` | repository id, digest | bytes of a manifest that is kept inline |
//! | | `TAG` | repository id, tag | [`TagRow`](super::tag::TagRow) |
//! | | `TAG_JOURNAL` | repository id, tag, 0, change number | [`JournalRow`](super::tag::JournalRow) |
//! | | `MANIFEST_TAG` | repository id, digest, tag | nothing |
//! | | `REFERRER` | repository id, subject digest, digest | [`ReferrerRow`](super::referrer::ReferrerRow) |
//! | | `LINK` | repository id, digest | [`LinkRow`](super::link::LinkRow) |
//! | | `REF` | repository id, digest, manifest digest | nothing |
//! | | `PENDING_REF` | repository id, digest, manifest digest | a sparse manifest's hold on what is not here yet |
//! | | `SLOT_CLOCK` | | last hybrid logical time of the slot |
//! | | `DELETED` | repository id | a deleted repository whose rows wait to be purged |
//! | by upload id | `UPLOAD` | upload id | [`UploadRow`](super::upload::UploadRow): takeovers and closings only |
//! | by digest | `BLOB` | digest | [`BlobRow`](super::blob::BlobRow) |
//! | | `USE` | digest, repository id | use id |
//! | | `CLOSED_GENERATION` | digest, generation | tick of the closing |
//! | | `NEED` | zone, 0, digest | tick since which the zone lacks a confirmed copy |

use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{NodeId, RegistryId, RepositoryId, StoreId, UploadId};
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::tag::Tag;

/// Unit of metadata a command stays inside. 1024 of them, and the system slot.
pub type Slot = u16;

/// How many slots there are beside [`SYSTEM`].
pub const SLOTS: Slot = 1024;

/// Rows that exist once per group; any command may read them.
pub const SYSTEM: Slot = u16::MAX;

/// Table numbers; stored, so a number is never used twice.
pub(crate) mod table {
    pub(crate) const CLUSTER: u8 = 0x01;
    pub(crate) const CLOCK: u8 = 0x02;
    pub(crate) const NODE: u8 = 0x03;
    pub(crate) const STORE: u8 = 0x04;
    pub(crate) const USER: u8 = 0x05;
    pub(crate) const KEY: u8 = 0x06;
    pub(crate) const POLICY: u8 = 0x07;
    pub(crate) const AUTH_VERSION: u8 = 0x08;
    pub(crate) const REQUEST: u8 = 0x09;
    pub(crate) const STATE_DIGEST: u8 = 0x0a;
    pub(crate) const DIGEST_ASKED: u8 = 0x0b;
    pub(crate) const OWN_DIGEST: u8 = 0x0c;
    pub(crate) const DIGEST_REPORT: u8 = 0x0d;
    pub(crate) const TOPOLOGY: u8 = 0x0e;
    pub(crate) const NAME: u8 = 0x20;
    pub(crate) const REPOSITORY: u8 = 0x21;
    pub(crate) const MANIFEST: u8 = 0x22;
    pub(crate) const MANIFEST_BYTES: u8 = 0x23;
    pub(crate) const TAG: u8 = 0x24;
    pub(crate) const TAG_JOURNAL: u8 = 0x25;
    pub(crate) const MANIFEST_TAG: u8 = 0x26;
    pub(crate) const REFERRER: u8 = 0x27;
    pub(crate) const LINK: u8 = 0x28;
    pub(crate) const REF: u8 = 0x29;
    pub(crate) const PENDING_REF: u8 = 0x2a;
    pub(crate) const SLOT_CLOCK: u8 = 0x2b;
    pub(crate) const DELETED: u8 = 0x2c;
    pub(crate) const UPLOAD: u8 = 0x40;
    pub(crate) const BLOB: u8 = 0x60;
    pub(crate) const USE: u8 = 0x61;
    pub(crate) const CLOSED_GENERATION: u8 = 0x62;
    pub(crate) const NEED: u8 = 0x63;
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
    /// Anything else.
    Other,
}

/// Tells what a key is about.
pub fn kind(key: &[u8]) -> Kind {
    match key.get(2) {
        Some(&table::NEED) => Kind::Need,
        Some(&(table::NODE | table::STORE | table::TOPOLOGY)) => Kind::Topology,
        Some(&(table::DIGEST_ASKED | table::DIGEST_REPORT)) => Kind::Digest,
        Some(_) | None => Kind::Other,
    }
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

/// A blob volume.
pub(crate) fn store(store: StoreId) -> Vec<u8> {
    Key::new(SYSTEM, table::STORE).with(&store.0.to_be_bytes()).done()
}

/// A user of a registry; with an empty name the beginning of all of them.
pub(crate) fn user(registry: RegistryId, name: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::USER).with(&number(registry)).with(name.as_bytes()).done()
}

/// An access key.
pub(crate) fn access_key(key_id: &str) -> Vec<u8> {
    Key::new(SYSTEM, table::KEY).with(key_id.as_bytes()).done()
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

/// The beginning of all rows of one table in a slot.
pub(crate) fn of_slot(slot: Slot, table: u8) -> Vec<u8> {
    Key::new(slot, table).done()
}

/// That a repository was deleted and its rows wait.
pub(crate) fn deleted(slot: Slot, repository: RepositoryId) -> Vec<u8> {
    Key::new(slot, table::DELETED).with(&id(repository)).done()
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

/// A tag. `tag` may be any text, to begin a listing.
pub(crate) fn tag(slot: Slot, repository: RepositoryId, tag: &str) -> Vec<u8> {
    Key::new(slot, table::TAG).with(&id(repository)).with(tag.as_bytes()).done()
}

/// The tag in a key made by [`tag`].
pub(crate) fn tag_in(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(OF_REPOSITORY_BYTES..)?).ok()
}

/// A change in a tag's journal.
pub(crate) fn tag_journal(slot: Slot, repository: RepositoryId, tag: &Tag, change: u64) -> Vec<u8> {
    let key = Key::new(slot, table::TAG_JOURNAL).with(&id(repository)).text(tag.as_str());
    key.with(&change.to_be_bytes()).done()
}

/// That `digest` is named by `tag`; with an empty tag the beginning of all of its tags.
pub(crate) fn manifest_tag(slot: Slot, repository: RepositoryId, digest: &Digest, tag: &str) -> Vec<u8> {
    let key = Key::new(slot, table::MANIFEST_TAG).with(&id(repository)).with(&digest.key_bytes());
    key.with(tag.as_bytes()).done()
}

/// The last hybrid logical time of a slot.
pub(crate) fn slot_clock(slot: Slot) -> Vec<u8> {
    Key::new(slot, table::SLOT_CLOCK).done()
}

/// An upload's takeovers and closing.
pub(crate) fn upload(upload: &UploadId) -> Vec<u8> {
    Key::new(upload_slot(upload), table::UPLOAD).with(&upload.key_bytes()).done()
}

/// The beginning of all uploads of a slot.
pub(crate) fn uploads(slot: Slot) -> Vec<u8> {
    Key::new(slot, table::UPLOAD).done()
}

/// The upload id in a key made by [`upload`].
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
pub(crate) fn blob_use(digest: &Digest, repository: RepositoryId) -> Vec<u8> {
    let key = Key::new(digest_slot(digest), table::USE).with(&digest.key_bytes());
    key.with(&id(repository)).done()
}

/// A generation of a digest that no command may name again.
pub(crate) fn closed_generation(digest: &Digest, generation: &UploadId) -> Vec<u8> {
    let key = Key::new(digest_slot(digest), table::CLOSED_GENERATION).with(&digest.key_bytes());
    key.with(&generation.key_bytes()).done()
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

/// The digest in a key made by [`need`] for `zone`.
pub(crate) fn need_in(zone: &str, key: &[u8]) -> Option<Digest> {
    Digest::from_key(key.get(3 + zone.len() + 1..)?).map(|(digest, _)| digest)
}
