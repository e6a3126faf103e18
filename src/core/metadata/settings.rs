//! What an owner set of a repository, as a register that regions share: the newer setting stands everywhere.
//!
//! The settings in force are in the repository's row. A row beside it tells when they were set, and once more which
//! they were: a repository's row that was altered beneath the commands contradicts it, and is mended by it. From level
//! 3 on every repository has one; of version zero while nobody has set anything. Source: consensus-and-faults §6.3.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::command::Apply;
use super::keys::{self, Slot};
use super::outbox::{self, Change};
use super::reply::Reply;
use super::repository::{self, RepositoryKey, RepositoryRow, Settings};
use super::tables::{Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{clock, cluster, replication_rules, tag};
use crate::decide::tag_move::{Mutability, TagFilters};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RepositoryId;
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::stored::stored_enum;
use crate::vocabulary::version::Version;

/// Where a repository is written. While it has a home, other regions take neither pushes nor deletes; what is made in
/// a later home wins over what is made in an earlier one, or nowhere in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Home {
    /// The region; `None`: every region takes them.
    pub region: Option<RegionName>,
    /// How often the repository has got one.
    pub epoch: u32,
    /// It takes nothing any more either: all that it had taken is on its way, and then another region may adopt it.
    pub is_frozen: bool,
}

/// Beside the row of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SettingsRow {
    /// Version of the setting; zero while nobody has set any.
    pub version: Version,
    /// What was set.
    pub settings: Settings,
    /// Where it is written.
    pub home: Home,
}

impl Stored for SettingsRow {}

/// What two regions compare: SHA-256 over lines that name what is not as it is by default, so that a setting that
/// another release does not know differs only where it is set.
pub fn digest(settings: &Settings, home: &Home) -> Digest {
    let Settings { mutability, sparse } = settings;
    let (mode, excluded) = match mutability {
        Mutability::Mutable => ("", None),
        Mutability::Immutable => ("immutable\n", None),
        Mutability::MutableWithExclusion(filters) => ("mutable but\n", Some(filters)),
        Mutability::ImmutableWithExclusion(filters) => ("immutable but\n", Some(filters)),
    };
    let excluded = excluded.into_iter().flat_map(TagFilters::iter).map(|filter| format!("{filter}\n"));
    let sparse = if *sparse { "sparse\n" } else { "" };
    let Home { region, epoch, is_frozen } = home;
    let at = region.as_ref().map_or_else(String::new, ToString::to_string);
    let home = if *home == Home::default() { String::new() } else { format!("home {epoch} {is_frozen} {at}\n") };
    Digest::sha256(format!("{mode}{}{sparse}{home}", excluded.collect::<String>()).as_bytes())
}

fn noted(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<SettingsRow> {
    tables.get(&keys::settings(repository.slot(), repository.id)).map(|bytes| codec::row(&bytes))
}

/// The settings of a repository, as they are in force; `None` while nobody has set any.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<SettingsRow> {
    let noted = noted(tables, repository).filter(|row| row.version != Version::default())?;
    Some(SettingsRow { settings: repository::live(tables, repository)?.settings, ..noted })
}

/// The latest home that anything under a repository's name was made in, here or elsewhere. Kept by name: what is made
/// in a repository that is deleted and made again must not be older than what other regions still have of the first
/// one; and kept beside the home, because a region may have been told of the one and not of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EpochRow {
    /// Its number.
    pub epoch: u32,
    /// The home of the repository that has the name, if it ever had one: where the row beside the repository is lost,
    /// it must not be open to all for that.
    pub home: Option<NotedHome>,
}

impl Stored for EpochRow {}

/// A home, as it is noted a second time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NotedHome {
    /// Of the repository of this id: one that is made again under the name begins without.
    pub repository: RepositoryId,
    /// The home.
    pub home: Home,
    /// Version of the settings that it is part of.
    pub version: Version,
}

