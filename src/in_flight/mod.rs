//! The memory of all uploads that are under way (`images.in_flight_bytes`). An upload reserves what
//! it may need before its body is read, and gives it back when the last handle on its bytes is
//! dropped, wherever that is. Whose turn it is when there is too little is `waiting.rs`'s rule.

mod waiting;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::sync::oneshot;

use crate::{clock::Clock, tenants::TenantId};

use waiting::{Ticket, Waiting};

/// What an upload holds beside its image: what has come and isn't taken yet, and what is encoded and not sent yet.
pub const BESIDE_IMAGE: u64 = 128 * 1024;

/// How long an upload waits for room.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bounds what all uploads hold together. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Parts>);

struct Parts {
    total: u64,
    /// What one upload may need: so much is only for tenants that have none under way.
    kept: u64,
    ledger: Mutex<Ledger>,
    clock: Clock,
    in_flight: Gauge,
    waiting: Gauge,
    refused: Family<ReasonLabel, Counter>,
}

#[derive(Default)]
struct Ledger {
    held: u64,
    tenants: HashMap<TenantId, Holding>,
    waiting: Waiting<oneshot::Sender<Reservation>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Holding {
    bytes: u64,
    uploads: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// No room came free in time, or too many wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the uploads that are under way hold all of `images.in_flight_bytes`")]
pub struct Full;

/// Why an upload was ended before it was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was no room for it.
    Overloaded,
    /// It came more slowly than `images.min_rate`.
    TooSlow,
    /// Nothing came for `images.idle_timeout`.
    Idle,
    /// The client left, or its body ended early.
    Incomplete,
    /// It was larger than it may be.
    TooLarge,
    /// What came is no upload.
    Malformed,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Overloaded,
        Self::TooSlow,
        Self::Idle,
        Self::Incomplete,
        Self::TooLarge,
        Self::Malformed,
    ];

    const fn label(self) -> ReasonLabel {
        let reason = self.as_str();
        ReasonLabel { reason }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::TooSlow => "too-slow",
            Self::Idle => "idle",
            Self::Incomplete => "incomplete",
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
        }
    }
}

impl Budget {
    /// So many bytes for all uploads, of which one may need so many.
    #[must_use]
    pub fn new(total: u64, largest: u64, clock: Clock, metrics: &mut MetricRegistry) -> Self {
        let (in_flight, waiting) = (Gauge::default(), Gauge::default());
        let refused = Family::<ReasonLabel, Counter>::default();
        // Every series is there from the start, so that a first refusal is an increase.
        for reason in Reason::ALL {
            let _ = refused.get_or_create(&reason.label());
        }
        let limit = Gauge::<i64>::default();
        limit.set(i64::try_from(total).unwrap_or(i64::MAX));
        metrics.register(
            "llavero_uploads_in_flight_limit_bytes",
            "What uploads under way may reserve together: images.in_flight_bytes",
            limit,
        );
        metrics.register(
            "llavero_uploads_in_flight_bytes",
            "Memory that uploads under way have reserved",
            in_flight.clone(),
        );
        metrics.register(
            "llavero_uploads_waiting",
            "Uploads that wait for memory",
            waiting.clone(),
        );
        metrics.register(
            "llavero_uploads_refused",
            "Uploads that were ended before they were whole",
            refused.clone(),
        );
        Self(Arc::new(Parts {
            total,
            kept: largest.saturating_add(BESIDE_IMAGE).min(total),
            ledger: Mutex::default(),
            clock,
            in_flight,
            waiting,
            refused,
        }))
    }

