//! HTTP by hand, one request per connection: the tests stop in the middle of requests, and must know what was sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A node that is killed closes its connections; one that hangs must not hang the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, whole.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// A header by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request under way.
pub(super) struct Request(TcpStream);

impl Request {
    /// Connects and sends the head of a request with a body of `length` bytes.
    pub(super) fn begin(
        address: SocketAddr,
        key: Option<&str>,
        (method, path): (&str, &str),
        headers: &[(&str, String)],
        length: usize,
    ) -> io::Result<Request> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
        if let Some(key) = key {
            let basic = data_encoding::BASE64.encode(key.as_bytes());
            head.push_str(&format!("Authorization: Basic {basic}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        stream.write_all(head.as_bytes())?;
        Ok(Request(stream))
    }

    /// Sends a part of the body.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Waits for the answer.
    pub(super) fn answer(mut self) -> io::Result<Response> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off"))
    }
}

/// One request with its whole body.
pub(super) fn send(
    address: SocketAddr,
    key: Option<&str>,
    what: (&str, &str),
    headers: &[(&str, String)],
    body: &[u8],
) -> io::Result<Response> {
    let mut request = Request::begin(address, key, what, headers, body.len())?;
    // who refuses may answer before it has read all
    let sent = request.send(body);
    request.answer().map_err(|error| sent.err().unwrap_or(error))
}

/// `GET`.
pub(super) fn get(address: SocketAddr, key: Option<&str>, path: &str) -> io::Result<Response> {
    send(address, key, ("GET", path), &[], &[])
}

fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let response = Response { status, headers: lines.filter_map(header).collect(), body: bytes[end + 4..].to_vec() };
    let body = match (response.header("transfer-encoding"), response.header("content-length")) {
        (Some("chunked"), _) => unchunk(&response.body)?,
        (_, Some(length)) if length.parse::<usize>().ok()? != response.body.len() => return None,
        _ => response.body.clone(),
    };
    Some(Response { body, ..response })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(bytes.get(end + 2..end + 2 + length)?);
        bytes = bytes.get(end + 4 + length..)?;
    }
}

// An answer is taken only when it is whole.
#[test]
fn answers() {
    let plain = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nDocker-Content-Digest: x\r\n\r\nabc";
    let found = parse(plain).unwrap();
    assert_eq!((found.status, found.header("docker-content-digest"), &found.body[..]), (201, Some("x"), &b"abc"[..]));
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(parse(chunked).unwrap().body, b"abcde");
    for cut in [plain.len() - 1, 20] {
        assert!(parse(&plain[..cut]).is_none());
    }
    assert!(parse(&chunked[..chunked.len() - 9]).is_none());
}
