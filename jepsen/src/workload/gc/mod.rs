//! `gc`: images whose layers come from one small pool are pushed, untagged and deleted, while collection runs as fast
//! as it can: what one client deletes another one is just pushing again. A client that is told that a blob is unknown
//! pushes it again; what it was told is there has to be there, whole, until somebody deletes it.
//!
//! Every image has a configuration of its own, so its digest and its tag belong to one client, and the judge knows from
//! that client's answers what must be there. `push` pushes, `read` reads images whole, `quiet` watches collection and
//! waits until it has come to rest. Start at [`run`].

mod push;
mod quiet;
mod read;

use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use super::Shared;
use super::client::{Answer, Trouble};
use super::image::{Blob, Image, any_way, config};
use super::nodes::{Node, Nodes, failed, refused};
use crate::history::{Act, Actor, Certainty, Op, Outcome};
pub(crate) use quiet::watch;
pub(crate) use read::read_all;

/// Repositories that all images go to.
const REPOSITORIES: u64 = 3;
/// Layers in the pool for each client: so many that some are named by nothing at any time.
const LAYERS_PER_CLIENT: usize = 4;
/// Layers in the pool at least.
const LAYERS_MIN: usize = 16;
/// Layers of an image at most.
const LAYERS_MAX: usize = 3;
/// Tags of a client.
const TAGS: usize = 2;
/// Images of a client that lost their tag and wait for being deleted; then they are.
const UNTAGGED_MAX: usize = 1;
/// Images that are read while the load is on: the last ones.
const READ_LAST: usize = 40;

/// An image that may have been pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) digest: String,
}

impl Known {
    /// Its name in the history.
    fn key(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// Layers that images are made of: by turns small ones, which go to packs, and large ones with files of their own.
pub(crate) fn pool(shared: &Shared, clients: usize) -> Arc<Vec<Blob>> {
    let mut random = fastrand::Rng::with_seed(shared.seed);
    let layers = (0..LAYERS_MIN.max(clients * LAYERS_PER_CLIENT)).map(|number| {
        let size = if number % 2 == 0 { random.usize(512..48 << 10) } else { random.usize((64 << 10) + 1..200 << 10) };
        let mut bytes = vec![0; size.min(shared.layer_bytes_max)];
        random.fill(&mut bytes);
        Blob::new(bytes, any_way(&mut random))
    });
    Arc::new(layers.collect())
}

/// Pushes, reads and deletes until the load ends.
pub(crate) async fn run(shared: Arc<Shared>, nodes: Nodes, pool: Arc<Vec<Blob>>, actor: Actor, number: usize) {
    let random = fastrand::Rng::with_seed(shared.seed ^ (number as u64 + 1).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7));
    let slots = (0..TAGS).map(|_| Slot::default()).collect();
    let mut user = User {
        shared: Arc::clone(&shared),
        nodes,
        pool,
        actor,
        random,
        number,
        slots,
        untagged: Vec::new(),
        deleted: None,
    };
    while !shared.is_over() {
        shared.pause(&mut user.random).await;
        match user.random.u8(0..100) {
            _ if user.untagged.len() > UNTAGGED_MAX => user.delete_image().await,
            0..30 => user.push().await,
            30..38 => user.untag().await,
            38..64 => user.delete_image().await,
            64..72 => user.delete_blob().await,
            72..78 => user.mount().await,
            _ => user.verify().await,
        }
    }
}

/// A tag of a client. After an answer that nobody knows it gets another name: what it names can't be told any more.
#[derive(Debug, Default)]
struct Slot {
    names: u32,
    image: Option<Owned>,
}

/// An image that its client was told is there.
#[derive(Clone, Debug)]
struct Owned {
    known: Known,
    blobs: Vec<String>,
}

struct User {
    shared: Arc<Shared>,
    nodes: Nodes,
    pool: Arc<Vec<Blob>>,
    actor: Actor,
    random: fastrand::Rng,
    number: usize,
    slots: Vec<Slot>,
    untagged: Vec<Owned>,
    /// The last image that was deleted.
    deleted: Option<Owned>,
}

impl User {
    /// Pushes a new image of layers of the pool under one of the tags, in place of what that names.
    async fn push(&mut self) {
        let at = self.random.usize(0..self.slots.len());
        let Slot { names, image: before } = &self.slots[at];
        let tag = format!("c{}-t{at}-n{names}", self.number);
        let repository = before.as_ref().map(|owned| owned.known.repository.clone());
        let repository = repository.unwrap_or_else(|| repository_of(self.random.u64(..)));
        let number = self.shared.next_image();
        let mut blobs = vec![Blob::new(config(self.shared.seed, number), any_way(&mut self.random))];
        for _ in 0..self.random.usize(1..=LAYERS_MAX) {
            let layer = self.pool[self.random.usize(0..self.pool.len())].clone();
            if blobs.iter().all(|blob| blob.digest != layer.digest) {
                blobs.push(Blob { way: any_way(&mut self.random), ..layer });
            }
        }
        let image = Image::of(repository.clone(), tag.clone(), blobs);
        let blobs: Vec<String> = image.blobs.iter().map(|blob| blob.digest.clone()).collect();
        let (key, value) = (image.key(), json!({"digest": image.digest, "blobs": blobs}));
        let op = Op { f: Act::PushImage, key: &key, node: None, value };
        let mut certainty = None;
        let put = async {
            let ended = push::push(&self.nodes, &image, &mut self.random).await;
            certainty = ended.error.as_ref().map(|(_, certainty)| *certainty);
            ended
        };
        let is_acknowledged = self.actor.run(op, put).await;
        if certainty == Some(Certainty::Never) {
            return;
        }
        let known = Known { repository, tag, digest: image.digest };
        self.shared.images.lock().push(known.clone());
        if is_acknowledged {
            let before = self.slots[at].image.replace(Owned { known, blobs });
            self.untagged.extend(before);
        } else {
            self.slots[at] = Slot { names: self.slots[at].names + 1, image: None };
        }
    }

