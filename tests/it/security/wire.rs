//! Bytes on a socket, for cases in which the way they are written is the point.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use data_encoding::BASE64;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
}

/// `address:port` of `http://address:port`.
pub(crate) fn authority(base: &str) -> &str {
    base.split_once("://").unwrap().1
}

/// The line that carries a credential.
pub(crate) fn authorization(key: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(key.as_bytes()))
}

impl Wire {
    pub(crate) fn open(base: &str) -> Wire {
        let stream = TcpStream::connect(authority(base)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream }
    }

    /// Sends; false when the server has closed meanwhile, which is no fault of the test.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more comes.
    pub(crate) fn end(&mut self) {
        drop(self.stream.shutdown(std::net::Shutdown::Write));
    }

    /// Everything until the server closes; it must do so within the patience.
    pub(crate) fn until_closed(&mut self) -> String {
        self.closed_within(PATIENCE)
    }

    /// Everything until the server closes, within a time.
    pub(crate) fn closed_within(&mut self, patience: Duration) -> String {
        let (until, mut answer, mut part) = (Instant::now() + patience, Vec::new(), [0; 65536]);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let told = || format!("open after {patience:?}: {}", String::from_utf8_lossy(&answer));
            assert!(!left.is_zero(), "{}", told());
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut part) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{}", told()),
                // A reset is a close as well.
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Reads until a text has come.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let (mut answer, mut byte) = (Vec::new(), [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while !answer.ends_with(text.as_bytes()) {
            match self.stream.read(&mut byte) {
                Ok(1..) => answer.push(byte[0]),
                other => panic!("{other:?} before {text:?}: {}", String::from_utf8_lossy(&answer)),
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Reads the head of an answer and a body of known length.
    pub(crate) fn answer(&mut self) -> (u16, String) {
        let head = self.until("\r\n\r\n");
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (status(&head), head + &String::from_utf8_lossy(&body))
    }

    /// The socket itself.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// Sends bytes on a connection of their own and returns everything until the server closes.
pub(crate) fn exchange(base: &str, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = Wire::open(base);
    wire.send(bytes);
    wire.until_closed()
}

/// A request without a body that closes its connection: the target goes out as it stands. Repeated while the cluster
/// has no leader, as on a very busy machine.
pub(crate) fn ask(base: &str, key: &str, method: &str, target: &str, headers: &str) -> String {
    let (host, authorization) = (authority(base), authorization(key));
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}{headers}\r\n");
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = exchange(base, &head);
        if status(&answer) != 503 || Instant::now() > until {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The status of the first answer; 0 when there is none.
pub(crate) fn status(answer: &str) -> u16 {
    let words = answer.strip_prefix("HTTP/1.1 ").or_else(|| answer.strip_prefix("HTTP/1.0 "));
    words.and_then(|words| words.get(..3)).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// A header of the first answer.
pub(crate) fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Answers in a stream of bytes.
pub(crate) fn answers(stream: &str) -> usize {
    stream.matches("HTTP/1.1 ").count()
}
