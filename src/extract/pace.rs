//! How slowly a body may come, and what becomes of one that breaks off. All time is the clock's.

use std::{
    error::Error,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;

use crate::{
    clock::Clock,
    problem::{Code, Problem},
};

/// How long a sender has before its rate counts: connections begin slowly.
const GRACE: Duration = Duration::from_secs(15);
/// The bound where there is no rate.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// How long after its body broke off a sender is known to have left. The listener asks at once whether anybody is
/// there (`server/peer.rs`), which takes as long as the way to them and back, and drops what is served to nobody.
const LEAVING: Duration = Duration::from_secs(2);

/// How slow a sender may be.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The least rate over the whole body, in bytes a second; 0 bounds its time instead.
    pub min_rate: u64,
    /// How long nothing may come.
    pub idle: Duration,
}

/// Why no more of a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    /// Its framing is broken, or its sender ended it early and is still there.
    #[error("the body broke off")]
    Incomplete,
    /// Nothing came for so long.
    #[error("nothing of the body came for too long")]
    Idle(Duration),
    /// It came at less than so many bytes a second.
    #[error("the body came too slowly")]
    TooSlow(u64),
    /// It took longer than this.
    #[error("the body took too long")]
    TooLong(Duration),
}

/// A body whose frames come in time.
pub(super) struct Paced<'a> {
    body: Body,
    patience: Patience,
    clock: &'a Clock,
    begun: Instant,
    received: u64,
}

impl<'a> Paced<'a> {
    pub(super) fn new(body: Body, patience: Patience, clock: &'a Clock) -> Self {
        Self {
            body,
            patience,
            begun: clock.instant(),
            clock,
            received: 0,
        }
    }

    /// The next bytes; none where the body is whole.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let idle_at = self.clock.instant() + self.patience.idle;
        let (late_at, late) = self.end();
        loop {
            let frame = self.body.frame();
            let Some(frame) = self.clock.before(idle_at.min(late_at), frame).await else {
                return Err(if idle_at < late_at {
                    Cut::Idle(self.patience.idle)
                } else {
                    late
                });
            };
            match frame.map(|frame| frame.map(|frame| frame.into_data())) {
                None => return Ok(None),
                Some(Err(error)) => {
                    if !is_framing(&error) {
                        // Who has left is no sender of a broken body: then this goes no further.
                        let until = self.clock.instant() + LEAVING;
                        self.clock.sleep_until(until).await;
                    }
                    return Err(Cut::Incomplete);
                }
                Some(Ok(Ok(bytes))) if !bytes.is_empty() => {
                    self.received += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                // Trailers promise nothing that is believed here.
                Some(Ok(_)) => {}
            }
        }
    }

    /// When more must have come than has, and what it is called if it hasn't.
    fn end(&self) -> (Instant, Cut) {
        match self.patience.min_rate {
            0 => (self.begun + LONGEST, Cut::TooLong(LONGEST)),
            rate => {
                let earned = Duration::from_millis(self.received.saturating_mul(1000) / rate);
                (self.begun + GRACE + earned, Cut::TooSlow(rate))
            }
        }
    }
}

/// Whether bytes came that can't stand there; otherwise no more came. hyper says so by the kinds that it gives the
/// errors of its decoder.
fn is_framing(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return matches!(kind, ErrorKind::InvalidInput | ErrorKind::InvalidData);
        }
        next = error.source();
    }
    false
}

impl From<Cut> for Problem {
    fn from(cut: Cut) -> Self {
        let rule = match cut {
            Cut::Incomplete => {
                return Self::new(
                    Code::MalformedBody,
                    "The body ended before it was complete. Send the request again; if that happens every time, let your HTTP client write `Content-Type` and its `boundary` itself.",
                )
                .caused_by(cut);
            }
            Cut::Idle(idle) => format!(
                "Nothing more of the body came for {} seconds, which is the longest pause.",
                idle.as_secs_f64()
            ),
            Cut::TooSlow(rate) => format!(
                "The body came more slowly than {rate} bytes a second on average, which is the least."
            ),
            Cut::TooLong(longest) => format!(
                "The body took longer than {} seconds, which is the most.",
                longest.as_secs_f64()
            ),
        };
        Self::new(
            Code::RequestTimeout,
            format!(
                "{rule} Nothing was sent to the ERP. Send the request again, over a better network if there is one."
            ),
        )
        .caused_by(cut)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin};

