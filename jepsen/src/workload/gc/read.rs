//! Reading an image whole: its manifest, then every blob that the manifest names. A blob that is absent is looked for a
//! second time, and so is the manifest, at the node that did not have it: whoever deletes an image meanwhile explains
//! it, nobody else does.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderName};
use serde_json::{Value, json};

use super::super::Shared;
use super::super::client::{Answer, Client, MANIFEST_TYPE, Trouble, newest, repeated};
use super::super::image::sha256;
use super::super::nodes::{Node, Nodes, failed};
use super::{Known, quiet};
use crate::history::{Act, Actor, Op, Outcome};

/// What a server says a manifest's digest is.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// One of so many reads is in no hurry with the blobs, and rests so long at most: the image may be deleted meanwhile.
const SLOW: (u8, Duration) = (4, Duration::from_secs(2));
/// Reads at a time from one node when everything is over.
const AT_ONCE: usize = 8;

/// What was seen of an image's blobs.
#[derive(Default)]
struct Seen {
    read: u64,
    /// Absent, with what a second look told.
    missing: Vec<Value>,
    wrong: Vec<Value>,
    /// Neither there nor absent: no answer, or none that tells.
    unread: Vec<String>,
}

/// Reads an image by its tag; the manifest and each blob from any node, without a repeat.
pub(super) async fn verify(actor: &mut Actor, nodes: &Nodes, known: &Known, random: &mut fastrand::Rng) {
    let first = nodes.any(random).clone();
    let key = format!("{}:{}", known.repository, known.tag);
    let op = Op { f: Act::Verify, key: &key, node: Some(&first.name), value: Value::Null };
    let read = async {
        let manifest = match get_manifest(&first.public, &known.repository, &known.tag, false).await {
            Ok(manifest) => manifest,
            Err(trouble) => return failed(trouble),
        };
        if manifest.is_some() && random.u8(0..SLOW.0) == 0 {
            tokio::time::sleep(SLOW.1.mul_f64(random.f64())).await;
        }
        let image = manifest.as_ref().map(|answer| sha256(&answer.body)).unwrap_or_default();
        let mut seen = Seen::default();
        for digest in manifest.iter().flat_map(|answer| blobs(&answer.body)) {
            let node = nodes.any(random);
            let answer = get_blob(&node.public, &known.repository, &digest, false).await;
            judge(&mut seen, node, &known.repository, &image, &digest, answer).await;
        }
        outcome(manifest.as_ref(), seen)
    };
    actor.run(op, read).await;
}

/// Waits until collection has come to rest, then reads every image that may have been pushed, by tag and by digest,
/// from every node. Actors are numbered from `first`.
pub(crate) async fn read_all(shared: &Shared, nodes: &Nodes, first: usize) {
    let images = shared.images.lock().clone();
    if images.is_empty() {
        return;
    }
    quiet::wait(shared, nodes).await;
    let by_tag = images.iter().map(|known| (known.repository.clone(), known.tag.clone(), false));
    let by_digest = images.iter().map(|known| (known.repository.clone(), known.digest.clone(), true));
    let all: BTreeSet<(String, String, bool)> = by_tag.chain(by_digest).collect();
    let count = nodes.count() * AT_ONCE;
    let lanes = nodes.iter().enumerate().flat_map(|(at, node)| (0..AT_ONCE).map(move |lane| (at, node, lane)));
    let lanes = lanes.map(|(at, node, lane)| {
        let mut actor = Actor::new(&shared.recorder, first + at * AT_ONCE + lane, count);
        let all = &all;
        async move {
            for (repository, reference, is_digest) in all.iter().skip(lane).step_by(AT_ONCE) {
                let key = format!("{repository}{}{reference}", if *is_digest { "@" } else { ":" });
                let op = Op { f: Act::FinalVerify, key: &key, node: Some(&node.name), value: Value::Null };
                actor.run(op, look(node, repository, reference)).await;
            }
        }
    });
    futures_util::future::join_all(lanes).await;
}

/// Everything from one node, each step repeated as clients do.
async fn look(node: &Node, repository: &str, reference: &str) -> Outcome {
    let manifest = match repeated(|| get_manifest(&node.public, repository, reference, true)).await.result {
        Ok(manifest) => manifest,
        Err(trouble) => return failed(trouble),
    };
    let image = manifest.as_ref().map(|answer| sha256(&answer.body)).unwrap_or_default();
    let mut seen = Seen::default();
    for digest in manifest.iter().flat_map(|answer| blobs(&answer.body)) {
        let answer = repeated(|| get_blob(&node.public, repository, &digest, true)).await.result;
        judge(&mut seen, node, repository, &image, &digest, answer).await;
    }
    outcome(manifest.as_ref(), seen)
}

