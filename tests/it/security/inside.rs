//! Security case T24: the doors between nodes open for certificates of nodes of the cluster, and for nothing else.

use reqwest::{Certificate, Client, Identity};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan::ground::certs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::support::{Cluster, http, portolan};

/// Port offsets of the doors between nodes.
const RAFT: u16 = 1;
const BLOB: u16 = 2;

/// A client with the certificate in these files, or with none, that believes the authority of the cluster.
fn client(ca: &Path, shown: Option<(&Path, &Path)>) -> Client {
    portolan::ground::tls::install_provider();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut builder = Client::builder().no_proxy().use_rustls_tls().timeout(Duration::from_secs(20));
    builder = builder.tls_certs_only([Certificate::from_pem(&read(ca)).unwrap()]).http2_prior_knowledge();
    if let Some((cert, key)) = shown {
        builder = builder.identity(Identity::from_pem(&[read(cert), read(key)].concat()).unwrap());
    }
    builder.build().unwrap()
}

/// How a call ended: the status that gRPC has, or that there was no connection.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    NoConnection,
    Status(u32),
}

/// Makes a gRPC call without a message's content.
fn call(client: &Client, url: &str, headers: &[(&str, String)]) -> Ended {
    let mut request = client.post(url).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    // an empty message: not compressed, no bytes
    let request = request.body(vec![0_u8; 5]);
    http::block_on(async {
        let Ok(answer) = request.send().await else { return Ended::NoConnection };
        let status = |headers: &reqwest::header::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        // with an answer the status stands behind it; a refusal has it in front
        let found = status(answer.headers());
        match answer.bytes().await {
            Ok(body) => Ended::Status(found.unwrap_or(if body.is_empty() { u32::MAX } else { 0 })),
            Err(_) => Ended::NoConnection,
        }
    })
}

/// The id in the certificate of a node.
fn node_id(cluster: &Cluster, n: u8) -> (String, String) {
    let der = CertificateDer::from_pem_file(cluster.node_dir(n).join("certs/node.pem")).unwrap();
    let identity = certs::identity(&der).unwrap();
    let certs::Role::Node(id) = identity.role else { panic!("{identity}") };
    (identity.cluster.to_string(), id.to_string())
}

/// Makes a certificate with the cluster's own authority.
fn certificate(cluster: &Cluster, args: &[&str]) -> (PathBuf, PathBuf) {
    let dir = cluster.node_dir(1).join("../../certs");
    let dir = dir.to_str().unwrap();
    let made = portolan(&[&["-o", "json", "certs"], args, &["--dir", dir]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let path = |field: &str| PathBuf::from(made[field].as_str().unwrap());
    (path("cert"), path("key"))
}

// T24: with a certificate of the cluster's own authority an operator, another region, a public server and a node that
// is no member call nothing between nodes, nor does a node in another's name; without one, and in the clear, there is
// no conversation.
#[test]
fn t24_internal_doors_want_a_nodes_certificate() {
    let cluster = Cluster::shared();
    let (cluster_id, first) = node_id(cluster, 1);
    let (_, second) = node_id(cluster, 2);
    let (_, third) = node_id(cluster, 3);
    let of_node = |n: u8| (cluster.node_dir(n).join("certs/node.pem"), cluster.node_dir(n).join("certs/node.key"));
    let address = cluster.ip(2);
    let operator = certificate(cluster, &["operator", "--name", "t24", "--address", &address]);
    let region = certificate(cluster, &["region", "--name", "t24", "--address", &address]);
    let public = certificate(cluster, &["public", "--name", "t24", "--address", &address]);
    let stranger = ["node", "--name", "t24", "--node-id", "00000000000000aa", "--address", &address];
    let stranger = certificate(cluster, &stranger);
    let ca = cluster.node_dir(1).join("certs/ca.pem");
    let door = |port: u16, scheme: &str| format!("{scheme}://{}:{}", cluster.ip(1), cluster.port() + port);
    let ping = |shown: Option<&(PathBuf, PathBuf)>, from: &str| {
        let headers = [
            ("portolan-cluster", cluster_id.clone()),
            ("portolan-from", from.to_owned()),
            ("portolan-to", first.clone()),
        ];
        let shown = shown.map(|(cert, key)| (cert.as_path(), key.as_path()));
        call(&client(&ca, shown), &format!("{}/portolan.blob.v1.Blob/Ping", door(BLOB, "https")), &headers)
    };
    assert_eq!(ping(Some(&of_node(2)), &second), Ended::Status(0), "a node in its own name");
    for (who, shown, from) in [
        ("a node in another's name", Some(&of_node(3)), &second),
        ("an operator", Some(&operator), &second),
        ("a region", Some(&region), &second),
        ("a public server", Some(&public), &second),
        ("a node that is no member", Some(&stranger), &"00000000000000aa".to_owned()),
        ("a node that is no member, in a member's name", Some(&stranger), &third),
        ("nobody", None, &second),
    ] {
        assert_ne!(ping(shown, from), Ended::Status(0), "{who}");
    }
    // consensus looks at its frame first: an empty one is nobody's. That a good one in a wrong certificate is refused,
    // raft's own tests show; here, that without one there is no call at all
    let consensus = |shown: Option<&(PathBuf, PathBuf)>| {
        let shown = shown.map(|(cert, key)| (cert.as_path(), key.as_path()));
        call(&client(&ca, shown), &format!("{}/portolan.raft.v1.Consensus/Call", door(RAFT, "https")), &[])
    };
    assert!(matches!(consensus(Some(&of_node(2))), Ended::Status(1..)), "an empty frame");
    assert_eq!(consensus(None), Ended::NoConnection);
    assert_ne!(consensus(Some(&public)), Ended::Status(0), "a certificate without a name");
    for port in [RAFT, BLOB] {
        let answer = http::request("GET", &door(port, "http")).try_send();
        assert!(answer.is_err(), "in the clear: {answer:?}");
    }
}
