//! `blob-bytes`: blobs are pushed whole, in chunks that go to different nodes, and by mounting; and read whole and in
//! part from any node. What was sent is made again from its number whenever a part of it is compared.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::Shared;
use super::client::{Answer, Client, Trouble};
use super::image::sha256;
use super::nodes::{Nodes, failed, refused};
use crate::history::{Act, Actor, Op, Outcome};

/// Repositories that blobs go to.
const REPOSITORIES: u64 = 8;
/// Chunks of an upload at most.
const CHUNKS_MAX: usize = 5;
/// Blobs read at the end, each from every node.
const FINAL_READS_MAX: usize = 2000;

/// A blob that was pushed; its bytes are made again from its number.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    number: u64,
    repository: String,
    digest: String,
    size: usize,
}

/// Bytes of blob `number`, at most `bytes_max`: half of them go to packs, half are staged, a few are larger than what a
/// holder buffers.
fn bytes(seed: u64, number: u64, bytes_max: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let size = match random.u8(0..20) {
        0 => random.usize(1..=16),
        1..9 => random.usize(512..64 << 10),
        9..18 => random.usize(64 << 10..400 << 10),
        _ => random.usize(400 << 10..3 << 20),
    };
    let mut bytes = vec![0; size.min(bytes_max.max(1))];
    random.fill(&mut bytes);
    bytes.into()
}

/// Pushes and reads until the load ends.
pub(crate) async fn run(shared: Arc<Shared>, nodes: Nodes, actor: Actor, number: usize) {
    let random = fastrand::Rng::with_seed(shared.seed ^ (number as u64).wrapping_mul(0xaf25_1af3_b0f0_25b5));
    let mut user = User { shared: Arc::clone(&shared), nodes, actor, random };
    while !shared.is_over() {
        shared.pause(&mut user.random).await;
        let known = user.any_known();
        match (user.random.u8(0..100), known) {
            (0..25, _) | (_, None) => user.push().await,
            (25..35, Some(source)) => user.mount(&source).await,
            (35..60, Some(source)) => {
                let node = user.nodes.any(&mut user.random).clone();
                read_whole(&mut user.actor, &node.public, &node.name, &source).await;
            }
            (_, Some(source)) => user.read_range(&source).await,
        }
    }
}

/// Reads what was pushed from every node, when everything is over. Actors are numbered from `first`.
pub(crate) async fn read_all(shared: &Shared, nodes: &Nodes, first: usize) {
    let mut sources = shared.blobs.lock().clone();
    fastrand::Rng::with_seed(shared.seed).shuffle(&mut sources);
    sources.truncate(FINAL_READS_MAX);
    let reads = nodes.iter().enumerate().map(|(at, node)| {
        let (sources, mut actor) = (&sources, Actor::new(&shared.recorder, first + at, nodes.count()));
        async move {
            for source in sources {
                read_whole(&mut actor, &node.public, &node.name, source).await;
            }
        }
    });
    futures_util::future::join_all(reads).await;
}

async fn read_whole(actor: &mut Actor, client: &Client, node: &str, source: &Source) {
    let key = source.key();
    let op = Op { f: Act::ReadWhole, key: &key, node: Some(node), value: json!({"size": source.size}) };
    let read = async {
        match client.send(Method::GET, source.url(client), &[], Bytes::new()).await {
            Ok(answer) => got(&answer, &source.digest, None),
            Err(trouble) => failed(trouble),
        }
    };
    actor.run(op, read).await;
}

/// What came: its digest beside the one it must have. Whether they are equal is for the judge.
fn got(answer: &Answer, want: &str, range: Option<String>) -> Outcome {
    match answer.status {
        200..=299 => {
            let value = json!({
                "status": answer.status,
                "size": answer.body.len(),
                "got": sha256(&answer.body),
                "want": want,
                "range": answer.header(CONTENT_RANGE),
                "want_range": range,
            });
            Outcome { value, rev: answer.rev(), error: None }
        }
        404 | 416 => refused(answer, json!({"status": answer.status})),
        _ => failed(Trouble::of_answer(answer)),
    }
}

