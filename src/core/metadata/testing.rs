//! A cluster's state in memory, for tests of commands and for the simulator: numbers the entries, lands each batch, and
//! looks after every command whether the rows still fit together.

use std::time::Duration;

use super::absence::{NoteAbsence, Patience};
use super::apply::{Effect, Entry, Machine};
use super::backfill::{BackfillRow, MoveBackfill};
use super::blob::{self, AddUse, CommitBlob};
use super::check;
use super::clock::{self, Tick};
use super::cluster::{self, FEATURE_LEVEL, InitCluster, ReportDigest, TakeDigest};
use super::command::{Command, Proposal};
use super::cursor::{MoveCursor, NoteDestination};
use super::gc::ControlGc;
use super::keys::{self, table};
use super::link::{Link, Unlink};
use super::manifest::{DeleteManifest, PutManifest};
use super::node::{self, RegisterNode, RegisterStore};
use super::offer::{NoteOffer, OfferRow};
use super::outbox::{Change, TrimOutbox};
use super::parked::ParkEvent;
use super::peer::PutPeer;
use super::places::{PlaceRow, PlacesRow, PutPlaces};
use super::principal::{KeyRow, PutKey, PutPolicy, PutUser, UserKind};
use super::quota::{self, SetRegistryQuota};
use super::region_link::SetRegionLink;
use super::remote::{DropRemoteManifest, PutRemoteManifest, SetRemoteTag};
use super::replica::{self, ConfirmCopy, DropReplica};
use super::replication_rules::{PutReplicationRules, SentRow};
use super::reply::{Outcome, Reply};
use super::repository::{CreateRepository, DeleteRepository, RepositoryKey, Settings};
use super::tables::MemoryTables;
use super::tag::{DeleteTag, Version};
use super::upload::{FinishUpload, TakeUpload};
use super::usage::SetRepositoryQuota;
use crate::decide::quota::{Limits, Usage};
use crate::decide::replication::rules::{Destination, ReadThrough, Rule};
use crate::decide::replication::tags::TagScope;
use crate::decide::tag_move::TagRights;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::{
    ClusterId, Lineage, NodeId, RegistryId, RepositoryId, RequestId, StoreId, UploadId, UseId,
};
use crate::vocabulary::limits::OUTBOX_RETENTION_MS;
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::media_type::MediaType;
use crate::vocabulary::names::{RegionName, ZoneName};
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
use crate::vocabulary::tag::Tag;

/// A running state machine over [`MemoryTables`].
#[derive(Debug, Default)]
pub struct World {
    /// The rows.
    pub tables: MemoryTables,
    /// The view beside them.
    pub machine: Machine,
    /// Index of the last entry.
    pub index: u64,
    /// The leader's clock, milliseconds; each entry moves it by one.
    pub at_ms: u64,
    /// In whose name commands are proposed.
    pub principal: String,
}

impl World {
    /// Nothing at all.
    pub fn empty() -> World {
        World { principal: "tester".to_owned(), at_ms: 1_000, ..World::default() }
    }

    /// A cluster without a node.
    pub fn cluster() -> World {
        World::cluster_at(FEATURE_LEVEL)
    }

    fn cluster_at(feature_level: u16) -> World {
        let mut world = World::empty();
        world.ok(InitCluster {
            cluster: ClusterId(1),
            lineage: Lineage(1),
            region: "here".to_owned(),
            region_number: 1,
            token_secret: [7; 32],
            tick_ms: 1_000,
            feature_level,
        });
        world
    }

    /// A cluster with node and store 1, 2, … in these zones.
    pub fn region(zones: &[&str]) -> World {
        World::region_at(FEATURE_LEVEL, zones)
    }

    /// The same at the feature level of an older release.
    pub fn region_at(feature_level: u16, zones: &[&str]) -> World {
        let mut world = World::cluster_at(feature_level);
        for (number, zone) in (1..).zip(zones) {
            world.add_node(number, zone);
        }
        world
    }

    /// A region with at least one row in every table.
    pub fn busy() -> World {
        let (mut world, repository) = World::busy_at(FEATURE_LEVEL);
        world.ok(ControlGc { paused: Some(true), run: None });
        world.fill_quotas(&repository);
        world.fill_copies();
        world.fill_regions(&repository);
        world
    }

