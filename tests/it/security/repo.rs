//! A repository under attack: requests to it in few words.

use registry_core::vocabulary::Digest;
use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::http::{self, Answer, Request};

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A repository behind one node.
#[derive(Clone)]
pub(crate) struct Repo {
    /// `http://address:port`
    pub(crate) base: String,
    /// `ID:SECRET`
    pub(crate) key: String,
    pub(crate) name: String,
}

impl Repo {
    /// One of the shared cluster, behind its first node.
    pub(crate) fn shared(name: &str) -> Repo {
        let cluster = Cluster::shared();
        Repo { base: cluster.node(1), key: cluster.key(), name: name.to_owned() }
    }

    /// The same repository behind another node.
    pub(crate) fn behind(&self, base: &str) -> Repo {
        Repo { base: base.to_owned(), ..self.clone() }
    }

    /// Another repository behind the same node.
    pub(crate) fn named(&self, name: &str) -> Repo {
        Repo { name: name.to_owned(), ..self.clone() }
    }

    /// A request to a path below the repository.
    pub(crate) fn request(&self, method: &str, rest: &str) -> Request {
        http::request(method, &format!("{}/v2/{}/{rest}", self.base, self.name)).key(&self.key)
    }

    /// A request to where an answer pointed.
    pub(crate) fn follow(&self, method: &str, location: &str) -> Request {
        assert!(location.starts_with("/v2/"), "locations are relative: {location:?}");
        http::request(method, &format!("{}{location}", self.base)).key(&self.key)
    }

    pub(crate) fn get(&self, rest: &str) -> Answer {
        self.request("GET", rest).settled()
    }

    /// Status and error code of a GET.
    pub(crate) fn refused(&self, rest: &str) -> (u16, String) {
        told(&self.get(rest))
    }

    /// Puts a manifest.
    pub(crate) fn put(&self, reference: &str, media_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request("PUT", &format!("manifests/{reference}"));
        request.header("Content-Type", media_type).body(body).settled()
    }

    /// Puts a manifest that must be taken; its digest.
    pub(crate) fn stored(&self, reference: &str, media_type: &str, body: impl Into<Vec<u8>>) -> Digest {
        let body = body.into();
        let answer = self.put(reference, media_type, body.clone());
        assert_eq!(answer.status, 201, "{reference}: {}", answer.text());
        Digest::sha256(&body)
    }

    /// Pushes a blob in one request; its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        let answer = self.request("POST", &format!("blobs/uploads/?digest={digest}")).body(bytes).settled();
        assert_eq!(answer.status, 201, "{}", answer.text());
        descriptor(media_type, &digest, bytes.len() as u64)
    }

    /// Begins an upload; where it goes on.
    pub(crate) fn begin(&self) -> String {
        let answer = self.request("POST", "blobs/uploads/").settled();
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.header("location").to_owned()
    }

    /// An image of one layer that is here.
    pub(crate) fn image(&self, layer: &[u8]) -> Value {
        let config = self.blob(CONFIG, b"{}");
        image(&config, &[self.blob(LAYER, layer)])
    }
}

/// Status and error code.
pub(crate) fn told(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

/// What a test expects of [`told`].
pub(crate) fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size_bytes: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size_bytes })
}

pub(crate) fn image(config: &Value, layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers })
}

pub(crate) fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// A descriptor of a manifest's bytes.
pub(crate) fn described(media_type: &str, body: &str) -> Value {
    descriptor(media_type, &Digest::sha256(body.as_bytes()), body.len() as u64)
}

/// Where the next chunk of an upload goes, after an answer about it.
pub(crate) fn location(answer: &Answer) -> String {
    answer.header("location").to_owned()
}

/// Bytes that compress to nothing else and repeat nowhere.
pub(crate) fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}
