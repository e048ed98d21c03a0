//! How often tokens may cause a fetch: a few at once, then one in a while. Kept as the moment
//! from which the bucket is full again (the generic cell rate algorithm).

use std::time::{Duration, Instant};

/// Fetches at once: a rotation takes one, or two where the first began too early.
const BURST: u32 = 3;
/// Between one and the next after that.
const INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(super) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now);
        if full_at.duration_since(now) > INTERVAL * (BURST - 1) {
            return false;
        }
        self.full_at = full_at + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn three_at_once_and_then_one_each_ten_seconds() {
        let clock = Clock::manual();
        let mut bucket = Bucket::full(clock.instant());
        let mut taken = |seconds: u64| {
            clock.advance(Duration::from_secs(seconds));
            (0..5).filter(|_| bucket.take(clock.instant())).count()
        };
        assert_eq!(
            [
                taken(0),
                taken(9),
                taken(1),
                taken(10),
                taken(25),
                taken(3600)
            ],
            [3, 0, 1, 1, 2, 3]
        );
    }
}
