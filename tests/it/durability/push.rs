//! A client that pushes as docker does, tells every step, goes on at another node when one fails, and writes down
//! whatever was acknowledged.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use super::wire::{self, Request, Response};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where a push is. "Sent": all of the request has been, and nothing of its answer read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A small blob, whole in one `POST`.
    SmallSent,
    SmallAnswered,
    /// The `POST` that begins an upload.
    Begun,
    /// Half of a chunk.
    HalfSent,
    ChunkSent,
    ChunkAnswered,
    /// The `PUT` with the digest.
    CloseSent,
    CloseAnswered,
    ManifestSent,
    ManifestAnswered,
}

impl Step {
    pub(super) const ALL: [Step; 10] = [
        Step::SmallSent,
        Step::SmallAnswered,
        Step::Begun,
        Step::HalfSent,
        Step::ChunkSent,
        Step::ChunkAnswered,
        Step::CloseSent,
        Step::CloseAnswered,
        Step::ManifestSent,
        Step::ManifestAnswered,
    ];
}

/// Something that must be there for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Below `/v2/`.
    pub(super) path: String,
    pub(super) digest: Digest,
}

/// Is told the step, the node (from 1) that is talked to, and the upload's id once there is one.
type Told<'a> = dyn FnMut(Step, u8, Option<&str>) + 'a;