fn epoch_key(repository: &RepositoryKey) -> Vec<u8> {
    keys::home_epoch(repository.slot(), repository.registry, repository.name.as_str())
}

fn epoch(tables: &impl TablesRead, repository: &RepositoryKey) -> EpochRow {
    tables.get(&epoch_key(repository)).map_or_else(EpochRow::default, |bytes| codec::row(&bytes))
}

/// The epoch that what is made in a repository now is of.
pub fn latest_epoch(tables: &impl TablesRead, repository: &RepositoryKey) -> u32 {
    epoch(tables, repository).epoch
}

/// What is made next is not of an earlier epoch than this.
pub(super) fn raise_epoch(tables: &mut impl Tables, repository: &RepositoryKey, latest: u32) {
    let row = epoch(tables, repository);
    if latest > row.epoch {
        tables.put(epoch_key(repository), codec::encode(&EpochRow { epoch: latest, ..row }));
    }
}

/// The home that was noted by the repository's name.
fn noted_home(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<NotedHome> {
    epoch(tables, repository).home.filter(|noted| noted.repository == repository.id)
}

/// Version of what was set last, also where the row beside the repository is lost and there was a home.
pub(super) fn last_version(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<Version> {
    let found = read(tables, repository).map(|row| row.version);
    found.or_else(|| noted_home(tables, repository).map(|noted| noted.version))
}

/// Notes the home by the repository's name as well, once there is one.
fn note_home(tables: &mut impl Tables, repository: &RepositoryKey, SettingsRow { home, version, .. }: &SettingsRow) {
    let noted = NotedHome { repository: repository.id, home: home.clone(), version: *version };
    let (row, noted) = (epoch(tables, repository), (*home != Home::default()).then_some(noted));
    if row.home != noted {
        tables.put(epoch_key(repository), codec::encode(&EpochRow { home: noted, ..row }));
    }
}

/// Where a repository is written.
pub fn home(tables: &impl TablesRead, repository: &RepositoryKey) -> Home {
    let found = noted(tables, repository).map(|row| row.home);
    found.or_else(|| noted_home(tables, repository).map(|noted| noted.home)).unwrap_or_default()
}

/// Refuses a push, a delete or a setting in a region that is not the repository's home, or while that is frozen.
pub fn may_write(tables: &impl TablesRead, repository: &RepositoryKey) -> Result<(), Refusal> {
    let Home { region, is_frozen, .. } = home(tables, repository);
    let Some(region) = region else { return Ok(()) };
    if !is_frozen && is_own(tables, &region) {
        return Ok(());
    }
    Err(Refusal::HomeElsewhere { repository: repository.name.clone(), home: region.to_string(), is_frozen })
}

fn is_own(tables: &impl TablesRead, region: &RegionName) -> bool {
    cluster::read(tables).is_some_and(|row| row.region == region.as_str())
}

/// Whether a repository's row says what was set, and what is made next would not be of an earlier home than that.
pub fn is_proven(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    let settings = repository::live(tables, repository).map(|found| found.settings);
    let noted = noted(tables, repository);
    let is_known = noted.as_ref().is_none_or(|row| row.version.home_epoch <= latest_epoch(tables, repository));
    is_known && noted.map(|row| row.settings) == settings
}

/// Whether these settings are in force, and noted as they should be: setting them again says nothing new.
pub(super) fn stands(tables: &impl TablesRead, repository: &RepositoryKey, wish: &Settings) -> bool {
    let is_noted = noted(tables, repository).is_some_and(|row| {
        row.settings == *wish && (row.version != Version::default() || *wish == Settings::default())
    });
    is_noted && is_proven(tables, repository)
}

/// Sets them in a repository's row, and notes that.
pub(super) fn set(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    (before, settings): (RepositoryRow, Settings),
    (home, version): (Home, Version),
) {
    let row = RepositoryRow { settings: settings.clone(), ..before };
    tables.put(keys::repository(repository.slot(), repository.id), codec::encode(&row));
    tell(tables, context, repository, SettingsRow { version, settings, home });
}

/// Notes what a repository is made with; the default is no setting.
pub(super) fn begin(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, row: &RepositoryRow) {
    if row.settings == Settings::default() {
        return note(tables, repository, row);
    }
    let version = tag::next_version(tables, repository, context);
    tell(tables, context, repository, SettingsRow { version, settings: row.settings.clone(), home: Home::default() });
}

fn put(tables: &mut impl Tables, repository: &RepositoryKey, row: &SettingsRow) {
    tables.put(keys::settings(repository.slot(), repository.id), codec::encode(row));
    note_home(tables, repository, row);
}

/// Notes what stands in a repository's row, for this region and others.
fn tell(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, row: SettingsRow) {
    put(tables, repository, &row);
    let SettingsRow { version, settings, home } = row;
    outbox::note(tables, context, repository, Change::SettingsSet { settings, home, version });
}

/// Notes the settings of a repository that is made, or that was made below level 3: those that are not the default were
/// set when it was made, by this region.
pub(super) fn note(tables: &mut impl Tables, repository: &RepositoryKey, row: &RepositoryRow) {
    let set = Version {
        home_epoch: 0,
        hlc: clock::hlc_at(row.created_at_ms, LEVEL_3),
        region: cluster::region_number(tables),
    };
    let version = if row.settings == Settings::default() { Version::default() } else { set };
    let noted = SettingsRow { version, settings: row.settings.clone(), home: Home::default() };
    tables.put(keys::settings(repository.slot(), repository.id), codec::encode(&noted));
}

stored_enum! {
    /// What is to become of a repository's home.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HomeWish {
        /// This region is it from now on.
        Take = 0,
        /// It takes nothing any more, so that another region can take it over without a loss.
        Freeze = 1,
        /// Every region may write again.
        Leave = 2,
    }
}

/// Moves the home of a repository. Another region's is taken when it has been frozen there and that has arrived here:
/// with it all that was written before. Source: consensus-and-faults §6.3.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetHome {
    /// Of which.
    pub repository: RepositoryKey,
    /// What becomes of it.
    pub wish: HomeWish,
    /// Take it although the other region has not frozen it: it is lost, and what it still took loses.
    pub accepts_loss: bool,
}

