//! Webhook bodies in memory: bounded each, and in sum.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Meta sends up to 3 MB.
pub(super) const MOST_BYTES: usize = 3 * 1024 * 1024;
/// A call's webhook has some 5 KB. This much of each body is bounded by the number of connections alone, so that a few large
/// bodies do not keep calls out.
const UNCOUNTED_BYTES: usize = 64 * 1024;

/// The memory budget of all bodies.
pub(super) struct Bodies {
    free: Arc<Semaphore>,
}

/// A complete body, with its share of the budget.
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    /// Returned when the body is dropped.
    _share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most_bytes)) }
    }

    /// Reads a body to its end.
    pub(super) async fn read(&self, mut body: Body) -> Result<HeldBody, ApiError> {
        if body.size_hint().lower() > MOST_BYTES as u64 {
            return Err(too_large());
        }
        let (mut bytes, mut share) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            // Trailers, which are ignored.
            let Ok(data) = frame.map_err(|error| unreadable(&error))?.into_data() else { continue };
            if bytes.len() + data.len() > MOST_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
            self.enlarge(&mut share, bytes.len().saturating_sub(UNCOUNTED_BYTES))?;
        }
        Ok(HeldBody { bytes: bytes.freeze(), _share: share })
    }

    fn enlarge(&self, share: &mut Option<OwnedSemaphorePermit>, to: usize) -> Result<(), ApiError> {
        let more = to - share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if more == 0 {
            return Ok(());
        }
        // A body of 3 MB fits into 32 bits.
        let more = self.free.clone().try_acquire_many_owned(more as u32).map_err(|_| no_memory())?;
        match share {
            Some(share) => share.merge(more),
            None => *share = Some(more),
        }
        Ok(())
    }
}

fn too_large() -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "a webhook has 3 MiB at most")
}

fn no_memory() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_room", "too many large webhooks at once: send it again later")
}

fn unreadable(error: &axum::Error) -> ApiError {
    let is_late = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::TimedOut);
    match is_late {
        true => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the rest of the body did not arrive in time")
        }
        false => ApiError::new(StatusCode::BAD_REQUEST, "unreadable_body", "the body is incomplete"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body in chunks of 16 KiB, as a socket delivers them.
    fn body(length: usize) -> Body {
        let parts: Vec<_> = vec![b' '; length].chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        Body::from_stream(futures_util::stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)))
    }

    async fn status_of(bodies: &Bodies, length: usize) -> Result<HeldBody, u16> {
        bodies.read(body(length)).await.map_err(|error| error.status.as_u16())
    }

    #[tokio::test]
    async fn a_body_has_its_bound_with_and_without_a_length_ahead() {
        let bodies = Bodies::new(10 * MOST_BYTES);
        assert_eq!(status_of(&bodies, MOST_BYTES).await.unwrap().bytes.len(), MOST_BYTES);
        assert_eq!(status_of(&bodies, MOST_BYTES + 1).await.map(drop), Err(413));
        let with_length = bodies.read(Body::from(vec![b' '; MOST_BYTES + 1])).await;
        assert_eq!(with_length.map(drop).unwrap_err().status, 413);
    }

    #[tokio::test]
    async fn large_bodies_share_their_memory_and_a_call_has_room_all_the_same() {
        let bodies = Bodies::new(MOST_BYTES);
        let large = status_of(&bodies, MOST_BYTES).await.unwrap();
        let second = status_of(&bodies, UNCOUNTED_BYTES).await.unwrap();
        assert_eq!(second.bytes.len(), UNCOUNTED_BYTES);
        // The uncounted part of the first one is left.
        let third = status_of(&bodies, 2 * UNCOUNTED_BYTES).await.unwrap();
        assert_eq!(status_of(&bodies, UNCOUNTED_BYTES + 1).await.map(drop), Err(503));
        drop((large, third));
        assert!(status_of(&bodies, MOST_BYTES).await.is_ok());
        assert_eq!(bodies.free.available_permits(), MOST_BYTES, "all of it is given back");
    }
}
