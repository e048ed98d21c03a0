//! Who may change a record: a change with a condition is alone with it from its look to
//! its answer; changes without one go side by side. Another replica's, or the ERP's own, aren't seen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::tenants::TenantId;

/// More changes than this that wait for one record are refused.
const MOST_WAITING: usize = 64;

type Record = (TenantId, u64);

/// The records that are being changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Records(Arc<Mutex<HashMap<Record, Arc<RwLock<()>>>>>);

/// Leave to change a record, given up when it is dropped.
#[derive(Debug)]
pub(super) struct RecordTurn {
    guard: Option<Guard>,
    records: Records,
    record: Record,
}

#[derive(Debug)]
enum Guard {
    Alone(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>),
    Beside(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<()>),
}

impl Records {
    /// Waits for the record. None at once where too many do.
    pub(super) async fn turn(&self, record: Record, alone: bool) -> Option<RecordTurn> {
        let lock = {
            let mut records = self.lock();
            let lock = records.entry(record.clone()).or_default();
            if Arc::strong_count(lock) > MOST_WAITING {
                return None;
            }
            lock.clone()
        };
        let mut turn = RecordTurn {
            guard: None,
            records: self.clone(),
            record,
        };
        turn.guard = Some(if alone {
            Guard::Alone(lock.write_owned().await)
        } else {
            Guard::Beside(lock.read_owned().await)
        });
        Some(turn)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Record, Arc<RwLock<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RecordTurn {
    fn drop(&mut self) {
        self.guard = None;
        let mut records = self.records.lock();
        // The last one takes it off the list: nobody but the list has it.
        let is_last = |lock: &Arc<RwLock<()>>| Arc::strong_count(lock) == 1;
        if records.get(&self.record).is_some_and(is_last) {
            records.remove(&self.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64) -> Record {
        ("carper".parse().expect("an id"), id)
    }

    #[tokio::test]
    async fn a_change_with_a_condition_is_alone_and_others_go_side_by_side() {
        let records = Records::default();
        let first = records.turn(record(1), false).await;
        let second = records.turn(record(1), false).await;
        let other = records.turn(record(2), true).await;
        let mut alone = std::pin::pin!(records.turn(record(1), true));
        assert!(futures_util::poll!(&mut alone).is_pending());
        drop((first, second));
        let alone = alone.await;
        let mut late = std::pin::pin!(records.turn(record(1), false));
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(alone);
        drop((late.await, other));
        assert!(records.lock().is_empty(), "nothing piles up");
    }

    #[tokio::test]
    async fn who_leaves_while_waiting_leaves_nothing() {
        let records = Records::default();
        let held = records.turn(record(1), true).await;
        {
            let mut waiting = std::pin::pin!(records.turn(record(1), true));
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        drop(held);
        assert!(records.lock().is_empty());
    }

    #[tokio::test]
    async fn too_many_that_wait_are_refused() {
        let records = Records::default();
        let held = records.turn(record(1), true).await;
        let mut waiting: Vec<_> = (0..2 * MOST_WAITING)
            .map(|_| Box::pin(records.turn(record(1), true)))
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
}
