//! `[cluster]`

use std::path::PathBuf;

use crate::config::section::section;

section! {
    /// Certificates by which nodes know each other, made by `portolan certs`. All three or none; none only on loopback.
    /// Replaced files are used within two seconds.
    ClusterSection "cluster"

    /// Authority of the cluster, PEM.
    ca: Option<PathBuf> = None;

    /// This node's certificate, PEM; it names the cluster and the node.
    cert: Option<PathBuf> = None;

    /// Its private key, PEM without a password; mode 0600.
    key: Option<PathBuf> = None;
}
