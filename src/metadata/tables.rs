//! The state on RocksDB: rows of the core's tables, and beside them, in the same batch, what consensus has applied.
//!
//! ```text
//! <root>/CURRENT          name of the live directory, replaced atomically
//! <root>/state-<n>/       a RocksDB instance: column family `default` = the tables, `local` = last applied, meta
//! ```
//! The write-ahead log is on but not synced: after a power cut the state is a consistent earlier prefix, and consensus
//! applies the rest again from its own synced log (consensus-and-faults §2.2).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use registry_core::metadata::cluster;
use registry_core::metadata::tables::{Row, TablesRead, Writes};
use registry_core::vocabulary::ids::{Lineage, Revision};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Direction, ErrorKind,
    IteratorMode, LruCacheOptions, Options, ReadOptions, WriteBatch, WriteOptions,
};

const CURRENT: &str = "CURRENT";
const LOCAL: &str = "local";
const META: &[u8] = b"meta";
const APPLIED: &[u8] = b"applied";

/// The state directory can't be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing files failed.
    #[error("state directory {path}: {error}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// RocksDB refused or found damage.
    #[error("state in {path}: {error}")]
    Storage {
        /// Which instance.
        path: PathBuf,
        /// What it said.
        error: rocksdb::Error,
    },
}

/// Memory and files of the state instance.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// Blocks of tables kept in memory, bytes. Larger makes reads of a big registry faster.
    pub cache_bytes: usize,
    /// Writes gathered in memory before they become a file, bytes.
    pub write_buffer_bytes: usize,
    /// Open files at most.
    pub open_files: i32,
    /// Where files are kept; the simulator keeps them in memory.
    #[cfg(feature = "sim")]
    pub memory: Option<MemoryFiles>,
    /// The directory of consensus, which is told when a read finds damage: the next start reinstalls the state.
    pub told_of_rot: Option<PathBuf>,
}

/// Files that are in memory.
#[cfg(feature = "sim")]
#[derive(Clone)]
pub struct MemoryFiles(rocksdb::Env);

#[cfg(feature = "sim")]
impl std::fmt::Debug for MemoryFiles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("MemoryFiles")
    }
}

impl StateError {
    /// Whether the files themselves are damaged, so that only another copy helps.
    pub fn is_rot(&self) -> bool {
        matches!(self, StateError::Storage { error, .. } if error.kind() == ErrorKind::Corruption)
    }
}

impl Default for StateOptions {
    fn default() -> StateOptions {
        StateOptions {
            cache_bytes: 32 << 20,
            write_buffer_bytes: 16 << 20,
            open_files: 512,
            #[cfg(feature = "sim")]
            memory: None,
            told_of_rot: None,
        }
    }
}

impl StateOptions {
    /// The cache of all blocks. Few shards: a block larger than a shard is never kept, and is read from the file each
    /// time it is looked at. RocksDB's own choice is half a megabyte a shard.
    pub(crate) fn cache(&self) -> Cache {
        let mut lru = LruCacheOptions::default();
        lru.set_capacity(self.cache_bytes);
        lru.set_num_shard_bits(2);
        Cache::new_lru_cache_opts(&lru)
    }
}

/// How tables are laid out. Filters and indexes are cut into small blocks, so that the cache can keep those in use
/// however large a table grows: in one block, the filter of half a million rows is as large as all that was wanted
/// to be read of them.
fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    table
}

/// One open instance.
pub(crate) struct Instance {
    pub(crate) db: DB,
    path: PathBuf,
    told_of_rot: Option<PathBuf>,
    /// Replaced: its files go with its last reader, who may still have to open some of them.
    replaced: AtomicBool,
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a replaced state is left for the next start to remove");
        }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Instance({})", self.path.display())
    }
}

