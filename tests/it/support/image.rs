//! Images of one layer.

use registry_core::vocabulary::Digest;

use super::{Cluster, http};

/// What an image manifest is.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image of one layer through a node; the layer's digest.
pub(crate) fn push(cluster: &Cluster, node: u8, repository: &str, tag: &str, layer: &[u8]) -> Digest {
    let (key, base) = (cluster.key(), format!("{}/v2/{repository}", cluster.node(node)));
    let described = [b"{}".as_slice(), layer].map(|bytes| {
        let digest = Digest::sha256(bytes);
        let url = format!("{base}/blobs/uploads/?digest={digest}");
        let answer = http::request("POST", &url).key(&key).body(bytes).send();
        assert_eq!(answer.status, 201, "{}", answer.text());
        format!(r#""mediaType":"application/octet-stream","digest":"{digest}","size":{}"#, bytes.len())
    });
    let [config, described] = described;
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{{config}}},"layers":[{{{described}}}]}}"#);
    put(cluster, node, repository, tag, &manifest);
    Digest::sha256(layer)
}

/// Puts a manifest under a tag.
pub(crate) fn put(cluster: &Cluster, node: u8, repository: &str, tag: &str, manifest: &str) {
    let url = format!("{}/v2/{repository}/manifests/{tag}", cluster.node(node));
    let put = http::request("PUT", &url).key(&cluster.key()).header("Content-Type", MANIFEST);
    let answer = put.body(manifest.to_owned()).send();
    assert_eq!(answer.status, 201, "{}", answer.text());
}
