//! The file system against its twin in memory: random acts, the same answers.

use super::*;
use crate::blob::store::memory::{MemoryDisk, MemoryStore};
use crate::blob::store::suite::{content, upload_id};

/// A small generator, so that a seed is all that is needed to repeat a run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }
}

/// What may be asked of a store.
#[derive(Clone, Debug)]
enum Act {
    Begin(UploadId, u64, Algorithm),
    Note(UploadId, u64),
    Status(UploadId),
    Append(UploadId, u64, u64, usize),
    Truncate(UploadId, u64, u64),
    ReadStaged(UploadId, u64, usize),
    Seal(UploadId, u64, Digest),
    Place(UploadId, Digest),
    Discard(UploadId),
    Put(BlobKey),
    Import(BlobKey, bool),
    Stat(BlobKey),
    Confirm(BlobKey),
    Read(BlobKey, u64, usize),
    Verify(BlobKey),
    Quarantine(BlobKey),
    Remove(BlobKey),
    Uploads,
    Walk,
    Expire(u64),
}

/// The bytes that upload number `id` sends. Two uploads send the same, so that digests meet.
fn source(id: UploadId) -> Bytes {
    let number = id.random as u64 % 4;
    content(number, [1000, 65_536, 150_000, 70_001][number as usize])
}

fn key(id: UploadId) -> BlobKey {
    BlobKey::new(Digest::sha256(&source(id)), id)
}

fn act(dice: &mut Dice) -> Act {
    let id = upload_id(u128::from(dice.roll(6)));
    let epoch = dice.pick(&[1, 1, 1, 1, 2, 3]);
    let offset = dice.pick(&[0, 500, 1000, 65_536, 70_000, 150_000]);
    let len = dice.pick(&[0, 500, 65_536, 84_464, 1 << 20]);
    let digest = if dice.roll(5) == 0 { Digest::sha256(b"other") } else { key(id).digest };
    match dice.roll(30) {
        0..3 => Act::Begin(id, epoch, dice.pick(&[Algorithm::Sha256, Algorithm::Sha256, Algorithm::Sha512])),
        3 => Act::Note(id, epoch),
        4 => Act::Status(id),
        5..11 => Act::Append(id, epoch, u64::MAX, len),
        11 => Act::Append(id, epoch, offset, len),
        12 => Act::Truncate(id, epoch, offset),
        13 => Act::ReadStaged(id, offset, len),
        14..16 => Act::Seal(id, epoch, digest),
        16..19 => Act::Place(id, digest),
        19 => Act::Discard(id),
        20 => Act::Put(key(id)),
        21 => Act::Import(key(id), dice.roll(4) > 0),
        22 => Act::Stat(key(id)),
        23 => Act::Confirm(key(id)),
        24 => Act::Read(key(id), offset, len),
        25 => dice.pick(&[Act::Verify as fn(BlobKey) -> Act, Act::Quarantine])(key(id)),
        26 => Act::Remove(key(id)),
        27 => Act::Uploads,
        28 => Act::Walk,
        _ => Act::Expire(dice.pick(&[1, 50])),
    }
}

