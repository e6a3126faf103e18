//! Stored bytes never change by accident: one sample of every command, row, reply and outcome.

use std::collections::{BTreeMap, BTreeSet};

use registry_core::decide::quota::Limits;
use registry_core::decide::replication::rules::{Destination, Prefix, ReadThrough, Rule};
use registry_core::decide::replication::tags::TagScope;
use registry_core::decide::tag_move::{Mutability, TagFilter, TagFilters, TagRights};
use registry_core::metadata::absence::{AbsenceRow, NoteAbsence, Stage};
use registry_core::metadata::backfill::{BackfillRow, MoveBackfill, Place};
use registry_core::metadata::blob::{AddUse, CommitBlob, ConfirmReplica, DropUse, UnconfirmReplica};
use registry_core::metadata::clock::Tick;
use registry_core::metadata::cluster::{self, FEATURE_LEVEL, InitCluster, ReportDigest, TakeDigest};
use registry_core::metadata::command::{Command, Proposal};
use registry_core::metadata::cursor::{MoveCursor, NoteDestination};
use registry_core::metadata::gc::{ControlGc, Ended, Ending, NoteGc, Phase, Tally, UnderWay};
use registry_core::metadata::idle::{FenceUse, UnlinkIdle};
use registry_core::metadata::keys;
use registry_core::metadata::link::{ForgetUse, Link, TouchLink, Unlink};
use registry_core::metadata::manifest::{DeleteManifest, PutManifest};
use registry_core::metadata::need::ReviewNeeds;
use registry_core::metadata::node::{NodeState, RegisterNode, RegisterStore, SetNodeState};
use registry_core::metadata::offer::{NoteOffer, OfferRow};
use registry_core::metadata::outbox::{Change, TrimOutbox};
use registry_core::metadata::parked::{ParkEvent, ParkedId, UnparkEvent};
use registry_core::metadata::peer::DeletePeer;
use registry_core::metadata::places::{AddressRow, PlaceRow, PlacesRow, PutPlaces};
use registry_core::metadata::principal::{
    DeleteKey, DeletePolicy, DeleteUser, KeyRow, PutKey, PutPolicy, PutUser, SetKeyEnabled, SetUserEnabled, UserKind,
};
use registry_core::metadata::quota::{GrantShare, RecallShares, SetRegistryQuota};
use registry_core::metadata::region_link::{SetRegionLink, TakeOverRegion};
use registry_core::metadata::register::MendTag;
use registry_core::metadata::remote::{
    DropRemoteManifest, DropRemoteTag, PutRemoteManifest, PutRemoteSettings, SetRemoteTag,
};
use registry_core::metadata::replica::{ConfirmCopy, DropReplica, FenceCopy};
use registry_core::metadata::replication_rules::{PutReplicationRules, SentRow};
use registry_core::metadata::reply::{Outcome, Reply, TagMove};
use registry_core::metadata::repository::{
    ChangeRepository, CreateRepository, DeleteRepository, PurgeRepository, RepositoryKey, Settings,
};
use registry_core::metadata::settings::{Home, HomeWish, MendSettings, SetHome};
use registry_core::metadata::sweep::{Condemn, Sweep};
use registry_core::metadata::tables::TablesRead;
use registry_core::metadata::tag::{DeleteTag, Version};
use registry_core::metadata::testing::{self, World, reference, repository_key, tags, upload};
use registry_core::metadata::untagged::DeleteUntagged;
use registry_core::metadata::upgrade::{EndUpgrade, MigrateSlot, RaiseLevel};
use registry_core::metadata::upload::{CloseUpload, FinishUpload, ForgetUploads, TakeUpload};
use registry_core::metadata::usage::{AdmitBlob, SetRepositoryQuota};
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RegistryId, RepositoryId, RequestId, StoreId, UseId};
use registry_core::vocabulary::manifest::ContentKind;
use registry_core::vocabulary::names::{RegionName, ZoneName};
use registry_core::vocabulary::{Digest, Refusal};

use crate::files::{compare, names};

const VARIABLE: &str = "UPDATE_GOLDEN";

/// Commands as the last release writes them into its log: nothing rewrites these.
const RELEASED_COMMANDS: &str = "golden/0.2.0/command";

