//! One push of an image, as a client does it that expects collection beside it: each request at any node, what is gone
//! is pushed again, what failed for a while is repeated, all of it bounded.

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

/// One of so many pushes is in no hurry with its manifest, and rests so long at most: its blobs may be collected.
const SLOW: (u8, Duration) = (5, Duration::from_secs(3));

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
    /// Blobs that were there, that were mounted, and that were sent.
    blobs: [u32; 3],
    troubles: Vec<String>,
    /// Blobs whose sending broke off, each as often as it did: what lies on a disk stays until the upload expires.
    interrupted: Vec<String>,
    /// A manifest was sent and nobody knows: it may come to be later.
    is_unsure: bool,
}

impl Tally {
    fn outcome(self, rev: Option<u64>, error: Option<String>) -> Outcome {
        let Tally { tries, pushed_again, blobs: [found, mounted, sent], troubles, interrupted, is_unsure } = self;
        let value = json!({"tries": tries, "pushed_again": pushed_again, "troubles": troubles,
            "interrupted": interrupted, "unsure": is_unsure,
            "found": found, "mounted": mounted, "sent": sent});
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
        match put_blob(&node, &image.repository, blob, random).await {
            Ok(put) => tally.blobs[put as usize] += 1,
            Err((trouble, has_sent)) => {
                tally.interrupted.extend(has_sent.then(|| blob.digest.clone()));
                return Ended::Failed(trouble);
            }
        }
    }
    if random.u8(0..SLOW.0) == 0 {
        tokio::time::sleep(SLOW.1.mul_f64(random.f64())).await;
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

/// How a blob came to be there.
#[derive(Clone, Copy)]
enum Put {
    Found,
    Mounted,
    Sent,
}

/// Looks for a blob; where it is not, now and then tries to mount it, else sends it. With what went wrong: whether
/// bytes may have been sent.
async fn put_blob(
    node: &Node,
    repository: &str,
    blob: &Blob,
    random: &mut fastrand::Rng,
) -> Result<Put, (Trouble, bool)> {
    let client = &node.public;
    let before = |trouble| (trouble, false);
    let sending = |trouble: Trouble| {
        let may_have_acted = trouble.clone().into_error().1 == Certainty::Unknown;
        (trouble, may_have_acted)
    };
    if client.find_blob(repository, &blob.digest).await.map_err(before)?.is_some() {
        return Ok(Put::Found);
    }
    let from = super::repository_of(random.u64(..));
    if random.bool() || from == repository {
        return client.send_blob(repository, blob).await.map(|_| Put::Sent).map_err(sending);
    }
    match mount(client, repository, &blob.digest, &from).await.map_err(before)? {
        Mounted::Done(_) => Ok(Put::Mounted),
        Mounted::Begun(answer) => {
            let location = answer.location().map_err(before)?;
            client.finish(location, blob, blob.bytes.clone()).await.map(|_| Put::Sent).map_err(sending)
        }
    }
}
