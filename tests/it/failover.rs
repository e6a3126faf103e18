//! A node is killed; nothing acknowledged is lost.

use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use crate::support::{Cluster, http};

/// Pushes a one-layer image to `node`; the manifest's bytes.
fn push(cluster: &Cluster, node: u8, repository: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
    let (key, base) = (cluster.key(), cluster.node(node));
    let mut described = Vec::new();
    for bytes in [b"{}".as_slice(), layer] {
        let digest = Digest::sha256(bytes);
        let url = format!("{base}/v2/{repository}/blobs/uploads/?digest={digest}");
        let answer = http::request("POST", &url).key(&key).body(bytes).send();
        assert_eq!(answer.status, 201, "{}", answer.text());
        described.push((digest, bytes.len()));
    }
    let [(config, config_bytes), (layer, layer_bytes)] = described[..] else { unreachable!("two blobs were pushed") };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_bytes}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_bytes}}}]}}"#
    );
    let url = format!("{base}/v2/{repository}/manifests/{tag}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let put = http::request("PUT", &url).key(&key).header("Content-Type", kind).body(manifest.as_str());
        let answer = put.send();
        if answer.status == 201 {
            return manifest.into_bytes();
        }
        assert!(Instant::now() < until, "{} {}", answer.status, answer.text());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn pulls(cluster: &Cluster, node: u8, repository: &str, tag: &str, manifest: &[u8], layer: &[u8]) {
    let (key, base) = (cluster.key(), cluster.node(node));
    let get = |path: String| http::request("GET", &format!("{base}/v2/{repository}/{path}")).key(&key).send();
    let answer = get(format!("manifests/{tag}"));
    assert_eq!((answer.status, answer.body), (200, manifest.to_vec()), "node {node}");
    let answer = get(format!("blobs/{}", Digest::sha256(layer)));
    assert_eq!(answer.status, 200, "node {node}");
    assert_eq!(Digest::sha256(&answer.body), Digest::sha256(layer), "node {node}");
}

// R1, B1: an image pushed to one node is pulled from every other, also after any one node is killed, also by a push
// meanwhile, from that node when it is back, and after all of them were started again.
#[test]
fn nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(21);
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let before = push(&cluster, 1, "it/image", "before", &large);
    for node in 1..=3 {
        pulls(&cluster, node, "it/image", "before", &before, &large);
    }
    cluster.kill_node(1);
    let small = b"pushed while a node was down".to_vec();
    let during = push(&cluster, 2, "it/image", "during", &small);
    for node in 2..=3 {
        pulls(&cluster, node, "it/image", "before", &before, &large);
        pulls(&cluster, node, "it/image", "during", &during, &small);
    }
    cluster.start_node(1);
    pulls(&cluster, 1, "it/image", "during", &during, &small);
    cluster.restart();
    for node in 1..=3 {
        pulls(&cluster, node, "it/image", "before", &before, &large);
        pulls(&cluster, node, "it/image", "during", &during, &small);
    }
}

// U-level basics: without a credential there is a challenge on every path, and a wrong one is refused.
#[test]
fn strangers_are_challenged() {
    let base = Cluster::shared().node(1);
    for path in ["/v2/", "/v2/a/manifests/b", "/v2/_catalog"] {
        let url = format!("{base}{path}");
        assert_eq!(http::request("GET", &url).send().status, 401, "{path}");
        let wrong = http::request("GET", &url).key("nobody:nothing-that-was-ever-a-secret-here").send();
        assert_eq!(wrong.status, 401, "{path}");
    }
}