/// Hexadecimal, 32 bytes a line.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn finish(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

const REGISTRY: RegistryId = RegistryId::DEFAULT;

fn digest() -> Digest {
    Digest::sha256(b"content")
}

fn key() -> RepositoryKey {
    repository_key("team/app", 0x0102)
}

fn system_commands() -> Vec<Command> {
    let note = cluster::own_digest(&World::busy().tables).unwrap();
    let zone = ZoneName::parse("zone-a").unwrap();
    vec![
        InitCluster {
            cluster: ClusterId(1),
            lineage: Lineage(2),
            region: "here".into(),
            region_number: 3,
            token_secret: [4; 32],
            tick_ms: 10_800_000,
            feature_level: 1,
        }
        .into(),
        Tick { expected: 300 }.into(),
        TakeDigest {}.into(),
        ReportDigest { node: NodeId(1), note: cluster::DigestNote { index: note.index, ..note } }.into(),
        RegisterNode {
            node: NodeId(5),
            zone,
            raft_address: "h:7401".into(),
            blob_address: "h:7402".into(),
            public_url: "https://h:7400".into(),
            version: "0.1.0".into(),
            feature_level: 1,
        }
        .into(),
        RegisterStore { store: StoreId(6), node: NodeId(5), weight: 100 }.into(),
        SetNodeState { node: NodeId(5), state: NodeState::Draining }.into(),
        cluster::BeginLineage { lineage: Lineage(2), keeps: Some(NodeId(5)) }.into(),
        RaiseLevel { level: 2 }.into(),
        MigrateSlot { slot: 300, level: 2 }.into(),
        EndUpgrade { level: 2 }.into(),
    ]
}

fn principal_commands() -> Vec<Command> {
    let (registry, user) = (REGISTRY, || "ann".to_owned());
    let row = KeyRow {
        registry,
        user: user(),
        sealed_secret: vec![1, 2],
        secret_hash: [3; 32],
        enabled: true,
        created_at_ms: 4,
        expires_at_ms: 5,
    };
    vec![
        PutUser { registry, name: user(), kind: UserKind::Root, enabled: true, must_be_new: false }.into(),
        DeleteUser { registry, name: user() }.into(),
        SetUserEnabled { registry, name: user(), enabled: false }.into(),
        SetKeyEnabled { registry, user: user(), key_id: "AKIA1".into(), enabled: true }.into(),
        PutKey { key_id: "AKIA1".into(), row }.into(),
        DeleteKey { registry, user: user(), key_id: "AKIA1".into() }.into(),
        PutPolicy { registry, principal: user(), name: "pull".into(), document: "{}".into() }.into(),
        DeletePolicy { registry, principal: user(), name: "pull".into() }.into(),
    ]
}

fn content_commands() -> Vec<Command> {
    let filters = TagFilters::new([TagFilter::parse("v*").unwrap()]).unwrap();
    let settings = Settings { mutability: Mutability::ImmutableWithExclusion(filters), sparse: true };
    let tag = || tags(&["v1"]).remove(0);
    let put = PutManifest {
        references: vec![
            reference(b"blob", ContentKind::Blob),
            reference(b"manifest", ContentKind::Manifest),
            reference(b"foreign", ContentKind::Foreign),
        ],
        subject: Some(Digest::of(registry_core::vocabulary::digest::Algorithm::Sha512, b"subject")),
        artifact_type: Some("application/vnd.example".into()),
        annotations: Some(vec![("key".into(), "value".into())]),
        tags: tags(&["v1"]),
        rights: TagRights { create: true, update: false },
        expected: Some(None),
        ..testing::manifest(&key(), b"manifest bytes")
    };
    vec![
        CreateRepository { key: key(), settings: settings.clone(), must_be_new: true }.into(),
        ChangeRepository { key: key(), settings }.into(),
        DeleteRepository { key: key(), force: true }.into(),
        PurgeRepository { key: key(), dropped: vec![(digest(), UseId(7))] }.into(),
        put.into(),
        DeleteManifest { repository: key(), digest: digest() }.into(),
        DeleteTag { repository: key(), tag: tag(), expected: Some(digest()) }.into(),
        Link { repository: key(), digest: digest(), size_bytes: 300, hold: UseId(7) }.into(),
        Unlink { repository: key(), digest: digest(), hold: UseId(7) }.into(),
        TouchLink { repository: key(), digest: digest() }.into(),
        ForgetUse { repository: key(), digest: digest(), hold: UseId(7) }.into(),
    ]
}

