//! `upload-resume`: the chunks of an upload go to different nodes in turn; a node is killed between two chunks, or
//! while one is under way; the upload goes on from the last acknowledged byte.
//!
//! Three uploads, each begun at another node, run beside each other, and every node is killed once in each round: so
//! each round kills a primary, a backup and a bystander, whichever they are.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Method, Url};
use serde_json::json;

use super::Shared;
use super::client::{Answer, Client, REPEATS_MAX, Trouble, repeated};
use super::image::sha256;
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::history::{Act, Actor, Op, Outcome};
use crate::nemesis;

/// Chunks of an upload, and after how many of them a node is killed.
const CHUNKS: usize = 6;
const CHUNKS_BEFORE: usize = 3;
/// A chunk that is under way when a node is killed is larger, so that the kill finds it under way.
const LARGE_CHUNK_BYTES: usize = 8 << 20;
/// How far into a chunk the kill comes.
const INTO_CHUNK: Duration = Duration::from_millis(8);
/// Where the uploads go.
const REPOSITORY: &str = "resume/uploads";

/// When a node is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Between,
    During,
}

/// An upload as its client sees it.
struct Upload {
    key: String,
    actor: Actor,
    bytes: Bytes,
    /// End of each chunk.
    ends: Vec<usize>,
    /// Where it goes on; the host is that of the node to talk to.
    location: String,
    /// Bytes acknowledged.
    acknowledged: usize,
    /// Next node in turn.
    turn: usize,
}

/// Runs `rounds` rounds; each kills every node once between chunks and once during one.
pub(crate) async fn run(cluster: &mut Cluster, shared: &Shared, clients: &[Client], rounds: u32) -> Result<(), Fault> {
    let mut random = fastrand::Rng::with_seed(shared.seed);
    let moments = [Moment::Between, Moment::During];
    let mut processes = Processes { next: 0, count: rounds as usize * moments.len() * clients.len() * clients.len() };
    for round in 0..rounds {
        for moment in moments {
            for victim in 0..clients.len() {
                let name = format!("{round}-{moment:?}-{}", cluster.name(victim));
                let mut uploads = Vec::new();
                for (at, client) in clients.iter().enumerate() {
                    let actor = processes.next(shared);
                    let mut upload = Upload::new(actor, at, &name, moment, &mut random);
                    upload.begin(client).await?;
                    uploads.push(upload);
                }
                scene(cluster, shared, clients, (victim, moment), uploads).await?;
            }
        }
    }
    Ok(())
}

/// Process numbers: each upload begins with its own, and none of them meets another one's when it is retired.
struct Processes {
    next: usize,
    count: usize,
}

impl Processes {
    fn next(&mut self, shared: &Shared) -> Actor {
        self.next += 1;
        Actor::new(&shared.recorder, self.next - 1, self.count)
    }
}

/// Uploads before, a kill, the same uploads after it, and all nodes again.
async fn scene(
    cluster: &mut Cluster,
    shared: &Shared,
    clients: &[Client],
    (victim, moment): (usize, Moment),
    mut uploads: Vec<Upload>,
) -> Result<(), Fault> {
    let all: Vec<&Client> = clients.iter().collect();
    join_all(uploads.iter_mut().map(|upload| upload.push_to(&all, CHUNKS_BEFORE))).await;
    let living: Vec<&Client> = clients.iter().enumerate().filter(|(at, _)| *at != victim).map(|(_, c)| c).collect();
    match moment {
        Moment::Between => nemesis::kill(cluster, &shared.recorder, victim).await?,
        Moment::During => {
            let kill = async {
                tokio::time::sleep(INTO_CHUNK).await;
                nemesis::kill(cluster, &shared.recorder, victim).await
            };
            let under_way = join_all(uploads.iter_mut().map(|upload| upload.chunk(&all)));
            let (killed, _were_taken) = tokio::join!(kill, under_way);
            killed?;
        }
    }
    join_all(uploads.iter_mut().map(|upload| upload.go_on(&living))).await;
    for (at, client) in clients.iter().enumerate().filter(|(at, _)| *at != victim) {
        read_all(&mut uploads, client, cluster.name(at)).await;
    }
    nemesis::restart(cluster, &shared.recorder, victim).await?;
    read_all(&mut uploads, &clients[victim], cluster.name(victim)).await;
    Ok(())
}

