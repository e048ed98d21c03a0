//! One fetch for any number of equal requests at once. The fetch is a task of its
//! own, so a caller who leaves takes nobody's answer along; a fetch that everybody
//! left is told so. A failure reaches those who waited, not those who come later.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::upstream::{Joining, Lane, Party};

/// The fetches under way. Nobody waits for them at the end of the process: what they
/// fetch is for callers, and by then there are none.
pub(super) struct Flights<K, T> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    begun: AtomicU64,
    tasks: TaskTracker,
}

struct Flight<T> {
    number: u64,
    outcome: Shared<BoxFuture<'static, Option<T>>>,
    waiting: usize,
    joining: Joining,
    abandoned: CancellationToken,
}

/// How an answer was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// This request began the fetch.
    Leader,
    /// It waited for somebody else's.
    Follower,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            under_way: Arc::default(),
            begun: AtomicU64::new(0),
            tasks: TaskTracker::new(),
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of `fetch`, or of an equal fetch that is under way; none where
    /// the fetch was torn down without one. The token that `fetch` gets is cancelled when
    /// nobody waits for it any more.
    pub(super) async fn join<F>(
        &self,
        key: K,
        lane: Lane,
        fetch: impl FnOnce(Party, CancellationToken) -> F,
    ) -> (Option<T>, Role)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (outcome, role, _interest) = {
            let mut flights = self.lock();
            let role = match flights.get(&key) {
                Some(flight) => {
                    flight.joining.join(lane.clone());
                    Role::Follower
                }
                None => Role::Leader,
            };
            let flight = self.begin(&mut flights, &key, lane, fetch);
            flight.waiting += 1;
            let interest = Interest {
                flights: self.under_way.clone(),
                key,
                number: flight.number,
            };
            (flight.outcome.clone(), role, interest)
        };
        (outcome.await, role)
    }

    /// Begins `fetch`, unless an equal one is under way, and waits for nothing. It is never abandoned.
    pub(super) fn start<F>(
        &self,
        key: K,
        lane: Lane,
        fetch: impl FnOnce(Party, CancellationToken) -> F,
    ) where
        F: Future<Output = T> + Send + 'static,
    {
        self.begin(&mut self.lock(), &key, lane, fetch).waiting += 1;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn begin<'a, F>(
        &self,
        flights: &'a mut HashMap<K, Flight<T>>,
        key: &K,
        lane: Lane,
        fetch: impl FnOnce(Party, CancellationToken) -> F,
    ) -> &'a mut Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        flights.entry(key.clone()).or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let abandoned = CancellationToken::new();
            let landing = Landing {
                flights: self.under_way.clone(),
                key: key.clone(),
                number,
            };
            let (party, joining) = Party::of(lane);
            let fetch = fetch(party, abandoned.clone());
            self.tasks.spawn(async move {
                let outcome = fetch.await;
                drop(landing);
                // Nobody may be waiting any more.
                let _ = sender.send(outcome);
            });
            Flight {
                number,
                outcome: receiver.map(Result::ok).boxed().shared(),
                waiting: 0,
                joining,
                abandoned,
            }
        })
    }
}

/// Takes a flight off the list when it ends, panics included. One that everybody left is off
/// the list already, and another may have begun in its place: the number tells them apart.
struct Landing<K: Hash + Eq, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(&self.key).map(|flight| flight.number) == Some(self.number) {
            flights.remove(&self.key);
        }
    }
}

/// One request that waits. When the last one leaves, the flight is abandoned.
struct Interest<K: Hash + Eq, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq, T> Drop for Interest<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(flight) = flights.get_mut(&self.key) else {
            return;
        };
        if flight.number == self.number {
            flight.waiting -= 1;
            if flight.waiting == 0 {
                flight.abandoned.cancel();
                flights.remove(&self.key);
            }
        }
    }
}
