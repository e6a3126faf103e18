//! A client that sends one request a connection, exactly as a test says, and shows the answer as it came.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::Value;

/// Longest wait for the next bytes of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a body is sent.
#[derive(Clone, Debug)]
enum Body {
    /// With its length.
    Whole(Vec<u8>),
    /// In chunks, without saying how much will come.
    Chunked(Vec<Vec<u8>>),
    /// With its length, once the server says to go on.
    Expected(Vec<u8>),
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Body>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Request {
        Request { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// With a header; one given as `Host` takes the place of the usual one.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As the owner of `key`, "ID:SECRET", by Basic.
    pub(crate) fn key(self, key: &str) -> Request {
        self.header("Authorization", &format!("Basic {}", BASE64.encode(key.as_bytes())))
    }

    pub(crate) fn body(mut self, bytes: &[u8]) -> Request {
        self.body = Some(Body::Whole(bytes.to_vec()));
        self
    }

    pub(crate) fn chunked(mut self, chunks: &[&[u8]]) -> Request {
        self.body = Some(Body::Chunked(chunks.iter().map(|chunk| chunk.to_vec()).collect()));
        self
    }

    pub(crate) fn expecting(mut self, bytes: &[u8]) -> Request {
        self.body = Some(Body::Expected(bytes.to_vec()));
        self
    }

    fn head(&self, address: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {address}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match &self.body {
            Some(Body::Whole(bytes)) => head += &format!("Content-Length: {}\r\n", bytes.len()),
            Some(Body::Expected(bytes)) => {
                head += &format!("Content-Length: {}\r\nExpect: 100-continue\r\n", bytes.len());
            }
            Some(Body::Chunked(_)) => head += "Transfer-Encoding: chunked\r\n",
            // as Go's client does for a POST or PUT of nothing
            None if matches!(&*self.method, "POST" | "PUT" | "PATCH") => head += "Content-Length: 0\r\n",
            None => {}
        }
        head.into_bytes().into_iter().chain(*b"\r\n").collect()
    }

    /// Sends it to `address`, "host:port", and reads the answer to its end.
    pub(crate) fn send(&self, address: &str) -> Answer {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&self.head(address)).unwrap();
        let mut read = Vec::new();
        match &self.body {
            None => {}
            // a server that refuses early may close before it has read all: its answer counts
            Some(Body::Whole(bytes)) => drop(stream.write_all(bytes)),
            Some(Body::Chunked(chunks)) => {
                for chunk in chunks {
                    let sent = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
                    drop(stream.write_all(&sent));
                }
                drop(stream.write_all(b"0\r\n\r\n"));
            }
            Some(Body::Expected(bytes)) => {
                let mut part = [0; 1024];
                while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                    let length = stream.read(&mut part).unwrap();
                    assert!(length > 0, "closed before it answered");
                    read.extend_from_slice(&part[..length]);
                }
                if read.starts_with(b"HTTP/1.1 100 ") {
                    stream.write_all(bytes).unwrap();
                }
            }
        }
        stream.read_to_end(&mut read).unwrap();
        Answer::parse(&read, self.method == "HEAD")
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Whether it was told to go on before.
    pub(crate) continued: bool,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(read: &[u8], is_head: bool) -> Answer {
        let end = read.windows(4).position(|end| end == b"\r\n\r\n").expect("an answer has a head");
        let (head, rest) = (std::str::from_utf8(&read[..end]).unwrap(), &read[end + 4..]);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            return Answer { continued: true, ..Answer::parse(rest, is_head) };
        }
        let pair = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let headers: Vec<(String, String)> = lines.filter_map(pair).collect();
        let mut answer = Answer { status, continued: false, headers, body: Vec::new() };
        answer.body = match answer.header("transfer-encoding") {
            "chunked" => dechunked(rest),
            _ => rest.to_vec(),
        };
        let length = answer.header("content-length").parse().unwrap_or(answer.body.len());
        assert_eq!(answer.body.len(), if is_head { 0 } else { length }, "{answer:?}");
        answer
    }

    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Code of the first error of its body, or nothing.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The same answer, if its status is the one expected.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{:?} {}", self.headers, self.text());
        self
    }

    /// The same answer, if it is this refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Answer {
        assert_eq!((self.status, &*self.code()), (status, code), "{}", self.text());
        self
    }
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|end| end == b"\r\n").expect("a chunk begins with its length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 4 + length..];
    }
}
