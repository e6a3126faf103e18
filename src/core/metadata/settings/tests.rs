//! What is set, told, lost and mended; homes, and repositories made again under a name that has one.

use super::*;
use crate::decide::tag_move::TagFilter;
use crate::metadata::manifest::PutManifest;
use crate::metadata::remote::{PutRemoteManifest, PutRemoteSettings, SetRemoteTag};
use crate::metadata::repository::{ChangeRepository, DeleteRepository};
use crate::metadata::tables::Writes;
use crate::metadata::tag::DeleteTag;
use crate::metadata::testing::{World, manifest, peer, sends_all, tags};

fn immutable() -> Settings {
    Settings { mutability: Mutability::Immutable, sparse: false }
}

fn world(settings: Settings) -> (World, RepositoryKey) {
    let mut world = World::cluster();
    world.ok(peer(2, "eu"));
    world.ok(sends_all("eu"));
    let repository = world.repository("r", 1, settings);
    (world, repository)
}

fn told(world: &World, repository: &RepositoryKey) -> Vec<Change> {
    let page = outbox::read(&world.tables, repository.slot(), (0, u64::MAX), None, usize::MAX);
    page.events.into_iter().map(|event| event.row.change).collect()
}

fn remote(repository: &RepositoryKey, settings: Settings, hlc: u64) -> PutRemoteSettings {
    let version = Version { home_epoch: 0, hlc, region: 2 };
    PutRemoteSettings { repository: repository.clone(), settings, home: Home::default(), version }
}

// Nothing is told of settings that nobody set; what is set when a repository is made, or later, is told with the
// version that it has from then on.
#[test]
fn what_is_set_is_told() {
    let (world, repository) = world(Settings::default());
    assert_eq!((read(&world.tables, &repository), told(&world, &repository)), (None, vec![]));
    let (mut world, repository) = self::world(immutable());
    let SettingsRow { settings, version: first, .. } = read(&world.tables, &repository).unwrap();
    assert_eq!(settings, immutable());
    world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
    let SettingsRow { settings, version, .. } = read(&world.tables, &repository).unwrap();
    assert!(settings == Settings::default() && version > first && version.region == 1);
    let expected = [(immutable(), first), (settings, version)];
    let expected = expected.map(|(settings, version)| {
        let home = Home::default();
        Change::SettingsSet { settings, home, version }
    });
    assert_eq!(told(&world, &repository), expected);
}

// The newer setting stands, whichever comes first; what is set here next is newer than what has come.
#[test]
fn newer_settings_stand() {
    let (mut world, repository) = world(Settings::default());
    let later = (world.at_ms + 60_000) * 1000;
    world.ok(remote(&repository, immutable(), later));
    assert_eq!(world.ok(remote(&repository, Settings::default(), later - 1)), Reply::Superseded);
    assert_eq!(world.ok(remote(&repository, immutable(), later)), Reply::Superseded);
    assert_eq!(read(&world.tables, &repository).unwrap().settings, immutable());
    world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
    let SettingsRow { settings, version, .. } = read(&world.tables, &repository).unwrap();
    assert!(settings == Settings::default() && version.hlc > later && version.region == 1);
}

// Settings from below level 3 count as set when the repository was made, by this region; the default as never set.
#[test]
fn settings_of_before() {
    let (mut world, repository) = world(immutable());
    let row = repository::live(&world.tables, &repository).unwrap();
    let (key, at) = (keys::settings(repository.slot(), repository.id), row.created_at_ms * 1000);
    world.tables.write([(key.clone(), None)].into());
    let below = world.tables.clone();
    let mut tables = below.clone();
    note(&mut tables, &repository, &row);
    let of_making = read(&tables, &repository).unwrap();
    assert_eq!((of_making.version.hlc, of_making.version.region), (at, 1));
    // what is noted stays
    note(&mut tables, &repository, &RepositoryRow { created_at_ms: row.created_at_ms + 1, ..row.clone() });
    assert_eq!(read(&tables, &repository), Some(of_making));
    let mut tables = below;
    note(&mut tables, &repository, &RepositoryRow { settings: Settings::default(), ..row });
    let noted: SettingsRow = codec::row(&tables.get(&key).unwrap());
    assert_eq!(
        noted,
        SettingsRow { version: Version::default(), settings: Settings::default(), home: Home::default() }
    );
}