async fn read_all(uploads: &mut [Upload], client: &Client, node: &str) {
    join_all(uploads.iter_mut().map(|upload| upload.read(client, node))).await;
}

impl Upload {
    /// Upload number `at` of a scene; its first chunk goes to the node behind that one.
    fn new(actor: Actor, at: usize, name: &str, moment: Moment, random: &mut fastrand::Rng) -> Upload {
        let mut ends = Vec::new();
        let mut end = 0;
        for chunk in 0..CHUNKS {
            let is_large = moment == Moment::During && chunk == CHUNKS_BEFORE;
            end += if is_large { LARGE_CHUNK_BYTES } else { random.usize(64 << 10..300 << 10) };
            ends.push(end);
        }
        let mut bytes = vec![0; end];
        random.fill(&mut bytes);
        Upload {
            key: format!("{name}/{at}"),
            actor,
            bytes: bytes.into(),
            ends,
            location: String::new(),
            acknowledged: 0,
            turn: at,
        }
    }

    /// Where the upload goes on, at one of the nodes: the next in turn.
    fn next(&mut self, clients: &[&Client]) -> (Client, Url) {
        self.turn += 1;
        let client = clients[self.turn % clients.len()];
        (client.clone(), client.url(&self.location))
    }

    /// Begins at `client`. The load has not begun and every node is up: a failure is a fault of the harness.
    async fn begin(&mut self, client: &Client) -> Result<(), Fault> {
        let url = client.url(&format!("/v2/{REPOSITORY}/blobs/uploads/"));
        let op = Op { f: Act::Begin, key: &self.key, node: None, value: json!({"size": self.bytes.len()}) };
        let mut location = None;
        let begin = async {
            let post = || client.expect(202, Method::POST, url.clone(), &[], Bytes::new());
            let begun = repeated(post).await.result;
            match begun.and_then(|answer| answer.location()) {
                Ok(url) => location = Some(url.path().to_owned()),
                Err(trouble) => return failed(trouble),
            }
            Outcome::default()
        };
        self.actor.run(op, begin).await;
        self.location = location.ok_or_else(|| Fault::new(format!("upload {} can't be begun", self.key)))?;
        Ok(())
    }

    /// Pushes until `chunks` of them are acknowledged, to the nodes in turn.
    async fn push_to(&mut self, clients: &[&Client], chunks: usize) {
        while self.acknowledged < self.ends[chunks - 1] && self.chunk_or_resume(clients).await {}
    }

    /// One chunk; when it came to nothing the client asks how far the upload is. False when that fails as well.
    async fn chunk_or_resume(&mut self, clients: &[&Client]) -> bool {
        for _ in 0..=REPEATS_MAX {
            if self.chunk(clients).await {
                return true;
            }
            if !self.resume(clients).await {
                return false;
            }
        }
        false
    }

    /// Sends the rest of the present chunk to the next node; whether it was acknowledged.
    async fn chunk(&mut self, clients: &[&Client]) -> bool {
        let Some(end) = self.ends.iter().copied().find(|end| *end > self.acknowledged) else { return true };
        let (client, url) = self.next(clients);
        let range = self.acknowledged..end;
        let op = Op {
            f: Act::Append,
            key: &self.key,
            node: None,
            value: json!({"from": range.start, "to": range.end, "at": url.host_str()}),
        };
        let headers = [
            (CONTENT_RANGE, format!("{}-{}", range.start, range.end - 1)),
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
        ];
        let mut answer = None;
        let bytes = self.bytes.slice(range);
        let append = async {
            match client.expect(202, Method::PATCH, url, &headers, bytes).await.and_then(where_to) {
                Ok((location, reported)) => {
                    answer = Some((location, reported));
                    Outcome { value: json!({"reported": reported}), ..Outcome::default() }
                }
                Err(trouble) => failed(trouble),
            }
        };
        let is_ok = self.actor.run(op, append).await;
        self.take(answer);
        is_ok
    }

