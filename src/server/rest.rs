//! What a refused request has not yet sent. An answer that is known before the body is here would
//! close the connection under the client's writing, which then may never read it: a small rest is
//! taken first, and a client with a large one is told that the connection ends (RFC 9112 §9.6).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Version,
    body::Incoming,
    header::{CONNECTION, EXPECT, HeaderValue},
};
use tokio::{sync::oneshot, time::timeout};

/// The largest rest that is taken, in bytes.
const MOST: u64 = 64 * 1024;
/// How long an answer waits for it.
const WITHIN: Duration = Duration::from_secs(1);

/// A request's body; what its reader leaves comes back.
pub(super) struct Received {
    body: Option<Incoming>,
    left: Option<oneshot::Sender<Incoming>>,
}

/// Where a body comes back.
pub(super) struct Rest {
    left: oneshot::Receiver<Incoming>,
    version: Version,
    /// A client that asks first sends nothing until it is told to.
    waits: bool,
}

impl Received {
    pub(super) fn new(body: Incoming, version: Version, headers: &HeaderMap) -> (Self, Rest) {
        let (sender, left) = oneshot::channel();
        let received = Self {
            body: Some(body),
            left: Some(sender),
        };
        let waits = headers.contains_key(EXPECT);
        let rest = Rest {
            left,
            version,
            waits,
        };
        (received, rest)
    }
}

impl Rest {
    /// Takes what was left unread, if it is small; else notes in the answer that the connection ends.
    pub(super) async fn settle(mut self, headers: &mut HeaderMap) {
        // HTTP/2 ends a stream without its connection.
        if self.version > Version::HTTP_11 {
            return;
        }
        let Ok(body) = self.left.try_recv() else {
            return;
        };
        let is_small = body.size_hint().upper().is_some_and(|left| left <= MOST);
        let is_taken = is_small && !self.waits && timeout(WITHIN, body.collect()).await.is_ok();
        if !is_taken {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let (Some(body), Some(left)) = (self.body.take(), self.left.take())
            && !body.is_end_stream()
        {
            // Nobody waits where the client has left.
            let _ = left.send(body);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
