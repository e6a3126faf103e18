//! Nodes with certificates: the certificate says who calls, never the message.

use raft::NodeTls;

use super::*;
use crate::ground::certs::{Identity, Role, mint};

struct Authority(mint::Authority, String);

impl Authority {
    fn new() -> Authority {
        let (authority, pair) = mint::Authority::create(CLUSTER).unwrap();
        Authority(authority, pair.cert_pem)
    }

    fn files(&self, cluster: ClusterId, role: Role, trusts: &Authority) -> Option<TlsSource> {
        let pair = self.0.issue(&Identity { cluster, role }, &[], 1).unwrap();
        let files = Arc::new(NodeTls {
            ca_pem: trusts.1.clone().into_bytes(),
            cert_pem: pair.cert_pem.into_bytes(),
            key_pem: pair.key_pem.expose().clone().into_bytes(),
        });
        Some(Arc::new(move || Arc::clone(&files)))
    }
}

// Members push to each other and read; whoever shows another name, role, cluster or authority, or none, or is no
// member, gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_name_the_caller() {
    crate::ground::tls::install_provider();
    let (ours, theirs, epochs) = (Authority::new(), Authority::new(), Arc::<Epochs>::default());
    let mut nodes = Vec::new();
    for number in [1, 2] {
        let files = ours.files(CLUSTER, Role::Node(NodeId(number)), &ours);
        nodes.push(memory_node(number, &MemoryDisk::new(), &epochs, 0, files).await);
    }
    meet(&nodes).await;
    let (id, holders, bytes) = (upload(1), pair(1, 2), noise(1, 1_000_000));
    assert!(nodes[1].append(fresh(id, holders), body(&bytes, 50_000)).await.unwrap().is_acknowledgeable());
    let placed = nodes[1].seal_and_place(seal(id, 1, Digest::sha256(&bytes), holders)).await.unwrap();
    assert_eq!(placed.stores.len(), 2, "{:?}", placed.failed);
    let key = BlobKey::new(Digest::sha256(&bytes), id);
    let blob = BlobSource { key, size_bytes: 1_000_000, replicas: vec![StoreId(10)] };
    assert!(nodes[1].read(blob.clone(), 1_000_000).await.unwrap() == bytes);

    let node = |number| Role::Node(NodeId(number));
    let strangers = [
        ("another node's certificate", 2, ours.files(CLUSTER, node(3), &ours)),
        ("an operator", 2, ours.files(CLUSTER, Role::Operator("eve".into()), &ours)),
        ("another cluster", 2, ours.files(ClusterId(0xbad), node(2), &ours)),
        ("another authority", 2, theirs.files(CLUSTER, node(2), &ours)),
        ("no certificate", 2, None),
        ("no member", 7, ours.files(CLUSTER, node(7), &ours)),
    ];
    for (what, number, files) in strangers {
        let stranger = memory_node(number, &MemoryDisk::new(), &epochs, 0, files).await;
        stranger.set_directory(directory_of(&nodes));
        let probes = stranger.probe(id, Holders { primary: NodeId(1), backup: None }).await;
        let error = probes[0].1.as_ref().unwrap_err();
        assert!(error.store_error().is_none(), "{what} got an answer: {error:?}");
        let read = stranger.read(blob.clone(), 1_000_000).await;
        assert!(matches!(read, Err(TransferError::NoCopy { .. })), "{what}: {read:?}");
        stranger.shutdown().await;
    }
    // And a member that reaches a stranger under a member's address doesn't talk to it.
    let impostor = memory_node(2, &MemoryDisk::new(), &epochs, 0, ours.files(CLUSTER, node(3), &ours)).await;
    let one = nodes.swap_remove(0);
    one.set_directory(directory_of(&[one.clone(), impostor]));
    let probes = one.probe(id, Holders { primary: NodeId(2), backup: None }).await;
    assert!(matches!(&probes[0].1, Err(TransferError::Unreachable { .. })), "{probes:?}");
}