impl Instance {
    pub(crate) fn open(
        path: &Path,
        options: &StateOptions,
        cache: &Cache,
        read_only: bool,
    ) -> Result<Instance, StateError> {
        let table = table_options(cache);
        let mut tuned = Options::default();
        tuned.create_if_missing(!read_only);
        tuned.create_missing_column_families(true);
        tuned.set_block_based_table_factory(&table);
        tuned.set_compression_type(DBCompressionType::Lz4);
        tuned.set_write_buffer_size(options.write_buffer_bytes);
        tuned.set_max_open_files(options.open_files);
        tuned.set_keep_log_file_num(4);
        tuned.set_max_background_jobs(2);
        tuned.set_max_total_wal_size(128 << 20);
        #[cfg(feature = "sim")]
        if let Some(MemoryFiles(env)) = &options.memory {
            tuned.set_env(env);
        }
        let families = ["default", LOCAL].map(|name| ColumnFamilyDescriptor::new(name, tuned.clone()));
        let opened = match read_only {
            false => DB::open_cf_descriptors(&tuned, path, families),
            true => DB::open_cf_descriptors_read_only(&tuned, path, families, false),
        };
        match opened {
            Ok(db) => {
                let (path, told_of_rot) = (path.to_owned(), options.told_of_rot.clone());
                Ok(Instance { db, path, told_of_rot, replaced: AtomicBool::new(false) })
            }
            Err(error) => Err(StateError::Storage { path: path.to_owned(), error }),
        }
    }

    /// Notes durably that these files can't be trusted, if that is what the error says.
    fn condemn(&self, error: &rocksdb::Error) {
        let Some(raft_dir) = self.told_of_rot.as_ref().filter(|_| error.kind() == ErrorKind::Corruption) else {
            return;
        };
        match raft::condemn(raft_dir, &format!("{}: {error}", self.path.display())) {
            Ok(()) => tracing::error!("the next start reinstalls the state from another node"),
            Err(told) => tracing::error!(error = %told, "that the state is rotten can't be noted"),
        }
    }

    /// Reads of damaged state must end the node: another one answers, and this one is reinstalled from its peers.
    fn rotten(&self, error: &rocksdb::Error) -> ! {
        tracing::error!(%error, "the state can't be read; stopping, so that no other node's answer is contradicted");
        self.condemn(error);
        std::process::abort()
    }

    /// Reads every row, and so every block that holds one.
    pub(crate) fn read_whole(&self) -> Result<(), StateError> {
        for family in ["default", LOCAL] {
            let family = self.db.cf_handle(family).expect("the instance was opened with this family");
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            let mut rows = self.db.iterator_cf_opt(family, options, IteratorMode::Start);
            rows.try_for_each(|row| row.map(drop)).map_err(|error| self.storage(error))?;
        }
        Ok(())
    }

    fn storage(&self, error: rocksdb::Error) -> StateError {
        StateError::Storage { path: self.path.clone(), error }
    }

    /// Where this node's own marks are.
    fn family(&self) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(LOCAL).expect("the instance was opened with this family")
    }

    fn local(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.db.get_cf(self.family(), key).map_err(|error| self.storage(error))
    }

    fn standing(&self) -> Result<Revision, StateError> {
        Ok(standing(self, &Live(self), self.local(APPLIED)?))
    }

    /// The index that everything here was applied up to.
    pub(crate) fn applied(&self) -> Result<u64, StateError> {
        let found = self.local(APPLIED)?.unwrap_or_default();
        Ok(found.try_into().map_or(0, u64::from_be_bytes))
    }

    pub(crate) fn meta(&self) -> Result<Option<Vec<u8>>, StateError> {
        self.local(META)
    }
}

fn range(instance: &Instance, mut options: ReadOptions, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
    if from >= to || limit == 0 {
        return Vec::new();
    }
    options.set_iterate_upper_bound(to);
    let mut rows = Vec::new();
    for row in instance.db.iterator_opt(IteratorMode::From(from, Direction::Forward), options).take(limit) {
        match row {
            Ok((key, value)) => rows.push((key.into_vec(), value.into_vec())),
            Err(error) => instance.rotten(&error),
        }
    }
    rows
}

/// The live instance without a snapshot: for `apply`, the only writer.
pub(crate) struct Live<'a>(pub(crate) &'a Instance);

impl TablesRead for Live<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.db.get(key).unwrap_or_else(|error| self.0.rotten(&error))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        range(self.0, ReadOptions::default(), from, to, limit)
    }
}

/// The tables at one applied index.
pub struct View<'a> {
    snapshot: rocksdb::Snapshot<'a>,
    instance: &'a Instance,
    at: Revision,
}

