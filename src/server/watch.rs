//! What goes on on a connection, and when it is enough: one that sends nothing, is
//! idle or doesn't take its answers holds a descriptor and memory for nobody's good.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{Request, Response, Version, body::Incoming, service::Service};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    drain::Draining,
    rest::{Received, Rests},
};

/// How long a connection may be without its first request, and between two.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// How long an answer may wait for its reader.
const STALLED: Duration = Duration::from_secs(30);
/// Answers are handed on in pieces, so that their progress shows.
const PIECE: usize = 64 * 1024;

/// What goes on on one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Activity(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Another kind of patience is due.
    turned: Notify,
}

struct State {
    /// Requests that are being served.
    requests: usize,
    /// Answers that aren't yet taken.
    answers: usize,
    had_requests: bool,
    /// The latest request is HTTP/1.1, whose clients take interim answers.
    takes_interim: bool,
    moved: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                requests: 0,
                answers: 0,
                had_requests: false,
                takes_interim: false,
                moved: Instant::now(),
            }),
            turned: Notify::new(),
        }))
    }

    /// Waits until the connection has been useless for too long.
    pub(super) async fn ends(&self) {
        loop {
            let (patience, moved) = {
                let state = self.lock();
                let patience = match *state {
                    // What a request takes is bounded where it is served.
                    State { requests: 1.., .. } => IDLE,
                    State { answers: 1.., .. } => STALLED,
                    State {
                        had_requests: false,
                        ..
                    } => FIRST_REQUEST,
                    State { .. } => IDLE,
                };
                let moved = match state.requests {
                    0 => state.moved,
                    _ => Instant::now(),
                };
                (patience, moved)
            };
            if moved.elapsed() >= patience {
                return;
            }
            tokio::select! {
                () = sleep_until(moved + patience) => {}
                () = self.0.turned.notified() => {}
            }
        }
    }

    /// Whether a request is being served whose client takes an interim answer now.
    pub(super) fn takes_interim(&self) -> bool {
        let state = self.lock();
        state.requests > 0 && state.takes_interim
    }

    /// A request has come, and is being served as long as that is kept.
    pub(super) fn begin(&self, version: Version) -> Serving {
        self.change(|state| {
            state.requests += 1;
            state.had_requests = true;
            state.takes_interim = version == Version::HTTP_11;
        });
        Serving(self.clone())
    }

    /// Whether there has been a request.
    pub(super) fn had_requests(&self) -> bool {
        self.lock().had_requests
    }

    /// Whether a request is being served, or its answer isn't yet taken.
    pub(super) fn is_serving(&self) -> bool {
        let state = self.lock();
        state.requests > 0 || state.answers > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = (state.requests, state.answers);
        change(&mut state);
        state.moved = Instant::now();
        if before != (state.requests, state.answers) {
            self.0.turned.notify_one();
        }
    }
}

/// A service whose requests and answers are noted. Its requests know their peer.
#[derive(Clone)]
pub(super) struct Watched<S> {
    pub(super) service: S,
    pub(super) activity: Activity,
    pub(super) rests: Rests,
    pub(super) draining: Draining,
    pub(super) peer: SocketAddr,
}

/// One request that is being served.
pub(super) struct Serving(Activity);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.change(|state| state.requests -= 1);
    }
}

/// One answer that isn't yet taken.
struct Answering(Activity);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|state| state.answers -= 1);
    }
}

impl<S, B> Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Received>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<WatchedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let activity = self.activity.clone();
        let serving = activity.begin(request.version());
        let (rests, draining) = (self.rests.clone(), self.draining.clone());
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let (parts, body) = request.into_parts();
        let version = parts.version;
        let (body, rest) = Received::new(body, version, &parts.headers, &self.rests);
        let answer = self.service.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let mut response = answer.await?;
            rest.settle(&mut response, &rests);
            draining.part(&mut response, version);
            activity.change(|state| state.answers += 1);
            let answering = Answering(activity);
            drop(serving);
            Ok(response.map(|body| WatchedBody {
                body,
                rest: Bytes::new(),
                answering,
            }))
        })
    }
}

/// An answer's body in pieces.
pub(super) struct WatchedBody<B> {
    body: B,
    rest: Bytes,
    answering: Answering,
}

impl<B: Body<Data = Bytes> + Unpin> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.answering.0.change(|_| {});
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = this.rest.split_to(PIECE.min(this.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_uselessness_has_its_end() {
        let since = Instant::now();
        Activity::new().ends().await;
        assert_eq!(since.elapsed(), FIRST_REQUEST);

        let (activity, since) = (Activity::new(), Instant::now());
        activity.change(|state| state.had_requests = true);
        activity.ends().await;
        assert_eq!(since.elapsed(), IDLE);

        let (activity, since) = (Activity::new(), Instant::now());
        activity.change(|state| state.answers = 1);
        activity.ends().await;
        assert_eq!(since.elapsed(), STALLED);

        let activity = Activity::new();
        activity.change(|state| state.requests = 1);
        let patient = tokio::time::timeout(Duration::from_secs(3600), activity.ends());
        assert!(patient.await.is_err(), "a request may take its time");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_goes_on_in_pieces_and_whole() {
        let whole: Bytes = (0..3 * PIECE + 7).map(|at| (at % 251) as u8).collect();
        let activity = Activity::new();
        activity.change(|state| state.answers = 1);
        let mut body = WatchedBody {
            body: Full::new(whole.clone()),
            rest: Bytes::new(),
            answering: Answering(activity.clone()),
        };
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let first = body.frame().await.expect("a frame").expect("infallible");
        let first = first.into_data().expect("data");
        assert_eq!(first.len(), PIECE);
        assert_eq!(body.size_hint().exact(), Some((whole.len() - PIECE) as u64));
        let rest = body.collect().await.expect("infallible").to_bytes();
        assert!([first, rest].concat() == whole);
        assert_eq!(activity.lock().answers, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_changes_with_what_goes_on() {
        let (activity, since) = (Activity::new(), Instant::now());
        activity.change(|state| state.had_requests = true);
        let stalls = {
            let activity = activity.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(20)).await;
                activity.change(|state| state.answers = 1);
            }
        };
        tokio::join!(activity.ends(), stalls);
        assert_eq!(since.elapsed(), Duration::from_secs(20) + STALLED);
    }
}