fn quota_commands() -> Vec<Command> {
    let (registry, limits) = (REGISTRY, Limits { bytes: Some(1 << 40), tags: None });
    vec![
        SetRepositoryQuota { repository: key(), limits }.into(),
        AdmitBlob { repository: key(), digest: digest(), size_bytes: 70_000 }.into(),
        SetRegistryQuota { registry, limits: Limits { bytes: None, tags: Some(300) } }.into(),
        RecallShares { registry, round: 7 }.into(),
        GrantShare { registry, slot: 1023, round: 8, share: limits }.into(),
    ]
}

fn blob_commands() -> Vec<Command> {
    let pair = (NodeId(1), Some(NodeId(2)));
    let (upload, digest, hold) = (upload(9), digest(), UseId(7));
    let (generation, store) = (upload, StoreId(6));
    vec![
        TakeUpload { upload, epoch: 1, before: pair, after: (NodeId(2), None) }.into(),
        FinishUpload { upload, epoch: 2, digest, holders: pair }.into(),
        CloseUpload { upload, holders: pair, deduplicated: Some(digest) }.into(),
        ForgetUploads { slot: 1023 }.into(),
        CommitBlob { digest, size_bytes: 70_000, upload, stores: vec![store], repository: key(), hold, replace: true }
            .into(),
        AddUse { digest, size_bytes: 7, repository: key(), hold }.into(),
        DropUse { digest, repository: key(), hold }.into(),
        ConfirmReplica { digest, generation, store }.into(),
        UnconfirmReplica { digest, generation, store }.into(),
        ReviewNeeds { digest, gone: vec![ZoneName::parse("zone-z").unwrap()] }.into(),
    ]
}

fn collection_commands() -> Vec<Command> {
    let (digest, generation, hold) = (digest(), upload(9), UseId(7));
    let tally = Tally { looked_at: 1, links: 2, records: 3, unused_bytes: 70_000, swept: 4, ..Tally::default() };
    let under_way = UnderWay { phase: Phase::Survey, slot: 1023, allow_percent: Some(50), began_at_ms: 300, tally };
    let ended = Ended { began_at_ms: 1, ended_at_ms: 2, ending: Ending::Held, tally };
    let (store, absent) = (StoreId(6), AbsenceRow { absent_ms: 900_000, stage: Stage::Replaced });
    vec![
        UnlinkIdle { repository: key(), digest, hold, touched_tick: 300 }.into(),
        FenceUse { repository: key(), digest, hold }.into(),
        Condemn { digest, generation, size_bytes: 70_000 }.into(),
        Sweep { digest, generation, size_bytes: 70_000 }.into(),
        ControlGc { paused: Some(false), run: Some(Some(100)) }.into(),
        DeleteUntagged { repository: key(), digest, since_tick: 300, after_ticks: 8 }.into(),
        NoteAbsence { node: NodeId(5), before: None, now: Some(absent) }.into(),
        ConfirmCopy { digest, generation, store, fence: 2 }.into(),
        FenceCopy { digest, generation, store }.into(),
        DropReplica { digest, generation, store, good: vec![StoreId(1), StoreId(2), StoreId(300)] }.into(),
        NoteGc { version: 300, takes_asked: true, under_way: Some(under_way), ended: Some(ended) }.into(),
    ]
}

