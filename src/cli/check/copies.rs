//! Every copy of every blob, judged by the newest state; then what lies on the volumes beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use registry_core::metadata::check::stored::{self, Record, Seat};
use registry_core::vocabulary::Digest;
use registry_core::vocabulary::ids::StoreId;

use super::Plan;
use super::directory::Directory;
use super::progress::Progress;
use super::report::{Problems, Report, SurplusFile};
use crate::blob::store::BlobKey;
use crate::blob::store::fs::{Examined, Lying, StoppedVolume};
use crate::cli::error::CliError;
use crate::metadata::stopped::StoppedState;

/// Records whose copies are read by the readers before the next ones are taken.
const PAGE_RECORDS: usize = 1024;

/// A copy that should be somewhere.
struct Task<'a> {
    /// Index of the record in its page.
    record: usize,
    /// Index of the directory.
    at: usize,
    volume: &'a StoppedVolume,
    key: BlobKey,
    size_bytes: u64,
}

/// The volumes given.
struct Volumes<'a> {
    directories: &'a [Directory],
    by_store: BTreeMap<StoreId, usize>,
    seats: BTreeMap<StoreId, Seat>,
}

impl Volumes<'_> {
    fn tasks<'a>(&'a self, page: &[Record]) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        for (record, Record { digest, row, .. }) in page.iter().enumerate() {
            for at in row.stores.iter().filter_map(|store| self.by_store.get(store)) {
                let Some(volume) = &self.directories[*at].volume else { continue };
                let key = BlobKey::new(*digest, row.generation);
                tasks.push(Task { record, at: *at, volume, key, size_bytes: row.size_bytes });
            }
        }
        tasks
    }

    fn zone(&self, at: usize) -> Option<&str> {
        let store = self.directories[at].store()?;
        self.seats.get(&store).map(|seat| seat.zone.as_str())
    }
}

/// Looks at every copy that `newest` names on the volumes given. Returns the blobs of which no good copy is left.
pub(super) fn examine(
    newest: &StoppedState,
    directories: &[Directory],
    plan: &Plan,
    report: &mut Report,
    problems: &mut Problems,
) -> Result<BTreeSet<Digest>, CliError> {
    let with_volume = directories.iter().enumerate().filter(|(_, directory)| directory.volume.is_some());
    let by_store = with_volume.filter_map(|(at, directory)| Some((directory.store()?, at))).collect();
    let volumes = Volumes { directories, by_store, seats: stored::seats(newest) };
    report.zones(|at| volumes.zone(at));
    ensure_zones(&volumes, plan)?;
    let total = stored::records(newest).map(|record| {
        let here = record.row.stores.iter().filter(|store| volumes.by_store.contains_key(store)).count();
        record.row.size_bytes.saturating_mul(here as u64)
    });
    let progress = Progress::bytes("copies", total.sum());
    let mut lost = BTreeSet::new();
    let mut records = stored::records(newest);
    loop {
        let page: Vec<Record> = records.by_ref().take(PAGE_RECORDS).collect();
        if page.is_empty() {
            break;
        }
        let tasks = volumes.tasks(&page);
        let found = read_all(&tasks, plan, &progress);
        judge(&volumes, &page, &tasks, found, plan, &mut lost, report, problems);
    }
    progress.done();
    surplus(newest, directories, plan, report, problems);
    Ok(lost)
}

/// What is asked for must be possible with the volumes given.
fn ensure_zones(volumes: &Volumes<'_>, plan: &Plan) -> Result<(), CliError> {
    let Some(zones_min) = plan.zones_min else { return Ok(()) };
    let zones: BTreeSet<&str> = (0..volumes.directories.len()).filter_map(|at| volumes.zone(at)).collect();
    if zones.len() >= zones_min {
        return Ok(());
    }
    Err(CliError::usage(format!(
        "--zones-min {zones_min} can't hold: the directories given stand in {} zones; name those of more nodes",
        zones.len()
    )))
}

