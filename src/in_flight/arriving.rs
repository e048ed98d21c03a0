//! Uploads whose bytes still come, and which of them make room for somebody else.
//!
//! Room goes to whoever holds less. So what takes long is ended for one of another tenant, or of a colleague, who with
//! it still holds less than the one whose upload ends does now: neither can then take it back from the other. And
//! for a tenant that has none at all any slow one is ended.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::tenants::TenantId;

use super::holdings::{Held, Holdings, Owner};

/// How long an upload may take before it counts as long.
const LONG: Duration = Duration::from_secs(3);
/// What takes long and comes more slowly than that is slow, in bytes a second.
const SLOW: u64 = 64 * 1024;

/// Those that are under way, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    all: BTreeMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
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

/// What somebody who waits needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Whose it is.
    pub(super) owner: &'a Owner,
    /// What it will hold.
    pub(super) takes: u64,
    /// How much has to come free for it.
    pub(super) missing: u64,
}

impl Arriving {
    /// One of that owner begins, and holds so much room.
    pub(super) fn begin(&mut self, owner: Owner, room: u64, now: Instant) -> Arrival {
        let arrival = Arrival {
            id: self.next,
            bytes: Arc::default(),
            ousted: CancellationToken::new(),
        };
        self.next += 1;
        let entry = Entry {
            owner,
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

    /// Ends what has to make room for one that waits: of whose tenants and users hold most first, of those the slowest, and
    /// of equals the one that began first. None where all that may be ended isn't enough.
    pub(super) fn make_room(&self, asked: Asked<'_>, now: Instant, holdings: &Holdings) {
        let long = self.all.values().filter_map(|it| {
            let rate = it.rate_if_long(now)?;
            let is_under_way = !it.arrival.ousted.is_cancelled();
            is_under_way.then(|| (Reverse(holdings.of(&it.owner)), rate, it))
        });
        let mut long: Vec<_> = long.collect();
        long.sort_by_key(|(held, rate, _)| (*held, *rate));

        let mut freed = Freed::default();
        let mut ended = Vec::new();
        for (Reverse(held), rate, it) in long {
            if freed.all >= asked.missing {
                break;
            }
            let left = freed.left_of(held, &it.owner);
            if asked.is_due(it, left, rate < SLOW, holdings) {
                freed.add(&it.owner, it.room);
                ended.push(it);
            }
        }
        if freed.all >= asked.missing {
            for it in ended {
                it.arrival.ousted.cancel();
            }
        }
    }
}

impl Asked<'_> {
    /// Whether that upload has to end for this one, where its owner holds so much.
    fn is_due(&self, it: &Entry, held: Held, is_slow: bool, holdings: &Holdings) -> bool {
        let own = holdings.of(self.owner);
        if it.owner.tenant() == self.owner.tenant() {
            return held.user > own.user.saturating_add(self.takes);
        }
        held.tenant > own.tenant.saturating_add(self.takes)
            || (is_slow && holdings.has_none(self.owner.tenant()))
    }
}

/// What comes free, and of whose.
#[derive(Default)]
struct Freed<'a> {
    all: u64,
    tenants: HashMap<&'a TenantId, u64>,
    users: HashMap<&'a Owner, u64>,
}

impl<'a> Freed<'a> {
    fn add(&mut self, owner: &'a Owner, room: u64) {
        self.all += room;
        *self.tenants.entry(owner.tenant()).or_default() += room;
        *self.users.entry(owner).or_default() += room;
    }

    /// What is left of what was held.
    fn left_of(&self, held: Held, owner: &Owner) -> Held {
        let tenant = self.tenants.get(owner.tenant()).copied();
        let user = self.users.get(owner).copied();
        Held {
            tenant: held.tenant.saturating_sub(tenant.unwrap_or_default()),
            user: held.user.saturating_sub(user.unwrap_or_default()),
        }
    }
}

