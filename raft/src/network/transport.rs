//! Mutual TLS between nodes: channels that leave from the node's own address, listeners that know who called.
//!
//! Certificates are asked for at every new connection, so that replaced files are used without a restart. Without TLS
//! (only on loopback) nobody is identified.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::{Connected, Router};
use tonic::transport::{Channel, Endpoint, Uri};

use super::identity::{Identity, peer_identity};

/// A handshake must end within this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at one listener; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;
/// Silence after which a connection is probed, and how long the answer may take: a partition leaves connections
/// hanging.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The files of one node's identity, PEM.
#[derive(Clone)]
pub struct NodeTls {
    /// The cluster's certificate authorities.
    pub ca_pem: Vec<u8>,
    /// The node's certificate, and what chains it to an authority.
    pub cert_pem: Vec<u8>,
    /// Its private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for NodeTls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("NodeTls(..)")
    }
}

/// Gives the present files; asked at every new connection.
pub type TlsSource = Arc<dyn Fn() -> Arc<NodeTls> + Send + Sync>;

/// Who is at the other end of an accepted connection; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its address.
    pub addr: SocketAddr,
    /// The name in its certificate; `None` without TLS.
    pub identity: Option<Arc<Identity>>,
    /// The certificates that it showed, its own first; none without TLS. For who trusts several authorities, and has to
    /// know which of them signed.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// Who must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This node of a cluster.
    Node(u128, u64),
    /// Any node of a cluster.
    Cluster(u128),
}

impl Expect {
    fn is(&self, found: &Identity) -> bool {
        match self {
            Expect::Node(cluster_id, node_id) => found.cluster_id == *cluster_id && found.node_id() == Some(*node_id),
            Expect::Cluster(cluster_id) => found.cluster_id == *cluster_id && found.node_id().is_some(),
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expect::Node(_, node_id) => write!(out, "node {node_id:016x}"),
            Expect::Cluster(cluster_id) => write!(out, "a node of cluster {cluster_id:032x}"),
        }
    }
}

/// Where to connect, and how.
#[derive(Clone)]
pub struct Dial {
    /// `host:port`.
    pub addr: String,
    /// Source address of the socket.
    pub bind_source: Option<IpAddr>,
    /// Own certificate and the authorities to trust.
    pub tls: Option<TlsSource>,
    /// Who must answer; checked against its certificate.
    pub expect: Option<Expect>,
    /// For the TCP connection and the handshake, each.
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Dial({})", self.addr)
    }
}

/// A channel that connects when it is used, and again when the connection has broken. Needs a Tokio runtime.
pub fn connect(dial: Dial) -> io::Result<Channel> {
    connect_with(dial, |endpoint| endpoint)
}

/// As [`connect`], with HTTP/2 settings of the caller's own: many streams on one connection want other windows than
/// one.
pub fn connect_with(dial: Dial, tune: impl FnOnce(Endpoint) -> Endpoint) -> io::Result<Channel> {
    let uri: Uri = format!("http://{}", dial.addr).parse().map_err(io::Error::other)?;
    let endpoint = Endpoint::from(uri)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let dial = Arc::new(dial);
    Ok(tune(endpoint).connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let dial = dial.clone();
        async move { open(&dial).await.map(TokioIo::new) }
    })))
}

async fn within<T>(limit: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, what).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn open(dial: &Dial) -> io::Result<Stream> {
    let tcp = within(dial.connect_timeout, open_tcp(dial)).await?;
    let Some(tls) = &dial.tls else { return Ok(Stream::Plain(tcp)) };
    let connector = TlsConnector::from(Arc::new(client_config(&tls())?));
    // the name is only what SNI carries; the identity in the certificate is what counts
    let name = ServerName::try_from("portolan.internal").expect("a host name");
    let stream = within(dial.connect_timeout, connector.connect(name, tcp)).await?;
    if let Some(expect) = dial.expect {
        let found = identity_of(stream.get_ref().1.peer_certificates())?;
        if !expect.is(&found) {
            return Err(io::Error::other(format!("{} is {found}, not {expect}", dial.addr)));
        }
    }
    Ok(Stream::Client(Box::new(stream)))
}

