//! The memory of all uploads that are under way (`images.in_flight_bytes`). An upload reserves what it may need before
//! its body is read, and gives it back when the last handle on its bytes is dropped, wherever that is. `ledger.rs` keeps
//! the account; whose turn it is when there is too little is `waiting.rs`'s rule.
//!
//! It is shared fairly between tenants, and between the users of each (`holdings.rs`). Uploads that take long make room
//! for whoever holds less (`arriving.rs`): else whoever lets many trickle keeps all others out.
//!
//! The memory of an upload that is over is kept for the next ones for a moment (`spares.rs`), within the same bound: it
//! is freed as soon as its room is needed.
//!
//! Bodies that are read whole have a bound of their own (`bodies.rs`).

mod arriving;
mod bodies;
mod buffer;
mod holdings;
mod ledger;
mod memory;
mod refused;
mod spares;
mod waiting;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry as MetricRegistry};
use tokio::sync::{Notify, oneshot};

use crate::clock::Clock;

pub use bodies::{Bodies, Crowded, Share};
pub use buffer::Buffer;
pub use holdings::Owner;
pub use refused::Reason;

use arriving::Arrival;
use ledger::{Admitted, Ledger};
use memory::Memory;
use refused::Refused;
use waiting::Ticket;

/// What an upload holds beside its image: what has come and isn't taken yet, and what is encoded and not sent yet.
pub const BESIDE_IMAGE: u64 = 128 * 1024;

/// How long an upload waits for room.
const PATIENCE: Duration = Duration::from_secs(2);

/// Address space costs nothing but where it is limited, and few uploads are smaller.
const LEAST_CAPACITY: usize = 256 * 1024;

/// How long memory is kept that nobody takes, and at most twice as long.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// Bounds what all uploads hold together. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Parts>);

struct Parts {
    /// The largest image.
    largest: usize,
    ledger: Mutex<Ledger>,
    /// There is memory that nobody has.
    spared: Notify,
    clock: Clock,
    in_flight: Gauge,
    waiting: Gauge,
    refused: Refused,
}

/// Why there is no room for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// None came free in time.
    #[error("the uploads that are under way hold all of `images.in_flight_bytes`")]
    Taken,
    /// There is some, which is for tenants that have no upload under way.
    #[error(
        "what is left of `images.in_flight_bytes` is kept for tenants that have no upload under way"
    )]
    Kept,
    /// Too many wait for it, and most of them are this caller's, or its tenant's.
    #[error("too many uploads wait for room in `images.in_flight_bytes`")]
    Queue,
    /// The system doesn't give what the settings allow.
    #[error("the system gives no memory for an upload, within `images.in_flight_bytes`")]
    NoMemory,
}

impl Budget {
    /// So many bytes for all uploads, of which one may need so many.
    #[must_use]
    pub fn new(total: u64, largest: u64, clock: Clock, metrics: &mut MetricRegistry) -> Self {
        let (in_flight, waiting) = (Gauge::default(), Gauge::default());
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
        Self(Arc::new(Parts {
            largest: usize::try_from(largest).unwrap_or(usize::MAX),
            ledger: Mutex::new(Ledger::new(total, largest)),
            spared: Notify::new(),
            clock,
            in_flight,
            waiting,
            refused: Refused::new(metrics),
        }))
    }

