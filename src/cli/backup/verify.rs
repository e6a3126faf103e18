//! `portolan backup verify`: reads all of a backup, and changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use registry_core::metadata::check::{self, stored};
use serde_json::json;

use super::manifest::{FILE, Manifest};
use crate::cli::error::CliError;
use crate::cli::output::Printer;
use crate::metadata::backup::{self, BLOBS, STATE};
use crate::metadata::stopped::StoppedState;

/// Problems that are told; after the first ones the rest say the same.
const SHOWN_MAX: usize = 100;

pub(super) fn run(dir: &Path, printer: Printer) -> Result<(), CliError> {
    let (manifest, problems) = examine(dir)?;
    let document = json!({
        "good": problems.is_empty(),
        "cluster": manifest.cluster,
        "lineage": manifest.lineage,
        "index": manifest.index,
        "made_at": manifest.made_at,
        "node": manifest.node,
        "version": manifest.version,
        "blobs": manifest.blobs,
        "blob_bytes": manifest.blob_bytes,
        "files": manifest.files.len(),
        "problems": problems,
    });
    let shown = [
        ("cluster", "cluster"),
        ("lineage", "lineage"),
        ("index", "index"),
        ("made at", "made_at"),
        ("by node", "node"),
        ("files", "files"),
        ("blobs named", "blobs"),
        ("their bytes", "blob_bytes"),
        ("good", "good"),
    ];
    printer.one(&document, &shown)?;
    ensure_good(dir, &problems)
}

/// Refuses a backup with problems.
pub(super) fn ensure_good(dir: &Path, problems: &[String]) -> Result<(), CliError> {
    if problems.is_empty() {
        return Ok(());
    }
    let shown = problems.join("\n  ");
    Err(CliError::failed(format!("the backup in {} is damaged; use another one:\n  {shown}", dir.display())))
}

/// Everything that is wrong with a backup.
pub(super) fn examine(dir: &Path) -> Result<(Manifest, Vec<String>), CliError> {
    let manifest = Manifest::read(dir)?;
    let mut problems = files(dir, &manifest)?;
    // tables that are not what they were are not looked at: what they say is chance
    if problems.is_empty() {
        problems = tables(dir, &manifest);
    }
    problems.truncate(SHOWN_MAX);
    Ok((manifest, problems))
}

fn files(dir: &Path, manifest: &Manifest) -> Result<Vec<String>, CliError> {
    let mut problems = Vec::new();
    for entry in &manifest.files {
        match backup::hash(&dir.join(&entry.path)) {
            Ok(found) if found == (entry.size_bytes, entry.digest()?) => {}
            Ok(_) => problems.push(format!("{} is not what was backed up", entry.path)),
            Err(error) => problems.push(format!("{}: {error}", entry.path)),
        }
    }
    let named: BTreeSet<&str> = manifest.files.iter().map(|entry| entry.path.as_str()).collect();
    let found = crate::metadata::tables::walk(dir);
    let found = found.map_err(|error| CliError::failed(format!("{}: {error}", dir.display())))?;
    let strange = found.iter().filter(|path| *path != FILE && !named.contains(path.as_str()));
    problems.extend(strange.map(|path| format!("{path} is no part of the backup; remove it")));
    Ok(problems)
}

fn tables(dir: &Path, manifest: &Manifest) -> Vec<String> {
    let state = match StoppedState::open_copy(&dir.join(STATE)) {
        Ok(state) => state,
        Err(error) => return vec![error.to_string()],
    };
    let mut problems: Vec<String> = state.read_whole().err().map(|error| error.to_string()).into_iter().collect();
    let found = check::check(&state, SHOWN_MAX);
    problems.extend(found.violations.iter().map(ToString::to_string));
    let row = stored::cluster(&state);
    let named = row.map(|row| (row.cluster.to_string(), row.lineage.to_string()));
    if named != Some((manifest.cluster.clone(), manifest.lineage.clone())) {
        problems.push(format!("the tables belong to another cluster or lineage than {FILE} says"));
    }
    match state.applied() {
        Ok(index) if index == manifest.index => {}
        Ok(index) => problems.push(format!("the tables are at index {index}, {FILE} says {}", manifest.index)),
        Err(error) => problems.push(error.to_string()),
    }
    let listed = std::fs::read_to_string(dir.join(BLOBS)).unwrap_or_default();
    let mut lines = listed.lines();
    let is_listed = stored::records(&state).all(|record| lines.next() == Some(backup::line(&record).as_str()));
    if !is_listed || lines.next().is_some() {
        problems.push(format!("{BLOBS} does not list the blobs of the tables"));
    }
    problems.extend(state.errors());
    problems
}