    use futures_util::{FutureExt as _, future::poll_immediate, stream};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    fn body() -> (UnboundedSender<Result<Bytes, &'static str>>, Body) {
        let (sender, mut receiver) = unbounded_channel();
        let frames = stream::poll_fn(move |context| receiver.poll_recv(context));
        (sender, Body::from_stream(frames))
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// How the next bytes fail, which they do in that time and not before.
    async fn fails(paced: &mut Paced<'_>, clock: &Clock, after: Duration) -> Cut {
        const MOMENT: Duration = Duration::from_millis(1);
        let mut next = pin!(paced.next());
        clock.advance(Duration::ZERO);
        assert_eq!(poll_immediate(&mut next).await, None);
        clock.advance(after - MOMENT);
        assert_eq!(poll_immediate(&mut next).await, None);
        clock.advance(MOMENT);
        next.await.expect_err("it is late")
    }

    #[tokio::test]
    async fn a_pause_is_bounded_whatever_came_before() {
        let clock = Clock::manual();
        let patience = Patience {
            min_rate: 1,
            idle: seconds(10),
        };
        let (sender, body) = body();
        let mut paced = Paced::new(body, patience, &clock);
        for _ in 0..5 {
            clock.advance(seconds(9));
            sender
                .send(Ok(Bytes::from_static(&[0; 100])))
                .expect("it is read");
            assert!(matches!(paced.next().await, Ok(Some(_))));
        }
        assert_eq!(
            fails(&mut paced, &clock, seconds(10)).await,
            Cut::Idle(seconds(10))
        );
    }

    #[tokio::test]
    async fn what_came_earns_time_and_nothing_else_does() {
        let clock = Clock::manual();
        let patience = Patience {
            min_rate: 100,
            idle: seconds(1000),
        };
        let (sender, body) = body();
        let mut paced = Paced::new(body, patience, &clock);
        // An empty frame is no byte.
        for bytes in [&[0; 1000][..], &[]] {
            sender
                .send(Ok(Bytes::from_static(bytes)))
                .expect("it is read");
        }
        assert!(matches!(paced.next().await, Ok(Some(_))));
        let late = GRACE + seconds(10);
        assert_eq!(fails(&mut paced, &clock, late).await, Cut::TooSlow(100));
    }

    #[tokio::test]
    async fn without_a_rate_the_time_is_bounded() {
        let clock = Clock::manual();
        let patience = Patience {
            min_rate: 0,
            idle: seconds(600),
        };
        let (sender, body) = body();
        let mut paced = Paced::new(body, patience, &clock);
        clock.advance(seconds(599));
        sender
            .send(Ok(Bytes::from_static(&[0; 1 << 20])))
            .expect("it is read");
        assert!(matches!(paced.next().await, Ok(Some(_))));
        let left = LONGEST - seconds(599);
        assert_eq!(fails(&mut paced, &clock, left).await, Cut::TooLong(LONGEST));
    }

    #[tokio::test]
    async fn an_end_is_told_from_a_cut() {
        let clock = Clock::manual();
        let patience = Patience {
            min_rate: 1,
            idle: seconds(1),
        };
        let whole = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        assert_eq!(Paced::new(whole, patience, &clock).next().await, Ok(None));
        // What can't stand there is told at once; whether who broke off has left takes a moment.
        let broken = io::Error::from(ErrorKind::InvalidInput);
        let broken = Body::from_stream(stream::iter([Err::<Bytes, _>(broken)]));
        let next = Paced::new(broken, patience, &clock).next().now_or_never();
        assert_eq!(next, Some(Err(Cut::Incomplete)));
        let (sender, body) = body();
        sender.send(Err("cut")).expect("it is read");
        let mut paced = Paced::new(body, patience, &clock);
        let mut next = pin!(paced.next());
        assert_eq!(poll_immediate(&mut next).await, None);
        clock.advance(LEAVING);
        assert_eq!(next.await, Err(Cut::Incomplete));
    }
}
