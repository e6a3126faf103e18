//! One client's connection: requests one after the other, bodies dropped as they come.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::target::{Target, Targets};

/// How long a connection, the head of an answer or its next bytes may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A body is sent at this rate at least.
const SEND_BYTES_PER_S_MIN: u64 = 1_000_000;
/// Largest document that is kept.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// A token is renewed so long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Every form of manifest there is.
const MANIFESTS: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*",
);

/// Why an operation did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("no answer for {} s", PATIENCE.as_secs())]
    TimedOut,
    /// Another answer than the one that says yes.
    #[error("the node answers {0}")]
    Status(u16),
    /// The answer lacks what the API demands, or says something else than what was sent.
    #[error("the answer is wrong: {0}")]
    Answer(&'static str),
}

/// The body of a request: buffers that are shared, not copied.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl Parts {
    /// These, in order.
    pub(super) fn new(parts: impl IntoIterator<Item = Bytes>) -> Parts {
        let parts: VecDeque<Bytes> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Parts { parts, left }
    }

    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// The next `bytes` of it, or what is left.
    pub(super) fn take(&mut self, bytes: u64) -> Parts {
        let mut taken = Parts::default();
        while let Some(mut part) = self.parts.pop_front() {
            let room = usize::try_from(bytes - taken.left).unwrap_or(usize::MAX);
            if part.len() > room {
                self.parts.push_front(part.split_off(room));
            }
            taken.left += part.len() as u64;
            self.left -= part.len() as u64;
            taken.parts.push_back(part);
            if taken.left == bytes {
                break;
            }
        }
        taken
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.parts.pop_front();
        self.left -= next.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer; its body is gone.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// Bytes of its body.
    pub(super) bytes: u64,
}

impl Answer {
    /// Itself if it says yes in the way that is expected.
    pub(super) fn expect(self, status: u16) -> Result<Answer, Failure> {
        if self.status == status { Ok(self) } else { Err(Failure::Status(self.status)) }
    }

    /// Path and query of `Location`; its host is not followed.
    pub(super) fn location(&self) -> Result<String, Failure> {
        let value = self.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let uri = value.and_then(|value| value.parse::<Uri>().ok());
        let path = uri.and_then(|uri| uri.into_parts().path_and_query);
        path.map(|path| path.to_string()).ok_or(Failure::Answer("no Location"))
    }
}

/// One client.
pub(super) struct Conversation {
    targets: Arc<Targets>,
    target: Target,
    connection: Option<http1::SendRequest<Parts>>,
    authorization: Option<HeaderValue>,
    /// What the token is asked for, and when to ask again.
    scopes: Arc<str>,
    renew_at: Instant,
}

impl Conversation {
    /// Of the client with this number. `scopes` is the query that asks for a token; connects with the first request.
    pub(super) fn new(targets: Arc<Targets>, client: usize, scopes: Arc<str>) -> Conversation {
        let target = targets.of(client).clone();
        let authorization = if targets.bearer { None } else { targets.basic.clone() };
        Conversation { targets, target, connection: None, authorization, scopes, renew_at: Instant::now() }
    }

