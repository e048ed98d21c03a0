//! How connections end in a drain without losing a request.
//!
//! An HTTP/1 server that closes an idle connection can cross with a request on its way, and its client can't tell
//! whether anything was done (RFC 9112 §9.6). So from the drain's first moment on each answer says that its connection ends,
//! and who has had none holds its connection until a moment after the last new one was taken.
//! HTTP/2 tells its clients which streams it has seen (RFC 9113 §6.8), and needs none of this, but for clients who don't
//! answer the PING behind which that is told.

use std::{net::SocketAddr, time::Duration};

use hyper::{
    Response, Version,
    header::{CONNECTION, HeaderValue},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{socket::Socket, stream::Stream, watch::Activity};

/// How long a head that has begun to arrive may take when idle connections are closed; a handshake, or the answer
/// to a PING, when the listener is.
const LAST_HEAD: Duration = Duration::from_secs(2);
/// How soon a connection that isn't idle is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// Where the drain stands. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Draining {
    /// Answers end their connections.
    pub(super) begun: CancellationToken,
    /// No more connections are taken.
    pub(super) closed: CancellationToken,
    /// How long a connection without a request lasts after that.
    pub(super) last_moment: Duration,
}

impl Draining {
    /// Says in an answer of HTTP/1 that its connection ends, if the drain has begun.
    pub(super) fn part<B>(&self, answer: &mut Response<B>, version: Version) {
        if version <= Version::HTTP_11 && self.begun.is_cancelled() {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
    }

    /// Waits until no more connections are taken.
    pub(super) async fn closes(&self) {
        self.closed.cancelled().await;
    }

    /// Waits until an HTTP/1 connection can be closed without harm. One that has begun a request is served to the end.
    pub(super) async fn gives_up(&self, stream: &Stream, activity: &Activity) {
        self.last_moment().await;
        let head_until = Instant::now() + LAST_HEAD;
        loop {
            let is_served = activity.is_serving() || !stream.is_flushed();
            // Who has made a connection with TLS is about to ask.
            let is_begun =
                !activity.had_requests() || stream.has_more() || !stream.socket().is_silent();
            if !is_served && (!is_begun || Instant::now() >= head_until) {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    /// Waits until an HTTP/2 connection is idle whose client hasn't answered the PING of its end in time. Who
    /// has answered knows which streams are finished, and its connection ends with the last of them.
    pub(super) async fn gives_up_http2(&self, stream: &Stream, activity: &Activity) {
        self.closes().await;
        sleep(LAST_HEAD).await;
        // Once may be between the moment that an answer is handed on and the one that it is written.
        let mut was_idle = false;
        loop {
            let is_idle = !stream.has_answered() && !activity.is_serving() && stream.is_flushed();
            if is_idle && was_idle {
                return;
            }
            was_idle = is_idle;
            sleep(AGAIN).await;
        }
    }

    /// Waits until a TLS handshake has had its time.
    pub(super) async fn ends_handshakes(&self) {
        self.closes().await;
        sleep(LAST_HEAD).await;
    }

    /// Waits until it is too late for a connection's first bytes.
    pub(super) async fn is_too_late(&self, socket: &Socket) {
        self.last_moment().await;
        if !socket.is_silent() {
            sleep(LAST_HEAD).await;
        }
    }

    async fn last_moment(&self) {
        self.closes().await;
        sleep(self.last_moment).await;
    }
}

/// Closes a listener. Gives back the connections that the system had already completed, whose clients
/// may have sent their requests: closing resets those that nobody has taken (listen(2)).
pub(super) fn close(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "connections that wait to be accepted are lost");
            return Vec::new();
        }
    };
    let mut taken = Vec::new();
    // Nothing else is done in between, so that hardly anybody can come in behind the last one.
    while let Ok(accepted) = listener.accept() {
        taken.push(accepted);
    }
    drop(listener);
    taken
        .into_iter()
        .filter_map(|(stream, peer): (std::net::TcpStream, _)| {
            stream.set_nonblocking(true).ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    /// A drain whose listener is closed.
    fn closed() -> Draining {
        let draining = Draining {
            begun: CancellationToken::new(),
            closed: CancellationToken::new(),
            last_moment: MOMENT,
        };
        draining.closed.cancel();
        draining
    }

    async fn connected() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (stream, _) = accepted.expect("a connection");
        let stream = Stream::plain(Socket::new(stream));
        (stream, client.expect("a connection"))
    }

    /// What goes on where a request was answered.
    fn idle() -> Activity {
        let activity = Activity::new();
        drop(activity.begin(Version::HTTP_11));
        activity
    }

    /// Sends, and waits until the system has it.
    async fn send(client: &mut TcpStream, stream: &Stream) {
        client.write_all(b"GET").await.expect("is sent");
        while stream.socket().is_silent() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lasts_a_moment_longer_than_the_listener() {
        let (stream, _client) = connected().await;
        let activity = idle();
        let open = Draining {
            closed: CancellationToken::new(),
            ..closed()
        };
        let idle = timeout(10 * MOMENT, open.gives_up(&stream, &activity));
        assert!(idle.await.is_err(), "the listener is open");
        let since = Instant::now();
        closed().gives_up(&stream, &activity).await;
        assert_eq!(since.elapsed(), MOMENT);
        let since = Instant::now();
        closed().is_too_late(stream.socket()).await;
        assert_eq!(since.elapsed(), MOMENT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_has_its_time() {
        let (stream, mut client) = connected().await;
        send(&mut client, &stream).await;
        let since = Instant::now();
        closed().gives_up(&stream, &idle()).await;
        assert_eq!(since.elapsed(), MOMENT + LAST_HEAD);
        let since = Instant::now();
        closed().is_too_late(stream.socket()).await;
        assert_eq!(since.elapsed(), MOMENT + LAST_HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_the_last_ping_has_its_time_and_its_streams() {
        let (mut stream, _client) = connected().await;
        let (draining, activity) = (closed(), Activity::new());
        let since = Instant::now();
        draining.gives_up_http2(&stream, &activity).await;
        assert_eq!(since.elapsed(), LAST_HEAD + AGAIN);

        let serving = activity.begin(Version::HTTP_2);
        let given_up = timeout(60 * MOMENT, draining.gives_up_http2(&stream, &activity));
        assert!(given_up.await.is_err(), "its answer is to come");
        drop(serving);
        stream.write_all(b"an answer").await.expect("is sent");
        let given_up = timeout(60 * MOMENT, draining.gives_up_http2(&stream, &activity));
        assert!(given_up.await.is_err(), "the rest of it is in hand");
        stream.flush().await.expect("is sent");
        stream.is_answered();
        let given_up = timeout(60 * MOMENT, draining.gives_up_http2(&stream, &activity));
        assert!(given_up.await.is_err(), "it ends by itself");
        stream.is_asked();
        draining.gives_up_http2(&stream, &activity).await;

        let since = Instant::now();
        draining.ends_handshakes().await;
        assert_eq!(since.elapsed(), LAST_HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_served_holds_its_connection() {
        let (stream, _client) = connected().await;
        let activity = Activity::new();
        let serving = activity.begin(Version::HTTP_11);
        let draining = closed();
        let given_up = timeout(60 * MOMENT, draining.gives_up(&stream, &activity));
        assert!(given_up.await.is_err(), "its answer is to come");
        drop(serving);
        draining.gives_up(&stream, &activity).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_written_in_part_holds_its_connection() {
        let (mut stream, _client) = connected().await;
        stream.write_all(b"HTTP/1.1 200 OK").await.expect("is sent");
        let activity = idle();
        let draining = closed();
        let given_up = timeout(60 * MOMENT, draining.gives_up(&stream, &activity));
        assert!(given_up.await.is_err(), "the rest of it is in hand");
        stream.flush().await.expect("is sent");
        draining.gives_up(&stream, &activity).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_yet_asked_on_its_connection_has_time_to() {
        let (stream, _client) = connected().await;
        let since = Instant::now();
        closed().gives_up(&stream, &Activity::new()).await;
        assert_eq!(since.elapsed(), MOMENT + LAST_HEAD);
    }
}
