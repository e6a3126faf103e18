//! What an owner set of a repository, as a register that regions share: the newer setting stands everywhere.
//!
//! The settings in force are in the repository's row. A row beside it tells when they were set, and once more which
//! they were: a repository's row that was altered beneath the commands contradicts it, and is mended by it. From level
//! 3 on every repository has one; of version zero while nobody has set anything. The home, which is set with them,
//! belongs to the name, and is noted by that once more. Source: consensus-and-faults §6.3, decision 16.

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
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;
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
    /// Version of the setting; zero while nobody has set any: what a repository is made with outside its home is no
    /// setting either.
    pub version: Version,
    /// What was set.
    pub settings: Settings,
    /// Where it is written.
    pub home: Home,
}

impl Stored for SettingsRow {}

impl SettingsRow {
    /// Below which nothing is made from then on: what is no setting is of the home all the same.
    fn epoch(&self) -> u32 {
        self.version.home_epoch.max(self.home.epoch)
    }
}

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

/// The latest home that anything under a repository's name was made in, here or elsewhere, and the home itself. Kept by
/// name: what is made in a repository that is deleted and made again must not be older than what other regions still
/// have of the first one, and does not open it; and the one beside the other, because a region may have been told of
/// the number and not of the home.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EpochRow {
    /// Its number.
    pub epoch: u32,
    /// The home, if there ever was one: where the row beside the repository is lost, or the repository made again, it
    /// must not be open to all for that.
    pub home: Option<NotedHome>,
}

impl Stored for EpochRow {}

/// A home, as it is noted a second time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NotedHome {
    /// The home.
    pub home: Home,
    /// Version of the settings that it is part of.
    pub version: Version,
}

impl NotedHome {
    /// What is to be noted by name, of what stands beside the repository that has it.
    pub fn of(SettingsRow { home, version, .. }: &SettingsRow) -> Option<NotedHome> {
        (*home != Home::default()).then(|| NotedHome { home: home.clone(), version: *version })
    }
}

fn epoch_key(repository: &RepositoryKey) -> Vec<u8> {
    keys::home_epoch(repository.slot(), repository.registry, repository.name.as_str())
}

fn epoch(tables: &impl TablesRead, repository: &RepositoryKey) -> EpochRow {
    epoch_of(tables, repository.registry, &repository.name)
}