// Setting what is set already, as a change of something else may, is no newer word.
#[test]
fn the_same_again_is_no_change() {
    let (mut world, repository) = world(Settings::default());
    world.ok(remote(&repository, immutable(), 10));
    let before = (read(&world.tables, &repository), told(&world, &repository));
    world.ok(ChangeRepository { key: repository.clone(), settings: immutable() });
    assert_eq!((read(&world.tables, &repository), told(&world, &repository)), before);
}

// Any part of the settings shows in what is compared, and the default is nothing.
#[test]
fn digests() {
    let filters = |texts: &[&str]| TagFilters::new(texts.iter().map(|text| TagFilter::parse(text).unwrap())).unwrap();
    let of = |mutability, sparse| digest(&Settings { mutability, sparse }, &Home::default());
    let all = [
        of(Mutability::Mutable, false),
        of(Mutability::Mutable, true),
        of(Mutability::Immutable, false),
        of(Mutability::MutableWithExclusion(filters(&["a"])), false),
        of(Mutability::ImmutableWithExclusion(filters(&["a"])), false),
        of(Mutability::ImmutableWithExclusion(filters(&["a", "b"])), false),
        of(Mutability::ImmutableWithExclusion(filters(&["a", "b"])), true),
    ];
    assert_eq!(all[0], Digest::sha256(b""));
    assert_eq!(std::collections::BTreeSet::from(all).len(), all.len());
}

// A row that was altered beneath the commands contradicts what was noted, and is mended by that; what is in order
// stays.
#[test]
fn damage_shows() {
    let (mut world, repository) = world(Settings::default());
    world.ok(remote(&repository, immutable(), 10));
    let mend = || MendSettings { repository: repository.clone() };
    assert_eq!(world.ok(mend()), Reply::Unchanged);
    let row = repository::live(&world.tables, &repository).unwrap();
    let damaged = RepositoryRow { settings: Settings::default(), ..row };
    let key = keys::repository(repository.slot(), repository.id);
    world.tables.write([(key, Some(codec::encode(&damaged)))].into());
    assert!(!is_proven(&world.tables, &repository));
    world.ok(mend());
    assert!(is_proven(&world.tables, &repository));
    let SettingsRow { settings, version, .. } = read(&world.tables, &repository).unwrap();
    assert_eq!((settings, version.hlc), (immutable(), 10));
    // a witness that is gone
    world.tables.write([(keys::settings(repository.slot(), repository.id), None)].into());
    assert!(!is_proven(&world.tables, &repository));
    world.ok(mend());
    assert!(is_proven(&world.tables, &repository));
    assert_eq!(read(&world.tables, &repository).unwrap().version.region, 1);
    // setting them again is a word where they are not what was noted
    let key = keys::repository(repository.slot(), repository.id);
    let row = repository::live(&world.tables, &repository).unwrap();
    let damaged = RepositoryRow { settings: Settings::default(), ..row };
    world.tables.write([(key, Some(codec::encode(&damaged)))].into());
    world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
    assert!(is_proven(&world.tables, &repository));
    assert_eq!(read(&world.tables, &repository).unwrap().settings, Settings::default());
}