struct User {
    shared: Arc<Shared>,
    nodes: Nodes,
    actor: Actor,
    random: fastrand::Rng,
}

impl User {
    /// A blob that was acknowledged; half of the time one of the last fifty.
    fn any_known(&mut self) -> Option<Source> {
        let blobs = self.shared.blobs.lock();
        let from = if self.random.bool() { blobs.len().saturating_sub(50) } else { 0 };
        (from < blobs.len()).then(|| blobs[self.random.usize(from..blobs.len())].clone())
    }

    /// Pushes a new blob in one of three ways, each request to another node.
    async fn push(&mut self) {
        let number = self.shared.next_image();
        let bytes = bytes(self.shared.seed, number, self.shared.layer_bytes_max);
        let repository = format!("bytes/r{}", number % REPOSITORIES);
        let source = Source { number, repository, digest: sha256(&bytes), size: bytes.len() };
        let chunks = match self.random.u8(0..10) {
            0..3 => 0,
            3..5 => 1,
            _ => self.random.usize(2..=CHUNKS_MAX).min(bytes.len()),
        };
        let plan: Vec<Client> = (0..chunks + 2).map(|_| self.nodes.any(&mut self.random).public.clone()).collect();
        let ends = cuts(bytes.len(), chunks, &mut self.random);
        let key = source.key();
        let value = json!({"number": number, "size": source.size, "chunks": chunks});
        let op = Op { f: Act::Upload, key: &key, node: None, value };
        let sent = async { upload(&plan, &source, &bytes, &ends).await.map_or_else(failed, |answer| ok(&answer)) };
        if self.actor.run(op, sent).await {
            self.shared.blobs.lock().push(source);
        }
    }

    /// Mounts a blob into another repository.
    async fn mount(&mut self, source: &Source) {
        let repository = format!("bytes/m{}", self.random.u64(0..REPOSITORIES));
        let target = Source { repository, ..source.clone() };
        let node = self.nodes.any(&mut self.random).clone();
        let key = target.key();
        let op = Op { f: Act::Mount, key: &key, node: Some(&node.name), value: json!({"from": source.repository}) };
        let mut url = node.public.url(&format!("/v2/{}/blobs/uploads/", target.repository));
        url.query_pairs_mut().append_pair("mount", &source.digest).append_pair("from", &source.repository);
        let sent = async {
            match node.public.send(Method::POST, url, &[], Bytes::new()).await {
                Ok(answer) if answer.status == 201 => ok(&answer),
                // an upload was begun instead: nothing is there
                Ok(answer) if answer.status == 202 => refused(&answer, json!({"status": 202})),
                Ok(answer) => failed(Trouble::of_answer(&answer)),
                Err(trouble) => failed(trouble),
            }
        };
        if self.actor.run(op, sent).await {
            self.shared.blobs.lock().push(target);
        }
    }

    /// Reads a part, asked for in one of the three ways there are.
    async fn read_range(&mut self, source: &Source) {
        let node = self.nodes.any(&mut self.random).clone();
        let (range, header) = any_range(source.size, &mut self.random);
        let whole = bytes(self.shared.seed, source.number, self.shared.layer_bytes_max);
        let want = sha256(&whole[range.clone()]);
        let described = format!("bytes {}-{}/{}", range.start, range.end - 1, source.size);
        let key = source.key();
        let op = Op { f: Act::ReadRange, key: &key, node: Some(&node.name), value: json!({"range": header}) };
        let read = async {
            let headers = [(RANGE, header.clone())];
            match node.public.send(Method::GET, source.url(&node.public), &headers, Bytes::new()).await {
                // the whole instead of a part is allowed, as the whole
                Ok(answer) if answer.status == 200 => got(&answer, &source.digest, None),
                Ok(answer) => got(&answer, &want, Some(described)),
                Err(trouble) => failed(trouble),
            }
        };
        self.actor.run(op, read).await;
    }
}

fn ok(answer: &Answer) -> Outcome {
    Outcome { value: Value::Null, rev: answer.rev(), error: None }
}

impl Source {
    /// Its name in the history.
    fn key(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }

    fn url(&self, client: &Client) -> Url {
        client.url(&format!("/v2/{}/blobs/{}", self.repository, self.digest))
    }
}

