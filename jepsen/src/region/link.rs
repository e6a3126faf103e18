//! The link from one region's nodes to another's doors: a proxy for each door, through which bytes take their time, and
//! which can be cut, or hang, both ways or one way only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::fault::{Fault, told};

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Bytes go through.
    Up,
    /// Connections are closed, and none is made.
    Cut,
    /// Nothing goes through, and nobody is told: as where packets are dropped.
    Hangs,
    /// So it is towards who was called only: no request arrives.
    LosesRequests,
    /// So it is towards who called only: requests arrive, and no answer comes back.
    LosesAnswers,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug)]
enum Way {
    There,
    Back,
}

impl State {
    /// Whether bytes that go this way have to wait.
    fn holds(self, way: Way) -> bool {
        match (self, way) {
            (State::Hangs, _) | (State::LosesRequests, Way::There) | (State::LosesAnswers, Way::Back) => true,
            (State::Up | State::Cut | State::LosesRequests | State::LosesAnswers, _) => false,
        }
    }
}

/// Pieces of bytes that are on their way, at most.
const UNDER_WAY: usize = 256;

/// One direction: who connects, connects through it.
#[derive(Debug)]
pub(crate) struct Link {
    state: Arc<watch::Sender<State>>,
    delay: Duration,
}

impl Link {
    /// Bytes take so long, each way.
    pub(crate) fn new(delay: Duration) -> Link {
        Link { state: Arc::new(watch::Sender::new(State::Up)), delay }
    }

    /// From now on it is so.
    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// An address at which `target` answers through this link, until the runtime ends.
    pub(crate) async fn to(&self, target: SocketAddr) -> Result<SocketAddr, Fault> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(told("a link"))?;
        let address = listener.local_addr().map_err(told("a link"))?;
        let (state, delay) = (Arc::clone(&self.state), self.delay);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, state.subscribe(), delay));
            }
        });
        Ok(address)
    }
}

async fn carry(client: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>, delay: Duration) {
    if *state.borrow() == State::Cut {
        return;
    }
    // a node that does not run refuses, and so does its end of the link
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = copy(from_client, to_server, (Way::There, state.clone()), delay);
    let back = copy(from_server, to_client, (Way::Back, state.clone()), delay);
    tokio::select! {
        _ = state.wait_for(|state| *state == State::Cut) => {}
        () = async { tokio::join!(there, back); } => {}
    }
}

/// Carries bytes one way, each piece as late as the link is long; while it hangs that way, they wait.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (way, mut state): (Way, watch::Receiver<State>),
    delay: Duration,
) {
    let (sink, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let take = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if sink.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if state.wait_for(|state| !state.holds(way)).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it hears; where it is.
    async fn echo() -> SocketAddr {
        let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = echo.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        target
    }

    // One way only: what is asked does not arrive, or arrives and is not answered; the other way goes on.
    #[tokio::test]
    async fn one_way() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let link = Link::new(Duration::ZERO);
        let mut client = TcpStream::connect(link.to(server.local_addr().unwrap()).await.unwrap()).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let mut byte = [0];
        for (state, arrives) in [(State::LosesRequests, [false, true]), (State::LosesAnswers, [true, false])] {
            link.set(state);
            client.write_all(b"q").await.unwrap();
            accepted.write_all(b"a").await.unwrap();
            let patience = Duration::from_millis(100);
            let asked = tokio::time::timeout(patience, accepted.read_exact(&mut byte)).await.is_ok();
            let answered = tokio::time::timeout(patience, client.read_exact(&mut byte)).await.is_ok();
            assert_eq!([asked, answered], arrives, "{state:?}");
            link.set(State::Up);
            if !asked {
                accepted.read_exact(&mut byte).await.unwrap();
            }
            if !answered {
                client.read_exact(&mut byte).await.unwrap();
            }
        }
    }

    // They take as long as they are told to, however many there are.
    #[tokio::test]
    async fn delays() {
        let link = Link::new(Duration::from_millis(50));
        let mut stream = TcpStream::connect(link.to(echo().await).await.unwrap()).await.unwrap();
        let began = Instant::now();
        let sent = vec![7; 100_000];
        stream.write_all(&sent).await.unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, sent);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(100), "{took:?}");
    }

    // Bytes go through while it is up, wait while it hangs, and the connection ends when it is cut.
    #[tokio::test]
    async fn states() {
        let target = echo().await;
        let link = Link::new(Duration::ZERO);
        let mut stream = TcpStream::connect(link.to(target).await.unwrap()).await.unwrap();
        let mut byte = [0];
        stream.write_all(b"1").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        link.set(State::Hangs);
        stream.write_all(b"2").await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut byte)).await;
        assert!(waits.is_err());
        link.set(State::Up);
        stream.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"2");
        link.set(State::Cut);
        assert_eq!(stream.read(&mut byte).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(link.to(target).await.unwrap()).await.unwrap();
        assert_eq!(refused.read(&mut byte).await.unwrap_or(0), 0);
    }
}
