//! What an owner set of a repository, as a register that regions share: the newer setting stands everywhere.
//!
//! The settings themselves are in the repository's row. A row beside it tells when they were set, and which they were:
//! a repository's row that was altered beneath the commands contradicts it. Source: consensus-and-faults §6.3.

use bincode::{Decode, Encode};

use super::apply::Context;
use super::codec::{self, Stored};
use super::keys;
use super::outbox::{self, Change};
use super::repository::{self, RepositoryKey, RepositoryRow, Settings};
use super::tables::{Tables, TablesRead};
use super::upgrade::LEVEL_3;
use super::{clock, cluster};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::version::Version;

/// Beside the row of a repository whose settings were set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SettingsRow {
    /// Version of the setting.
    pub version: Version,
    /// What was set.
    pub digest: Digest,
}

impl Stored for SettingsRow {}

/// SHA-256 of settings as they are stored: what two regions compare.
pub fn digest(settings: &Settings) -> Digest {
    Digest::sha256(&codec::encode_bare(settings))
}

fn row(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<SettingsRow> {
    tables.get(&keys::settings(repository.slot(), repository.id)).map(|bytes| codec::row(&bytes))
}

/// The settings of a repository and their version; `None` while nobody has set any.
pub fn read(tables: &impl TablesRead, repository: &RepositoryKey) -> Option<(Settings, Version)> {
    let found = repository::live(tables, repository)?;
    if let Some(SettingsRow { version, .. }) = row(tables, repository) {
        return Some((found.settings, version));
    }
    // set below level 3, where nobody noted when
    let version = Version {
        home_epoch: 0,
        hlc: clock::hlc_at(found.created_at_ms, LEVEL_3),
        region: cluster::region_number(tables),
    };
    (found.settings != Settings::default()).then_some((found.settings, version))
}

/// Whether a repository's row says what was set.
pub fn is_proven(tables: &impl TablesRead, repository: &RepositoryKey) -> bool {
    let settings = repository::live(tables, repository).map(|found| found.settings);
    let noted = row(tables, repository).map(|row| row.digest);
    noted.zip(settings).is_none_or(|(noted, settings)| noted == digest(&settings))
}

/// Sets them in a repository's row, and notes that.
pub(super) fn set(
    tables: &mut impl Tables,
    context: &Context<'_>,
    repository: &RepositoryKey,
    (before, settings): (RepositoryRow, Settings),
    version: Version,
) {
    let (slot, id) = (repository.slot(), repository.id);
    let noted = SettingsRow { version, digest: digest(&settings) };
    let change = Change::SettingsSet { settings: settings.clone(), version };
    tables.put(keys::repository(slot, id), codec::encode(&RepositoryRow { settings, ..before }));
    tables.put(keys::settings(slot, id), codec::encode(&noted));
    outbox::note(tables, context, repository, change);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tag_move::Mutability;
    use crate::metadata::remote::PutRemoteSettings;
    use crate::metadata::reply::Reply;
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

    // Settings from before their versions were kept count as set when the repository was made, by this region.
    #[test]
    fn settings_of_before() {
        let (mut world, repository) = world(immutable());
        world.tables.write([(keys::settings(repository.slot(), repository.id), None)].into());
        let (settings, version) = read(&world.tables, &repository).unwrap();
        let created_at_ms = repository::live(&world.tables, &repository).unwrap().created_at_ms;
        assert_eq!((settings, version.hlc, version.region), (immutable(), created_at_ms * 1000, 1));
    }

    // A row that was altered beneath the commands contradicts what was noted, and is made what the other region has of
    // the same setting.
    #[test]
    fn damage_shows() {
        let (mut world, repository) = world(Settings::default());
        world.ok(remote(&repository, immutable(), 10));
        assert!(is_proven(&world.tables, &repository));
        let row = repository::live(&world.tables, &repository).unwrap();
        let damaged = RepositoryRow { settings: Settings::default(), ..row };
        let key = keys::repository(repository.slot(), repository.id);
        world.tables.write([(key, Some(codec::encode(&damaged)))].into());
        assert!(!is_proven(&world.tables, &repository));
        world.ok(remote(&repository, immutable(), 10));
        assert!(is_proven(&world.tables, &repository));
        assert_eq!(read(&world.tables, &repository).unwrap().0, immutable());
    }
}
