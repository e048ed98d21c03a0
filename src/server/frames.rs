//! HTTP/2 frames that ask for nothing. Each costs its sender nine bytes and us work: PING and SETTINGS
//! an answer, RST_STREAM a request that was begun for nobody (CVE-2019-9512, -9514, -9515, -9518,
//! CVE-2023-44487). h2 bounds some of them (CONTINUATION, small DATA); here are the others, counted as they
//! pass. What h2 bounds of resets is set by [`Allowance`], so that it never comes first.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::{rt::TokioExecutor, server::conn::auto};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::stream::Stream;

/// What one client may send: so many cancelled requests as it can have open at once, twice.
const ONE: Allowance = Allowance {
    cancels: Bucket::of(200, 50),
    idle: Bucket::of(2000, 200),
    made_us_reset: 1024,
};
/// What a proxy may send that stands for many, one of whom must not cost the others their answers.
const MANY: Allowance = Allowance {
    cancels: Bucket::of(2000, 500),
    idle: Bucket::of(20_000, 2000),
    made_us_reset: 16 * 1024,
};
/// How many streams that were reset are known, so that another RST_STREAM for one isn't another cancel:
/// some clients answer each frame that was on its way to them with one (RFC 9113 §5.1).
const KNOWN: usize = 256;
/// A request brings its own PRIORITY and WINDOW_UPDATEs.
const EARNED_BY_REQUEST: f64 = 3.0;
/// What we send is acknowledged by WINDOW_UPDATE, by no sane client more often than that, in bytes.
const EARNED_BY_BYTES: f64 = 1024.0;

/// What a connection begins with (RFC 9113 §3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;

/// How many frames a connection may send that ask for nothing.
#[derive(Clone, Copy)]
pub(super) struct Allowance {
    /// Requests that are cancelled.
    cancels: Bucket,
    /// Frames that ask for nothing, resets among them.
    idle: Bucket,
    /// Streams that the client makes us reset (CVE-2025-8671), of a connection's whole life.
    made_us_reset: usize,
}

impl Allowance {
    /// Of a client, or of a proxy that stands for many.
    pub(super) const fn of(stands_for_many: bool) -> Self {
        if stands_for_many { MANY } else { ONE }
    }

    /// Tells h2 to bear what is allowed. It counts streams that are reset before it hands them on, which can be
    /// all that arrive at once: their heads are what a connection can make it hold.
    pub(super) fn bound(&self, builder: &mut auto::Builder<TokioExecutor>) {
        // More than the rest of a bucket can't come at once, a second's refill included.
        let at_once = (self.cancels.burst + self.cancels.per_second) as usize;
        builder
            .http2()
            .max_pending_accept_reset_streams(at_once)
            .max_local_error_reset_streams(self.made_us_reset);
    }
}

/// A connection's bytes, counted where it speaks HTTP/2.
pub(super) struct Counted {
    stream: Stream,
    frames: Option<Frames>,
    floods: Counter,
}

impl Counted {
    pub(super) fn http1(stream: Stream) -> Self {
        Self {
            stream,
            frames: None,
            floods: Counter::default(),
        }
    }

