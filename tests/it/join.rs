//! A new node that comes with nothing but a join token: it joins by itself, and the token is good for it alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry_core::vocabulary::Digest;
use serde_json::Value;

use crate::support::image::{self, MANIFEST, large};
use crate::support::{Cluster, http, run, wait};

const REPOSITORY: &str = "it/join";
/// How long a step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Writes the configuration of a node that `dev` did not make, in the zone of node 1, without any certificate.
fn prepare(cluster: &Cluster, n: u8) {
    let (dir, like) = (cluster.node_dir(n), cluster.node_dir(1));
    fs::create_dir_all(&dir).unwrap();
    let text = fs::read_to_string(like.join("portolan.toml")).unwrap();
    let is_certificate = |line: &&str| ["ca = ", "cert = ", "key = "].iter().any(|start| line.starts_with(start));
    let text: String = text.lines().filter(|line| !is_certificate(line)).map(|line| format!("{line}\n")).collect();
    let text = text.replace(&like.display().to_string(), &dir.display().to_string());
    fs::write(dir.join("portolan.toml"), text.replace(&cluster.ip(1), &cluster.ip(n))).unwrap();
}

/// Makes a token for node `n`, by which it asks at nodes 2 and 3.
fn invite(cluster: &Cluster, n: u8, name: &str, token: &Path) -> (i32, String) {
    let certs = cluster.dir().join("certs").display().to_string();
    let (address, seeds) = (cluster.ip(n), [2, 3].map(|node| cluster.raft_address(node)));
    let words = ["certs", "invite", "--dir", &certs, "--name", name, "--address", &address];
    let seeds = ["--seed", &seeds[0], "--seed", &seeds[1], "--out", token.to_str().unwrap()];
    run(&[&words[..], &seeds[..]].concat())
}

fn log(cluster: &Cluster, n: u8) -> String {
    fs::read_to_string(cluster.node_dir(n).join("node.log")).unwrap_or_default()
}

fn cluster_files(cluster: &Cluster, n: u8) -> PathBuf {
    cluster.node_dir(n).join("data/cluster")
}

/// The members, by where consensus reaches them, as node 2 knows.
fn members(cluster: &Cluster) -> Vec<String> {
    let url = format!("{}/v1/cluster", cluster.admin(2));
    let status: Value = http::request("GET", &url).key(&cluster.key()).settled().json();
    let nodes = status["nodes"].as_array().unwrap_or_else(|| panic!("{status}"));
    let members = nodes.iter().filter(|node| node["member"] == true);
    let mut members: Vec<String> =
        members.map(|node| node["raft_address"].as_str().unwrap_or_default().to_owned()).collect();
    members.sort();
    members
}

fn pulls(cluster: &Cluster, n: u8, layer: &Digest) {
    let get = |path: &str| {
        let url = format!("{}/v2/{REPOSITORY}/{path}", cluster.node(n));
        http::request("GET", &url).key(&cluster.key()).header("Accept", MANIFEST).settled()
    };
    assert_eq!(get("manifests/latest").status, 200);
    assert_eq!(Digest::sha256(&get(&format!("blobs/{layer}")).body), *layer);
}