fn invalid(detail: &str) -> Refusal {
    Refusal::ParameterInvalid { parameter: "home".into(), detail: detail.into() }
}

impl SetHome {
    /// What it is afterwards.
    fn moved(&self, tables: &impl TablesRead, before: &Home, own: &RegionName) -> Result<Home, Refusal> {
        let taken = || {
            let epoch = latest_epoch(tables, &self.repository).max(before.epoch).saturating_add(1);
            Home { region: Some(own.clone()), epoch, is_frozen: false }
        };
        let is_ours = before.region.as_ref() == Some(own);
        let elsewhere = || {
            let home = before.region.as_ref().map(ToString::to_string).unwrap_or_default();
            let is_frozen = before.is_frozen;
            Refusal::HomeElsewhere { repository: self.repository.name.clone(), home, is_frozen }
        };
        match self.wish {
            HomeWish::Take if is_ours && !before.is_frozen => Ok(before.clone()),
            // another region may have taken it, and what would be written here until that is heard would lose
            HomeWish::Take | HomeWish::Leave if is_ours && before.is_frozen && !self.accepts_loss => Err(invalid(
                "it is frozen here, so that another region may have taken it by now: see there that none has, and then \
                 say --accept-loss",
            )),
            HomeWish::Take if before.region.is_none() || before.is_frozen || self.accepts_loss => Ok(taken()),
            HomeWish::Freeze if is_ours => Ok(Home { is_frozen: true, ..before.clone() }),
            HomeWish::Leave if is_ours => Ok(Home { region: None, is_frozen: false, epoch: before.epoch }),
            HomeWish::Leave if before.region.is_none() => Ok(before.clone()),
            HomeWish::Take | HomeWish::Freeze | HomeWish::Leave => Err(elsewhere()),
        }
    }
}