impl View<'_> {
    /// The log index everything read here was applied up to.
    pub fn index(&self) -> u64 {
        self.at.index
    }

    /// The same with the life of the cluster; before `cluster init` that is 0.
    pub fn revision(&self) -> Revision {
        self.at
    }
}

impl TablesRead for View<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.snapshot.get(key).unwrap_or_else(|error| self.instance.rotten(&error))
    }

    fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Row> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        range(self.instance, options, from, to, limit)
    }
}

/// Where the live tables stand, kept in memory: every read asks, and looking it up costs as much as what it came for.
///
/// The one writer makes `turn` odd before a batch lands and even after it. A snapshot taken while `turn` was even, and
/// stayed as it was, is of exactly the revision noted here.
#[derive(Debug, Default)]
struct Mark {
    turn: AtomicU64,
    lineage: AtomicU64,
    index: AtomicU64,
}

impl Mark {
    fn begin(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self, at: Revision) {
        self.lineage.store(at.lineage.0, Ordering::SeqCst);
        self.index.store(at.index, Ordering::SeqCst);
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// The revision around `work`, with what that came to; no revision if a batch landed meanwhile.
    fn around<R>(&self, work: impl FnOnce() -> R) -> (Option<Revision>, R) {
        let turn = self.turn.load(Ordering::SeqCst);
        let lineage = Lineage(self.lineage.load(Ordering::SeqCst));
        let index = self.index.load(Ordering::SeqCst);
        let done = work();
        let is_still = turn.is_multiple_of(2) && self.turn.load(Ordering::SeqCst) == turn;
        (is_still.then_some(Revision { lineage, index }), done)
    }
}

/// Where an instance stands by its own rows.
fn standing(instance: &Instance, tables: &impl TablesRead, applied: Option<Vec<u8>>) -> Revision {
    let index = applied.map_or(0, |bytes| match <[u8; 8]>::try_from(bytes) {
        Ok(bytes) => u64::from_be_bytes(bytes),
        Err(_) => panic!("{instance:?} holds an applied index that is none"),
    });
    Revision { lineage: cluster::read(tables).map_or(Lineage(0), |row| row.lineage), index }
}

/// The state of this node, whichever instance is live.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    options: StateOptions,
    cache: CacheHandle,
    live: ArcSwap<Instance>,
    mark: Mark,
    /// Goes last, when the database is closed.
    open: Arc<()>,
}

struct CacheHandle(Cache);

impl std::fmt::Debug for CacheHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Cache")
    }
}