// A fourth node starts with a token, joins without another word, and serves what was pushed before. Its token may go,
// and the setting too. The same token in another directory joins nothing, and is told why.
#[test]
fn a_token_is_all_a_node_needs() {
    let cluster = Cluster::start(197);
    let layer = image::push(&cluster, 1, REPOSITORY, "latest", &large(1));
    let (new, second) = (4, 7);
    let token = cluster.dir().join("token");
    let (code, told) = invite(&cluster, new, "n4", &token);
    assert!(code == 0 && told.contains("portolan server --join-token-file"), "{told}");
    let text = fs::read_to_string(&token).unwrap();
    assert!(!told.contains("ptln-join-1.") && text.starts_with("ptln-join-1."), "a token is shown only when asked");
    let (code, told) = invite(&cluster, new, "n4", &cluster.dir().join("again"));
    assert!(code == 2 && told.contains("choose another --name"), "{told}");

    prepare(&cluster, new);
    let token_text = token.to_str().unwrap();
    cluster.spawn_node_by(new, &["--join-token-file", token_text]);
    cluster.wait_node_ready(new);
    pulls(&cluster, new, &layer);
    wait("the others know it", PATIENCE, || members(&cluster).contains(&cluster.raft_address(new)));
    let with_new = members(&cluster);
    assert_eq!(with_new.len(), 4, "{with_new:?}");
    // it is fed, and ready, before the answer to its join has come
    wait("it says that it has joined", PATIENCE, || {
        let own = log(&cluster, new);
        own.contains("this node has joined its cluster") && own.contains("cluster.join")
    });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let unpacked = cluster_files(&cluster, new);
    assert_eq!((mode(&unpacked), mode(&unpacked.join("node.key"))), (0o700, 0o600));

    renews(&cluster, new, &unpacked);
    let kept = cluster.dir().join("kept");
    fs::rename(&token, &kept).unwrap();
    cluster.kill_node(new);
    cluster.spawn_node_by(new, &["--join-token-file", token_text]);
    cluster.wait_node_ready(new);
    cluster.kill_node(new);
    cluster.start_node(new);
    pulls(&cluster, new, &layer);

    prepare(&cluster, second);
    cluster.spawn_node_by(second, &["--join-token-file", kept.to_str().unwrap()]);
    wait("the second one is told", PATIENCE, || log(&cluster, second).contains("this node is not taken in"));
    let ready = http::get(&format!("{}/readyz", cluster.admin(second))).unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(members(&cluster), with_new);
    assert_eq!(http::get(&format!("{}/readyz", cluster.admin(new))).unwrap().status, 200);
    let secret = &text.trim()["ptln-join-1.".len()..];
    assert!([new, second].iter().all(|n| !log(&cluster, *n).contains(secret)), "a token is a secret");
}

/// A certificate that was renewed by the authority is put in the place of the one that came in the token.
fn renews(cluster: &Cluster, n: u8, unpacked: &Path) {
    let certs = cluster.dir().join("certs");
    let (code, told) =
        run(&["certs", "node", "--dir", certs.to_str().unwrap(), "--name", "n4", "--address", &cluster.ip(n)]);
    assert_eq!(code, 0, "{told}");
    for file in ["node.key", "node.pem"] {
        fs::copy(certs.join("nodes/n4").join(file), unpacked.join(file)).unwrap();
    }
    wait("the new certificate is used", PATIENCE, || {
        log(cluster, n).contains("cluster changed on disk and is in use from now on")
    });
}

// What is no good token is told before anything is made, as every mistake of a configuration is.
#[test]
fn a_bad_token_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs").display().to_string();
    assert_eq!(run(&["certs", "init", "--dir", &certs]).0, 0);
    let words = ["certs", "invite", "--dir", &certs, "--name", "n4", "--address", "127.0.0.1", "--seed", "127.0.0.1:1"];
    let (code, text) = run(&[&words[..], &["--out", "-"]].concat());
    assert!(code == 0 && text.starts_with("ptln-join-1.") && text.lines().count() == 1, "one line, when asked for");
    let (path, data) = (dir.path().join("token"), dir.path().join("data"));
    let later = text.replace("ptln-join-1.", "ptln-join-9.");
    let cases = [
        ("", "is empty"),
        (&text[..text.len() / 2], "was cut off or changed"),
        (later.as_str(), "of version 9"),
        ("PTLNAAAAAAAAAAAAAAAA:secret", "holds no join token"),
    ];
    for (content, part) in cases {
        fs::write(&path, content).unwrap();
        let (path, data) = (path.to_str().unwrap(), data.to_str().unwrap());
        let (code, told) = run(&["server", "--data-dir", data, "--join-token-file", path]);
        assert!(code == 2 && told.contains(part) && told.contains(path), "{told}");
    }
    assert!(!data.exists());
}
