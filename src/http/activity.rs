//! Whether a connection moves: counted where bytes pass, looked at now and then by its supervisor (B15).
//!
//! A timer per read and write would cost more than the reading; counters and one timer per connection do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection has done so far. Only compared with itself, so the order of its counters does not matter.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Bytes read from and written to the socket.
    wire_bytes: AtomicU64,
    /// Bytes of request and response bodies that came out of, or went into, the protocol.
    body_bytes: AtomicU64,
    /// The socket takes no more.
    write_blocked: AtomicBool,
    /// Requests that are not answered to the end.
    requests: AtomicUsize,
    /// Responses whose body is not handed over to the end.
    responses: AtomicUsize,
}

impl Activity {
    /// Bytes of a body went by.
    pub(super) fn body_moved(&self, bytes: usize) {
        self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn request_began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn response_began(&self) {
        self.responses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn response_ended(&self) {
        self.responses.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a supervisor gave a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// The client takes no bytes.
    Stalled,
    /// The client asks nothing.
    Idle,
}

impl Still {
    /// The label in metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Still::Stalled => "stalled",
            Still::Idle => "idle",
        }
    }
}

/// Returns when the connection stands still: no byte accepted, or no byte of a response, for `stall` at least (at most
/// twice that), or no request for `idle`.
pub(super) async fn supervise(activity: Arc<Activity>, stall: Duration, idle: Duration) -> Still {
    let mut idle_for = Duration::ZERO;
    let mut before = (0, 0);
    loop {
        tokio::time::sleep(stall).await;
        let now = (activity.wire_bytes.load(Ordering::Relaxed), activity.body_bytes.load(Ordering::Relaxed));
        let (wire_is_still, bodies_are_still) = (now.0 == before.0, now.1 == before.1);
        before = now;
        if wire_is_still && activity.write_blocked.load(Ordering::Relaxed) {
            return Still::Stalled;
        }
        if bodies_are_still && activity.responses.load(Ordering::Relaxed) > 0 {
            return Still::Stalled;
        }
        let is_idle = bodies_are_still && activity.requests.load(Ordering::Relaxed) == 0;
        idle_for = if is_idle { idle_for + stall } else { Duration::ZERO };
        if idle_for >= idle {
            return Still::Idle;
        }
    }
}

/// A socket whose bytes are counted.
pub(super) struct Watched<T> {
    inner: T,
    activity: Arc<Activity>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>) -> Watched<T> {
        Watched { inner, activity }
    }

    fn wrote(&self, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => {
                self.activity.wire_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
                self.activity.write_blocked.store(false, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.write_blocked.store(true, Ordering::Relaxed),
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, into);
        let bytes = into.filled().len() - before;
        self.activity.wire_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const STALL: Duration = Duration::from_millis(20);

    // B15: a client that takes no bytes is given up although a response waits for it.
    #[tokio::test]
    async fn stalled_reader_is_given_up() {
        let activity = Arc::new(Activity::default());
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut socket = Watched::new(ours, Arc::clone(&activity));
        activity.request_began();
        let writing = tokio::spawn(async move { socket.write_all(&[0; 1024]).await });
        let verdict = supervise(activity, STALL, Duration::from_secs(3600)).await;
        assert_eq!(verdict, Still::Stalled);
        writing.abort();
    }

    // An idle connection is given up after the idle time, and one with a request under way is not.
    #[tokio::test]
    async fn idle_is_given_up_and_busy_is_not() {
        let activity = Arc::new(Activity::default());
        assert_eq!(supervise(Arc::clone(&activity), STALL, STALL * 2).await, Still::Idle);
        activity.request_began();
        let busy = tokio::time::timeout(STALL * 6, supervise(Arc::clone(&activity), STALL, STALL)).await;
        assert!(busy.is_err(), "a request that waits for the cluster is not idle");
        activity.response_began();
        assert_eq!(supervise(Arc::clone(&activity), STALL, STALL).await, Still::Stalled);
    }
}
