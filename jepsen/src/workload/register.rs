//! `tag-register`: a tag is a register. A few clients put, conditionally put, read and delete it at any node, then go
//! on to the next tag: a judge that tries all orders needs few operations at a time and few for each tag.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::Shared;
use super::client::{Answer, Client, MANIFEST_TYPE, Trouble, Way, repeated};
use super::image::{Blob, sha256, small_manifest};
use super::nodes::{Nodes, failed, refused};
use crate::history::{Act, Actor, Certainty, Op, Outcome};

/// Clients that share a tag at most.
pub(crate) const CLIENTS_PER_TAG: usize = 5;
/// Operations on a tag before its clients go on to the next one.
const OPERATIONS_PER_TAG: u32 = 200;
/// Writes of a tag that nobody knows about before its clients go on: each of them doubles the orders to try.
const UNKNOWN_PER_TAG: u32 = 4;
/// Tags read at the end, each from every node.
const FINAL_READS_MAX: usize = 5000;

/// Clients that share one tag after the other.
#[derive(Debug)]
pub(crate) struct Group {
    number: usize,
    config: Blob,
    turn: Mutex<Turn>,
}

/// Which tag it is, and what it has seen.
#[derive(Debug, Default)]
struct Turn {
    tag: u64,
    operations: u32,
    unknown: u32,
}

impl Group {
    /// Group `number` of the run with `seed`: it has a repository of its own.
    pub(crate) fn new(seed: u64, number: usize) -> Arc<Group> {
        let config = json!({"seed": seed, "register": number}).to_string();
        let config = Blob::new(config.into_bytes(), Way::Whole);
        Arc::new(Group { number, config, turn: Mutex::default() })
    }

    fn repository(&self) -> String {
        format!("register/r{}", self.number)
    }

    /// The tag that the next operation is for.
    fn next(&self, shared: &Shared) -> String {
        let mut turn = self.turn.lock();
        if turn.operations >= OPERATIONS_PER_TAG || turn.unknown >= UNKNOWN_PER_TAG {
            *turn = Turn { tag: turn.tag + 1, ..Turn::default() };
        }
        let tag = format!("t{}", turn.tag);
        if turn.operations == 0 {
            shared.tags.lock().push((self.repository(), tag.clone()));
        }
        turn.operations += 1;
        tag
    }

    /// Somebody does not know what came of a write.
    fn note_unknown(&self) {
        self.turn.lock().unknown += 1;
    }
}

/// What a client wants of a tag.
#[derive(Clone, Debug)]
enum Wish {
    Put(Bytes),
    /// Only if the tag names this digest; `None`: only if there is no such tag.
    PutIf(Option<String>, Bytes),
    Get,
    Delete,
}

/// Puts, reads and deletes until the load ends.
pub(crate) async fn run(shared: Arc<Shared>, group: Arc<Group>, nodes: Nodes, mut actor: Actor, number: usize) {
    let mut random = fastrand::Rng::with_seed(shared.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    prepare(&shared, &nodes, &group.repository(), &group.config, &mut random).await;
    let (mut count, mut last_tag) = (0u64, String::new());
    // what the client last saw the tag name
    let mut seen: Option<String> = None;
    while !shared.is_over() {
        shared.pause(&mut random).await;
        let tag = group.next(&shared);
        if tag != last_tag {
            (seen, last_tag) = (None, tag.clone());
        }
        count += 1;
        let manifest = || small_manifest(&group.config, &format!("{number}/{count}"), None);
        let wish = match random.u8(0..100) {
            0..45 => Wish::Get,
            45..65 => Wish::Put(manifest()),
            65..88 => Wish::PutIf(seen.clone(), manifest()),
            _ => Wish::Delete,
        };
        let node = nodes.any(&mut random);
        let tag = Tag { repository: &group.repository(), tag: &tag };
        let ended = tag.ask(&node.public, &node.name, &mut actor, &wish).await;
        match ended {
            Ended::Names(digest) => seen = digest,
            Ended::Other => {}
            Ended::Unknown if matches!(wish, Wish::Get) => {}
            Ended::Unknown => group.note_unknown(),
        }
    }
}

/// Pushes what manifests of a repository name, until that succeeds or the load ends. Part of no model: not noted.
pub(crate) async fn prepare(
    shared: &Shared,
    nodes: &Nodes,
    repository: &str,
    blob: &Blob,
    random: &mut fastrand::Rng,
) -> bool {
    while !shared.is_over() {
        let node = nodes.any(random);
        if repeated(|| node.public.put_blob(repository, blob)).await.result.is_ok() {
            return true;
        }
    }
    false
}

/// Reads tags once from every node, when everything is over. Actors are numbered from `first` of `count`.
pub(crate) async fn read_all(shared: &Shared, nodes: &Nodes, first: usize) {
    let mut tags = shared.tags.lock().clone();
    fastrand::Rng::with_seed(shared.seed).shuffle(&mut tags);
    tags.truncate(FINAL_READS_MAX);
    let reads = nodes.iter().enumerate().map(|(at, node)| {
        let (tags, mut actor) = (&tags, Actor::new(&shared.recorder, first + at, nodes.count()));
        async move {
            for (repository, tag) in tags {
                Tag { repository, tag }.ask(&node.public, &node.name, &mut actor, &Wish::Get).await;
            }
        }
    });
    futures_util::future::join_all(reads).await;
}

/// What a client learns of the tag.
enum Ended {
    /// What it named.
    Names(Option<String>),
    /// Nothing.
    Other,
    /// The write may have happened, and still may.
    Unknown,
}

#[derive(Clone, Copy)]
struct Tag<'a> {
    repository: &'a str,
    tag: &'a str,
}

