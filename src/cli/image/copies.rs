//! `portolan image copies`: is every blob of an image where it should be?

use std::collections::BTreeSet;

use registry_core::vocabulary::{Digest, Reference, RepositoryName};
use serde_json::{Value, json};

use super::{fetch, parse};
use crate::cli::client::{Client, part};
use crate::cli::error::CliError;
use crate::cli::output::Printer;

/// Manifests looked at: an index that names more is shown in parts, by its children's digests.
const MANIFESTS_MAX: usize = 1000;

/// Shows the blobs of an image, or of all images of an index, with the zones of their copies.
pub(super) async fn show(registry: &Client, admin: &Client, image: &str, printer: Printer) -> Result<(), CliError> {
    let (repository, reference) = parse(image)?;
    let mut shown = Vec::new();
    for digest in blobs(registry, &repository, reference).await? {
        let mut blob = admin.get(&format!("/v1/blobs/{}", part(&digest.to_string()))).await?;
        let zones: BTreeSet<String> = texts(&blob, "/copies", "zone");
        blob["zones"] = json!(zones);
        // one on a volume that nobody serves is no copy
        let served = |copies: &Vec<Value>| copies.iter().filter(|copy| copy["zone"].is_string()).count();
        blob["count"] = json!(blob.pointer("/copies").and_then(Value::as_array).map_or(0, served));
        shown.push(blob);
    }
    let columns =
        [("BLOB", "digest"), ("SIZE", "size_bytes"), ("COPIES", "count"), ("ZONES", "zones"), ("WANTED IN", "wanted")];
    printer.list(&json!({ "image": image, "blobs": shown }), "blobs", &columns)
}

fn texts(document: &Value, list: &str, field: &str) -> BTreeSet<String> {
    let entries = document.pointer(list).and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.get(field)?.as_str()?.to_owned())).collect()
}

/// Configurations and layers below a manifest, each once.
async fn blobs(
    registry: &Client,
    repository: &RepositoryName,
    reference: Reference,
) -> Result<BTreeSet<Digest>, CliError> {
    let (mut found, mut seen) = (BTreeSet::new(), 0);
    let mut open = vec![reference];
    while let Some(reference) = open.pop() {
        seen += 1;
        if seen > MANIFESTS_MAX {
            return Err(CliError::failed(format!("it names more than {MANIFESTS_MAX} manifests; ask for one of them")));
        }
        let (_, document) = fetch(registry, repository, &reference).await?;
        let (children, blobs) = named(&document);
        open.extend(children.into_iter().map(Reference::Digest));
        found.extend(blobs);
    }
    Ok(found)
}

/// What a manifest names: other manifests, and blobs. Layers that lie elsewhere are no blobs here.
fn named(document: &Value) -> (Vec<Digest>, Vec<Digest>) {
    let list = |name: &str| document.get(name).and_then(Value::as_array).into_iter().flatten();
    let digest = |descriptor: &Value| Digest::parse(descriptor.get("digest")?.as_str()?).ok();
    let is_here = |descriptor: &&Value| descriptor.get("urls").and_then(Value::as_array).is_none_or(Vec::is_empty);
    let blobs = document.get("config").into_iter().chain(list("layers").filter(is_here));
    (list("manifests").filter_map(digest).collect(), blobs.filter_map(digest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // An image names its configuration and layers, an index its images; what lies elsewhere is left out.
    #[test]
    fn named_table() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let of = |letter: &str| Digest::parse(&digest(letter)).unwrap();
        let image = json!({
            "config": { "digest": digest("a") },
            "layers": [{ "digest": digest("b") }, { "digest": digest("c"), "urls": ["https://elsewhere.example/c"] }],
        });
        assert_eq!(named(&image), (vec![], vec![of("a"), of("b")]));
        let index = json!({ "manifests": [{ "digest": digest("d") }, { "digest": "none" }] });
        assert_eq!(named(&index), (vec![of("d")], vec![]));
    }
}