/// Reads the copies with some threads; the answers in the order of the tasks.
fn read_all(tasks: &[Task<'_>], plan: &Plan, progress: &Progress) -> Vec<Examined> {
    let next = AtomicUsize::new(0);
    let found: Vec<Mutex<Examined>> = tasks.iter().map(|_| Mutex::new(Examined::Missing)).collect();
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.min(tasks.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(Task { volume, key, size_bytes, .. }) = tasks.get(at) else { return };
                    *found[at].lock() = volume.examine(key, *size_bytes, plan.depth, &mut |bytes| progress.add(bytes));
                }
            });
        }
    });
    found.into_iter().map(Mutex::into_inner).collect()
}

#[expect(clippy::too_many_arguments, reason = "one page, what was found in it, and where to tell it")]
fn judge(
    volumes: &Volumes<'_>,
    page: &[Record],
    tasks: &[Task<'_>],
    found: Vec<Examined>,
    plan: &Plan,
    lost: &mut BTreeSet<Digest>,
    report: &mut Report,
    problems: &mut Problems,
) {
    let mut zones: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); page.len()];
    let mut good = vec![false; page.len()];
    for (task, found) in tasks.iter().zip(found) {
        let directory = &volumes.directories[task.at];
        let counts = &mut report.directories[task.at].copies;
        counts.named += 1;
        let subject = task.key.digest.to_string();
        match found {
            Examined::Good { sums } => {
                counts.good += 1;
                counts.bytes += task.size_bytes;
                good[task.record] = true;
                zones[task.record].extend(volumes.zone(task.at));
                if let Some(text) = sums {
                    problems.add(Some(directory), "sums", &subject, format!("its block sums are {text}"));
                }
            }
            Examined::Bad(text) => {
                counts.bad += 1;
                problems.add(Some(directory), "copy", &subject, format!("the copy is bad: {text}"));
            }
            Examined::Missing => {
                counts.missing += 1;
                let text = format!("the copy {} is missing", task.key.file_name());
                problems.add(Some(directory), "copy", &subject, text);
            }
        }
    }
    for ((record, zones), good) in page.iter().zip(zones).zip(good) {
        let is_elsewhere = record.row.stores.iter().any(|store| !volumes.by_store.contains_key(store));
        if !good && !is_elsewhere {
            lost.insert(record.digest);
        }
        report.blob(record, zones.len(), !good && !is_elsewhere, plan);
        if !record.used {
            continue;
        }
        let subject = record.digest.to_string();
        if !good && !is_elsewhere {
            problems.add(NOWHERE, "lost", &subject, "a repository uses it, and no good copy is left");
        } else if plan.zones_min.is_some_and(|zones_min| zones.len() < zones_min) {
            let shown = zones.iter().copied().collect::<Vec<_>>().join(", ");
            problems.add(NOWHERE, "zones", &subject, format!("good copies in {} zones only ({shown})", zones.len()));
        }
    }
}

/// A problem of no single directory.
const NOWHERE: Option<&Directory> = None;

/// Counts what lies on each volume without being named by the state.
fn surplus(
    newest: &StoppedState,
    directories: &[Directory],
    plan: &Plan,
    report: &mut Report,
    problems: &mut Problems,
) {
    for (at, directory) in directories.iter().enumerate() {
        let Some(volume) = &directory.volume else { continue };
        let store = volume.store_id();
        let found = &mut report.directories[at];
        let visited = volume.each(|lying| match lying {
            Lying::Copy { key, size_bytes, .. } => {
                let record = stored::record(newest, &key.digest).filter(|row| row.generation == key.generation);
                let text = match record {
                    Some(row) if row.stores.contains(&store) => return,
                    Some(_) => "a copy that was never confirmed",
                    None => "no record names it",
                };
                found.surplus.add(SurplusFile::new(key.file_name(), size_bytes, text), plan.show_max);
            }
            Lying::Stray { name, size_bytes } => {
                found.surplus.add(SurplusFile::new(name, size_bytes, "it belongs to nothing"), plan.show_max);
            }
            Lying::Staged { size_bytes, .. } => found.staged.add(size_bytes),
            Lying::Quarantined { size_bytes, .. } => found.quarantined.add(size_bytes),
        });
        if let Err(error) = visited {
            problems.add(Some(directory), "volume", "", error.to_string());
        }
    }
}