// Where the row beside a repository is lost, its home is not, nor what that is counted by; where that is lost, the
// row has it. So it is with a repository that is made again under the name.
#[test]
fn lost_rows_keep_the_home() {
    let (mut world, repository) = world(immutable());
    let mut rules = sends_all("eu");
    rules.rules[0].settings = true;
    world.ok(rules);
    let wish = |wish, accepts_loss| SetHome { repository: repository.clone(), wish, accepts_loss };
    world.ok(wish(HomeWish::Take, false));
    world.ok(wish(HomeWish::Freeze, false));
    let before = read(&world.tables, &repository).unwrap();
    let lost = |key: Vec<u8>| Writes::from([(key, None)]);
    let of = |repository: &RepositoryKey| keys::settings(repository.slot(), repository.id);
    let mend = |repository: &RepositoryKey| MendSettings { repository: repository.clone() };

    world.tables.write(lost(of(&repository)));
    assert!(!is_proven(&world.tables, &repository));
    assert!(matches!(world.refused(tagged(&repository, b"1")), Refusal::HomeElsewhere { is_frozen: true, .. }));
    assert_eq!(world.ok(remote(&repository, Settings::default(), 5)), Reply::Superseded, "what is older");
    world.ok(mend(&repository));
    assert!(is_proven(&world.tables, &repository));
    assert_eq!(read(&world.tables, &repository), Some(before.clone()));
    assert_eq!(world.ok(mend(&repository)), Reply::Unchanged);

    world.tables.write(lost(epoch_key(&repository)));
    assert!(!is_proven(&world.tables, &repository));
    world.ok(mend(&repository));
    assert_eq!(latest_epoch(&world.tables, &repository), before.version.home_epoch);
    assert_eq!(epoch(&world.tables, &repository).home.map(|noted| noted.home), Some(before.home));

    world.ok(DeleteRepository { key: repository.clone(), force: true });
    let again = world.repository("r", 2, Settings::default());
    world.tables.write(lost(of(&again)));
    world.ok(mend(&again));
    assert!(is_proven(&world.tables, &again));
    let kept = Home { is_frozen: true, ..home(&world.tables, &repository) };
    assert_eq!((home(&world.tables, &again), read(&world.tables, &again)), (kept.clone(), None));
    assert_eq!(latest_epoch(&world.tables, &again), before.version.home_epoch);
    world.tables.write(lost(epoch_key(&again)));
    assert!(!is_proven(&world.tables, &again));
    world.ok(mend(&again));
    assert!(is_proven(&world.tables, &again));
    assert_eq!((home(&world.tables, &again), latest_epoch(&world.tables, &again)), (kept, before.version.home_epoch));
}

/// A region that sends settings to `eu`.
fn telling() -> (World, RepositoryKey) {
    let (mut world, repository) = world(Settings::default());
    let mut rules = sends_all("eu");
    rules.rules[0].settings = true;
    world.ok(rules);
    (world, repository)
}

fn home_of(region: &str, epoch: u32) -> Home {
    Home { region: Some(RegionName::parse(region).unwrap()), epoch, is_frozen: false }
}

/// Settings that the home `eu` has set.
fn of_home(repository: &RepositoryKey, epoch: u32, hlc: u64) -> PutRemoteSettings {
    let version = Version { home_epoch: epoch, hlc, region: 2 };
    let (repository, home) = (repository.clone(), home_of("eu", epoch));
    PutRemoteSettings { repository, settings: immutable(), home, version }
}

fn made_again(world: &mut World, repository: &RepositoryKey, settings: Settings) -> RepositoryKey {
    world.ok(DeleteRepository { key: repository.clone(), force: true });
    world.repository("r", repository.id.0 + 1, settings)
}

// The home belongs to the name: a repository that is deleted and made again in another region is still written in
// its home alone, and what it was made with is no word against that one's settings, which come again.
#[test]
fn made_again_elsewhere() {
    for made_with in [Settings::default(), Settings { sparse: true, ..immutable() }] {
        let (mut world, repository) = telling();
        world.ok(of_home(&repository, 2, 5));
        let before = told(&world, &repository);
        // while there is none, nothing need be sent to make one
        world.ok(DeleteRepository { key: repository.clone(), force: true });
        let by_name = may_write_name(&world.tables, repository.registry, &repository.name);
        assert!(matches!(by_name, Err(Refusal::HomeElsewhere { .. })));
        let repository = world.repository("r", 8, Settings::default());
        assert_eq!(may_write_name(&world.tables, repository.registry, &repository.name), by_name);
        let again = made_again(&mut world, &repository, made_with.clone());
        assert_eq!(home(&world.tables, &again), home_of("eu", 2));
        assert_eq!((read(&world.tables, &again), told(&world, &again)), (None, before), "no word");
        assert_eq!(repository::live(&world.tables, &again).unwrap().settings, made_with);
        assert!(is_proven(&world.tables, &again));
        let elsewhere = |refusal: Refusal| matches!(refusal, Refusal::HomeElsewhere { .. });
        assert!(elsewhere(world.refused(tagged(&again, b"1"))));
        let change = Settings { sparse: false, ..immutable() };
        assert!(elsewhere(world.refused(ChangeRepository { key: again.clone(), settings: change })));
        // once that is frozen: what it had set is not here, and would be lost with a home taken now
        let frozen = Home { is_frozen: true, ..home_of("eu", 2) };
        let version = Version { home_epoch: 2, hlc: 4, region: 2 };
        let (settings, of) = (immutable(), again.clone());
        world.ok(PutRemoteSettings { repository: of, settings, home: frozen, version });
        let again = made_again(&mut world, &again, made_with.clone());
        let take = SetHome { repository: again.clone(), wish: HomeWish::Take, accepts_loss: false };
        assert!(matches!(world.refused(take), Refusal::ParameterInvalid { .. }));
        // a word of before that home comes late
        assert_eq!(world.ok(of_home(&again, 1, 900)), Reply::Superseded);
        assert_eq!(world.ok(of_home(&again, 2, 5)), Reply::Done);
        let row = read(&world.tables, &again).unwrap();
        assert_eq!((row.settings, row.home), (immutable(), home_of("eu", 2)));
        assert_eq!(world.ok(of_home(&again, 2, 5)), Reply::Superseded);
        let again = made_again(&mut world, &again, made_with);
        world.ok(SetHome { repository: again.clone(), wish: HomeWish::Take, accepts_loss: true });
        assert_eq!(home(&world.tables, &again).epoch, 3);
        world.ok(tagged(&again, b"1"));
    }
}

