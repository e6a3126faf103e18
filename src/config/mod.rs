//! Configuration: one struct per section, from a file, the environment and flags, checked as a whole.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Everything that is wrong
//! is told at once, each with where it stands and what to write instead; a mistake never panics and is never ignored.
//! Holds numbers and names that people choose, never clocks, stores or other components. Start at [`Settings`]; a
//! section's file in [`sections`] documents each setting with how to choose it.
//!
//! - file: TOML, `[section]` and `key = value`
//! - environment: `PORTOLAN_SECTION_KEY`; lists are separated by commas
//! - flags: `--set section.key=value`, and the few that have a name of their own

mod check;
mod environment;
mod load;
mod mistake;
mod print;
mod raw;
mod section;
pub mod sections;
pub mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::ground::join_token;
use crate::ground::tls::{NodeFiles, ServerFiles};

pub use check::is_host_and_port;
pub use environment::Environment;
pub use load::{Loaded, Sources};
pub use mistake::{Mistake, Mistakes, Origin};
pub use print::reference;
pub use sections::{
    AuthSection, BlobDriver, BlobsSection, Challenge, ClusterSection, GcSection, HttpSection, ListenSection,
    LogSection, NodeSection, RaftSection, RepairSection, S3Section, TlsSection, TraceSection,
};
pub use value::{ByteSize, Network, PublicUrl};

/// Everything that can be set. Values are checked alone and against each other.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this node is and where it stands.
    pub node: NodeSection,
    /// Where it listens.
    pub listen: ListenSection,
    /// Certificate for clients of the registry and for operators.
    pub tls: TlsSection,
    /// Certificates by which nodes know each other.
    pub cluster: ClusterSection,
    /// Consensus.
    pub raft: RaftSection,
    /// Blobs on disk.
    pub blobs: BlobsSection,
    /// The bucket of blobs, with that driver.
    pub s3: S3Section,
    /// Who may come in.
    pub auth: AuthSection,
    /// Requests.
    pub http: HttpSection,
    /// Garbage collection.
    pub gc: GcSection,
    /// Missing copies and absent nodes.
    pub repair: RepairSection,
    /// Logs.
    pub log: LogSection,
    /// Traces.
    pub trace: TraceSection,
}

/// The doors of a node that are always open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Clients of the registry.
    Public,
    /// Consensus between nodes.
    Raft,
    /// Blobs between nodes.
    Blob,
    /// Operators, health and metrics.
    Admin,
}

impl Door {
    /// All of them.
    pub const ALL: [Door; 4] = [Door::Public, Door::Raft, Door::Blob, Door::Admin];

    /// The setting with its address.
    pub fn setting(self) -> &'static str {
        match self {
            Door::Public => "listen.public",
            Door::Raft => "listen.raft",
            Door::Blob => "listen.blob",
            Door::Admin => "listen.admin",
        }
    }
}

impl Settings {
    /// The address this node listens on.
    pub fn listen_address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Public => self.listen.public,
            Door::Raft => self.listen.raft,
            Door::Blob => self.listen.blob,
            Door::Admin => self.listen.admin,
        }
    }

    /// The `host:port` by which others reach it: the one set for that door, else `node.advertise` with the listener's
    /// port, else the listener's address.
    pub fn advertised(&self, door: Door) -> String {
        let own = match door {
            Door::Public => &self.listen.public_advertise,
            Door::Raft => &self.listen.raft_advertise,
            Door::Blob => &self.listen.blob_advertise,
            Door::Admin => &self.listen.admin_advertise,
        };
        let listen = self.listen_address(door);
        match (own, &self.node.advertise) {
            (Some(own), _) => own.clone(),
            (None, Some(host)) if host.contains(':') => format!("[{host}]:{}", listen.port()),
            (None, Some(host)) => format!("{host}:{}", listen.port()),
            (None, None) => listen.to_string(),
        }
    }

    /// Certificate files of the public listener; `None` when it speaks in the clear.
    pub fn public_tls(&self) -> Option<ServerFiles> {
        (!self.listen.public_insecure).then(|| self.server_files(None)).flatten()
    }

    /// Certificate files of the admin listener; operators' certificates of the cluster's authority are accepted there.
    /// `None` when it speaks in the clear.
    pub fn admin_tls(&self) -> Option<ServerFiles> {
        (!self.listen.admin_insecure).then(|| self.server_files(self.cluster.ca.clone())).flatten()
    }

    fn server_files(&self, client_ca: Option<PathBuf>) -> Option<ServerFiles> {
        let (cert, key) = (self.tls.cert.clone()?, self.tls.key.clone()?);
        Some(ServerFiles { cert, key, client_ca })
    }

    /// Certificate files of this node towards other nodes; `None` when nodes speak in the clear (loopback only).
    pub fn cluster_tls(&self) -> Option<NodeFiles> {
        let ClusterSection { ca, cert, key, .. } = &self.cluster;
        Some(NodeFiles { ca: ca.clone()?, cert: cert.clone()?, key: key.clone()? })
    }

    /// Directory that a join token is unpacked into, if this node lives by the files there, or will.
    pub fn unpacked_dir(&self) -> Option<PathBuf> {
        let dir = self.node.data_dir.join(join_token::DIR);
        let (NodeFiles { ca, cert, key }, used) = (join_token::files_in(&dir), self.cluster_tls()?);
        ((ca, cert, key) == (used.ca, used.cert, used.key)).then_some(dir)
    }

    /// Where blobs are kept.
    pub fn blobs_dir(&self) -> PathBuf {
        self.blobs.dir.clone().unwrap_or_else(|| self.node.data_dir.join("blobs"))
    }

    /// Where consensus keeps its log.
    pub fn raft_dir(&self) -> PathBuf {
        self.raft.dir.clone().unwrap_or_else(|| self.node.data_dir.join("raft"))
    }

    /// Where the applied state is kept.
    pub fn state_dir(&self) -> PathBuf {
        self.node.data_dir.join("state")
    }

    /// What is less safe than the default, one sentence each: told at every start (security case H6).
    pub fn insecure(&self) -> Vec<String> {
        let mut told = Vec::new();
        let doors = [(Door::Public, self.public_tls()), (Door::Admin, self.admin_tls())];
        for (door, tls) in doors {
            let address = self.listen_address(door);
            if tls.is_none() && !address.ip().is_loopback() {
                told.push(format!(
                    "{} {address} speaks in the clear, because {}_insecure says so",
                    door.setting(),
                    door.setting()
                ));
            }
        }
        told
    }
}