/// A client.
pub(super) struct Pusher<'a> {
    nodes: Vec<SocketAddr>,
    key: String,
    at: Box<Told<'a>>,
    /// The node for the next request, from 0.
    next: usize,
    /// How long a push may take before it counts as failed.
    patience: Duration,
    pub(super) acknowledged: Vec<Acknowledged>,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(
        nodes: Vec<SocketAddr>,
        key: String,
        patience: Duration,
        at: impl FnMut(Step, u8, Option<&str>) + 'a,
    ) -> Pusher<'a> {
        Pusher { nodes, key, at: Box::new(at), next: 0, patience, acknowledged: Vec::new() }
    }

    /// Talks to this node (from 1) next.
    pub(super) fn turn_to(&mut self, n: u8) {
        self.next = usize::from(n) - 1;
    }

    fn node(&self) -> u8 {
        u8::try_from(self.next).unwrap() + 1
    }

    fn turn(&mut self) {
        self.next = (self.next + 1) % self.nodes.len();
    }

    fn tell(&mut self, step: Step, upload: Option<&str>) {
        let node = self.node();
        (self.at)(step, node, upload);
    }

    fn note(&mut self, path: String, digest: Digest) {
        self.acknowledged.push(Acknowledged { path, digest });
    }

    /// One request with a step between sending and reading.
    fn ask(
        &mut self,
        what: (&str, &str),
        headers: &[(&str, String)],
        body: &[u8],
        sent: Option<Step>,
        upload: Option<&str>,
    ) -> io::Result<Response> {
        let node = self.nodes[self.next];
        let mut request = Request::begin(node, Some(&self.key), what, headers, body.len())?;
        let half = body.len() / 2;
        request.send(&body[..half])?;
        if sent == Some(Step::ChunkSent) {
            self.tell(Step::HalfSent, upload);
        }
        request.send(&body[half..])?;
        if let Some(step) = sent {
            self.tell(step, upload);
        }
        request.answer()
    }

    /// Repeats until `good`, at one node after the other. An answer that no fault excuses ends the test.
    fn insist(
        &mut self,
        what: (&str, &str),
        headers: &[(&str, String)],
        body: &[u8],
        sent: Option<Step>,
        good: &[u16],
    ) -> Response {
        let until = Instant::now() + self.patience;
        loop {
            let answer = self.ask(what, headers, body, sent, None);
            match &answer {
                Ok(answer) if good.contains(&answer.status) => return answer.clone(),
                Ok(answer) if answer.status < 500 => panic!("{what:?}: {} {}", answer.status, answer.text()),
                Ok(_) | Err(_) => {}
            }
            assert!(Instant::now() < until, "{what:?} does not succeed; last: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
            self.turn();
        }
    }

    /// Pushes a small blob in one request.
    pub(super) fn small(&mut self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.insist(("POST", &path), &[octets()], bytes, Some(Step::SmallSent), &[201]);
        self.note(format!("{repository}/blobs/{digest}"), digest);
        self.tell(Step::SmallAnswered, None);
        digest
    }

    /// Pushes a blob in two chunks and a `PUT`. Every request goes to another node than the one before if `turning`.
    pub(super) fn large(&mut self, repository: &str, bytes: &[u8], turning: bool) -> Digest {
        let digest = Digest::sha256(bytes);
        let until = Instant::now() + self.patience;
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.insist(("POST", &path), &[], &[], None, &[202]);
        let mut location = begun.header("location").unwrap().to_owned();
        let upload = begun.header("docker-upload-uuid").unwrap().to_owned();
        self.tell(Step::Begun, Some(&upload));
        let mut offset = 0;
        while offset < bytes.len() {
            if turning {
                self.turn();
            }
            let end = if offset < bytes.len() / 2 { bytes.len() / 2 } else { bytes.len() };
            let range = ("Content-Range", format!("{offset}-{}", end - 1));
            let chunk = &bytes[offset..end];
            let sent = Some(Step::ChunkSent);
            let answer = self.ask(("PATCH", &location), &[octets(), range], chunk, sent, Some(&upload));
            match answer {
                Ok(answer) if answer.status == 202 => {
                    (location, offset) = (answer.header("location").unwrap().to_owned(), received(&answer));
                    assert_eq!(offset, end, "a chunk was acknowledged and not taken");
                    self.tell(Step::ChunkAnswered, Some(&upload));
                }
                answer => {
                    let what = format!("upload {upload}, chunk at {offset}");
                    assert!(Instant::now() < until, "{what} does not succeed: {answer:?}");
                    (location, offset) = self.find_again(&what, &location, offset, until);
                }
            }
        }
        self.close(repository, &location, &upload, &digest, turning);
        digest
    }

    /// Asks how far an upload is. What was acknowledged is still there after any one node was killed.
    fn find_again(&mut self, what: &str, location: &str, acknowledged: usize, until: Instant) -> (String, usize) {
        loop {
            std::thread::sleep(Duration::from_millis(100));
            self.turn();
            let answer = wire::get(self.nodes[self.next], Some(&self.key), location);
            match answer {
                Ok(answer) if answer.status == 204 => {
                    let (location, offset) = (answer.header("location").unwrap().to_owned(), received(&answer));
                    // one byte and none look alike
                    let offset = if offset <= 1 { 0 } else { offset };
                    assert!(
                        offset >= acknowledged,
                        "{what}: {acknowledged} bytes were acknowledged, {offset} are left"
                    );
                    return (location, offset);
                }
                Ok(answer) if answer.status < 500 => panic!("{what}: {} {}", answer.status, answer.text()),
                answer => assert!(Instant::now() < until, "{what} is not found again: {answer:?}"),
            }
        }
    }

    fn close(&mut self, repository: &str, location: &str, upload: &str, digest: &Digest, turning: bool) {
        if turning {
            self.turn();
        }
        let with = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{with}digest={digest}");
        let until = Instant::now() + self.patience;
        loop {
            let answer = self.ask(("PUT", &path), &[], &[], Some(Step::CloseSent), Some(upload));
            match answer {
                Ok(answer) if answer.status == 201 => break,
                // the request before this one is still being worked on
                Ok(answer) if answer.status < 500 && answer.status != 409 => {
                    panic!("closing {upload}: {} {}", answer.status, answer.text())
                }
                answer => assert!(Instant::now() < until, "closing {upload} does not succeed: {answer:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
            self.turn();
        }
        self.note(format!("{repository}/blobs/{digest}"), *digest);
        self.tell(Step::CloseAnswered, Some(upload));
    }

    /// Puts a manifest of these blobs under a tag.
    pub(super) fn manifest(&mut self, repository: &str, tag: &str, config: (Digest, usize), layer: (Digest, usize)) {
        let ((config, config_bytes), (layer, layer_bytes)) = (config, layer);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config.to_string(), "size": config_bytes },
            "layers": [{ "mediaType": LAYER, "digest": layer.to_string(), "size": layer_bytes }],
            "annotations": { "tag": tag },
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let kind = ("Content-Type", MANIFEST.to_owned());
        self.insist(("PUT", &path), &[kind], &bytes, Some(Step::ManifestSent), &[201]);
        let digest = Digest::sha256(&bytes);
        self.note(format!("{repository}/manifests/{tag}"), digest);
        self.note(format!("{repository}/manifests/{digest}"), digest);
        self.tell(Step::ManifestAnswered, None);
    }

    /// A whole image: a small config, a layer in chunks if it is large, a manifest.
    pub(super) fn image(&mut self, repository: &str, tag: &str, layer: &[u8], turning: bool) {
        let config = format!("{{\"tag\":\"{repository}:{tag}\"}}").into_bytes();
        let small = self.small(repository, &config);
        let large = match layer.len() {
            0..=65_536 => self.small(repository, layer),
            _ => self.large(repository, layer, turning),
        };
        self.manifest(repository, tag, (small, config.len()), (large, layer.len()));
    }
}

fn octets() -> (&'static str, String) {
    ("Content-Type", "application/octet-stream".to_owned())
}

/// The end of what was received.
fn received(answer: &Response) -> usize {
    let range = answer.header("range").unwrap();
    range.trim_start_matches("0-").parse::<usize>().unwrap() + 1
}

/// Bytes that nobody else pushes.
pub(super) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A small generator of numbers (splitmix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Puts a list into another order.
    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, usize::try_from(self.below(at as u64 + 1)).unwrap());
        }
    }
}