    /// The same at an older level, with rows of that level only; and its repository.
    pub fn busy_at(feature_level: u16) -> (World, RepositoryKey) {
        let mut world = World::region_at(feature_level, &["a", "b", "c"]);
        world.fill_system();
        let repository = world.repository("team/app", 0xa1, Settings { sparse: true, ..Settings::default() });
        world.fill_content(&repository);
        let gone = world.repository("gone", 0xa2, Settings::default());
        world.push_blob(&gone, b"layer one", 20, &[1, 2]);
        world.ok(DeleteRepository { key: gone, force: true });
        (world, repository)
    }

    fn fill_system(&mut self) {
        let registry = RegistryId::DEFAULT;
        for (name, kind) in [("root", UserKind::Root), ("ann", UserKind::Ordinary)] {
            self.ok(PutUser { registry, name: name.to_owned(), kind, enabled: true, must_be_new: true });
        }
        let row = KeyRow {
            registry,
            user: "ann".to_owned(),
            sealed_secret: vec![1, 2, 3],
            secret_hash: [4; 32],
            enabled: true,
            created_at_ms: 0,
            expires_at_ms: 0,
        };
        self.ok(PutKey { key_id: "AKIA1".to_owned(), row });
        let document = "{}".to_owned();
        self.ok(PutPolicy { registry, principal: "ann".to_owned(), name: "pull".to_owned(), document });
        self.ok(Tick { expected: 0 });
        self.ok(TakeDigest {});
        let note = cluster::own_digest(&self.tables).expect("a digest was taken");
        self.ok(ReportDigest { node: NodeId(1), note });
    }

    fn fill_content(&mut self, repository: &RepositoryKey) {
        for (number, bytes) in (1..).zip([&b"config"[..], b"layer one", b"layer two", b"a large manifest", b"loose"]) {
            self.push_blob(repository, bytes, number, &[1, 2]);
        }
        self.propose(push(repository, b"layer one", 9, &[2, 3]));
        let image = PutManifest {
            references: vec![
                reference(b"config", ContentKind::Blob),
                reference(b"layer one", ContentKind::Blob),
                reference(b"foreign layer", ContentKind::Foreign),
            ],
            tags: tags(&["latest", "v1"]),
            ..manifest(repository, b"image")
        };
        let large = PutManifest { inline: None, ..manifest(repository, b"a large manifest") };
        let index = PutManifest {
            references: vec![reference(b"image", ContentKind::Manifest), reference(b"not here", ContentKind::Manifest)],
            tags: tags(&["v1", "v2"]),
            ..manifest(repository, b"index")
        };
        let signature = PutManifest {
            subject: Some(Digest::sha256(b"image")),
            artifact_type: Some("application/vnd.example.signature".to_owned()),
            annotations: Some(vec![("key".to_owned(), "value".to_owned())]),
            ..manifest(repository, b"signature")
        };
        for put in [image, large, index, signature] {
            self.ok(put);
        }
        self.ok(DeleteTag { repository: repository.clone(), tag: tags(&["v2"]).remove(0), expected: None });
        self.ok(Unlink { repository: repository.clone(), digest: Digest::sha256(b"loose"), hold: UseId(5) });
        let pairs = ((NodeId(1), Some(NodeId(2))), (NodeId(2), Some(NodeId(3))));
        self.ok(TakeUpload { upload: upload(40), epoch: 1, before: pairs.0, after: pairs.1 });
    }

    fn fill_quotas(&mut self, repository: &RepositoryKey) {
        let (registry, limits) = (repository.registry, Limits { bytes: Some(1 << 30), tags: Some(1000) });
        self.ok(SetRepositoryQuota { repository: repository.clone(), limits });
        self.ok(SetRegistryQuota { registry, limits });
        let asker = Usage { bytes: 10, tags: 1 };
        let grants = quota::grants(&self.tables, registry, 1, repository.slot(), asker).expect("there is room");
        grants.into_iter().for_each(|grant| drop(self.ok(grant)));
    }

