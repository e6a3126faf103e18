//! What rules of replication would copy of what is there now, before anybody sets them.
//!
//! Counted step by step, a bounded number of records each, so that no view is held for long; pushes may go on
//! meanwhile. What came from other regions counts where a rule sends that on. Where a rule sends some tags only, a
//! manifest counts if one of them leads to it.

use std::collections::{BTreeMap, VecDeque};

use super::above;
use super::clock;
use super::cluster;
use super::command::Command;
use super::manifest::{self, ManifestRow};
use super::outbox;
use super::peer;
use super::register;
use super::replication_rules::{self, PutReplicationRules, RulesRow};
use super::repository::{self, RepositoryKey};
use super::tables::TablesRead;
use crate::decide::replication::compare::{Register, Scope, Since};
use crate::decide::replication::rules::Rule;
use crate::decide::replication::tags::SentTags;
use crate::vocabulary::digest::Digest;
use crate::vocabulary::ids::RegistryId;
use crate::vocabulary::limits::{
    CLOCK_AHEAD_MS_MAX, DRY_RUN_BLOBS_MAX, DRY_RUN_LISTED_MAX, REPLICATION_DESTINATIONS_MAX,
};
use crate::vocabulary::manifest::{ContentKind, Referenced};
use crate::vocabulary::names::RegionName;
use crate::vocabulary::refusal::Refusal;
use crate::vocabulary::repository_name::RepositoryName;

/// Repositories found in one step.
const STEP_REPOSITORIES: usize = 512;
/// Records counted in one step.
const STEP_RECORDS: usize = 1024;
/// The same where the tags above each manifest are looked at.
const STEP_FILTERED: usize = 64;

/// Destinations are bits of a word.
type Bits = u64;
const _: () = assert!(2 * REPLICATION_DESTINATIONS_MAX <= Bits::BITS as usize);

/// What of a repository, or of all of them, is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Manifests.
    pub manifests: u64,
    /// Tags.
    pub tags: u64,
    /// Bytes of these manifests, and of the blobs that they name.
    pub bytes: u64,
}

/// What becomes of a repository with the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent, as it is by the rules that stand.
    GoesOn,
    /// It is sent from then on.
    Begins,
    /// It is not sent any more. What was sent stays there.
    Ends,
}

/// A repository that the rules, or those that stand, send to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: RepositoryName,
    /// What becomes of it.
    pub fate: Fate,
    /// Manifests there are; of one that ends none are counted.
    pub manifests: u64,
    /// Tags there are.
    pub tags: u64,
}

/// What the rules come to for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Where.
    pub region: RegionName,
    /// Repositories that the rules send there.
    pub repositories: u64,
    /// Of these, those that the rules that stand do not.
    pub beginning: u64,
    /// Repositories that are not sent there any more.
    pub ending: u64,
    /// Sent by the rules that stand: there, or on its way. A blob that is among it costs nothing again.
    pub standing: Amount,
    /// Copied by the rules in addition, because they say backfill.
    pub added: Amount,
    /// There before the rules: comes only with backfill.
    pub left: Amount,
    /// The first repositories, by name.
    pub listed: Vec<Listed>,
}

/// Which of a destination's amounts something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Standing,
    Added,
    Left,
}

impl Counted {
    fn part(&mut self, part: Part) -> &mut Amount {
        match part {
            Part::Standing => &mut self.standing,
            Part::Added => &mut self.added,
            Part::Left => &mut self.left,
        }
    }
}

/// A blob, and the destinations that something names it for.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    size_bytes: u64,
    standing: Bits,
    added: Bits,
    left: Bits,
}

impl Seen {
    fn bits(&mut self, part: Part) -> &mut Bits {
        match part {
            Part::Standing => &mut self.standing,
            Part::Added => &mut self.added,
            Part::Left => &mut self.left,
        }
    }
}

/// What is sent of a repository to a destination.
#[derive(Clone, Debug)]
struct Scopes {
    /// By the rules that stand.
    before: Option<Scope>,
    /// By those that are tried.
    after: Option<Scope>,
    /// The same, without regard to when records were made.
    whenever: Option<Scope>,
    /// What was counted of it.
    amount: Amount,
}

/// A repository that is being counted.
#[derive(Clone, Debug)]
struct Open {
    name: RepositoryName,
    /// For each destination.
    scopes: Vec<Scopes>,
    /// Behind which record.
    after: Option<Register>,
}

