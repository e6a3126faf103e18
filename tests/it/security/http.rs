//! Group 6: HTTP, TLS, and the libraries that speak them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use registry_core::vocabulary::Digest;

use super::http2::{self, Attack, frame};
use super::one::{One, resident_mib};
use super::repo::{IMAGE, LAYER, Repo, noise};
use super::wire::{self, Wire};
use crate::support::Cluster;
use crate::support::http::request;

/// Connections that the tight node takes from one address.
const CONNECTIONS: usize = 60;
/// The name by which clients know the tight node.
const PUBLIC: &str = "reg.example";

/// A node with little patience: two seconds for a head, three without progress, four without a request.
fn tight() -> &'static One {
    static TIGHT: OnceLock<One> = OnceLock::new();
    TIGHT.get_or_init(|| {
        let connections = format!("http.max_connections_per_address={CONNECTIONS}");
        let url = format!("http.public_url=http://{PUBLIC}");
        let times = ["http.header_timeout=2s", "http.stall_timeout=3s", "http.idle_timeout=4s"];
        One::start(83, &[times[0], times[1], times[2], &connections, &url], |_| {})
    })
}

/// A request to the tight node under its name, from an address of its own; its answer, or `None` when it broke.
fn ask_tight(own: &str, method: &str, target: &str, headers: &str, body: &[u8]) -> Option<String> {
    let mut stream = http2::connect_from(own, &tight().base()).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let authorization = wire::authorization(&tight().key());
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {PUBLIC}\r\nConnection: close\r\n{authorization}{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned()).filter(|answer| !answer.is_empty())
}

