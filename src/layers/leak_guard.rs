//! The last look at an answer below `/v1`: one that would hold a tenant's key, in a header,
//! in its body or in a problem's words, as it is or encoded, doesn't go out. It stands outside
//! everything that has to do with a tenant.
//!
//! A body that is here in full is searched before its head goes out, and becomes a problem. One
//! that still comes is searched as it comes: what may be the beginning of a key waits for what follows it, and
//! where a key is found the body is cut.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use prometheus_client::{metrics::counter::Counter, registry::Registry as MetricRegistry};
use tracing::Span;

use crate::{
    cache::Representation,
    problem::{Code, Problem},
    watchlist::Watchlist,
};

use super::authenticate::AnsweredFor;

/// A body over this many bytes is searched where it holds up nobody else's requests: it takes a millisecond for each MB.
const LARGE_BODY: usize = 512 * 1024;

/// What the layer needs. Cheap to clone.
#[derive(Clone)]
pub struct LeakGuard {
    watchlist: Watchlist,
    stopped: Counter,
}

impl LeakGuard {
    /// A guard against what is on that list; declares the metric.
    #[must_use]
    pub fn new(watchlist: Watchlist, metrics: &mut MetricRegistry) -> Self {
        let stopped = Counter::default();
        metrics.register(
            "llavero_leaks_stopped",
            "Answers that would have held a tenant's key, and were withheld or cut",
            stopped.clone(),
        );
        Self { watchlist, stopped }
    }

    /// Tells the operator; the span says whose request it was.
    fn alarm(&self, span: &Span, place: &'static str) {
        self.stopped.inc();
        span.in_scope(|| {
            tracing::error!(
                place,
                "an answer would have held a tenant's key: it was withheld. Find out where the ERP \
                 or this gateway puts it, and change the key"
            );
        });
    }

    /// Whether a body that is here in full holds a key.
    async fn finds_in_body(&self, body: &Bytes, tenant: Option<&str>) -> bool {
        if body.len() <= LARGE_BODY {
            return self.watchlist.finds_in(body, tenant);
        }
        let (watchlist, body) = (self.watchlist.clone(), body.clone());
        let tenant = tenant.map(str::to_owned);
        let search = move || watchlist.finds_in(&body, tenant.as_deref());
        // What couldn't be searched doesn't go out.
        tokio::task::spawn_blocking(search).await.unwrap_or(true)
    }

    fn finds_in_headers(&self, headers: &HeaderMap, tenant: Option<&str>) -> bool {
        headers
            .values()
            .any(|value| self.watchlist.finds_in(value.as_bytes(), tenant))
    }
}

