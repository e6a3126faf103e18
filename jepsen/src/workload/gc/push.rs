//! One push of an image, as a client does it that expects collection beside it: each request at any node, what is gone
//! is pushed again, what failed for a while is repeated, all of it bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;

use super::super::client::{Answer, Client, MANIFEST_TYPE, Trouble};
use super::super::image::{Blob, Image};
use super::super::nodes::{Node, Nodes};
use crate::history::{Certainty, Outcome};

/// Tries of one image.
const TRIES_MAX: u32 = 14;
/// Pause before the second try of something that failed for a while; each further one is longer by as much.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest pause, whatever the server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a mount came to.
pub(super) enum Mounted {
    Done(Answer),
    /// The blob is not there: an upload was begun instead.
    Begun(Answer),
}

/// Asks for a blob of another repository: one request.
pub(super) async fn mount(client: &Client, to: &str, digest: &str, from: &str) -> Result<Mounted, Trouble> {
    let mut url = client.url(&format!("/v2/{to}/blobs/uploads/"));
    url.query_pairs_mut().append_pair("mount", digest).append_pair("from", from);
    let answer = client.send(Method::POST, url, &[], Bytes::new()).await?;
    match answer.status {
        201 => Ok(Mounted::Done(answer)),
        202 => Ok(Mounted::Begun(answer)),
        _ => Err(Trouble::of_answer(&answer)),
    }
}

/// Why a try ended.
enum Ended {
    /// With the manifest there.
    Done(Answer),
    /// A blob that was there when it was looked for is gone.
    BlobGone,
    Failed(Trouble),
}

/// What the history is told of the tries.
#[derive(Default)]
struct Tally {
    tries: u32,
    /// Tries that ended because a blob was gone.
    pushed_again: u32,
    troubles: Vec<String>,
    /// Blobs whose push broke off: what of them lies on a disk stays until their uploads expire.
    interrupted: BTreeSet<String>,
    /// A manifest was sent and nobody knows: it may come to be later.
    is_unsure: bool,
}

impl Tally {
    fn outcome(self, rev: Option<u64>, error: Option<String>) -> Outcome {
        let Tally { tries, pushed_again, troubles, interrupted, is_unsure } = self;
        let value = json!({"tries": tries, "pushed_again": pushed_again, "troubles": troubles,
            "interrupted": interrupted, "unsure": is_unsure});
        let certainty = if is_unsure { Certainty::Unknown } else { Certainty::Never };
        Outcome { value, rev, error: error.map(|text| (text, certainty)) }
    }
}

/// Pushes until the manifest is there, or the tries are used up.
pub(super) async fn push(nodes: &Nodes, image: &Image, random: &mut fastrand::Rng) -> Outcome {
    let mut tally = Tally::default();
    let mut last = "every time a blob had gone".to_owned();
    while tally.tries < TRIES_MAX {
        tally.tries += 1;
        match once(nodes, image, random, &mut tally).await {
            Ended::Done(answer) => return tally.outcome(answer.rev(), None),
            Ended::BlobGone => tally.pushed_again += 1,
            Ended::Failed(trouble) => {
                let asked = if let Trouble::Passing { after, .. } = &trouble { *after } else { None };
                last = trouble.into_error().0;
                tally.troubles.push(last.clone());
                tokio::time::sleep(asked.unwrap_or_default().max(PAUSE * tally.tries).min(PAUSE_MAX)).await;
            }
        }
    }
    tally.outcome(None, Some(last))
}

async fn once(nodes: &Nodes, image: &Image, random: &mut fastrand::Rng, tally: &mut Tally) -> Ended {
    for blob in &image.blobs {
        let node = nodes.any(random).clone();
        // a layer may be in another repository already
        let mounts = random.u8(0..4) == 0;
        if let Err(trouble) = put_blob(&node, &image.repository, blob, mounts, random).await {
            tally.interrupted.insert(blob.digest.clone());
            return Ended::Failed(trouble);
        }
    }
    let Node { public, .. } = nodes.any(random);
    let url = public.url(&format!("/v2/{}/manifests/{}", image.repository, image.tag));
    let kind = [(CONTENT_TYPE, MANIFEST_TYPE.to_owned())];
    match public.send(Method::PUT, url, &kind, image.manifest.clone()).await {
        Ok(answer) if answer.status == 201 => Ended::Done(answer),
        Ok(answer) if answer.status == 400 && is_blob_unknown(&answer) => Ended::BlobGone,
        Ok(answer) => failed(Trouble::of_answer(&answer), tally),
        Err(trouble) => failed(trouble, tally),
    }
}

fn failed(trouble: Trouble, tally: &mut Tally) -> Ended {
    tally.is_unsure |= trouble.clone().into_error().1 == Certainty::Unknown;
    Ended::Failed(trouble)
}

fn is_blob_unknown(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains("MANIFEST_BLOB_UNKNOWN")
}

async fn put_blob(
    node: &Node,
    repository: &str,
    blob: &Blob,
    mounts: bool,
    random: &mut fastrand::Rng,
) -> Result<(), Trouble> {
    let from = super::repository_of(random.u64(..));
    if !mounts || from == repository {
        return node.public.put_blob(repository, blob).await.map(drop);
    }
    match mount(&node.public, repository, &blob.digest, &from).await? {
        Mounted::Done(_) => Ok(()),
        Mounted::Begun(answer) => node.public.finish(answer.location()?, blob, blob.bytes.clone()).await.map(drop),
    }
}
