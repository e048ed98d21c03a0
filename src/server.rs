//! Listeners and the drain.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{admin::Health, app::App};

/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// More headers than any client sends, and a head larger than any (tokens are up to 8 KiB).
const MAX_HEADERS: usize = 100;
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Accepting fails when the process is out of descriptors; others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the gateway ends, from `server.*`.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// How long new connections are still taken while readiness is off.
    pub delay: Duration,
    /// How long requests in flight may take after that.
    pub grace: Duration,
}

/// What ends a gateway. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Begins the drain.
    pub drain: CancellationToken,
    /// Ends its delay and its grace: connections are cut, writes still end.
    pub at_once: CancellationToken,
}

/// Serves an app on both listeners until `stop` says so and the drain is over.
///
/// # Errors
/// A listener's address can't be had.
pub async fn run(
    app: App,
    public: TcpListener,
    admin: TcpListener,
    drain: Drain,
    stop: Stop,
) -> io::Result<()> {
    let App {
        public: public_router,
        admin: admin_router,
        health,
        tasks,
    } = app;
    let (stop_public, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let servers = TaskTracker::new();
    let public_done = servers.spawn(accept(
        public,
        public_router,
        Stop {
            drain: stop_public.clone(),
            at_once: stop.at_once.clone(),
        },
        drain.grace,
    ));
    let admin_done = servers.spawn(accept(
        admin,
        admin_router,
        Stop {
            drain: stop_admin.clone(),
            at_once: CancellationToken::new(),
        },
        Duration::from_secs(1),
    ));
    servers.close();

    stop.drain.cancelled().await;
    begin(&health, drain, &stop).await;
    stop_public.cancel();
    let cut = public_done.await.unwrap_or(0);
    if cut > 0 {
        tracing::warn!(connections = cut, "connections were cut");
    }
    // A write that is under way at the ERP is never cut: it ends by its own timeout.
    tasks.close();
    tasks.wait().await;
    stop_admin.cancel();
    let _ = admin_done.await;
    tracing::info!("drained");
    Ok(())
}

async fn begin(health: &Health, drain: Drain, stop: &Stop) {
    health.drain();
    tracing::info!(
        delay_ms = drain.delay.as_secs_f64() * 1e3,
        grace_ms = drain.grace.as_secs_f64() * 1e3,
        "draining"
    );
    tokio::select! {
        () = sleep(drain.delay) => {}
        () = stop.at_once.cancelled() => {}
    }
}

/// Accepts until `stop`, then lets what is open finish within `grace`. Gives back how
/// many connections had to be cut.
async fn accept(listener: TcpListener, router: Router, stop: Stop, grace: Duration) -> usize {
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
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    let builder = Arc::new(builder);
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();

    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.drain.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are written whole; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let connection = graceful.watch(connection);
        let cut = cut.clone();
        connections.spawn(async move {
            tokio::select! {
                // How a client's connection ends is the client's affair.
                _ = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    let finished = tokio::select! {
        finished = timeout(grace, graceful.shutdown()) => finished.is_ok(),
        () = stop.at_once.cancelled() => false,
    };
    if finished {
        return 0;
    }
    let open = connections.len();
    cut.cancel();
    connections.wait().await;
    open
}
