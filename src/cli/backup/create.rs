//! `portolan backup create`: has a node make a backup, and fetches it in pieces.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use registry_core::vocabulary::Timestamp;
use registry_core::vocabulary::digest::{Algorithm, Hasher};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

use super::manifest::{self, Entry, Held};
use crate::cli::client::{Client, part};
use crate::cli::error::CliError;
use crate::cli::output::Printer;
use crate::ground::files::{self, PRIVATE_FILE_MODE};
use crate::ground::{Clock as _, SystemClock};

/// A node hashes all of the copy before it answers.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) async fn run(client: Client, dir: &Path, printer: Printer) -> Result<(), CliError> {
    let client = client.patient(PATIENCE);
    prepare(dir)?;
    // before it is asked for: to make and fetch it takes a while, and what is acknowledged meanwhile is not in it
    let made_at = Timestamp::from_ms(SystemClock.wall_ms()).to_string();
    let made = client.post("/v1/backups", &json!({})).await?;
    let held: Held = serde_json::from_value(made)
        .map_err(|error| CliError::failed(format!("the node answers with something else than a backup: {error}")))?;
    let fetched = fetch(&client, &held, dir).await;
    let path = format!("/v1/backups/{}", part(&held.id));
    if let Err(error) = client.call(Method::DELETE, &path, None).await {
        eprintln!("warning: the node still holds the backup, and drops it when the next one is made: {error}");
    }
    fetched?;
    let manifest = held.manifest(made_at);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| CliError::failed(error.to_string()))?;
    let path = dir.join(manifest::FILE);
    files::create_new(&path, &text, PRIVATE_FILE_MODE).map_err(told(&path))?;
    let (blobs, bytes, index) = (manifest.blobs, manifest.blob_bytes, manifest.index);
    printer.done(&format!(
        "backed up to {} at index {index}; it names {blobs} blobs of {bytes} bytes, which are not in it: see \
         `portolan backup restore --help`",
        dir.display()
    ))?;
    if printer.is_json() { printer.json(&json!({ "dir": dir, "index": index, "blobs": blobs })) } else { Ok(()) }
}

fn told(path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.display().to_string();
    move |error| CliError::failed(format!("{path}: {error}"))
}

/// Makes the directory, private, or takes an empty one.
fn prepare(dir: &Path) -> Result<(), CliError> {
    files::create_private_dir(dir).map_err(told(dir))?;
    if fs::read_dir(dir).map_err(told(dir))?.next().is_some() {
        return Err(CliError::usage(format!("{} is not empty; name another directory", dir.display())));
    }
    Ok(())
}

async fn fetch(client: &Client, held: &Held, dir: &Path) -> Result<(), CliError> {
    for (number, entry) in held.files.iter().enumerate() {
        entry.check()?;
        let path = dir.join(&entry.path);
        files::create_private_dir(path.parent().unwrap_or(dir)).map_err(told(&path))?;
        fetch_file(client, &held.id, (number, entry), &path).await?;
    }
    for dir in [dir.to_owned(), dir.join(crate::metadata::backup::STATE)] {
        files::sync_dir(&dir).map_err(told(&dir))?;
    }
    Ok(())
}

async fn fetch_file(client: &Client, id: &str, (number, entry): (usize, &Entry), path: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = fs::OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE_MODE).open(path);
    let mut file: File = opened.map_err(told(path))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut offset = 0;
    while offset < entry.size_bytes {
        let piece = format!("/v1/backups/{}/files/{number}?offset={offset}", part(id));
        let answer = client.send(Method::GET, &piece, HeaderMap::new(), None).await?;
        if !answer.status.is_success() {
            return Err(client.refused(&answer));
        }
        if answer.body.is_empty() || answer.body.len() as u64 > entry.size_bytes - offset {
            return Err(CliError::failed(format!("the node answers with another length of {}", entry.path)));
        }
        hasher.update(&answer.body);
        file.write_all(&answer.body).map_err(told(path))?;
        offset += answer.body.len() as u64;
    }
    file.sync_all().map_err(told(path))?;
    if hasher.finish() != entry.digest()? {
        return Err(CliError::failed(format!("{} arrived damaged; make the backup again", entry.path)));
    }
    Ok(())
}