/// Where the chunks of an upload end: each has a byte at least.
fn cuts(size: usize, chunks: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let mut ends: Vec<usize> = (1..chunks).map(|_| random.usize(1..size.max(2))).collect();
    if chunks > 0 {
        ends.push(size);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Sends a blob: at once without `ends`, else a chunk up to each of them; every request to the next of `plan`.
async fn upload(plan: &[Client], source: &Source, bytes: &Bytes, ends: &[usize]) -> Result<Answer, Trouble> {
    let octets = (CONTENT_TYPE, "application/octet-stream".to_owned());
    let mut begin = plan[0].url(&format!("/v2/{}/blobs/uploads/", source.repository));
    if ends.is_empty() {
        begin.query_pairs_mut().append_pair("digest", &source.digest);
        return plan[0].expect(201, Method::POST, begin, &[octets], bytes.clone()).await;
    }
    let begun = plan[0].expect(202, Method::POST, begin, &[], Bytes::new()).await?;
    let (mut path, mut from) = (begun.location()?.path().to_owned(), 0);
    for (client, end) in plan[1..].iter().zip(ends) {
        let headers = [octets.clone(), (CONTENT_RANGE, format!("{from}-{}", end - 1))];
        let chunk = bytes.slice(from..*end);
        let appended = client.expect(202, Method::PATCH, client.url(&path), &headers, chunk).await?;
        (path, from) = (appended.location()?.path().to_owned(), *end);
    }
    let last = &plan[plan.len() - 1];
    let mut url = last.url(&path);
    url.query_pairs_mut().append_pair("digest", &source.digest);
    last.expect(201, Method::PUT, url, &[], Bytes::new()).await
}

/// A part that is not empty, and how it is asked for.
fn any_range(size: usize, random: &mut fastrand::Rng) -> (Range<usize>, String) {
    let (one, other) = (random.usize(0..size), random.usize(0..size));
    let (first, last) = (one.min(other), one.max(other));
    match random.u8(0..4) {
        0 => (first..size, format!("bytes={first}-")),
        1 => (size - (first + 1)..size, format!("bytes=-{}", first + 1)),
        // an end beyond the blob means its end
        2 => (first..size, format!("bytes={first}-{}", size + last)),
        _ => (first..last + 1, format!("bytes={first}-{last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Chunks cover a blob without a gap, whatever its size; a blob of one byte has one.
    #[test]
    fn chunks_cover() {
        let mut random = fastrand::Rng::with_seed(7);
        for size in [1, 2, 3, 1000] {
            for chunks in 0..=CHUNKS_MAX.min(size) {
                let ends = cuts(size, chunks, &mut random);
                assert_eq!(ends.last().copied(), (chunks > 0).then_some(size), "{size} in {chunks}");
                assert!(ends.windows(2).all(|pair| pair[0] < pair[1]) && ends.first() != Some(&0));
            }
        }
    }

    // A range is asked for as RFC 9110 has it, and is the part that is compared.
    #[test]
    fn ranges() {
        let mut random = fastrand::Rng::with_seed(7);
        for size in [1, 2, 10, 70_000] {
            for _ in 0..200 {
                let (range, header) = any_range(size, &mut random);
                assert!(!range.is_empty() && range.end <= size, "{header} of {size}");
                let (first, last) = header.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let want = match (first, last) {
                    ("", suffix) => size - suffix.parse::<usize>().unwrap()..size,
                    (first, "") => first.parse().unwrap()..size,
                    (first, last) => first.parse().unwrap()..(last.parse::<usize>().unwrap() + 1).min(size),
                };
                assert_eq!(range, want, "{header} of {size}");
            }
        }
    }

    // The same number gives the same bytes, another one others.
    #[test]
    fn bytes_come_back() {
        assert_eq!(bytes(1, 2, 1 << 20), bytes(1, 2, 1 << 20));
        assert_ne!(sha256(&bytes(1, 2, 1 << 20)), sha256(&bytes(1, 3, 1 << 20)));
        assert!((0..100).all(|number| (1..=100).contains(&bytes(1, number, 100).len())));
    }
}