fn epoch_of(tables: &impl TablesRead, registry: RegistryId, name: &RepositoryName) -> EpochRow {
    let key = keys::home_epoch(keys::repository_slot(registry, name), registry, name.as_str());
    tables.get(&key).map_or_else(EpochRow::default, |bytes| codec::row(&bytes))
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

/// Above which version settings must be to be set here, as the row beside the repository tells. A repository that was
/// made again outside its home waits for any settings of that home, and takes none of an earlier one.
pub(super) fn version(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<Version> {
    noted(tables, repository).and_then(|row| floor(&row.home, row.version))
}

/// The same, also where the row beside the repository is lost and there was a home.
pub(super) fn last_version(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<Version> {
    match noted(tables, repository) {
        Some(row) => floor(&row.home, row.version),
        None => epoch(tables, repository).home.and_then(|noted| floor(&noted.home, noted.version)),
    }
}

fn floor(home: &Home, version: Version) -> Option<Version> {
    let first = Version { home_epoch: home.epoch, ..Version::default() };
    Some(version.max(first)).filter(|least| *least != Version::default())
}

/// The next version of settings that have a home. Of that one's number, not of the latest: who knows the number of a
/// later home from tags alone, and was not told of it, does not end it by settings that he makes.
fn next_version(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, home: &Home) -> Version {
    let before = last_version(tables, repository).unwrap_or_default();
    let home_epoch = home.epoch.max(before.home_epoch);
    Version { home_epoch, ..tag::next_version(tables, repository, context) }
}

/// Notes the home by the repository's name as well, once there is one.
fn note_home(tables: &mut impl Tables, repository: &RepositoryKey, beside: &SettingsRow) {
    let (row, noted) = (epoch(tables, repository), NotedHome::of(beside));
    if row.home != noted {
        tables.put(epoch_key(repository), codec::encode(&EpochRow { home: noted, ..row }));
    }
}

/// Where a repository is written.
pub fn home(tables: &impl TablesRead, repository: &RepositoryKey) -> Home {
    let found = noted(tables, repository).map(|row| row.home);
    found.unwrap_or_else(|| home_of_name(tables, repository.registry, &repository.name))
}

fn home_of_name(tables: &impl TablesRead, registry: RegistryId, name: &RepositoryName) -> Home {
    epoch_of(tables, registry, name).home.map(|noted| noted.home).unwrap_or_default()
}

/// Refuses a push, a delete or a setting in a region that is not the repository's home, or while that is frozen.
pub fn may_write(tables: &impl TablesRead, repository: &RepositoryKey) -> Result<(), Refusal> {
    allows(tables, &repository.name, home(tables, repository))
}

/// The same by name, also where there is no repository now: one that is made has the home that the name had.
pub fn may_write_name(tables: &impl TablesRead, registry: RegistryId, name: &RepositoryName) -> Result<(), Refusal> {
    match repository::find(tables, registry, name) {
        Some((key, _)) => may_write(tables, &key),
        None => allows(tables, name, home_of_name(tables, registry, name)),
    }
}

fn allows(tables: &impl TablesRead, name: &RepositoryName, home: Home) -> Result<(), Refusal> {
    let Home { region, is_frozen, .. } = home;
    let Some(region) = region else { return Ok(()) };
    if !is_frozen && is_own(tables, &region) {
        return Ok(());
    }
    Err(Refusal::HomeElsewhere { repository: name.clone(), home: region.to_string(), is_frozen })
}

fn is_own(tables: &impl TablesRead, region: &RegionName) -> bool {
    cluster::read(tables).is_some_and(|row| row.region == region.as_str())
}

/// Whether a repository's row says what was set, the home is noted by name as it is beside the row, and what is made
/// next would not be of an earlier home than that.
pub fn is_proven(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    let settings = repository::live(tables, repository).map(|found| found.settings);
    let Some(noted) = noted(tables, repository) else { return settings.is_none() };
    let EpochRow { epoch, home } = epoch(tables, repository);
    settings.as_ref() == Some(&noted.settings) && home == NotedHome::of(&noted) && noted.epoch() <= epoch
}

/// Whether anything was noted of a repository's settings: at the latest when its slot was migrated to level 3, and
/// before that where another region said something of them.
pub(super) fn is_noted(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    tables.contains(&keys::settings(repository.slot(), repository.id))
}

/// Whether these settings are in force, and noted as they should be: setting them again says nothing new.
pub(super) fn stands(tables: &impl TablesRead, repository: &RepositoryKey, wish: &Settings) -> bool {
    let is_noted = noted(tables, repository).is_some_and(|row| {
        row.settings == *wish && (row.version != Version::default() || *wish == Settings::default())
    });
    is_noted && is_proven(tables, repository)
}

/// Changes what an owner may set, with the home that there is.
pub(super) fn change(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    (before, settings): (RepositoryRow, Settings),
) {
    let home = home(tables, repository);
    let version = next_version(tables, context, repository, &home);
    set(tables, context, repository, (before, settings), (home, version));
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

/// Notes what a repository is made with; it has the home that its name had. In that home it is a setting, and where
/// there is none if it is not the default. Elsewhere, or while the home is frozen, it is no word against what the home
/// has set: that comes again, and stands then.
pub(super) fn begin(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, row: &RepositoryRow) {
    let (home, settings) = (home(tables, repository), row.settings.clone());
    // below level 3 nothing is noted, but where another region has said before its time whose home it is
    if context.level < LEVEL_3 && home == Home::default() {
        return;
    }
    let is_set = home.region.is_some() || settings != Settings::default();
    if is_set && may_write(tables, repository).is_ok() {
        let version = next_version(tables, context, repository, &home);
        return tell(tables, context, repository, SettingsRow { version, settings, home });
    }
    put(tables, repository, &SettingsRow { version: Version::default(), settings, home });
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

/// Notes the settings of a repository that was made below level 3, unless another region has said something of them.
pub(super) fn note(tables: &mut impl Tables, repository: &RepositoryKey, row: &RepositoryRow) {
    if !is_noted(tables, repository) {
        note_anew(tables, repository, row);
    }
}

/// Notes settings that have no witness beside them: as set with the home, which is noted once more, or when the
/// repository was made, by this region; the default as never set.
fn note_anew(tables: &mut impl Tables, repository: &RepositoryKey, row: &RepositoryRow) {
    let made = || {
        let (hlc, region) = (clock::hlc_at(row.created_at_ms, LEVEL_3), cluster::region_number(tables));
        let is_set = row.settings != Settings::default();
        let version = if is_set { Version { home_epoch: 0, hlc, region } } else { Version::default() };
        NotedHome { home: Home::default(), version }
    };
    let NotedHome { home, version } = epoch(tables, repository).home.unwrap_or_else(made);
    let noted = SettingsRow { version, settings: row.settings.clone(), home };
    raise_epoch(tables, repository, noted.epoch());
    put(tables, repository, &noted);
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
    /// Take it although the other region has not frozen it: it is lost, and what it still took loses. Or one that is
    /// frozen here, which no other region has taken.
    pub accepts_loss: bool,
}

fn invalid(detail: impl Into<String>) -> Refusal {
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
            HomeWish::Take | HomeWish::Freeze | HomeWish::Leave => Err(self.not_here(before)),
        }
    }

    /// Why another region's home, or none, is not moved so, and what can be done.
    fn not_here(&self, Home { region, is_frozen, .. }: &Home) -> Refusal {
        let Some(region) = region else {
            return invalid("it has no home that could be frozen: every region takes what is pushed");
        };
        let advice = match self.wish {
            HomeWish::Take => ", which writes it: freeze it there first, or say --accept-loss if that region is lost",
            HomeWish::Freeze if *is_frozen => ", where it is frozen already",
            HomeWish::Freeze => ": freeze it there",
            HomeWish::Leave if *is_frozen => ", where it is frozen: take it here first",
            HomeWish::Leave => ": leave it there, or take it here first",
        };
        invalid(format!("it has its home in region '{region}'{advice}"))
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
        let is_elsewhere = before.region.as_ref().is_some_and(|region| *region != own);
        if self.wish == HomeWish::Take && is_elsewhere && !self.accepts_loss && read(tables, &self.repository).is_none()
        {
            return Err(invalid(
                "the repository was made again here, and what its home had set of it has not come since: compare first \
                 (portolan replication verify), or say --accept-loss",
            ));
        }
        let moved = self.moved(tables, &before, &own)?;
        if moved == before {
            return Ok(Reply::Unchanged);
        }
        raise_epoch(tables, &self.repository, moved.epoch);
        let version = next_version(tables, context, &self.repository, &moved);
        let settings = row.settings.clone();
        set(tables, context, &self.repository, (row, settings), (moved, version));
        Ok(Reply::Done)
    }
}

/// Brings the settings in a repository's row, which was damaged beneath the commands, back in line with what was noted
/// beside it; and that, and what was noted of the home by name, with the later one of both. No change for anybody else.
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
        // one command writes both: who has the lower version has missed a later one, or has lost what that wrote
        let named = epoch(tables, repository).home;
        let is_later = |beside: &SettingsRow| named.as_ref().is_none_or(|named| named.version <= beside.version);
        match noted(tables, repository).filter(is_later) {
            Some(noted) => {
                let key = keys::repository(repository.slot(), repository.id);
                tables.put(key, codec::encode(&RepositoryRow { settings: noted.settings.clone(), ..row }));
                raise_epoch(tables, repository, noted.epoch());
                note_home(tables, repository, &noted);
            }
            None => note_anew(tables, repository, &row),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests;
