//! Wall and monotonic time. Parts that reason about time hold a [`Clock`], so
//! a test moves time by hand instead of sleeping.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// A cheap handle on the current time.
#[derive(Clone, Default)]
pub struct Clock(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<Mutex<Moment>>),
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
        Self(Source::Manual(Arc::new(Mutex::new(Moment {
            instant: now.instant(),
            wall: now.wall(),
        }))))
    }

    /// Moves a manual clock forward; the system's clock is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(moment) = &self.0 {
            let mut moment = moment.lock().unwrap_or_else(PoisonError::into_inner);
            moment.instant += by;
            moment.wall += by;
        }
    }

    /// Monotonic time, for ages and durations.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine"
    )]
    pub fn instant(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Manual(moment) => {
                moment
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .instant
            }
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
            Source::Manual(moment) => moment.lock().unwrap_or_else(PoisonError::into_inner).wall,
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
