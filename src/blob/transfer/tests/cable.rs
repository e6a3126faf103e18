//! A cable between nodes that tests can cut, stall and disturb.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const PASS: u8 = 0;
const STALL: u8 = 1;

/// Forwards connections to a node. What it does with them can be changed at any time.
pub(super) struct Cable {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mode: AtomicU8,
    /// Bytes from the node after which one bit is flipped, once; 0 for never.
    flip_after: AtomicU64,
    /// Bytes from the node after which the cable stalls; 0 for never.
    stall_after: AtomicU64,
    /// Bytes from the node so far.
    passed: AtomicU64,
    delay_ms: AtomicU64,
}

impl Cable {
    pub(super) async fn to(node: SocketAddr) -> Cable {
        let listener = TcpListener::bind("127.0.9.200:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let cable = Cable { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(node).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(copy(from_client, to_server, Arc::clone(&state), false));
                tokio::spawn(copy(from_server, to_client, Arc::clone(&state), true));
            }
        });
        cable
    }

    /// Bytes go nowhere from now on, but connections stay: a partition.
    pub(super) fn stall(&self) {
        self.state.mode.store(STALL, Ordering::Relaxed);
    }

    /// Stalls after so many more bytes from the node.
    pub(super) fn stall_after(&self, bytes: u64) {
        let passed = self.state.passed.load(Ordering::Relaxed);
        self.state.stall_after.store(passed + bytes, Ordering::Relaxed);
    }

    /// Flips a bit after so many more bytes from the node.
    pub(super) fn flip_after(&self, bytes: u64) {
        let passed = self.state.passed.load(Ordering::Relaxed);
        self.state.flip_after.store(passed + bytes, Ordering::Relaxed);
    }

    /// Holds each buffer from the node back for so long.
    pub(super) fn delay(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: Arc<State>, is_from_node: bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        if is_from_node {
            disturb(&mut buffer[..len], &state).await;
        }
        while state.mode.load(Ordering::Relaxed) == STALL {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}

async fn disturb(buffer: &mut [u8], state: &State) {
    let delay = state.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let before = state.passed.fetch_add(buffer.len() as u64, Ordering::Relaxed);
    let inside = |mark: u64| mark > before && mark <= before + buffer.len() as u64;
    if inside(state.stall_after.load(Ordering::Relaxed)) {
        state.mode.store(STALL, Ordering::Relaxed);
    }
    let flip = state.flip_after.load(Ordering::Relaxed);
    if inside(flip) {
        buffer[(flip - before) as usize - 1] ^= 0x10;
    }
    debug_assert_ne!(PASS, STALL);
}