    /// Sees to it that there is a connection, and a token if one is wanted: neither is part of an operation.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        if self.targets.bearer && Instant::now() >= self.renew_at {
            self.authorization.clone_from(&self.targets.basic);
            let uri = uri(&format!("/v2/token?{}", self.scopes))?;
            let (answer, document) = self.send(Method::GET, uri, &[], Parts::default(), true).await?;
            let _granted = answer.expect(200)?;
            let document: Value = serde_json::from_slice(&document).map_err(|_| Failure::Answer("no JSON"))?;
            let token = document["token"].as_str().ok_or(Failure::Answer("no token"))?;
            let lifetime = Duration::from_secs(document["expires_in"].as_u64().unwrap_or(60));
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Failure::Answer("the token is no text"))?;
            value.set_sensitive(true);
            self.authorization = Some(value);
            self.renew_at = Instant::now() + lifetime.saturating_sub(RENEW_BEFORE).max(lifetime / 2);
        }
        if self.connection.as_ref().is_none_or(|connection| connection.is_closed()) {
            self.connection = Some(self.connect().await?);
        }
        Ok(())
    }

    /// Sends a request and reads its answer to the end.
    pub(super) async fn request(
        &mut self,
        method: Method,
        uri: Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Parts,
    ) -> Result<Answer, Failure> {
        self.send(method, uri, headers, body, false).await.map(|(answer, _)| answer)
    }

    async fn send(
        &mut self,
        method: Method,
        uri: Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Parts,
        keep: bool,
    ) -> Result<(Answer, Vec<u8>), Failure> {
        let patience = PATIENCE + Duration::from_secs(body.len() / SEND_BYTES_PER_S_MIN);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let to = request.headers_mut();
        to.insert(HOST, self.target.authority.clone());
        to.insert(ACCEPT, MANIFESTS);
        if let Some(authorization) = &self.authorization {
            to.insert(AUTHORIZATION, authorization.clone());
        }
        headers.iter().for_each(|(name, value)| drop(to.insert(name.clone(), value.clone())));
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let broken = |error: hyper::Error| Failure::Broken(error.to_string());
        let exchange = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let response = timeout(patience, exchange).await.map_err(|_| Failure::TimedOut)?.map_err(broken)?;
        let (head, mut body) = response.into_parts();
        let (mut bytes, mut kept) = (0, Vec::new());
        while let Some(frame) = next(&mut body).await? {
            bytes += frame.len() as u64;
            if keep && kept.len() + frame.len() <= DOCUMENT_BYTES_MAX {
                kept.extend_from_slice(&frame);
            }
        }
        // only a connection whose answer was read to the end is used again
        self.connection = Some(connection);
        Ok((Answer { status: head.status.as_u16(), headers: head.headers, bytes }, kept))
    }

    async fn connect(&self) -> Result<http1::SendRequest<Parts>, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::Connect(error.to_string());
        let connecting = async {
            let stream = TcpStream::connect(self.target.at).await.map_err(|error| refused(&error))?;
            stream.set_nodelay(true).map_err(|error| refused(&error))?;
            match &self.target.tls {
                None => shake_hands(TokioIo::new(stream)).await,
                Some((connector, name)) => {
                    let stream = connector.connect(name.clone(), stream).await.map_err(|error| refused(&error))?;
                    shake_hands(TokioIo::new(stream)).await
                }
            }
        };
        timeout(PATIENCE, connecting).await.map_err(|_| Failure::TimedOut)?
    }
}

async fn shake_hands<T>(io: T) -> Result<http1::SendRequest<Parts>, Failure>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let shaken = http1::handshake(io).await;
    let (sender, connection) = shaken.map_err(|error| Failure::Connect(error.to_string()))?;
    // its error is told to who waits for an answer
    drop(tokio::spawn(async move { drop(connection.await) }));
    Ok(sender)
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    if body.is_end_stream() {
        return Ok(None);
    }
    match timeout(PATIENCE, body.frame()).await {
        Err(_) => Err(Failure::TimedOut),
        Ok(None) => Ok(None),
        Ok(Some(Err(error))) => Err(Failure::Broken(error.to_string())),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
    }
}

/// A path with its query.
pub(super) fn uri(path: &str) -> Result<Uri, Failure> {
    path.parse().map_err(|_| Failure::Answer("a path that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A body is cut without losing or copying a byte.
    #[test]
    fn parts() {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        let mut body = Parts::new([part("abc"), part(""), part("defg"), part("h")]);
        assert_eq!(body.len(), 8);
        let mut seen = Vec::new();
        while body.len() > 0 {
            let taken = body.take(3);
            assert_eq!(taken.len(), taken.parts.iter().map(|part| part.len() as u64).sum::<u64>());
            let bytes: Vec<u8> = taken.parts.iter().flatten().copied().collect();
            seen.push(String::from_utf8(bytes).unwrap());
        }
        assert_eq!(seen, ["abc", "def", "gh"]);
    }

    // An upload goes on where the node says, but never at another host.
    #[test]
    fn locations() {
        let answer = |location: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            location.map(|location| headers.insert(LOCATION, HeaderValue::from_static(location)));
            Answer { status: 202, headers, bytes: 0 }.location()
        };
        assert_eq!(answer(Some("/v2/a/blobs/uploads/x?y=z")).unwrap(), "/v2/a/blobs/uploads/x?y=z");
        assert_eq!(answer(Some("http://192.0.2.1/v2/a/blobs/uploads/x")).unwrap(), "/v2/a/blobs/uploads/x");
        assert!(answer(None).is_err());
    }
}
