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
use super::{clock, cluster, tag};
use crate::decide::tag_move::{Mutability, TagFilters};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::version::Version;

/// Beside the row of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SettingsRow {
    /// Version of the setting; zero while nobody has set any.
    pub version: Version,
    /// What was set.
    pub settings: Settings,
}

impl Stored for SettingsRow {}

/// What two regions compare: SHA-256 over lines that name what is not as it is by default, so that a setting that
/// another release does not know differs only where it is set.
pub fn digest(settings: &Settings) -> Digest {
    let Settings { mutability, sparse } = settings;
    let (mode, excluded) = match mutability {
        Mutability::Mutable => ("", None),
        Mutability::Immutable => ("immutable\n", None),
        Mutability::MutableWithExclusion(filters) => ("mutable but\n", Some(filters)),
        Mutability::ImmutableWithExclusion(filters) => ("immutable but\n", Some(filters)),
    };
    let excluded = excluded.into_iter().flat_map(TagFilters::iter).map(|filter| format!("{filter}\n"));
    let sparse = if *sparse { "sparse\n" } else { "" };
    Digest::sha256(format!("{mode}{}{sparse}", excluded.collect::<String>()).as_bytes())
}

fn noted(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<SettingsRow> {
    tables.get(&keys::settings(repository.slot(), repository.id)).map(|bytes| codec::row(&bytes))
}

/// The settings of a repository and their version; `None` while nobody has set any.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<(Settings, Version)> {
    let version = noted(tables, repository).map(|row| row.version).filter(|version| *version != Version::default())?;
    Some((repository::live(tables, repository)?.settings, version))
}

/// Whether a repository's row says what was set.
pub fn is_proven(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    let settings = repository::live(tables, repository).map(|found| found.settings);
    noted(tables, repository).map(|row| row.settings) == settings
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
    version: Version,
) {
    let row = RepositoryRow { settings: settings.clone(), ..before };
    tables.put(keys::repository(repository.slot(), repository.id), codec::encode(&row));
    tell(tables, context, repository, settings, version);
}

/// Notes what a repository is made with; the default is no setting.
pub(super) fn begin(tables: &mut impl Tables, context: &Context<'_>, repository: &RepositoryKey, row: &RepositoryRow) {
    if row.settings == Settings::default() {
        return note(tables, repository, row);
    }
    let version = tag::next_version(tables, repository.slot(), context);
    tell(tables, context, repository, row.settings.clone(), version);
}

/// Notes what stands in a repository's row, for this region and others.
fn tell(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    settings: Settings,
    version: Version,
) {
    let row = SettingsRow { version, settings: settings.clone() };
    tables.put(keys::settings(repository.slot(), repository.id), codec::encode(&row));
    outbox::note(tables, context, repository, Change::SettingsSet { settings, version });
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
    let noted = SettingsRow { version, settings: row.settings.clone() };
    tables.put(keys::settings(repository.slot(), repository.id), codec::encode(&noted));
}

/// Brings the settings in a repository's row, which was damaged beneath the commands, back in line with what was noted
/// beside it. No change for anybody else.
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
        match noted(tables, repository) {
            Some(SettingsRow { settings, .. }) if settings == row.settings => return Ok(Reply::Unchanged),
            Some(SettingsRow { settings, .. }) => {
                let key = keys::repository(repository.slot(), repository.id);
                tables.put(key, codec::encode(&RepositoryRow { settings, ..row }));
            }
            // without a witness they stand, as set when the repository was made
            None => note(tables, repository, &row),
        }
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::remote::PutRemoteSettings;
    use crate::metadata::repository::ChangeRepository;
    use crate::metadata::testing::{World, peer, sends_all};

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
        PutRemoteSettings { repository: repository.clone(), settings, version }
    }

    // Nothing is told of settings that nobody set; what is set when a repository is made, or later, is told with the
    // version that it has from then on.
    #[test]
    fn what_is_set_is_told() {
        let (world, repository) = world(Settings::default());
        assert_eq!((read(&world.tables, &repository), told(&world, &repository)), (None, vec![]));
        let (mut world, repository) = self::world(immutable());
        let (settings, first) = read(&world.tables, &repository).unwrap();
        assert_eq!(settings, immutable());
        world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
        let (settings, version) = read(&world.tables, &repository).unwrap();
        assert!(settings == Settings::default() && version > first && version.region == 1);
        let expected = [(immutable(), first), (settings, version)];
        let expected = expected.map(|(settings, version)| Change::SettingsSet { settings, version });
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
        assert_eq!(read(&world.tables, &repository).unwrap().0, immutable());
        world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
        let (settings, version) = read(&world.tables, &repository).unwrap();
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
        assert_eq!(read(&world.tables, &repository).map(|(_, version)| (version.hlc, version.region)), Some((at, 1)));
        let mut tables = world.tables.clone();
        note(&mut tables, &repository, &RepositoryRow { settings: Settings::default(), ..row });
        let noted: SettingsRow = codec::row(&tables.get(&key).unwrap());
        assert_eq!(noted, SettingsRow { version: Version::default(), settings: Settings::default() });
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
        let of = |mutability, sparse| digest(&Settings { mutability, sparse });
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
        let (settings, version) = read(&world.tables, &repository).unwrap();
        assert_eq!((settings, version.hlc), (immutable(), 10));
        // a witness that is gone
        world.tables.write([(keys::settings(repository.slot(), repository.id), None)].into());
        assert!(!is_proven(&world.tables, &repository));
        world.ok(mend());
        assert!(is_proven(&world.tables, &repository));
        assert_eq!(read(&world.tables, &repository).unwrap().1.region, 1);
        // setting them again is a word where they are not what was noted
        let key = keys::repository(repository.slot(), repository.id);
        let row = repository::live(&world.tables, &repository).unwrap();
        let damaged = RepositoryRow { settings: Settings::default(), ..row };
        world.tables.write([(key, Some(codec::encode(&damaged)))].into());
        world.ok(ChangeRepository { key: repository.clone(), settings: Settings::default() });
        assert!(is_proven(&world.tables, &repository));
        assert_eq!(read(&world.tables, &repository).unwrap().0, Settings::default());
    }
}
