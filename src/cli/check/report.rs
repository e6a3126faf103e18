//! What a check found: counted, bounded, and shown.

use std::collections::BTreeMap;
use std::path::Path;

use registry_core::metadata::check::stored::Record;
use registry_core::metadata::check::tags::TagReport;
use registry_core::vocabulary::ids::Revision;
use serde::Serialize;
use serde_json::{Value, json};

use super::Plan;
use super::directory::Directory;
use crate::blob::store::fs::Depth;
use crate::cli::error::CliError;
use crate::cli::output::Printer;

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    directory: Option<String>,
    kind: &'static str,
    subject: String,
    text: String,
}

/// All that is wrong: the first ones, and how many.
#[derive(Debug)]
pub(super) struct Problems {
    first: Vec<Problem>,
    total: u64,
    max: usize,
}

impl Problems {
    pub(super) fn new(max: usize) -> Problems {
        Problems { first: Vec::new(), total: 0, max }
    }

    pub(super) fn add<P: AsRef<Path>>(
        &mut self,
        directory: Option<P>,
        kind: &'static str,
        subject: &str,
        text: impl Into<String>,
    ) {
        self.total += 1;
        if self.first.len() < self.max {
            let directory = directory.map(|path| path.as_ref().display().to_string());
            self.first.push(Problem { directory, kind, subject: subject.to_owned(), text: text.into() });
        }
    }
}

/// Files and their bytes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Files {
    files: u64,
    bytes: u64,
}

impl Files {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// A file that the state does not name.
#[derive(Debug, Serialize)]
pub(super) struct SurplusFile {
    name: String,
    bytes: u64,
    text: &'static str,
}

impl SurplusFile {
    pub(super) fn new(name: String, bytes: u64, text: &'static str) -> SurplusFile {
        SurplusFile { name, bytes, text }
    }
}

/// Files that the state does not name.
#[derive(Debug, Default, Serialize)]
pub(super) struct Surplus {
    #[serde(flatten)]
    all: Files,
    first: Vec<SurplusFile>,
}

impl Surplus {
    pub(super) fn add(&mut self, file: SurplusFile, max: usize) {
        self.all.add(file.bytes);
        if self.first.len() < max {
            self.first.push(file);
        }
    }
}

/// Copies that should be in a directory.
#[derive(Debug, Default, Serialize)]
pub(super) struct Copies {
    pub(super) named: u64,
    pub(super) good: u64,
    pub(super) bad: u64,
    pub(super) missing: u64,
    pub(super) bytes: u64,
}

/// The log of a directory.
#[derive(Debug, Default, Serialize)]
struct Log {
    term: Option<u64>,
    last_index: Option<u64>,
    purged_index: Option<u64>,
    entries: u64,
    unapplied: u64,
}

/// One directory.
#[derive(Debug, Default, Serialize)]
pub(super) struct DirectoryReport {
    path: String,
    node: Option<String>,
    store: Option<String>,
    zone: Option<String>,
    applied_index: u64,
    log: Log,
    pub(super) rows: u64,
    pub(super) copies: Copies,
    pub(super) surplus: Surplus,
    pub(super) staged: Files,
    pub(super) quarantined: Files,
}

/// All blobs.
#[derive(Debug, Default, Serialize)]
struct Blobs {
    records: u64,
    unused: u64,
    bytes: u64,
    by_zones: BTreeMap<String, u64>,
    lost: u64,
}

/// All images.
#[derive(Debug, Default, Serialize)]
struct Images {
    repositories: u64,
    tags: u64,
    broken: u64,
}

/// The whole; its JSON is documented in [`super`].
#[derive(Debug, Serialize)]
pub(super) struct Report {
    good: bool,
    quick: bool,
    zones_min: Option<usize>,
    #[serde(serialize_with = "as_text")]
    pub(super) revision: Option<Revision>,
    pub(super) directories: Vec<DirectoryReport>,
    blobs: Blobs,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob_zones: Option<BTreeMap<String, usize>>,
    images: Images,
    problems: Vec<Problem>,
    pub(super) problems_total: u64,
}

fn as_text<S: serde::Serializer>(revision: &Option<Revision>, to: S) -> Result<S::Ok, S::Error> {
    match revision {
        Some(revision) => to.collect_str(revision),
        None => to.serialize_none(),
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, directories: &[Directory]) -> Report {
        Report {
            good: false,
            quick: plan.depth == Depth::Quick,
            zones_min: plan.zones_min,
            revision: None,
            directories: directories.iter().map(describe).collect(),
            blobs: Blobs::default(),
            blob_zones: plan.list_blobs.then(BTreeMap::new),
            images: Images::default(),
            problems: Vec::new(),
            problems_total: 0,
        }
    }

    pub(super) fn zones<'a>(&mut self, zone: impl Fn(usize) -> Option<&'a str>) {
        for (at, directory) in self.directories.iter_mut().enumerate() {
            directory.zone = zone(at).map(str::to_owned);
        }
    }