/// A count under way.
#[derive(Debug)]
pub struct DryRun {
    registry: RegistryId,
    /// This region's number, and those of the destinations.
    own: u16,
    numbers: Vec<u16>,
    before: RulesRow,
    after: RulesRow,
    counted: Vec<Counted>,
    /// By XXH3-64 of the digest.
    seen: BTreeMap<u64, Seen>,
    blobs_max: usize,
    is_at_most: bool,
    /// No more repositories are listed.
    is_cut: bool,
    waiting: VecDeque<RepositoryName>,
    last: Option<RepositoryName>,
    open: Option<Open>,
}

impl DryRun {
    /// Checks rules as setting them does, and begins to count.
    pub fn begin(tables: &impl TablesRead, registry: RegistryId, rules: Vec<Rule>) -> Result<DryRun, Refusal> {
        let row = cluster::read(tables);
        let put = PutReplicationRules { registry, rules };
        let (level, wanted) = (row.as_ref().map_or(1, |row| row.feature_level), Command::from(put.clone()).level());
        if wanted > level {
            return Err(Refusal::FeatureLevel { level: level.into() });
        }
        replication_rules::check(tables, registry, &put.rules)?;
        let before = replication_rules::read(tables, registry);
        // a slot's time may be ahead of the clock: all that is there is older than the rules
        let since_ms = clock::read(tables).now_ms.saturating_add(CLOCK_AHEAD_MS_MAX);
        let seen = outbox::seen_by_all(tables, registry);
        let after = replication_rules::stand(&before, put.rules, (u64::MAX - 1, since_ms), seen)?;
        let all = [&before, &after].into_iter().flat_map(|row| &row.0).flat_map(|standing| &standing.rule.destinations);
        let mut regions: Vec<RegionName> = all.map(|to| to.region.clone()).collect();
        regions.sort_unstable();
        regions.dedup();
        let own = row.map_or(0, |row| row.region_number);
        // to one that is not known any more nothing is sent
        let number = |region: &RegionName| peer::named(tables, region).map_or(own, |(number, _)| number);
        Ok(DryRun {
            registry,
            own,
            numbers: regions.iter().map(number).collect(),
            before,
            after,
            counted: regions.into_iter().map(Counted::nothing).collect(),
            seen: BTreeMap::new(),
            blobs_max: DRY_RUN_BLOBS_MAX,
            is_at_most: false,
            is_cut: false,
            waiting: VecDeque::new(),
            last: None,
            open: None,
        })
    }

    /// Counts on; false when all is counted.
    pub fn step(&mut self, tables: &impl TablesRead) -> bool {
        if let Some(open) = self.open.take() {
            self.count(tables, open);
            return true;
        }
        if let Some(name) = self.waiting.pop_front() {
            self.enter(name);
            return true;
        }
        let (before, after, counted) = (&self.before, &self.after, &self.counted);
        let is_sent = |name: &RepositoryName| {
            counted.iter().any(|to| before.serves(name, &to.region) || after.serves(name, &to.region))
        };
        let last = self.last.as_ref().map(RepositoryName::as_str);
        // no more names are read than these, whether anything is sent of them or not
        let names = repository::list(tables, self.registry, last, STEP_REPOSITORIES, |_| true);
        self.last = names.last().cloned();
        self.waiting = names.into_iter().filter(is_sent).collect();
        self.last.is_some()
    }

    /// Begins a repository.
    fn enter(&mut self, name: RepositoryName) {
        let own = self.own;
        let scope = |rules: &RulesRow, to: &Counted, number| rules.scope(&name, &to.region, (own, number), u64::MAX);
        let scopes = |(to, number): (&Counted, &u16)| {
            let (before, after) = (scope(&self.before, to, *number), scope(&self.after, to, *number));
            Scopes { whenever: after.as_ref().map(whenever), before, after, amount: Amount::default() }
        };
        let scopes = self.counted.iter().zip(&self.numbers).map(scopes).collect();
        self.open = Some(Open { name, scopes, after: None });
    }