    /// A node that is missed, and a copy that was let go.
    fn fill_copies(&mut self) {
        self.add_node(4, "c");
        let patience = Patience { node: Duration::from_secs(900), zone: Duration::from_secs(3600) };
        let now = Some(patience.counted(None, Duration::from_secs(60)));
        self.ok(NoteAbsence { node: NodeId(4), before: None, now });
        let (digest, generation) = (Digest::sha256(b"layer two"), upload(3));
        for store in [StoreId(3), StoreId(4)] {
            self.ok(ConfirmCopy { digest, generation, store, fence: 0 });
        }
        let row = blob::read(&self.tables, &digest).expect("it was pushed");
        let found = replica::spare(&node::topology(&self.tables), &digest, &row).expect("a zone has two");
        self.ok(DropReplica { digest, generation, store: found.spare[0], good: found.keep });
    }

    /// Another region, changes that it was told of, that it was not told of in time, and that it has to be told of.
    fn fill_regions(&mut self, repository: &RepositoryKey) {
        self.ok(peer(2, "there"));
        self.ok(sends_all("there"));
        let put = |bytes: &[u8]| PutManifest { tags: tags(&["sent"]), ..manifest(repository, bytes) };
        let trim = TrimOutbox { slot: repository.slot(), registry: repository.registry };
        self.ok(put(b"told"));
        let (lineage, index) = (Lineage(1), self.index);
        self.ok(NoteDestination { number: 2, lineage, index });
        self.ok(put(b"too late"));
        self.at_ms += OUTBOX_RETENTION_MS;
        self.ok(trim);
        self.ok(put(b"to be told"));
        self.ok(DeleteTag { repository: repository.clone(), tag: tags(&["sent"]).remove(0), expected: None });
        self.ok(DeleteManifest { repository: repository.clone(), digest: Digest::sha256(b"told") });
        let version = |hlc: u64| Version { home_epoch: 0, hlc, region: 2 };
        let (put, digest) = (manifest(repository, b"theirs"), Digest::sha256(b"theirs"));
        self.ok(PutRemoteManifest { put, presence: version(5) });
        let set = |tag: &str, previous: Option<Version>| {
            let (repository, tag) = (repository.clone(), tags(&[tag]).remove(0));
            SetRemoteTag { repository, tag, digest, version: version(5), base: version(5), previous }
        };
        self.ok(set("theirs", None));
        // deleted here since, and who set it there did not know it
        self.ok(set("sent", Some(Version::default())));
        let key = repository.clone();
        // it was made in the first home that the repository has had there
        let version = Version { home_epoch: 1, ..version(6) };
        self.ok(DropRemoteManifest { repository: key, digest, version, from: 2, is_filtered: false });
        let (tag, version) = (tags(&["sent"]).remove(0), Version::default());
        let (change, repository) = (Change::TagGone { tag, version, previous: version }, repository.name.clone());
        self.ok(ParkEvent { source: 2, index: 299, repository, change, reason: "no room".to_owned() });
        self.ok(MoveCursor { source: 2, before: None, lineage: Lineage(7), index: 300, complete_ms: 70_000 });
        let (lineage, at) = (Lineage(7), None);
        let row =
            BackfillRow { lineage, rule: 290, done: 0, at, settled: 1, total: 2, began_at_ms: 0, ended_at_ms: None };
        self.ok(MoveBackfill { source: 2, before: None, row });
        self.ok(SetRegionLink { number: 2, is_paused: Some(true), bytes_per_second: Some(1 << 20) });
        let offer = OfferRow(vec![SentRow {
            filters: vec![],
            read_through: ReadThrough::Full,
            transitive: true,
            settings: true,
            tags: TagScope::ALL,
        }]);
        self.ok(NoteOffer { number: 2, offer });
        let place = PlaceRow { network: "10.0.0.0/8".to_owned(), region: "here".to_owned(), zone: None };
        let places = PlacesRow { clients: vec![place], addresses: vec![], redirect_bytes_min: Some(1 << 20) };
        self.ok(PutPlaces { places });
    }

    /// Registers a node and a store of the same number.
    pub fn add_node(&mut self, number: u64, zone: &str) {
        let level = cluster::read(&self.tables).map_or(FEATURE_LEVEL, |row| row.feature_level);
        for command in node_at(level, number, zone) {
            self.ok(command);
        }
    }

    /// One envelope as one entry.
    pub fn propose(&mut self, commands: Vec<Command>) -> Outcome {
        let proposal = self.proposal(commands);
        self.enter(&proposal)
    }

