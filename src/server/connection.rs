//! One connection: which protocol it speaks, within which bounds, and what ends it.

use std::{net::SocketAddr, pin::pin, time::Duration};

use axum::Router;
use futures_util::future::{self, Either};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus_client::metrics::counter::Counter;
use tokio::time::sleep;

use super::{
    drain::Draining,
    frames::{Allowance, Counted},
    handshake::Handshakes,
    linger::linger_on,
    peer,
    repoll::repolled,
    rest::Rests,
    socket::Socket,
    stream::Stream,
    watch::{Activity, IDLE, Watched},
    windows,
};

/// How long a client may take to send its request's head; hyper counts the time between two
/// requests too. The first one's is shorter ([`Activity`]).
const HEADER_TIMEOUT: Duration = IDLE;
/// More headers than any client sends, and a head larger than any (tokens are up to 8 KiB).
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// An HTTP/2 client that doesn't answer a ping within the second is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What all connections of a listener are served with.
pub(super) struct Connection {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    leftovers: u64,
    handshakes: Option<Handshakes>,
    floods: Counter,
    draining: Draining,
}

impl Connection {
    pub(super) fn new(
        router: Router,
        leftovers: u64,
        handshakes: Option<Handshakes>,
        floods: Counter,
        draining: Draining,
    ) -> Self {
        Self {
            builder: builder(),
            router,
            leftovers,
            handshakes,
            floods,
            draining,
        }
    }

    pub(super) async fn serve(&self, socket: Socket, peer: SocketAddr, stands_for_many: bool) {
        let activity = Activity::new();
        let Some((stream, speaks)) = self.open(&socket, &activity).await else {
            return;
        };
        let (builder, (rests, taker), gone, leaves, io) = match speaks {
            Protocol::Http1 => (
                self.builder.clone().http1_only(),
                Rests::of_http1(&stream),
                Either::Left(async {
                    tokio::select! {
                        () = peer::gone(&stream, &activity) => {}
                        () = self.draining.gives_up(&stream, &activity) => {}
                    }
                }),
                Either::Left(future::pending()),
                Counted::http1(stream.clone()),
            ),
            // HTTP/2 reads on whatever it serves, and sees for itself.
            Protocol::Http2 => {
                let mut builder = self.builder.clone().http2_only();
                let allowance = Allowance::of(stands_for_many);
                allowance.bound(&mut builder);
                windows::bound(&mut builder, stands_for_many);
                (
                    builder,
                    Rests::of_http2(&stream, self.leftovers),
                    Either::Right(self.draining.gives_up_http2(&stream, &activity)),
                    Either::Right(self.draining.closes()),
                    Counted::http2(stream.clone(), allowance, self.floods.clone()),
                )
            }
        };
        let service = Watched {
            service: TowerToHyperService::new(self.router.clone()),
            activity: activity.clone(),
            rests,
            draining: self.draining.clone(),
            peer,
        };
        let connection = builder.serve_connection(TokioIo::new(io), service);
        let taking = async {
            taker.take().await;
            future::pending().await
        };
        let served = repolled(async {
            let mut connection = pin!(connection);
            tokio::select! {
                // How a client's connection ends is the client's affair.
                _ = connection.as_mut() => return,
                () = leaves => {}
            }
            stream.is_asked();
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
        tokio::select! {
            // What is finished is written before anybody looks whether the connection is idle.
            biased;
            () = served => {}
            () = taking => {}
            () = gone => return,
            () = activity.ends() => return,
        }
        if stream.has_more() && stream.end().is_ok() {
            linger_on(socket, self.leftovers).await;
        }
    }

    /// What is spoken on it, once that is known; none where it takes too long.
    async fn open(&self, socket: &Socket, activity: &Activity) -> Option<(Stream, Protocol)> {
        let too_late = self.draining.is_too_late(socket);
        match &self.handshakes {
            Some(handshakes) => {
                let ends = self.draining.ends_handshakes();
                handshakes.make(socket, too_late, ends).await
            }
            None => tokio::select! {
                made = plain(socket) => made,
                () = activity.ends() => None,
                () = too_late => None,
            },
        }
    }
}

/// What is spoken on a connection.
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection without TLS, as soon as it says what it speaks.
async fn plain(socket: &Socket) -> Option<(Stream, Protocol)> {
    let speaks = protocol(socket).await?;
    Some((Stream::plain(socket.clone()), speaks))
}

/// What the first bytes say; they stay to be read. HTTP/2 begins with `PRI` (RFC 9113 §3.4),
/// which is no method of HTTP/1.
async fn protocol(socket: &Socket) -> Option<Protocol> {
    const BEGINNING: &[u8] = b"PRI";
    const AGAIN: Duration = Duration::from_millis(20);
    let mut first = [0; BEGINNING.len()];
    loop {
        match socket.peek(&mut first).await {
            Err(_) | Ok(0) => return None,
            Ok(length) if !BEGINNING.starts_with(&first[..length]) => return Some(Protocol::Http1),
            Ok(length) if length == BEGINNING.len() => return Some(Protocol::Http2),
            // Peeking waits for the first byte only.
            Ok(_) => sleep(AGAIN).await,
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Whether the client is still there is told by other means.
        .half_close(true)
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
