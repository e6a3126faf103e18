//! `portolan check`: does everything that stopped nodes hold still fit together? Reads only; keeps nodes out meanwhile.
//!
//! What is looked at, in each data directory: that its identity files agree; the log, whole; the applied state against
//! the log; every row of the tables against the rows it must stand beside; every copy of a blob that the newest of the
//! states given says is here, hashed whole (`--quick`: its size, sums, first and last block); what lies there
//! beside. Over all of them: in how many zones each blob has a good copy, and that each tag reaches a whole image.
//!
//! A problem ends the command with status 1, wrong arguments or a running node with 2. Surplus files are no problem: a
//! crash leaves them, and they go when their upload is expired.
//!
//! The shape of `-o json`; ids are hexadecimal text, sizes and counts are numbers:
//!
//! ```text
//! { "good": bool,                      no problem was found
//!   "quick": bool,
//!   "zones_min": number | null,        as asked for
//!   "revision": "<lineage>.<index>",   of the state by which copies were judged: the newest of those given
//!   "directories": [ {
//!       "path": text, "node": id | null, "store": id | null, "zone": text | null,
//!       "applied_index": number,       how far its own state is
//!       "log": { "term", "last_index", "purged_index": number | null, "entries": number,
//!                "unapplied": number   entries that the next start will apply, if they are committed
//!              },
//!       "rows": number,                of its own tables, each looked at
//!       "copies": { "named": number,   that should be here
//!                   "good", "bad", "missing": number,
//!                   "bytes": number    of the good ones
//!                 },
//!       "surplus": { "files": number, "bytes": number, "first": [ { "name": text, "bytes": number, "text": text } ] },
//!       "staged": { "files", "bytes" }, "quarantined": { "files", "bytes" }
//!   } ],
//!   "blobs": { "records": number,      all of them
//!              "unused": number,       no repository uses them; they are not asked to be in any zone
//!              "bytes": number,        of those in use, each counted once
//!              "by_zones": { "0": number, "1": number, … },   those in use, by zones with a good copy that was seen
//!              "lost": number          in use, and no good copy is left in any place that names it
//!            },
//!   "blob_zones": { "<digest>": number, … },                  with --list-blobs only: those in use
//!   "images": { "repositories": number, "tags": number, "broken": number },
//!   "problems": [ { "directory": text | null, "kind": text, "subject": text, "text": text } ],   the first ones
//!   "problems_total": number
//! }
//! ```
//!
//! Kinds of problems: `identity`, `log`, `state` (can't be read), `tables` (rows that don't fit), `diverged` (two
//! states at one index differ), `volume`, `pack`, `copy` (bad or missing), `sums` (a sidecar; the copy itself is good),
//! `lost`, `zones`, `tag`.

mod copies;
mod directory;
mod progress;
mod report;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use registry_core::metadata::check;

use self::directory::{Directory, Paths};
use self::progress::Progress;
use self::report::{Problems, Report};
use super::error::CliError;
use super::output::Printer;
use super::server::ConfigurationArguments;
use crate::blob::store::fs::Depth;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Data directories of stopped nodes of one cluster; left out: the one of this machine's configuration.
    #[arg(value_name = "DIR", conflicts_with_all = ["config", "data_dir", "settings"])]
    directories: Vec<PathBuf>,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// Look at size, sums, first and last block of each copy in place of hashing all of it.
    #[arg(long)]
    quick: bool,
    /// Every blob that a repository uses must have good copies in this many zones.
    #[arg(long, value_name = "N")]
    zones_min: Option<usize>,
    /// Tell of each blob in how many zones it has a good copy (with -o json).
    #[arg(long)]
    list_blobs: bool,
    /// Problems, and surplus files of a directory, that are shown; all are counted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    show_max: usize,
    /// Copies read at the same time; left out: one for each processor, at most 4.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

/// How copies are looked at.
struct Plan {
    depth: Depth,
    zones_min: Option<usize>,
    list_blobs: bool,
    show_max: usize,
    jobs: usize,
}

pub(super) fn run(arguments: CheckArguments, printer: Printer) -> Result<(), CliError> {
    let paths: Vec<Paths> = match arguments.directories.is_empty() {
        true => vec![Paths::of_settings(&arguments.configuration.load()?.settings)],
        false => arguments.directories.iter().map(|dir| Paths::under(dir)).collect(),
    };
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok().map(|cores| cores.min(JOBS)));
    let plan = Plan {
        depth: if arguments.quick { Depth::Quick } else { Depth::Whole },
        zones_min: arguments.zones_min,
        list_blobs: arguments.list_blobs,
        show_max: arguments.show_max,
        jobs: jobs.map_or(1, NonZeroUsize::get),
    };
    let report = examine(paths, &plan)?;
    report.print(printer)?;
    match report.problems_total {
        0 => Ok(()),
        1 => Err(CliError::failed("1 problem was found")),
        count => Err(CliError::failed(format!("{count} problems were found"))),
    }
}

/// Readers when nobody says otherwise: more only make a disk seek.
const JOBS: NonZeroUsize = NonZeroUsize::new(4).expect("it is not zero");

fn examine(paths: Vec<Paths>, plan: &Plan) -> Result<Report, CliError> {
    let mut problems = Problems::new(plan.show_max);
    let opened: Result<Vec<Directory>, CliError> =
        paths.into_iter().map(|paths| Directory::open(paths, &mut problems)).collect();
    let directories = opened?;
    directory::ensure_one_cluster(&directories)?;
    let mut report = Report::new(plan, &directories);
    for (at, directory) in directories.iter().enumerate() {
        report.directories[at].rows = check_tables(directory, plan, &mut problems);
    }
    directory::compare_states(&directories, &mut problems);
    let newest = directories.iter().filter(|directory| directory.state.is_some()).max_by_key(|one| one.applied);
    if let Some((newest, state)) = newest.and_then(|newest| Some((newest, newest.state.as_ref()?))) {
        report.revision = newest.revision();
        let lost = copies::examine(state, &directories, plan, &mut report, &mut problems)?;
        let progress = Progress::rows("images", 0);
        let tags = check::tags::tags(state, |digest| lost.contains(digest), plan.show_max);
        progress.done();
        report.images(&tags, &mut problems);
        report.state_errors(&directories, &mut problems);
    }
    report.finish(problems);
    Ok(report)
}

/// Looks at every row of a directory's own tables; how many there are.
fn check_tables(directory: &Directory, plan: &Plan, problems: &mut Problems) -> u64 {
    let Some(state) = &directory.state else { return 0 };
    let progress = Progress::rows("rows", state.rows_estimate());
    let found = check::check(&progress.counting(state), plan.show_max.max(1));
    progress.done();
    for violation in &found.violations {
        problems.add(Some(directory), "tables", "", violation.to_string());
    }
    if found.cut {
        problems.add(Some(directory), "tables", "", "there are more; the tables were not looked at to their end");
    }
    found.rows
}
