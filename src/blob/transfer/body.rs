//! The body of a push as this room sees it: a stream of buffers that may fail.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};

/// Why a body ended early. Carries the surface's own error, so that it can tell a client that went away from one that
/// sent too much: see [`BodyError::downcast`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(Arc<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// Wraps any error.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BodyError {
        BodyError(Arc::from(error.into()))
    }

    /// The error it was made from, if it is an `E`.
    pub fn downcast<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

/// The bytes of a request. Buffers of any size; empty ones are skipped.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

/// A body whose beginning was looked at.
pub enum Peeked {
    /// All of it: at most as many bytes as asked for.
    Whole(Bytes),
    /// More than that; the stream yields everything from the start.
    More(Body),
}

/// Reads up to `limit` bytes to learn whether that is all: a small blob takes the short way
/// ([`Transfer::put_small`](super::Transfer::put_small)).
pub async fn peek(mut body: Body, limit: usize) -> Result<Peeked, BodyError> {
    let mut parts: Vec<Bytes> = Vec::new();
    let mut len = 0;
    while len <= limit {
        match body.next().await {
            Some(Ok(part)) => {
                len += part.len();
                parts.push(part);
            }
            Some(Err(error)) => return Err(error),
            None if parts.len() == 1 => return Ok(Peeked::Whole(parts.remove(0))),
            None => {
                let mut whole = BytesMut::with_capacity(len);
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                return Ok(Peeked::Whole(whole.freeze()));
            }
        }
    }
    Ok(Peeked::More(stream::iter(parts.into_iter().map(Ok)).chain(body).boxed()))
}

/// A body that is in memory already.
pub fn whole(bytes: Bytes) -> Body {
    stream::iter([Ok(bytes)]).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&'static str]) -> Body {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        stream::iter(parts).boxed()
    }

    // A body of exactly the limit is whole; one byte more streams, and nothing is lost or doubled.
    #[tokio::test]
    async fn peeks() {
        for (parts, is_whole) in [
            (&[][..], true),
            (&["abc"], true),
            (&["ab", "", "cd"], true),
            (&["ab", "cd", "e"], false),
            (&["abcdefg", "h"], false),
        ] {
            let (bytes, seen_whole) = match peek(body(parts), 4).await.unwrap() {
                Peeked::Whole(bytes) => (bytes.to_vec(), true),
                Peeked::More(rest) => {
                    (rest.map(|part| part.unwrap().to_vec()).collect::<Vec<_>>().await.concat(), false)
                }
            };
            assert_eq!((bytes, seen_whole), (parts.concat().into_bytes(), is_whole), "{parts:?}");
        }
    }

    // The surface gets its own error back.
    #[test]
    fn errors_keep_their_type() {
        let error = BodyError::new(std::io::Error::other("gone"));
        assert_eq!(error.downcast::<std::io::Error>().unwrap().to_string(), "gone");
        assert!(error.downcast::<std::fmt::Error>().is_none());
    }
}
