//! Wall and monotonic time. Parts that reason about time hold a [`Clock`], so
//! a test moves time by hand instead of sleeping.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time};

/// A cheap handle on the current time. The system's is tokio's, so it stands still in
/// a test whose runtime is paused.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<watch::Sender<Moment>>),
}

#[derive(Clone, Copy)]
struct Moment {
    instant: Instant,
    wall: SystemTime,
}

impl Clock {
    /// The machine's own time.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual() -> Self {
        let now = Self::system();
        let (moments, _) = watch::channel(Moment {
            instant: now.instant(),
            wall: now.wall(),
        });
        Self(Source::Manual(Arc::new(moments)))
    }

    /// Moves a manual clock forward; the system's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(moments) = &self.0 {
            moments.send_modify(|moment| {
                moment.instant += by;
                moment.wall += by;
            });
        }
    }

    /// Monotonic time, for ages and durations.
    #[must_use]
    pub fn instant(&self) -> Instant {
        match &self.0 {
            Source::System => time::Instant::now().into_std(),
            Source::Manual(moments) => moments.borrow().instant,
        }
    }

    /// Wall time, for what other machines wrote down.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine"
    )]
    pub fn wall(&self) -> SystemTime {
        match &self.0 {
            Source::System => SystemTime::now(),
            Source::Manual(moments) => moments.borrow().wall,
        }
    }

    /// Waits for that moment. Dropped, it waits no more.
    pub async fn sleep_until(&self, moment: Instant) {
        match &self.0 {
            Source::System => time::sleep_until(moment.into()).await,
            Source::Manual(moments) => {
                let mut moments = moments.subscribe();
                // The sender is held by this clock, so waiting can't fail.
                let _ = moments.wait_for(|now| now.instant >= moment).await;
            }
        }
    }

    /// The future's output, or none where the moment comes first.
    pub async fn before<F: Future>(&self, moment: Instant, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep_until(moment) => None,
        }
    }

    /// Wall time in whole seconds since 1970, as JWT's `NumericDate` counts (RFC 7519 §2).
    #[must_use]
    pub fn unix_seconds(&self) -> i64 {
        self.wall()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Manual(_) => "Clock(manual)",
        })
    }
}