fn region_commands() -> Vec<Command> {
    let version = Version { home_epoch: 1, hlc: 300, region: 2 };
    let tag = || tags(&["v1"]).remove(0);
    let region = RegionName::parse("there").unwrap();
    let to = Destination { region, registry: REGISTRY };
    let filters = vec![Prefix::parse("team/").unwrap()];
    let filter = |text: &str| TagFilter::parse(text).unwrap();
    let tags = TagScope::new([filter("v*"), filter("latest")], [filter("*-rc*")]).unwrap();
    let (transitive, settings) = (true, true);
    let read_through = ReadThrough::Digest;
    let sent = SentRow { filters: filters.clone(), read_through, transitive, settings, tags: tags.clone() };
    let (destinations, read_through) = (vec![to], ReadThrough::Full);
    let (deletes, backfill) = (true, true);
    let rule = Rule { destinations, filters, deletes, backfill, read_through, transitive, settings, tags };
    let home = Home { region: Some(RegionName::parse("here").unwrap()), epoch: 300, is_frozen: true };
    let zone = Some("zone-a".to_owned());
    let client = PlaceRow { network: "10.0.0.0/8".into(), region: "here".into(), zone };
    let address = AddressRow { node: NodeId(5), network: "::/0".into(), url: "https://h:7400".into() };
    let places = PlacesRow { clients: vec![client], addresses: vec![address], redirect_bytes_min: Some(70_000) };
    let place = Place { repository: key().name, record: Some((version, vec![2, b'v', b'1'])) };
    let row = BackfillRow {
        lineage: Lineage(9),
        rule: 300,
        done: 7,
        at: Some(place),
        settled: 70_000,
        total: 70_001,
        began_at_ms: 8,
        ended_at_ms: Some(9),
    };
    let before = Some((Lineage(8), 299));
    let previous = Version { hlc: 299, ..version };
    let change = Change::TagSet { tag: tag(), digest: digest(), version, base: version, previous };
    vec![
        testing::peer(2, "there").into(),
        DeletePeer { number: 2 }.into(),
        PutReplicationRules { registry: REGISTRY, rules: vec![rule] }.into(),
        MoveCursor { source: 2, before, lineage: Lineage(9), index: 300, complete_ms: 70_000 }.into(),
        NoteDestination { number: 2, lineage: Lineage(9), index: 300 }.into(),
        TrimOutbox { slot: 300, registry: REGISTRY }.into(),
        PutRemoteManifest { put: testing::manifest(&key(), b"manifest bytes"), presence: version }.into(),
        SetRemoteTag {
            repository: key(),
            tag: tag(),
            digest: digest(),
            version,
            base: Version::default(),
            previous: Some(previous),
        }
        .into(),
        DropRemoteTag { repository: key(), tag: tag(), version, base: Some(previous), previous: None }.into(),
        DropRemoteManifest { repository: key(), digest: digest(), version, from: 300, is_filtered: true }.into(),
        ParkEvent { source: 2, index: 300, repository: key().name, change, reason: "no room".into() }.into(),
        UnparkEvent { id: ParkedId { source: 2, index: 300, register: 7 } }.into(),
        MendTag { repository: key(), tag: tag(), told: Some((digest(), version, Version::default())) }.into(),
        MoveBackfill { source: 2, before: None, row }.into(),
        SetRegionLink { number: 2, is_paused: Some(true), bytes_per_second: Some(70_000) }.into(),
        NoteOffer { number: 2, offer: OfferRow(vec![sent]) }.into(),
        PutPlaces { places }.into(),
        TakeOverRegion { number: 2, complete_ms: 70_000 }.into(),
        MendSettings { repository: key() }.into(),
        PutRemoteSettings { repository: key(), settings: Settings::default(), home: home.clone(), version }.into(),
        SetHome { repository: key(), wish: HomeWish::Take, accepts_loss: true }.into(),
    ]
}

// Every command of the list has a sample whose bytes are kept; a proposal of it reads back.
#[test]
fn commands() {
    let parts = [
        system_commands(),
        principal_commands(),
        content_commands(),
        quota_commands(),
        blob_commands(),
        collection_commands(),
        region_commands(),
    ];
    let samples = parts.concat();
    let sampled: BTreeSet<&str> = samples.iter().map(Command::name).collect();
    let listed: BTreeSet<&str> = Command::NAMES.iter().copied().collect();
    assert_eq!(sampled, listed, "every command has one sample");
    let released = names(RELEASED_COMMANDS, "hex");
    let mut problems = Vec::new();
    for command in samples {
        let name = command.name();
        let proposal = Proposal {
            request: RequestId(0x0a0b),
            base: 300,
            min_level: 1,
            principal: "ann".into(),
            commands: vec![command],
        };
        let bytes = proposal.encode();
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal);
        problems.extend(compare("golden/command", &format!("{name}.hex"), &hex(&bytes), Some(VARIABLE)).err());
        if released.iter().any(|released| released == name) {
            problems.extend(compare(RELEASED_COMMANDS, &format!("{name}.hex"), &hex(&bytes), None).err());
        }
    }
    let kept: BTreeSet<String> = names("golden/command", "hex").into_iter().collect();
    let strange = kept.iter().filter(|name| !listed.contains(name.as_str()));
    problems.extend(strange.map(|name| format!("tests/golden/command/{name}.hex: no such command")));
    finish(problems);
}

