//! The sections, one file each. The explanations are shown by `portolan config reference`.

mod auth;
mod blobs;
mod cluster;
mod gc;
mod http;
mod listen;
mod log;
mod node;
mod raft;
mod repair;
mod s3;
mod tls;
mod trace;

use std::time::Duration;

pub use auth::{AuthSection, Challenge};
pub use blobs::{BlobDriver, BlobsSection};
pub use cluster::ClusterSection;
pub use gc::GcSection;
pub use http::HttpSection;
pub use listen::ListenSection;
pub use log::LogSection;
pub use node::NodeSection;
pub use raft::RaftSection;
pub use repair::RepairSection;
pub use s3::S3Section;
pub use tls::TlsSection;
pub use trace::TraceSection;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}
