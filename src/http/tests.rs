//! A listener on a real socket against clients that behave badly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use registry_core::vocabulary::ids::ClusterId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

use super::{App, RequestInfo, Settings, TlsSource, serve};
use crate::config::{HttpSection, Network};
use crate::ground::certs::mint::{Authority, Pair};
use crate::ground::certs::{Identity, Role};
use crate::ground::tls::{Acceptor, ServerFiles, install_provider};
use crate::ground::{Shutdown, files};

const SOON: Duration = Duration::from_secs(5);
const A_MOMENT: Duration = Duration::from_millis(200);

/// Answers `/echo` with the body, `/refuse` without reading it, `/wait` once released, `/who` with what is known of the
/// client, everything else with `ok`.
#[derive(Clone, Default)]
struct TestApp {
    entered: Arc<Notify>,
    release: Arc<Notify>,
}

impl App for TestApp {
    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let info = RequestInfo::of(request.extensions()).expect("every request carries it").clone();
        match request.uri().path() {
            "/echo" => match request.into_body().collect().await {
                Ok(body) => Response::new(Body::from(body.to_bytes())),
                Err(error) => {
                    let mut response = Response::new(Body::from(error.to_string()));
                    *response.status_mut() = axum::http::StatusCode::REQUEST_TIMEOUT;
                    response
                }
            },
            "/refuse" => {
                let mut response = Response::new(Body::from("no"));
                *response.status_mut() = axum::http::StatusCode::UNAUTHORIZED;
                response
            }
            "/wait" => {
                self.entered.notify_one();
                self.release.notified().await;
                Response::new(Body::from("waited"))
            }
            "/endless" => {
                let block = || async { Some((Ok::<_, std::io::Error>(Bytes::from(vec![7; 65536])), ())) };
                Response::new(Body::from_stream(futures_util::stream::unfold((), move |()| block())))
            }
            "/identity" => {
                let identity = request.extensions().get::<Identity>();
                Response::new(Body::from(identity.map_or("nobody".to_owned(), ToString::to_string)))
            }
            "/who" => Response::new(Body::from(format!("{} {}", info.client(), info.origin()))),
            _ => Response::new(Body::from("ok")),
        }
    }
}

fn defaults() -> Settings {
    Settings::new("test", &HttpSection::default(), true)
}

struct Running {
    address: SocketAddr,
    app: TestApp,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

async fn start(settings: Settings, tls: Option<TlsSource>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, app) = (listener.local_addr().unwrap(), TestApp::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(listener, app.clone(), settings, tls, async move { drop(stopped.await) });
    Running { address, app, stop: Some(stop), served: tokio::spawn(serving) }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and returns everything until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        until_closed(&mut stream).await
    }
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await {
        Ok(_) => String::from_utf8_lossy(&answer).into_owned(),
        Err(_) => panic!("the connection is still open after {SOON:?}: {}", String::from_utf8_lossy(&answer)),
    }
}

