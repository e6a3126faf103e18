//! Bodies on their way in and out: counted, and given up when they stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use registry_core::vocabulary::limits::MANIFEST_BYTES_MAX;
use tokio::time::{Instant, Sleep};

use super::access_log::Completion;
use super::activity::Activity;
use super::request::RequestInfo;

/// A client that sends less than this in one stall time-out stands still (B15).
const PROGRESS_BYTES_MIN: u64 = 1024;
/// What is still read of a request that was answered early, so that its client sees the answer and not a broken pipe:
/// no less than a whole manifest.
const LINGER_BYTES_MAX: u64 = MANIFEST_BYTES_MAX as u64 + 1024 * 1024;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(5);

/// The body of a request. Fails with [`std::io::ErrorKind::TimedOut`] when the client stands still.
pub struct RequestBody {
    inner: Option<Incoming>,
    info: RequestInfo,
    activity: Arc<Activity>,
    stall_timeout: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
    since_armed_bytes: u64,
    may_linger: bool,
}

impl RequestBody {
    /// `may_linger`: the connection serves one request at a time, and the client sends without being asked to.
    pub(super) fn new(
        inner: Incoming,
        info: RequestInfo,
        activity: Arc<Activity>,
        stall_timeout: Duration,
        may_linger: bool,
    ) -> RequestBody {
        let inner = (!inner.is_end_stream()).then_some(inner);
        let (alarm, is_armed, since_armed_bytes) = (None, false, 0);
        RequestBody { inner, info, activity, stall_timeout, alarm, is_armed, since_armed_bytes, may_linger }
    }

    fn moved(&mut self, bytes: usize) {
        self.info.received(bytes);
        self.activity.body_moved(bytes);
        self.since_armed_bytes += bytes as u64;
        if self.since_armed_bytes >= PROGRESS_BYTES_MIN {
            self.is_armed = false;
        }
    }

    /// The client is given up.
    fn stand_still(&mut self) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.inner = None;
        Poll::Ready(Some(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the client sends nothing"))))
    }

    /// Nothing has come: waits for the alarm as well, which is set now if it is not.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.stall_timeout;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !self.is_armed {
            alarm.as_mut().reset(deadline);
            self.is_armed = true;
            self.since_armed_bytes = 0;
        }
        alarm.as_mut().poll(cx)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.moved(bytes);
                // Empty frames without end never let anybody wait, and are no progress all the same (H1).
                if bytes == 0 && self.poll_alarm(cx).is_ready() {
                    return self.stand_still();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.inner = None;
                Poll::Ready(Some(Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, error))))
            }
            Poll::Ready(None) => {
                self.inner = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.poll_alarm(cx));
                self.stand_still()
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    /// Answered before the body was read: closing at once would reset the connection under the client's feet.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take()
            && self.may_linger
            && !inner.is_end_stream()
            && inner.size_hint().lower() <= LINGER_BYTES_MAX
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(tokio::time::timeout(LINGER, linger(inner))));
        }
    }
}

async fn linger(mut body: Incoming) {
    let mut bytes = 0;
    while bytes <= LINGER_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}

/// The body of a response; tells the access log when and how it ended.
pub(super) struct ResponseBody {
    inner: Body,
    declared_bytes: Option<u64>,
    sent_bytes: u64,
    completion: Option<Completion>,
}

impl ResponseBody {
    pub(super) fn new(inner: Body, declared_bytes: Option<u64>, completion: Completion) -> ResponseBody {
        ResponseBody { inner, declared_bytes, sent_bytes: 0, completion: Some(completion) }
    }

    /// Whether all of it was handed over. A body that says it is at its end, or has given what its head
    /// declared, is not polled again; neither is one of an answer to HEAD.
    fn is_whole(&self, completion: &Completion) -> bool {
        self.inner.is_end_stream() || self.declared_bytes == Some(self.sent_bytes) || completion.is_bodiless()
    }
}

/// What the head of an answer says of its body's length.
pub(super) fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.sent_bytes += bytes as u64;
                if let Some(completion) = &self.completion {
                    completion.moved(bytes);
                }
            }
            Some(Err(error)) => {
                if let Some(completion) = self.completion.take() {
                    completion.failed(self.sent_bytes, error);
                }
            }
            None => {
                if let Some(completion) = self.completion.take() {
                    completion.finished(self.sent_bytes, true);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(completion) = self.completion.take() {
            let is_whole = self.is_whole(&completion);
            completion.finished(self.sent_bytes, is_whole);
        }
    }
}
