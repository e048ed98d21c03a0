//! Marks by which a change's trace is known at the ERP, such as the title of a photo: changes to
//! one record under one mark go one after the other, so that a trace is of no other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::OwnedMutexGuard;

use crate::{clock::Clock, tenants::TenantId};

/// More changes than this that wait for one mark are refused.
const MOST_WAITING: usize = 64;
/// How long a mark is remembered that nothing is in doubt about.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How many traces and sendings of one mark are remembered.
const MOST_TRACES: usize = 64;
/// How many marks are remembered before those go that are used no more.
const FEW: usize = 1024;

/// The marks in use. Cheap to clone.
#[derive(Clone)]
pub(super) struct Marks(Arc<Parts>);

struct Parts {
    clock: Clock,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    marks: HashMap<Mark, Entry>,
    /// So many, and it is tidied.
    full: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Mark {
    pub(super) tenant: TenantId,
    pub(super) record: (&'static str, u64),
    pub(super) text: String,
}

struct Entry {
    history: Arc<tokio::sync::Mutex<History>>,
    used: Instant,
}

/// What has gone on under a mark.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Traces that are known to be of one change or another.
    pub(super) taken: Vec<u64>,
    /// When each change was sent.
    sent: Vec<SystemTime>,
}

/// The mark is one's own while one has this.
pub(super) type MarkTurn = OwnedMutexGuard<History>;

impl Marks {
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(Parts {
            clock,
            table: Mutex::default(),
        }))
    }

    /// Waits for the mark. None at once where too many do.
    pub(super) async fn turn(&self, mark: Mark) -> Option<MarkTurn> {
        let history = self.history(mark);
        // One of them is the table's, one this one's.
        if Arc::strong_count(&history) > MOST_WAITING + 1 {
            return None;
        }
        Some(history.lock_owned().await)
    }

    fn history(&self, mark: Mark) -> Arc<tokio::sync::Mutex<History>> {
        let now = self.0.clock.instant();
        let mut table = self.lock();
        table.tidy(now);
        let entry = table.marks.entry(mark).or_insert_with(|| Entry {
            history: Arc::default(),
            used: now,
        });
        entry.used = now;
        entry.history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Drops what is used no more, seldom enough that it costs nothing.
    fn tidy(&mut self, now: Instant) {
        if self.marks.len() < self.full.max(FEW) {
            return;
        }
        self.marks.retain(|_, entry| {
            Arc::strong_count(&entry.history) > 1
                || now.saturating_duration_since(entry.used) < REMEMBERED
        });
        self.full = 2 * self.marks.len();
    }
}

impl History {
    /// A change is sent now.
    pub(super) fn sends(&mut self, at: SystemTime) {
        push(&mut self.sent, at);
    }

    /// A trace is that of a change.
    pub(super) fn takes(&mut self, trace: u64) {
        push(&mut self.taken, trace);
    }

    /// When the next change after that one was sent.
    pub(super) fn next_after(&self, sent: SystemTime) -> Option<SystemTime> {
        self.sent.iter().copied().filter(|at| *at > sent).min()
    }
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() == MOST_TRACES {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Mark {
        Mark {
            tenant: "carper".parse().expect("an id"),
            record: ("ordenes_servicio", 7),
            text: text.to_owned(),
        }
    }

    #[tokio::test]
    async fn equal_marks_go_one_after_the_other() {
        let marks = Marks::new(Clock::manual());
        let first = marks.turn(mark("a")).await.expect("a turn");
        let mut second = std::pin::pin!(marks.turn(mark("a")));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(marks.turn(mark("b")).await.is_some(), "another is free");
        drop(first);
        let mut second = second.await.expect("a turn");
        second.takes(5);
        drop(second);
        let third = marks.turn(mark("a")).await.expect("a turn");
        assert_eq!(third.taken, [5], "what is known of a mark stays");
    }

    #[tokio::test]
    async fn too_many_that_wait_are_refused() {
        let marks = Marks::new(Clock::manual());
        let held = marks.turn(mark("a")).await;
        let mut waiting: Vec<_> = (0..2 * MOST_WAITING)
            .map(|_| Box::pin(marks.turn(mark("a"))))
            .collect();
        let mut refused = 0;
        for waiter in &mut waiting {
            if let std::task::Poll::Ready(None) = futures_util::poll!(waiter) {
                refused += 1;
            }
        }
        assert!(
            (MOST_WAITING..=MOST_WAITING + 1).contains(&refused),
            "{refused}"
        );
        drop(held);
    }

    #[tokio::test]
    async fn marks_dont_pile_up() {
        let clock = Clock::manual();
        let marks = Marks::new(clock.clone());
        for number in 0..10 * FEW {
            drop(marks.turn(mark(&number.to_string())).await);
            clock.advance(REMEMBERED / 100);
        }
        assert!(marks.lock().marks.len() <= 2 * FEW);
    }
}