    /// The next records of a repository.
    fn count(&mut self, tables: &impl TablesRead, mut open: Open) {
        // whoever made it
        let (source, destination, since) = (self.own, self.own, FROM_THE_BEGINNING);
        let all = Scope { source, destination, since, tags: SentTags::ALL };
        let found = repository::find(tables, self.registry, &open.name);
        let limit = if open.scopes.iter().any(Scopes::has_filter) { STEP_FILTERED } else { STEP_RECORDS };
        let (records, rest) = match &found {
            Some((key, _)) if open.scopes.iter().any(|scopes| scopes.after.is_some()) => {
                register::page(tables, key, &all, open.after.as_ref(), limit)
            }
            Some(_) | None => (Vec::new(), None),
        };
        for (register, record) in records {
            match (&register, &found) {
                (Register::Manifest(digest), Some((key, _))) => self.count_manifest(tables, key, digest, &mut open),
                (Register::Tag(tag), _) => {
                    let parts = open.parts(|scope| scope.covers_tag(tag, record.version));
                    self.add(&mut open, &parts, Amount { manifests: 0, tags: 1, bytes: 0 });
                }
                (Register::Manifest(_) | Register::Settings, _) => {}
            }
        }
        open.after = rest;
        if open.after.is_some() {
            self.open = Some(open);
        } else if found.is_some() {
            self.close(&open);
        }
    }

    fn count_manifest(
        &mut self,
        tables: &impl TablesRead,
        repository: &RepositoryKey,
        digest: &Digest,
        open: &mut Open,
    ) {
        let Some(row) = manifest::read(tables, repository, digest) else { return };
        let parts = match open.scopes.iter().any(Scopes::has_filter) {
            true => self.led_to(tables, repository, (digest, &row), open),
            false => open.parts(|scope| scope.covers_version(row.presence)),
        };
        if parts.is_empty() {
            return;
        }
        let named = manifest::references(tables, repository, digest);
        named.iter().filter(|named| named.kind == ContentKind::Blob).for_each(|blob| self.see(blob, &parts));
        self.add(open, &parts, Amount { manifests: 1, tags: 0, bytes: row.size_bytes });
    }

    /// Where a manifest counts because of the tags above it.
    fn led_to(
        &mut self,
        tables: &impl TablesRead,
        repository: &RepositoryKey,
        (digest, row): (&Digest, &ManifestRow),
        open: &Open,
    ) -> Vec<(usize, Part)> {
        let above = above::read(tables, repository, digest);
        self.is_at_most |= above.is_cut();
        open.parts(|scope| above.are_in(scope, row))
    }

    fn add(&mut self, open: &mut Open, parts: &[(usize, Part)], amount: Amount) {
        self.add_bytes(parts, amount);
        parts.iter().for_each(|(to, _)| open.scopes[*to].amount.add(amount));
    }

    fn add_bytes(&mut self, parts: &[(usize, Part)], amount: Amount) {
        for (to, part) in parts {
            self.counted[*to].part(*part).add(amount);
        }
    }

    /// A blob that a manifest of these destinations names.
    fn see(&mut self, blob: &Referenced, parts: &[(usize, Part)]) {
        let key = key(&blob.digest);
        if !self.seen.contains_key(&key) && self.seen.len() >= self.blobs_max {
            self.is_at_most = true;
            return self.add_bytes(parts, Amount { manifests: 0, tags: 0, bytes: blob.size_bytes });
        }
        let seen = self.seen.entry(key).or_default();
        seen.size_bytes = blob.size_bytes;
        for (to, part) in parts {
            *seen.bits(*part) |= 1 << to;
        }
    }

    /// A repository is counted. It is listed for all its destinations, or for none.
    fn close(&mut self, open: &Open) {
        let listed: usize = self.counted.iter().map(|to| to.listed.len()).sum();
        let is_of = |scopes: &&Scopes| scopes.before.is_some() || scopes.after.is_some();
        self.is_cut |= listed + open.scopes.iter().filter(is_of).count() > DRY_RUN_LISTED_MAX;
        for (to, scopes) in self.counted.iter_mut().zip(&open.scopes) {
            let Amount { manifests, tags, .. } = scopes.amount;
            let fate = match (&scopes.before, &scopes.after) {
                (None, None) => continue,
                (Some(_), None) => Fate::Ends,
                (None, Some(_)) => Fate::Begins,
                (Some(_), Some(_)) => Fate::GoesOn,
            };
            to.repositories += u64::from(fate != Fate::Ends);
            to.beginning += u64::from(fate == Fate::Begins);
            to.ending += u64::from(fate == Fate::Ends);
            if !self.is_cut {
                to.listed.push(Listed { name: open.name.clone(), fate, manifests, tags });
            }
        }
    }