    /// Ends the reading in a flood, and counts that.
    pub(super) fn http2(stream: Stream, allowance: Allowance, floods: Counter) -> Self {
        Self {
            stream,
            frames: Some(Frames::new(allowance, Instant::now())),
            floods,
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(size))) = (&mut self.frames, written) {
            frames.wrote(*size);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        let Some(frames) = &mut this.frames else {
            return Poll::Ready(Ok(()));
        };
        let read = frames.read(&into.filled()[before..], Instant::now());
        if std::mem::take(&mut frames.answered) {
            this.stream.is_answered();
        }
        let Err(Flood) = read else {
            return Poll::Ready(Ok(()));
        };
        into.set_filled(before);
        this.floods.inc();
        this.stream.is_flooded();
        tracing::debug!(
            "a connection is cut: it sends more HTTP/2 frames that ask for nothing than any client needs"
        );
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// More frames than a client needs.
#[derive(Debug, PartialEq)]
struct Flood;

/// Where a connection is among its frames (RFC 9113 §4.1), and what it may still send.
struct Frames {
    /// Bytes that are to be passed over: the preface, or a frame's content.
    skip: usize,
    header: [u8; HEADER],
    /// How much of a frame's header is there.
    has: usize,
    cancels: Bucket,
    idle: Bucket,
    /// The latest streams that were reset.
    cancelled: VecDeque<u32>,
    /// A PING of ours was answered.
    answered: bool,
}

impl Frames {
    fn new(allowance: Allowance, now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            has: 0,
            cancels: allowance.cancels.since(now),
            idle: allowance.idle.since(now),
            cancelled: VecDeque::new(),
            answered: false,
        }
    }

    fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (HEADER - self.has).min(bytes.len());
            self.header[self.has..self.has + taken].copy_from_slice(&bytes[..taken]);
            self.has += taken;
            bytes = &bytes[taken..];
            if self.has == HEADER {
                self.has = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    fn wrote(&mut self, size: usize) {
        self.idle.earn(size as f64 / EARNED_BY_BYTES);
    }

    fn frame(&mut self, now: Instant) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const PING: u8 = 6;
        const CONTINUATION: u8 = 9;
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.skip = length;
        match kind {
            HEADERS => self.idle.earn(EARNED_BY_REQUEST),
            // h2 bounds how many there are of one request.
            CONTINUATION => {}
            DATA if length > 0 || flags & END_STREAM > 0 => {}
            RST_STREAM => {
                // Its highest bit means nothing (RFC 9113 §4.1).
                if self.is_cancel(u32::from_be_bytes(stream) & u32::MAX >> 1) {
                    self.cancels.take(now)?;
                }
                self.idle.take(now)?;
            }
            PING if flags & ACK > 0 => {
                self.answered = true;
                self.idle.take(now)?;
            }
            _ => self.idle.take(now)?,
        }
        Ok(())
    }

    /// Whether that stream hasn't been reset before.
    fn is_cancel(&mut self, stream: u32) -> bool {
        // The latest is the likeliest.
        if self.cancelled.iter().rev().any(|&known| known == stream) {
            return false;
        }
        if self.cancelled.len() == KNOWN {
            self.cancelled.pop_front();
        }
        self.cancelled.push_back(stream);
        true
    }
}

/// So many at once, and so many more each second.
#[derive(Clone, Copy)]
struct Bucket {
    burst: f64,
    per_second: f64,
    left: f64,
    counted: Option<Instant>,
}

impl Bucket {
    const fn of(burst: u32, per_second: u32) -> Self {
        Self {
            burst: burst as f64,
            per_second: per_second as f64,
            left: burst as f64,
            counted: None,
        }
    }

    fn since(self, now: Instant) -> Self {
        Self {
            counted: Some(now),
            ..self
        }
    }

    fn earn(&mut self, more: f64) {
        self.left = (self.left + more).min(self.burst);
    }

    fn take(&mut self, now: Instant) -> Result<(), Flood> {
        let since = self.counted.replace(now).unwrap_or(now);
        let passed: Duration = now.saturating_duration_since(since);
        self.earn(passed.as_secs_f64() * self.per_second);
        if self.left < 1.0 {
            return Err(Flood);
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const PRIORITY: u8 = 2;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const UNKNOWN: u8 = 0xfa;

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len())
            .expect("is small")
            .to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(content);
        frame
    }

    fn reset(stream: u32) -> Vec<u8> {
        let mut frame = frame(RST_STREAM, 0, &[0; 4]);
        frame[5..HEADER].copy_from_slice(&stream.to_be_bytes());
        frame
    }

    /// A connection behind its preface.
    fn begun() -> (Frames, Instant) {
        let now = Instant::now();
        let mut frames = Frames::new(ONE, now);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(frames.read(preface, now), Ok(()));
        (frames, now)
    }

    /// How many of those come through at once.
    fn come_through(frame: &[u8]) -> usize {
        come_through_of(ONE, |_| frame.to_vec())
    }