impl Entry {
    /// How many bytes a second have come, where it takes long.
    fn rate_if_long(&self, now: Instant) -> Option<u64> {
        let took = now.saturating_duration_since(self.since);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let bytes = self.arrival.bytes.load(Ordering::Relaxed);
        (took >= LONG).then(|| bytes.saturating_mul(1000) / millis)
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Clock;

    use super::*;

    fn owner((tenant, subject): (&str, &str)) -> Owner {
        let tenant = tenant.parse().expect("an id");
        Owner::new(tenant, "https://issuer".into(), subject.into())
    }

    /// An upload of a tenant's user, the room it holds, how many seconds it has lasted, how many bytes have come.
    type Upload = ((&'static str, &'static str), u64, u64, u64);

    /// Which of those are ended for one of that owner that takes so much, all of which is missing.
    fn ended<const N: usize>(whose: (&str, &str), takes: u64, uploads: [Upload; N]) -> [bool; N] {
        let (mut arriving, begin) = (Arriving::default(), Clock::manual().instant());
        let now = begin + Duration::from_secs(100);
        let mut holdings = Holdings::default();
        let arrivals = uploads.map(|(whose, room, seconds, bytes)| {
            holdings.begin(&owner(whose), room);
            let since = now - Duration::from_secs(seconds);
            let arrival = arriving.begin(owner(whose), room, since);
            arrival.has(bytes);
            arrival
        });
        let asked = Asked {
            owner: &owner(whose),
            takes,
            missing: takes,
        };
        arriving.make_room(asked, now, &holdings);
        arrivals.map(|arrival| arrival.ousted().is_cancelled())
    }

    const ANA: (&str, &str) = ("a", "ana");
    const BETO: (&str, &str) = ("a", "beto");
    const OTHER: (&str, &str) = ("b", "ana");

    #[test]
    fn for_who_has_none_only_what_is_slow_ends() {
        let mb = 1 << 20;
        for (seconds, bytes, is_ended) in [
            (2, 0, false),
            (3, 0, true),
            (3, 3 * SLOW - 1, true),
            (3, 3 * SLOW, false),
            (100, 99 * SLOW, true),
            (100, 100 * SLOW, false),
        ] {
            let found = ended(OTHER, mb, [(ANA, mb, seconds, bytes)]);
            assert_eq!(found, [is_ended], "{seconds} {bytes}");
            let of_colleague = ended(BETO, mb, [(ANA, mb, seconds, bytes)]);
            assert_eq!(of_colleague, [false], "who holds as little");
        }
    }

    #[test]
    fn who_holds_most_makes_room_first_and_no_more_than_is_needed() {
        let uploads = [
            (ANA, 10, 50, 100),
            (OTHER, 10, 50, 5),
            (OTHER, 10, 50, 300),
            (OTHER, 10, 50, 200),
        ];
        let none = ("c", "ana");
        assert_eq!(ended(none, 0, uploads), [false; 4]);
        assert_eq!(ended(none, 10, uploads), [false, true, false, false]);
        assert_eq!(ended(none, 11, uploads), [false, true, false, true]);
        assert_eq!(ended(none, 31, uploads), [true; 4]);
        assert_eq!(ended(none, 41, uploads), [false; 4], "in vain");
    }

    #[test]
    fn who_would_still_hold_less_is_let_in_however_fast_the_others_are() {
        let fast = 100 * SLOW;
        let held = |own: u64| {
            [
                (OTHER, own, 1, 0),
                (ANA, 10, 50, 50 * fast),
                (ANA, 10, 50, 50 * fast),
                (ANA, 10, 2, 0),
            ]
        };
        assert_eq!(ended(OTHER, 10, held(19)), [false, true, false, false]);
        assert_eq!(
            ended(OTHER, 10, held(20)),
            [false; 4],
            "it would be the other way round"
        );
        // Of two it has to hold for the second as well.
        assert_eq!(ended(OTHER, 12, held(7)), [false, true, true, false]);
        assert_eq!(ended(OTHER, 12, held(8)), [false; 4]);
    }

    #[test]
    fn a_colleague_is_let_in_by_who_holds_most_of_their_tenant() {
        let uploads = [
            (ANA, 10, 50, 0),
            (ANA, 10, 50, 9_000),
            (("a", "carl"), 10, 50, 0),
            (OTHER, 15, 50, 0),
        ];
        assert_eq!(ended(BETO, 10, uploads), [true, false, false, false]);
        assert_eq!(ended(BETO, 20, uploads), [false; 4]);
        assert_eq!(
            ended(("a", "carl"), 5, uploads),
            [true, false, false, false]
        );
        assert_eq!(ended(("a", "carl"), 10, uploads), [false; 4]);
        assert_eq!(
            ended(ANA, 5, uploads),
            [false; 4],
            "nobody makes room for themselves"
        );
    }

    #[test]
    fn what_is_here_is_left_alone() {
        let mut arriving = Arriving::default();
        let begin = Clock::manual().instant();
        let arrival = arriving.begin(owner(ANA), 10, begin);
        arriving.end(&arrival);
        let asked = Asked {
            owner: &owner(OTHER),
            takes: 10,
            missing: 10,
        };
        let now = begin + Duration::from_secs(100);
        arriving.make_room(asked, now, &Holdings::default());
        assert!(!arrival.ousted().is_cancelled());
    }
}