    /// What was counted, and whether bytes of some blobs may have been counted more than once for a destination: there
    /// were more blobs than can be told apart.
    pub fn counted(mut self) -> (Vec<Counted>, bool) {
        for seen in self.seen.values() {
            for (to, counted) in self.counted.iter_mut().enumerate() {
                let is_in = |bits: Bits| bits & (1 << to) != 0;
                let part = match () {
                    () if is_in(seen.standing) => Part::Standing,
                    () if is_in(seen.added) => Part::Added,
                    () if is_in(seen.left) => Part::Left,
                    () => continue,
                };
                counted.part(part).bytes += seen.size_bytes;
            }
        }
        (self.counted, self.is_at_most)
    }
}

impl Counted {
    fn nothing(region: RegionName) -> Counted {
        let [standing, added, left] = [Amount::default(); 3];
        Counted { region, repositories: 0, beginning: 0, ending: 0, standing, added, left, listed: Vec::new() }
    }
}

impl Amount {
    fn add(&mut self, other: Amount) {
        self.manifests += other.manifests;
        self.tags += other.tags;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

const FROM_THE_BEGINNING: Since = Since { own: 0, others: Some(0), settings: None };

/// The same, without regard to when records were made.
fn whenever(scope: &Scope) -> Scope {
    let since = Since { others: scope.since.others.and(FROM_THE_BEGINNING.others), ..FROM_THE_BEGINNING };
    Scope { since, tags: scope.tags.now.clone().into(), ..scope.clone() }
}

impl Scopes {
    fn has_filter(&self) -> bool {
        [&self.before, &self.after].into_iter().flatten().any(|scope| !scope.tags.is_all())
    }
}

impl Open {
    /// Where something counts, and as what. `covers`: it is in a scope.
    fn parts(&self, covers: impl Fn(&Scope) -> bool) -> Vec<(usize, Part)> {
        let is_in = |scope: &Option<Scope>| scope.as_ref().is_some_and(&covers);
        let part = |(to, scopes): (usize, &Scopes)| {
            let part = match () {
                () if !is_in(&scopes.whenever) => return None,
                () if is_in(&scopes.before) => Part::Standing,
                () if is_in(&scopes.after) => Part::Added,
                () => Part::Left,
            };
            Some((to, part))
        };
        self.scopes.iter().enumerate().filter_map(part).collect()
    }
}

fn key(digest: &Digest) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&digest.key_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::replication::rules::{Destination, Prefix};
    use crate::decide::replication::tags::TagScope;
    use crate::decide::tag_move::TagFilter;
    use crate::metadata::manifest::PutManifest;
    use crate::metadata::testing::{World, manifest as manifest_of, peer, reference, tags};
    use crate::metadata::upgrade;

    const REGISTRY: RegistryId = RegistryId::DEFAULT;

    fn rule(to: &[&str], filter: &str, backfill: bool) -> Rule {
        let to = to.iter().map(|text| RegionName::parse(text).unwrap());
        let destinations = to.map(|region| Destination { region, registry: REGISTRY }).collect();
        let filters = vec![Prefix::parse(filter).unwrap()];
        Rule { backfill, ..Rule::plain(destinations, filters) }
    }

    fn put(world: &mut World, repository: &RepositoryKey, bytes: &[u8], name: &str, layers: &[&[u8]]) {
        let references = layers.iter().map(|layer| reference(layer, ContentKind::Blob)).collect();
        world.ok(PutManifest { tags: tags(&[name]), references, ..manifest_of(repository, bytes) });
    }

    fn world() -> (World, [RepositoryKey; 3]) {
        let mut world = World::region(&["a"]);
        for (number, region) in [(2, "eu"), (3, "us")] {
            world.ok(peer(number, region));
        }
        let repositories = [("prod/a", 1), ("team/a", 2), ("team/b", 3)]
            .map(|(name, number)| world.repository(name, number, Default::default()));
        let mut number = 0;
        for repository in &repositories {
            for layer in [&b"shared"[..], b"own of a", b"newer"] {
                number += 1;
                world.push_blob(repository, layer, number, &[1]);
            }
        }
        (world, repositories)
    }

    fn run(world: &World, rules: &[Rule], blobs_max: usize) -> (Vec<Counted>, bool) {
        let mut run = DryRun::begin(&world.tables, REGISTRY, rules.to_vec()).unwrap();
        run.blobs_max = blobs_max;
        while run.step(&world.tables) {}
        run.counted()
    }

    fn counted(world: &World, rules: &[Rule]) -> Vec<Counted> {
        let (counted, is_at_most) = run(world, rules, DRY_RUN_BLOBS_MAX);
        assert!(!is_at_most);
        counted
    }

    fn amount(manifests: u64, tags: u64, bytes: u64) -> Amount {
        Amount { manifests, tags, bytes }
    }

    fn manifest_bytes(world: &World, repository: &RepositoryKey, bytes: &[u8]) -> u64 {
        manifest::read(&world.tables, repository, &Digest::sha256(bytes)).unwrap().size_bytes
    }

    // What is there comes only with backfill; with it, each blob counts once for a destination, however many
    // repositories name it; what the rules that stand have sent costs nothing again.
    #[test]
    fn what_rules_would_send() {
        let (mut world, [prod, a, b]) = world();
        put(&mut world, &a, b"one", "v1", &[b"shared", b"own of a"]);
        put(&mut world, &b, b"two", "v1", &[b"shared"]);
        put(&mut world, &prod, b"three", "v1", &[b"shared"]);
        let size = |layers: &[&[u8]]| layers.iter().map(|layer| layer.len() as u64).sum::<u64>();
        let bytes = manifest_bytes(&world, &a, b"one") + manifest_bytes(&world, &b, b"two");
        let there = amount(2, 2, bytes + size(&[b"shared", b"own of a"]));

        let [eu] = &counted(&world, &[rule(&["eu"], "team/", false)])[..] else { panic!("one destination") };
        assert_eq!((eu.repositories, eu.beginning, eu.ending), (2, 2, 0));
        assert_eq!([eu.standing, eu.added, eu.left], [amount(0, 0, 0), amount(0, 0, 0), there]);
        let [eu] = &counted(&world, &[rule(&["eu"], "team/", true)])[..] else { panic!("one destination") };
        assert_eq!([eu.standing, eu.added, eu.left], [amount(0, 0, 0), there, amount(0, 0, 0)]);

        world.ok(PutReplicationRules { registry: REGISTRY, rules: vec![rule(&["eu"], "team/a", false)] });
        world.pass(1);
        put(&mut world, &a, b"four", "v2", &[b"shared", b"newer"]);
        let sent = amount(1, 1, manifest_bytes(&world, &a, b"four") + size(&[b"shared", b"newer"]));
        // the rule that stands stays, and another one is added for another region
        let both = [rule(&["eu"], "team/a", false), rule(&["eu", "us"], "team/", true)];
        let [eu, us] = &counted(&world, &both)[..] else { panic!("two destinations") };
        assert_eq!((eu.repositories, eu.beginning, eu.ending), (2, 1, 0));
        assert_eq!([eu.standing, eu.left], [sent, amount(0, 0, 0)]);
        assert_eq!(eu.added, amount(2, 2, bytes + size(&[b"own of a"])), "the shared layer is there");
        let all = bytes + manifest_bytes(&world, &a, b"four") + size(&[b"shared", b"own of a", b"newer"]);
        assert_eq!([us.standing, us.added], [amount(0, 0, 0), amount(3, 3, all)]);
        let listed =
            |name: &RepositoryKey, fate, manifests, tags| Listed { name: name.name.clone(), fate, manifests, tags };
        assert_eq!(eu.listed, [listed(&a, Fate::GoesOn, 2, 2), listed(&b, Fate::Begins, 1, 1)]);

        // what is not sent any more is told
        let [eu] = &counted(&world, &[rule(&["eu"], "prod/", false)])[..] else { panic!("one destination") };
        assert_eq!((eu.repositories, eu.beginning, eu.ending, eu.left.manifests), (1, 1, 1, 1));
        assert_eq!(eu.listed, [listed(&prod, Fate::Begins, 1, 1), listed(&a, Fate::Ends, 0, 0)]);
        assert!(counted(&world, &[])[0].ending == 1);
    }

    // With a filter counts what the tags lead to that pass, with what is below it, and what is attached to other
    // manifests; as sent already what the filter that stands has let through.
    #[test]
    fn some_tags() {
        let (mut world, [_, a, b]) = world();
        let child = |bytes: &[u8]| vec![reference(bytes, ContentKind::Manifest)];
        put(&mut world, &a, b"amd64", "amd64", &[b"shared"]);
        world.ok(PutManifest { tags: tags(&["v1"]), references: child(b"amd64"), ..manifest_of(&a, b"index") });
        put(&mut world, &a, b"other", "v2-rc1", &[b"shared", b"own of a"]);
        let subject = Some(Digest::sha256(b"other"));
        let layer = vec![reference(b"newer", ContentKind::Blob)];
        world.ok(PutManifest { subject, references: layer, ..manifest_of(&a, b"signature") });
        put(&mut world, &b, b"loose", "dev", &[b"own of a"]);
        let filter = |text: &str| TagFilter::parse(text).unwrap();
        let tags_of = |include: &str| TagScope::new([filter(include)], [filter("*-rc*")]).unwrap();
        let with = |include: &str| Rule { tags: tags_of(include), ..rule(&["eu"], "team/", true) };
        let size = |of: &[&[u8]]| of.iter().map(|bytes| bytes.len() as u64).sum::<u64>();

        let [eu] = &counted(&world, &[with("v*")])[..] else { panic!("one destination") };
        let image = size(&[b"amd64", b"index", b"shared"]);
        assert_eq!(eu.added, amount(3, 1, image + size(&[b"signature", b"newer"])));
        let listed =
            |of: &RepositoryKey, manifests, tags| Listed { name: of.name.clone(), fate: Fate::Begins, manifests, tags };
        assert_eq!(eu.listed, [listed(&a, 3, 1), listed(&b, 0, 0)]);
        // another destination counts its own
        let all = [with("v*"), rule(&["us"], "team/a", true)];
        let [eu, us] = &counted(&world, &all)[..] else { panic!("two destinations") };
        assert_eq!((eu.added.manifests, eu.listed[0].clone()), (3, listed(&a, 3, 1)));
        assert_eq!((us.added.manifests, &us.listed[..]), (4, &[listed(&a, 4, 3)][..]));

        world.ok(PutReplicationRules { registry: REGISTRY, rules: vec![with("v*")] });
        world.pass(1);
        put(&mut world, &a, b"next", "v3", &[b"shared"]);
        put(&mut world, &a, b"next", "dev", &[b"shared"]);
        let [eu] = &counted(&world, &[with("dev")])[..] else { panic!("one destination") };
        // what v3 and dev name is there, and what is attached; the tag is new, and what another one names
        assert_eq!([eu.standing.manifests, eu.standing.tags], [2, 0]);
        assert_eq!([eu.added.manifests, eu.added.tags], [1, 2]);
        // without backfill the rule goes on with what both filters let through, and the rest of it stays
        let wider = TagScope::new([filter("v*"), filter("dev")], [filter("*-rc*")]).unwrap();
        let plain = |tags: &TagScope| Rule { tags: tags.clone(), ..rule(&["eu"], "team/", false) };
        world.ok(PutReplicationRules { registry: REGISTRY, rules: vec![plain(&tags_of("v*"))] });
        world.pass(1);
        put(&mut world, &a, b"last", "v4", &[b"shared"]);
        put(&mut world, &a, b"last of dev", "dev", &[b"shared"]);
        let [eu] = &counted(&world, &[plain(&wider)])[..] else { panic!("one destination") };
        assert_eq!([eu.standing.manifests, eu.standing.tags], [1, 1]);
        // v1 and v3, and two called dev: from before the rule, or of another filter's time
        assert_eq!([eu.added.tags, eu.left.tags], [0, 4]);
    }

    // More blobs than can be told apart count as often as they are named, and the answer says so.
    #[test]
    fn too_many_blobs_to_tell_apart() {
        let (mut world, [_, a, b]) = world();
        put(&mut world, &a, b"one", "v1", &[b"shared", b"own of a"]);
        put(&mut world, &b, b"two", "v1", &[b"shared", b"own of a"]);
        let rules = [rule(&["eu"], "team/", true)];
        let ((exact, no), (more, yes)) = (run(&world, &rules, 2), run(&world, &rules, 1));
        assert!(!no && yes);
        let beyond = more[0].added.bytes - exact[0].added.bytes;
        assert!([6, 8].contains(&beyond), "one of the two layers counts twice: {beyond}");
    }

    // What setting the rules would refuse, the dry run does, in the same words.
    #[test]
    fn bad_rules() {
        let (mut world, _) = world();
        let many = vec![rule(&["eu"], "team/", false); 11];
        for bad in [vec![rule(&["nowhere"], "team/", false)], vec![rule(&["here"], "team/", false)], many] {
            let refused = DryRun::begin(&world.tables, REGISTRY, bad.clone()).unwrap_err();
            assert_eq!(refused, world.refused(PutReplicationRules { registry: REGISTRY, rules: bad }));
        }
        let below = World::region_at(upgrade::LEVEL_2, &["a"]);
        let refused = DryRun::begin(&below.tables, REGISTRY, Vec::new()).unwrap_err();
        assert!(matches!(refused, Refusal::FeatureLevel { .. }), "{refused:?}");
    }
}
