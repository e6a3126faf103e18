//! TLS from files that may be replaced while the server runs.
//!
//! New connections use the new pair within two seconds; those that are open keep theirs. A pair that does not fit, does
//! not parse or has ended is refused, and the one before stays (security case H5).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, sign::CertifiedKey};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certs;
use super::reload::Reloading;
use super::{Secret, Shutdown};

/// How long a client may take for its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes ring the provider of cryptography for libraries that ask for the process's default. Harmless to repeat.
pub fn install_provider() {
    // An error says that there is one already, which is what was wanted.
    drop(ring::default_provider().install_default());
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Files of a listener.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// Certificate chain, own certificate first, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted (not demanded); `None`: none are asked for.
    pub client_ca: Option<PathBuf>,
}

/// What a listener says in its handshakes, as long as its files stay as they are.
#[derive(Debug)]
struct ServerTls {
    config: Arc<ServerConfig>,
    not_after_s: i64,
}

/// A listener's side of TLS; cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<Reloading<ServerTls>>);

impl Acceptor {
    /// Loads the files, and goes on watching them until `shutdown`. `name` labels logs and metrics.
    ///
    /// # Errors
    /// A sentence with the file and what to do, when the pair can't be used.
    pub fn start(name: &'static str, files: ServerFiles, shutdown: Shutdown) -> Result<Acceptor, String> {
        let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        let paths = paths.into_iter().flatten().cloned().collect();
        let load = move |old: Option<&ServerTls>| {
            let loaded = load_server(&files)?;
            refuse_ended(&files.cert, loaded.not_after_s, old.map(|old| old.not_after_s))?;
            tell_end(name, loaded.not_after_s);
            Ok(loaded)
        };
        Reloading::start(name, paths, load, shutdown).map(Acceptor)
    }

    /// What to use for the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current().config)
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// When the client does not speak TLS, is not accepted, or takes longer than [`HANDSHAKE_TIMEOUT`].
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(self.config()).accept(stream))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

fn load_server(files: &ServerFiles) -> Result<ServerTls, String> {
    let chain = read_chain(&files.cert)?;
    let key = key(&files.key, &read(&files.key)?)?;
    let not_after_s = certs::not_after_s(&chain[0]).map_err(|problem| told(&files.cert, &problem))?;
    let certified = pair(chain, key, &files.cert, &files.key)?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, read_chain(path)?, true)?),
    };
    let resolver = rustls::sign::SingleCertAndKey::from(certified);
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(ServerTls { config: Arc::new(config), not_after_s })
}

/// Reads and checks a listener's files once.
///
/// # Errors
/// A sentence with the file and what to do, when the pair can't be used.
pub fn check_server_files(files: &ServerFiles) -> Result<(), String> {
    load_server(files).map(drop)
}

/// A key that belongs to its certificate.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_path: &Path,
    key_path: &Path,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        let (cert, key) = (cert_path.display(), key_path.display());
        format!("{key} is not the key of {cert} ({error}); replace both files by a pair made together")
    })
}

/// Trusts what the authorities read from `ca` signed; `optional` accepts clients without a certificate.
fn client_verifier(
    ca: &Path,
    authorities: Vec<CertificateDer<'static>>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(|error| told(ca, &error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| told(ca, &error.to_string()))
}

/// What certificates one authority has signed for callers.
#[derive(Clone, Debug)]
pub struct Trust(Arc<dyn ClientCertVerifier>);

impl Trust {
    /// Of an authority's certificates, PEM; `name` says whose they are, or in which file they stand.
    ///
    /// # Errors
    /// A sentence with the name, when they can't be used.
    pub fn of(name: impl AsRef<Path>, ca_pem: &[u8]) -> Result<Trust, String> {
        let name = name.as_ref();
        client_verifier(name, chain(name, ca_pem)?, false).map(Trust)
    }

    /// Whether it signed what a caller shows, the caller's own first, and it has not ended.
    ///
    /// # Errors
    /// A sentence, when not.
    pub fn accepts(&self, shown: &[CertificateDer<'_>]) -> Result<(), String> {
        let (own, between) = shown.split_first().ok_or("no certificate was shown")?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s()).unwrap_or(0)));
        self.0.verify_client_cert(own, between, now).map(drop).map_err(|error| error.to_string())
    }
}

