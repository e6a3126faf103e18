//! Handshakes over real sockets, with certificates of our own making.

use std::net::SocketAddr;

use registry_core::vocabulary::ids::{ClusterId, NodeId};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::client;

use super::*;
use crate::ground::certs::mint::{Authority, Pair};
use crate::ground::certs::{Identity, Role};
use crate::ground::files::{PRIVATE_FILE_MODE, write_atomic};

const CLUSTER: ClusterId = ClusterId(0xc1);
const LOCAL: &str = "127.0.0.1";

fn identity(role: Role) -> Identity {
    Identity { cluster: CLUSTER, role }
}

fn write(dir: &Path, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    write_atomic(&cert, pair.cert_pem.as_bytes(), PRIVATE_FILE_MODE).unwrap();
    write_atomic(&key, pair.key_pem.expose().as_bytes(), PRIVATE_FILE_MODE).unwrap();
    (cert, key)
}

/// A client that trusts `ca`, with a certificate or without.
fn client(ca: &Pair, own: Option<&Pair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let Some(own) = own else { return builder.with_no_client_auth() };
    let chain = CertificateDer::pem_slice_iter(own.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.expose().as_bytes()).unwrap();
    builder.with_client_auth_cert(chain, key).unwrap()
}

/// Answers each connection with who the client is, `?` for nobody, then echoes.
async fn serve(acceptor: Acceptor) -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let peer = stream.get_ref().1.peer_certificates().map(|chain| certs::identity(&chain[0]).unwrap());
                let who = peer.map_or("?".to_owned(), |peer| peer.to_string());
                stream.write_all(format!("{who}\n").as_bytes()).await.unwrap();
                let (mut from, mut to) = tokio::io::split(stream);
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    address
}

type Connected = (client::TlsStream<TcpStream>, String);

/// Shakes hands and reads who the server takes us for.
async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<Connected> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(LOCAL).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut who = Vec::new();
    while who.last() != Some(&b'\n') {
        who.push(stream.read_u8().await?);
    }
    Ok((stream, String::from_utf8(who).unwrap().trim().to_owned()))
}

fn serial(stream: &client::TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

// T24: the identity comes out of the verified certificate; another cluster's certificate is refused in the handshake,
// whatever it says of itself.
#[tokio::test]
async fn client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, ca) = Authority::create(CLUSTER).unwrap();
    let (stranger, _) = Authority::create(CLUSTER).unwrap();
    let (ca_path, _) = write(dir.path(), "ca", &ca);
    let (cert, key) = write(dir.path(), "server", &authority.issue_public(&[LOCAL.into()], 30).unwrap());
    let files = ServerFiles { cert, key, client_ca: Some(ca_path) };
    let address = serve(Acceptor::start("test", files, Shutdown::new()).unwrap()).await;

    assert_eq!(connect(address, client(&ca, None)).await.unwrap().1, "?");
    for role in [Role::Node(NodeId(7)), Role::Operator("ann".into()), Role::Region("eu-1".into())] {
        let own = authority.issue(&identity(role.clone()), &[LOCAL.into()], 30).unwrap();
        let who = connect(address, client(&ca, Some(&own))).await.unwrap().1;
        assert_eq!(Identity::parse(&who), Some(identity(role)));
    }
    let forged = stranger.issue(&identity(Role::Node(NodeId(7))), &[], 30).unwrap();
    assert!(connect(address, client(&ca, Some(&forged))).await.is_err());
    let ended = authority.issue(&identity(Role::Node(NodeId(7))), &[], 0).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(connect(address, client(&ca, Some(&ended))).await.is_err());
    let public = authority.issue_public(&[LOCAL.into()], 30).unwrap();
    assert!(connect(address, client(&ca, Some(&public))).await.is_err(), "it is for servers only");
}