// Made again in its home, it is written there as before, and others are told what it was made with.
#[test]
fn made_again_at_home() {
    for settings in [Settings::default(), immutable()] {
        let (mut world, repository) = telling();
        world.ok(SetHome { repository: repository.clone(), wish: HomeWish::Take, accepts_loss: false });
        world.ok(ChangeRepository { key: repository.clone(), settings: Settings { sparse: true, ..immutable() } });
        let before = read(&world.tables, &repository).unwrap();
        let again = made_again(&mut world, &repository, settings.clone());
        let row = read(&world.tables, &again).unwrap();
        assert_eq!((&row.settings, &row.home), (&settings, &before.home));
        assert!(row.version > before.version && is_proven(&world.tables, &again));
        let SettingsRow { settings, home, version } = row;
        assert_eq!(told(&world, &again).pop(), Some(Change::SettingsSet { settings, home, version }));
        world.ok(tagged(&again, b"1"));
        // every region writes: what is made with the default says nothing, as ever
        world.ok(SetHome { repository: again.clone(), wish: HomeWish::Leave, accepts_loss: false });
        let before = told(&world, &again);
        let last = made_again(&mut world, &again, Settings::default());
        assert_eq!((read(&world.tables, &last), told(&world, &last)), (None, before));
        world.ok(tagged(&last, b"2"));
    }
}

// Who was not told of a home may know its number from tags: settings that are set there do not end it.
#[test]
fn settings_beside_a_home_unheard_of() {
    let (mut world, repository) = telling();
    let version = Version { home_epoch: 1, hlc: 5, region: 2 };
    world.ok(PutRemoteManifest { put: manifest(&repository, b"1"), presence: version });
    world.ok(ChangeRepository { key: repository.clone(), settings: Settings { sparse: true, ..immutable() } });
    assert_eq!(read(&world.tables, &repository).unwrap().version.home_epoch, 0);
    assert_eq!(latest_epoch(&world.tables, &repository), 1);
    world.ok(of_home(&repository, 1, 5));
    assert_eq!(read(&world.tables, &repository).map(|row| row.home), Some(home_of("eu", 1)));
}

// The row beside a repository and the home noted by its name are written together: where they contradict each
// other, the later word stands in both.
#[test]
fn contradicting_homes() {
    let (mut world, repository) = world(Settings::default());
    world.ok(of_home(&repository, 2, 5));
    let good = read(&world.tables, &repository).unwrap();
    let of_row = keys::settings(repository.slot(), repository.id);
    let epochs = epoch(&world.tables, &repository);
    let older = Version { home_epoch: 1, ..good.version };
    let rows = [
        SettingsRow { home: Home::default(), version: Version::default(), ..good.clone() },
        SettingsRow { home: home_of("eu", 1), version: older, ..good.clone() },
    ];
    for bad in rows {
        world.tables.write([(of_row.clone(), Some(codec::encode(&bad)))].into());
        assert!(!is_proven(&world.tables, &repository), "{bad:?}");
        world.ok(MendSettings { repository: repository.clone() });
        assert!(is_proven(&world.tables, &repository));
        assert_eq!(read(&world.tables, &repository), Some(good.clone()));
    }
    let noted = epochs.home.clone().unwrap();
    let homes = [
        None,
        Some(NotedHome { version: older, ..noted.clone() }),
        Some(NotedHome { home: home_of("eu", 1), ..noted.clone() }),
        Some(NotedHome { home: Home { is_frozen: true, ..noted.home.clone() }, version: older }),
    ];
    for home in homes {
        let bad = codec::encode(&EpochRow { home, ..epochs.clone() });
        world.tables.write([(epoch_key(&repository), Some(bad))].into());
        assert!(!is_proven(&world.tables, &repository));
        world.ok(MendSettings { repository: repository.clone() });
        assert!(is_proven(&world.tables, &repository));
        assert_eq!(
            (read(&world.tables, &repository), epoch(&world.tables, &repository)),
            (Some(good.clone()), epochs.clone())
        );
    }
}