    /// The next proposal, not yet entered.
    pub fn proposal(&self, commands: Vec<Command>) -> Proposal {
        let request = RequestId(u128::from(self.index) + 1);
        let min_level = Proposal::level(&commands);
        Proposal { request, base: self.index, min_level, principal: self.principal.clone(), commands }
    }

    /// Enters a proposal at the next index.
    pub fn enter(&mut self, proposal: &Proposal) -> Outcome {
        Outcome::decode(&self.effect(proposal).outcome).expect("our own outcomes decode")
    }

    /// The same; tells also where it took effect.
    pub fn effect(&mut self, proposal: &Proposal) -> Effect {
        self.index += 1;
        self.at_ms += 1;
        let payload = proposal.encode();
        let entry = Entry { index: self.index, at_ms: self.at_ms, payload: &payload };
        let mut applied = self.machine.apply(&self.tables, &[entry]).expect("our own proposals decode");
        self.tables.write(applied.writes);
        let report = check::check(&self.tables, 3);
        assert!(report.violations.is_empty(), "after {:?}:\n{:#?}", proposal.commands, report.violations);
        applied.effects.remove(0)
    }

    /// One command that must succeed.
    pub fn ok(&mut self, command: impl Into<Command>) -> Reply {
        let command = command.into();
        let told = format!("{command:?}");
        let mut outcome = self.propose(vec![command]);
        assert_eq!(outcome.refusal, None, "{told}");
        outcome.replies.remove(0)
    }

    /// One command that must be refused.
    pub fn refused(&mut self, command: impl Into<Command>) -> Refusal {
        let command = command.into();
        let told = format!("{command:?}");
        self.propose(vec![command]).refusal.unwrap_or_else(|| panic!("not refused: {told}"))
    }

    /// Lets so many ticks pass.
    pub fn pass(&mut self, ticks: u64) {
        for _ in 0..ticks {
            let expected = clock::read(&self.tables).tick;
            self.ok(Tick { expected });
        }
    }

    /// Makes a repository; `number` is its internal id.
    pub fn repository(&mut self, name: &str, number: u128, settings: Settings) -> RepositoryKey {
        let key = repository_key(name, number);
        self.ok(CreateRepository { key: key.clone(), settings, must_be_new: true });
        key
    }

    /// Pushes a blob into a repository the way a node does, with a hold and an upload of that number.
    pub fn push_blob(&mut self, repository: &RepositoryKey, bytes: &[u8], number: u64, stores: &[u64]) -> Digest {
        let digest = Digest::sha256(bytes);
        let outcome = self.propose(push(repository, bytes, number, stores));
        assert_eq!(outcome.refusal, None);
        digest
    }
}

/// A manifest of these bytes that names nothing, to be put into `repository`.
pub fn manifest(repository: &RepositoryKey, bytes: &[u8]) -> PutManifest {
    PutManifest {
        repository: repository.clone(),
        digest: Digest::sha256(bytes),
        media_type: MediaType::parse("application/vnd.oci.image.manifest.v1+json").expect("it is one"),
        size_bytes: bytes.len() as u64,
        inline: Some(bytes.to_vec()),
        references: Vec::new(),
        subject: None,
        artifact_type: None,
        annotations: None,
        tags: Vec::new(),
        rights: TagRights::FULL,
        expected: None,
    }
}

/// A reference to these bytes.
pub fn reference(bytes: &[u8], kind: ContentKind) -> Referenced {
    Referenced { digest: Digest::sha256(bytes), size_bytes: bytes.len() as u64, kind }
}

/// Tags from text.
pub fn tags(names: &[&str]) -> Vec<Tag> {
    names.iter().map(|name| Tag::parse(name).expect("a test's tags are tags")).collect()
}

/// The key of a repository of the default registry.
pub fn repository_key(name: &str, number: u128) -> RepositoryKey {
    let name = RepositoryName::parse(name).expect("a test's names are names");
    RepositoryKey { registry: RegistryId::DEFAULT, name, id: RepositoryId(number) }
}

/// What registers a node and a store of the same number.
pub fn node(number: u64, zone: &str) -> Vec<Command> {
    node_at(FEATURE_LEVEL, number, zone)
}

