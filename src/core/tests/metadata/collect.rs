//! Collection under random schedules: pushes, mounts, deletes and collectors with old views interleave, their envelopes
//! fall apart, their commands come late or twice, and nodes delete what they may. Whatever happens, an acknowledged
//! manifest reaches its blobs and every record its files (G1, G2); in the end nothing is left that nobody names.
//! Meanwhile nodes go away, come back and are emptied, and copies are made and dropped: no drop takes one that is
//! wanted, and in the end each blob lies where the placement wants it, and nowhere else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use registry_core::decide::placement::assign;
use registry_core::metadata::absence::{self, AbsenceRow, NoteAbsence, Stage};
use registry_core::metadata::blob::{self, AddUse, CommitBlob, ConfirmReplica, DropUse, UnconfirmReplica};
use registry_core::metadata::clock;
use registry_core::metadata::cluster::{FEATURE_LEVEL, InitCluster};
use registry_core::metadata::command::{Command, Proposal};
use registry_core::metadata::keys::SLOTS;
use registry_core::metadata::link::{self, Link, TouchLink, Unlink};
use registry_core::metadata::manifest::{self, DeleteManifest, PutManifest};
use registry_core::metadata::node::{self, NodeState, SetNodeState};
use registry_core::metadata::replica::{self, ConfirmCopy, DropReplica, FenceCopy};
use registry_core::metadata::reply::{Outcome, Reply};
use registry_core::metadata::repository::RepositoryKey;
use registry_core::metadata::sweep::{self, Fate};
use registry_core::metadata::tables::MemoryTables;
use registry_core::metadata::testing::{self, World, push_parts, reference};
use registry_core::metadata::upload::{self, CloseUpload, FinishUpload, ForgetUploads};
use registry_core::metadata::{idle, keys};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::{ClusterId, Lineage, NodeId, RepositoryId, StoreId, UploadId, UseId};
use registry_core::vocabulary::limits::UPLOAD_LIFETIME_MS;
use registry_core::vocabulary::manifest::ContentKind;

const BLOBS: [&[u8]; 4] = [b"base", b"layer", b"config", b"tool"];
const IMAGES: [&[u8]; 3] = [b"image one", b"image two", b"image three"];
/// The last two stand in one zone.
const STORES: u64 = 4;
/// Life of an upload in ticks.
const LIFE_TICKS: u64 = 24;

/// Five bytes decide one step.
type Choice = [u8; 5];

/// A copy on a volume.
type File = (StoreId, Digest, UploadId);

struct Model {
    world: World,
    repositories: Vec<RepositoryKey>,
    /// What lies on the volumes.
    files: BTreeSet<File>,
    /// Acknowledged manifests and the blobs they name.
    images: BTreeMap<(RepositoryId, Digest), Vec<Digest>>,
    /// Envelopes of which parts are still to come, with the base of the whole.
    pending: Vec<(u64, VecDeque<Command>)>,
    entered: Vec<Proposal>,
    /// What a collector that was cut off still sees.
    old_view: MemoryTables,
    numbers: u64,
}