impl Tag<'_> {
    /// One operation at one node, noted.
    async fn ask(self, client: &Client, node: &str, actor: &mut Actor, wish: &Wish) -> Ended {
        let key = format!("{}:{}", self.repository, self.tag);
        let (f, value) = match wish {
            Wish::Put(manifest) => (Act::Put, json!({"digest": sha256(manifest)})),
            Wish::PutIf(from, manifest) => (Act::PutIf, json!({"from": from, "digest": sha256(manifest)})),
            Wish::Get => (Act::Get, Value::Null),
            Wish::Delete => (Act::Delete, Value::Null),
        };
        let mut ended = Ended::Other;
        let asked = async {
            let outcome = match self.send(client, wish).await {
                Ok(answer) => outcome(wish, &answer),
                Err(trouble) => failed(trouble),
            };
            ended = learned(wish, &outcome);
            outcome
        };
        actor.run(Op { f, key: &key, node: Some(node), value }, asked).await;
        ended
    }

    async fn send(self, client: &Client, wish: &Wish) -> Result<Answer, Trouble> {
        let url: Url = client.url(&format!("/v2/{}/manifests/{}", self.repository, self.tag));
        let kind = (CONTENT_TYPE, MANIFEST_TYPE.to_owned());
        match wish {
            Wish::Put(manifest) => client.send(Method::PUT, url, &[kind], manifest.clone()).await,
            Wish::PutIf(from, manifest) => {
                let condition = match from {
                    Some(digest) => (IF_MATCH, format!("\"{digest}\"")),
                    None => (IF_NONE_MATCH, "*".to_owned()),
                };
                client.send(Method::PUT, url, &[kind, condition], manifest.clone()).await
            }
            Wish::Get => client.send(Method::GET, url, &[], Bytes::new()).await,
            Wish::Delete => client.send(Method::DELETE, url, &[], Bytes::new()).await,
        }
    }
}

/// What an answer means. A refusal that shows what the tag names, or does not, is told with its status: judges read it.
fn outcome(wish: &Wish, answer: &Answer) -> Outcome {
    let ok = |value| Outcome { value, rev: answer.rev(), error: None };
    match (wish, answer.status) {
        (Wish::Put(_) | Wish::PutIf(..), 201) | (Wish::Delete, 202) => ok(Value::Null),
        (Wish::Get, 200) => ok(json!({"digest": sha256(&answer.body)})),
        (Wish::Get, 404) => ok(json!({"digest": null})),
        (Wish::PutIf(..), 412) | (Wish::Delete, 404) => refused(answer, json!({"status": answer.status})),
        _ => failed(Trouble::of_answer(answer)),
    }
}

fn learned(wish: &Wish, outcome: &Outcome) -> Ended {
    match (&outcome.error, wish) {
        (Some((_, Certainty::Unknown)), _) => Ended::Unknown,
        (Some(_), Wish::Delete) => Ended::Names(None),
        (Some(_), _) => Ended::Other,
        (None, Wish::Put(manifest) | Wish::PutIf(_, manifest)) => Ended::Names(Some(sha256(manifest))),
        (None, Wish::Get) => Ended::Names(outcome.value["digest"].as_str().map(str::to_owned)),
        (None, Wish::Delete) => Ended::Names(None),
    }
}