    /// Asks how far the upload is, and goes on from there.
    async fn resume(&mut self, clients: &[&Client]) -> bool {
        let key = self.key.clone();
        let op = Op { f: Act::Resume, key: &key, node: None, value: json!({"acknowledged": self.acknowledged}) };
        let targets: Vec<(Client, Url)> = (0..=REPEATS_MAX).map(|_| self.next(clients)).collect();
        let mut targets = targets.into_iter();
        let mut answer = None;
        let ask = async {
            let get = || {
                let target = targets.next();
                async {
                    let (client, url) = target.ok_or_else(no_node)?;
                    where_to(client.expect(204, Method::GET, url, &[], Bytes::new()).await?)
                }
            };
            match repeated(get).await.result {
                Ok((location, reported)) => {
                    answer = Some((location, reported));
                    Outcome { value: json!({"reported": reported}), ..Outcome::default() }
                }
                Err(trouble) => failed(trouble),
            }
        };
        let is_ok = self.actor.run(op, ask).await;
        self.take(answer);
        is_ok
    }

    fn take(&mut self, answer: Option<(String, usize)>) {
        if let Some((location, reported)) = answer {
            (self.location, self.acknowledged) = (location, reported.min(self.bytes.len()));
        }
    }

    /// After the kill: asks how far it is, sends the rest, and closes it.
    async fn go_on(&mut self, clients: &[&Client]) {
        if !self.resume(clients).await {
            return;
        }
        self.push_to(clients, CHUNKS).await;
        if self.acknowledged < self.bytes.len() {
            return;
        }
        let digest = sha256(&self.bytes);
        let key = self.key.clone();
        let op = Op { f: Act::Finish, key: &key, node: None, value: json!({"digest": digest}) };
        let targets: Vec<(Client, Url)> = (0..=REPEATS_MAX).map(|_| self.next(clients)).collect();
        let mut targets = targets.into_iter();
        let finish = async {
            let put = || {
                let target = targets.next();
                let digest = &digest;
                async move {
                    let (client, mut url) = target.ok_or_else(no_node)?;
                    url.query_pairs_mut().append_pair("digest", digest);
                    client.expect(201, Method::PUT, url, &[], Bytes::new()).await
                }
            };
            match repeated(put).await.result {
                Ok(answer) => Outcome { rev: answer.rev(), ..Outcome::default() },
                Err(trouble) => failed(trouble),
            }
        };
        self.actor.run(op, finish).await;
    }

    /// Reads what it became from one node.
    async fn read(&mut self, client: &Client, node: &str) {
        let digest = sha256(&self.bytes);
        let op = Op { f: Act::ReadBlob, key: &self.key, node: Some(node), value: json!({"digest": digest}) };
        let read = async {
            match client.blob(REPOSITORY, &digest).await {
                Ok(()) => Outcome::default(),
                Err(trouble) => failed(trouble),
            }
        };
        self.actor.run(op, read).await;
    }
}

/// Where an upload goes on, and how much of it there is.
fn where_to(answer: Answer) -> Result<(String, usize), Trouble> {
    let reported = usize::try_from(answer.received()?).unwrap_or(usize::MAX);
    Ok((answer.location()?.path().to_owned(), reported))
}

/// There are as many targets as tries.
fn no_node() -> Trouble {
    Trouble::wrong("no node is left".to_owned())
}

fn failed(trouble: Trouble) -> Outcome {
    Outcome { error: Some(trouble.into_error()), ..Outcome::default() }
}