    fn come_through_of(allowance: Allowance, frame: impl Fn(u32) -> Vec<u8>) -> usize {
        let now = Instant::now();
        let mut frames = Frames::new(allowance, now);
        frames.skip = 0;
        (0..100_000)
            .take_while(|&at| frames.read(&frame(at), now).is_ok())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_that_asks_for_nothing_has_its_end() {
        for (kind, flags, content) in [
            (PRIORITY, 0, &[0; 5][..]),
            (SETTINGS, 0, &[][..]),
            (SETTINGS, 1, &[]),
            (PING, 0, &[0; 8]),
            (PING, 1, &[0; 8]),
            (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            (DATA, 0, &[]),
            (UNKNOWN, 0, &[7; 100]),
        ] {
            assert_eq!(come_through(&frame(kind, flags, content)), 2000, "{kind}");
        }
        assert_eq!(come_through_of(ONE, reset), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_stands_for_many() {
        assert_eq!(come_through_of(MANY, reset), 2000);
        let ping = |_| frame(PING, 0, &[0; 8]);
        assert_eq!(come_through_of(MANY, ping), 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_ping_is_known_from_a_ping() {
        for (flags, answered) in [(0, false), (1, true)] {
            let (mut frames, now) = begun();
            frames
                .read(&frame(PING, flags, &[0; 8]), now)
                .expect("is one");
            assert_eq!(frames.answered, answered);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_cancel_costs_one() {
        // Three resets each: of the cancel, and of two frames that were on their way.
        let thrice = |at: u32| reset(2 * at + 1).repeat(3);
        assert_eq!(come_through_of(ONE, thrice), 200);
        // Behind the next ones too.
        let late = |at: u32| [reset(at), reset(at.saturating_sub(100))].concat();
        assert_eq!(come_through_of(ONE, late), 200);
        // Not without end: they ask for nothing.
        assert_eq!(come_through(&reset(1)), 2000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_carries_something_is_never_a_flood() {
        for (kind, flags, content) in [(DATA, 0, &b"x"[..]), (DATA, 1, b""), (HEADERS, 5, b"xyz")] {
            assert_eq!(come_through(&frame(kind, flags, content)), 100_000);
        }
        // A frame's content is no frame, however it looks.
        let nested = frame(PING, 0, &[0; 8]).repeat(500);
        assert_eq!(come_through(&frame(DATA, 0, &nested)), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_pay_for_its_reset() {
        let both = |at| [frame(HEADERS, 5, b"xyz"), reset(at)].concat();
        assert_eq!(come_through_of(ONE, both), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_answers_pay_for_what_belongs_to_them() {
        let (mut frames, now) = begun();
        let update = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]);
        for _ in 0..100_000 {
            frames.wrote(2048);
            frames.read(&update, now).expect("is acknowledged");
            frames.read(&update, now).expect("for the connection too");
        }
        let (mut frames, now) = begun();
        let mut request = frame(HEADERS, 5, b"xyz");
        request.extend(frame(PRIORITY, 0, &[0; 5]));
        request.extend(update.repeat(2));
        for _ in 0..100_000 {
            frames.read(&request, now).expect("is usual");
        }
        // An answer that is wanted byte by byte doesn't.
        let (mut frames, now) = begun();
        let dribbled = (0..100_000)
            .take_while(|_| {
                frames.wrote(HEADER + 1);
                frames.read(&update, now).is_ok()
            })
            .count();
        assert!(dribbled < 2100, "{dribbled}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_enough_may_go_on() {
        let (mut frames, mut now) = begun();
        let ping = frame(PING, 0, &[0; 8]);
        for at in 0..100_000 {
            now += Duration::from_millis(20);
            frames.read(&reset(at), now).expect("50 a second");
            frames.read(&ping.repeat(3), now).expect("150 a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_matter_how_frames_are_cut() {
        let whole = frame(PING, 0, &[0; 8]).repeat(2001);
        for size in [1, 2, 8, 9, 10, 17, 1000, whole.len()] {
            let (mut frames, now) = begun();
            let mut pieces = whole.chunks(size);
            let flooded = pieces.position(|piece| frames.read(piece, now).is_err());
            // The last one is too much as soon as its header is there.
            let expected = (2000 * 17 + HEADER - 1) / size;
            assert_eq!(flooded, Some(expected), "{size}");
        }
    }
}
