//! What is to be done at some moment: each thing once, the most overdue first, a few at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::Notify;

use crate::clock::Clock;

/// Things by the moment that each is due.
pub(super) struct Agenda<K> {
    entries: Mutex<Entries<K>>,
    changed: Notify,
    clock: Clock,
}

struct Entries<K> {
    due: BTreeMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Clone> Agenda<K> {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            entries: Mutex::new(Entries {
                due: BTreeMap::new(),
                order: BTreeSet::new(),
            }),
            changed: Notify::new(),
            clock,
        }
    }

    /// It is due then, and at no other moment.
    pub(super) fn set(&self, key: &K, due: Instant) {
        let mut entries = self.lock();
        entries.remove(key);
        entries.due.insert(key.clone(), due);
        entries.order.insert((due, key.clone()));
        drop(entries);
        self.changed.notify_one();
    }

    /// It isn't to be done any more.
    pub(super) fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Does what is due, `at_once` at a time; what it does comes off. It never ends.
    pub(super) async fn attend<F>(&self, at_once: usize, act: impl Fn(K) -> F)
    where
        F: Future<Output = ()>,
    {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < at_once
                && let Some(key) = self.take()
            {
                under_way.push(act(key));
            }
            let next = match under_way.len() < at_once {
                true => self.next(),
                false => None,
            };
            let sleep = async {
                match next {
                    Some(due) => self.clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = under_way.next() => {}
                () = self.changed.notified() => {}
                () = sleep => {}
            }
        }
    }

    fn take(&self) -> Option<K> {
        let (mut entries, now) = (self.lock(), self.clock.instant());
        let (due, key) = entries.order.first()?.clone();
        (due <= now).then(|| {
            entries.remove(&key);
            key
        })
    }

    /// When the next is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.lock().order.first().map(|(due, _)| *due)
    }

    fn lock(&self) -> MutexGuard<'_, Entries<K>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> Entries<K> {
    fn remove(&mut self, key: &K) {
        if let Some(due) = self.due.remove(key) {
            self.order.remove(&(due, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use futures_util::FutureExt as _;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_most_overdue_comes_first_and_few_at_a_time() {
        let clock = Clock::manual();
        let (agenda, start) = (Agenda::new(clock.clone()), clock.instant());
        let (begun, ended) = (RefCell::new(Vec::new()), Notify::new());
        let attending = agenda.attend(2, |key: u32| {
            begun.borrow_mut().push(key);
            ended.notified()
        });
        let mut attending = Box::pin(attending);
        let mut go_on = || assert!(attending.as_mut().now_or_never().is_none());
        for key in 0..10 {
            agenda.set(&key, start + seconds(100 - u64::from(key)));
        }
        agenda.remove(&9);
        agenda.set(&0, start + seconds(10));
        go_on();
        assert!(begun.borrow().is_empty(), "nothing is due");
        clock.advance(seconds(10));
        go_on();
        assert_eq!(*begun.borrow(), [0]);
        clock.advance(seconds(100));
        go_on();
        assert_eq!(*begun.borrow(), [0, 8], "two at once");
        agenda.set(&8, start);
        for _ in 0..20 {
            ended.notify_one();
            go_on();
        }
        assert_eq!(*begun.borrow(), [0, 8, 8, 7, 6, 5, 4, 3, 2, 1]);
    }
}