impl State {
    /// Opens the live instance under `root`, or makes the first one. Leftovers of an interrupted install are removed.
    pub fn open(root: &Path, options: StateOptions) -> Result<State, StateError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { path, error }
        };
        std::fs::create_dir_all(root).map_err(io(root))?;
        let name = match live_dir(root) {
            Err(StateError::Io { path, error }) if error.kind() == std::io::ErrorKind::NotFound => {
                point(root, "state-1").map_err(io(&path))?;
                "state-1".to_owned()
            }
            found => found?,
        };
        for entry in std::fs::read_dir(root).map_err(io(root))? {
            let entry = entry.map_err(io(root))?;
            let other = entry.file_name();
            if other.to_string_lossy().starts_with("state-") && other.to_string_lossy() != name {
                std::fs::remove_dir_all(entry.path()).map_err(io(&entry.path()))?;
            }
        }
        State::over(root.to_owned(), &name, options)
    }

    /// Opens one instance under `root`.
    fn over(root: PathBuf, name: &str, options: StateOptions) -> Result<State, StateError> {
        let cache = options.cache();
        let live = Instance::open(&root.join(name), &options, &cache, false)?;
        let mark = Mark::default();
        mark.begin();
        mark.end(live.standing()?);
        let (cache, live) = (CacheHandle(cache), ArcSwap::from_pointee(live));
        Ok(State { root, options, cache, live, mark, open: Arc::default() })
    }

    /// An empty state whose files are in memory.
    #[cfg(feature = "sim")]
    pub fn in_memory() -> Result<State, StateError> {
        let env = rocksdb::Env::mem_env();
        let path = Path::new("/state");
        let env = env.map_err(|error| StateError::Storage { path: path.to_owned(), error })?;
        let small = StateOptions { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..StateOptions::default() };
        let options = StateOptions { memory: Some(MemoryFiles(env)), ..small };
        State::over(path.to_owned(), "state-1", options)
    }

    /// Becomes empty when the last handle is gone and the database is closed.
    pub fn lifetime(&self) -> std::sync::Weak<()> {
        Arc::downgrade(&self.open)
    }

    pub(crate) fn live(&self) -> Arc<Instance> {
        self.live.load_full()
    }

    /// Runs `read` on the tables at one revision.
    pub fn read<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        let (marked, instance) = self.mark.around(|| self.live.load());
        let (still, snapshot) = self.mark.around(|| instance.db.snapshot());
        let at = Revision { lineage: Lineage(0), index: 0 };
        let mut view = View { snapshot, instance: &instance, at };
        view.at = match (marked, still) {
            (Some(before), Some(after)) if before == after => after,
            // a batch landed meanwhile: the snapshot itself knows of which side of it it is
            _ => standing(
                &instance,
                &view,
                view.snapshot.get_cf(instance.family(), APPLIED).unwrap_or_else(|error| instance.rotten(&error)),
            ),
        };
        read(&view)
    }

    /// Where the live tables stand now.
    pub fn revision(&self) -> Revision {
        match self.mark.around(|| ()) {
            (Some(at), ()) => at,
            (None, ()) => self.read(|view| view.revision()),
        }
    }

    /// Lands a batch: the writes, the index they lead to and consensus' own mark, all or nothing.
    pub(crate) fn write(&self, writes: Writes, applied: u64, meta: &[u8]) -> Result<(), StateError> {
        let instance = self.live.load();
        let mut batch = WriteBatch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let family = instance.family();
        batch.put_cf(family, APPLIED, applied.to_be_bytes());
        batch.put_cf(family, META, meta);
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.mark.begin();
        let written = instance.db.write_opt(batch, &options).map_err(|error| {
            // found while files were merged
            instance.condemn(&error);
            instance.storage(error)
        });
        let lineage = cluster::read(&Live(&instance)).map_or(Lineage(0), |row| row.lineage);
        // after an error the node stops; until then reads look up where they stand
        written.inspect(|()| self.mark.end(Revision { lineage, index: applied }))
    }

    /// Writes a consistent copy into `dir`, which must not exist, and returns the mark *of the copy*.
    pub(crate) fn checkpoint(&self, dir: &Path) -> Result<Vec<u8>, StateError> {
        let instance = self.live();
        let made = Checkpoint::new(&instance.db).and_then(|checkpoint| checkpoint.create_checkpoint(dir));
        made.map_err(|error| instance.storage(error))?;
        Ok(self.inspect(dir)?.unwrap_or_default())
    }

    /// Opens a copy read-only and returns its mark.
    pub(crate) fn inspect(&self, dir: &Path) -> Result<Option<Vec<u8>>, StateError> {
        Instance::open(dir, &self.options, &self.cache.0, true)?.meta()
    }

    /// Opens a copy read-only, reads all of it, and returns its mark.
    pub(crate) fn verify(&self, dir: &Path) -> Result<Option<Vec<u8>>, StateError> {
        let copy = Instance::open(dir, &self.options, &self.cache.0, true)?;
        copy.read_whole()?;
        copy.meta()
    }

    /// Makes the copy in `dir` the live state. A crash at any step leaves the old or the new one.
    pub(crate) fn install(&self, dir: &Path) -> Result<(), StateError> {
        let old = self.live();
        let number = old.path.file_name().and_then(|name| name.to_str()?.strip_prefix("state-")?.parse::<u64>().ok());
        let name = format!("state-{}", number.unwrap_or(0) + 1);
        let target = self.root.join(&name);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { path, error }
        };
        std::fs::rename(dir, &target).map_err(io(&target))?;
        let opened = Instance::open(&target, &self.options, &self.cache.0, false)?;
        let at = opened.standing()?;
        point(&self.root, &name).map_err(io(&self.root))?;
        self.mark.begin();
        self.live.store(Arc::new(opened));
        self.mark.end(at);
        old.replaced.store(true, Ordering::Release);
        Ok(())
    }
}

