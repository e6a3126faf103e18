//! Whether a connection moves: counted where bytes pass, looked at now and then by its supervisor (B15).
//!
//! A timer per read and write would cost more than the reading; counters and one timer per connection do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection has done so far. Only compared with itself, so the order of its counters does not matter.
#[derive(Debug)]
pub(super) struct Activity {
    opened_at: Instant,
    /// Milliseconds since then at which the first bytes of a request's head came, plus one; 0 while none are awaited.
    head_began: AtomicU64,
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

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            opened_at: Instant::now(),
            head_began: AtomicU64::new(0),
            wire_bytes: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            write_blocked: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            responses: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// Nothing of a request came yet: what was read so far belonged to the handshake.
    pub(super) fn begin(&self) {
        self.head_began.store(0, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Bytes came in.
    fn read(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.wire_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.requests.load(Ordering::Relaxed) == 0 && self.head_began.load(Ordering::Relaxed) == 0 {
            self.head_began.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// How long a request's head has been on its way.
    fn head_age(&self) -> Option<Duration> {
        let began = self.head_began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now_ms().saturating_sub(began)))
    }

    /// Bytes of a body went by.
    pub(super) fn body_moved(&self, bytes: usize) {
        self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A request that its connection is busy with, until it is dropped: answered, or given up by its client.
pub(super) struct Underway {
    activity: Arc<Activity>,
    is_answering: bool,
}

impl Underway {
    /// Its head is here.
    pub(super) fn begin(activity: Arc<Activity>) -> Underway {
        activity.head_began.store(0, Ordering::Relaxed);
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Underway { activity, is_answering: false }
    }

    /// The answer is ready to be taken. Before that, however long the work takes, nobody stands still.
    pub(super) fn answer(&mut self) {
        self.activity.responses.fetch_add(1, Ordering::Relaxed);
        self.is_answering = true;
    }

    /// Bytes of the answer went by.
    pub(super) fn moved(&self, bytes: usize) {
        self.activity.body_moved(bytes);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if self.is_answering {
            self.activity.responses.fetch_sub(1, Ordering::Relaxed);
        }
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a supervisor gave a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// The client takes no bytes.
    Stalled,
    /// The client began a request and does not get to its end.
    SlowHead,
    /// The client asks nothing.
    Idle,
}

impl Still {
    /// The label in metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Still::Stalled => "stalled",
            Still::SlowHead => "slow_head",
            Still::Idle => "idle",
        }
    }
}

/// How long a connection may do without what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a byte accepted, or a byte of a response.
    pub(super) stall: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// Without the end of a request's head; `None` where frames come without a request (HTTP/2: pings, settings).
    pub(super) head: Option<Duration>,
}

impl Patience {
    /// How often to look: a limit is overrun by a quarter at most.
    fn tick(&self) -> Duration {
        self.stall.min(self.idle).min(self.head.unwrap_or(self.stall)) / 4
    }
}

/// Returns when the connection stood still for too long.
pub(super) async fn supervise(activity: Arc<Activity>, patience: Patience) -> Still {
    let tick = patience.tick().max(Duration::from_millis(1));
    let (mut wire_still, mut bodies_still, mut idle) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut before = (0, 0);
    loop {
        tokio::time::sleep(tick).await;
        let now = (activity.wire_bytes.load(Ordering::Relaxed), activity.body_bytes.load(Ordering::Relaxed));
        let longer = |still: Duration, is_still: bool| if is_still { still + tick } else { Duration::ZERO };
        let is_blocked = activity.write_blocked.load(Ordering::Relaxed);
        let is_answering = activity.responses.load(Ordering::Relaxed) > 0;
        wire_still = longer(wire_still, now.0 == before.0 && is_blocked);
        bodies_still = longer(bodies_still, now.1 == before.1 && is_answering);
        idle = longer(idle, now.1 == before.1 && activity.requests.load(Ordering::Relaxed) == 0);
        before = now;
        if wire_still >= patience.stall || bodies_still >= patience.stall {
            return Still::Stalled;
        }
        if patience.head.is_some_and(|patience| activity.head_age().is_some_and(|age| age >= patience)) {
            return Still::SlowHead;
        }
        if idle >= patience.idle {
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
        self.activity.read(into.filled().len() - before);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const STALL: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(3600);

    fn watch(activity: &Arc<Activity>, stall: Duration, idle: Duration) -> impl Future<Output = Still> + use<> {
        supervise(Arc::clone(activity), Patience { stall, idle, head: None })
    }

    // B15: a client that takes no bytes is given up although a response waits for it.
    #[tokio::test]
    async fn stalled_reader_is_given_up() {
        let activity = Arc::new(Activity::default());
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut socket = Watched::new(ours, Arc::clone(&activity));
        let _request = Underway::begin(Arc::clone(&activity));
        let writing = tokio::spawn(async move { socket.write_all(&[0; 1024]).await });
        assert_eq!(watch(&activity, STALL, LONG).await, Still::Stalled);
        writing.abort();
    }

    // An idle connection is given up after the idle time, and one with a request under way is not.
    #[tokio::test]
    async fn idle_is_given_up_and_busy_is_not() {
        let activity = Arc::new(Activity::default());
        assert_eq!(watch(&activity, LONG, STALL).await, Still::Idle);
        let mut request = Underway::begin(Arc::clone(&activity));
        let busy = tokio::time::timeout(STALL * 6, watch(&activity, STALL, STALL)).await;
        assert!(busy.is_err(), "a request that waits for the cluster is not idle");
        request.answer();
        assert_eq!(watch(&activity, STALL, STALL).await, Still::Stalled);
        drop(request);
        assert_eq!(watch(&activity, STALL, STALL * 2).await, Still::Idle, "a request that was given up is none");
    }

    // H7: the head of a request has its own time, however steadily its bytes drip; a request that began has it no more.
    #[tokio::test]
    async fn slow_head_is_given_up() {
        let activity = Arc::new(Activity::default());
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut socket = Watched::new(ours, Arc::clone(&activity));
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            while socket.read_exact(&mut byte).await.is_ok() {}
        });
        let patience = Patience { stall: LONG, idle: LONG, head: Some(STALL * 2) };
        let watching = tokio::spawn(supervise(Arc::clone(&activity), patience));
        while !watching.is_finished() {
            theirs.write_all(b"x").await.unwrap();
            tokio::time::sleep(STALL / 4).await;
        }
        assert_eq!(watching.await.unwrap(), Still::SlowHead);
        let _request = Underway::begin(Arc::clone(&activity));
        let fine = tokio::time::timeout(STALL * 6, supervise(Arc::clone(&activity), patience)).await;
        assert!(fine.is_err());
        reading.abort();
    }
}