    /// Room for an upload of that owner that has so many bytes at most, and for what it holds beside them, where it is free
    /// within two seconds: more than there is in all is all there is. Dropped, it waits no more.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn reserve(&self, owner: &Owner, bytes: u64) -> Result<Buffer, Full> {
        let begun = self.0.clock.instant();
        let (sender, mut receiver) = oneshot::channel();
        let (takes, ticket) = {
            let mut ledger = self.ledger();
            let takes = ledger.room.takes(bytes);
            let queued = ledger.queue(owner, takes, sender);
            let (ticket, displaced) = queued.ok_or(Full::Queue)?;
            self.tell(&ledger);
            drop(ledger);
            // That tells whoever waits for it.
            drop(displaced);
            (takes, ticket)
        };
        let _place = Place {
            budget: self,
            ticket,
        };
        self.give_turns();
        // Twice, since what has just begun may take long as well.
        for until in [PATIENCE / 2, PATIENCE] {
            let now = self.0.clock.instant();
            self.ledger().make_room(owner, takes, now);
            match self.0.clock.before(begun + until, &mut receiver).await {
                Some(Ok(buffer)) => return self.with_memory(buffer, bytes),
                Some(Err(_)) => return Err(Full::Queue),
                None => {}
            }
        }
        Err(match self.ledger().room.has(takes) {
            true => Full::Kept,
            false => Full::Taken,
        })
    }

    fn with_memory(&self, buffer: Buffer, bytes: u64) -> Result<Buffer, Full> {
        buffer
            .with_memory(|| self.0.capacity_for(bytes))
            .map_err(|_| Full::NoMemory)
    }

    /// Counts an upload that was ended.
    pub fn count(&self, reason: Reason) {
        self.0.refused.count(reason);
    }

    /// Gives memory back to the system that nobody has taken for a while. Without end.
    pub async fn keep_lean(self) {
        loop {
            let until = self.0.clock.instant() + SPARED_FOR;
            self.0.clock.sleep_until(until).await;
            let (gone, is_all) = {
                let mut ledger = self.ledger();
                (ledger.spares.age(), ledger.spares.is_empty())
            };
            if !gone.is_empty() {
                // It takes a tenth of a millisecond for each MB.
                let _ = tokio::task::spawn_blocking(move || drop(gone)).await;
            }
            if is_all {
                self.0.spared.notified().await;
            }
        }
    }

    /// Lets in who may come in now.
    fn give_turns(&self) {
        loop {
            let mut ledger = self.ledger();
            let Some(admitted) = ledger.admit(self.0.clock.instant()) else {
                return;
            };
            self.tell(&ledger);
            drop(ledger);
            let Admitted {
                sender,
                owner,
                bytes,
                arrival,
                left,
                gone,
            } = admitted;
            drop(gone);
            // Who has left gives it back by not taking it. That needs the lock.
            drop(sender.send(Buffer::new(self.clone(), owner, bytes, arrival, left)));
        }
    }

    /// Takes back room that an upload doesn't need which has arrived.
    fn arrived(&self, owner: &Owner, surplus: u64, arrival: Option<Arrival>) {
        let mut ledger = self.ledger();
        ledger.arrived(owner, surplus, arrival);
        self.tell(&ledger);
        drop(ledger);
        self.give_turns();
    }

    /// Takes back the room of an upload that is over, and its memory.
    fn leave(&self, owner: &Owner, bytes: u64, arrival: Option<Arrival>, left: Option<Memory>) {
        let has_left = left.is_some();
        let mut ledger = self.ledger();
        let gone = ledger.leave(owner, bytes, arrival, left);
        self.tell(&ledger);
        drop(ledger);
        if has_left {
            self.0.spared.notify_one();
        }
        drop(gone);
        self.give_turns();
    }

    fn tell(&self, ledger: &Ledger) {
        let held = i64::try_from(ledger.room.held()).unwrap_or(i64::MAX);
        self.0.in_flight.set(held);
        let waiting = i64::try_from(ledger.waiting()).unwrap_or(i64::MAX);
        self.0.waiting.set(waiting);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").finish_non_exhaustive()
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
        let left = ledger.unqueue(self.ticket);
        self.budget.tell(&ledger);
        drop(ledger);
        if left {
            // It may have stood before somebody for whom there is room.
            self.budget.give_turns();
        }
    }
}