fn told(path: &Path, problem: &str) -> String {
    format!("{}: {problem}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| told(path, &format!("can't be read: {error}; check the path, and that this user may read it")))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    chain(path, &read(path)?)
}

fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| told(path, &format!("damaged PEM ({error})")))?;
    if chain.is_empty() {
        return Err(told(path, "holds no certificate; it must have \"BEGIN CERTIFICATE\" in it"));
    }
    Ok(chain)
}

fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| told(path, "holds no private key that can be read; it must be PEM, without a password"))
}

/// At a reload, a certificate that has ended is worse than one that has not.
fn refuse_ended(path: &Path, not_after_s: i64, old_not_after_s: Option<i64>) -> Result<(), String> {
    let now = now_s();
    let old_is_good = old_not_after_s.is_some_and(|old| old > now);
    let has_ended = not_after_s <= now;
    if has_ended && old_is_good { Err(told(path, "the certificate has ended; make a new one")) } else { Ok(()) }
}

fn tell_end(name: &'static str, not_after_s: i64) {
    let ends = u32::try_from(not_after_s).map_or(f64::from(u32::MAX), f64::from);
    metrics::gauge!("portolan_tls_not_after_seconds", "name" => name).set(ends);
    let left_s = not_after_s - now_s();
    if left_s <= 0 {
        tracing::error!(tls.name = name, "the certificate of {name} has ended: clients refuse it; make a new one");
    } else if left_s < 14 * 24 * 3600 {
        tracing::warn!(tls.name = name, "the certificate of {name} ends in {} days; renew it", left_s / (24 * 3600));
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Files by which nodes know each other.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// Authority of the cluster, PEM.
    pub ca: PathBuf,
    /// This node's certificate, PEM.
    pub cert: PathBuf,
    /// This node's private key, PEM.
    pub key: PathBuf,
}

/// What those files hold, checked: the key is the certificate's, the authority signed it, and it names a node.
#[derive(Clone, Debug)]
pub struct NodePems {
    /// Authority of the cluster.
    pub ca_pem: Vec<u8>,
    /// This node's certificate chain.
    pub cert_pem: Vec<u8>,
    /// This node's private key.
    pub key_pem: Secret<Vec<u8>>,
    /// Who the certificate says this is.
    pub identity: certs::Identity,
}

/// Loads the node's files, and goes on watching them until `shutdown`; a new certificate for another identity is
/// refused.
///
/// # Errors
/// A sentence with the file and what to do, when they can't be used.
pub fn watch_node_files(files: NodeFiles, shutdown: Shutdown) -> Result<Arc<Reloading<NodePems>>, String> {
    let paths = vec![files.ca.clone(), files.cert.clone(), files.key.clone()];
    let load = move |old: Option<&NodePems>| {
        let loaded = load_node_files(&files)?;
        if old.is_some_and(|old| old.identity != loaded.identity) {
            let problem = format!("is for {}, which is not this node", loaded.identity);
            return Err(told(&files.cert, &problem));
        }
        Ok(loaded)
    };
    Reloading::start("cluster", paths, load, shutdown)
}

/// Reads and checks a node's files once.
///
/// # Errors
/// A sentence with the file and what to do, when they can't be used.
pub fn load_node_files(files: &NodeFiles) -> Result<NodePems, String> {
    let (cert_pem, ca_pem) = (read(&files.cert)?, read(&files.ca)?);
    check_node_pems(files, ca_pem, cert_pem, Secret::new(read(&files.key)?))
}

/// Checks what stands in a node's files, or came in another way: then `names` says in which.
///
/// # Errors
/// A sentence with the name and what to do, when it can't be used.
pub fn check_node_pems(
    names: &NodeFiles,
    ca_pem: Vec<u8>,
    cert_pem: Vec<u8>,
    key_pem: Secret<Vec<u8>>,
) -> Result<NodePems, String> {
    let own = chain(&names.cert, &cert_pem)?;
    Trust::of(&names.ca, &ca_pem)?.accepts(&own).map_err(|error| {
        let ca = names.ca.display();
        told(&names.cert, &format!("is not accepted under {ca} ({error}); make it again with `portolan certs node`"))
    })?;
    let identity = certs::identity(&own[0]).map_err(|problem| told(&names.cert, &problem))?;
    if !matches!(identity.role, certs::Role::Node(_)) {
        return Err(told(&names.cert, &format!("is for {identity}, not for a node; use `portolan certs node`")));
    }
    drop(pair(own, key(&names.key, key_pem.expose())?, &names.cert, &names.key)?);
    Ok(NodePems { ca_pem, cert_pem, key_pem, identity })
}

#[cfg(test)]
mod tests;