impl Apply for SetHome {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, context: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let row = repository::require(tables, &self.repository)?;
        let own = cluster::read(tables).and_then(|row| RegionName::parse(&row.region).ok());
        let own = own.ok_or_else(|| invalid("there is no cluster yet"))?;
        let before = home(tables, &self.repository);
        let is_first = self.wish == HomeWish::Take && before.region.is_none();
        let rules = is_first.then(|| replication_rules::read(tables, self.repository.registry));
        if rules.is_some_and(|rules| !rules.copies_settings(&self.repository.name)) {
            return Err(invalid(
                "no rule here copies settings of this repository, so that no other region would know: set one first, \
                 in every region that may be its home",
            ));
        }
        let moved = self.moved(tables, &before, &own)?;
        if moved == before {
            return Ok(Reply::Unchanged);
        }
        raise_epoch(tables, &self.repository, moved.epoch);
        let version = tag::next_version(tables, &self.repository, context);
        let settings = row.settings.clone();
        set(tables, context, &self.repository, (row, settings), (moved, version));
        Ok(Reply::Done)
    }
}

/// Brings the settings in a repository's row, which was damaged beneath the commands, back in line with what was noted
/// beside it, and what was noted of its home, in one place or the other. No change for anybody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MendSettings {
    /// Of which.
    pub repository: RepositoryKey,
}

impl Apply for MendSettings {
    fn slot(&self) -> Slot {
        self.repository.slot()
    }

    fn apply<T: Tables>(self, _: &Context<'_>, tables: &mut T) -> Result<Reply, Refusal> {
        let repository = &self.repository;
        let row = repository::require(tables, repository)?;
        if is_proven(tables, repository) {
            return Ok(Reply::Unchanged);
        }
        let home = noted_home(tables, repository);
        match noted(tables, repository) {
            Some(noted) => {
                let key = keys::repository(repository.slot(), repository.id);
                tables.put(key, codec::encode(&RepositoryRow { settings: noted.settings.clone(), ..row }));
                raise_epoch(tables, repository, noted.version.home_epoch);
                note_home(tables, repository, &noted);
            }
            // without a witness they stand: as set with the home, which has one more, or when the repository was made
            None => match home {
                Some(NotedHome { home, version, .. }) => {
                    raise_epoch(tables, repository, version.home_epoch);
                    put(tables, repository, &SettingsRow { version, settings: row.settings, home });
                }
                None => note(tables, repository, &row),
            },
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
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
        let mut tables = world.tables.clone();
        note(&mut tables, &repository, &row);
        world.tables = tables;
        assert_eq!(read(&world.tables, &repository).map(|row| (row.version.hlc, row.version.region)), Some((at, 1)));
        let mut tables = world.tables.clone();
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
        let filters =
            |texts: &[&str]| TagFilters::new(texts.iter().map(|text| TagFilter::parse(text).unwrap())).unwrap();
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
    // row has it. A repository made again under the name has neither.
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
        assert_eq!(noted_home(&world.tables, &repository).map(|noted| noted.home), Some(before.home));

        world.ok(DeleteRepository { key: repository.clone(), force: true });
        let again = world.repository("r", 2, Settings::default());
        world.tables.write(lost(of(&again)));
        world.ok(mend(&again));
        assert_eq!((home(&world.tables, &again), read(&world.tables, &again)), (Home::default(), None));
        assert_eq!(latest_epoch(&world.tables, &again), before.version.home_epoch);
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
        assert!(elsewhere(world.refused(wish(HomeWish::Take, false))));
        assert!(elsewhere(world.refused(wish(HomeWish::Leave, false))));
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
        assert!(matches!(world.refused(wish(HomeWish::Take, false)), Refusal::HomeElsewhere { .. }));
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
}
