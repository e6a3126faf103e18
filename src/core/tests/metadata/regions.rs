//! R8: two regions that write the same tags at once, told of each other's changes late, twice and in any order, come to
//! the same tags; of all of them, or of those that their rules send. So do their settings, and the home that one or the
//! other is meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;
use registry_core::decide::replication::compare::{Deletes, Drift, Register, Scope, Since, There, Verdict, judge};
use registry_core::decide::replication::rules::ReadThrough;
use registry_core::decide::replication::tags::{SentTags, TagScope};
use registry_core::decide::tag_move::{Mutability, TagFilter};
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster};
use registry_core::metadata::command::Command;
use registry_core::metadata::manifest::{DeleteManifest, PutManifest};
use registry_core::metadata::offer::{NoteOffer, OfferRow};
use registry_core::metadata::outbox::{self, Change, Event};
use registry_core::metadata::register;
use registry_core::metadata::remote::{
    self, DropRemoteManifest, DropRemoteTag, PutRemoteManifest, PutRemoteSettings, SetRemoteTag,
};
use registry_core::metadata::replication_rules::SentRow;
use registry_core::metadata::reply::Reply;
use registry_core::metadata::repository::{ChangeRepository, DeleteRepository, RepositoryKey, Settings};
use registry_core::metadata::settings::{self, Home, HomeWish, SetHome, SettingsRow};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{World, manifest, peer, reference, sends_all, tags};
use registry_core::vocabulary::ids::{ClusterId, Lineage};
use registry_core::vocabulary::manifest::ContentKind;
use registry_core::vocabulary::{Digest, Refusal, Tag, Version};

/// An act that moves the repository's home: the smallest takes it.
const TAKES: u8 = 7;
const TAGS: [&str; 2] = ["latest", "v1"];
const CONTENTS: [&[u8]; 3] = [b"one", b"two", b"three"];

/// Puts one of them; the last one is attached to the first.
fn content(repository: &RepositoryKey, bytes: &[u8]) -> PutManifest {
    let subject = (bytes == CONTENTS[2]).then(|| Digest::sha256(CONTENTS[0]));
    PutManifest { subject, ..manifest(repository, bytes) }
}

/// One of two regions.
struct Region {
    number: u16,
    /// Which tags its rule sends.
    sent: TagScope,
    world: World,
    repository: RepositoryKey,
    /// What it has been told of the other one's changes, not yet applied.
    inbox: Vec<Change>,
    /// Log index up to which its own changes were told.
    told: u64,
}

impl Region {
    fn new(number: u16, mutability: &Mutability, sent: &TagScope) -> Region {
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
        let mut rules = sends_all(&told);
        rules.rules[0].tags = sent.clone();
        rules.rules[0].settings = true;
        world.ok(rules);
        // the other one's rule says the same
        let (read_through, tags) = (ReadThrough::Off, sent.clone());
        let offered = SentRow { filters: vec![], read_through, transitive: false, settings: true, tags };
        world.ok(NoteOffer { number: other, offer: OfferRow(vec![offered]) });
        let settings = Settings { mutability: mutability.clone(), sparse: false };
        let repository = world.repository("r", u128::from(number), settings);
        Region { number, sent: sent.clone(), world, repository, inbox: Vec::new(), told: 0 }
    }

    /// An act of a user here; may be refused, as an immutable tag's is.
    fn act(&mut self, choice: u8) {
        let tag = tags(&[TAGS[usize::from(choice) % TAGS.len()]]);
        let bytes = CONTENTS[usize::from(choice / 2) % CONTENTS.len()];
        let command: Command = match choice % 6 {
            _ if choice % 16 == TAKES => {
                let wish = [HomeWish::Take, HomeWish::Freeze, HomeWish::Leave][usize::from(choice / 16) % 3];
                SetHome { repository: self.repository.clone(), wish, accepts_loss: choice >= 128 }.into()
            }
            5 => {
                let mutability = if choice % 4 < 2 { Mutability::Mutable } else { Mutability::Immutable };
                let settings = Settings { mutability, sparse: choice % 8 < 4 };
                ChangeRepository { key: self.repository.clone(), settings }.into()
            }
            0 => DeleteTag { repository: self.repository.clone(), tag: tag[0].clone(), expected: None }.into(),
            1 => DeleteManifest { repository: self.repository.clone(), digest: Digest::sha256(bytes) }.into(),
            _ => PutManifest { tags: tag, ..content(&self.repository, bytes) }.into(),
        };
        self.world.propose(vec![command]);
    }

