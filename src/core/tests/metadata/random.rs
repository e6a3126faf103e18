//! Random workloads: whatever is proposed, split, repeated and interleaved, the rows fit together after every entry
//! (the world checks that by itself), acknowledged pushes stay, and freed bytes are never named again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

use proptest::prelude::*;
use registry_core::decide::quota::{Limits, Usage};
use registry_core::metadata::apply::{Entry, Machine};
use registry_core::metadata::blob::{self, CommitBlob, ConfirmReplica, DropUse, UnconfirmReplica};
use registry_core::metadata::check;
use registry_core::metadata::clock::{self, Tick};
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster, TakeDigest};
use registry_core::metadata::codec;
use registry_core::metadata::command::{Command, Proposal};
use registry_core::metadata::cursor::NoteDestination;
use registry_core::metadata::idle;
use registry_core::metadata::keys::{self, SLOTS};
use registry_core::metadata::link::{self, TouchLink, Unlink};
use registry_core::metadata::manifest::{self, DeleteManifest, PutManifest};
use registry_core::metadata::need;
use registry_core::metadata::node::{NodeState, SetNodeState};
use registry_core::metadata::outbox::TrimOutbox;
use registry_core::metadata::peer::DeletePeer;
use registry_core::metadata::principal::{DeleteUser, PutUser, SetUserEnabled, UserKind};
use registry_core::metadata::quota::{self, RecallShares, SetRegistryQuota};
use registry_core::metadata::register::MendTag;
use registry_core::metadata::remote::{DropRemoteManifest, DropRemoteTag, PutRemoteManifest, SetRemoteTag};
use registry_core::metadata::replication_rules::PutReplicationRules;
use registry_core::metadata::reply::{Outcome, Reply};
use registry_core::metadata::repository::{
    self, CreateRepository, DeleteRepository, PurgeRepository, RepositoryKey, Settings,
};
use registry_core::metadata::sweep;
use registry_core::metadata::tables::{MemoryTables, Tables as _};
use registry_core::metadata::tag::{self, DeleteTag};
use registry_core::metadata::testing::{self, World, mount, push_parts, reference, repository_key, tags};
use registry_core::metadata::untagged::{self, Wish};
use registry_core::metadata::upload::{self, CloseUpload, FinishUpload, ForgetUploads, TakeUpload};
use registry_core::metadata::usage::{AdmitBlob, SetRepositoryQuota};
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RegistryId, RepositoryId, StoreId, UploadId, UseId};
use registry_core::vocabulary::limits::UPLOAD_LIFETIME_MS;
use registry_core::vocabulary::manifest::ContentKind;
use registry_core::vocabulary::{Digest, Tag, Version};

const CONTENTS: [&[u8]; 5] = [b"one", b"two!", b"three", b"four..", b"five..."];
const NAMES: [&str; 2] = ["team/app", "base"];
const TAGS: [&str; 3] = ["latest", "v1", "v2"];
const KINDS: [ContentKind; 3] = [ContentKind::Blob, ContentKind::Manifest, ContentKind::Foreign];
const NODES: u64 = 4;
const ZONES: [&str; 4] = ["a", "b", "c", "a"];

/// Six bytes decide one step.
type Choice = [u8; 6];

/// A run with what it has promised so far.
struct Run {
    world: World,
    /// Every entry, to be applied again in other batches.
    log: Vec<(u64, u64, Vec<u8>)>,
    /// Envelopes whose parts are entries of their own, with the base of the whole.
    pending: Vec<(u64, VecDeque<Command>)>,
    entered: Vec<Proposal>,
    numbers: u64,
    uploads: Vec<UploadId>,
    links: BTreeSet<(RepositoryId, Digest)>,
    tags: BTreeMap<(RepositoryId, Tag), Digest>,
    freed: BTreeSet<(Digest, UploadId)>,
}

