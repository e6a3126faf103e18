//! One address for all nodes, as anybody puts before a cluster. The harness's own balancer runs everywhere; HAProxy
//! with the shipped configuration, or any other one, can stand there instead.

mod haproxy;
mod own;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cluster::Cluster;
use crate::fault::Fault;
use haproxy::HaProxy;
use own::Own;

/// Which one.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// The harness's own.
    Own,
    /// HAProxy with this configuration.
    HaProxy(PathBuf),
    /// One that somebody else runs.
    Other(SocketAddr),
}

/// The balancer; ends when dropped.
#[derive(Debug)]
pub(crate) struct Balancer {
    address: SocketAddr,
    _running: Running,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
enum Running {
    Own(Own),
    HaProxy(HaProxy),
    Elsewhere,
}

impl Balancer {
    /// Stands before `cluster`, at `address` unless it is somebody else's.
    pub(crate) async fn start(choice: Choice, address: SocketAddr, cluster: &mut Cluster) -> Result<Balancer, Fault> {
        let (address, running) = match choice {
            Choice::Own => {
                let own = Own::start(address, cluster.seats()).await?;
                (own.address(), Running::Own(own))
            }
            Choice::HaProxy(file) => (address, Running::HaProxy(HaProxy::start(&file, address, cluster).await?)),
            Choice::Other(address) => (address, Running::Elsewhere),
        };
        Ok(Balancer { address, _running: running })
    }

    /// Where clients go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