    /// The changes that it made since it was asked last; what came from the other region is not sent back.
    fn tell(&mut self) -> Vec<Change> {
        let range = (self.told, self.world.index);
        self.told = self.world.index;
        let page = outbox::read(&self.world.tables, self.repository.slot(), range, None, usize::MAX);
        let sent = SentTags::from(self.sent.clone());
        let told = |Event { index, row, .. }: Event| {
            let is_own = row.change.version().region == self.number;
            is_own.then(|| outbox::sent(&self.world.tables, &self.repository, &sent, (index, row.change))).flatten()
        };
        page.events.into_iter().filter_map(told).collect()
    }

    /// Applies what it was told; a manifest comes before a tag that names it, as a transfer does it.
    fn hear(&mut self, change: &Change) {
        let repository = self.repository.clone();
        let here = |digest: Digest, presence: Version| {
            let bytes = CONTENTS.iter().find(|bytes| Digest::sha256(bytes) == digest).expect("there are three");
            PutRemoteManifest { put: content(&repository, bytes), presence }
        };
        match change.clone() {
            Change::ManifestHere { digest, presence } => drop(self.world.ok(here(digest, presence))),
            Change::TagSet { tag, digest, version, base, previous } => {
                let previous = Some(previous);
                self.world.ok(here(digest, version));
                self.world.ok(SetRemoteTag { repository, tag, digest, version, base, previous });
            }
            Change::TagGone { tag, version, previous } => {
                let previous = Some(previous);
                drop(self.world.ok(DropRemoteTag { repository, tag, version, base: None, previous }));
            }
            Change::ManifestGone { digest, version, is_attached, is_filtered } => {
                let (from, is_filtered) = (3 - self.number, is_filtered && !is_attached);
                self.world.ok(DropRemoteManifest { repository, digest, version, from, is_filtered });
            }
            Change::SettingsSet { settings, home, version } => {
                self.world.ok(PutRemoteSettings { repository, settings, home, version });
            }
        }
    }

    fn settings(&self) -> Option<SettingsRow> {
        settings::read(&self.world.tables, &self.repository)
    }

    /// Where the repository is written, and the epoch of what is made next.
    fn home(&self) -> (Home, u32) {
        let (tables, repository) = (&self.world.tables, &self.repository);
        (settings::home(tables, repository), settings::latest_epoch(tables, repository))
    }