impl Run {
    fn new() -> Run {
        let world = World::empty();
        let mut run = Run {
            world,
            log: Vec::new(),
            pending: Vec::new(),
            entered: Vec::new(),
            numbers: 0,
            uploads: Vec::new(),
            links: BTreeSet::new(),
            tags: BTreeMap::new(),
            freed: BTreeSet::new(),
        };
        // two ticks are the life of an upload, so that expiry takes part
        let init = InitCluster {
            cluster: ClusterId(1),
            lineage: Lineage(1),
            region: "here".into(),
            region_number: 1,
            token_secret: [1; 32],
            tick_ms: UPLOAD_LIFETIME_MS,
            feature_level: FEATURE_LEVEL,
        };
        run.enter(vec![init.into()]);
        for (number, zone) in (1..NODES).zip(ZONES) {
            run.enter(testing::node(number, zone));
        }
        run
    }

    fn enter(&mut self, commands: Vec<Command>) -> Outcome {
        self.enter_at(self.world.index, commands)
    }

    fn enter_at(&mut self, base: u64, commands: Vec<Command>) -> Outcome {
        let proposal = Proposal { base, ..self.world.proposal(commands) };
        let outcome = self.submit(&proposal);
        for (command, reply) in proposal.commands.iter().zip(&outcome.replies) {
            self.note(command, reply);
        }
        self.entered.push(proposal);
        self.look_after_files();
        outcome
    }

    fn submit(&mut self, proposal: &Proposal) -> Outcome {
        let outcome = self.world.enter(proposal);
        self.log.push((self.world.index, self.world.at_ms, proposal.encode()));
        outcome
    }

    /// The ledger: what a client was told.
    fn note(&mut self, command: &Command, reply: &Reply) {
        if let Command::Link(done) = command {
            self.links.insert((done.repository.id, done.digest));
        }
        if let Command::Unlink(done) = command {
            self.links.remove(&(done.repository.id, done.digest));
        }
        if let (Command::PutManifest(put), Reply::Manifest { tags, .. }) = (command, reply) {
            self.tags.extend(tags.iter().map(|moved| ((put.repository.id, moved.tag.clone()), put.digest)));
        }
        if let (Command::SetRemoteTag(set), Reply::Manifest { .. }) = (command, reply) {
            self.tags.insert((set.repository.id, set.tag.clone()), set.digest);
        }
        if let (Command::DeleteManifest(DeleteManifest { repository, .. }), Reply::Deleted { tags })
        | (Command::DeleteTag(DeleteTag { repository, .. }), Reply::Deleted { tags })
        | (Command::DropRemoteTag(DropRemoteTag { repository, .. }), Reply::Deleted { tags }) = (command, reply)
        {
            tags.iter().for_each(|moved| _ = self.tags.remove(&(repository.id, moved.tag.clone())));
        }
        if let Command::DeleteRepository(done) = command {
            self.links.retain(|(id, _)| *id != done.key.id);
            self.tags.retain(|(id, _), _| *id != done.key.id);
        }
    }

    /// Files that a node was once allowed to delete are never named again.
    fn look_after_files(&mut self) {
        for digest in CONTENTS.map(Digest::sha256) {
            let named = blob::read(&self.world.tables, &digest).map(|row| row.generation);
            for upload in &self.uploads {
                let file = (digest, *upload);
                if named == Some(*upload) {
                    assert!(!self.freed.contains(&file), "the record of {digest} names freed files of {upload}");
                } else if blob::generation_over(&self.world.tables, &digest, upload) {
                    self.freed.insert(file);
                }
            }
        }
    }

    fn step(&mut self, choice: Choice) {
        let [kind, .., at, whole] = choice;
        if kind < 90 && !self.pending.is_empty() {
            return self.go_on(usize::from(at) % self.pending.len());
        }
        if kind < 100 && !self.entered.is_empty() {
            let copy = self.entered[usize::from(at) % self.entered.len()].clone();
            let rows = self.world.tables.clone();
            self.submit(&copy);
            assert_eq!(self.world.tables, rows, "a copy changed something");
            return;
        }
        let commands = self.begin(choice);
        if commands.is_empty() {
            return;
        }
        if whole % 2 == 0 {
            self.enter(commands);
        } else {
            self.pending.push((self.world.index, commands.into()));
        }
    }

