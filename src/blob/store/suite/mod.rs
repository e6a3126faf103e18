//! What every blob store must do: one suite, run by each implementation through [`blob_store_suite!`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::vocabulary::digest::{Algorithm, Digest};
use registry_core::vocabulary::ids::UploadId;

use super::{BlobKey, BlobStat, BlobStore, Clock, Options, READ_BYTES_MAX, Settings, Step, StepHook, StoreResult};

pub(super) mod faults;
pub(super) mod inventory;
pub(super) mod reads;
pub(super) mod space;
pub(super) mod uploads;
pub(super) mod whole;

/// An implementation under test, on storage of its own.
pub(super) trait Subject {
    /// A store on empty storage.
    fn new(world: &World) -> Self;
    /// The running store.
    fn store(&self) -> Arc<dyn BlobStore>;
    /// Kills the process and starts again on what is left. Handles must have been dropped.
    fn crash(&mut self);
    /// Flips a bit of a stored blob.
    fn damage(&self, key: &BlobKey, offset: u64);
}

/// What a test holds in its hand: settings, clock and faults.
#[derive(Clone)]
pub(super) struct World {
    pub(super) settings: Settings,
    now_ms: Arc<AtomicU64>,
    faults: Arc<Faults>,
}

/// Fails steps on demand.
#[derive(Default)]
struct Faults {
    next: Mutex<Option<(Step, io::ErrorKind)>>,
}

impl StepHook for Faults {
    fn before(&self, step: Step) -> io::Result<()> {
        let mut next = self.next.lock();
        match *next {
            Some((failing, kind)) if failing == step => {
                *next = None;
                Err(kind.into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl World {
    pub(super) fn new() -> World {
        World { settings: Settings::default(), now_ms: Arc::new(AtomicU64::new(1_000)), faults: Arc::default() }
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> World {
        let mut world = World::new();
        change(&mut world.settings);
        world
    }

    pub(super) fn options(&self) -> Options {
        let now_ms = Arc::clone(&self.now_ms);
        let clock: Clock = Arc::new(move || now_ms.load(Ordering::Relaxed));
        let mut options = Options::new(clock).with_hook(Arc::clone(&self.faults) as Arc<dyn StepHook>);
        options.settings = self.settings.clone();
        options
    }

    pub(super) fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The next time `step` comes, it fails like this.
    pub(super) fn fail(&self, step: Step, kind: io::ErrorKind) {
        *self.faults.next.lock() = Some((step, kind));
    }
}

/// The id of the `number`th upload.
pub(super) fn upload_id(number: u128) -> UploadId {
    UploadId { tick: 7, random: number }
}

/// Bytes that differ from those of another seed, and from block to block.
pub(super) fn content(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

/// Sizes around every border: empty, pack limit, blocks, read limit.
pub(super) const SIZES: [usize; 10] =
    [0, 1, 1000, 65_535, 65_536, 65_537, 131_072, 200_001, READ_BYTES_MAX, 3 * READ_BYTES_MAX + 7];

/// Stages `bytes` in appends of `step` bytes.
pub(super) fn stage(store: &dyn BlobStore, id: UploadId, bytes: &Bytes, step: usize) -> StoreResult<()> {
    store.begin_upload(id, 1, Algorithm::Sha256)?;
    let mut writer = store.write_upload(id, 1)?;
    let mut offset = writer.offset();
    while offset < bytes.len() as u64 {
        let end = bytes.len().min(offset as usize + step);
        offset = writer.append(offset, &[bytes.slice(offset as usize..end)])?;
    }
    Ok(())
}

/// A whole push of `bytes`, as upload `number`.
pub(super) fn push(store: &dyn BlobStore, number: u128, bytes: &Bytes) -> StoreResult<(BlobKey, BlobStat)> {
    let (id, digest) = (upload_id(number), Digest::sha256(bytes));
    stage(store, id, bytes, 300_000)?;
    store.seal_upload(id, 1, digest)?;
    Ok((BlobKey::new(digest, id), store.place_upload(id, digest)?))
}

/// Reads a whole blob in reads of `step` bytes.
pub(super) fn read_all(store: &dyn BlobStore, key: &BlobKey, step: usize) -> StoreResult<Bytes> {
    let reader = store.open(key)?;
    let mut out = Vec::new();
    while (out.len() as u64) < reader.size_bytes() {
        let at = out.len() as u64;
        let blocks = reader.read_blocks(at, step)?;
        assert_eq!(blocks.first_damaged(), None);
        out.extend_from_slice(&blocks.slice(at, u64::MAX));
    }
    Ok(out.into())
}

/// Asserts that a result is the error of this pattern.
macro_rules! assert_refused {
    ($result:expr, $pattern:pat) => {
        match $result {
            Err($pattern) => {}
            Err(other) => panic!("expected {}, got {other:?}", stringify!($pattern)),
            Ok(_) => panic!("expected {}, got success", stringify!($pattern)),
        }
    };
}
pub(super) use assert_refused;

/// Makes a test of each function of the suite, for one [`Subject`].
macro_rules! blob_store_suite {
    ($subject:ty) => {
        $crate::blob::store::suite::blob_store_suite!($subject:
            uploads::pushed_bytes_come_back, uploads::wrong_digest_frees, uploads::offsets_are_exact,
            uploads::one_writer, uploads::epochs_fence, uploads::epochs_survive_a_crash, uploads::truncate_anywhere,
            uploads::sealed_takes_no_bytes, uploads::other_algorithm_at_the_seal, uploads::discard_ends_everything,
            uploads::idle_uploads_expire, uploads::listed_in_pages, uploads::prefix_can_be_copied,
            whole::small_blobs, whole::imports, whole::failed_imports_leave_nothing, whole::generations_are_apart,
            whole::herd_of_equal_puts, whole::locks_exclude_placing,
            reads::every_range, reads::readers_survive_removal, reads::damage_is_never_served,
            inventory::walk_lists_all_once, inventory::removed_is_gone, inventory::compaction_keeps_what_lives,
            space::watermarks, space::no_space_in_the_middle, space::uploads_are_bounded,
            faults::crash_keeps_what_was_placed, faults::interrupted_upload_goes_on,
            faults::failed_sync_ends_writes, faults::failed_write_changes_nothing,
        );
    };
    ($subject:ty: $($module:ident::$name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                $crate::blob::store::suite::$module::$name::<$subject>();
            }
        )*
    };
}
pub(super) use blob_store_suite;
