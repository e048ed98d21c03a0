//! Listeners and the drain.

mod accept;
mod connection;
mod drain;
mod frames;
mod gate;
mod guard;
mod handshake;
mod linger;
mod peer;
mod repoll;
mod rest;
mod socket;
mod stream;
mod watch;
mod windows;

use std::{io, time::Duration};

use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{admin::Health, app::App};

use accept::Door;
use drain::Draining;

pub use guard::Guard;

/// What probes and scrapers open at most.
const ADMIN_CONNECTIONS: usize = 64;
/// Who sends a photo that is too large writes all of it before it reads that: so many times the
/// largest one are taken of what a refused request still sends, and a phone's whole photo in any case.
const LEFTOVERS: u64 = 4;
const LEAST_LEFTOVERS: u64 = 16 << 20;
const ADMIN_LEFTOVERS: u64 = 64 * 1024;
/// Longer than a request is on its way to us on a connection that its client believes to be idle.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// What a probe that is under way may take at the end.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// How long the end waits for the collector of traces.
const LAST_SPANS: Duration = Duration::from_secs(3);

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
        background,
        reload: _,
        audit,
        largest_image,
        traces,
        guard,
    } = app;
    let (stop_public, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let servers = TaskTracker::new();
    let public = Door {
        listener: public,
        router: public_router,
        guard,
        leftovers: largest_image.saturating_mul(LEFTOVERS).max(LEAST_LEFTOVERS),
        writes: tasks.clone(),
        draining: Draining {
            begun: stop.drain.clone(),
            closed: stop_public.clone(),
            last_moment: LAST_MOMENT,
        },
        at_once: stop.at_once.clone(),
        grace: drain.grace,
    };
    let admin = Door {
        listener: admin,
        router: admin_router,
        guard: Guard::of_admin(ADMIN_CONNECTIONS),
        leftovers: ADMIN_LEFTOVERS,
        writes: TaskTracker::new(),
        draining: Draining {
            begun: stop_admin.clone(),
            closed: stop_admin.clone(),
            last_moment: Duration::ZERO,
        },
        at_once: CancellationToken::new(),
        grace: ADMIN_GRACE,
    };
    let public_done = servers.spawn(public.serve());
    let admin_done = servers.spawn(admin.serve());
    servers.spawn(stop.drain.clone().run_until_cancelled_owned(background));
    let stop_traces = CancellationToken::new();
    let traces = traces.map(|traces| servers.spawn(traces.run(stop_traces.clone())));
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
    // Behind the last write, which leaves the last record.
    audit.finish().await;
    stop_traces.cancel();
    if let Some(traces) = traces
        && timeout(LAST_SPANS, traces).await.is_err()
    {
        tracing::warn!("the collector didn't take the last spans in time: they are lost");
    }
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_connections_are_taken_for_the_delay_unless_it_is_cut_short() {
        let (health, stop) = (Health::default(), Stop::default());
        let drain = Drain {
            delay: Duration::from_secs(5),
            grace: Duration::ZERO,
        };
        let since = Instant::now();
        begin(&health, drain, &stop).await;
        assert_eq!(since.elapsed(), drain.delay);
        stop.at_once.cancel();
        begin(&health, drain, &stop).await;
        assert_eq!(since.elapsed(), drain.delay);
    }
}