impl Model {
    fn new() -> Model {
        let mut world = World::empty();
        world.ok(InitCluster {
            cluster: ClusterId(1),
            lineage: Lineage(1),
            region: "here".into(),
            region_number: 1,
            token_secret: [1; 32],
            tick_ms: UPLOAD_LIFETIME_MS / LIFE_TICKS,
            feature_level: FEATURE_LEVEL,
        });
        for (number, zone) in (1..=STORES).zip(["a", "b", "c", "c"]) {
            world.add_node(number, zone);
        }
        let repositories =
            ["one", "two"].iter().zip(1..).map(|(name, id)| world.repository(name, id, Default::default())).collect();
        let old_view = world.tables.clone();
        let (files, images) = (BTreeSet::new(), BTreeMap::new());
        Model { world, repositories, files, images, pending: vec![], entered: vec![], old_view, numbers: 0 }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn enter(&mut self, base: u64, commands: Vec<Command>) -> Outcome {
        let proposal = Proposal { base, ..self.world.proposal(commands) };
        let outcome = self.world.enter(&proposal);
        self.drops_take_nothing_wanted(&proposal.commands, &outcome);
        for command in &proposal.commands[..outcome.replies.len()] {
            self.note(command);
        }
        self.entered.push(proposal);
        outcome
    }

    /// What a client was told.
    fn note(&mut self, command: &Command) {
        if let Command::PutManifest(put) = command {
            let blobs = put.references.iter().map(|reference| reference.digest).collect();
            self.images.insert((put.repository.id, put.digest), blobs);
        }
        if let Command::DeleteManifest(delete) = command {
            self.images.remove(&(delete.repository.id, delete.digest));
        }
    }

    /// Proposes an envelope as one entry, or in parts with anything between them.
    fn propose(&mut self, in_parts: bool, commands: Vec<Command>) {
        if commands.is_empty() {
            return;
        }
        if in_parts {
            self.pending.push((self.world.index, commands.into()));
        } else {
            self.enter(self.world.index, commands);
        }
    }

    fn go_on(&mut self, at: usize) {
        let (base, mut parts) = self.pending.swap_remove(at);
        let Some(part) = parts.pop_front() else { return };
        if self.enter(base, vec![part]).refusal.is_none() && !parts.is_empty() {
            self.pending.push((base, parts));
        }
    }

    fn step(&mut self, [kind, one, two, three, how]: Choice) {
        let in_parts = how % 2 == 1;
        if !self.pending.is_empty() && kind < 70 {
            return self.go_on(usize::from(one) % self.pending.len());
        }
        if !self.entered.is_empty() && kind < 78 {
            let copy = self.entered[usize::from(one) % self.entered.len()].clone();
            self.world.enter(&copy);
            return;
        }
        let repository = self.repositories[usize::from(one) % self.repositories.len()].clone();
        let bytes = BLOBS[usize::from(two) % BLOBS.len()];
        let digest = Digest::sha256(bytes);
        match kind % 20 {
            0 | 1 => self.push(&repository, bytes, three, in_parts),
            2 => self.mount(&repository, bytes, in_parts),
            3..=5 => {
                let put = image(&repository, two, three);
                self.propose(in_parts, vec![put.into()]);
            }
            6 => {
                let digest = Digest::sha256(IMAGES[usize::from(two) % IMAGES.len()]);
                self.propose(in_parts, vec![DeleteManifest { repository, digest }.into()]);
            }
            7 => {
                let Some(hold) = link::read(&self.world.tables, &repository, &digest).map(|row| row.hold) else {
                    return;
                };
                let unlink = Unlink { repository: repository.clone(), digest, hold };
                self.propose(in_parts, vec![unlink.into(), DropUse { digest, repository, hold }.into()]);
            }
            8 => self.propose(in_parts, vec![TouchLink { repository, digest }.into()]),
            9 => self.world.pass(u64::from(three) % 7),
            10 | 11 => {
                let view = if how < 60 { self.old_view.clone() } else { self.world.tables.clone() };
                let commands = collection(&view, three % 4);
                self.propose(in_parts, commands);
            }
            12 => self.old_view = self.world.tables.clone(),
            13 => self.delete_files(StoreId(u64::from(three) % STORES + 1)),
            14 | 15 => self.copy(digest, three, in_parts),
            16 => self.come_and_go(NodeId(u64::from(one) % STORES + 1), three, in_parts),
            17 | 18 => {
                let view = if how < 60 { self.old_view.clone() } else { self.world.tables.clone() };
                let commands = self.drops(&view);
                self.propose(in_parts, commands);
            }
            _ => self.forget(),
        }
    }

    /// Holders place the bytes before anything is proposed; a record that is there is used if its holders confirm it.
    fn push(&mut self, repository: &RepositoryKey, bytes: &[u8], three: u8, in_parts: bool) {
        let (digest, number) = (Digest::sha256(bytes), self.number());
        let tick = clock::read(&self.world.tables).tick;
        let upload = UploadId { tick, random: number.into() };
        let without = u64::from(three) % (STORES + 1) + 1;
        let stores: Vec<u64> = (1..=STORES).filter(|store| *store != without).collect();
        self.files.extend(stores.iter().map(|store| (StoreId(*store), digest, upload)));
        let record = blob::read(&self.world.tables, &digest);
        let is_confirmed = record.as_ref().is_some_and(|row| {
            row.stores.iter().filter(|store| self.files.contains(&(**store, digest, row.generation))).count() >= 2
        });
        let holders = (NodeId(stores[0]), Some(NodeId(stores[1])));
        if is_confirmed {
            let close = CloseUpload { upload, holders, deduplicated: Some(digest) };
            let mut commands = adopt(repository, bytes, number);
            commands.push(close.into());
            return self.propose(in_parts, commands);
        }
        let (finish, commit, link) = push_parts(repository, bytes, number, &stores);
        let finish = FinishUpload { upload, holders, ..finish };
        let commit = CommitBlob { upload, replace: record.is_some(), ..commit };
        self.propose(in_parts, vec![finish.into(), commit.into(), link.into()]);
    }

    fn mount(&mut self, repository: &RepositoryKey, bytes: &[u8], in_parts: bool) {
        let number = self.number();
        self.propose(in_parts, adopt(repository, bytes, number));
    }

    /// Another copy of what is on record, or the loss of one: quarantined first, then told.
    fn copy(&mut self, digest: Digest, three: u8, in_parts: bool) {
        let Some(row) = blob::read(&self.world.tables, &digest) else { return };
        let (store, generation) = (StoreId(u64::from(three) % STORES + 1), row.generation);
        if three < 200 {
            let confirm = self.place(digest, generation, store);
            self.propose(in_parts, vec![confirm]);
        } else if row.stores.len() > 2 && self.pending.is_empty() {
            self.files.remove(&(store, digest, generation));
            self.propose(false, vec![UnconfirmReplica { digest, generation, store }.into()]);
        }
    }

    /// A node makes a copy; what confirms it. It looked at the fence first. A node of 0.1.0 knew of none, and nor of
    /// any copy that was let go.
    fn place(&mut self, digest: Digest, generation: UploadId, store: StoreId) -> Command {
        let fence = replica::fence(&self.world.tables, &digest, &generation, store);
        self.files.insert((store, digest, generation));
        match fence {
            0 if self.number().is_multiple_of(2) => ConfirmReplica { digest, generation, store }.into(),
            fence => ConfirmCopy { digest, generation, store, fence }.into(),
        }
    }

    /// A node is not heard, heard again, emptied or taken back.
    fn come_and_go(&mut self, node: NodeId, three: u8, in_parts: bool) {
        let before = absence::read(&self.world.tables, node);
        let stage = [Stage::Missed, Stage::Replaced, Stage::Stranded][usize::from(three) % 3];
        let absent_ms = before.map_or(1, |row| row.absent_ms + 1);
        let command = match three {
            0..100 => NoteAbsence { node, before, now: Some(AbsenceRow { absent_ms, stage }) }.into(),
            100..180 => NoteAbsence { node, before, now: None }.into(),
            180..210 => SetNodeState { node, state: NodeState::Draining }.into(),
            210.. => SetNodeState { node, state: NodeState::Active }.into(),
        };
        self.propose(in_parts, vec![command]);
    }

    /// What a leader with this view drops, after it has asked those that shall stay.
    fn drops(&self, view: &MemoryTables) -> Vec<Command> {
        let topology = node::topology(view);
        let records = (0..SLOTS).flat_map(|slot| blob::list(view, slot, None, 99));
        let found = records.filter_map(|(digest, row)| replica::spare(&topology, &digest, &row));
        let drops = found.flat_map(|found| {
            let replica::Spare { digest, generation, spare, keep } = found;
            let is_there = |store: &StoreId| self.files.contains(&(*store, digest, generation));
            let good: Vec<StoreId> = keep.into_iter().filter(is_there).collect();
            spare.into_iter().map(move |store| DropReplica { digest, generation, store, good: good.clone() }.into())
        });
        drops.collect()
    }

    /// After a drop the copies that stay are all that the placement wants.
    fn drops_take_nothing_wanted(&self, commands: &[Command], outcome: &Outcome) {
        let tables = &self.world.tables;
        for (command, reply) in commands.iter().zip(&outcome.replies) {
            let (Command::DropReplica(dropped), Reply::Done) = (command, reply) else { continue };
            let Some(row) = blob::read(tables, &dropped.digest) else { continue };
            let plan = assign(&node::topology(tables), &dropped.digest, &row.stores);
            assert!(plan.is_met(), "{dropped:?} took a copy that is wanted: {plan:?}");
        }
    }

    /// A node looks through its volume: under the locks, after a round to the leader, which is this very moment. What
    /// is of no use, though its record stays, it has fenced before it unlinks it.
    fn delete_files(&mut self, store: StoreId) {
        for (on, digest, generation) in self.files.clone().into_iter().filter(|(on, ..)| *on == store) {
            let may_go = match sweep::fate(&self.world.tables, &digest, &generation, store) {
                Fate::Closed | Fate::Expired => true,
                Fate::Extra => {
                    let fenced = vec![FenceCopy { digest, generation, store }.into()];
                    self.enter(self.world.index, fenced).replies == [Reply::Done]
                }
                Fate::Named | Fate::Pending => false,
            };
            if may_go {
                self.files.remove(&(on, digest, generation));
            }
        }
    }

    /// All nodes are back; what is wanted is made, what is more is dropped.
    fn heal(&mut self) {
        for node in (1..=STORES).map(NodeId) {
            let before = absence::read(&self.world.tables, node);
            self.propose(false, vec![SetNodeState { node, state: NodeState::Active }.into()]);
            self.propose(false, vec![NoteAbsence { node, before, now: None }.into()]);
        }
        let tables = &self.world.tables;
        let records: Vec<_> = (0..SLOTS).flat_map(|slot| blob::list(tables, slot, None, 99)).collect();
        for (digest, row) in records {
            let plan = assign(&node::topology(&self.world.tables), &digest, &row.stores);
            for choice in plan.add {
                let confirm = self.place(digest, row.generation, choice.store);
                self.propose(false, vec![confirm]);
            }
        }
        let drops = self.drops(&self.world.tables);
        self.propose(false, drops);
    }

    fn forget(&mut self) {
        let clock = clock::read(&self.world.tables);
        let due = (0..SLOTS).filter(|slot| upload::forgettable(&self.world.tables, *slot, &clock));
        let commands: Vec<Command> = due.map(|slot| ForgetUploads { slot }.into()).collect();
        self.propose(false, commands);
    }

    /// Every copy on record is there, and every acknowledged manifest reaches its blobs. (The rows are checked by the
    /// world, after every command.)
    fn check(&self) {
        let tables = &self.world.tables;
        for bytes in BLOBS {
            let digest = Digest::sha256(bytes);
            let Some(row) = blob::read(tables, &digest) else { continue };
            for store in &row.stores {
                let file = (*store, digest, row.generation);
                assert!(self.files.contains(&file), "the record of {digest} names {file:?}, which was deleted");
            }
        }
        for ((id, manifest), blobs) in &self.images {
            let repository = self.repositories.iter().find(|key| key.id == *id).unwrap();
            assert!(manifest::read(tables, repository, manifest).is_some(), "an acknowledged manifest is gone");
            for digest in blobs {
                assert!(link::read(tables, repository, digest).is_some(), "{manifest} lost its blob {digest}");
                assert!(blob::read(tables, digest).is_some(), "{digest} is gone");
            }
        }
    }

    /// Whoever is left comes to an end, then collection runs alone until its third grace time is over.
    fn quiesce(&mut self) {
        while !self.pending.is_empty() {
            self.go_on(0);
            self.check();
        }
        for _ in 0..6 {
            self.heal();
            self.world.pass(9);
            for phase in 0..4 {
                let commands = collection(&self.world.tables, phase);
                self.propose(false, commands);
                self.check();
            }
            self.forget();
            (1..=STORES).for_each(|store| self.delete_files(StoreId(store)));
            self.check();
        }
    }

    /// Records are what manifests name, files are what records name, and each lies where the placement wants it.
    fn nothing_is_left(&self) {
        let tables = &self.world.tables;
        let named: BTreeSet<Digest> = self.images.values().flatten().copied().collect();
        let records: BTreeSet<Digest> =
            (0..SLOTS).flat_map(|slot| blob::list(tables, slot, None, 99)).map(|(digest, _)| digest).collect();
        assert_eq!(records, named, "records that no manifest names, or manifests without records");
        for (store, digest, generation) in &self.files {
            let fate = sweep::fate(tables, digest, generation, *store);
            assert_eq!(fate, Fate::Named, "a file of {digest} is left");
        }
        for digest in records {
            let row = blob::read(tables, &digest).unwrap();
            let plan = assign(&node::topology(tables), &digest, &row.stores);
            assert!(plan.is_met() && row.stores.len() == 3, "{plan:?}");
        }
    }
}

/// The part of a push or mount that uses a record which is there.
fn adopt(repository: &RepositoryKey, bytes: &[u8], number: u64) -> Vec<Command> {
    let (digest, size_bytes, hold) = (Digest::sha256(bytes), bytes.len() as u64, UseId(number));
    let repository = repository.clone();
    vec![
        AddUse { digest, size_bytes, repository: repository.clone(), hold }.into(),
        Link { repository, digest, size_bytes, hold }.into(),
    ]
}

fn image(repository: &RepositoryKey, two: u8, three: u8) -> PutManifest {
    let named = BLOBS.iter().enumerate().filter(|(bit, _)| three & (1 << bit) != 0);
    let references = named.map(|(_, bytes)| reference(bytes, ContentKind::Blob)).collect();
    PutManifest { references, ..testing::manifest(repository, IMAGES[usize::from(two) % IMAGES.len()]) }
}

/// What a collector proposes by a view in one of its phases.
fn collection(view: &MemoryTables, phase: u8) -> Vec<Command> {
    let clock = clock::read(view);
    let of_slot = |slot: keys::Slot| match phase {
        0 => idle::idle_links(view, slot, &clock, None, 99).commands,
        1 => idle::idle_uses(view, slot, None, 99).commands,
        2 => link::settlement(view, slot, 0, None, 99).commands,
        _ => sweep::due(view, slot, &clock, None, 99, &mut { u64::MAX }).0.commands,
    };
    (0..SLOTS).flat_map(of_slot).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::with_cases(96)
    })]

    // G1, G2: whatever order pushes, mounts, deletes, collectors and nodes come in.
    #[test]
    fn nothing_named_is_lost(choices in proptest::collection::vec(any::<Choice>(), 1..220)) {
        let mut model = Model::new();
        for choice in choices {
            model.step(choice);
            model.check();
        }
        model.quiesce();
        model.nothing_is_left();
    }
}