    /// One of the tags that name something.
    fn any_tagged(&mut self) -> Option<usize> {
        let tagged: Vec<usize> = (0..self.slots.len()).filter(|at| self.slots[*at].image.is_some()).collect();
        (!tagged.is_empty()).then(|| tagged[self.random.usize(0..tagged.len())])
    }

    async fn untag(&mut self) {
        let Some(at) = self.any_tagged() else { return };
        let Some(owned) = self.slots[at].image.take() else { return };
        let Known { repository, tag, .. } = &owned.known;
        let (key, path) = (format!("{repository}:{tag}"), format!("/v2/{repository}/manifests/{tag}"));
        let (_, is_known) = self.delete(Act::Untag, &key, &path).await;
        if is_known {
            self.untagged.push(owned);
        } else {
            self.slots[at].names += 1;
        }
    }

    /// Deletes an image that has no tag any more; where there is none, one that has.
    async fn delete_image(&mut self) {
        let owned = if self.untagged.is_empty() {
            let Some(at) = self.any_tagged() else { return };
            // if nobody knows whether it was deleted, nobody knows of its tag
            self.slots[at].names += 1;
            self.slots[at].image.take()
        } else {
            Some(self.untagged.swap_remove(self.random.usize(0..self.untagged.len())))
        };
        let Some(owned) = owned else { return };
        let Known { repository, digest, .. } = &owned.known;
        let (key, path) = (owned.known.key(), format!("/v2/{repository}/manifests/{digest}"));
        if self.delete(Act::DeleteImage, &key, &path).await.0 {
            self.deleted = Some(owned);
        }
    }

    /// Takes a blob of a deleted image from its repository: most likely the configuration, which nothing else names. A
    /// layer may be named by the image of another client: then that is refused.
    async fn delete_blob(&mut self) {
        let Some(Owned { known, blobs }) = self.deleted.take() else { return };
        let at = if self.random.u8(0..3) == 0 { self.random.usize(0..blobs.len()) } else { 0 };
        let (repository, digest) = (&known.repository, &blobs[at]);
        let (key, path) = (format!("{repository}@{digest}"), format!("/v2/{repository}/blobs/{digest}"));
        self.delete(Act::DeleteBlob, &key, &path).await;
    }

    /// One DELETE at any node, without a repeat: whether it was done, and whether anybody knows.
    async fn delete(&mut self, f: Act, key: &str, path: &str) -> (bool, bool) {
        let Node { name, public, .. } = self.nodes.any(&mut self.random).clone();
        let mut is_known = true;
        let sent = async {
            let outcome = match public.send(Method::DELETE, public.url(path), &[], Bytes::new()).await {
                Ok(answer) if answer.status == 202 => done(&answer),
                Ok(answer) if answer.status == 404 => refused(&answer, json!({"status": 404})),
                Ok(answer) => failed(Trouble::of_answer(&answer)),
                Err(trouble) => failed(trouble),
            };
            is_known = !matches!(outcome.error, Some((_, Certainty::Unknown)));
            outcome
        };
        let op = Op { f, key, node: Some(&name), value: Value::Null };
        let is_done = self.actor.run(op, sent).await;
        (is_done, is_known)
    }

    /// Mounts a layer from another repository and lets it be: garbage, or what somebody's push finds there.
    async fn mount(&mut self) {
        let from = self.random.u64(..);
        let (from, to) = (repository_of(from), repository_of(from + 1));
        let digest = self.pool[self.random.usize(0..self.pool.len())].digest.clone();
        let Node { name, public, .. } = self.nodes.any(&mut self.random).clone();
        let key = format!("{to}@{digest}");
        let op = Op { f: Act::MountLayer, key: &key, node: Some(&name), value: json!({"from": from}) };
        let sent = async {
            match push::mount(&public, &to, &digest, &from).await {
                Ok(push::Mounted::Done(answer)) => done(&answer),
                Ok(push::Mounted::Begun(answer)) => {
                    // nobody is going to send anything to the upload that was begun instead
                    if let Ok(url) = answer.location() {
                        drop(public.send(Method::DELETE, url, &[], Bytes::new()).await);
                    }
                    refused(&answer, json!({"status": answer.status}))
                }
                Err(trouble) => failed(trouble),
            }
        };
        self.actor.run(op, sent).await;
    }

    /// Reads one of the last images whole, whoever pushed it.
    async fn verify(&mut self) {
        let found = {
            let images = self.shared.images.lock();
            let from = images.len().saturating_sub(READ_LAST);
            (from < images.len()).then(|| images[self.random.usize(from..images.len())].clone())
        };
        let Some(known) = found else { return };
        read::verify(&mut self.actor, &self.nodes, &known, &mut self.random).await;
    }
}

fn repository_of(number: u64) -> String {
    format!("gc/r{}", number % REPOSITORIES)
}

fn done(answer: &Answer) -> Outcome {
    Outcome { value: Value::Null, rev: answer.rev(), error: None }
}