/// The same of a node whose binary knows that level.
pub fn node_at(feature_level: u16, number: u64, zone: &str) -> Vec<Command> {
    let register = RegisterNode {
        node: NodeId(number),
        zone: ZoneName::parse(zone).expect("a test's zones are zones"),
        raft_address: format!("127.0.0.{number}:7401"),
        blob_address: format!("127.0.0.{number}:7402"),
        public_url: format!("http://127.0.0.{number}:7400"),
        version: "test".to_owned(),
        feature_level,
    };
    vec![register.into(), RegisterStore { store: StoreId(number), node: NodeId(number), weight: 100 }.into()]
}

/// What makes another region known.
pub fn peer(number: u16, region: &str) -> PutPeer {
    PutPeer {
        number,
        cluster: ClusterId(u128::from(number)),
        region: RegionName::parse(region).expect("a test's regions are regions"),
        endpoints: vec![format!("127.{number}.1.1:7404")],
        ca_pem: "the authority of that region".to_owned(),
    }
}

/// What sends all repositories of the default registry to a region.
pub fn sends_all(region: &str) -> PutReplicationRules {
    let registry = RegistryId::DEFAULT;
    let region = RegionName::parse(region).expect("a test's regions are regions");
    let rule = Rule { deletes: true, ..Rule::plain(vec![Destination { region, registry }], vec![]) };
    PutReplicationRules { registry, rules: vec![rule] }
}

/// The upload of that number, begun in tick 0.
pub fn upload(number: u64) -> UploadId {
    UploadId { tick: 0, random: number.into() }
}

/// The envelope of a push: these bytes, sealed on these stores.
pub fn push(repository: &RepositoryKey, bytes: &[u8], number: u64, stores: &[u64]) -> Vec<Command> {
    let (finish, commit, link) = push_parts(repository, bytes, number, stores);
    vec![finish.into(), commit.into(), link.into()]
}

/// The parts of a push, to be changed before they are proposed.
pub fn push_parts(
    repository: &RepositoryKey,
    bytes: &[u8],
    number: u64,
    stores: &[u64],
) -> (FinishUpload, CommitBlob, Link) {
    let (digest, size_bytes, hold, upload) = (Digest::sha256(bytes), bytes.len() as u64, UseId(number), upload(number));
    let stores = stores.iter().map(|store| StoreId(*store)).collect();
    let finish = FinishUpload { upload, epoch: 1, digest, holders: (NodeId(1), Some(NodeId(2))) };
    let commit =
        CommitBlob { digest, size_bytes, upload, stores, repository: repository.clone(), hold, replace: false };
    (finish, commit, Link { repository: repository.clone(), digest, size_bytes, hold })
}

/// The envelope of a mount.
pub fn mount(repository: &RepositoryKey, bytes: &[u8], number: u64) -> Vec<Command> {
    let (digest, size_bytes, hold) = (Digest::sha256(bytes), bytes.len() as u64, UseId(number));
    let repository = repository.clone();
    vec![
        AddUse { digest, size_bytes, repository: repository.clone(), hold }.into(),
        Link { repository, digest, size_bytes, hold }.into(),
    ]
}

/// Where a tag's row lies, for who damages it.
pub fn tag_key(repository: &RepositoryKey, tag: &Tag) -> Vec<u8> {
    keys::tag(repository.slot(), repository.id, tag.as_str())
}

/// Where a manifest's row lies.
pub fn manifest_key(repository: &RepositoryKey, digest: &Digest) -> Vec<u8> {
    keys::by_digest(repository.slot(), table::MANIFEST, repository.id, digest)
}

/// Key of a repository's row.
pub fn repository_row_key(repository: &RepositoryKey) -> Vec<u8> {
    keys::repository(repository.slot(), repository.id)
}

/// What the rows of a slot's change stream begin with; the index follows, eight bytes.
pub fn changes_prefix(slot: keys::Slot) -> Vec<u8> {
    keys::of_slot(slot, table::OUTBOX)
}

/// Where it is noted up to which index a slot's changes were trimmed.
pub fn trimmed_key(slot: keys::Slot) -> Vec<u8> {
    keys::of_slot(slot, table::OUTBOX_TRIMMED)
}