/// The digests that a manifest names; the configuration first.
fn blobs(manifest: &Bytes) -> Vec<String> {
    let document: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let layers = document["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let named = std::iter::once(&document["config"]).chain(layers);
    named.map(|descriptor| descriptor["digest"].as_str().unwrap_or("a manifest without digests").to_owned()).collect()
}

async fn judge(
    seen: &mut Seen,
    node: &Node,
    repository: &str,
    image: &str,
    digest: &str,
    answer: Result<Answer, Trouble>,
) {
    match answer {
        Ok(answer) if answer.status == 200 => {
            let got = sha256(&answer.body);
            if got == digest {
                seen.read += 1;
            } else {
                seen.wrong.push(json!({"digest": digest, "got": got, "node": node.name, "size": answer.body.len()}));
            }
        }
        Ok(answer) if answer.status == 404 => {
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            // the manifest first: if it is there, the blob has to be there as well, and not only later
            let manifest = get_manifest(&node.public, repository, image, true).await;
            let manifest =
                manifest.map_or_else(|trouble| json!(trouble.into_error().0), |answer| json!(answer.is_some()));
            let blob = get_blob(&node.public, repository, digest, true).await;
            let blob = blob.map_or_else(|trouble| json!(trouble.into_error().0), |answer| json!(answer.status));
            seen.missing.push(json!({"digest": digest, "node": node.name, "told": told, "rev": answer.rev(),
                "manifest_is_there": manifest, "blob_again": blob}));
        }
        Ok(answer) => {
            seen.unread.push(format!("{digest} from {}: {}", node.name, Trouble::of_answer(&answer).into_error().0))
        }
        Err(trouble) => seen.unread.push(format!("{digest} from {}: {}", node.name, trouble.into_error().0)),
    }
}

fn outcome(manifest: Option<&Answer>, seen: Seen) -> Outcome {
    let Seen { read, missing, wrong, unread } = seen;
    let value = json!({
        "digest": manifest.map(|answer| sha256(&answer.body)),
        "told": manifest.and_then(|answer| answer.header(CONTENT_DIGEST)),
        "read": read,
        "missing": missing,
        "wrong": wrong,
        "unread": unread,
    });
    Outcome { value, rev: manifest.and_then(Answer::rev), error: None }
}

/// `None` where there is none. `is_newest`: by a state that is not older than the question.
async fn get_manifest(
    client: &Client,
    repository: &str,
    reference: &str,
    is_newest: bool,
) -> Result<Option<Answer>, Trouble> {
    let mut headers = vec![(ACCEPT, MANIFEST_TYPE.to_owned())];
    headers.extend(is_newest.then(newest));
    let url = client.url(&format!("/v2/{repository}/manifests/{reference}"));
    let answer = client.send(Method::GET, url, &headers, Bytes::new()).await?;
    match answer.status {
        200 => Ok(Some(answer)),
        404 => Ok(None),
        _ => Err(Trouble::of_answer(&answer)),
    }
}

/// There or absent; everything else is trouble.
async fn get_blob(client: &Client, repository: &str, digest: &str, is_newest: bool) -> Result<Answer, Trouble> {
    let headers: Vec<_> = is_newest.then(newest).into_iter().collect();
    let url = client.url(&format!("/v2/{repository}/blobs/{digest}"));
    let answer = client.send(Method::GET, url, &headers, Bytes::new()).await?;
    if matches!(answer.status, 200 | 404) { Ok(answer) } else { Err(Trouble::of_answer(&answer)) }
}

#[cfg(test)]
mod tests {
    use super::super::super::image::{Blob, Image};
    use super::*;
    use crate::workload::client::Way;

    // What is read is what the manifest names, the configuration included; what names nothing is read as that.
    #[test]
    fn names() {
        let blob = |text: &str| Blob::new(text.as_bytes().to_vec(), Way::Whole);
        let image = Image::of("r".into(), "t".into(), vec![blob("{}"), blob("one"), blob("two")]);
        let digests: Vec<String> = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
        assert_eq!(blobs(&image.manifest), digests);
        assert_eq!(blobs(&Bytes::from_static(b"{}")), ["a manifest without digests"]);
    }
}
