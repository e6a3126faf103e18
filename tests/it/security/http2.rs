//! HTTP/2 frames written by hand, as an attacker writes them.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;

use super::wire::{Wire, authority};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An integer of HPACK behind a prefix of some bits (RFC 7541 §5.1).
fn integer(first: u8, prefix_bits: u32, value: usize) -> Vec<u8> {
    let most = (1_usize << prefix_bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let (mut bytes, mut rest) = (vec![first | most as u8], value - most);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    [integer(0, 7, text.len()), text.to_vec()].concat()
}

/// A header by the index of its name in the static table, not to be remembered.
fn named(index: usize, value: &str) -> Vec<u8> {
    [integer(0, 4, index), text(value.as_bytes())].concat()
}

/// A header with a name of its own, not to be remembered.
pub(crate) fn header(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0], text(name.as_bytes()), text(value)].concat()
}

/// A header with a name of its own that goes into the table of the other side.
pub(crate) fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    [vec![0x40], text(name.as_bytes()), text(value)].concat()
}

/// The newest header of the other side's table: one byte.
pub(crate) const NEWEST: u8 = 0x80 | 62;

/// The head of a request with a good credential.
pub(crate) fn request(method: &str, path: &str, key: &str) -> Vec<u8> {
    let basic = format!("Basic {}", BASE64.encode(key.as_bytes()));
    [named(2, method), named(4, path), vec![0x86], named(1, "reg.example"), named(23, &basic)].concat()
}

/// A connection that is open for attack. What comes back is read and thrown away, as a client would that means harm.
pub(crate) struct Attack {
    wire: Wire,
    closed: Arc<AtomicBool>,
}

impl Attack {
    pub(crate) fn open(base: &str) -> Attack {
        let mut wire = Wire::open(base);
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        wire.send(frame(SETTINGS, 0, 0, &[]));
        let (closed, mut stream) = (Arc::new(AtomicBool::new(false)), wire.stream().try_clone().unwrap());
        let flag = Arc::clone(&closed);
        std::thread::spawn(move || {
            let mut sink = [0; 65536];
            stream.set_read_timeout(None).unwrap();
            while matches!(stream.read(&mut sink), Ok(1..)) {}
            flag.store(true, Ordering::SeqCst);
        });
        Attack { wire, closed }
    }

    /// Sends; false when the server has closed.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        !self.closed.load(Ordering::SeqCst) && self.wire.send(bytes)
    }

    /// Sends the same bytes again and again until the server closes, or the time is over: whether it closed.
    pub(crate) fn flood(&mut self, bytes: &[u8], time: Duration) -> bool {
        let block = bytes.repeat((64 * 1024 / bytes.len()).max(1));
        let until = Instant::now() + time;
        while Instant::now() < until {
            if !self.send(&block) {
                return true;
            }
            // A machine of two cores has others to serve as well.
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Waits until the server has closed.
    pub(crate) fn closes_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.closed.load(Ordering::SeqCst) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        drop(self.wire.stream().shutdown(std::net::Shutdown::Both));
    }
}

/// Opens sockets from an address of one's own.
pub(crate) fn connect_from(own: &str, base: &str) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(format!("{own}:0").parse().unwrap())?;
        let stream = socket.connect(authority(base).parse().unwrap()).await?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    })
}