/// The slowest of many requests by somebody else, made while `during` runs.
fn others_during<T: Send>(during: impl FnOnce() -> T + Send) -> (T, Duration) {
    std::thread::scope(|scope| {
        let attack = scope.spawn(during);
        let mut slowest = Duration::ZERO;
        let mut asked = 0;
        while !attack.is_finished() || asked < 5 {
            let began = Instant::now();
            let answer = ask_tight("127.0.77.1", "GET", "/v2/", "", b"").unwrap_or_default();
            assert_eq!(wire::status(&answer), 200, "another client is refused: {answer}");
            slowest = slowest.max(began.elapsed());
            asked += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        (attack.join().unwrap(), slowest)
    })
}

/// Runs an attack on a connection: it must end closed, leave memory as it was, and other clients served.
fn survives(name: &str, attack: impl FnOnce(&mut Attack) -> bool + Send) {
    let node = tight();
    let before = node.memory_mib();
    let (closed, slowest) = others_during(|| {
        let mut connection = Attack::open(&node.base());
        // What goes on is closed for want of a request or of progress, at the latest.
        attack(&mut connection) || connection.closes_within(Duration::from_secs(20))
    });
    assert!(closed, "{name}: the connection is still open");
    assert!(slowest < Duration::from_secs(5), "{name}: another client waited for {slowest:?}");
    let after = node.memory_mib();
    // Other tests push and pull beside this one; what a flood sends is far more.
    assert!(after < before + 150, "{name}: {before} MiB before, {after} MiB after");
}

const FLOOD: Duration = Duration::from_secs(8);

// H1: streams opened and reset as fast as the wire takes them close the connection that does it.
#[test]
fn h01_rapid_reset() {
    survives("rapid reset", |connection| {
        let head = http2::request("GET", "/v2/h01/tags/list", &tight().key());
        let mut stream = 1;
        let until = Instant::now() + FLOOD;
        while Instant::now() < until {
            let mut flood = Vec::new();
            for _ in 0..100 {
                flood.extend(frame(http2::HEADERS, http2::END_STREAM | http2::END_HEADERS, stream, &head));
                flood.extend(frame(http2::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                stream += 2;
            }
            if !connection.send(&flood) {
                return true;
            }
        }
        false
    });
}

// H1: a head that never ends is cut off, however its pieces look.
#[test]
fn h01_continuation_flood() {
    for (name, piece) in [
        ("empty", Vec::new()),
        ("headers", http2::header("x", &[b'y'; 1000])),
        ("half a header", vec![0, 1, b'a', 0x7f, 0xff, 0xff, 0x03]),
    ] {
        survives(name, |connection| {
            let head = http2::request("GET", "/v2/", &tight().key());
            connection.send(frame(http2::HEADERS, http2::END_STREAM, 1, &head));
            connection.flood(&frame(http2::CONTINUATION, 0, 1, &piece), FLOOD)
        });
    }
}

// H1: bodies of nothing: frames without a byte, without end, are no progress.
#[test]
fn h01_empty_data_flood() {
    survives("empty data", |connection| {
        let path = "/v2/h01/manifests/v";
        let head = http2::request("PUT", path, &tight().key());
        let head = [head, http2::header("content-type", IMAGE.as_bytes())].concat();
        connection.send(frame(http2::HEADERS, http2::END_HEADERS, 1, &head));
        connection.flood(&frame(http2::DATA, 0, 1, b""), FLOOD)
    });
}

// H1: frames that ask for an answer, or that only change what is known of a connection, keep nothing and open nothing.
#[test]
fn h01_control_frame_floods() {
    let settings = [&[0, 3][..], &100_u32.to_be_bytes()].concat();
    for (name, bytes) in [
        ("pings", frame(http2::PING, 0, 0, &[7; 8])),
        ("settings", frame(http2::SETTINGS, 0, 0, &settings)),
        ("many settings", frame(http2::SETTINGS, 0, 0, &settings.repeat(1000))),
        ("priorities", frame(http2::PRIORITY, 0, 1, &[0, 0, 0, 3, 7])),
        ("unknown frames", frame(0xbb, 0xff, 0, &[0; 100])),
        ("windows", frame(http2::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("windows of nothing", frame(http2::WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes())),
        ("resets of idle streams", frame(http2::RST_STREAM, 0, 9, &8_u32.to_be_bytes())),
        ("frames too large", frame(http2::DATA, 0, 1, &[0; 1 << 17])),
    ] {
        survives(name, |connection| connection.flood(&bytes, Duration::from_secs(6)));
    }
}

// H1: a head that is small on the wire and large behind it: one remembered header named sixteen thousand times.
#[test]
fn h01_header_bomb() {
    survives("header bomb", |connection| {
        let mut stream = 1;
        for _ in 0..40 {
            let mut head = http2::request("GET", "/v2/", &tight().key());
            head.extend(http2::remembered("x", &[b'y'; 3900]));
            head.extend([http2::NEWEST].repeat(8000));
            if !connection.send(frame(http2::HEADERS, http2::END_STREAM | http2::END_HEADERS, stream, &head)) {
                return true;
            }
            stream += 2;
        }
        false
    });
}

// H1: more streams than allowed, each with a request that waits for its body.
#[test]
fn h01_too_many_streams() {
    survives("streams", |connection| {
        let head = http2::request("PUT", "/v2/h01/manifests/v", &tight().key());
        for number in 0..20_000_u32 {
            if !connection.send(frame(http2::HEADERS, http2::END_HEADERS, number * 2 + 1, &head)) {
                return true;
            }
        }
        false
    });
}

/// Talks TLS as a node to a door between nodes.
fn node_client(cluster: &Cluster, node: u8) -> reqwest::Client {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    portolan::ground::tls::install_provider();
    let certs = cluster.node_dir(node).join("certs");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.pem")).unwrap()).unwrap();
    let chain = CertificateDer::pem_file_iter(certs.join("node.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certs.join("node.key")).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    reqwest::Client::builder().use_preconfigured_tls(config).timeout(Duration::from_secs(30)).build().unwrap()
}

// H2: the doors between nodes live through garbage, half handshakes, strangers, and a peer with a good certificate
// whose messages are huge, compressed or nonsense; the cluster goes on, and memory stays.
#[test]
fn h02_doors_between_nodes() {
    let cluster = Cluster::shared();
    let repo = Repo::shared("h02");
    let image = repo.image(b"h02").to_string();
    let config = cluster.node_dir(2).join("portolan.toml");
    let before = resident_mib(&config);
    let door = |offset: u16| format!("{}:{}", cluster.ip(2), 18400 + offset);
    for door in [door(1), door(2)] {
        let base = format!("http://{door}");
        for garbage in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\xff\xff",
            &[0xff; 4096],
        ] {
            for _ in 0..40 {
                let mut wire = Wire::open(&base);
                wire.send(garbage);
                wire.end();
            }
        }
        portolan::ground::tls::install_provider();
        let stranger = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = node_client(cluster, 1);
        runtime.block_on(async {
            let asked = stranger.post(format!("https://{door}/x")).send().await;
            assert!(asked.is_err(), "{door} talks to somebody without a certificate");
            for path in ["/portolan.blob.v1.Blob/PutSmall", "/portolan.raft.v1.Consensus/Call", "/nothing", "/"] {
                for (flag, length, sent) in
                    [(0_u8, u32::MAX, 1 << 16), (0, 100 << 20, 1 << 20), (1, 1 << 16, 1 << 16), (0, 5, 5), (9, 0, 0)]
                {
                    let mut body = vec![flag];
                    body.extend(length.to_be_bytes());
                    body.resize(5 + sent, 0x7f);
                    let post = client.post(format!("https://{door}{path}")).header("content-type", "application/grpc");
                    let post = post.header("grpc-encoding", "gzip").header("te", "trailers").body(body);
                    // A status of the call's own, or a connection that ends: anything but success.
                    if let Ok(answer) = post.send().await {
                        let status =
                            answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
                        assert_ne!(status.as_deref(), Some("0"), "{path} {flag} {length}");
                        drop(answer.bytes().await);
                    }
                }
            }
        });
    }
    for node in 1..=3 {
        let repo = repo.behind(&cluster.node(node));
        repo.stored(&format!("v{node}"), IMAGE, image.as_str());
        repo.blob(LAYER, &noise(20 + u32::from(node), 300_000));
    }
    let after = resident_mib(&config);
    assert!(after < before + 200, "{before} MiB before, {after} MiB after");
}

/// A node whose public door speaks TLS; its authority, to issue more.
fn secure() -> &'static (One, portolan::ground::certs::mint::Authority, Vec<u8>) {
    use portolan::ground::certs::mint::Authority;
    static SECURE: OnceLock<(One, Authority, Vec<u8>)> = OnceLock::new();
    SECURE.get_or_init(|| {
        let (authority, ca) = Authority::create(registry_core::vocabulary::ids::ClusterId(7)).unwrap();
        let settings =
            ["tls.cert=DIR/tls/current/tls.pem", "tls.key=DIR/tls/current/tls.key", "listen.admin_insecure=true"];
        let times = ["http.header_timeout=3s", "http.stall_timeout=30s"];
        let settings = [&settings[..], &times[..]].concat();
        let one = One::start(84, &settings, |dir| {
            mount(dir, "v1", &authority.issue_public(&[SECURE_IP.into()], 30).unwrap())
        });
        (one, authority, ca.cert_pem.into_bytes())
    })
}

const SECURE_IP: &str = "127.84.1.1";

/// Puts a pair where an orchestrator mounts secrets: a directory of one version, swapped in by a symbolic link.
fn mount(dir: &std::path::Path, version: &str, pair: &portolan::ground::certs::mint::Pair) {
    let tls = dir.join("tls");
    std::fs::create_dir_all(tls.join(version)).unwrap();
    std::fs::write(tls.join(version).join("tls.pem"), &pair.cert_pem).unwrap();
    let key = tls.join(version).join("tls.key");
    std::fs::write(&key, pair.key_pem.expose()).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let next = tls.join("next");
    std::os::unix::fs::symlink(version, &next).unwrap();
    std::fs::rename(next, tls.join("current")).unwrap();
}

/// A TLS connection to the secure node, and the certificate it showed.
type Secured = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

fn handshake() -> std::io::Result<(Secured, Vec<u8>)> {
    use rustls::pki_types::pem::PemObject;
    let (one, _, ca) = secure();
    portolan::ground::tls::install_provider();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(SECURE_IP).unwrap();
    let connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let stream = std::net::TcpStream::connect(one.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let shown = stream.conn.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, shown))
}

/// Asks over TLS; everything until the server closes.
fn ask_secure(target: &str) -> Vec<u8> {
    let (mut stream, _) = handshake().unwrap();
    let authorization = wire::authorization(&secure().0.key());
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// The bytes with which a client begins: a ClientHello in one record.
fn client_hello() -> Vec<u8> {
    portolan::ground::tls::install_provider();
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(SECURE_IP).unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

// H3: handshakes that stop, break, crawl or lie are closed in time, cost nobody else anything, and leave no connection.
#[test]
fn h03_odd_handshakes() {
    let (one, ..) = secure();
    let hello = client_hello();
    let one_byte_records: Vec<u8> = hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    let before = one.memory_mib();
    let odd = [
        ("nothing", vec![]),
        ("half a record", hello[..40].to_vec()),
        ("a record and a half", [&hello[..], &hello[..20]].concat()),
        ("twice", hello.repeat(2)),
        ("alerts", [0x15, 3, 3, 0, 2, 1, 90].repeat(1000)),
        ("a fatal alert", vec![0x15, 3, 3, 0, 2, 2, 40]),
        ("empty records", [0x16, 3, 1, 0, 0].repeat(1000)),
        ("a record too long", [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("a message too long", [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat()),
        ("another version", [&[0x16, 2, 0][..], &hello[3..]].concat()),
        ("data before a handshake", [&[0x17, 3, 3, 0, 16][..], &[0; 16]].concat()),
        ("clear text", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("noise", noise(33, 100_000)),
    ];
    let base = format!("http://{}", one.address());
    std::thread::scope(|scope| {
        for (name, bytes) in &odd {
            for end in [true, false] {
                let base = &base;
                scope.spawn(move || {
                    let mut wire = Wire::open(base);
                    wire.send(bytes);
                    if end {
                        wire.end();
                    }
                    let began = Instant::now();
                    let answer = wire.closed_within(Duration::from_secs(20));
                    assert!(began.elapsed() < Duration::from_secs(10), "{name}: open for {:?}", began.elapsed());
                    assert!(!answer.contains("200 OK"), "{name}");
                });
            }
        }
    });
    // A hello in records of one byte each is legal, if foolish: it is answered or refused, at once.
    let mut wire = Wire::open(&format!("http://{}", one.address()));
    wire.send(&one_byte_records);
    let mut first = [0];
    wire.stream().read_exact(&mut first).unwrap();
    assert!([0x15, 0x16].contains(&first[0]), "{first:?}");
    // One that comes a byte a second is cut off with the others.
    let mut wire = Wire::open(&format!("http://{}", one.address()));
    for byte in &hello[..12] {
        if !wire.send([*byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    wire.closed_within(Duration::from_secs(5));
    // Without the name, or without trust, there is no connection: the client refuses, and the server goes on.
    let config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("elsewhere.example").unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = std::net::TcpStream::connect(one.address()).unwrap();
    assert!(connection.complete_io(&mut stream).is_err());
    assert!(ask_secure("/v2/").starts_with(b"HTTP/1.1 200 "));
    let after = one.memory_mib();
    assert!(after < before + 64, "{before} MiB before, {after} MiB after");
    // Another test may have a few.
    let open = || one.metric("portolan_http_connections", "listener=\"public\"");
    let until = Instant::now() + Duration::from_secs(20);
    while open() > 4.0 {
        assert!(Instant::now() < until, "{} connections are left", open());
        std::thread::sleep(Duration::from_millis(200));
    }
}

// H5: a certificate replaced by a swapped link is used within seconds, and a download that runs goes on to its last
// byte; a pair that does not fit, and a half-written one, are refused, counted, and change nothing.
#[test]
fn h05_certificates_replaced() {
    let (one, authority, _) = secure();
    let issue = || authority.issue_public(&[SECURE_IP.into()], 30).unwrap();
    let shown = || handshake().unwrap().1;
    let changed = |old: &[u8]| {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let now = shown();
            if now != old {
                return now;
            }
            assert!(Instant::now() < until, "the old certificate is still in use");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let bytes = noise(5, 20_000_000);
    let digest = Digest::sha256(&bytes);
    let (mut pushing, first) = handshake().unwrap();
    let authorization = wire::authorization(&one.key());
    let length = bytes.len();
    let target = format!("/v2/h05/blobs/uploads/?digest={digest}");
    write!(
        pushing,
        "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}Content-Length: {length}\r\n\r\n"
    )
    .unwrap();
    // An upload and a download are under way while the pair changes.
    pushing.write_all(&bytes[..10_000_000]).unwrap();
    mount(one.dir(), "v2", &issue());
    let second = changed(&first);
    pushing.write_all(&bytes[10_000_000..]).unwrap();
    let mut answer = Vec::new();
    pushing.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer));

    let (mut pulling, _) = handshake().unwrap();
    write!(pulling, "GET /v2/h05/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n")
        .unwrap();
    let mut answer = vec![0; 65_536];
    pulling.read_exact(&mut answer).unwrap();

    let refused = || one.metric("portolan_reloads_total", "result=\"refused\"");
    let before = refused();
    let (other, another) = (issue(), issue());
    let mismatched = portolan::ground::certs::mint::Pair { cert_pem: other.cert_pem.clone(), key_pem: another.key_pem };
    mount(one.dir(), "mismatched", &mismatched);
    let until = Instant::now() + Duration::from_secs(20);
    while refused() <= before {
        assert!(Instant::now() < until, "nobody has noticed the pair that does not fit");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(shown(), second, "the last good pair stays");
    let key = one.dir().join("tls/current/tls.key");
    std::fs::write(&key, &other.key_pem.expose()[..60]).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(shown(), second, "half a key is no key");
    std::fs::write(&key, other.key_pem.expose()).unwrap();
    changed(&second);
    pulling.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(Digest::sha256(&answer[body..]), digest, "the download went on");
}

// H7: heads that drip, and connections that say nothing, end after their time; an address has its share of connections
// and another address is not troubled.
#[test]
fn h07_slow_heads_and_idle_connections() {
    let node = tight();
    let open = |own: &str| http2::connect_from(own, &node.base()).unwrap();
    let (closed, slowest) = others_during(|| {
        let mut dripping: Vec<_> = (0..20).map(|_| open("127.0.77.2")).collect();
        let idle: Vec<_> = (0..20).map(|_| open("127.0.77.2")).collect();
        let head = b"GET /v2/ HTTP/1.1\r\nHost: reg.example\r\nX-Drip: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        for byte in head.iter().take(20) {
            for stream in &mut dripping {
                drop(stream.write_all(&[*byte]));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        dripping.into_iter().chain(idle).all(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
            // An end or a reset; a time-out would be an open connection.
            !matches!(stream.read(&mut [0; 512]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        })
    });
    assert!(closed, "a connection is still open");
    assert!(slowest < Duration::from_secs(5), "another client waited for {slowest:?}");
    // The share of one address.
    let mut many: Vec<_> = (0..CONNECTIONS + 20).map(|_| open("127.0.77.3")).collect();
    std::thread::sleep(Duration::from_millis(500));
    let refused = many.iter_mut().filter_map(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let ended = !matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ended.then_some(())
    });
    assert!(refused.count() >= 20, "the share of one address is {CONNECTIONS}");
    assert_eq!(wire::status(&ask_tight("127.0.77.4", "GET", "/v2/", "", b"").unwrap()), 200);
    drop(many);
}

// B15: a body that stands still ends in time, one that moves does not, however slowly; hundreds that stand still hold
// nothing that others need.
#[test]
fn b15_slow_bodies() {
    let node = tight();
    let (key, bytes) = (node.key(), noise(15, 30_000_000));
    let digest = Digest::sha256(&bytes);
    let whole = ask_tight("127.0.77.5", "POST", &format!("/v2/b15/blobs/uploads/?digest={digest}"), "", &bytes);
    assert_eq!(wire::status(&whole.unwrap()), 201);
    let authorization = wire::authorization(&key);
    let pull =
        format!("GET /v2/b15/blobs/{digest} HTTP/1.1\r\nHost: {PUBLIC}\r\nConnection: close\r\n{authorization}\r\n");
    let push = || {
        let begun = ask_tight("127.0.77.5", "POST", "/v2/b15/blobs/uploads/", "", b"").unwrap();
        let location = wire::header(&begun, "location").unwrap();
        format!("PATCH {location} HTTP/1.1\r\nHost: {PUBLIC}\r\n{authorization}Content-Length: 10000000\r\n\r\n")
    };
    let (ended, slowest) = others_during(|| {
        // Readers and writers from several addresses that begin and stop.
        let mut stopped = Vec::new();
        for number in 0..120 {
            let mut stream = http2::connect_from(&format!("127.0.78.{}", number % 4 + 1), &node.base()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            if number % 2 == 0 {
                stream.write_all(pull.as_bytes()).unwrap();
            } else {
                stream.write_all(&[push().as_bytes(), &bytes[..5000]].concat()).unwrap();
            }
            stopped.push(stream);
        }
        std::thread::sleep(Duration::from_secs(8));
        let open = || node.metric("portolan_http_connections", "listener=\"public\"");
        let until = Instant::now() + Duration::from_secs(20);
        while open() > 20.0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(200));
        }
        let left = open();
        drop(stopped);
        left
    });
    assert!(ended <= 20.0, "{ended} connections are left");
    assert!(slowest < Duration::from_secs(5), "another client waited for {slowest:?}");
    // Slow, and not still: four kilobytes a second go on beyond every time-out.
    let mut slow = http2::connect_from("127.0.77.6", &node.base()).unwrap();
    let part = &bytes[..40_000];
    let target = format!("/v2/b15/blobs/uploads/?digest={}", Digest::sha256(part));
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: {PUBLIC}\r\nConnection: close\r\n{authorization}Content-Length: 40000\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).unwrap();
    for chunk in part.chunks(4000) {
        slow.write_all(chunk).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert_eq!(wire::status(&answer), 201, "{answer}");
}

// H8: no answer is built from a name that a client made up: locations are relative, a challenge quotes nothing insane,
// and a node that knows its name answers to no other one, whatever the form of the request.
#[test]
fn h08_host_of_another_name() {
    let repo = Repo::shared("h08");
    let authorization = wire::authorization(&repo.key);
    for (target, host) in [
        ("/v2/h08/blobs/uploads/", "evil.example"),
        ("http://evil.example/v2/h08/blobs/uploads/", "evil.example"),
        ("http://evil.example/v2/h08/blobs/uploads/", "other.example"),
        ("/v2/h08/blobs/uploads/", "evil.example:80@good.example"),
        ("/v2/h08/blobs/uploads/", "\"evil\""),
    ] {
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Forwarded-Host: evil.example\r\n\
             X-Forwarded-Proto: https\r\n{authorization}Content-Length: 0\r\n\r\n"
        );
        let answer = wire::exchange(&repo.base, head);
        if wire::status(&answer) == 202 {
            let location = wire::header(&answer, "location").unwrap();
            assert!(location.starts_with("/v2/h08/blobs/uploads/"), "{location}");
        } else {
            assert_eq!(wire::status(&answer), 400, "{target} {host}: {answer}");
        }
        assert!(!answer.contains("evil"), "{answer}");
    }
    for host in ["a\"b", "a,realm=x", "a b", "<x>", "a/../b"] {
        let answer =
            wire::exchange(&repo.base, format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert!([400, 401].contains(&wire::status(&answer)), "{answer}");
        let challenge = wire::header(&answer, "www-authenticate").unwrap_or_default();
        assert!(!challenge.contains(host), "{challenge}");
    }
    let none = wire::exchange(&repo.base, "GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!([400, 401].contains(&wire::status(&none)), "{none}");

    let ask = |head: &str| wire::exchange(&tight().base(), head);
    for good in ["reg.example", "REG.example", "reg.example:80", "reg.example:18400"] {
        let answer = ask(&format!("GET /v2/ HTTP/1.1\r\nHost: {good}\r\nConnection: close\r\n\r\n"));
        assert_eq!(wire::status(&answer), 401, "{good}: {answer}");
        let challenge = wire::header(&answer, "www-authenticate").unwrap();
        assert!(challenge.contains("realm=\"http://reg.example/v2/token\""), "{challenge}");
    }
    for (target, host) in [
        ("/v2/", "evil.example"),
        ("/v2/", "reg.example.evil.example"),
        ("/v2/", "127.83.1.1"),
        ("/v2/", ""),
        ("http://evil.example/v2/", "evil.example"),
        ("http://evil.example/v2/", "reg.example"),
        ("http://reg.example/v2/", "evil.example"),
    ] {
        let answer = ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert!([400, 421].contains(&wire::status(&answer)), "{target} {host}: {answer}");
    }
    assert_eq!(tight().admin("/livez").status, 200, "operators and probes come by address");
}

// H9: an endpoint does what it lists and nothing else; a header does not change a method.
#[test]
fn h09_tricks_with_methods() {
    let repo = Repo::shared("h09");
    let image = repo.image(b"h09").to_string();
    let digest = repo.stored("v", IMAGE, image.as_str());
    let blob = Digest::sha256(b"h09");
    let upload = repo.begin();
    let (blob, referrers) = (format!("/v2/h09/blobs/{blob}"), format!("/v2/h09/referrers/{digest}"));
    let targets = [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET, HEAD"),
        ("/v2/token", "GET"),
        ("/v2/h09/tags/list", "GET, HEAD"),
        ("/v2/h09/manifests/v", "GET, HEAD, PUT, DELETE"),
        (&*blob, "GET, HEAD, DELETE"),
        (&*referrers, "GET, HEAD"),
        ("/v2/h09/blobs/uploads/", "POST"),
        (&*upload, "GET, PATCH, PUT, DELETE"),
    ];
    for (target, allowed) in targets {
        for method in ["TRACE", "OPTIONS", "CONNECT", "TRACK", "PROPFIND", "COPY", "get", "GETS", "PURGE", "LINK"] {
            let answer = wire::ask(&repo.base, &repo.key, method, target, "Content-Length: 0\r\nX-Canary: bird\r\n");
            assert!([400, 405].contains(&wire::status(&answer)), "{method} {target}: {answer}");
            assert!(!answer.contains("bird"), "nothing is echoed: {answer}");
            if wire::status(&answer) == 405 {
                assert_eq!(wire::header(&answer, "allow"), Some(allowed), "{method} {target}");
            }
        }
    }
    for header in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"] {
        let answer = wire::ask(
            &repo.base,
            &repo.key,
            "GET",
            "/v2/h09/manifests/v?_method=DELETE",
            &format!("{header}: DELETE\r\n"),
        );
        assert_eq!(wire::status(&answer), 200, "{header}");
    }
    assert_eq!(repo.get("manifests/v").body, image.as_bytes());
    // HEAD with a body: no body comes back, and the connection stays in step.
    let mut wire = Wire::open(&repo.base);
    let authorization = wire::authorization(&repo.key);
    wire.send(format!("HEAD /v2/h09/manifests/v HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: 5\r\n\r\nhello"));
    let head = wire.until("\r\n\r\n");
    assert_eq!((wire::status(&head), wire::header(&head, "content-length")), (200, Some(&*image.len().to_string())));
    wire.send(format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n"));
    let rest = wire.until_closed();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("{}"), "{rest}");
}

// H10: no other origin is ever let in: no answer allows one, whatever asks.
#[test]
fn h10_no_origin_is_allowed() {
    let repo = Repo::shared("h10");
    let image = repo.image(b"h10").to_string();
    repo.stored("v", IMAGE, image);
    for origin in ["https://evil.example", "null", "http://127.0.0.1", "https://reg.example.evil"] {
        for (method, target) in [
            ("GET", "/v2/"),
            ("GET", "/v2/h10/manifests/v"),
            ("OPTIONS", "/v2/h10/manifests/v"),
            ("GET", "/v2/h10/none"),
        ] {
            let headers = format!(
                "Origin: {origin}\r\nAccess-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: authorization\r\n"
            );
            let answer = wire::ask(&repo.base, &repo.key, method, target, &headers);
            assert!(!answer.to_lowercase().contains("access-control-"), "{method} {target}: {answer}");
        }
        let admin = format!("{}/v1/repositories", Cluster::shared().admin(1));
        let answer = request("GET", &admin).key(&repo.key).header("Origin", origin).settled();
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}

// H12: whatever clients send, the number of series stays: names of repositories, tags, users and methods are no labels.
#[test]
fn h12_labels_are_bounded() {
    let cluster = Cluster::shared();
    let repo = Repo::shared("h12");
    let image = repo.image(b"h12").to_string();
    let series = || {
        let answer = request("GET", &format!("{}/metrics", cluster.admin(1))).key(&repo.key).settled();
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
        lines.filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned())).collect::<BTreeSet<String>>()
    };
    let noisy = |round: usize| {
        for number in 0..30 {
            let name = format!("h12-canary-{round}-{number}");
            repo.named(&name).begin();
            repo.stored(&format!("canary-{round}-{number}"), IMAGE, image.as_str());
            let agent = format!("User-Agent: canary-{number}\r\nX-Request-Id: canary\r\n");
            let stranger = format!(
                "GET /v2/{name}/tags/list HTTP/1.1\r\nHost: canary\r\nConnection: close\r\nAuthorization: Bearer canary{number}\r\n{agent}\r\n"
            );
            wire::exchange(&repo.base, stranger);
            wire::ask(&repo.base, &repo.key, &format!("CANARY{number}"), &format!("/canary/{number}"), &agent);
            wire::ask(&repo.base, &repo.key, "GET", &format!("/v2/{name}/manifests/canary-{number}"), &agent);
        }
    };
    noisy(0);
    let before = series();
    noisy(1);
    let after = series();
    let named: Vec<&String> = after.iter().filter(|name| name.to_lowercase().contains("canary")).collect();
    assert!(named.is_empty(), "{named:?}");
    // Other tests run beside this one and may touch what none has touched before; sixty canaries are no such thing.
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.len() < 60, "{new:?}");
}