/// Does it and says what came of it, without what the two may word differently.
fn perform(store: &dyn BlobStore, act: &Act) -> String {
    fn told<T: std::fmt::Debug>(result: StoreResult<T>) -> String {
        match result {
            Ok(value) => format!("{value:?}"),
            Err(StoreError::Damaged { offset, .. }) => format!("damaged at {offset}"),
            Err(error) => format!("{error:?}"),
        }
    }
    match act.clone() {
        Act::Begin(id, epoch, algorithm) => told(store.begin_upload(id, epoch, algorithm)),
        Act::Note(id, epoch) => told(store.note_epoch(id, epoch)),
        Act::Status(id) => told(store.upload(id)),
        Act::Append(id, epoch, at, len) => told(store.write_upload(id, epoch).and_then(|mut writer| {
            let at = if at == u64::MAX { writer.offset() } else { at };
            let source = source(id);
            let from = (at as usize).min(source.len());
            let parts = [source.slice(from..from.saturating_add(len).min(source.len()))];
            writer.append(at, &parts)
        })),
        Act::Truncate(id, epoch, to) => told(store.write_upload(id, epoch).and_then(|mut writer| writer.truncate(to))),
        Act::ReadStaged(id, offset, len) => told(store.read_upload(id, 3, offset, len).map(|b| Digest::sha256(&b))),
        Act::Seal(id, epoch, digest) => told(store.seal_upload(id, epoch, digest)),
        Act::Place(id, digest) => told(store.place_upload(id, digest)),
        Act::Discard(id) => told(store.discard_upload(id)),
        Act::Put(key) => told(store.put(&key, &source(key.generation))),
        Act::Import(key, good) => {
            told(store.import(&key, source(key.generation).len() as u64).and_then(|mut import| {
                import.append(&[if good { source(key.generation) } else { content(77, 900) }])?;
                import.finish()
            }))
        }
        Act::Stat(key) => told(store.stat(&key)),
        Act::Confirm(key) => told(store.confirm(&key)),
        Act::Read(key, offset, len) => told(store.open(&key).and_then(|reader| {
            let blocks = reader.read_blocks(offset, len)?;
            Ok((blocks.offset, Digest::sha256(&blocks.bytes), blocks.sums))
        })),
        Act::Verify(key) => told(store.verify(&key, &mut |_| ControlFlow::Continue(()))),
        Act::Quarantine(key) => told(store.quarantine(&key)),
        Act::Remove(key) => told(store.remove(&store.lock(&key.digest), key.generation)),
        Act::Uploads => format!("{:?}", store.uploads(None, 100)),
        Act::Walk => {
            let mut entries = store.walk(None, 1000).unwrap().entries;
            entries.sort_by_key(|entry| entry.key);
            format!("{entries:?}")
        }
        Act::Expire(idle_ms) => told(store.expire_uploads(idle_ms, 100)),
    }
}

fn run(seed: u64, acts: usize) {
    let world = World::new();
    let mut subject = Fs::new(&world);
    let disk = MemoryDisk::new();
    let mut memory = MemoryStore::open(&disk, STORE, world.options());
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut history = Vec::new();
    for _ in 0..acts {
        world.pass(dice.roll(20));
        let act = act(&mut dice);
        let (ours, model) = (perform(&*subject.store(), &act), perform(&memory, &act));
        history.push(format!("{act:?} -> {ours}"));
        let recent = &history[history.len().saturating_sub(40)..];
        assert_eq!(ours, model, "seed {seed}, act {}, after:\n{}", history.len(), recent.join("\n"));
        match dice.roll(60) {
            0 => flip_both(&subject, &disk, key(upload_id(u128::from(dice.roll(6)))), &mut history),
            1 if !has_removed_records(&history) => {
                // A killed process: nothing that was written is lost. Idle times begin anew from the file's time.
                subject.crash();
                disk.crash(&mut |_, len| Some(len), &mut |_| false);
                memory = MemoryStore::open(&disk, STORE, world.options());
                history.push("crash".to_owned());
                for status in subject.store().uploads(None, 100) {
                    subject.store().note_epoch(status.id, status.epoch).unwrap();
                    memory.note_epoch(status.id, status.epoch).unwrap();
                }
            }
            _ => {}
        }
    }
}

/// Removed and damaged pack records come back with a restart until they are compacted away; the model forgets them at
/// once. Runs without a restart cover those.
fn has_removed_records(history: &[String]) -> bool {
    history.iter().any(|line| ["Remove", "Quarantine", "flip"].iter().any(|act| line.starts_with(act)))
}

fn flip_both(subject: &Fs, disk: &MemoryDisk, key: BlobKey, history: &mut Vec<String>) {
    if subject.store().stat(&key).unwrap().is_some_and(|stat| stat.size_bytes > 0) {
        subject.damage(&key, 100);
        assert!(disk.damage(&key, 100));
        history.push(format!("flip {key}"));
    }
}

// Whatever is asked, in whatever order, the file system answers as the model does.
#[test]
fn same_answers() {
    for seed in 1..=40 {
        run(seed, 120);
    }
}

// Many more seeds, for the night.
#[test]
#[ignore = "minutes"]
fn same_answers_for_long() {
    let from = std::env::var("PORTOLAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1000);
    for seed in from..from + 2000 {
        run(seed, 300);
    }
}
