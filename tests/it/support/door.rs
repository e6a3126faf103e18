//! The door of a region, spoken to as a node of another region does, with what such a node never says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft::network::transport::{self, Dial};
use raft::{NodeTls, TlsSource};
use registry_core::vocabulary::Digest;
use tonic::Status;
use tonic::transport::Channel;

use super::{Cluster, http};
use proto::region_client::RegionClient;

#[allow(
    unused_qualifications,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    reason = "generated; what it trips over changes"
)]
pub(crate) mod proto {
    tonic::include_proto!("portolan.region.v1");
}

/// A connection to the first node of a region.
pub(crate) struct Door(RegionClient<Channel>);

impl Door {
    /// The door of `to`, for who shows the certificate of the first node of `by`.
    pub(crate) fn open(by: &Cluster, to: &Cluster) -> Door {
        let read = |dir: &Path, file: &str| std::fs::read(dir.join("certs").join(file)).unwrap();
        let node = by.node_dir(1);
        let (ca_pem, cert_pem) = (read(&to.dir(), "ca.pem"), read(&node, "node.pem"));
        let files = Arc::new(NodeTls { ca_pem, cert_pem, key_pem: read(&node, "node.key") });
        let tls: TlsSource = Arc::new(move || Arc::clone(&files));
        let addr = format!("{}:{}", to.ip(1), to.port() + 4);
        let connect_timeout = Duration::from_secs(5);
        let dial = Dial { addr, bind_source: None, tls: Some(tls), expect: None, connect_timeout };
        Door(http::block_on(async { RegionClient::new(transport::connect(dial).unwrap()) }))
    }

    /// The size of a blob, as the region tells it.
    pub(crate) fn stat(&self, repository: &str, digest: &Digest) -> Result<u64, Status> {
        let request = proto::StatRequest { repository: repository.to_owned(), digest: digest.to_string() };
        let mut client = self.0.clone();
        http::block_on(async { Ok(client.stat(request).await?.into_inner().size_bytes) })
    }

    /// The first bytes of a blob.
    pub(crate) fn blob(&self, repository: &str, digest: &Digest, length: u64) -> Result<Vec<u8>, Status> {
        let (repository, digest) = (repository.to_owned(), digest.to_string());
        let request = proto::BlobRequest { repository, digest, offset: 0, length };
        let mut client = self.0.clone();
        http::block_on(async {
            let mut parts = client.blob(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(part) = parts.message().await? {
                bytes.extend_from_slice(&part.data);
            }
            Ok(bytes)
        })
    }

    /// Where the region serves a client.
    pub(crate) fn locate(&self, request: proto::LocateRequest) -> Result<proto::LocateReply, Status> {
        let mut client = self.0.clone();
        http::block_on(async { Ok(client.locate(request).await?.into_inner()) })
    }
}
