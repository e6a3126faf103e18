//! `portolan backup restore`: a backup's state in an empty data directory, and what of its blobs is there.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use registry_core::metadata::check::stored;
use serde_json::json;

use super::verify;
use crate::blob::store::BlobKey;
use crate::blob::store::fs::{Depth, Examined, StoppedVolume};
use crate::cli::error::CliError;
use crate::cli::output::Printer;
use crate::cli::server::ConfigurationArguments;
use crate::ground::files::{self, PRIVATE_FILE_MODE};
use crate::metadata::backup::STATE;
use crate::metadata::stopped::StoppedState;
use crate::node;

/// Missing blobs that are shown; all are counted.
const SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    /// The backup.
    dir: PathBuf,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// A blob volume that other nodes will bring (the blobs directory of a stopped node, or a copy of one); once for
    /// each. What no volume has is told as missing.
    #[arg(long = "volume", value_name = "DIR")]
    volumes: Vec<PathBuf>,
    /// Write the digests of all missing blobs into this file.
    #[arg(long, value_name = "FILE")]
    missing: Option<PathBuf>,
}

pub(super) async fn run(arguments: &RestoreArguments, printer: Printer) -> Result<(), CliError> {
    let settings = arguments.configuration.load()?.settings;
    let dir = &arguments.dir;
    let (manifest, problems) = verify::examine(dir)?;
    verify::ensure_good(dir, &problems)?;
    let restored = node::restore(&settings, manifest.cluster_id()?, &dir.join(STATE)).await;
    let restored = restored.map_err(|error| CliError::failed(error.to_string()))?;
    let mut volumes = vec![settings.blobs_dir()];
    volumes.extend(arguments.volumes.iter().cloned());
    let inventory = inventory(&dir.join(STATE), &volumes)?;
    if let Some(path) = &arguments.missing {
        let text = inventory.missing.iter().fold(String::new(), |mut text, (digest, _)| {
            let _never_fails = writeln!(text, "{digest}");
            text
        });
        let written = files::create_new(path, text.as_bytes(), PRIVATE_FILE_MODE);
        written.map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
    }
    let missing_bytes: u64 = inventory.missing.iter().map(|(_, bytes)| bytes).sum();
    let shown: Vec<&str> = inventory.missing.iter().take(SHOWN_MAX).map(|(digest, _)| digest.as_str()).collect();
    let document = json!({
        "cluster": manifest.cluster,
        "node": restored.identity.node.to_string(),
        "store": restored.identity.store.to_string(),
        "lineage_before": manifest.lineage,
        "lineage": restored.lineage.to_string(),
        "index": manifest.index,
        "made_at": manifest.made_at,
        "blobs": inventory.used,
        "blobs_found": inventory.used - inventory.missing.len() as u64,
        "blobs_missing": inventory.missing.len(),
        "missing_bytes": missing_bytes,
        "missing": shown,
    });
    let columns = [
        ("cluster", "cluster"),
        ("node", "node"),
        ("lineage", "lineage"),
        ("lineage before", "lineage_before"),
        ("state of", "made_at"),
        ("index", "index"),
        ("blobs in use", "blobs"),
        ("found on volumes", "blobs_found"),
        ("missing", "blobs_missing"),
        ("missing bytes", "missing_bytes"),
        ("missing are", "missing"),
    ];
    printer.one(&document, &columns)?;
    printer.done(
        "\nrestored: start this node, it is the one voter. What was pushed, deleted or changed after the backup is gone; \
         access keys made after it do not work. Other nodes join with empty data directories and new certificates, \
         each with its old blob volume where there is one. Missing blobs count as lost until a volume with them joins",
    )
}

/// What of the blobs in use is on volumes.
struct Inventory {
    used: u64,
    /// Digest and size.
    missing: Vec<(String, u64)>,
}

fn inventory(state: &Path, volumes: &[PathBuf]) -> Result<Inventory, CliError> {
    let told = |error: String| CliError::failed(format!("the blobs can't be counted: {error}"));
    let state = StoppedState::open_copy(state).map_err(|error| told(error.to_string()))?;
    let open = |dir: &PathBuf| StoppedVolume::open(dir).map_err(|error| told(error.to_string()));
    let volumes = volumes.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut found = Inventory { used: 0, missing: Vec::new() };
    for record in stored::records(&state).filter(|record| record.used) {
        found.used += 1;
        let key = BlobKey::new(record.digest, record.row.generation);
        let is_there = |volume: &StoppedVolume| {
            let looked = volume.examine(&key, record.row.size_bytes, Depth::Quick, &mut |_| {});
            matches!(looked, Examined::Good { .. })
        };
        if !volumes.iter().any(is_there) {
            found.missing.push((record.digest.to_string(), record.row.size_bytes));
        }
    }
    match state.errors().first() {
        Some(error) => Err(told(error.clone())),
        None => Ok(found),
    }
}
