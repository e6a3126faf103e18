//! `[tls]`

use std::path::PathBuf;

use crate::config::section::section;

section! {
    /// Certificate for clients of the registry and for operators. Replaced files are used within two seconds.
    TlsSection "tls"

    /// Certificate chain, own certificate first, PEM. Make one with `portolan certs public`, or bring your own.
    cert: Option<PathBuf> = None;

    /// Its private key, PEM without a password; mode 0600.
    key: Option<PathBuf> = None;
}