    fn tags(&self) -> BTreeMap<Tag, (Digest, Version, Version)> {
        let rows = tag::list(&self.world.tables, &self.repository, None, usize::MAX).into_iter();
        let sent = rows.filter(|(tag, _)| self.sent.passes(tag));
        sent.map(|(tag, row)| (tag, (row.digest, row.version, row.base))).collect()
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

/// Why each register of one region that the other has a record of is there as it is; and whether their sums are equal.
fn compare(source: &Region, destination: &Region) -> (Vec<Verdict>, bool) {
    let since = Since { settings: Some(0), ..Since::default() };
    let tags: SentTags = source.sent.clone().into();
    let deletes = Deletes { since: Some(0), tags: tags.clone() };
    let scope = Scope { source: source.number, destination: destination.number, since, tags };
    let all = |region: &Region| register::page(&region.world.tables, &region.repository, &scope, None, usize::MAX).0;
    let (sent, taken) = (all(source), all(destination));
    let targets = sent.iter().map(|(register, record)| (register, Some(record.digest)));
    let registers: BTreeMap<&Register, Option<Digest>> =
        taken.iter().map(|(register, _)| (register, None)).chain(targets).collect();
    let verdict = |(register, target): (&Register, Option<Digest>)| {
        let there = register::there(&source.world.tables, &source.repository, &scope, register);
        let (tables, repository) = (&destination.world.tables, &destination.repository);
        let is_attached = register::is_attached(tables, repository, register);
        let is_followed = deletes.follow(register, &there, is_attached);
        judge(source.number, &there, &register::here(tables, repository, register, target.as_ref(), false), is_followed)
    };
    let sums = |region: &Region| register::sums(&region.world.tables, &region.repository, &scope);
    (registers.into_iter().map(verdict).collect(), sums(source) == sums(destination))
}

// What is attached to an image is renewed by an index that a filter keeps back, and is the same in both regions all the
// same; a tag that is kept back is not.
#[test]
fn an_index_that_stays_behind_renews() {
    let sent = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
    let mut regions = [1, 2].map(|number| Region::new(number, &Mutability::Mutable, &sent));
    let repository = regions[0].repository.clone();
    let put = |bytes: &[u8], names: &[&str]| PutManifest { tags: tags(names), ..content(&repository, bytes) };
    let [image, attached] = [CONTENTS[0], CONTENTS[2]];
    let references = [image, attached].map(|child| reference(child, ContentKind::Manifest)).to_vec();
    for put in [
        put(image, &["v1", "latest"]),
        put(attached, &[]),
        PutManifest { references, ..put(b"index", &["latest"]) },
        put(CONTENTS[1], &["latest"]),
    ] {
        regions[0].world.ok(put);
        settle(&mut regions);
    }
    let (verdicts, are_equal) = compare(&regions[0], &regions[1]);
    assert!(are_equal && verdicts.iter().all(|verdict| *verdict == Verdict::Same), "{verdicts:?}");
    let here = |bytes: &[u8]| {
        let register = Register::Manifest(Digest::sha256(bytes));
        register::record(&regions[1].world.tables, &regions[1].repository, &register).is_some()
    };
    assert_eq!([image, attached, CONTENTS[1], b"index"].map(here), [true, true, false, false]);
}

// What one region keeps back and deletes, the other one keeps, where it was pushed under a name that stays there; a tag
// that goes both ways ends in both.
#[test]
fn a_delete_of_what_stayed_behind() {
    let sent = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
    let mut regions = [1, 2].map(|number| Region::new(number, &Mutability::Mutable, &sent));
    let put =
        |region: &Region, names: &[&str]| PutManifest { tags: tags(names), ..content(&region.repository, b"one") };
    let (theirs, ours) = (put(&regions[1], &["latest", "v1"]), put(&regions[0], &["latest"]));
    regions[1].world.ok(theirs);
    // pushed later, and deleted before v1 is heard of
    regions[0].world.at_ms += 10;
    regions[0].world.ok(ours);
    let (repository, digest) = (regions[0].repository.clone(), Digest::sha256(b"one"));
    regions[0].world.ok(DeleteManifest { repository, digest });
    settle(&mut regions);
    let all = |region: &Region| {
        let rows = tag::list(&region.world.tables, &region.repository, None, usize::MAX);
        rows.into_iter().map(|(tag, _)| tag.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(regions.each_ref().map(all), [vec![], vec!["latest".to_owned()]]);
    for (source, destination) in [(0, 1), (1, 0)] {
        let (verdicts, _) = compare(&regions[source], &regions[destination]);
        let is_explained = |verdict: &Verdict| !matches!(verdict, Verdict::Drift(_) | Verdict::Ahead);
        assert!(verdicts.iter().all(is_explained), "{verdicts:?}");
    }
}

// A tag whose manifest was deleted in a third region, which only one of the two hears of, ends in the other one by a
// comparison: as it ended in the first, also where the manifest stays; and the next comparison finds nothing.
#[test]
fn a_tag_that_ended_is_mended_once() {
    let filter = TagScope::new([TagFilter::parse("v*").unwrap()], []).unwrap();
    for (mutability, sent) in [
        (Mutability::Mutable, &TagScope::ALL),
        (Mutability::Mutable, &filter),
        (Mutability::Immutable, &TagScope::ALL),
        (Mutability::Immutable, &filter),
    ] {
        let mut regions = [1, 2].map(|number| Region::new(number, &mutability, sent));
        let repository = regions[0].repository.clone();
        let put = |names: &[&str]| PutManifest { tags: tags(names), ..content(&repository, CONTENTS[0]) };
        regions[0].world.ok(put(&["v1"]));
        let (tag, digest) = (tags(&["v1"]).remove(0), Digest::sha256(CONTENTS[0]));
        let set = tag::read(&regions[0].world.tables, &repository, &tag).unwrap().version;
        regions[0].world.at_ms += 1000;
        regions[0].world.ok(put(&[]));
        settle(&mut regions);
        let version = Version { region: 3, hlc: set.hlc + 1, ..set };
        let drop = DropRemoteManifest { repository, digest, version, from: 3, is_filtered: false };
        regions[0].world.ok(drop);
        settle(&mut regions);
        let (verdicts, are_equal) = compare(&regions[0], &regions[1]);
        let drifts: Vec<&Verdict> = verdicts.iter().filter(|verdict| **verdict != Verdict::Same).collect();
        assert_eq!((drifts, are_equal), (vec![&Verdict::Drift(Drift::Extra)], false));

        let scope = Scope { source: 1, destination: 2, since: Since::default(), tags: SentTags::ALL };
        let there = {
            let Region { world, repository, .. } = &regions[0];
            register::there(&world.tables, repository, &scope, &Register::Tag(tag.clone()))
        };
        let There::Ended { version, base } = there else { panic!("{there:?}") };
        assert_eq!(version, set);
        let drop = |base| DropRemoteTag {
            repository: regions[1].repository.clone(),
            tag: tag.clone(),
            version,
            base,
            previous: None,
        };
        let (bad, drop) = (drop(Some(Version { hlc: version.hlc + 1, ..version })), drop(Some(base)));
        assert!(matches!(regions[1].world.refused(bad), Refusal::ParameterInvalid { .. }));
        assert!(matches!(regions[1].world.ok(drop.clone()), Reply::Deleted { tags } if tags.len() == 1));
        assert_eq!(regions[1].world.ok(drop), Reply::Superseded);
        settle(&mut regions);
        let (verdicts, are_equal) = compare(&regions[0], &regions[1]);
        assert!(are_equal && verdicts.iter().all(|verdict| *verdict == Verdict::Same), "{verdicts:?}");
        let ranks = regions.each_ref().map(|region| remote::tag_rank(&region.world.tables, &region.repository, &tag));
        assert_eq!(ranks[0], ranks[1], "what comes later is judged the same in both");
    }
}

// A home is heard of in the other region, and what is taken of it there while the first one goes on wins; a clock that
// is ahead changes nothing about it.
#[test]
fn homes_come_to_the_same() {
    let mut regions = [1, 2].map(|number| Region::new(number, &Mutability::Mutable, &TagScope::ALL));
    regions[0].act(TAKES);
    settle(&mut regions);
    let is_home = |region: &Region, name: &str, epoch: u32| {
        let (home, latest) = region.home();
        home.region.is_some_and(|region| region.as_str() == name) && (home.epoch, latest) == (epoch, epoch)
    };
    assert!(regions.iter().all(|region| is_home(region, "r1", 1)));
    let set = |region: &Region, bytes: &[u8]| PutManifest { tags: tags(&["v1"]), ..content(&region.repository, bytes) };
    let (theirs, ours) = (set(&regions[1], CONTENTS[0]), set(&regions[0], CONTENTS[1]));
    assert!(matches!(regions[1].world.refused(theirs.clone()), Refusal::HomeElsewhere { .. }));
    // the same act, at a loss
    regions[1].act(9 * 16 + TAKES);
    regions[1].world.ok(theirs);
    regions[0].world.at_ms += 1000;
    regions[0].world.ok(ours);
    settle(&mut regions);
    assert!(regions.iter().all(|region| is_home(region, "r2", 2)));
    let named = |region: &Region| region.tags().into_values().map(|(digest, ..)| digest).collect::<Vec<_>>();
    assert_eq!(regions.each_ref().map(named), [(); 2].map(|()| vec![Digest::sha256(CONTENTS[0])]));
}

// A repository that is deleted and made again outside its home keeps that, and does not take it from the other region;
// what its home has set comes again, by a comparison or with the next change.
#[test]
fn made_again_it_has_its_home() {
    let mut regions = [1, 2].map(|number| Region::new(number, &Mutability::Mutable, &TagScope::ALL));
    regions[0].act(TAKES);
    settle(&mut regions);
    regions[1].world.at_ms += 1000;
    regions[1].world.ok(DeleteRepository { key: regions[1].repository.clone(), force: true });
    let settings = Settings { mutability: Mutability::Immutable, sparse: false };
    regions[1].repository = regions[1].world.repository("r", 22, settings);
    settle(&mut regions);
    let is_home = |region: &Region| region.home().0.region.is_some_and(|home| home.as_str() == "r1");
    assert!(regions.iter().all(is_home));
    let push = content(&regions[1].repository, CONTENTS[0]);
    assert!(matches!(regions[1].world.refused(push), Refusal::HomeElsewhere { .. }));
    let (verdicts, _) = compare(&regions[0], &regions[1]);
    assert_eq!(verdicts, [Verdict::Drift(Drift::Missing)], "it would be brought");
    let settings = Settings { sparse: true, ..Settings::default() };
    let key = regions[0].repository.clone();
    regions[0].world.ok(ChangeRepository { key, settings });
    settle(&mut regions);
    assert_eq!(regions[0].settings(), regions[1].settings());
    assert!(regions.iter().all(is_home));
    assert_eq!(compare(&regions[0], &regions[1]), (vec![Verdict::Same], true));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn r8_both_come_to_the_same(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..40),
        is_fixed in any::<bool>(),
        is_filtered in any::<bool>(),
        skew_ms in 0..50u64,
    ) {
        let mutability = if is_fixed { Mutability::Immutable } else { Mutability::Mutable };
        let filter = is_filtered.then(|| TagFilter::parse("v*").unwrap());
        let sent = TagScope::new(filter, []).unwrap();
        let mut regions = [1, 2].map(|number| Region::new(number, &mutability, &sent));
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
        prop_assert_eq!(regions[0].settings(), regions[1].settings());
        let homes = regions.each_ref().map(Region::home);
        prop_assert_eq!(&homes[0], &homes[1]);
        prop_assert!(homes[0].0.epoch <= homes[0].1, "{:?}", homes[0]);
        for region in &regions {
            let tags = TAGS.map(|tag| Register::Tag(tags(&[tag]).remove(0)));
            let is_proven = |tag: &Register| register::is_proven(&region.world.tables, &region.repository, tag);
            prop_assert!(tags.iter().all(is_proven));
        }
        for (source, destination) in [(0, 1), (1, 0)] {
            let (verdicts, are_equal) = compare(&regions[source], &regions[destination]);
            let is_explained = |verdict: &Verdict| !matches!(verdict, Verdict::Drift(_) | Verdict::Ahead);
            prop_assert!(verdicts.iter().all(is_explained), "{:?}", verdicts);
            prop_assert!(are_equal || verdicts.iter().any(|verdict| *verdict != Verdict::Same));
        }
    }
}
