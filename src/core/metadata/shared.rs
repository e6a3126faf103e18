//! What another region has a right to see here: repositories of which one of the two sends the other something.
//!
//! A region that says it sends a repository has a right to what it has sent, not to what else lies under that name: the
//! word is its own. What this region's rules send it, it may have all of. Source: consensus-and-faults §6.6.

use super::repository::RepositoryKey;
use super::tables::TablesRead;
use super::{manifest, offer, peer, region_link, replication_rules};
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::SHARED_LOOKED_AT_MAX;
use crate::vocabulary::names::RegionName;
use crate::vocabulary::repository_name::RepositoryName;

/// The number of a region that is known, and not lost: this one has not taken over from it.
pub fn region(tables: &impl TablesRead, region: &RegionName) -> Option<u16> {
    let (number, _) = peer::named(tables, region)?;
    region_link::read(tables, number).taken_over.is_none().then_some(number)
}

/// Whether one of the two regions sends a repository of the default registry to the other, as far as is known here.
pub fn is_shared(tables: &impl TablesRead, with: &RegionName, name: &RepositoryName) -> bool {
    let Some(number) = region(tables, with) else { return false };
    sends(tables, with, name) || offer::read(tables, number).covers(name)
}

/// Whether a region may have a blob of a repository: it is sent the repository, or a manifest that it made and sent
/// here names the blob. Of many that name it only some are looked at: in doubt it may not.
pub fn may_have(tables: &impl TablesRead, with: &RegionName, key: &RepositoryKey, digest: &Digest) -> bool {
    let Some(number) = region(tables, with).filter(|_| key.registry == RegistryId::DEFAULT) else { return false };
    if sends(tables, with, &key.name) {
        return true;
    }
    let is_its = |named: &Digest| manifest::read(tables, key, named).is_some_and(|row| row.presence.region == number);
    offer::read(tables, number).covers(&key.name)
        && manifest::naming_blob(tables, key, digest, SHARED_LOOKED_AT_MAX).iter().any(is_its)
}

fn sends(tables: &impl TablesRead, to: &RegionName, name: &RepositoryName) -> bool {
    replication_rules::read(tables, RegistryId::DEFAULT).serves(name, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::{Prefix, ReadThrough};
    use crate::decide::replication::tags::TagScope;
    use crate::metadata::manifest::PutManifest;
    use crate::metadata::offer::{NoteOffer, OfferRow};
    use crate::metadata::peer::DeletePeer;
    use crate::metadata::region_link::{SetRegionLink, TakeOverRegion};
    use crate::metadata::remote::PutRemoteManifest;
    use crate::metadata::replication_rules::{PutReplicationRules, SentRow};
    use crate::metadata::testing::{World, manifest, peer, reference, sends_all};
    use crate::vocabulary::manifest::ContentKind;
    use crate::vocabulary::version::Version;

    const BLOBS: [&[u8]; 4] = [b"ours", b"theirs", b"of a third", b"of both"];

    fn names(repository: &RepositoryKey, blobs: &[&[u8]]) -> PutManifest {
        let references = blobs.iter().map(|bytes| reference(bytes, ContentKind::Blob)).collect();
        PutManifest { references, ..manifest(repository, &blobs.concat()) }
    }

    fn came(put: PutManifest, region: u16) -> PutRemoteManifest {
        PutRemoteManifest { put, presence: Version { home_epoch: 0, hlc: 10, region } }
    }

    fn offers(prefix: &str) -> NoteOffer {
        let filters = vec![Prefix::parse(prefix).unwrap()];
        let sent =
            SentRow { filters, read_through: ReadThrough::Off, transitive: true, settings: false, tags: TagScope::ALL };
        NoteOffer { number: 2, offer: OfferRow(vec![sent]) }
    }

    /// A repository with blobs that this region, region 2 and region 3 made manifests of.
    fn world() -> (World, RepositoryKey, RegionName) {
        let mut world = World::region(&["a", "b"]);
        world.ok(peer(2, "eu"));
        world.ok(peer(3, "us"));
        let repository = world.repository("team/app", 1, Default::default());
        for (number, bytes) in (1..).zip(BLOBS) {
            world.push_blob(&repository, bytes, number, &[1, 2]);
        }
        world.ok(names(&repository, &BLOBS[..1]));
        world.ok(names(&repository, &BLOBS[3..]));
        world.ok(came(names(&repository, &BLOBS[1..2]), 2));
        world.ok(came(names(&repository, &[BLOBS[3], BLOBS[1]]), 2));
        world.ok(came(names(&repository, &BLOBS[2..3]), 3));
        // what is named as nothing that has to be there was never shown to be its
        let foreign = vec![reference(BLOBS[0], ContentKind::Foreign)];
        world.ok(came(PutManifest { references: foreign, ..manifest(&repository, b"foreign") }, 2));
        (world, repository, RegionName::parse("eu").unwrap())
    }

    // A26, A27: a region may have what is sent to it, and of what it says it sends what it made; nothing once it is
    // removed, taken over from, or the rule is gone.
    #[test]
    fn what_a_region_may_have() {
        let (mut world, repository, eu) = world();
        let may = |world: &World| BLOBS.map(|bytes| may_have(&world.tables, &eu, &repository, &Digest::sha256(bytes)));
        let shared = |world: &World, name: &str| is_shared(&world.tables, &eu, &RepositoryName::parse(name).unwrap());
        assert_eq!((may(&world), shared(&world, "team/app")), ([false; 4], false));

        // its own word gives it what it made, whatever else it says it would send
        world.ok(offers("te"));
        assert_eq!(may(&world), [false, true, false, true]);
        assert!(shared(&world, "team/app") && shared(&world, "team/other") && !shared(&world, "other"));
        assert!(!may_have(&world.tables, &eu, &repository, &Digest::sha256(b"unheard of")));
        let another = RepositoryKey { id: crate::vocabulary::ids::RepositoryId(2), ..repository.clone() };
        assert!(!may_have(&world.tables, &eu, &another, &Digest::sha256(BLOBS[1])), "the name made anew");
        world.ok(offers("other/"));
        assert_eq!((may(&world), shared(&world, "team/app")), ([false; 4], false));

        // what is sent there it may have all of
        world.ok(sends_all("us"));
        assert_eq!(may(&world), [false; 4]);
        world.ok(sends_all("eu"));
        assert_eq!((may(&world), shared(&world, "team/app")), ([true; 4], true));
        world.ok(TakeOverRegion { number: 2, complete_ms: 0 });
        assert_eq!((may(&world), shared(&world, "team/app")), ([false; 4], false));
        world.ok(SetRegionLink { number: 2, is_paused: Some(false), bytes_per_second: None });
        assert_eq!(may(&world), [true; 4]);
        world.ok(PutReplicationRules { registry: RegistryId::DEFAULT, rules: vec![] });
        assert_eq!((may(&world), shared(&world, "team/app")), ([false; 4], false));
        world.ok(offers("team/"));
        assert_eq!(may(&world), [false, true, false, true]);
        world.ok(DeletePeer { number: 2 });
        assert_eq!((may(&world), shared(&world, "team/app")), ([false; 4], false));
        assert_eq!(region(&world.tables, &eu), None);
    }
}