    /// So many bytes for an upload of that tenant, and what it holds beside them, where they are free within two
    /// seconds: more than there are in all are as many as there are. Dropped, it waits no more.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn reserve(&self, tenant: &TenantId, bytes: u64) -> Result<Reservation, Full> {
        let until = self.0.clock.instant() + PATIENCE;
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let mut ledger = self.ledger();
            let (ticket, displaced) = ledger
                .waiting
                .push(
                    tenant.clone(),
                    bytes.saturating_add(BESIDE_IMAGE).min(self.0.total),
                    sender,
                )
                .ok_or(Full)?;
            self.tell(&ledger);
            drop(ledger);
            // Whose it is, is told by that.
            drop(displaced);
            ticket
        };
        let _place = Place {
            budget: self,
            ticket,
        };
        self.give_turns(None);
        match self.0.clock.before(until, receiver).await {
            Some(Ok(reservation)) => Ok(reservation),
            Some(Err(_)) | None => Err(Full),
        }
    }

    /// Counts an upload that was ended.
    pub fn count(&self, reason: Reason) {
        self.0.refused.get_or_create(&reason.label()).inc();
    }

    /// Lets in who may come in now. The first whose image the memory suits that another one leaves gets it; else it is
    /// freed first.
    fn give_turns(&self, left: Option<BytesMut>) {
        let mut left = left;
        loop {
            let mut ledger = self.ledger();
            let Ledger {
                held,
                tenants,
                waiting,
            } = &mut *ledger;
            let holds = |tenant: &TenantId| tenants.get(tenant).copied().unwrap_or_default();
            let next = waiting.pop_if(
                |tenant| holds(tenant).bytes,
                |tenant, bytes| {
                    let kept = match holds(tenant).uploads {
                        0 => 0,
                        _ => self.0.kept,
                    };
                    held.saturating_add(bytes).saturating_add(kept) <= self.0.total
                },
            );
            let Some((tenant, bytes, sender)) = next else {
                return;
            };
            let suits = |left: &mut BytesMut| {
                let capacity = left.capacity() as u64;
                (bytes.saturating_sub(BESIDE_IMAGE)..=bytes).contains(&capacity)
            };
            let memory = left.take_if(suits);
            *held += bytes;
            let holding = tenants.entry(tenant.clone()).or_default();
            holding.bytes += bytes;
            holding.uploads += 1;
            self.tell(&ledger);
            drop(ledger);
            let reservation = Reservation {
                budget: self.clone(),
                tenant,
                bytes,
                memory,
            };
            // The room is given anew: what isn't handed on must not hold it as well.
            drop(left.take());
            // Who has left gives it back by not taking it. That needs the lock.
            drop(sender.send(reservation));
        }
    }

    fn give_back(&self, tenant: &TenantId, bytes: u64, is_last: bool, memory: Option<BytesMut>) {
        let mut ledger = self.ledger();
        ledger.held -= bytes;
        if let Some(holding) = ledger.tenants.get_mut(tenant) {
            holding.bytes -= bytes;
            holding.uploads -= usize::from(is_last);
            if holding.uploads == 0 {
                ledger.tenants.remove(tenant);
            }
        }
        self.tell(&ledger);
        drop(ledger);
        self.give_turns(memory);
    }

    fn tell(&self, ledger: &Ledger) {
        let held = i64::try_from(ledger.held).unwrap_or(i64::MAX);
        self.0.in_flight.set(held);
        let waiting = i64::try_from(ledger.waiting.len()).unwrap_or(i64::MAX);
        self.0.waiting.set(waiting);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("total", &self.0.total)
            .finish_non_exhaustive()
    }
}

/// A place in the queue, which is given up when dropped.
struct Place<'a> {
    budget: &'a Budget,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut ledger = self.budget.ledger();
        let left = ledger.waiting.remove(self.ticket);
        self.budget.tell(&ledger);
        drop(ledger);
        if left {
            // It may have stood before somebody for whom there is room.
            self.budget.give_turns(None);
        }
    }
}

/// Room for one upload, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    tenant: TenantId,
    bytes: u64,
    /// What another upload left, which had this room before.
    memory: Option<BytesMut>,
}

impl Reservation {
    /// Memory for an image of so many bytes at most: that of the upload before, where it suits, or new. What the allocator
    /// is given back it gives back in its own time, and until then both would be held.
    #[must_use]
    pub fn memory(&mut self, bytes: usize) -> BytesMut {
        let left = self.memory.take().filter(|left| left.capacity() >= bytes);
        // All at once, so that it never moves. Pages that nothing is written to take no memory.
        left.unwrap_or_else(|| BytesMut::with_capacity(bytes))
    }

    /// Keeps so many bytes, and gives the others back.
    pub fn settle(&mut self, bytes: u64) {
        let kept = bytes.saturating_add(BESIDE_IMAGE);
        let surplus = self.bytes.saturating_sub(kept);
        if surplus > 0 {
            self.bytes -= surplus;
            self.budget.give_back(&self.tenant, surplus, false, None);
        }
    }

