//! B9: whatever is pushed, deleted, dealt out and repeated, in whatever order its parts arrive, no limit is passed.
//! (That counters are what the rows say, the world checks after every entry.)

use proptest::prelude::*;
use registry_core::decide::quota::{Limits, Usage};
use registry_core::metadata::command::Command;
use registry_core::metadata::link::{self, Unlink};
use registry_core::metadata::manifest::{DeleteManifest, PutManifest};
use registry_core::metadata::quota::{self, RecallShares, SetRegistryQuota};
use registry_core::metadata::repository::{self, CreateRepository, DeleteRepository, RepositoryKey, Settings};
use registry_core::metadata::tag::DeleteTag;
use registry_core::metadata::testing::{self, World, push, repository_key, tags};
use registry_core::metadata::usage::{self, SetRepositoryQuota};
use registry_core::vocabulary::ids::RegistryId;
use registry_core::vocabulary::{Digest, Refusal};

const REGISTRY: RegistryId = RegistryId::DEFAULT;
const REPOSITORIES: u8 = 5;
const TAGS: [&str; 4] = ["a", "b", "c", "d"];

/// Five bytes decide one step.
type Choice = [u8; 5];

/// A run with what its limits allow.
struct Run {
    world: World,
    numbers: u64,
    /// Commands that were made of what was seen, and arrive later.
    late: Vec<Command>,
    accepted: usize,
    refused: usize,
}

fn fits(limit: Option<u64>, before: u64, now: u64) -> bool {
    limit.is_none_or(|limit| now <= limit.max(before))
}

impl Run {
    fn new() -> Run {
        let mut run = Run { world: World::region(&["a", "b"]), numbers: 10, late: Vec::new(), accepted: 0, refused: 0 };
        (0..REPOSITORIES).for_each(|number| run.make(number));
        run
    }

    fn make(&mut self, at: u8) {
        self.numbers += 1;
        let key = repository_key(&format!("team/app-{at}"), self.numbers.into());
        self.enter(vec![CreateRepository { key, settings: Settings::default(), must_be_new: false }.into()]);
    }

    /// A repository that is there, or was.
    fn repository(&self, at: u8) -> RepositoryKey {
        let key = repository_key(&format!("team/app-{}", at % REPOSITORIES), 0xdead);
        repository::find(&self.world.tables, REGISTRY, &key.name).map_or(key, |(key, _)| key)
    }

    /// What every limit is about, with what it says.
    fn held(&self) -> Vec<(Limits, Usage)> {
        let of = |at| usage::read(&self.world.tables, &self.repository(at));
        let each = (0..REPOSITORIES).map(of).map(|row| (row.limits, row.used));
        let limits = quota::read(&self.world.tables, REGISTRY).limits;
        let total = usage::of_registry(&self.world.tables, REGISTRY);
        let sum = (0..REPOSITORIES).map(of).fold(Usage::default(), |sum, row| sum.plus(row.used));
        assert_eq!(sum, total, "a registry holds what its repositories hold");
        each.chain([(limits, total)]).collect()
    }

    /// Nothing above its limit grows: what is above it was so when the limit was set.
    fn enter(&mut self, commands: Vec<Command>) -> Option<Refusal> {
        let before = self.held();
        let refusal = self.world.propose(commands).refusal;
        for ((_, before), (limits, now)) in before.iter().zip(self.held()) {
            let is_within = fits(limits.bytes, before.bytes, now.bytes) && fits(limits.tags, before.tags, now.tags);
            assert!(is_within, "{limits:?}: {before:?} became {now:?}");
        }
        refusal
    }