    /// Counts a blob with good copies in so many zones.
    pub(super) fn blob(&mut self, record: &Record, zones: usize, is_lost: bool, plan: &Plan) {
        self.blobs.records += 1;
        if !record.used {
            self.blobs.unused += 1;
            return;
        }
        self.blobs.bytes += record.row.size_bytes;
        self.blobs.lost += u64::from(is_lost);
        *self.blobs.by_zones.entry(zones.to_string()).or_default() += 1;
        if let Some(list) = self.blob_zones.as_mut().filter(|_| plan.list_blobs) {
            list.insert(record.digest.to_string(), zones);
        }
    }

    pub(super) fn images(&mut self, tags: &TagReport, problems: &mut Problems) {
        self.images = Images { repositories: tags.repositories, tags: tags.tags, broken: tags.broken };
        for broken in &tags.examples {
            let subject = format!("{}:{}", broken.repository, broken.tag);
            problems.add(None::<&Path>, "tag", &subject, format!("it does not reach a whole image: {}", broken.text));
        }
        problems.total += tags.broken - tags.examples.len() as u64;
    }

    /// What could not be read on the way.
    pub(super) fn state_errors(&self, directories: &[Directory], problems: &mut Problems) {
        for directory in directories {
            for text in directory.state.iter().flat_map(|state| state.errors()) {
                problems.add(Some(directory), "state", "", text);
            }
        }
    }

    pub(super) fn finish(&mut self, problems: Problems) {
        self.good = problems.total == 0;
        (self.problems, self.problems_total) = (problems.first, problems.total);
    }

    pub(super) fn print(&self, printer: Printer) -> Result<(), CliError> {
        let document = serde_json::to_value(self).map_err(|error| CliError::failed(error.to_string()))?;
        if printer.is_json() {
            return printer.json(&document);
        }
        let columns = [
            ("NODE", "node"),
            ("ZONE", "zone"),
            ("APPLIED", "applied_index"),
            ("LOG", "log.last_index"),
            ("ROWS", "rows"),
            ("COPIES", "copies.named"),
            ("GOOD", "copies.good"),
            ("BAD", "copies.bad"),
            ("MISSING", "copies.missing"),
            ("SURPLUS", "surplus.files"),
            ("STAGED", "staged.files"),
            ("DIRECTORY", "path"),
        ];
        printer.list(&document, "directories", &columns)?;
        printer.done("")?;
        printer.one(&self.summary(&document), &[("blobs", "blobs"), ("zones", "zones"), ("images", "images")])?;
        for directory in &self.directories {
            for file in &directory.surplus.first {
                printer.done(&format!(
                    "surplus: {} {} ({} bytes): {}",
                    directory.path, file.name, file.bytes, file.text
                ))?;
            }
        }
        for Problem { directory, kind, subject, text } in &self.problems {
            let place = directory.as_ref().map_or(String::new(), |directory| format!("{directory} "));
            let subject = if subject.is_empty() { String::new() } else { format!("{subject}: ") };
            printer.done(&format!("problem: {kind}: {place}{subject}{text}"))?;
        }
        if self.good { printer.done("everything is good") } else { Ok(()) }
    }

    /// Three sentences.
    fn summary(&self, document: &Value) -> Value {
        let Blobs { records, unused, bytes, by_zones, lost } = &self.blobs;
        let zones: Vec<String> =
            by_zones.iter().rev().map(|(zones, count)| format!("{count} with good copies in {zones}")).collect();
        json!({
            "blobs": format!("{records} records, {unused} of them unused, {bytes} bytes in use, {lost} lost"),
            "zones": if zones.is_empty() { "-".to_owned() } else { zones.join(", ") },
            "images": format!(
                "{} repositories, {} tags, {} broken",
                document["images"]["repositories"], document["images"]["tags"], document["images"]["broken"]
            ),
        })
    }
}

fn describe(directory: &Directory) -> DirectoryReport {
    let log = &directory.log;
    DirectoryReport {
        path: directory.path.display().to_string(),
        node: directory.node().map(|node| node.to_string()),
        store: directory.store().map(|store| store.to_string()),
        applied_index: directory.applied,
        log: Log {
            term: log.term,
            last_index: log.last.map(|last| last.index),
            purged_index: log.purged.map(|purged| purged.index),
            entries: log.entries,
            unapplied: log.unapplied(),
        },
        ..DirectoryReport::default()
    }
}