async fn until(stream: &mut TcpStream, text: &str) -> String {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&answer).contains(text) {
        let read = tokio::time::timeout(SOON, stream.read(&mut byte)).await.expect("in time").unwrap();
        assert_eq!(read, 1, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn tls_source() -> (TlsSource, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.into());
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    (Arc::new(move || Arc::clone(&config)), certificate)
}

// A TLS client on a plain port, and a plain client on a TLS port, are sent away at once: docker falls back only then.
#[tokio::test]
async fn wrong_protocol_is_answered_at_once() {
    let plain = start(defaults(), None).await;
    let answer = plain.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let length: usize = answer.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), length);
    let tls = start(defaults(), Some(tls_source().0)).await;
    let answer = tls.exchange(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

// HTTP/1.1 and HTTP/2 both work, with TLS by ALPN and without by the preface.
#[tokio::test]
async fn both_protocols_are_spoken() {
    let (source, certificate) = tls_source();
    let secure = start(defaults(), Some(source)).await;
    let plain = start(defaults(), None).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let client = |protocols: &[&str]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        reqwest::Client::builder().use_preconfigured_tls(config)
    };
    let localhost = |protocols| client(protocols).resolve("localhost", secure.address);
    let port = secure.address.port();
    let (secure_url, plain_url) = (format!("https://localhost:{port}/who"), format!("http://{}/who", plain.address));
    for (client, url, version) in [
        (localhost(&["h2", "http/1.1"]), &secure_url, reqwest::Version::HTTP_2),
        (localhost(&["http/1.1"]), &secure_url, reqwest::Version::HTTP_11),
        (client(&[]).http2_prior_knowledge(), &plain_url, reqwest::Version::HTTP_2),
        (client(&[]), &plain_url, reqwest::Version::HTTP_11),
    ] {
        let response = client.build().unwrap().get(url).send().await.unwrap();
        assert_eq!(response.version(), version, "{url}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["x-request-id"].len(), 16);
        let origin = url.strip_suffix("/who").unwrap();
        assert_eq!(response.text().await.unwrap(), format!("127.0.0.1 {origin}"));
    }
}

// T24: who showed a certificate of the authority is known to the app by what stands in it; nobody else is anybody.
#[tokio::test]
async fn certificates_say_who() {
    install_provider();
    let dir = tempfile::tempdir().unwrap();
    let (authority, ca) = Authority::create(ClusterId(7)).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        files::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
        path
    };
    let own = authority.issue_public(&["127.0.0.1".into()], 30).unwrap();
    let (cert, key) = (write("tls.pem", &own.cert_pem), write("tls.key", own.key_pem.expose()));
    let files = ServerFiles { cert, key, client_ca: Some(write("ca.pem", &ca.cert_pem)) };
    let acceptor = Acceptor::start("test", files, Shutdown::new()).unwrap();
    let running = start(defaults(), Some(Arc::new(move || acceptor.config()))).await;
    let ask = async |pair: Option<Pair>| {
        let trusted = reqwest::Certificate::from_pem(ca.cert_pem.as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([trusted]).no_proxy();
        if let Some(pair) = pair {
            let pem = format!("{}\n{}", pair.cert_pem, pair.key_pem.expose());
            client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        let url = format!("https://{}/identity", running.address);
        client.build().unwrap().get(url).send().await.unwrap().text().await.unwrap()
    };
    let operator = Identity { cluster: ClusterId(7), role: Role::Operator("ann".into()) };
    let pair = authority.issue(&operator, &[], 30).unwrap();
    assert_eq!(ask(Some(pair)).await, operator.to_string());
    assert_eq!(ask(None).await, "nobody");
}

// H7: a client that never finishes its headers, or never begins, is closed after the header time-out.
#[tokio::test]
async fn slow_headers_are_cut() {
    let running = start(Settings { header_timeout: A_MOMENT, ..defaults() }, None).await;
    for opening in [&b""[..], b"P", b"GET /v2/ HTTP/1.1\r\nhost: a\r\nx: "] {
        let mut stream = running.connect().await;
        stream.write_all(opening).await.unwrap();
        until_closed(&mut stream).await;
    }
}

// L9, T5: headers beyond 64 KiB in all are refused with 431, the connection closed; 16 KiB of credential pass.
#[tokio::test]
async fn large_headers_are_refused() {
    let running = start(defaults(), None).await;
    let with = |name: &str, bytes: usize| {
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{name}: {}\r\n\r\n", "a".repeat(bytes))
    };
    assert!(running.exchange(with("authorization", 16 * 1024).as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert!(running.exchange(with("authorization", 17 * 1024).as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert!(running.exchange(with("accept", 60 * 1024).as_bytes()).await.starts_with("HTTP/1.1 200 "));
    assert!(running.exchange(with("accept", 66 * 1024).as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(1000));
    assert!(running.exchange(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

// B15: an upload that stands still fails by progress, and one that goes on takes as long as it needs.
#[tokio::test]
async fn uploads_time_out_by_progress() {
    let running = start(Settings { stall_timeout: A_MOMENT * 2, ..defaults() }, None).await;
    let head = b"PUT /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 10240\r\n\r\n";
    let mut stalled = running.connect().await;
    stalled.write_all(head).await.unwrap();
    stalled.write_all(&[b'x'; 512]).await.unwrap();
    let answer = until_closed(&mut stalled).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("sends nothing"), "{answer}");
    let mut slow = running.connect().await;
    slow.write_all(head).await.unwrap();
    for _ in 0..5 {
        slow.write_all(&[b'x'; 2048]).await.unwrap();
        tokio::time::sleep(A_MOMENT).await;
    }
    assert!(until_closed(&mut slow).await.starts_with("HTTP/1.1 200 "), "one second in all, 0.2 s at a time");
}

// B10, B15: work that takes longer than a transfer may stand still is no standstill: its answer arrives.
#[tokio::test]
async fn long_work_is_not_a_stall() {
    let running = start(Settings { stall_timeout: A_MOMENT, idle_timeout: A_MOMENT, ..defaults() }, None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    running.app.entered.notified().await;
    tokio::time::sleep(A_MOMENT * 5).await;
    running.app.release.notify_one();
    assert!(until_closed(&mut stream).await.ends_with("waited"));
}

// B15: a client that stops reading a long answer is closed, and what it held is free again.
#[tokio::test]
async fn downloads_time_out_by_progress() {
    let settings = Settings { stall_timeout: A_MOMENT, requests_max: 1, ..defaults() };
    let running = start(settings, None).await;
    let mut stalled = running.connect().await;
    stalled.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&mut stalled, "\r\n\r\n").await;
    let get = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(running.exchange(get).await.starts_with("HTTP/1.1 503 "));
    tokio::time::sleep(A_MOMENT * 4).await;
    assert!(running.exchange(get).await.starts_with("HTTP/1.1 200 "));
}

// An overloaded node says so before it takes the body, with a time to come back; one who asked is not told to go on.
#[tokio::test]
async fn overload_is_told_before_the_body() {
    let running = start(Settings { requests_max: 1, ..defaults() }, None).await;
    let mut first = running.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    running.app.entered.notified().await;
    let push = b"PUT /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    let answer = running.exchange(push).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n") && answer.contains(r#""code":"UNAVAILABLE""#), "{answer}");
    assert!(!answer.contains(" 100 "), "{answer}");
    running.app.release.notify_one();
    assert!(until_closed(&mut first).await.contains("waited"));
}

// clients §12.23: who asks with `Expect: 100-continue` is told to go on when the body is wanted.
#[tokio::test]
async fn expect_continue_is_answered() {
    let running = start(defaults(), None).await;
    let mut stream = running.connect().await;
    let head =
        b"PUT /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head).await.unwrap();
    until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    assert!(until_closed(&mut stream).await.ends_with("hello"));
}

// A client that is refused while it still sends four mebibytes reads the refusal, not a broken pipe.
#[tokio::test]
async fn early_refusal_arrives() {
    let running = start(defaults(), None).await;
    let mut stream = running.connect().await;
    let size = 4 * 1024 * 1024;
    let head = format!("PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0; size]).await.expect("the server reads on");
    assert!(until(&mut stream, "no").await.starts_with("HTTP/1.1 401 "));
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(until(&mut stream, "ok").await.contains("200"), "the connection stays in use");
}

// B14: what two parsers could read in two ways is refused, or read once and the connection closed: never a second
// request.
#[tokio::test]
async fn smuggling_is_refused() {
    let running = start(defaults(), None).await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    for (name, headers, body) in [
        ("length then chunked", "content-length: 5\r\ntransfer-encoding: chunked\r\n", format!("0\r\n\r\n{hidden}")),
        ("chunked then length", "transfer-encoding: chunked\r\ncontent-length: 5\r\n", format!("0\r\n\r\n{hidden}")),
        ("two lengths", "content-length: 5\r\ncontent-length: 6\r\n", format!("hello{hidden}")),
        ("signed length", "content-length: +5\r\n", format!("hello{hidden}")),
        ("list of lengths", "content-length: 5, 6\r\n", format!("hello{hidden}")),
        ("chunked not last", "transfer-encoding: chunked, gzip\r\n", format!("0\r\n\r\n{hidden}")),
        ("chunked twice", "transfer-encoding: chunked, chunked\r\n", format!("0\r\n\r\n{hidden}")),
        (
            "coding in two lines",
            "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
            format!("0\r\n\r\n{hidden}"),
        ),
        ("unknown coding", "transfer-encoding: xchunked\r\n", format!("0\r\n\r\n{hidden}")),
        ("space before colon", "content-length : 5\r\n", format!("hello{hidden}")),
        ("bare LF in a chunk size", "transfer-encoding: chunked\r\n", format!("5;a\nb\r\nhello\r\n0\r\n\r\n{hidden}")),
        (
            "chunk size overflow",
            "transfer-encoding: chunked\r\n",
            format!("fffffffffffffffff\r\nhello\r\n0\r\n\r\n{hidden}"),
        ),
    ] {
        let request = format!("PUT /echo HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}");
        let answer = running.exchange(request.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
        assert!(!answer.contains("ok"), "{name}: {answer}");
    }
}

// A body on GET is read past, not taken for the next request.
#[tokio::test]
async fn body_on_get_is_not_a_request() {
    let running = start(defaults(), None).await;
    let inner = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{inner}", inner.len());
    let mut stream = running.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "ok").await;
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let rest = until_closed(&mut stream).await;
    assert!(rest.contains("127.0.0.1 http://a") && !rest.contains("ok"), "{rest}");
}

// H1: rapid reset closes the connection that does it, and others go on.
#[tokio::test]
async fn rapid_reset_closes_the_connection() {
    let running = start(defaults(), None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let mut flood = Vec::new();
    for stream_id in (1..20_001_u32).step_by(2) {
        // HEADERS with END_STREAM and END_HEADERS: GET http / on host `a`, all from the static table.
        flood.extend_from_slice(b"\x00\x00\x06\x01\x05");
        flood.extend_from_slice(&stream_id.to_be_bytes());
        flood.extend_from_slice(b"\x82\x86\x84\x41\x01a");
        // RST_STREAM with CANCEL.
        flood.extend_from_slice(b"\x00\x00\x04\x03\x00");
        flood.extend_from_slice(&stream_id.to_be_bytes());
        flood.extend_from_slice(&8_u32.to_be_bytes());
    }
    // The server may close while we write.
    drop(stream.write_all(&flood).await);
    let mut answer = Vec::new();
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection is closed"));
    let get = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(running.exchange(get).await.starts_with("HTTP/1.1 200 "));
}

// H1: a header block that never ends does not grow without bound: the connection is closed.
#[tokio::test]
async fn continuation_flood_closes_the_connection() {
    let running = start(defaults(), None).await;
    let mut stream = running.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    stream.write_all(b"\x00\x00\x06\x01\x01\x00\x00\x00\x01\x82\x86\x84\x41\x01a").await.unwrap();
    // CONTINUATION frames, each with the literal header `a: b…b` without indexing.
    let mut frame = b"\x00\x40\x04\x09\x00\x00\x00\x00\x01\x00\x01a\x7f".to_vec();
    frame.truncate(9);
    frame[..3].copy_from_slice(&[0, 0, 4]);
    frame.extend_from_slice(b"\x00\x01a\x00");
    let flood = frame.repeat(100_000);
    drop(stream.write_all(&flood).await);
    let mut answer = Vec::new();
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the connection is closed"));
}

// T19, T20: what a client says about itself is believed from a trusted proxy only.
#[tokio::test]
async fn forwarded_headers_need_trust() {
    let request = "GET /who HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: from-outside\r\n\
                   x-forwarded-for: 10.9.9.9, 203.0.113.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: reg.example\r\n\r\n";
    let strict = start(defaults(), None).await;
    let answer = strict.exchange(request.as_bytes()).await;
    assert!(answer.ends_with("127.0.0.1 http://a") && !answer.contains("from-outside"), "{answer}");
    let trusted_proxies = vec![Network::parse("127.0.0.0/8").unwrap()];
    let trusting = start(Settings { trusted_proxies, ..defaults() }, None).await;
    let answer = trusting.exchange(request.as_bytes()).await;
    assert!(answer.ends_with("203.0.113.7 https://reg.example"), "{answer}");
    assert!(answer.contains("x-request-id: from-outside\r\n"), "{answer}");
}

// H7: one address gets its share of connections and not more.
#[tokio::test]
async fn connections_per_address_are_bounded() {
    let running = start(Settings { connections_per_address_max: 2, ..defaults() }, None).await;
    let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let (mut first, mut second) = (running.connect().await, running.connect().await);
    for stream in [&mut first, &mut second] {
        stream.write_all(get).await.unwrap();
        until(stream, "ok").await;
    }
    let mut third = running.connect().await;
    drop(third.write_all(get).await);
    let mut answer = Vec::new();
    drop(tokio::time::timeout(SOON, third.read_to_end(&mut answer)).await.expect("closed at once"));
    assert!(answer.is_empty());
    drop(first);
    tokio::time::sleep(A_MOMENT).await;
    let mut fourth = running.connect().await;
    fourth.write_all(get).await.unwrap();
    until(&mut fourth, "ok").await;
}

// A listener that is told to stop takes no connection, ends idle ones, and lets a request under way finish.
#[tokio::test]
async fn drain_finishes_requests() {
    let mut running = start(defaults(), None).await;
    let mut busy = running.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    running.app.entered.notified().await;
    let mut idle = running.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&mut idle, "ok").await;
    let mut silent = running.connect().await;
    tokio::time::sleep(A_MOMENT).await;
    running.stop.take().unwrap().send(()).unwrap();
    until_closed(&mut idle).await;
    until_closed(&mut silent).await;
    assert!(!running.served.is_finished());
    running.app.release.notify_one();
    let answer = until_closed(&mut busy).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("waited"), "{answer}");
    tokio::time::timeout(SOON, running.served).await.expect("the listener ends").unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