async fn open_tcp(dial: &Dial) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the address has no meaning");
    for addr in tokio::net::lookup_host(&dial.addr).await? {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = dial.bind_source.filter(|source| source.is_ipv4() == addr.is_ipv4()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        match socket.connect(addr).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Serves on a listener until `stop` ends. Requests carry [`PeerInfo`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsSource>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (accepted, incoming) = mpsc::channel(HANDSHAKES_MAX);
    let accepting = tokio::spawn(accept(listener, tls, accepted));
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    let served = router.serve_with_incoming_shutdown(incoming, stop).await;
    accepting.abort();
    served
}

/// A server with the limits all node-to-node services share.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL * 5))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT * 5))
}

async fn accept(listener: TcpListener, tls: Option<TlsSource>, accepted: mpsc::Sender<io::Result<Accepted>>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut acceptors = Acceptors { tls, made: None };
    loop {
        let Ok(slot) = handshakes.clone().acquire_owned().await else { return };
        let (tcp, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // out of descriptors, or the peer has gone already: neither ends the listener
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let acceptor = match acceptors.present() {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(%error, "the certificates cannot be used; the connection is dropped");
                continue;
            }
        };
        let accepted = accepted.clone();
        tokio::spawn(async move {
            match within(HANDSHAKE_TIMEOUT, greet(tcp, addr, acceptor)).await {
                Ok(stream) => drop(accepted.send(Ok(stream)).await),
                Err(error) => tracing::debug!(%error, %addr, "a handshake failed"),
            }
            drop(slot);
        });
    }
}

async fn greet(tcp: TcpStream, addr: SocketAddr, acceptor: Option<TlsAcceptor>) -> io::Result<Accepted> {
    tcp.set_nodelay(true)?;
    let Some(acceptor) = acceptor else {
        let peer = PeerInfo { addr, identity: None, certificates: Arc::default() };
        return Ok(Accepted { stream: Stream::Plain(tcp), peer });
    };
    let stream = acceptor.accept(tcp).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let (identity, certificates) =
        (identity_of(Some(shown))?, shown.iter().cloned().map(CertificateDer::into_owned).collect());
    let peer = PeerInfo { addr, identity: Some(Arc::new(identity)), certificates };
    Ok(Accepted { stream: Stream::Server(Box::new(stream)), peer })
}

fn identity_of(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<Identity> {
    let leaf = certificates.and_then(<[_]>::first).ok_or_else(|| io::Error::other("no certificate was shown"))?;
    peer_identity(leaf).map_err(io::Error::other)
}

/// Makes an acceptor when the files have changed.
struct Acceptors {
    tls: Option<TlsSource>,
    made: Option<(Arc<NodeTls>, TlsAcceptor)>,
}

impl Acceptors {
    fn present(&mut self) -> io::Result<Option<TlsAcceptor>> {
        let Some(source) = &self.tls else { return Ok(None) };
        let files = source();
        if let Some((known, acceptor)) = &self.made
            && Arc::ptr_eq(known, &files)
        {
            return Ok(Some(acceptor.clone()));
        }
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&files)?));
        self.made = Some((files, acceptor.clone()));
        Ok(Some(acceptor))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

struct Parsed {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn parse(files: &NodeTls) -> io::Result<Parsed> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&files.ca_pem) {
        roots.add(authority.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let chain = CertificateDer::pem_slice_iter(&files.cert_pem);
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(&files.key_pem).map_err(io::Error::other)?;
    Ok(Parsed { roots: Arc::new(roots), chain, key })
}

fn server_config(files: &NodeTls) -> io::Result<ServerConfig> {
    let Parsed { roots, chain, key } = parse(files)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client_config(files: &NodeTls) -> io::Result<ClientConfig> {
    let Parsed { roots, chain, key } = parse(files)?;
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(inner)))
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Verifies the chain, not the host name: the identity in the certificate is compared after the handshake.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // the name is compared last: everything else was in order
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// One connection, with TLS or without.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($stream) => $call,
            Stream::Client($stream) => $call,
            Stream::Server($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// An accepted connection and who is at its other end.
#[derive(Debug)]
struct Accepted {
    stream: Stream,
    peer: PeerInfo,
}

impl Connected for Accepted {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
