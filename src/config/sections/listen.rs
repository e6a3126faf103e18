//! `[listen]`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::section::section;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

section! {
    /// Where the node listens: a door for each kind of caller, so that each network can be kept to those who need it.
    ListenSection "listen"

    /// Clients of the registry: docker, containerd, helm and the others. Speaks TLS when [tls] names a certificate.
    public: SocketAddr = loopback(7400);

    /// Consensus between nodes. Beyond loopback it needs the certificates of [cluster].
    raft: SocketAddr = loopback(7401);

    /// Blobs between nodes. Beyond loopback it needs the certificates of [cluster].
    blob: SocketAddr = loopback(7402);

    /// Operators, health and metrics. Never open it to the world.
    admin: SocketAddr = loopback(7403);

    /// Nodes of other regions, which take changes and blobs from here. Closed unless it is set; needs the certificates
    /// of [cluster], and lets in only regions that were made known (`portolan region add`).
    region: Option<SocketAddr> = None;

    /// "host:port" that clients are told instead of node.advertise and the listener's port: for port mappings.
    public_advertise: Option<String> = None;

    /// The same for consensus.
    raft_advertise: Option<String> = None;

    /// The same for blobs.
    blob_advertise: Option<String> = None;

    /// The same for operators.
    admin_advertise: Option<String> = None;

    /// true: the public listener speaks in the clear, also beyond loopback and also when [tls] names a certificate.
    /// Only behind a proxy on the same machine or a network that nobody else reads.
    public_insecure: bool = false;

    /// The same for the admin listener. Its credentials rule the cluster: rather give it a certificate.
    admin_insecure: bool = false;
}