    /// A push as a node makes it: where the share is too small it calls a round and takes its grant together with what
    /// it pushes; the other grants come when they come, or never.
    fn pushed(&mut self, repository: &RepositoryKey, commands: Vec<Command>, luck: u8) {
        let mut refusal = self.enter(commands.clone());
        if let Some(Refusal::QuotaShare { bytes, tags }) = refusal {
            let wanted = Usage { bytes, tags };
            let round = quota::read(&self.world.tables, REGISTRY).round;
            self.enter(vec![RecallShares { registry: REGISTRY, round }.into()]);
            let grants = quota::grants(&self.world.tables, REGISTRY, round + 1, repository.slot(), wanted);
            let Ok(mut grants) = grants else {
                let total = usage::of_registry(&self.world.tables, REGISTRY).plus(wanted);
                let Limits { bytes, tags } = quota::read(&self.world.tables, REGISTRY).limits;
                let over = |limit: Option<u64>, total, wanted| wanted > 0 && limit.is_some_and(|limit| total > limit);
                assert!(over(bytes, total.bytes, wanted.bytes) || over(tags, total.tags, wanted.tags), "it fits");
                self.refused += 1;
                return;
            };
            let own: Command = grants.remove(0).into();
            if luck.is_multiple_of(5) {
                self.late.push(own);
                self.late.extend(commands);
            } else {
                refusal = self.enter(std::iter::once(own).chain(commands).collect());
                assert!(!matches!(refusal, Some(Refusal::QuotaShare { .. })), "the share was made for it");
            }
            self.late.extend(grants.into_iter().map(Command::from));
        }
        self.accepted += usize::from(refusal.is_none());
        self.refused += usize::from(refusal.is_some());
    }

    fn step(&mut self, [kind, one, two, three, luck]: Choice) {
        let repository = self.repository(one);
        let bytes = vec![two % 6; usize::from(three % 40) + 1];
        let limits = |base: u64| Limits {
            bytes: (two > 40).then(|| base * u64::from(three % 60)),
            tags: (three > 40).then(|| base * u64::from(two % 5)),
        };
        let digest = Digest::sha256(&bytes);
        match kind % 16 {
            0..=5 => {
                self.numbers += 1;
                let commands = push(&repository, &bytes, self.numbers, &[1, 2]);
                self.pushed(&repository, commands, luck);
            }
            6..=8 => {
                let names = &TAGS[..usize::from(luck) % (TAGS.len() + 1)];
                let put = PutManifest { tags: tags(names), ..testing::manifest(&repository, &bytes) };
                self.pushed(&repository, vec![put.into()], luck);
            }
            9 => drop(self.enter(vec![SetRepositoryQuota { repository, limits: limits(2) }.into()])),
            10 => drop(self.enter(vec![SetRegistryQuota { registry: REGISTRY, limits: limits(5) }.into()])),
            11 => drop(self.enter(vec![DeleteManifest { repository, digest }.into()])),
            12 => {
                let tag = tags(&[TAGS[usize::from(two) % TAGS.len()]]).remove(0);
                self.enter(vec![DeleteTag { repository, tag, expected: None }.into()]);
            }
            13 => {
                let hold = link::read(&self.world.tables, &repository, &digest).map(|row| row.hold);
                self.enter(hold.map(|hold| Unlink { repository, digest, hold }.into()).into_iter().collect());
            }
            14 if luck < 100 => {
                self.enter(vec![DeleteRepository { key: repository, force: true }.into()]);
                self.make(one % REPOSITORIES);
            }
            _ if !self.late.is_empty() => {
                let at = usize::from(two) % self.late.len();
                let command = self.late.swap_remove(at);
                self.enter(vec![command]);
            }
            _ => {}
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::with_cases(96) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn b9_no_limit_is_passed(choices in prop::collection::vec(any::<Choice>(), 1..150)) {
        let mut run = Run::new();
        choices.into_iter().for_each(|choice| run.step(choice));
    }
}

// The case as it was told: of 100 bytes 70, 90 and 20 want their part at once, in three repositories.
#[test]
fn b9_seventy_ninety_twenty() {
    for order in [[70, 90, 20], [90, 70, 20], [20, 90, 70], [20, 70, 90]] {
        let mut run = Run::new();
        let limits = Limits { bytes: Some(100), tags: None };
        run.enter(vec![SetRegistryQuota { registry: REGISTRY, limits }.into()]);
        for (at, size) in (0..).zip(order) {
            let repository = run.repository(at);
            let commands = push(&repository, &vec![at; size], u64::from(at) + 1, &[1, 2]);
            run.pushed(&repository, commands, 1);
        }
        let taken = order.iter().fold(0, |sum, size| if sum + size <= 100 { sum + size } else { sum });
        assert_eq!(usage::of_registry(&run.world.tables, REGISTRY), Usage::of_bytes(taken as u64), "{order:?}");
        assert_eq!(run.accepted + run.refused, 3);
    }
}
