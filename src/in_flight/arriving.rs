//! Uploads whose bytes still come, and which of them make room for who has none.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::tenants::TenantId;

/// How long an upload may take to begin before it counts as slow.
const BEGINS_WITHIN: Duration = Duration::from_secs(3);
/// What comes more slowly than that is slow, in bytes a second.
const SLOW: u64 = 64 * 1024;

/// Those that are under way.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    all: HashMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    tenant: TenantId,
    room: u64,
    since: Instant,
    arrival: Arrival,
}

/// What an upload that comes says of itself, and is told.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    id: u64,
    bytes: Arc<AtomicU64>,
    ousted: CancellationToken,
}

impl Arrival {
    /// So many bytes of its image have come.
    pub(super) fn has(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Cancelled when it is to end, since others need its room.
    pub(super) fn ousted(&self) -> CancellationToken {
        self.ousted.clone()
    }
}

impl Arriving {
    /// One of that tenant begins, and holds so much room.
    pub(super) fn begin(&mut self, tenant: TenantId, room: u64, now: Instant) -> Arrival {
        let arrival = Arrival {
            id: self.next,
            bytes: Arc::default(),
            ousted: CancellationToken::new(),
        };
        self.next += 1;
        let entry = Entry {
            tenant,
            room,
            since: now,
            arrival: arrival.clone(),
        };
        self.all.insert(arrival.id, entry);
        arrival
    }

    /// It is here, or won't come any more.
    pub(super) fn end(&mut self, arrival: &Arrival) {
        self.all.remove(&arrival.id);
    }

    /// Ends slow ones that hold so much room together: of whose tenants hold most first, and of those the slowest.
    pub(super) fn oust(&self, room: u64, now: Instant, holds: impl Fn(&TenantId) -> u64) {
        let mut slow: Vec<_> = self
            .all
            .values()
            .filter(|it| !it.arrival.ousted.is_cancelled())
            .filter_map(|it| Some((Reverse(holds(&it.tenant)), it.slow_rate(now)?, it)))
            .collect();
        slow.sort_by_key(|(held, rate, _)| (*held, *rate));
        let mut freed = 0;
        for (.., it) in slow {
            if freed >= room {
                return;
            }
            it.arrival.ousted.cancel();
            freed += it.room;
        }
    }
}

impl Entry {
    /// How many bytes a second have come, where that is slow.
    fn slow_rate(&self, now: Instant) -> Option<u64> {
        let took = now.saturating_duration_since(self.since);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let bytes = self.arrival.bytes.load(Ordering::Relaxed);
        let rate = bytes.saturating_mul(1000) / millis;
        (took >= BEGINS_WITHIN && rate < SLOW).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Clock;

    use super::*;

    /// Which of those are ousted for so much room: each is a tenant's, holds so much, has lasted so many seconds, and has had
    /// so many bytes.
    fn ousted<const N: usize>(room: u64, uploads: [(&str, u64, u64, u64); N]) -> [bool; N] {
        let (mut arriving, begin) = (Arriving::default(), Clock::manual().instant());
        let now = begin + Duration::from_secs(100);
        let arrivals = uploads.map(|(tenant, room, seconds, bytes)| {
            let tenant = tenant.parse().expect("an id");
            let since = now - Duration::from_secs(seconds);
            let arrival = arriving.begin(tenant, room, since);
            arrival.has(bytes);
            arrival
        });
        let holds = |tenant: &TenantId| {
            let of_tenant = uploads.iter().filter(|it| it.0 == tenant.as_str());
            of_tenant.map(|it| it.1).sum()
        };
        arriving.oust(room, now, holds);
        arrivals.map(|arrival| arrival.ousted().is_cancelled())
    }

    #[test]
    fn only_what_is_slow_makes_room() {
        let mb = 1 << 20;
        for (seconds, bytes, is_ousted) in [
            (2, 0, false),
            (3, 0, true),
            (3, 3 * SLOW - 1, true),
            (3, 3 * SLOW, false),
            (100, 99 * SLOW, true),
            (100, 100 * SLOW, false),
        ] {
            let found = ousted(mb, [("a", mb, seconds, bytes)]);
            assert_eq!(found, [is_ousted], "{seconds} {bytes}");
        }
    }

    #[test]
    fn who_holds_most_makes_room_first_and_no_more_than_is_needed() {
        let uploads = [
            ("a", 10, 50, 100),
            ("b", 10, 50, 5),
            ("b", 10, 50, 300),
            ("b", 10, 50, 200),
        ];
        assert_eq!(ousted(0, uploads), [false; 4]);
        assert_eq!(ousted(10, uploads), [false, true, false, false]);
        assert_eq!(ousted(11, uploads), [false, true, false, true]);
        assert_eq!(ousted(31, uploads), [true; 4]);
    }

    #[test]
    fn what_is_here_is_left_alone() {
        let mut arriving = Arriving::default();
        let begin = Clock::manual().instant();
        let arrival = arriving.begin("a".parse().expect("an id"), 10, begin);
        arriving.end(&arrival);
        arriving.oust(10, begin + Duration::from_secs(100), |_| 10);
        assert!(!arrival.ousted().is_cancelled());
    }
}
