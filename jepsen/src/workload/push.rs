//! `push-set`: clients push unique images through the balancer, one after the other, and read each back.

use std::sync::Arc;

use serde_json::{Value, json};

use super::client::{Client, Tried, Trouble, repeated};
use super::image::{Image, sha256};
use super::{Push, Shared};
use crate::history::{Act, Actor, Certainty, Op, Outcome};

/// Pushes until the load ends.
pub(crate) async fn run(shared: Arc<Shared>, client: Client, mut actor: Actor) {
    while !shared.is_over() {
        let image = Image::unique(shared.seed, shared.next_image(), shared.layer_bytes_max);
        push(&shared, &client, &mut actor, &image).await;
    }
}

async fn push(shared: &Shared, client: &Client, actor: &mut Actor, image: &Image) {
    let key = image.key();
    for blob in &image.blobs {
        let value = json!({"digest": blob.digest, "size": blob.bytes.len(), "way": format!("{:?}", blob.way)});
        let op = Op { f: Act::PutBlob, key: &key, node: None, value };
        let put = || client.put_blob(&image.repository, blob);
        if !actor.run(op, async { outcome(repeated(put).await) }).await {
            // without its blobs the manifest would be refused: the push ends here
            return;
        }
    }
    let blobs: Vec<String> = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
    let value = json!({"digest": image.digest, "blobs": blobs});
    let op = Op { f: Act::PutManifest, key: &key, node: None, value };
    let mut certainty = None;
    let put = async {
        let ended = outcome(repeated(|| client.put_manifest(image)).await);
        certainty = ended.error.as_ref().map(|(_, certainty)| *certainty);
        ended
    };
    let is_acknowledged = actor.run(op, put).await;
    if certainty != Some(Certainty::Never) {
        let Image { repository, tag, digest, .. } = image.clone();
        shared.remember(Push { repository, tag, digest, blobs, is_acknowledged });
    }
    if is_acknowledged {
        let op = Op { f: Act::ReadBack, key: &key, node: None, value: Value::Null };
        actor.run(op, read_back(client, image)).await;
    }
}

/// The tag through the balancer, most likely at another node: its digest, `null` where there is none.
async fn read_back(client: &Client, image: &Image) -> Outcome {
    let tried = repeated(|| client.manifest(&image.repository, &image.tag)).await;
    let Tried { result, tries, troubles } = tried;
    match result {
        Ok(found) => {
            let digest = found.as_ref().map(|answer| sha256(&answer.body));
            let value = json!({"digest": digest, "tries": tries, "troubles": troubles});
            Outcome { value, rev: found.and_then(|answer| answer.rev()), error: None }
        }
        Err(trouble) => failed(trouble, tries, &troubles),
    }
}

fn outcome(tried: Tried<Option<u64>>) -> Outcome {
    let Tried { result, tries, troubles } = tried;
    match result {
        Ok(rev) if troubles.is_empty() => Outcome { rev, ..Outcome::default() },
        Ok(rev) => Outcome { value: json!({"tries": tries, "troubles": troubles}), rev, error: None },
        Err(trouble) => failed(trouble, tries, &troubles),
    }
}

fn failed(trouble: Trouble, tries: u32, troubles: &[String]) -> Outcome {
    let value = json!({"tries": tries, "troubles": troubles});
    Outcome { value, rev: None, error: Some(trouble.into_error()) }
}
