//! What a refused request has not yet sent. Its answer goes out at once; a small rest is then taken, so
//! that the connection serves on, and a client with a large one is told that it ends (RFC 9112 §9.6).
//! HTTP/2's streams end without their connection, so there it is taken whatever its size, and as soon as nobody
//! reads on: until the answer is known it would lie in memory, and in the window that all bodies share.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    HeaderMap, Response, Version,
    body::Incoming,
    header::{CONNECTION, EXPECT, HeaderValue},
};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot::{self, error::TryRecvError},
};

use super::{linger::linger, stream::Stream};

/// The largest rest that is taken for an HTTP/1 connection's sake, in bytes.
const MOST: u64 = 64 * 1024;

/// A request's body; what its reader leaves comes back, or goes to where rests go.
pub(super) struct Received {
    body: Option<Incoming>,
    left: Option<oneshot::Sender<Incoming>>,
    /// In HTTP/2.
    rests: Option<Rests>,
}

/// Where a body comes back.
pub(super) struct Rest {
    left: oneshot::Receiver<Incoming>,
    /// A client that asks first sends nothing until it is told to.
    waits: bool,
}

impl Received {
    pub(super) fn new(
        body: Incoming,
        version: Version,
        headers: &HeaderMap,
        rests: &Rests,
    ) -> (Self, Rest) {
        let (sender, left) = oneshot::channel();
        let received = Self {
            body: Some(body),
            left: Some(sender),
            rests: (version > Version::HTTP_11).then(|| rests.clone()),
        };
        let waits = headers.contains_key(EXPECT);
        let rest = Rest { left, waits };
        (received, rest)
    }
}

impl Rest {
    /// Has what was left unread taken; where it is too much, notes in the answer that the connection ends.
    pub(super) fn settle<B>(mut self, answer: &mut Response<B>, rests: &Rests) {
        let body = match self.left.try_recv() {
            Ok(body) => body,
            Err(TryRecvError::Closed) => return rests.stream.is_settled(),
            // It is still being read, or taken already.
            Err(TryRecvError::Empty) => return,
        };
        let is_taken = !self.waits
            && match body.size_hint().upper() {
                Some(left) => left <= MOST,
                // Chunked; who was content with what came has nearly all of it.
                None => answer.status().is_success(),
            };
        if is_taken {
            rests.take(body, None);
        } else {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
    }
}

/// Where rests go, of one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Rests {
    sender: UnboundedSender<Untaken>,
    stream: Stream,
}

/// A rest that is to be taken.
struct Untaken {
    body: Incoming,
    /// Closed as soon as its answer is known, where that isn't yet so.
    unanswered: Option<oneshot::Sender<Incoming>>,
}

/// The other end of [`Rests`].
pub(super) struct Taker {
    rests: UnboundedReceiver<Untaken>,
    stream: Stream,
    /// How much of one, in bytes.
    most: u64,
}

impl Rests {
    pub(super) fn of_http1(stream: &Stream) -> (Self, Taker) {
        Self::taken(stream, MOST)
    }

    /// Of each, so many bytes are taken at most.
    pub(super) fn of_http2(stream: &Stream, most: u64) -> (Self, Taker) {
        Self::taken(stream, most)
    }

    fn taken(stream: &Stream, most: u64) -> (Self, Taker) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let rests = Self {
            sender,
            stream: stream.clone(),
        };
        let taker = Taker {
            rests: receiver,
            stream: stream.clone(),
            most,
        };
        (rests, taker)
    }

    fn take(&self, body: Incoming, unanswered: Option<oneshot::Sender<Incoming>>) {
        // Nobody takes it where the connection has ended.
        let _ = self.sender.send(Untaken { body, unanswered });
    }
}

impl Taker {
    /// Takes rests and throws them away, as long as somebody may have one.
    pub(super) async fn take(mut self) {
        // As many as there are streams.
        let mut taking = FuturesUnordered::new();
        loop {
            tokio::select! {
                rest = self.rests.recv() => match rest {
                    Some(rest) => taking.push(thrown_away(rest, self.most)),
                    None => return,
                },
                Some(is_whole) = taking.next() => if is_whole {
                    self.stream.is_settled();
                },
            }
        }
    }
}

/// Whether all of it came. What doesn't is reset with `NO_ERROR` in HTTP/2 behind the answer, and ends the
/// connection in HTTP/1.
async fn thrown_away(rest: Untaken, most: u64) -> bool {
    let Untaken {
        mut body,
        unanswered,
    } = rest;
    let mut is_broken = false;
    let mut sizes = stream::poll_fn(|context| {
        let frame = ready!(Pin::new(&mut body).poll_frame(context));
        is_broken |= matches!(frame, Some(Err(_)));
        let frame = frame.and_then(Result::ok);
        Poll::Ready(frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)))
    });
    let mut taken = 0;
    if let Some(mut unanswered) = unanswered {
        // Who sends slowly has no answer yet for which to stop.
        let takes = async {
            while let Some(size) = sizes.next().await {
                taken += size as u64;
                if taken > most {
                    return false;
                }
            }
            true
        };
        let is_whole = tokio::select! {
            is_whole = takes => Some(is_whole),
            () = unanswered.closed() => None,
        };
        match is_whole {
            Some(true) => return !is_broken,
            Some(false) => {
                // It is reset behind its answer, not before.
                drop(body);
                unanswered.closed().await;
                return false;
            }
            None => {}
        }
    }
    linger(sizes, most - taken).await && !is_broken
}

impl Drop for Received {
    fn drop(&mut self) {
        if let (Some(body), Some(left)) = (self.body.take(), self.left.take())
            && !body.is_end_stream()
        {
            match &self.rests {
                Some(rests) => rests.take(body, Some(left)),
                // Nobody waits where the client has left.
                None => drop(left.send(body)),
            }
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
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(context);
        // A chunked body doesn't know its end before it was there.
        if matches!(polled, Poll::Ready(None)) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
