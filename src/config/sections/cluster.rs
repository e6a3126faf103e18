//! `[cluster]`

use std::path::PathBuf;

use crate::config::section::section;

section! {
    /// Certificates by which nodes know each other, made by `portolan certs`. All three or none; none with a join
    /// token, and on loopback. Replaced files are used within two seconds.
    ClusterSection "cluster"

    /// Authority of the cluster, PEM.
    ca: Option<PathBuf> = None;

    /// This node's certificate, PEM; it names the cluster and the node.
    cert: Option<PathBuf> = None;

    /// Its private key, PEM without a password; mode 0600.
    key: Option<PathBuf> = None;

    /// A join token, made by `portolan certs invite`, in place of the three files; mode 0600. It is unpacked at the
    /// first start, into cluster/ in the data directory, and the node joins by itself. From then on the files there are
    /// used, with or without this setting, and the token may be removed.
    join_token_file: Option<PathBuf> = None;
}
