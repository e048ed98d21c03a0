//! Taking connections: how many, which protocol, how long.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Stop,
    watch::{Activity, IDLE, Watched},
};

/// How long a client may take to send its request's head; hyper counts the time between two
/// requests too. The first one's is shorter ([`Activity`]).
const HEADER_TIMEOUT: Duration = IDLE;
/// More headers than any client sends, and a head larger than any (tokens are up to 8 KiB).
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// More than a browser opens.
const MAX_STREAMS: u32 = 100;
/// An HTTP/2 client that doesn't answer a ping within the second is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Accepting can fail when the machine is short of something; others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is logged at most.
const ACCEPT_LOG: Duration = Duration::from_secs(10);
/// How long the answer of a write may take to reach its caller once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most connections at once, whatever the process may open.
const MOST_CONNECTIONS: u64 = 20_000;

/// One listener and what it needs to end.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    /// The most connections at once; more wait to be accepted.
    pub(super) connections: usize,
    /// Writes whose callers are waited for beyond the grace.
    pub(super) writes: TaskTracker,
    pub(super) stop: Stop,
    pub(super) grace: Duration,
}

/// How many connections callers may hold. The rest of what the process may open is for the
/// ERP, the admin port and files. Raises the process's own limit as far as it may.
pub(super) fn capacity() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    let most = getrlimit(Resource::Nofile).current;
    let most = most.unwrap_or(u64::MAX);
    let callers = most.saturating_sub((most / 4).min(1024));
    usize::try_from(callers.min(MOST_CONNECTIONS)).unwrap_or(usize::MAX)
}

impl Door {
    /// Accepts until told to stop, then lets what is open finish within the grace. Gives
    /// back how many connections had to be cut.
    pub(super) async fn serve(self) -> usize {
        let Self {
            listener,
            router,
            connections,
            writes,
            stop,
            grace,
        } = self;
        let places = Arc::new(Semaphore::new(connections));
        let graceful = GracefulShutdown::new();
        let open = TaskTracker::new();
        let cut = CancellationToken::new();
        let connection = Arc::new(Connection {
            builder: builder(),
            router,
        });
        let mut logged: Option<Instant> = None;

        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &places) => accepted,
                () = stop.drain.cancelled() => break,
            };
            let (stream, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG) {
                        tracing::warn!(%error, "connections can't be accepted");
                        logged = Some(Instant::now());
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (connection, cut, watcher) = (connection.clone(), cut.clone(), graceful.watcher());
            let closing = stop.drain.clone();
            open.spawn(async move {
                tokio::select! {
                    () = connection.serve(stream, peer, watcher, closing) => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        }
        drop(listener);
        open.close();
        let finished = async {
            let mut closing = pin!(graceful.shutdown());
            if timeout(grace, &mut closing).await.is_ok() {
                return true;
            }
            // Who waits for a write that is under way at the ERP is told what became of it.
            writes.close();
            writes.wait().await;
            timeout(LAST_WORDS, closing).await.is_ok()
        };
        let finished = tokio::select! {
            finished = finished => finished,
            () = stop.at_once.cancelled() => false,
        };
        if finished {
            return 0;
        }
        let still_open = open.len();
        cut.cancel();
        open.wait().await;
        still_open
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(
    TcpStream,
    SocketAddr,
    Option<tokio::sync::OwnedSemaphorePermit>,
)> {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.ok();
    let (stream, peer) = listener.accept().await?;
    // Answers are written whole; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    Ok((stream, peer, place))
}

struct Connection {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
}

impl Connection {
    async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: Watcher,
        closing: CancellationToken,
    ) {
        let activity = Activity::new();
        let speaks = tokio::select! {
            speaks = protocol(&stream) => speaks,
            () = activity.ends() => return,
            () = closing.cancelled() => return,
        };
        let builder = match speaks {
            Some(Protocol::Http1) => self.builder.clone().http1_only(),
            Some(Protocol::Http2) => self.builder.clone().http2_only(),
            None => return,
        };
        let service = Watched {
            service: TowerToHyperService::new(self.router.clone()),
            activity: activity.clone(),
            peer,
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection.into_owned());
        tokio::select! {
            // How a client's connection ends is the client's affair.
            _ = connection => {}
            () = activity.ends() => {}
        }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// What the first bytes say; they stay to be read. HTTP/2 begins with `PRI` (RFC 9113 §3.4),
/// which is no method of HTTP/1.
async fn protocol(stream: &TcpStream) -> Option<Protocol> {
    const BEGINNING: &[u8] = b"PRI";
    const AGAIN: Duration = Duration::from_millis(20);
    let mut first = [0; BEGINNING.len()];
    loop {
        match stream.peek(&mut first).await {
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
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