// Every table has a row whose key and value are kept; those of a step between levels are there while it is under way.
#[test]
fn rows() {
    let mut world = World::busy();
    let mut step = World::region_at(1, &[]);
    step.ok(RaiseLevel { level: FEATURE_LEVEL });
    step.ok(MigrateSlot { slot: 3, level: FEATURE_LEVEL });
    let of_step = step.tables.rows().filter(|(key, _)| world.tables.get(key).is_none());
    let of_step = of_step.map(|(key, value)| (key.to_vec(), Some(value.to_vec()))).collect();
    world.tables.write(of_step);
    let filled = compare_rows(&world, "golden/row", Some(VARIABLE));
    let listed: BTreeSet<&str> = keys::TABLE_NAMES.iter().map(|(_, name)| *name).collect();
    assert_eq!(filled, listed, "every table has a row");
}

/// Compares all rows of a world with those kept in a folder, one file for each table; the tables that have any.
pub(crate) fn compare_rows(world: &World, folder: &str, variable: Option<&str>) -> BTreeSet<&'static str> {
    let mut by_table: BTreeMap<&'static str, String> = BTreeMap::new();
    for (key, value) in world.tables.rows() {
        let text = by_table.entry(keys::table_name(key).expect("every row has a table")).or_default();
        *text += &format!("key\n{}value\n{}\n", hex(key), hex(value));
    }
    let compared = by_table.iter().map(|(name, text)| compare(folder, &format!("{name}.hex"), text, variable));
    finish(compared.filter_map(Result::err).collect());
    by_table.into_keys().collect()
}

/// The reply's name, here and not in the library, so that a new one does not compile without a sample.
fn reply_name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Done => "Done",
        Reply::Unchanged => "Unchanged",
        Reply::Repository { .. } => "Repository",
        Reply::Manifest { .. } => "Manifest",
        Reply::Deleted { .. } => "Deleted",
        Reply::Blob { .. } => "Blob",
        Reply::Epoch(_) => "Epoch",
        Reply::Purged(_) => "Purged",
        Reply::Superseded => "Superseded",
    }
}

// Every reply, and an outcome with a refusal, keep their bytes.
#[test]
fn outcomes() {
    let version = Version { home_epoch: 1, hlc: 300, region: 2 };
    let moved = || TagMove { tag: tags(&["v1"]).remove(0), previous: Some(digest()), version };
    let replies = vec![
        Reply::Done,
        Reply::Unchanged,
        Reply::Repository { id: RepositoryId(0x0102), created: true },
        Reply::Manifest { created: true, tags: vec![moved()] },
        Reply::Deleted { tags: vec![moved()] },
        Reply::Blob { generation: upload(9) },
        Reply::Epoch(2),
        Reply::Purged(1000),
        Reply::Superseded,
    ];
    let mut problems = Vec::new();
    let mut check = |name: &str, outcome: Outcome| {
        let bytes = outcome.encode();
        assert_eq!(Outcome::decode(&bytes).unwrap(), outcome);
        problems.extend(compare("golden/reply", &format!("{name}.hex"), &hex(&bytes), Some(VARIABLE)).err());
    };
    for reply in replies {
        check(reply_name(&reply), Outcome { replies: vec![reply], refusal: None });
    }
    check("Refused", Outcome { replies: vec![Reply::Done], refusal: Some(Refusal::BlobUnknown { digest: digest() }) });
    finish(problems);
}
