//! One fetch for any number of equal requests at once. The fetch is a task of its
//! own, so a caller who leaves takes nobody's answer along, and a failure
//! reaches those who waited, not those who come later.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// The fetches under way.
pub(super) struct Flights<K, T>(Arc<Mutex<HashMap<K, Waiting<T>>>>);

type Waiting<T> = Shared<BoxFuture<'static, Option<T>>>;

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
        Self(Arc::default())
    }
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of `fetch`, or of an equal fetch that is under way; none where
    /// the fetch was torn down without one.
    pub(super) async fn join<F>(
        &self,
        key: K,
        tasks: &TaskTracker,
        fetch: impl FnOnce() -> F,
    ) -> (Option<T>, Role)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (waiting, role) = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(waiting) => (waiting.clone(), Role::Follower),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    let waiting = receiver.map(Result::ok).boxed().shared();
                    flights.insert(key.clone(), waiting.clone());
                    let landing = Landing {
                        flights: self.0.clone(),
                        key,
                    };
                    let fetch = fetch();
                    tasks.spawn(async move {
                        let outcome = fetch.await;
                        drop(landing);
                        // Nobody may be waiting any more.
                        let _ = sender.send(outcome);
                    });
                    (waiting, Role::Leader)
                }
            }
        };
        (waiting.await, role)
    }
}

/// Takes a flight off the list when it ends, panics included.
struct Landing<K: Hash + Eq, T> {
    flights: Arc<Mutex<HashMap<K, Waiting<T>>>>,
    key: K,
}

impl<K: Hash + Eq, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