    /// Those bytes, whose last handle gives the room back.
    #[must_use]
    pub fn hold(mut self, bytes: BytesMut) -> Bytes {
        self.settle(bytes.len() as u64);
        Bytes::from_owner(Held {
            bytes,
            reservation: self,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let memory = self.memory.take();
        self.budget
            .give_back(&self.tenant, self.bytes, true, memory);
    }
}

/// Bytes and the room that they take, which is given back with their memory.
struct Held {
    bytes: BytesMut,
    reservation: Reservation,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.bytes);
        memory.clear();
        self.reservation.memory = Some(memory);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, task::Poll};

    use futures_util::future::poll_immediate;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LARGEST: u64 = 12 * MIB + 64 * 1024;

    fn budget(total: u64) -> (Budget, Clock) {
        let clock = Clock::manual();
        let metrics = &mut MetricRegistry::default();
        (Budget::new(total, LARGEST, clock.clone(), metrics), clock)
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().expect("an id")
    }

    /// The reservation where there is room for it now.
    fn now(budget: &Budget, name: &str, bytes: u64) -> Option<Reservation> {
        let tenant = tenant(name);
        let mut reserving = Box::pin(budget.reserve(&tenant, bytes));
        match poll(&mut reserving) {
            Poll::Ready(reserved) => reserved.ok(),
            Poll::Pending => None,
        }
    }

    fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
        let waker = std::task::Waker::noop();
        future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
    }

    fn held(budget: &Budget) -> i64 {
        budget.0.in_flight.get()
    }

    #[test]
    fn sixty_four_photos_of_one_user_fit_into_the_default() {
        let (budget, _clock) = budget(512 * MIB);
        let reserved: Vec<_> = (0..64)
            .filter_map(|_| now(&budget, "a", 8_000_500))
            .collect();
        assert_eq!(reserved.len(), 64);
        assert_eq!(held(&budget), 64 * (8_000_500 + BESIDE_IMAGE as i64));
        drop(reserved);
        assert_eq!(held(&budget), 0);
        assert!(
            budget.ledger().tenants.is_empty(),
            "nothing is left of who is gone"
        );
    }

    #[test]
    fn the_last_of_it_is_for_who_has_none() {
        let (budget, _clock) = budget(100 * MIB);
        let mine: Vec<_> = (0..100).map_while(|_| now(&budget, "a", 8 * MIB)).collect();
        assert_eq!(mine.len(), 10, "88 MiB but 192 KiB are for anybody");
        let other = now(&budget, "b", 12 * MIB);
        assert!(other.is_some());
        assert!(now(&budget, "b", 1).is_none(), "it has one now");
        assert!(now(&budget, "c", 6 * MIB).is_some());
        assert_eq!(held(&budget), (92 * MIB + 11 * BESIDE_IMAGE) as i64);
    }

    #[test]
    fn who_holds_least_comes_first_and_then_who_came_first() {
        let (budget, _clock) = budget(40 * MIB);
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let first = now(&budget, "a", 12 * MIB).expect("there is room");
        let second = now(&budget, "a", 12 * MIB).expect("there is room");
        let third = now(&budget, "b", 12 * MIB).expect("there is room");
        let mut of_a = Box::pin(budget.reserve(&a, 8 * MIB));
        let mut of_b = Box::pin(budget.reserve(&b, 8 * MIB));
        let mut of_c = [(); 2].map(|()| Box::pin(budget.reserve(&c, 8 * MIB)));
        let [one, other] = &mut of_c;
        assert!(poll(&mut of_a).is_pending());
        assert!(poll(&mut of_b).is_pending());
        assert!(poll(one).is_pending());
        assert!(poll(other).is_pending());
        drop(first);
        let Poll::Ready(Ok(_kept)) = poll(one) else {
            panic!("who holds nothing comes first");
        };
        assert!(poll(other).is_pending(), "and then holds some");
        assert!(poll(&mut of_b).is_pending());
        drop(second);
        assert!(poll(&mut of_a).is_ready(), "who holds nothing now");
        assert!(poll(other).is_pending());
        drop(third);
        assert!(poll(&mut of_b).is_ready());
    }

    #[tokio::test]
    async fn who_waits_is_refused_in_two_seconds_or_leaves() {
        let (budget, clock) = budget(20 * MIB);
        let a = tenant("a");
        let first = now(&budget, "a", 12 * MIB).expect("there is room");
        let mut waits = Box::pin(budget.reserve(&a, 12 * MIB));
        assert!(poll(&mut waits).is_pending());
        clock.advance(PATIENCE - Duration::from_millis(1));
        assert!(poll_immediate(&mut waits).await.is_none());
        clock.advance(Duration::from_millis(1));
        assert_eq!(waits.await.map(drop), Err(Full));
        let mut leaves = Box::pin(budget.reserve(&a, 12 * MIB));
        assert!(poll(&mut leaves).is_pending());
        let mut stays = Box::pin(budget.reserve(&a, 4 * MIB));
        assert!(poll(&mut stays).is_pending());
        drop(first);
        // It was let in, and never knew.
        drop(leaves);
        assert!(poll(&mut stays).is_ready());
        assert_eq!(held(&budget), 0);
    }

    #[test]
    fn who_leaves_lets_those_behind_in() {
        let (budget, _clock) = budget(30 * MIB);
        let (a, b) = (tenant("a"), tenant("b"));
        let _first = now(&budget, "a", 12 * MIB).expect("there is room");
        let mut large = Box::pin(budget.reserve(&a, 12 * MIB));
        assert!(poll(&mut large).is_pending());
        let mut small = Box::pin(budget.reserve(&a, MIB));
        assert!(
            poll(&mut small).is_pending(),
            "it doesn't pass the large one"
        );
        assert!(poll(&mut Box::pin(budget.reserve(&b, MIB))).is_ready());
        drop(large);
        assert!(poll(&mut small).is_ready());
    }

    #[test]
    fn what_is_not_needed_goes_back_at_once_and_the_rest_with_the_last_clone() {
        let (budget, _clock) = budget(20 * MIB);
        let reservation = now(&budget, "a", 12 * MIB).expect("there is room");
        let bytes = reservation.hold(BytesMut::from(&b"photo"[..]));
        assert_eq!(held(&budget), 5 + BESIDE_IMAGE as i64);
        let mut clone = bytes.clone();
        let part = clone.split_to(2);
        drop((bytes, clone));
        assert_eq!(held(&budget), 5 + BESIDE_IMAGE as i64);
        assert_eq!(part, "ph");
        drop(part);
        assert_eq!(held(&budget), 0);
    }

    #[test]
    fn who_waited_gets_the_memory_with_the_room_where_it_suits() {
        const SIZE: usize = 8 << 20;
        for (next, is_handed_on) in [
            (SIZE, true),
            (SIZE - 1000, true),
            (SIZE + 1, false),
            (SIZE / 2, false),
        ] {
            let (budget, _clock) = budget(24 * MIB);
            let a = tenant("a");
            let mut first = now(&budget, "a", SIZE as u64).expect("there is room");
            let mut memory = first.memory(SIZE);
            memory.extend_from_slice(&[7; SIZE]);
            let (at, photo) = (memory.as_ptr(), first.hold(memory));
            let mut waits = Box::pin(budget.reserve(&a, next as u64));
            assert!(poll(&mut waits).is_pending());
            drop(photo);
            let Poll::Ready(Ok(mut second)) = poll(&mut waits) else {
                panic!("there is room");
            };
            assert_eq!(second.memory.is_some(), is_handed_on, "{next}");
            let memory = second.memory(next);
            assert!(memory.is_empty() && memory.capacity() >= next);
            assert!(!is_handed_on || memory.as_ptr() == at, "{next}");
        }
    }

    #[test]
    fn memory_that_was_handed_on_is_not_made_to_grow() {
        const SIZE: usize = 8 << 20;
        let (budget, _clock) = budget(24 * MIB);
        let a = tenant("a");
        let mut first = now(&budget, "a", SIZE as u64).expect("there is room");
        let mut memory = first.memory(SIZE);
        memory.extend_from_slice(&[7; SIZE]);
        let photo = first.hold(memory);
        let mut waits = Box::pin(budget.reserve(&a, SIZE as u64));
        assert!(poll(&mut waits).is_pending());
        drop(photo);
        let Poll::Ready(Ok(mut next)) = poll(&mut waits) else {
            panic!("there is room");
        };
        assert!(next.memory.is_some(), "it suits");
        let memory = next.memory(SIZE + 1);
        assert!(memory.capacity() > SIZE, "it is another one");
    }

    #[test]
    fn more_than_all_is_all() {
        let (budget, _clock) = budget(12 * MIB);
        let first = now(&budget, "a", LARGEST).expect("it is alone");
        assert!(now(&budget, "b", 1).is_none());
        drop(first);
        assert!(now(&budget, "b", 1).is_some());
    }
}