    /// One part of an envelope; the rest goes if it is refused.
    fn go_on(&mut self, at: usize) {
        let (base, mut parts) = self.pending.swap_remove(at);
        let Some(part) = parts.pop_front() else { return };
        if self.enter_at(base, vec![part]).refusal.is_none() && !parts.is_empty() {
            self.pending.push((base, parts));
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn repository(&self, at: u8) -> RepositoryKey {
        let name = repository_key(NAMES[usize::from(at) % NAMES.len()], 0).name;
        repository::find(&self.world.tables, RegistryId::DEFAULT, &name)
            .map_or_else(|| repository_key(name.as_str(), 0xdead), |(key, _)| key)
    }

    /// The commands that a proposer makes of what it sees now; they may be applied much later.
    fn begin(&mut self, [kind, one, two, three, four, _]: Choice) -> Vec<Command> {
        let (repository, bytes) = (self.repository(one), CONTENTS[usize::from(two) % CONTENTS.len()]);
        let digest = Digest::sha256(bytes);
        match kind % 22 {
            0..=3 => self.push(&repository, bytes, three, four),
            4 => mount(&repository, bytes, self.number()),
            5 | 6 => self.delete_blob(repository, digest),
            7 if four < 128 => self.settle(three),
            7 => self.collect(digest),
            8..=10 => vec![put_manifest(&repository, bytes, three, four).into()],
            11 => vec![DeleteManifest { repository, digest }.into()],
            12 => {
                let tag = tags(&[TAGS[usize::from(three) % TAGS.len()]]).remove(0);
                vec![DeleteTag { repository, tag, expected: (four % 2 == 0).then_some(digest) }.into()]
            }
            13 => {
                let key = repository_key(NAMES[usize::from(one) % NAMES.len()], self.number().into());
                let settings = Settings { sparse: three % 2 == 0, ..Settings::default() };
                vec![CreateRepository { key, settings, must_be_new: four % 2 == 0 }.into()]
            }
            14 if three < 60 => vec![DeleteRepository { key: repository, force: four % 2 == 0 }.into()],
            14 => self.purge(usize::from(four) % 4),
            15 => self.replica(digest, three, four),
            16 => self.upload(digest, three, four),
            17 => self.time(three),
            18 => self.topology(three, four),
            19 => self.quota(repository, digest, three, four),
            20 => regions(repository, bytes, three, four),
            _ => self.others(repository, digest, three),
        }
    }

    fn push(&mut self, repository: &RepositoryKey, bytes: &[u8], three: u8, four: u8) -> Vec<Command> {
        let tick = clock::read(&self.world.tables).tick;
        let number = self.number();
        let upload = match self.uploads.get(usize::from(four) % 12) {
            // a repeated PUT: another proposal for the same upload
            Some(upload) if three.is_multiple_of(3) => *upload,
            Some(_) | None => UploadId { tick, random: number.into() },
        };
        self.uploads.push(upload);
        let stores: Vec<u64> = (1..=NODES).filter(|store| three & (1 << store) != 0).collect();
        let (finish, commit, link) = push_parts(repository, bytes, number, &stores);
        let finish = FinishUpload { upload, ..finish };
        let commit = CommitBlob { upload, replace: four.is_multiple_of(5), ..commit };
        vec![finish.into(), commit.into(), link.into()]
    }

    fn delete_blob(&self, repository: RepositoryKey, digest: Digest) -> Vec<Command> {
        let Some(hold) = link::read(&self.world.tables, &repository, &digest).map(|row| row.hold) else {
            return Vec::new();
        };
        let unlink = Unlink { repository: repository.clone(), digest, hold };
        vec![unlink.into(), DropUse { digest, repository, hold }.into()]
    }

    /// Drops loose uses of a slot, as a reconciler would.
    fn settle(&self, at: u8) -> Vec<Command> {
        // as if the window were over, which makes forgetting too early possible: that is refused
        link::settlement(&self.world.tables, self.repository(at).slot(), u64::MAX, None, 6).commands
    }

    /// What collection makes of a digest's slot now.
    fn collect(&self, digest: Digest) -> Vec<Command> {
        let (slot, clock) = (keys::digest_slot(&digest), clock::read(&self.world.tables));
        let mut commands = idle::idle_uses(&self.world.tables, slot, None, 9).commands;
        let (due, _) = sweep::due(&self.world.tables, slot, &clock, None, 9, &mut { u64::MAX });
        commands.extend(due.commands);
        let wish = Wish { untagged_ticks: Some(0), orphaned_ticks: Some(0) };
        for name in NAMES {
            let slot = repository_key(name, 0).slot();
            commands.extend(untagged::due(&self.world.tables, slot, &clock, wish, None, 2).commands);
        }
        commands
    }

    fn purge(&self, limit: usize) -> Vec<Command> {
        let deleted = (0..SLOTS).find_map(|slot| repository::deleted(&self.world.tables, slot, 1).pop());
        let Some(key) = deleted else { return Vec::new() };
        purge(&self.world.tables, key, limit)
    }

    fn replica(&self, digest: Digest, three: u8, four: u8) -> Vec<Command> {
        let record = blob::read(&self.world.tables, &digest).map(|row| row.generation);
        let any = self.uploads.get(usize::from(four) % 16).copied();
        let Some(generation) = (if four < 200 { record } else { any }) else { return Vec::new() };
        let store = StoreId(u64::from(three) % (NODES + 1) + 1);
        match four % 2 {
            0 => vec![ConfirmReplica { digest, generation, store }.into()],
            _ => vec![UnconfirmReplica { digest, generation, store }.into()],
        }
    }

    fn upload(&self, digest: Digest, three: u8, four: u8) -> Vec<Command> {
        let Some(upload) = self.uploads.get(usize::from(four) % 16).copied() else { return Vec::new() };
        let node = |shift: u8| NodeId(u64::from(three >> shift) % 4 + 1);
        let pair = (node(0), Some(node(2)));
        let (epoch, before) = upload::read(&self.world.tables, &upload)
            .map_or((1, (NodeId(1), Some(NodeId(2)))), |row| (row.epoch, (row.primary, row.backup)));
        match three % 4 {
            0 | 1 => vec![TakeUpload { upload, epoch, before, after: pair }.into()],
            2 => vec![CloseUpload { upload, holders: pair, deduplicated: None }.into()],
            _ => vec![FinishUpload { upload, epoch, digest, holders: pair }.into()],
        }
    }

    fn time(&self, three: u8) -> Vec<Command> {
        let clock = clock::read(&self.world.tables);
        if three < 40 {
            return vec![Tick { expected: clock.tick }.into()];
        }
        let due = (0..SLOTS).filter(|slot| upload::forgettable(&self.world.tables, *slot, &clock));
        due.map(|slot| ForgetUploads { slot }.into()).collect()
    }

    fn topology(&self, three: u8, four: u8) -> Vec<Command> {
        let number = u64::from(three) % NODES + 1;
        match four % 4 {
            0 => testing::node(number, ZONES[usize::try_from(number).unwrap() - 1]),
            1 => vec![SetNodeState { node: NodeId(number), state: NodeState::Draining }.into()],
            2 => vec![SetNodeState { node: NodeId(number), state: NodeState::Active }.into()],
            _ if four > 250 => vec![SetNodeState { node: NodeId(number), state: NodeState::Removed }.into()],
            _ => reviews(&self.world.tables),
        }
    }

    /// Limits near what these repositories hold, so that they are met, and rounds of which any part is applied late.
    fn quota(&self, repository: RepositoryKey, digest: Digest, three: u8, four: u8) -> Vec<Command> {
        let registry = RegistryId::DEFAULT;
        let limit = |base: u64| (three > 60).then(|| base + u64::from(four) % 16);
        let limits = Limits { bytes: limit(6), tags: limit(1) };
        let round = quota::read(&self.world.tables, registry).round;
        match three % 4 {
            0 => vec![SetRepositoryQuota { repository, limits }.into()],
            1 if four > 128 => vec![SetRegistryQuota { registry, limits }.into()],
            1 => vec![AdmitBlob { repository, digest, size_bytes: u64::from(four) % 8 }.into()],
            2 => vec![RecallShares { registry, round }.into()],
            _ => {
                let wanted = Usage { bytes: u64::from(four) % 8, tags: u64::from(four) % 2 };
                let grants = quota::grants(&self.world.tables, registry, round, repository.slot(), wanted);
                grants.map_or_else(|_| Vec::new(), |grants| grants.into_iter().map(Command::from).collect())
            }
        }
    }

    fn others(&self, repository: RepositoryKey, digest: Digest, three: u8) -> Vec<Command> {
        let (registry, name) = (RegistryId::DEFAULT, format!("user{}", three % 3));
        match three % 4 {
            0 => vec![TakeDigest {}.into()],
            1 => vec![TouchLink { repository, digest }.into()],
            2 => {
                let kind = if three > 128 { UserKind::Root } else { UserKind::Ordinary };
                vec![PutUser { registry, name, kind, enabled: !three.is_multiple_of(5), must_be_new: false }.into()]
            }
            _ if three < 128 => vec![SetUserEnabled { registry, name, enabled: three < 64 }.into()],
            _ => vec![DeleteUser { registry, name }.into()],
        }
    }

    /// What was acknowledged and not taken back is there.
    fn compare_ledger(&self) {
        let tables = &self.world.tables;
        let keys: BTreeMap<RepositoryId, RepositoryKey> =
            NAMES.iter().filter_map(|name| self.repository_named(name)).map(|key| (key.id, key)).collect();
        for (id, digest) in &self.links {
            let key = keys.get(id).unwrap_or_else(|| panic!("repository {id} is gone"));
            assert!(link::read(tables, key, digest).is_some(), "the link of {id} to {digest} is gone");
        }
        for ((id, tag), digest) in &self.tags {
            let row = tag::read(tables, &keys[id], tag).unwrap_or_else(|| panic!("tag {tag} is gone"));
            assert_eq!(row.digest, *digest);
        }
        let found: usize = keys.values().map(|key| tag::list(tables, key, None, usize::MAX).len()).sum();
        assert_eq!(found, self.tags.len(), "tags that nobody set");
    }

    fn repository_named(&self, name: &str) -> Option<RepositoryKey> {
        let name = repository_key(name, 0).name;
        repository::find(&self.world.tables, RegistryId::DEFAULT, &name).map(|(key, _)| key)
    }
}

fn put_manifest(repository: &RepositoryKey, bytes: &[u8], three: u8, four: u8) -> PutManifest {
    let named = (0..3u8).filter(|bit| three & (1 << bit) != 0).map(|bit| {
        let content = CONTENTS[usize::from(three / 8 + bit) % CONTENTS.len()];
        reference(content, KINDS[usize::from(four / 4 + bit) % KINDS.len()])
    });
    let own = Digest::sha256(bytes);
    let mut references: Vec<_> = named.filter(|reference| reference.digest != own).collect();
    references.dedup_by_key(|reference| reference.digest);
    PutManifest {
        references,
        inline: (!four.is_multiple_of(3)).then(|| bytes.to_vec()),
        subject: four.is_multiple_of(7).then(|| Digest::sha256(CONTENTS[usize::from(three) % CONTENTS.len()])),
        tags: tags(&TAGS[..usize::from(four) % 3]),
        ..testing::manifest(repository, bytes)
    }
}

/// What comes from other regions, or goes to them: older and newer than what is here, in any order.
fn regions(repository: RepositoryKey, bytes: &[u8], three: u8, four: u8) -> Vec<Command> {
    let (registry, tag) = (RegistryId::DEFAULT, tags(&[TAGS[usize::from(four) % TAGS.len()]]).remove(0));
    let version = Version { home_epoch: 0, hlc: (1000 + u64::from(four)) * 1000, region: 2 + u16::from(three) % 2 };
    let base =
        if four.is_multiple_of(2) { version } else { Version { hlc: version.hlc.saturating_sub(9000), ..version } };
    match three % 8 {
        0 => vec![testing::peer(2, "eu").into(), testing::sends_all("eu").into()],
        1 if four < 64 => vec![PutReplicationRules { registry, rules: vec![] }.into()],
        1 => vec![NoteDestination { number: 2, lineage: Lineage(1), index: u64::from(four) }.into()],
        2 => vec![TrimOutbox { slot: repository.slot(), registry }.into()],
        3 if four < 64 => vec![DeletePeer { number: 2 }.into()],
        3 | 4 => {
            let put = PutManifest { tags: Vec::new(), ..put_manifest(&repository, bytes, three / 8, four) };
            vec![PutRemoteManifest { put, presence: version }.into()]
        }
        5 if four < 64 => vec![MendTag { repository, tag, told: Some((Digest::sha256(bytes), version, base)) }.into()],
        5 | 6 => {
            let previous = four.is_multiple_of(3).then(Version::default);
            let digest = Digest::sha256(bytes);
            vec![SetRemoteTag { repository, tag, digest, version, base, previous }.into()]
        }
        _ if four < 64 => {
            let (digest, is_filtered) = (Digest::sha256(bytes), four.is_multiple_of(3));
            vec![DropRemoteManifest { repository, digest, version, from: 2, is_filtered }.into()]
        }
        // a setting that ended, of regions whose versions nobody else has, each in its order
        _ if four < 96 => {
            let region = if four.is_multiple_of(2) { 5 } else { 4 };
            let (version, base) = (Version { region, ..version }, Some(Version { region, ..base }));
            vec![DropRemoteTag { repository, tag, version, base, previous: None }.into()]
        }
        _ => vec![DropRemoteTag { repository, tag, version, base: None, previous: Some(base) }.into()],
    }
}

fn reviews(tables: &MemoryTables) -> Vec<Command> {
    let outdated = (0..SLOTS).flat_map(|slot| need::outdated(tables, slot, None, 100).reviews);
    outdated.map(Command::from).collect()
}

fn purge(tables: &MemoryTables, key: RepositoryKey, limit: usize) -> Vec<Command> {
    let dropped = repository::holds(tables, &key, limit);
    let drop =
        |(digest, hold): &(Digest, UseId)| DropUse { digest: *digest, repository: key.clone(), hold: *hold }.into();
    let mut commands: Vec<Command> = dropped.iter().map(drop).collect();
    commands.push(PurgeRepository { key, dropped }.into());
    commands
}

/// Applies a log in batches cut by `cuts`, opening the machine anew at each; blank entries lie in between.
fn replay(log: &[(u64, u64, Vec<u8>)], cuts: &[u8]) -> (MemoryTables, Machine, Vec<Vec<u8>>) {
    let (mut tables, mut machine, mut replies) = (MemoryTables::new(), Machine::default(), Vec::new());
    let mut rest = log;
    for cut in cuts.iter().cycle() {
        let (batch, others) = rest.split_at(usize::from(*cut).min(rest.len()));
        let mut entries: Vec<Entry<'_>> =
            batch.iter().map(|(index, at_ms, payload)| Entry { index: *index, at_ms: *at_ms, payload }).collect();
        if cut % 2 == 0 {
            entries.push(Entry { index: 0, at_ms: 0, payload: &[] });
        }
        let applied = machine.apply(&tables, &entries).unwrap();
        tables.write(applied.writes);
        replies.extend(applied.effects.into_iter().map(|effect| effect.outcome).filter(|reply| !reply.is_empty()));
        let opened = Machine::open(&tables);
        assert_eq!(opened, machine, "the view after a restart is another one");
        if cut % 3 == 0 {
            machine = opened;
        }
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    (tables, machine, replies)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config(64))]

    // Whatever is proposed, whole or in parts, the invariants hold after each entry, the ledger is kept, needs can be
    // brought in line, and every deleted repository can be purged to the last row.
    #[test]
    fn workloads(choices in proptest::collection::vec(any::<Choice>(), 1..160)) {
        let mut run = Run::new();
        for choice in choices {
            run.step(choice);
        }
        while !run.pending.is_empty() {
            run.go_on(0);
        }
        run.compare_ledger();
        run.enter(reviews(&run.world.tables));
        prop_assert_eq!(reviews(&run.world.tables), vec![]);
        let mut left = 100;
        while let Some(key) = (0..SLOTS).find_map(|slot| repository::deleted(&run.world.tables, slot, 1).pop()) {
            run.enter(purge(&run.world.tables, key, 100));
            left -= 1;
            prop_assert!(left > 0, "a purge does not come to its end");
        }
        run.compare_ledger();
    }

    // The same log in other batches, with restarts between them, makes the same bytes and the same answers.
    #[test]
    fn batches(
        choices in proptest::collection::vec(any::<Choice>(), 1..80),
        cuts in proptest::collection::vec(0..9u8, 1..20).prop_filter("goes on", |cuts| cuts.iter().any(|cut| *cut > 0)),
    ) {
        let mut run = Run::new();
        for choice in choices {
            run.step(choice);
        }
        let (tables, machine, replies) = replay(&run.log, &[1]);
        prop_assert_eq!(&tables, &run.world.tables);
        prop_assert_eq!(&machine, &run.world.machine);
        let (other_tables, other_machine, other_replies) = replay(&run.log, &cuts);
        prop_assert_eq!(tables, other_tables);
        prop_assert_eq!(machine, other_machine);
        prop_assert_eq!(replies, other_replies);
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
static BUSY: OnceLock<(MemoryTables, Rows)> = OnceLock::new();

/// Decodes bytes as everything that is stored.
fn decode_all(bytes: &[u8]) {
    drop(Proposal::decode(bytes));
    drop(Outcome::decode(bytes));
    drop(codec::decode::<blob::BlobRow>(bytes));
    drop(codec::decode::<link::LinkRow>(bytes));
    drop(codec::decode::<manifest::ManifestRow>(bytes));
    drop(codec::decode::<manifest::ReferencesRow>(bytes));
    drop(codec::decode::<repository::RepositoryRow>(bytes));
    drop(codec::decode::<tag::TagRow>(bytes));
    drop(codec::decode::<tag::JournalRow>(bytes));
    drop(codec::decode::<upload::UploadRow>(bytes));
}

proptest! {
    #![proptest_config(config(2000))]

    // No bytes make a decoder panic or take more memory than a command may.
    #[test]
    fn decoders_are_total(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
        for prefix in [&[1u8][..], &[1, 255, 255, 255]] {
            decode_all(&[prefix, &bytes].concat());
        }
    }

    // A damaged proposal or outcome of the real kind is an error or another value, never a panic; as a row under its
    // key it is a violation or harmless.
    #[test]
    fn damage_is_total(at in any::<usize>(), flip in 1..=255u8, cut in any::<bool>()) {
        let (tables, rows) = BUSY.get_or_init(|| {
            let tables = World::busy().tables;
            let rows = tables.rows().map(|(key, value)| (key.clone(), value.clone())).collect();
            (tables, rows)
        });
        let (key, value) = &rows[at % rows.len()];
        let mut damaged = value.clone();
        let length = damaged.len();
        if length > 0 {
            damaged[at / rows.len() % length] ^= flip;
            if cut {
                damaged.truncate(at / rows.len() % length);
            }
        }
        decode_all(&damaged);
        let mut tables = tables.clone();
        tables.put(key.clone(), damaged);
        prop_assert!(check::check(&tables, 9).rows > 0);
    }
}
