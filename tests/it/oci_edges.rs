//! The edge list of real clients: what at least one of them does, or breaks on. Numbered as in `src/docs/clients.md`;
//! pushed to one node, looked at on another.

use registry_core::vocabulary::Digest;
use registry_core::vocabulary::digest::Algorithm;
use serde_json::{Value, json};

use crate::support::{self, Cluster};
use crate::wire::{Answer, Request};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Address of a node.
fn at(node: u8) -> String {
    Cluster::shared().node(node).trim_start_matches("http://").to_owned()
}

/// A request of the root user to `/v2/<path>`.
fn root(method: &str, path: &str) -> Request {
    Request::new(method, &format!("/v2/{path}")).key(&Cluster::shared().key())
}

/// Bytes that are `length` long and the same for no other `seed`.
fn bytes(seed: &str, length: usize) -> Vec<u8> {
    let text = seed.as_bytes();
    (0..length).map(|at| text[at % text.len()].wrapping_add((at / 251 * 31 + at / text.len()) as u8)).collect()
}

/// Pushes a blob in one request.
fn push(node: u8, name: &str, content: &[u8]) -> Digest {
    let digest = Digest::sha256(content);
    root("POST", &format!("{name}/blobs/uploads/?digest={digest}")).body(content).send(&at(node)).expect(201);
    digest
}

/// Begins an upload: where it goes on.
fn begin(node: u8, name: &str) -> String {
    let answer = root("POST", &format!("{name}/blobs/uploads/")).send(&at(node)).expect(202);
    location(&answer)
}

/// Path of the Location of an answer, below `/v2/`.
fn location(answer: &Answer) -> String {
    answer.header("location").strip_prefix("/v2/").expect("a relative location").to_owned()
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(content).to_string(), "size": content.len() })
}

/// An image of these layers, whose configuration is `{}`.
fn image(layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, b"{}"), "layers": layers })
}

fn index(children: &[(&str, &[u8])]) -> Value {
    let children: Vec<Value> = children.iter().map(|(kind, child)| descriptor(kind, child)).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children })
}

/// Puts a manifest under its own media type.
fn put(node: u8, name: &str, reference: &str, manifest: &Value) -> Answer {
    let kind = manifest["mediaType"].as_str().unwrap();
    let request = root("PUT", &format!("{name}/manifests/{reference}")).header("Content-Type", kind);
    request.body(manifest.to_string().as_bytes()).send(&at(node))
}

/// Puts an image of one layer, with all it names; its bytes.
fn put_image(node: u8, name: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
    push(node, name, b"{}");
    push(node, name, layer);
    let manifest = image(&[descriptor(LAYER, layer)]);
    put(node, name, tag, &manifest).expect(201);
    manifest.to_string().into_bytes()
}

fn status(node: u8, method: &str, path: &str) -> u16 {
    root(method, path).send(&at(node)).status
}

