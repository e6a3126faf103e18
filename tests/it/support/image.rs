//! Images of one layer.

use registry_core::vocabulary::Digest;

use super::{Cluster, http};

/// What an image manifest is.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The manifest of an image of one layer, whose configuration is `{}`.
pub(crate) fn manifest(layer: &[u8]) -> String {
    let [config, layer] = [b"{}".as_slice(), layer].map(|bytes| {
        let digest = Digest::sha256(bytes);
        format!(r#""mediaType":"application/octet-stream","digest":"{digest}","size":{}"#, bytes.len())
    });
    format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{{config}}},"layers":[{{{layer}}}]}}"#)
}

/// Pushes an image of one layer through a node; the layer's digest.
pub(crate) fn push(cluster: &Cluster, node: u8, repository: &str, tag: &str, layer: &[u8]) -> Digest {
    push_blobs(cluster, node, repository, layer);
    put(cluster, node, repository, tag, &manifest(layer));
    Digest::sha256(layer)
}

/// Pushes what the manifest of such an image names.
pub(crate) fn push_blobs(cluster: &Cluster, node: u8, repository: &str, layer: &[u8]) {
    let base = format!("{}/v2/{repository}", cluster.node(node));
    for bytes in [b"{}".as_slice(), layer] {
        let url = format!("{base}/blobs/uploads/?digest={}", Digest::sha256(bytes));
        let answer = http::request("POST", &url).key(&cluster.key()).body(bytes).send();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

/// Puts a manifest under a tag, or under its digest.
pub(crate) fn put(cluster: &Cluster, node: u8, repository: &str, tag: &str, manifest: &str) {
    let url = format!("{}/v2/{repository}/manifests/{tag}", cluster.node(node));
    let put = http::request("PUT", &url).key(&cluster.key()).header("Content-Type", MANIFEST);
    let answer = put.body(manifest.to_owned()).send();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Content that is a file of its own, and never the same for two numbers.
pub(crate) fn large(number: u32) -> Vec<u8> {
    (0..100_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(number.wrapping_mul(7_919)) >> 13) as u8)
        .collect()
}
