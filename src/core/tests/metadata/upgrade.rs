//! R7: nodes of two releases serve one cluster, then it steps up to the newer one's level.

use registry_core::decide::quota::Limits;
use registry_core::decide::tag_move::{Mutability, TagFilter, TagFilters};
use registry_core::metadata::apply::{Entry, StateDigest};
use registry_core::metadata::blob;
use registry_core::metadata::cluster::{self, FEATURE_LEVEL};
use registry_core::metadata::command::{Command, Proposal};
use registry_core::metadata::gc::ControlGc;
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::node::{self, NodeState};
use registry_core::metadata::remote::PutRemoteSettings;
use registry_core::metadata::repository::{ChangeRepository, DeleteRepository, RepositoryKey, Settings};
use registry_core::metadata::settings::{self, Home};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{self, World, manifest, node_at, tags};
use registry_core::metadata::upgrade::{self, EndUpgrade, LEVEL_2, MigrateSlot, RaiseLevel};
use registry_core::metadata::usage::{self, SetRepositoryQuota};
use registry_core::metadata::{manifest::PutManifest, reply::Reply, untagged};
use registry_core::vocabulary::digest::Digest;
use registry_core::vocabulary::names::RegionName;
use registry_core::vocabulary::refusal::Refusal;
use registry_core::vocabulary::version::Version;

use crate::{files, golden};

const UP: RaiseLevel = RaiseLevel { level: FEATURE_LEVEL };

/// A cluster at the first level whose nodes have all been upgraded.
fn upgraded() -> (World, RepositoryKey) {
    let (mut world, repository) = World::busy_at(1);
    for (number, zone) in (1..).zip(["a", "b", "c"]) {
        world.ok(node_at(FEATURE_LEVEL, number, zone).remove(0));
    }
    (world, repository)
}

fn migrate(world: &mut World) {
    while upgrade::read(&world.tables).is_some() {
        for command in upgrade::due(&world.tables, 100) {
            world.ok(command);
        }
    }
}

// A node of this release among nodes of 0.1.0 makes, of the same commands, the very rows that they make: those kept
// when 0.1.0 was released. One byte more, and the state digest would tell it from the others.
#[test]
fn r7_writes_what_the_release_before_wrote() {
    golden::compare_rows(&World::busy_at(1).0, "golden/0.1.0/row", None);
}

// Rows of the last release's level are those that it writes, also of other regions: kept when 0.2.0 was released.
#[test]
fn r7_writes_what_the_last_release_writes() {
    golden::compare_rows(&World::busy(), "golden/0.2.0/row", None);
}

// A log that 0.1.0's own random workload wrote (1500 entries with 29 kinds of commands; beside each the running
// hash that
// 0.1.0 had then) leads to the same hash after every entry: it counts each write, also of what was not there. Then the
// state it made steps up, and counters and lists are as the rows say.
#[test]
fn r7_a_log_of_the_release_before() {
    let bytes = std::fs::read(files::folder("golden/0.1.0").join("log.bin")).unwrap();
    let (mut rest, mut world) = (&bytes[..], World::empty());
    while !rest.is_empty() {
        let index = number::<8>(&mut rest).try_into().unwrap();
        let at_ms = number::<8>(&mut rest).try_into().unwrap();
        let (hash, length) = (number::<16>(&mut rest), number::<4>(&mut rest));
        let (payload, after) = rest.split_at(usize::try_from(length).unwrap());
        rest = after;
        let applied = world.machine.apply(&world.tables, &[Entry { index, at_ms, payload }]).unwrap();
        world.tables.write(applied.writes);
        assert_eq!(StateDigest::read(&world.tables).0, hash, "after entry {index}: {:?}", Proposal::decode(payload));
        (world.index, world.at_ms) = (index, at_ms);
    }
    assert_eq!(world.index, 1500);
    for (id, row) in node::list(&world.tables).into_iter().filter(|(_, row)| row.state != NodeState::Removed) {
        world.ok(node_at(FEATURE_LEVEL, id.0, row.zone.as_str()).remove(0));
    }
    world.ok(UP);
    migrate(&mut world);
    assert!((0..SLOTS).all(|slot| upgrade::level_of(&world.tables, slot) == FEATURE_LEVEL));
}