/// A schedule that ends with a record naming a deleted file, if nodes deleted by this rule.
fn late_commit_meets(delete: impl Fn(Fate) -> bool) -> bool {
    let mut model = Model::new();
    let repository = model.repositories[0].clone();
    let (digest, number) = (Digest::sha256(b"base"), 1);
    let (finish, commit, link) = push_parts(&repository, b"base", number, &[1, 2]);
    model.files.extend([1, 2].map(|store| (StoreId(store), digest, commit.upload)));
    model.propose(false, vec![finish.into()]);
    let store = StoreId(1);
    if delete(sweep::fate(&model.world.tables, &digest, &commit.upload, store)) {
        model.files.remove(&(store, digest, commit.upload));
    }
    model.propose(false, vec![commit.clone().into(), link.into()]);
    let row = blob::read(&model.world.tables, &digest).unwrap();
    row.stores.iter().any(|store| !model.files.contains(&(*store, digest, row.generation)))
}

// The model finds what it is for: a node that deletes files without a record breaks it, the rule of §5.5 does not.
#[test]
fn the_model_sees_a_wrong_rule() {
    assert!(late_commit_meets(|fate| !matches!(fate, Fate::Named)));
    assert!(!late_commit_meets(|fate| matches!(fate, Fate::Closed | Fate::Expired)));
}

/// Whether a copy whose confirmation comes late is lost, when a node that finds it of no use unlinks it.
fn late_confirmation_meets(is_fenced: bool) -> bool {
    let mut model = Model::new();
    let repository = model.repositories[0].clone();
    model.push(&repository, b"base", 3, false);
    let digest = Digest::sha256(b"base");
    let row = blob::read(&model.world.tables, &digest).unwrap();
    let (generation, store) = (row.generation, StoreId(4));
    assert!(!row.stores.contains(&store) && row.stores.len() == 3);
    let late = model.place(digest, generation, store);
    match is_fenced {
        true => model.delete_files(store),
        false => drop(model.files.remove(&(store, digest, generation))),
    }
    assert!(!model.files.contains(&(store, digest, generation)), "it is of no use");
    model.propose(false, vec![late]);
    blob::read(&model.world.tables, &digest).unwrap().stores.contains(&store)
}

// A confirmation that is under way while its file goes would name nothing: the fence stops it, and without one the
// model sees it.
#[test]
fn the_model_sees_a_missing_fence() {
    assert!(late_confirmation_meets(false));
    assert!(!late_confirmation_meets(true));
}
