//! Unique images, made from the run's seed.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::client::{MANIFEST_TYPE, Way};

/// Repositories that a run pushes to.
const REPOSITORIES: u64 = 16;

/// `sha256:…` of bytes; computed here and not by the server's code, which is what is tested.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// One blob and how it is pushed.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Bytes,
    pub(crate) digest: String,
    pub(crate) way: Way,
}

impl Blob {
    /// A blob of given bytes.
    pub(crate) fn new(bytes: Vec<u8>, way: Way) -> Blob {
        Blob { digest: sha256(&bytes), bytes: bytes.into(), way }
    }
}

/// The smallest manifest there is, of one blob; `note` tells it from others. `subject` is the manifest it is attached
/// to.
pub(crate) fn small_manifest(blob: &Blob, note: &str, subject: Option<&Bytes>) -> Bytes {
    let descriptor = |kind: &str, digest: &str, size: usize| json!({"mediaType": kind, "digest": digest, "size": size});
    let of_blob = |kind: &str| descriptor(kind, &blob.digest, blob.bytes.len());
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": of_blob("application/vnd.oci.image.config.v1+json"),
        "layers": [of_blob("application/octet-stream")],
        "annotations": {"note": note},
    });
    if let Some(subject) = subject {
        manifest["subject"] = descriptor(MANIFEST_TYPE, &sha256(subject), subject.len());
    }
    manifest.to_string().into()
}

/// An image and its blobs.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) repository: String,
    pub(crate) tag: String,
    /// The configuration first, then the layers: two to four.
    pub(crate) blobs: Vec<Blob>,
    pub(crate) manifest: Bytes,
    pub(crate) digest: String,
}

impl Image {
    /// Image `number` of the run with `seed`, which no other push shares anything with; no layer is larger than
    /// `layer_bytes_max`.
    pub(crate) fn unique(seed: u64, number: u64, layer_bytes_max: usize) -> Image {
        let mut random = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut blobs = vec![Blob::new(config(seed, number), any_way(&mut random))];
        for _ in 0..random.usize(1..=3) {
            let size = layer_size(&mut random).min(layer_bytes_max);
            let mut bytes = vec![0; size];
            random.fill(&mut bytes);
            blobs.push(Blob::new(bytes, any_way(&mut random)));
        }
        Image::of(format!("push/r{}", number % REPOSITORIES), format!("t{number}"), blobs)
    }

    /// An image of given blobs, the configuration first.
    pub(crate) fn of(repository: String, tag: String, blobs: Vec<Blob>) -> Image {
        let described = |blob: &Blob, kind: &str| {
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": blob.digest,
                "size": blob.bytes.len()})
        };
        let layers: Vec<_> = blobs[1..].iter().map(|blob| described(blob, "layer.v1.tar")).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described(&blobs[0], "config.v1+json"),
            "layers": layers,
        });
        let manifest = Bytes::from(manifest.to_string());
        let digest = sha256(&manifest);
        Image { repository, tag, blobs, manifest, digest }
    }

    /// `repository:tag`, its name in the history.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// Most layers go to packs, some are staged, a few are larger than what a holder buffers.
fn layer_size(random: &mut fastrand::Rng) -> usize {
    match random.u8(0..20) {
        0..12 => random.usize(512..16 << 10),
        12..17 => random.usize(16 << 10..64 << 10),
        17..19 => random.usize(64 << 10..256 << 10),
        _ => random.usize(256 << 10..1 << 20),
    }
}

/// The configuration of image `number` of the run with `seed`: no other image has the same.
pub(crate) fn config(seed: u64, number: u64) -> Vec<u8> {
    json!({"architecture": "amd64", "os": "linux", "seed": seed, "number": number}).to_string().into_bytes()
}

/// One of the ways of pushing.
pub(crate) fn any_way(random: &mut fastrand::Rng) -> Way {
    match random.u8(0..3) {
        0 => Way::Whole,
        1 => Way::BeginAndPut,
        _ => Way::Stream,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The same seed and number give the same image; any other gives one that shares no blob with it.
    #[test]
    fn unique() {
        let digests = |seed, number| {
            let image = Image::unique(seed, number, 1 << 20);
            assert!((2..=4).contains(&image.blobs.len()));
            image.blobs.into_iter().map(|blob| blob.digest).chain([image.digest]).collect::<Vec<_>>()
        };
        assert_eq!(digests(1, 2), digests(1, 2));
        let mut all: Vec<String> = (0..50).flat_map(|number| digests(1, number)).chain(digests(2, 2)).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        let empty = sha256(b"");
        assert_eq!(empty, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