/// Runs the operator's command against the first node.
fn portolan(arguments: &[&str]) -> Value {
    let (cluster, key_file) = (Cluster::shared(), Cluster::shared().key_file());
    let connection = ["-o", "json", "--admin", &cluster.admin(1), "--credentials-file", key_file.to_str().unwrap()];
    let output = support::portolan(&[arguments, &connection].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Makes a user who may do what is granted; its key.
fn user(name: &str, grant: &str) -> String {
    portolan(&["user", "create", name, "--grant", grant]);
    let key = portolan(&["user", "key", "create", name]);
    format!("{}:{}", key["key_id"].as_str().unwrap(), key["secret"].as_str().unwrap())
}

// 1: what one node acknowledged, every other has at once: docker asks for a blob right after it pushed it, through any
// balancer.
#[test]
fn e01_head_after_put_on_another_node() {
    for round in 0..12_u8 {
        let (node, layer) = (round % 3 + 1, bytes(&format!("e01-{round}"), 70_000));
        let digest = push(node, "edges/e01", &layer);
        let manifest = put_image(node, "edges/e01", &format!("r{round}"), &layer);
        for other in (1..=3).filter(|other| *other != node) {
            assert_eq!(status(other, "HEAD", &format!("edges/e01/blobs/{digest}")), 200, "{round}: {node} to {other}");
            let found = root("HEAD", &format!("edges/e01/manifests/r{round}")).send(&at(other)).expect(200);
            assert_eq!(found.header("docker-content-digest"), Digest::sha256(&manifest).to_string());
        }
    }
}

// 2: docker's PATCH has neither length nor range; each step may reach another node.
#[test]
fn e02_patch_without_length() {
    let content = bytes("e02", 200_001);
    let begun = begin(1, "edges/e02");
    let patched = root("PATCH", &begun).chunked(&[&content[..7], &content[7..150_000], &content[150_000..]]);
    let patched = patched.send(&at(2)).expect(202);
    assert_eq!(patched.header("range"), "0-200000");
    let digest = Digest::sha256(&content);
    root("PUT", &format!("{}?digest={digest}", location(&patched))).send(&at(3)).expect(201);
    assert_eq!(root("GET", &format!("edges/e02/blobs/{digest}")).send(&at(1)).expect(200).body, content);
}

// 3: containerd, oras and helm send the whole body with the PUT.
#[test]
fn e03_put_with_whole_body() {
    for content in [bytes("e03", 300_000), b"small e03".to_vec()] {
        let digest = Digest::sha256(&content);
        let path = format!("{}?digest={digest}", begin(3, "edges/e03"));
        let put = root("PUT", &path).header("Content-Type", "application/octet-stream").body(&content);
        let put = put.send(&at(1)).expect(201);
        assert_eq!(put.header("docker-content-digest"), digest.to_string());
        assert_eq!(put.header("location"), format!("/v2/edges/e03/blobs/{digest}"));
        assert_eq!(root("GET", &format!("edges/e03/blobs/{digest}")).send(&at(2)).expect(200).body, content);
    }
}

// 4: regctl's chunks say where they belong, and an empty PUT closes; a chunk out of order is told where to go on.
#[test]
fn e04_put_empty_after_patch() {
    let content = bytes("e04", 150_000);
    let (first, second) = content.split_at(65_536);
    let patch = |path: &str, range: &str, chunk: &[u8], node| {
        root("PATCH", path).header("Content-Range", range).body(chunk).send(&at(node))
    };
    let patched = patch(&begin(1, "edges/e04"), "0-65535", first, 1).expect(202);
    assert_eq!(patched.header("range"), "0-65535");
    let early = patch(&location(&patched), "100000-184463", second, 2).expect(416);
    assert_eq!(early.header("range"), "0-65535");
    let progress = root("GET", &location(&early)).send(&at(3)).expect(204);
    assert_eq!(progress.header("range"), "0-65535");
    let patched = patch(&location(&progress), "65536-149999", second, 3).expect(202);
    let digest = Digest::sha256(&content);
    root("PUT", &format!("{}?digest={digest}", location(&patched))).send(&at(2)).expect(201);
    assert_eq!(root("GET", &format!("edges/e04/blobs/{digest}")).send(&at(1)).expect(200).body, content);
}

// 5: one POST with digest and body.
#[test]
fn e05_single_post() {
    for length in [1, 65_536, 65_537, 400_000] {
        let content = bytes("e05", length);
        let digest = push(1, "edges/e05", &content);
        let head = root("HEAD", &format!("edges/e05/blobs/{digest}")).send(&at(2)).expect(200);
        assert_eq!(head.header("content-length"), length.to_string());
    }
}

// 6: a mount from where the caller may not read is an upload like any other, and looks like one from nowhere.
#[test]
fn e06_mount_without_rights() {
    let content = bytes("e06", 1000);
    let digest = push(1, "edges/e06-secret", &content);
    let key = user("edges-e06", "read,write,create:edges/e06-own");
    let mount = |from: &str| {
        let path = format!("/v2/edges/e06-own/blobs/uploads/?mount={digest}&from={from}");
        Request::new("POST", &path).key(&key).send(&at(2))
    };
    let refused = mount("edges/e06-secret").expect(202);
    let absent = mount("edges/e06-absent").expect(202);
    assert_eq!((refused.body.len(), absent.body.len()), (0, 0));
    let path = format!("/v2/{}?digest={digest}", location(&refused));
    Request::new("PUT", &path).key(&key).body(&content).send(&at(3)).expect(201);
}

// 7: without `from` a blob is mounted from wherever the caller may pull, and only from there.
#[test]
fn e07_mount_without_from() {
    let digest = push(1, "edges/e07-source", &bytes("e07", 1000));
    let path = format!("edges/e07-own/blobs/uploads/?mount={digest}");
    let key = user("edges-e07", "read,write,create:edges/e07-own");
    Request::new("POST", &format!("/v2/{path}")).key(&key).send(&at(2)).expect(202);
    let mounted = root("POST", &path).send(&at(3)).expect(201);
    assert_eq!(mounted.header("location"), format!("/v2/edges/e07-own/blobs/{digest}"));
    assert_eq!(status(1, "HEAD", &format!("edges/e07-own/blobs/{digest}")), 200);
}

// 8: a cancelled upload is unknown on every node.
#[test]
fn e08_cancelled_upload() {
    let content = bytes("e08", 1000);
    let patched = root("PATCH", &begin(1, "edges/e08")).body(&content).send(&at(2)).expect(202);
    let path = location(&patched);
    root("DELETE", &path).send(&at(3)).expect(204);
    for node in 1..=3 {
        root("GET", &path).send(&at(node)).refused(404, "BLOB_UPLOAD_UNKNOWN");
        root("PATCH", &path).body(b"x").send(&at(node)).refused(404, "BLOB_UPLOAD_UNKNOWN");
        let close = format!("{path}?digest={}", Digest::sha256(&content));
        root("PUT", &close).send(&at(node)).refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

// 9: eight clients push the same bytes at once, as all do with the empty descriptor: all succeed.
#[test]
fn e09_same_blob_eight_times_at_once() {
    for content in [bytes("e09", 2), bytes("e09", 300_000)] {
        let digest = Digest::sha256(&content);
        std::thread::scope(|scope| {
            for client in 0..8_u8 {
                let (content, node) = (&content, client % 3 + 1);
                scope.spawn(move || {
                    let name = format!("edges/e09-{}", client % 2);
                    if client < 4 {
                        push(node, &name, content);
                    } else {
                        let path = format!("{}?digest={digest}", begin(node, &name));
                        root("PUT", &path).body(content).send(&at(node % 3 + 1)).expect(201);
                    }
                });
            }
        });
        for node in 1..=3 {
            let path = format!("edges/e09-{}/blobs/{digest}", node % 2);
            assert_eq!(root("GET", &path).send(&at(node)).expect(200).body, content);
        }
    }
}

// 10: what a manifest names must be there; each missing thing is told with the code of its kind.
#[test]
fn e10_manifest_with_missing_parts() {
    push(1, "edges/e10", b"{}");
    let absent = descriptor(LAYER, b"e10 is nowhere");
    let refused = put(2, "edges/e10", "1", &image(std::slice::from_ref(&absent))).refused(400, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(refused.json()["errors"][0]["detail"]["digest"], absent["digest"]);
    put(2, "edges/e10", "1", &index(&[(IMAGE, b"e10 is no child")])).refused(400, "MANIFEST_UNKNOWN");
    assert_eq!(status(3, "HEAD", "edges/e10/manifests/1"), 404);
}

// 11: a digest that the bytes do not have; nothing of them stays.
#[test]
fn e11_digest_mismatch() {
    let (content, other) = (bytes("e11", 100_000), Digest::sha256(b"e11 other"));
    let path = format!("{}?digest={other}", begin(1, "edges/e11"));
    root("PUT", &path).body(&content).send(&at(2)).refused(400, "DIGEST_INVALID");
    let post = format!("edges/e11/blobs/uploads/?digest={other}");
    root("POST", &post).body(&content).send(&at(2)).refused(400, "DIGEST_INVALID");
    root("POST", &post).body(b"small").send(&at(2)).refused(400, "DIGEST_INVALID");
    for digest in [other, Digest::sha256(&content), Digest::sha256(b"small")] {
        assert_eq!(status(3, "HEAD", &format!("edges/e11/blobs/{digest}")), 404);
    }
}

// 12: a manifest put under the digest of another.
#[test]
fn e12_put_by_digest_with_another_body() {
    push(1, "edges/e12", b"{}");
    let other = Digest::sha256(b"e12").to_string();
    put(2, "edges/e12", &other, &image(&[])).refused(400, "DIGEST_INVALID");
    assert_eq!(status(3, "HEAD", &format!("edges/e12/manifests/{other}")), 404);
}

// 13: the type of the request is not that of the manifest.
#[test]
fn e13_content_type_unlike_media_type() {
    push(1, "edges/e13", b"{}");
    let body = image(&[]).to_string();
    for kind in [INDEX, "application/vnd.docker.distribution.manifest.v2+json", "application/json"] {
        let request = root("PUT", "edges/e13/manifests/1").header("Content-Type", kind).body(body.as_bytes());
        request.send(&at(2)).refused(400, "MANIFEST_INVALID");
    }
    assert_eq!(status(3, "HEAD", "edges/e13/manifests/1"), 404);
}

fn artifact(subject: &[u8], number: u8) -> Value {
    let mut manifest = image(&[]);
    manifest["subject"] = descriptor(IMAGE, subject);
    manifest["artifactType"] = json!("application/vnd.example.note");
    manifest["annotations"] = json!({ "number": number.to_string() });
    manifest
}

/// Digests that the list of referrers has.
fn referrers(node: u8, name: &str, subject: &[u8]) -> Vec<String> {
    let answer = root("GET", &format!("{name}/referrers/{}", Digest::sha256(subject))).send(&at(node)).expect(200);
    assert_eq!(answer.header("content-type"), INDEX);
    let list = answer.json()["manifests"].as_array().unwrap().clone();
    list.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
}

// 14: a subject need not be there, nor come later.
#[test]
fn e14_subject_absent() {
    push(1, "edges/e14", b"{}");
    let (subject, manifest) = (b"e14 subject", artifact(b"e14 subject", 1));
    let answer = put(1, "edges/e14", "note", &manifest).expect(201);
    assert_eq!(answer.header("oci-subject"), Digest::sha256(subject).to_string());
    assert_eq!(referrers(2, "edges/e14", subject), [Digest::sha256(manifest.to_string().as_bytes()).to_string()]);
    assert_eq!(referrers(3, "edges/e14", b"e14 another"), [""; 0]);
    assert_eq!(referrers(3, "edges/e14-nowhere", b"e14 another"), [""; 0]);
}

// 15: when the subject goes its referrers stay, and the list says what is there, before and after.
#[test]
fn e15_delete_subject() {
    let subject = put_image(1, "edges/e15", "1", &bytes("e15", 100));
    let notes: Vec<Value> = (0..3).map(|number| artifact(&subject, number)).collect();
    let digests: Vec<String> =
        notes.iter().map(|note| Digest::sha256(note.to_string().as_bytes()).to_string()).collect();
    for (note, digest) in notes.iter().zip(&digests) {
        put(2, "edges/e15", digest, note).expect(201);
    }
    let of_subject = format!("edges/e15/manifests/{}", Digest::sha256(&subject));
    root("DELETE", &of_subject).send(&at(3)).expect(202);
    assert_eq!(status(1, "GET", &of_subject), 404);
    let is_consistent = |wanted: usize| {
        for node in 1..=3 {
            let listed = referrers(node, "edges/e15", &subject);
            assert_eq!(listed.len(), wanted);
            assert!(listed.iter().all(|one| status(node, "GET", &format!("edges/e15/manifests/{one}")) == 200));
        }
    };
    is_consistent(3);
    root("DELETE", &format!("edges/e15/manifests/{}", digests[0])).send(&at(1)).expect(202);
    is_consistent(2);
    put_image(2, "edges/e15", "1", &bytes("e15", 100));
    is_consistent(2);
}

// 16: numbers and ends of pages.
#[test]
fn e16_page_numbers() {
    put_image(1, "edges/e16", "a", &bytes("e16", 10));
    for tag in ["b", "c"] {
        put_image(1, "edges/e16", tag, &bytes("e16", 10));
    }
    let list = |query: &str| root("GET", &format!("edges/e16/tags/list{query}")).send(&at(2));
    for (query, tags, is_last) in [
        ("", json!(["a", "b", "c"]), true),
        ("?n=0", json!([]), true),
        ("?n=2", json!(["a", "b"]), false),
        ("?n=2&last=b", json!(["c"]), true),
        ("?n=3", json!(["a", "b", "c"]), true),
        ("?last=zzz", json!([]), true),
        ("?n=99999999999999999999", json!(["a", "b", "c"]), true),
    ] {
        let answer = list(query).expect(200);
        assert_eq!(answer.json(), json!({ "name": "edges/e16", "tags": tags }), "{query}");
        assert_eq!(answer.header("link").is_empty(), is_last, "{query}");
    }
    assert_eq!(list("?n=2").header("link"), r#"</v2/edges/e16/tags/list?last=b&n=2>; rel="next""#);
    for query in ["?n=-1", "?n=x", "?n=1&n=2"] {
        list(query).refused(400, "PAGINATION_NUMBER_INVALID");
    }
    let catalog = root("GET", "_catalog?n=0").send(&at(3)).expect(200);
    assert_eq!(catalog.json(), json!({ "repositories": [] }));
}

// 17: the list of a repository without tags is a list.
#[test]
fn e17_tags_of_an_empty_repository() {
    portolan(&["repo", "create", "edges/e17-made"]);
    push(1, "edges/e17-pushed", b"e17");
    for name in ["edges/e17-made", "edges/e17-pushed"] {
        let answer = root("GET", &format!("{name}/tags/list")).send(&at(2)).expect(200);
        assert_eq!(answer.text(), format!(r#"{{"name":"{name}","tags":[]}}"#));
    }
    root("GET", "edges/e17-nowhere/tags/list").send(&at(2)).refused(404, "NAME_UNKNOWN");
}

// 18: sha512 for blobs and manifests, from push to pull.
#[test]
fn e18_sha512() {
    let content = bytes("e18", 100_000);
    let digest = Digest::of(Algorithm::Sha512, &content);
    let path = format!("edges/e18/blobs/uploads/?digest={digest}");
    root("POST", &path).body(b"other bytes").send(&at(1)).refused(400, "DIGEST_INVALID");
    root("POST", &path).body(&content).send(&at(1)).expect(201);
    let pulled = root("GET", &format!("edges/e18/blobs/{digest}")).send(&at(2)).expect(200);
    assert_eq!((pulled.header("docker-content-digest"), &pulled.body), (&*digest.to_string(), &content));
    push(1, "edges/e18", b"{}");
    let layer = json!({ "mediaType": LAYER, "digest": digest.to_string(), "size": content.len() });
    let manifest = image(&[layer]);
    let named = Digest::of(Algorithm::Sha512, manifest.to_string().as_bytes()).to_string();
    put(3, "edges/e18", &named, &manifest).expect(201);
    let pulled = root("GET", &format!("edges/e18/manifests/{named}")).send(&at(2)).expect(200);
    assert_eq!((pulled.header("docker-content-digest"), pulled.json()), (&*named, manifest));
}

// 19: neither a chain of indexes nor the JSON of one may be as deep as a client likes.
#[test]
fn e19_deep_nesting() {
    let mut child = put_image(1, "edges/e19", "0", &bytes("e19", 10));
    let mut kind = IMAGE;
    let mut accepted = 0;
    for depth in 1..=300_u16 {
        let parent = index(&[(kind, &child)]);
        let answer = put((depth % 3) as u8 + 1, "edges/e19", &format!("d{depth}"), &parent);
        if answer.status != 201 {
            answer.refused(400, "MANIFEST_INVALID");
            break;
        }
        (child, kind, accepted) = (parent.to_string().into_bytes(), INDEX, depth);
    }
    assert_eq!(accepted, 16);
    let mut deep = json!(0);
    for _ in 0..300 {
        deep = json!([deep]);
    }
    let mut manifest = image(&[]);
    manifest["deep"] = deep;
    put(2, "edges/e19", "json", &manifest).refused(400, "MANIFEST_INVALID");
}

// 20: a foreign layer is somewhere else: no blob of it is needed.
#[test]
fn e20_foreign_layers() {
    push(1, "edges/e20", b"{}");
    for kind in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let mut layer = descriptor(kind, b"e20 is elsewhere");
        layer["urls"] = json!(["https://example.com/layer"]);
        put(2, "edges/e20", "1", &image(&[layer])).expect(201);
    }
}

// 21: a layer that stands twice.
#[test]
fn e21_duplicate_layers() {
    let content = bytes("e21", 1000);
    push(1, "edges/e21", b"{}");
    push(1, "edges/e21", &content);
    let layer = descriptor(LAYER, &content);
    let manifest = image(&[layer.clone(), layer]);
    put(2, "edges/e21", "1", &manifest).expect(201);
    assert_eq!(root("GET", "edges/e21/manifests/1").send(&at(3)).expect(200).json(), manifest);
    let path = format!("edges/e21/manifests/{}", Digest::sha256(manifest.to_string().as_bytes()));
    root("DELETE", &path).send(&at(1)).expect(202);
    root("DELETE", &format!("edges/e21/blobs/{}", Digest::sha256(&content))).send(&at(1)).expect(202);
}

// 22: a layer of no bytes, by each way to push it.
#[test]
fn e22_zero_byte_layer() {
    let digest = push(1, "edges/e22", b"");
    root("PUT", &format!("{}?digest={digest}", begin(2, "edges/e22"))).send(&at(2)).expect(201);
    let patched = root("PATCH", &begin(3, "edges/e22")).chunked(&[]).send(&at(3)).expect(202);
    assert_eq!(patched.header("range"), "0-0");
    root("PUT", &format!("{}?digest={digest}", location(&patched))).send(&at(1)).expect(201);
    put_image(1, "edges/e22", "1", b"");
    let path = format!("edges/e22/blobs/{digest}");
    let pulled = root("GET", &path).send(&at(3)).expect(200);
    assert_eq!((pulled.header("content-length"), pulled.body.len()), ("0", 0));
    root("GET", &path).header("Range", "bytes=0-").send(&at(2)).expect(416);
}

// 23: who asks before sending is told to go on, or told no at once.
#[test]
fn e23_expect_continue() {
    let content = bytes("e23", 100_000);
    let path = format!("{}?digest={}", begin(1, "edges/e23"), Digest::sha256(&content));
    let answer = root("PUT", &path).expecting(&content).send(&at(2)).expect(201);
    assert!(answer.continued);
    push(1, "edges/e23", b"{}");
    let manifest = image(&[]).to_string();
    let request = root("PUT", "edges/e23/manifests/1").header("Content-Type", IMAGE).expecting(manifest.as_bytes());
    assert!(request.send(&at(3)).expect(201).continued);
    let stranger = Request::new("PUT", &format!("/v2/{path}")).expecting(&content);
    assert!(!stranger.send(&at(2)).expect(401).continued);
    let huge = root("PUT", "edges/e23/manifests/2").header("Content-Type", IMAGE).expecting(&vec![b' '; 4 << 20 | 1]);
    assert!(!huge.send(&at(2)).expect(413).continued);
}

// 24: digests are percent-encoded in queries always and in paths sometimes; a host may be written in capitals.
#[test]
fn e24_encoded_digests_and_hosts() {
    let content = bytes("e24", 1000);
    let digest = Digest::sha256(&content);
    let encoded = digest.to_string().replace(':', "%3A");
    root("POST", &format!("edges/e24/blobs/uploads/?digest={encoded}")).body(&content).send(&at(1)).expect(201);
    for path in ["edges/e24/blobs/", "edges%2Fe24/blobs/", "%65dges/e24/%62lobs/"] {
        assert_eq!(status(2, "HEAD", &format!("{path}{encoded}")), 200, "{path}");
    }
    let host = "REGISTRY.Example.TEST:5000";
    let begun = root("POST", "edges/e24/blobs/uploads/").header("Host", host).send(&at(3)).expect(202);
    root("PUT", &format!("{}?digest={encoded}", location(&begun))).body(&content).send(&at(3)).expect(201);
    let challenged = Request::new("GET", "/v2/").header("Host", host).send(&at(3)).expect(401);
    let challenge = challenged.header("www-authenticate").to_lowercase();
    assert!(challenge.contains(r#"realm="http://registry.example.test:5000/v2/token""#), "{challenge}");
    let service = challenged.header("www-authenticate").split("service=\"").nth(1).unwrap().split('"').next().unwrap();
    let token = root("GET", &format!("token?service={service}&scope=repository:edges/e24:pull"));
    let token = token.header("Host", host).send(&at(1)).expect(200).json();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let pull = Request::new("GET", &format!("/v2/edges/e24/blobs/{digest}")).header("Authorization", &bearer);
    assert_eq!(pull.header("Host", "registry.example.test:5000").send(&at(2)).expect(200).body, content);
}

// 25: an index whose other platforms were not pushed: refused, unless the repository takes sparse manifests; then what
// comes later is kept by it.
#[test]
fn e25_sparse_index() {
    portolan(&["repo", "create", "edges/e25-sparse", "--sparse", "true"]);
    let (here, later) = (bytes("e25 here", 10), bytes("e25 later", 10));
    let absent = image(&[descriptor(LAYER, &later)]).to_string();
    for (name, is_sparse) in [("edges/e25", false), ("edges/e25-sparse", true)] {
        let present = put_image(1, name, "amd64", &here);
        let both = index(&[(IMAGE, &present), (IMAGE, absent.as_bytes())]);
        let answer = put(2, name, "all", &both);
        if !is_sparse {
            answer.refused(400, "MANIFEST_UNKNOWN");
            continue;
        }
        answer.expect(201);
        assert_eq!(root("GET", &format!("{name}/manifests/all")).send(&at(3)).expect(200).json(), both);
        let child = format!("{name}/manifests/{}", Digest::sha256(absent.as_bytes()));
        root("GET", &child).send(&at(3)).refused(404, "MANIFEST_UNKNOWN");
        put_image(1, name, "arm64", &later);
        assert_eq!(root("GET", &child).send(&at(3)).expect(200).text(), absent);
        root("DELETE", &child).send(&at(2)).refused(405, "UNSUPPORTED");
    }
}