/// Lets an answer pass, or a problem in its place.
pub async fn layer(State(guard): State<LeakGuard>, request: Request, next: Next) -> Response {
    let is_change = !request.method().is_safe();
    let response = next.run(request).await;
    let tenant = response.extensions().get::<AnsweredFor>().cloned();
    let tenant = tenant.as_ref().map(|AnsweredFor(tenant)| tenant.as_str());
    if guard.finds_in_headers(response.headers(), tenant) {
        return withheld(&guard, "a header", is_change);
    }
    if let Some(problem) = response.extensions().get::<Problem>() {
        let (headers, body) = problem.render("");
        if guard.finds_in_headers(&headers, tenant) || guard.watchlist.finds_in(&body, tenant) {
            return withheld(&guard, "a problem", is_change);
        }
    }
    // Read before the search, so that a key which comes in meanwhile counts as new.
    let version = guard.watchlist.version();
    let kept = response.extensions().get::<Arc<Representation>>();
    if kept.is_some_and(|kept| kept.was_searched_at(version)) {
        return response;
    }
    let kept = kept.cloned();
    let (parts, body) = response.into_parts();
    if body.size_hint().exact().is_none() {
        let guarded = Guarded::new(guard, tenant, body);
        return Response::from_parts(parts, Body::new(guarded));
    }
    // A body of known length is one that is here already: collecting it waits for nothing.
    let mut collecting = Box::pin(body.collect());
    let bytes = match (&mut collecting).now_or_never() {
        Some(Ok(collected)) => collected.to_bytes(),
        Some(Err(_)) => return Problem::of(Code::Internal).into_response(),
        None => match collecting.await {
            Ok(collected) => collected.to_bytes(),
            Err(_) => return Problem::of(Code::Internal).into_response(),
        },
    };
    if guard.finds_in_body(&bytes, tenant).await {
        return withheld(&guard, "the body", is_change);
    }
    if let Some(kept) = kept
        && is_all_of(&bytes, kept.body())
    {
        kept.searched_at(version);
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Whether those are the very bytes that are kept; a 304 has none of them.
fn is_all_of(bytes: &Bytes, kept: &Bytes) -> bool {
    std::ptr::eq(bytes.as_ref(), kept.as_ref())
}

fn withheld(guard: &LeakGuard, place: &'static str, is_change: bool) -> Response {
    guard.alarm(&Span::current(), place);
    let problem = if is_change {
        let detail = "The answer can't be shown. The change may have been made: read the order before you send it again, and give the operator this request's id.";
        Problem::new(Code::Internal, detail)
    } else {
        Problem::of(Code::Internal)
    };
    problem
        .caused_by("the answer held a tenant's key")
        .into_response()
}

/// A body that is searched on its way.
struct Guarded {
    guard: LeakGuard,
    span: Span,
    tenant: Option<String>,
    body: Body,
    /// What has come and hasn't gone: it may end in the beginning of a key.
    held: BytesMut,
    ended: bool,
}

/// A body held a key.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut")]
struct Cut;

impl Guarded {
    fn new(guard: LeakGuard, tenant: Option<&str>, body: Body) -> Self {
        Self {
            guard,
            span: Span::current(),
            tenant: tenant.map(str::to_owned),
            body,
            held: BytesMut::new(),
            ended: false,
        }
    }

    /// What may go once another piece has come.
    fn pass(&mut self, piece: &Bytes) -> Result<Option<Bytes>, Cut> {
        self.held.extend_from_slice(piece);
        if self
            .guard
            .watchlist
            .finds_in(&self.held, self.tenant.as_deref())
        {
            self.guard.alarm(&self.span, "the body");
            self.ended = true;
            return Err(Cut);
        }
        // Escaped, each of its characters may be six.
        let kept_back = (6 * self.guard.watchlist.longest()).saturating_sub(1);
        let may_go = self.held.len().saturating_sub(kept_back);
        Ok((may_go > 0).then(|| self.held.split_to(may_go).freeze()))
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    this.ended = true;
                    let rest = this.held.split().freeze();
                    let last = (!rest.is_empty()).then(|| Ok(Frame::data(rest)));
                    return Poll::Ready(last);
                }
            };
            // Trailers say nothing of a body, and none of ours has any.
            if let Ok(piece) = frame.into_data() {
                match this.pass(&piece) {
                    Ok(Some(may_go)) => return Poll::Ready(Some(Ok(Frame::data(may_go)))),
                    Ok(None) => {}
                    Err(cut) => return Poll::Ready(Some(Err(cut.into()))),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

    fn guarded(guard: &LeakGuard, pieces: &[&'static str]) -> Guarded {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece.as_bytes())))
            .collect();
        Guarded::new(guard.clone(), None, Body::from_stream(stream::iter(pieces)))
    }

    /// What came through, and whether it ended well.
    async fn through(mut body: Guarded) -> (String, bool) {
        let mut came = Vec::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => came.extend_from_slice(&frame.into_data().expect("data")),
                Some(Err(_)) => return (String::from_utf8(came).expect("text"), false),
                None => return (String::from_utf8(came).expect("text"), true),
            }
        }
    }

    #[tokio::test]
    async fn a_body_on_its_way_is_cut_before_any_of_a_key_goes_out() {
        let watchlist = Watchlist::new(crate::clock::Clock::manual());
        let _watched = watchlist.watch_key("t", &KEY.to_owned().into());
        let guard = LeakGuard::new(watchlist, &mut MetricRegistry::default());
        let text: &'static str = format!("before, {KEY}, after").leak();
        for at in 0..text.len() {
            let (head, tail) = text.split_at(at);
            let (came, whole) = through(guarded(&guard, &[head, tail])).await;
            assert!(!whole, "split at {at}");
            assert!(came.is_empty() || "before, ".starts_with(&came), "{came}");
        }
        assert_eq!(guard.stopped.get(), text.len() as u64);
    }

    #[tokio::test]
    async fn a_body_without_a_key_comes_whole() {
        let watchlist = Watchlist::new(crate::clock::Clock::manual());
        let _watched = watchlist.watch_key("t", &KEY.to_owned().into());
        let guard = LeakGuard::new(watchlist, &mut MetricRegistry::default());
        let pieces = ["", "a", &KEY[..31], "-", KEY.split_at(1).1, "z"];
        let (came, whole) = through(guarded(&guard, &pieces)).await;
        assert!(whole);
        assert_eq!(came, pieces.concat());
    }
}