impl Parts {
    /// How large memory for so many bytes is, such that it suits others too: a power of two, or what suits all.
    fn capacity_for(&self, bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let capacity = bytes.max(LEAST_CAPACITY).checked_next_power_of_two();
        capacity.map_or(self.largest, |capacity| {
            capacity.min(self.largest).max(bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::{Pin, pin},
        task::Poll,
    };

    use bytes::Bytes;
    use futures_util::future::poll_immediate;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LARGEST: u64 = 12 * MIB + 64 * 1024;

    fn budget(total: u64) -> (Budget, Clock) {
        let clock = Clock::manual();
        let metrics = &mut MetricRegistry::default();
        (Budget::new(total, LARGEST, clock.clone(), metrics), clock)
    }

    /// A user of that tenant.
    fn owner(tenant: &str) -> Owner {
        let tenant = tenant.parse().expect("an id");
        Owner::new(tenant, "https://issuer".into(), "ana".into())
    }

    /// A buffer, where there is room for it now.
    fn now(budget: &Budget, name: &str, bytes: u64) -> Option<Buffer> {
        let owner = owner(name);
        let mut reserving = Box::pin(budget.reserve(&owner, bytes));
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
            budget.ledger().room.holdings.is_empty(),
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
        let (a, b, c) = (owner("a"), owner("b"), owner("c"));
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
        let a = owner("a");
        let first = now(&budget, "a", 12 * MIB).expect("there is room");
        let mut waits = Box::pin(budget.reserve(&a, 12 * MIB));
        assert!(poll(&mut waits).is_pending());
        clock.advance(PATIENCE - Duration::from_millis(1));
        assert!(poll_immediate(&mut waits).await.is_none());
        clock.advance(Duration::from_millis(1));
        assert_eq!(waits.await.map(drop), Err(Full::Taken));
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
        let (a, b) = (owner("a"), owner("b"));
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

    /// A photo that has arrived.
    fn photo(budget: &Budget, name: &str, bytes: usize) -> Bytes {
        let mut buffer = now(budget, name, bytes as u64).expect("there is room");
        buffer.extend_from_slice(&vec![7; bytes]);
        buffer.freeze()
    }

    fn spared(budget: &Budget) -> Vec<u64> {
        let all = budget.ledger().spares.beyond(0);
        all.iter().map(Memory::touched).collect()
    }

    #[test]
    fn what_is_not_needed_goes_back_at_once_and_the_rest_with_the_last_clone() {
        let (budget, _clock) = budget(20 * MIB);
        let mut buffer = now(&budget, "a", 12 * MIB).expect("there is room");
        buffer.extend_from_slice(b"photo");
        let bytes = buffer.freeze();
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
    fn what_was_written_is_held_though_it_was_cut() {
        let (budget, _clock) = budget(20 * MIB);
        let mut buffer = now(&budget, "a", 12 * MIB).expect("there is room");
        buffer.extend_from_slice(&[7; 1000]);
        buffer.truncate(10);
        buffer.settle();
        assert_eq!(held(&budget), 1000 + BESIDE_IMAGE as i64);
        assert_eq!(*buffer, [7; 10]);
        drop(buffer);
        assert_eq!(held(&budget), 0);
    }

    #[test]
    fn what_is_made_of_an_image_has_its_room() {
        let (budget, _clock) = budget(20 * MIB);
        let mut buffer = now(&budget, "a", 12 * MIB).expect("there is room");
        buffer.extend_from_slice(&[7; 1000]);
        buffer.clear();
        assert!(buffer.is_empty());
        assert_eq!(held(&budget), (12 * MIB + BESIDE_IMAGE) as i64);
        buffer.replace(vec![8; 100]);
        let bytes = buffer.freeze();
        assert_eq!(bytes, [8; 100][..]);
        assert_eq!(held(&budget), 100 + BESIDE_IMAGE as i64);
        drop(bytes);
        assert_eq!(held(&budget), 0);
        assert!(spared(&budget).is_empty(), "the memory went before");
    }

    #[test]
    fn the_next_upload_gets_the_memory_of_the_one_before() {
        const SIZE: usize = 7 << 20;
        for (next, is_handed_on, takes) in [
            (SIZE, true, SIZE),
            (SIZE + 1, true, SIZE + 1),
            // It has no room for that.
            ((8 << 20) + 1, false, (8 << 20) + 1),
            // It counts as what it takes, which is less than twice as much, and half of all is free.
            (SIZE - 1, true, SIZE),
            (SIZE / 2, true, SIZE),
            (SIZE / 2 - 1, false, SIZE / 2 - 1),
        ] {
            let (budget, _clock) = budget(24 * MIB);
            let at = {
                let first = photo(&budget, "a", SIZE);
                first.as_ptr()
            };
            let second = photo(&budget, "b", next);
            assert_eq!(second.as_ptr() == at, is_handed_on, "{next}");
            assert_eq!(second, vec![7; next]);
            let takes = takes as u64 + BESIDE_IMAGE;
            assert_eq!(held(&budget), takes as i64, "{next}");
        }
    }

    #[test]
    fn memory_that_nobody_has_never_takes_room() {
        let (budget, _clock) = budget(24 * MIB);
        let photos = [("a", 9 << 20), ("b", 5 << 20), ("c", 4 << 20)];
        drop(photos.map(|(name, size)| photo(&budget, name, size)));
        let large = photo(&budget, "a", 12 << 20);
        // What is left takes more than was asked for, and half of all is held.
        let small = photo(&budget, "b", 2 << 20);
        let takes = 14 * MIB + 2 * BESIDE_IMAGE;
        assert_eq!(held(&budget), takes as i64, "it counts as what it is");
        // With 9 MiB of them less than an eighth of all were free.
        assert_eq!(spared(&budget), [4 * MIB], "one grew, one was in the way");
        drop((large, small));
        let photos = [("a", 12 << 20), ("b", 10 << 20)];
        drop(photos.map(|(name, size)| photo(&budget, name, size)));
        assert_eq!(spared(&budget), [10 * MIB], "both would take all of it");
    }

    #[tokio::test]
    async fn memory_that_nobody_takes_goes_back_to_the_system() {
        let (budget, clock) = budget(24 * MIB);
        let mut lean = pin!(budget.clone().keep_lean());
        let mut passes = async |seconds: u32| {
            for _ in 0..seconds {
                assert!(poll_immediate(&mut lean).await.is_none());
                clock.advance(SPARED_FOR);
            }
            assert!(poll_immediate(&mut lean).await.is_none());
        };
        passes(3).await;
        drop(photo(&budget, "a", 1000));
        passes(1).await;
        assert!(!budget.ledger().spares.is_empty(), "the next one may come");
        passes(1).await;
        assert!(budget.ledger().spares.is_empty());
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