/// Regular files below a directory, as sorted relative paths with `/`.
pub(crate) fn walk(dir: &Path) -> std::io::Result<Vec<String>> {
    let (mut found, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(prefix) = open.pop() {
        for entry in std::fs::read_dir(dir.join(&prefix))? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|_| std::io::Error::other("a name is not UTF-8"))?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type()?.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes a copy from elsewhere the state below `root`, where there is none yet. Durable when this returns.
pub fn bring_in(root: &Path, copy: &Path) -> Result<(), StateError> {
    let name = "state-1";
    let (target, io) = (root.join(name), |error| StateError::Io { path: root.to_owned(), error });
    std::fs::create_dir_all(&target).map_err(io)?;
    for path in walk(copy).map_err(io)? {
        let to = target.join(&path);
        std::fs::create_dir_all(to.parent().unwrap_or(&target)).map_err(io)?;
        std::fs::copy(copy.join(&path), &to).map_err(io)?;
        std::fs::File::open(&to).and_then(|file| file.sync_all()).map_err(io)?;
    }
    std::fs::File::open(&target).and_then(|dir| dir.sync_all()).map_err(io)?;
    point(root, name).map_err(io)
}

/// Puts a state that is not to be used any more aside, beside its directory; the one put aside before goes. Nothing if
/// there is none.
pub fn put_aside(root: &Path) -> Result<Option<PathBuf>, StateError> {
    let aside = root.with_extension("rotten");
    let io = |error| StateError::Io { path: aside.clone(), error };
    if !root.join(CURRENT).exists() {
        return Ok(None);
    }
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    std::fs::rename(root, &aside).map_err(io)?;
    let parent = root.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(Some(aside))
}

/// The name of the live directory.
pub(crate) fn live_dir(root: &Path) -> Result<String, StateError> {
    let path = root.join(CURRENT);
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(error) => Err(StateError::Io { path, error }),
    }
}

/// Points `CURRENT` at a directory: written aside, synced, renamed, directory synced.
fn point(root: &Path, name: &str) -> std::io::Result<()> {
    let aside = root.join("CURRENT.new");
    let mut file = std::fs::File::create(&aside)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    std::fs::rename(&aside, root.join(CURRENT))?;
    std::fs::File::open(root)?.sync_all()
}

#[cfg(test)]
mod tests {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    use super::*;

    fn writes(rows: &[(&str, Option<&str>)]) -> Writes {
        rows.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.map(|v| v.as_bytes().to_vec()))).collect()
    }

    // Writes and the applied mark land together, survive a reopening, and a view does not see what comes after it.
    #[test]
    fn batches_views_and_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), StateOptions::default()).unwrap();
        state.write(writes(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), 7, b"m7").unwrap();
        state.read(|view| {
            state.write(writes(&[("a", None)]), 8, b"m8").unwrap();
            assert_eq!((view.index(), view.get(b"a")), (7, Some(b"1".to_vec())));
            assert_eq!(view.range(b"a", b"c", 9).len(), 2);
            assert_eq!(view.range(b"a", b"z", 1).len(), 1);
            assert_eq!(view.prefix(b"", 9).len(), 3);
        });
        drop(state);
        let state = State::open(dir.path(), StateOptions::default()).unwrap();
        assert_eq!(state.live().meta().unwrap(), Some(b"m8".to_vec()));
        state.read(|view| assert_eq!((view.index(), view.get(b"a")), (8, None)));
    }

    // What a look at one row costs does not grow with the state: of half a million rows, no more is read than a few
    // blocks. (With filters in one block each, every look read 640 KB from there on, and followers could not keep
    // up.)
    #[test]
    fn looks_stay_cheap() {
        let dir = tempfile::tempdir().unwrap();
        let options = StateOptions::default();
        let instance = Instance::open(dir.path(), &options, &options.cache(), false).unwrap();
        let key = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        for first in (0..ROWS).step_by(10_000) {
            let mut batch = WriteBatch::default();
            (first..first + 10_000).for_each(|number| batch.put(key(number), [7; 100]));
            instance.db.write(batch).unwrap();
        }
        instance.db.flush().unwrap();
        instance.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        let look = |number: u32| assert!(instance.db.get(key(number)).unwrap().is_some());
        (0..1_000).for_each(look);
        set_perf_stats(PerfStatsLevel::EnableCount);
        let mut cost = PerfContext::default();
        cost.reset();
        (1_000..2_000).for_each(|number| look(number * 200));
        let read = cost.metric(PerfMetric::BlockReadByte) / 1_000;
        set_perf_stats(PerfStatsLevel::Disable);
        assert!(read < 20_000, "{read} bytes were read for a row");
    }

    const ROWS: u32 = 600_000;

    // A view tells the revision of exactly the rows it shows, while batches land one after the other.
    #[test]
    fn views_tell_where_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path(), StateOptions::default()).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for index in 1..=3000_u64 {
                    state.write(writes(&[("a", Some(&index.to_string()))]), index, b"m").unwrap();
                }
                is_over.store(true, Ordering::SeqCst);
            });
            let mut last = 0;
            while !is_over.load(Ordering::SeqCst) {
                let known = state.revision().index;
                state.read(|view| {
                    let row = view.get(b"a").map_or(0, |row| String::from_utf8(row).unwrap().parse::<u64>().unwrap());
                    assert_eq!(view.index(), row);
                    assert!(view.index() >= known && known >= last);
                    last = known;
                });
            }
        });
        assert_eq!(state.revision().index, 3000);
    }

    // A copy carries the mark of its own data; installing it replaces the state, also for the next start.
    #[test]
    fn checkpoint_and_install() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), StateOptions::default()).unwrap();
        state.write(writes(&[("a", Some("1"))]), 3, b"m3").unwrap();
        let copy = dir.path().join("copy");
        assert_eq!(state.checkpoint(&copy).unwrap(), b"m3");
        state.write(writes(&[("a", Some("2"))]), 4, b"m4").unwrap();
        assert_eq!(state.inspect(&copy).unwrap(), Some(b"m3".to_vec()));
        state.install(&copy).unwrap();
        let at = |state: &State| state.read(|view| (view.index(), view.get(b"a")));
        assert_eq!(at(&state), (3, Some(b"1".to_vec())));
        assert_eq!(state.revision().index, 3);
        drop(state);
        let state = State::open(&dir.path().join("state"), StateOptions::default()).unwrap();
        assert_eq!(at(&state), (3, Some(b"1".to_vec())));
    }

    // A copy that rotted opens, and is found out when all of it is read; the error says that only another one helps.
    #[test]
    fn rot_is_found_by_reading() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state"), StateOptions::default()).unwrap();
        let rows = (0..1000u32).map(|row| (row.to_be_bytes().to_vec(), Some(vec![row as u8; 100])));
        state.write(rows.collect(), 1, b"m").unwrap();
        let copy = dir.path().join("copy");
        state.checkpoint(&copy).unwrap();
        assert_eq!(state.verify(&copy).unwrap(), Some(b"m".to_vec()));
        let tables = walk(&copy).unwrap().into_iter().filter(|path| path.ends_with(".sst")).map(|path| copy.join(path));
        let table = tables.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[200..400].fill(0x5a);
        // the live state has the same file, and keeps it as it is
        std::fs::remove_file(&table).unwrap();
        std::fs::write(&table, bytes).unwrap();
        let error = state.verify(&copy).unwrap_err();
        assert!(error.is_rot(), "{error}");
        assert!(state.inspect(&copy).is_ok());
    }

    // A state is put aside whole, once; a copy from elsewhere takes its place.
    #[test]
    fn put_aside_and_brought_in() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        assert_eq!(put_aside(&root).unwrap(), None);
        let state = State::open(&root, StateOptions::default()).unwrap();
        state.write(writes(&[("a", Some("1"))]), 3, b"m3").unwrap();
        let copy = dir.path().join("copy");
        state.checkpoint(&copy).unwrap();
        drop(state);
        assert_eq!(put_aside(&root).unwrap(), Some(dir.path().join("state.rotten")));
        assert_eq!(put_aside(&root).unwrap(), None);
        let aside = State::open(&dir.path().join("state.rotten"), StateOptions::default()).unwrap();
        assert_eq!(aside.revision().index, 3);
        bring_in(&root, &copy).unwrap();
        let state = State::open(&root, StateOptions::default()).unwrap();
        assert_eq!(state.read(|view| (view.index(), view.get(b"a"))), (3, Some(b"1".to_vec())));
    }
}