// H5: a new pair serves new connections within seconds, the open one goes on; a half-written and a mismatched pair are
// refused and the last good one stays; a swapped symbolic link counts as a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, ca) = Authority::create(CLUSTER).unwrap();
    let issue = || authority.issue_public(&[LOCAL.into()], 30).unwrap();
    // As an orchestrator mounts secrets: names → "current" → a directory of one version.
    let version = |name: &str| {
        let version = dir.path().join(name);
        std::fs::create_dir(&version).unwrap();
        write(&version, "tls", &issue());
        let next = dir.path().join("next");
        std::os::unix::fs::symlink(&version, &next).unwrap();
        std::fs::rename(&next, dir.path().join("current")).unwrap();
    };
    version("v1");
    let current = dir.path().join("current");
    let files = ServerFiles { cert: current.join("tls.pem"), key: current.join("tls.key"), client_ca: None };
    let shutdown = Shutdown::new();
    let address = serve(Acceptor::start("test", files, shutdown.clone()).unwrap()).await;
    let (mut open, _) = connect(address, client(&ca, None)).await.unwrap();
    let first = serial(&open);

    version("v2");
    let second = until_changed(address, &ca, &first).await;
    open.write_all(b"still").await.unwrap();
    let mut echoed = [0; 5];
    open.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"still");

    let pair = issue();
    std::fs::write(current.join("tls.pem"), &pair.cert_pem).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(serial(&connect(address, client(&ca, None)).await.unwrap().0), second, "the key is another one's");
    std::fs::write(current.join("tls.key"), &pair.key_pem.expose()[..40]).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(serial(&connect(address, client(&ca, None)).await.unwrap().0), second, "the key is half-written");
    std::fs::write(current.join("tls.key"), pair.key_pem.expose()).unwrap();
    until_changed(address, &ca, &second).await;
    shutdown.request();
}

async fn until_changed(address: SocketAddr, ca: &Pair, old: &[u8]) -> Vec<u8> {
    for _ in 0..100 {
        let now = serial(&connect(address, client(ca, None)).await.unwrap().0);
        if now != old {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new pair is not in use after ten seconds");
}

// Each file that can't be used is named, with what to do.
#[test]
fn bad_server_files() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, ca) = Authority::create(CLUSTER).unwrap();
    let (cert, key) = write(dir.path(), "a", &authority.issue_public(&[LOCAL.into()], 30).unwrap());
    let (_, other_key) = write(dir.path(), "b", &authority.issue_public(&[LOCAL.into()], 30).unwrap());
    write(dir.path(), "ca", &ca);
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let told = |cert: &Path, key: &Path| {
        let files = ServerFiles { cert: cert.to_owned(), key: key.to_owned(), client_ca: None };
        check_server_files(&files).unwrap_err().replace(&format!("{}/", dir.path().display()), "")
    };
    check_server_files(&ServerFiles { cert: cert.clone(), key: key.clone(), client_ca: None }).unwrap();
    assert_eq!(told(&empty, &key), "empty: holds no certificate; it must have \"BEGIN CERTIFICATE\" in it");
    assert_eq!(told(&cert, &empty), "empty: holds no private key that can be read; it must be PEM, without a password");
    assert!(told(&cert, &other_key).starts_with("b.key is not the key of a.pem"), "{}", told(&cert, &other_key));
    assert!(told(&dir.path().join("absent"), &key).contains("check the path"));
}

// A node's files must belong together, come from the cluster's authority and name a node; a renewal keeps the name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_files() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, ca) = Authority::create(CLUSTER).unwrap();
    let (stranger, _) = Authority::create(CLUSTER).unwrap();
    let (ca_path, _) = write(dir.path(), "ca", &ca);
    let issue = |authority: &Authority, role| authority.issue(&identity(role), &[LOCAL.into()], 30).unwrap();
    let seven = Role::Node(NodeId(7));
    let (cert, key) = write(dir.path(), "node", &issue(&authority, seven.clone()));
    let files = NodeFiles { ca: ca_path, cert, key };
    let shutdown = Shutdown::new();
    let watched = watch_node_files(files.clone(), shutdown.clone()).unwrap();
    assert_eq!(watched.current().identity, identity(seven.clone()));
    let before = watched.current().cert_pem.clone();

    let refused = [
        (issue(&stranger, seven.clone()), "is not accepted under"),
        (issue(&authority, Role::Operator("ann".into())), "not for a node"),
        (authority.issue_public(&[LOCAL.into()], 30).unwrap(), "is not accepted under"),
    ];
    for (pair, text) in refused {
        write(dir.path(), "node", &pair);
        let told = load_node_files(&files).unwrap_err();
        assert!(told.contains(text), "{told}");
    }
    write(dir.path(), "node", &issue(&authority, Role::Node(NodeId(8))));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(watched.current().cert_pem, before, "another node's certificate is not taken");
    write(dir.path(), "node", &issue(&authority, seven.clone()));
    for _ in 0..100 {
        if watched.current().cert_pem != before {
            shutdown.request();
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the renewed certificate is not in use after ten seconds");
}