// What is refused says what can be done, wherever it is frozen.
#[test]
fn refusals_say_what_to_do() {
    let (mut world, repository) = telling();
    let wish = |wish| SetHome { repository: repository.clone(), wish, accepts_loss: false };
    let says = |refusal: Refusal, parts: &[&str]| {
        let text = refusal.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    says(world.refused(wish(HomeWish::Freeze)), &["no home"]);
    world.ok(of_home(&repository, 1, 5));
    says(world.refused(tagged(&repository, b"1")), &["home in region 'eu'", "push", "there"]);
    says(world.refused(wish(HomeWish::Take)), &["home in region 'eu'", "freeze it there", "--accept-loss"]);
    says(world.refused(wish(HomeWish::Freeze)), &["home in region 'eu'", "there"]);
    says(world.refused(wish(HomeWish::Leave)), &["home in region 'eu'", "there"]);
    let frozen = Home { is_frozen: true, ..home_of("eu", 1) };
    world.ok(PutRemoteSettings { home: frozen, ..of_home(&repository, 1, 6) });
    let nowhere = |refusal: Refusal| {
        let text = refusal.to_string();
        assert!(text.contains("frozen") && text.contains("no region") && !text.contains("push and"), "{text}");
    };
    nowhere(world.refused(tagged(&repository, b"1")));
    says(world.refused(wish(HomeWish::Freeze)), &["home in region 'eu'", "frozen already"]);
    says(world.refused(wish(HomeWish::Leave)), &["home in region 'eu'", "frozen", "take it here first"]);
    world.ok(wish(HomeWish::Take));
    world.ok(wish(HomeWish::Freeze));
    nowhere(world.refused(tagged(&repository, b"1")));
    says(world.refused(wish(HomeWish::Take)), &["frozen here", "--accept-loss"]);
}

fn tagged(repository: &RepositoryKey, bytes: &[u8]) -> PutManifest {
    PutManifest { tags: tags(&["t"]), ..manifest(repository, bytes) }
}

// A home takes pushes, deletes and settings alone; frozen, nobody does, and another region takes it over. What is
// made in a later home wins whatever its clock says.
#[test]
fn homes() {
    let (mut world, repository) = world(Settings::default());
    let wish = |wish, accepts_loss| SetHome { repository: repository.clone(), wish, accepts_loss };
    // nobody would know
    assert!(matches!(world.refused(wish(HomeWish::Take, false)), Refusal::ParameterInvalid { .. }));
    let mut rules = sends_all("eu");
    rules.rules[0].settings = true;
    world.ok(rules);
    world.ok(tagged(&repository, b"1"));
    world.ok(wish(HomeWish::Take, false));
    assert_eq!(world.ok(wish(HomeWish::Take, false)), Reply::Unchanged);
    world.ok(tagged(&repository, b"2"));
    let set = tag::read(&world.tables, &repository, &tags(&["t"])[0]).unwrap().version;
    assert_eq!((set.home_epoch, home(&world.tables, &repository).epoch), (1, 1));
    world.ok(wish(HomeWish::Freeze, false));
    let delete = DeleteTag { repository: repository.clone(), tag: tags(&["t"]).remove(0), expected: None };
    let change = ChangeRepository { key: repository.clone(), settings: immutable() };
    let frozen = |refusal: Refusal| matches!(refusal, Refusal::HomeElsewhere { is_frozen: true, .. });
    assert!(frozen(world.refused(tagged(&repository, b"3"))) && frozen(world.refused(delete.clone())));
    assert!(frozen(world.refused(change)));
    // the other region has taken it
    let there = Home { region: Some(RegionName::parse("eu").unwrap()), epoch: 2, is_frozen: false };
    let version = Version { home_epoch: 2, hlc: 5, region: 2 };
    let settings = Settings::default();
    world.ok(PutRemoteSettings { repository: repository.clone(), settings, home: there.clone(), version });
    assert_eq!(home(&world.tables, &repository), there);
    let elsewhere = |refusal: Refusal| matches!(refusal, Refusal::HomeElsewhere { is_frozen: false, .. });
    assert!(elsewhere(world.refused(tagged(&repository, b"3"))) && elsewhere(world.refused(delete.clone())));
    for there in [HomeWish::Take, HomeWish::Leave] {
        assert!(matches!(world.refused(wish(there, false)), Refusal::ParameterInvalid { .. }));
    }
    // what it made comes all the same, and wins over what was later here by the clock
    let digest = Digest::sha256(b"4");
    world.ok(PutRemoteManifest { put: manifest(&repository, b"4"), presence: version });
    let tag = tags(&["t"]).remove(0);
    let set = SetRemoteTag { repository: repository.clone(), tag, digest, version, base: version, previous: None };
    world.ok(set);
    assert_eq!(tag::read(&world.tables, &repository, &tags(&["t"])[0]).unwrap().digest, digest);
    // it is lost for good
    world.ok(wish(HomeWish::Take, true));
    assert_eq!(home(&world.tables, &repository).epoch, 3);
    world.ok(delete);
    // once it is frozen here, another region may have it
    world.ok(wish(HomeWish::Freeze, false));
    for unsure in [HomeWish::Take, HomeWish::Leave] {
        assert!(matches!(world.refused(wish(unsure, false)), Refusal::ParameterInvalid { .. }));
    }
    world.ok(wish(HomeWish::Take, true));
    world.ok(wish(HomeWish::Leave, false));
    assert_eq!(home(&world.tables, &repository), Home { region: None, epoch: 4, is_frozen: false });
    world.ok(tagged(&repository, b"1"));
}

// A region that has lost its home region for good may take it without any rule.
#[test]
fn lost_homes() {
    let (mut world, repository) = world(Settings::default());
    let there = Home { region: Some(RegionName::parse("eu").unwrap()), epoch: 1, is_frozen: false };
    let version = Version { home_epoch: 1, hlc: 5, region: 2 };
    let (settings, repository_of) = (Settings::default(), repository.clone());
    world.ok(PutRemoteSettings { repository: repository_of, settings, home: there, version });
    let wish = |wish, accepts_loss| SetHome { repository: repository.clone(), wish, accepts_loss };
    assert!(matches!(world.refused(wish(HomeWish::Take, false)), Refusal::ParameterInvalid { .. }));
    world.ok(wish(HomeWish::Take, true));
    world.ok(tagged(&repository, b"1"));
    world.ok(wish(HomeWish::Leave, false));
}

// What is made where nobody was told of the home is not of an earlier epoch than what has come from it, so that a
// delete there stays one; and neither is what is made in a repository of the same name, made again.
#[test]
fn epochs_outlive_homes() {
    let (mut world, repository) = world(Settings::default());
    let (digest, tag) = (Digest::sha256(b"1"), tags(&["t"]).remove(0));
    let version = Version { home_epoch: 4, hlc: 5, region: 2 };
    world.ok(PutRemoteManifest { put: manifest(&repository, b"1"), presence: version });
    let set = SetRemoteTag { repository: repository.clone(), tag, digest, version, base: version, previous: None };
    world.ok(set.clone());
    assert_eq!(home(&world.tables, &repository), Home::default());
    world.ok(DeleteTag { repository: repository.clone(), tag: set.tag.clone(), expected: None });
    assert_eq!(world.ok(set.clone()), Reply::Superseded, "no delete is undone");
    world.ok(tagged(&repository, b"2"));
    assert_eq!(tag::read(&world.tables, &repository, &set.tag).unwrap().version.home_epoch, 4);
    world.ok(DeleteRepository { key: repository.clone(), force: true });
    let again = world.repository("r", 2, Settings::default());
    world.ok(tagged(&again, b"3"));
    assert_eq!(tag::read(&world.tables, &again, &set.tag).unwrap().version.home_epoch, 4);
}