fn number<const N: usize>(bytes: &mut &[u8]) -> u128 {
    let (number, rest) = bytes.split_at(N);
    *bytes = rest;
    number.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

// The step is refused while a node is too old, and told which.
#[test]
fn r7_waits_for_all_nodes() {
    let (mut world, _) = World::busy_at(1);
    let Refusal::ParameterInvalid { detail, .. } = world.refused(UP) else { panic!("another refusal") };
    assert!(detail.contains("node 0000000000000001 runs test"), "{detail}");
    let (mut world, _) = upgraded();
    assert_eq!(world.ok(UP), Reply::Done);
    assert_eq!(world.ok(UP), Reply::Unchanged);
    assert!(matches!(world.refused(RaiseLevel { level: FEATURE_LEVEL + 1 }), Refusal::ParameterInvalid { .. }));
    // and nobody can come in, or go back, with the old one
    assert!(matches!(world.refused(node_at(1, 9, "c").remove(0)), Refusal::FeatureLevel { .. }));
    assert!(matches!(world.refused(node_at(1, 1, "a").remove(0)), Refusal::FeatureLevel { .. }));
}

// What only the new release knows is refused before the step, so that one step back stays possible.
#[test]
fn r7_nothing_new_before_the_step() {
    let (mut world, repository) = upgraded();
    let news: [Command; 4] = [
        ControlGc { paused: Some(true), run: None }.into(),
        SetRepositoryQuota { repository, limits: Default::default() }.into(),
        MigrateSlot { slot: 0, level: FEATURE_LEVEL }.into(),
        testing::peer(2, "there").into(),
    ];
    for command in news {
        assert_eq!(world.refused(command), Refusal::FeatureLevel { level: 1 });
    }
}

// After the step, pushes and deletes go on in slots that are migrated and in those that are not yet; in the end all is
// counted and listed as if it always had been. The checks behind each command compare counters with rows.
#[test]
fn r7_migrates_under_load() {
    let (mut world, repository) = upgraded();
    let put = |world: &mut World, name: &[u8]| {
        world.ok(PutManifest { tags: tags(&["moving"]), ..manifest(&repository, name) });
    };
    put(&mut world, b"before the step");
    world.ok(UP);
    put(&mut world, b"before its slot");
    assert_eq!(usage::read(&world.tables, &repository).used, Default::default());
    world.push_blob(&repository, b"blob before its slot", 70, &[1, 2]);
    let other = world.repository("other", 0xb1, Settings::default());
    world.push_blob(&other, b"other", 71, &[1, 2]);
    assert_eq!(world.refused(EndUpgrade { level: FEATURE_LEVEL }), Refusal::Changed);
    // limits may be set before the slot is counted, and go with their repository
    let limited = world.repository("limited", 0xb2, Settings::default());
    let limits = Limits { bytes: Some(9), tags: None };
    world.ok(SetRepositoryQuota { repository: limited.clone(), limits });
    world.ok(DeleteRepository { key: limited, force: true });
    world.ok(MigrateSlot { slot: repository.slot(), level: FEATURE_LEVEL });
    let counted = usage::read(&world.tables, &repository).used;
    assert!(counted.bytes > 0 && counted.tags > 0, "{counted:?}");
    let untagged = |world: &World, bytes: &[u8]| untagged::read(&world.tables, &repository, &Digest::sha256(bytes));
    assert!(untagged(&world, b"before the step").is_some() && untagged(&world, b"before its slot").is_none());
    assert_eq!(world.ok(MigrateSlot { slot: repository.slot(), level: FEATURE_LEVEL }), Reply::Unchanged);
    put(&mut world, b"after its slot");
    assert!(untagged(&world, b"before its slot").is_some());
    world.ok(DeleteTag { repository: repository.clone(), tag: tags(&["moving"]).remove(0), expected: None });
    world.ok(DeleteRepository { key: other, force: true });
    migrate(&mut world);
    assert!((0..SLOTS).all(|slot| upgrade::level_of(&world.tables, slot) == FEATURE_LEVEL));
    assert_eq!(world.ok(EndUpgrade { level: FEATURE_LEVEL }), Reply::Unchanged);
    let left = usage::of_registry(&world.tables, repository.registry);
    assert_eq!(left, usage::read(&world.tables, &repository).used, "what was deleted counts no more");
    assert!(blob::read(&world.tables, &Digest::sha256(b"blob before its slot")).is_some());
}

// Tags that were set before level 3 rank by the delete that they follow; migrated, those that may move rank by their
// own version, and fixed ones as before. Until then nobody can ask for changes that a slot would not note.
#[test]
fn r7_tags_rank_anew() {
    let mut world = World::region_at(LEVEL_2, &["a"]);
    let fixed = TagFilters::new([TagFilter::parse("v*").unwrap()]).unwrap();
    let settings = Settings { mutability: Mutability::MutableWithExclusion(fixed), sparse: false };
    let repository = world.repository("r", 1, settings);
    let put = |world: &mut World, tag: &str, bytes: &[u8]| {
        world.ok(PutManifest { tags: tags(&[tag]), ..manifest(&repository, bytes) });
    };
    for name in ["v1", "latest"] {
        put(&mut world, name, b"1");
        world.ok(DeleteTag { repository: repository.clone(), tag: tags(&[name]).remove(0), expected: None });
        put(&mut world, name, b"2");
    }
    let row = |world: &World, name: &str| tag::read(&world.tables, &repository, &tags(&[name])[0]).unwrap();
    let before = ["v1", "latest"].map(|name| row(&world, name));
    assert!(before.iter().all(|row| row.base < row.version));
    world.ok(node_at(FEATURE_LEVEL, 1, "a").remove(0));
    world.ok(UP);
    world.ok(testing::peer(2, "there"));
    assert!(matches!(world.refused(testing::sends_all("there")), Refusal::ParameterInvalid { .. }));
    put(&mut world, "old", b"2");
    migrate(&mut world);
    assert_eq!(row(&world, "v1"), before[0]);
    assert_eq!(row(&world, "latest"), tag::TagRow { base: before[1].version, ..before[1].clone() });
    assert_eq!(row(&world, "old").base, row(&world, "old").version);
    world.ok(testing::sends_all("there"));
}

// What another region says of settings may come before a slot is migrated: that keeps it, also where an owner changes
// them, or makes the repository again, in the meantime.
#[test]
fn r7_settings_that_came_before_their_slot() {
    let home = Home { region: Some(RegionName::parse("there").unwrap()), epoch: 1, is_frozen: false };
    let came = |repository: &RepositoryKey, home: &Home| {
        let version = Version { home_epoch: home.epoch, hlc: 5, region: 2 };
        let settings = Settings { sparse: true, ..Settings::default() };
        PutRemoteSettings { repository: repository.clone(), settings, home: home.clone(), version }
    };
    let mut world = World::region_at(LEVEL_2, &["a"]);
    let [kept, changed, again] = ["kept", "changed", "again"].map(|name| {
        let number = name.len() as u128;
        world.repository(name, number, Settings::default())
    });
    world.ok(node_at(FEATURE_LEVEL, 1, "a").remove(0));
    world.ok(UP);
    world.ok(testing::peer(2, "there"));
    world.ok(came(&kept, &home));
    world.ok(came(&changed, &Home::default()));
    world.ok(came(&again, &home));
    world.ok(ChangeRepository { key: changed.clone(), settings: Settings::default() });
    world.ok(DeleteRepository { key: again.clone(), force: true });
    let again = world.repository("again", 9, Settings::default());
    let before = [&kept, &changed, &again].map(|key| settings::read(&world.tables, key));
    let told = before.each_ref().map(|row| row.as_ref().map(|row| (row.version.region, row.settings.sparse)));
    assert_eq!(told, [Some((2, true)), Some((1, false)), None]);
    migrate(&mut world);
    for (key, before) in [&kept, &changed, &again].into_iter().zip(before) {
        assert_eq!(settings::read(&world.tables, key), before);
        assert!(settings::is_proven(&world.tables, key), "{key:?}");
    }
    assert_eq!([&kept, &again].map(|key| settings::home(&world.tables, key)), [home.clone(), home.clone()]);
    assert_eq!(world.ok(came(&again, &home)), Reply::Done, "it comes again");
}

// A cluster that was founded at its level has nothing to migrate.
#[test]
fn r7_founded_at_its_level() {
    let mut world = World::region(&["a"]);
    assert_eq!(cluster::read(&world.tables).map(|row| row.feature_level), Some(FEATURE_LEVEL));
    assert!(upgrade::due(&world.tables, 9).is_empty());
    assert_eq!(world.ok(UP), Reply::Unchanged);
    assert_eq!(upgrade::level_of(&world.tables, testing::repository_key("r", 1).slot()), FEATURE_LEVEL);
}
