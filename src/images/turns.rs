//! Whose photo is looked at, or made smaller, next: as many at once as there are places, in no more memory than
//! there is for all, and tenants take turns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::oneshot, task::JoinError};

use crate::{
    fair::{FairQueue, Ticket},
    tenants::TenantId,
};

/// Places and memory, both bounded. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    places: usize,
    bytes: u64,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    taken: usize,
    held: u64,
    waiting: FairQueue<TenantId, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    sender: oneshot::Sender<Turn>,
}

/// A place, and memory that may be used in it; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    bytes: u64,
}

impl Turns {
    /// So many at once, in so many bytes together.
    pub(super) fn new(places: usize, bytes: u64) -> Self {
        Self(Arc::new(Parts {
            places,
            bytes,
            ledger: Mutex::default(),
        }))
    }

    /// That tenant's turn, with so many bytes: more than there are in all are as many as there are, so that it is alone.
    /// Dropped, it waits no more.
    pub(super) async fn take(&self, tenant: &TenantId, bytes: u64) -> Turn {
        let (sender, receiver) = oneshot::channel();
        let bytes = bytes.min(self.0.bytes);
        let waiter = Waiter { bytes, sender };
        let ticket = self.ledger().waiting.push(tenant.clone(), waiter);
        let _place = Place {
            turns: self,
            ticket,
        };
        self.give();
        match receiver.await {
            Ok(turn) => turn,
            // Nobody takes a waiter out but by giving it its turn, or with its place.
            Err(_) => std::future::pending().await,
        }
    }

    /// Does what takes so many bytes when it is that tenant's turn, on a thread that may be busy. The turn
    /// lasts until it is done, even if nobody waits for it any more.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.take(tenant, bytes).await;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await
    }

    /// Gives turns to those who may have them now.
    fn give(&self) {
        loop {
            let mut ledger = self.ledger();
            let Ledger {
                taken,
                held,
                waiting,
            } = &mut *ledger;
            let has_room =
                |next: &Waiter| *taken < self.0.places && *held + next.bytes <= self.0.bytes;
            let Some(Waiter { bytes, sender }) = waiting.pop_if(has_room) else {
                return;
            };
            *taken += 1;
            *held += bytes;
            drop(ledger);
            let turns = self.clone();
            // Who has left gives it back by not taking it. That needs the lock.
            drop(sender.send(Turn { turns, bytes }));
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut ledger = self.turns.ledger();
        ledger.taken -= 1;
        ledger.held -= self.bytes;
        drop(ledger);
        self.turns.give();
    }
}

/// A place in the queue, which is given up when dropped.
struct Place<'a> {
    turns: &'a Turns,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.turns.ledger().waiting.remove(self.ticket);
        if left.is_some() {
            // It may have stood before somebody for whom there is room.
            self.turns.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::BoxFuture, poll};

    use super::*;

    /// A turn that is asked for.
    fn asked(turns: &Turns, tenant: &str, bytes: u64) -> BoxFuture<'static, Turn> {
        let (turns, tenant) = (turns.clone(), tenant.parse().expect("an id"));
        let mut asked = async move { turns.take(&tenant, bytes).await }.boxed();
        // What isn't polled hasn't joined.
        match asked.as_mut().now_or_never() {
            Some(turn) => std::future::ready(turn).boxed(),
            None => asked,
        }
    }

    fn has_it(asked: &mut BoxFuture<'static, Turn>) -> Option<Turn> {
        asked.as_mut().now_or_never()
    }

    #[tokio::test]
    async fn no_more_go_on_at_once_than_there_are_places() {
        let turns = Turns::new(2, 100);
        let first = asked(&turns, "a", 1).await;
        let _second = asked(&turns, "a", 1).await;
        let mut third = asked(&turns, "a", 1);
        assert!(poll!(&mut third).is_pending());
        drop(first);
        assert!(has_it(&mut third).is_some());
    }

    #[tokio::test]
    async fn no_more_memory_is_used_than_there_is() {
        let turns = Turns::new(8, 100);
        let first = asked(&turns, "a", 60).await;
        let second = asked(&turns, "a", 40).await;
        let mut third = asked(&turns, "a", 1);
        assert!(poll!(&mut third).is_pending(), "all of it is used");
        drop(second);
        let third = has_it(&mut third).expect("40 are free");
        let mut large = asked(&turns, "a", 1000);
        assert!(poll!(&mut large).is_pending());
        drop(first);
        assert!(poll!(&mut large).is_pending(), "it has to be alone");
        drop(third);
        let large = has_it(&mut large).expect("it is alone");
        let mut last = asked(&turns, "b", 1);
        assert!(poll!(&mut last).is_pending());
        drop(large);
        drop(has_it(&mut last).expect("all of it is free"));
        let ledger = turns.ledger();
        assert_eq!((ledger.taken, ledger.held), (0, 0));
    }

    #[tokio::test]
    async fn tenants_take_turns_however_many_photos_one_of_them_has() {
        let turns = Turns::new(1, 100);
        let mut now = asked(&turns, "many", 1).await;
        let mut many: Vec<_> = (0..50).map(|_| asked(&turns, "many", 1)).collect();
        let mut few: Vec<_> = (0..3).map(|_| asked(&turns, "few", 1)).collect();
        let mut order = Vec::new();
        while !few.is_empty() {
            drop(now);
            let of_few = few.first_mut().and_then(has_it);
            now = match of_few {
                Some(turn) => {
                    drop(few.remove(0));
                    order.push("few");
                    turn
                }
                None => {
                    order.push("many");
                    has_it(&mut many.remove(0)).expect("it is somebody's turn")
                }
            };
        }
        assert!(order.len() <= 6, "{order:?}");
    }

    #[tokio::test]
    async fn small_photos_do_not_pass_a_large_one_for_ever() {
        let turns = Turns::new(2, 100);
        let first = asked(&turns, "a", 50).await;
        let mut large = asked(&turns, "a", 80);
        let mut small = asked(&turns, "b", 10);
        // It is b's turn, and then nobody's before a's.
        let mut behind = asked(&turns, "b", 10);
        assert!(poll!(&mut large).is_pending());
        drop(first);
        let _large = has_it(&mut large).expect("it is its turn");
        let _small = has_it(&mut small).expect("it suits");
        assert!(poll!(&mut behind).is_pending(), "there are two places");
    }

    #[tokio::test]
    async fn who_leaves_the_queue_holds_nobody_up() {
        let turns = Turns::new(2, 100);
        let first = asked(&turns, "a", 60).await;
        let mut leaving = asked(&turns, "a", 60);
        let mut last = asked(&turns, "a", 40);
        assert!(poll!(&mut leaving).is_pending());
        assert!(poll!(&mut last).is_pending(), "it is behind");
        drop(leaving);
        let last = has_it(&mut last).expect("there is room for it");
        // One that was given its turn, and leaves without looking.
        let given = asked(&turns, "a", 60);
        drop((first, last));
        drop(given);
        assert!(has_it(&mut asked(&turns, "a", 100)).is_some());
    }
}
