//! R8: two regions that write the same tags at once, told of each other's changes late, twice and in any order, come to
//! the same tags.

use std::collections::BTreeMap;

use proptest::prelude::*;
use registry_core::decide::tag_move::Mutability;
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster};
use registry_core::metadata::command::Command;
use registry_core::metadata::manifest::PutManifest;
use registry_core::metadata::outbox::{self, Change, Event};
use registry_core::metadata::remote::{DropRemoteTag, PutRemoteManifest, SetRemoteTag};
use registry_core::metadata::repository::{RepositoryKey, Settings};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{World, manifest, peer, sends_all, tags};
use registry_core::vocabulary::ids::{ClusterId, Lineage};
use registry_core::vocabulary::{Digest, Tag, Version};

const TAGS: [&str; 2] = ["latest", "v1"];
const CONTENTS: [&[u8]; 3] = [b"one", b"two", b"three"];

/// One of two regions.
struct Region {
    world: World,
    repository: RepositoryKey,
    /// What it has been told of the other one's changes, not yet applied.
    inbox: Vec<Change>,
    /// Log index up to which its own changes were told.
    told: u64,
}

impl Region {
    fn new(number: u16, mutability: &Mutability) -> Region {
        let mut world = World::empty();
        world.ok(InitCluster {
            cluster: ClusterId(u128::from(number)),
            lineage: Lineage(1),
            region: format!("r{number}"),
            region_number: number,
            token_secret: [1; 32],
            tick_ms: 1000,
            feature_level: FEATURE_LEVEL,
        });
        let other = 3 - number;
        let told = format!("r{other}");
        world.ok(peer(other, &told));
        world.ok(sends_all(&told));
        let settings = Settings { mutability: mutability.clone(), sparse: false };
        let repository = world.repository("r", u128::from(number), settings);
        Region { world, repository, inbox: Vec::new(), told: 0 }
    }

    /// An act of a user here; may be refused, as an immutable tag's is.
    fn act(&mut self, choice: u8) {
        let tag = tags(&[TAGS[usize::from(choice) % TAGS.len()]]);
        let bytes = CONTENTS[usize::from(choice / 2) % CONTENTS.len()];
        let command: Command = match choice % 5 {
            0 => DeleteTag { repository: self.repository.clone(), tag: tag[0].clone(), expected: None }.into(),
            _ => PutManifest { tags: tag, ..manifest(&self.repository, bytes) }.into(),
        };
        self.world.propose(vec![command]);
    }

    /// Its changes since it was asked last.
    fn tell(&mut self) -> Vec<Change> {
        let range = (self.told, self.world.index);
        self.told = self.world.index;
        let page = outbox::read(&self.world.tables, self.repository.slot(), range, None, usize::MAX);
        let own = page.events.into_iter().map(|Event { row, .. }| row.change);
        own.collect()
    }

    /// Applies what it was told; a manifest comes before a tag that names it, as a transfer does it.
    fn hear(&mut self, change: &Change) {
        let repository = self.repository.clone();
        let here = |digest: Digest, presence: Version| {
            let bytes = CONTENTS.iter().find(|bytes| Digest::sha256(bytes) == digest).expect("there are three");
            PutRemoteManifest { put: manifest(&repository, bytes), presence }
        };
        match change.clone() {
            Change::ManifestHere { digest, presence } => drop(self.world.ok(here(digest, presence))),
            Change::TagSet { tag, digest, version, base } => {
                self.world.ok(here(digest, version));
                self.world.ok(SetRemoteTag { repository, tag, digest, version, base });
            }
            Change::TagGone { tag, version } => drop(self.world.ok(DropRemoteTag { repository, tag, version })),
            Change::ManifestGone { .. } => {}
        }
    }

    fn tags(&self) -> BTreeMap<Tag, (Digest, Version, Version)> {
        let rows = tag::list(&self.world.tables, &self.repository, None, usize::MAX);
        rows.into_iter().map(|(tag, row)| (tag, (row.digest, row.version, row.base))).collect()
    }
}

/// Both tell, and hear until there is nothing left.
fn settle(regions: &mut [Region; 2]) {
    for _ in 0..4 {
        for at in 0..2 {
            let told = regions[at].tell();
            regions[1 - at].inbox.extend(told);
        }
        for region in regions.iter_mut() {
            for change in std::mem::take(&mut region.inbox) {
                region.hear(&change);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn r8_both_come_to_the_same(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..40),
        is_fixed in any::<bool>(),
        skew_ms in 0..50u64,
    ) {
        let mutability = if is_fixed { Mutability::Immutable } else { Mutability::Mutable };
        let mut regions = [Region::new(1, &mutability), Region::new(2, &mutability)];
        // one clock runs ahead
        regions[1].world.at_ms += skew_ms;
        for (kind, choice, at) in steps {
            let here = usize::from(choice % 2);
            match kind % 4 {
                0 => {
                    let told = regions[here].tell();
                    regions[1 - here].inbox.extend(told);
                }
                1 if !regions[here].inbox.is_empty() => {
                    // out of order, and kept to come once more
                    let change = regions[here].inbox[usize::from(at) % regions[here].inbox.len()].clone();
                    regions[here].hear(&change);
                }
                _ => regions[here].act(at),
            }
        }
        settle(&mut regions);
        prop_assert_eq!(regions[0].tags(), regions[1].tags());
    }
}
