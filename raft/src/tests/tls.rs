//! Nodes with certificates.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tonic::Code;

use crate::identity::Memory;
use crate::network::identity::{Role, peer_identity};
use crate::network::net::{Class, Net, NetSettings};
use crate::network::wire::kind;
use crate::testing::{Cluster, PATIENCE, add};
use crate::{NodeTls, TlsSource};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

static OURS: LazyLock<Authority> = LazyLock::new(authority);
static THEIRS: LazyLock<Authority> = LazyLock::new(authority);

/// Files of who is named by `uri`, from one authority, trusting ours.
fn files(authority: &Authority, uri: &str) -> Arc<NodeTls> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Arc::new(NodeTls {
        ca_pem: OURS.pem().into_bytes(),
        cert_pem: certificate.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    })
}

fn node_uri(cluster_id: u128, node_id: u64) -> String {
    format!("portolan://{cluster_id:032x}/node/{node_id:016x}")
}

fn of_node(node_id: u64) -> TlsSource {
    let files = files(&OURS, &node_uri(0xC1, node_id));
    Arc::new(move || files.clone())
}

// Nodes with certificates form a cluster; whoever shows another name, role, cluster or authority, or none, is refused.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_name_the_caller() {
    let cluster = Cluster::start_with(3, |_| {}, Some(of_node)).await;
    for at in 0..3 {
        cluster.group(at).propose(add("x", 1), PATIENCE).await.unwrap();
    }
    cluster.converge().await;
    let addr = cluster.member(0).raft_addr;
    let cluster_hex = format!("{:032x}", 0xC1);
    let cases = [
        ("itself", Some(files(&OURS, &node_uri(0xC1, 2))), Ok(())),
        ("another node", Some(files(&OURS, &node_uri(0xC1, 3))), Err(Some(Code::Unauthenticated))),
        ("another cluster", Some(files(&OURS, &node_uri(0xC2, 2))), Err(Some(Code::Unauthenticated))),
        (
            "an operator",
            Some(files(&OURS, &format!("portolan://{cluster_hex}/operator/0000000000000002"))),
            Err(Some(Code::Unauthenticated)),
        ),
        ("no name", Some(files(&OURS, "https://example.invalid/")), Err(None)),
        ("another authority", Some(files(&THEIRS, &node_uri(0xC1, 2))), Err(None)),
        ("no certificate", None, Err(None)),
    ];
    for (name, shown, want) in cases {
        let net = Net::new(NetSettings {
            cluster_id: 0xC1,
            lineage: 7,
            node_id: 2,
            start: 5,
            memory: Memory::default(),
            bind_source: None,
            tls: shown.map(|files| -> TlsSource { Arc::new(move || files.clone()) }),
            connect_timeout: Duration::from_secs(2),
            snapshot_rate: 1,
            append_messages: 2,
        });
        let question = (kind::READ_INDEX, bytes::Bytes::new());
        let answer = net.call((1, &addr), Class::Forward, question, PATIENCE).await;
        match (answer, want) {
            (Ok(_), Ok(())) => {}
            (Err(status), Err(Some(code))) => assert_eq!(status.code(), code, "{name}"),
            (Err(status), Err(None)) => assert_ne!(status.code(), Code::DeadlineExceeded, "{name}: {status}"),
            (answer, _) => panic!("{name}: {answer:?}"),
        }
    }
}

// A caller refuses a server that is not the node it meant to reach.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_named_too() {
    let cluster = Cluster::start_with(1, |_| {}, Some(of_node)).await;
    let net = Net::new(NetSettings {
        cluster_id: 0xC1,
        lineage: 7,
        node_id: 2,
        start: 1,
        memory: Memory::default(),
        bind_source: None,
        tls: Some(of_node(2)),
        connect_timeout: Duration::from_secs(2),
        snapshot_rate: 1,
        append_messages: 2,
    });
    let question = (kind::READ_INDEX, bytes::Bytes::new());
    let answer = net.call((3, &cluster.member(0).raft_addr), Class::Forward, question, PATIENCE).await;
    let status = answer.unwrap_err();
    assert!(crate::network::net::never_arrived(&status), "{status:?}");
}

// The name is read from the certificate's URI, and only from one.
#[test]
fn names_are_read_from_certificates() {
    let der = |uris: &[&str]| {
        let mut params = CertificateParams::new(vec!["host.invalid".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.signed_by(&KeyPair::generate().unwrap(), &*OURS).unwrap().der().to_vec()
    };
    let uri = node_uri(0xC1, 9);
    let identity = peer_identity(&der(&["https://else.invalid/", &uri])).unwrap();
    assert_eq!((identity.cluster_id, identity.role, identity.node_id()), (0xC1, Role::Node, Some(9)));
    assert!(peer_identity(&der(&[])).is_err());
    assert!(peer_identity(&der(&[&uri, &uri])).is_err());
    assert!(peer_identity(b"rubbish").is_err());
}
