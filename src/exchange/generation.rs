//! Generations: a write moves its subject on, and an answer whose fetch began in
//! an earlier generation is never fresh again, however late it arrives.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{cache::Generation, tenants::TenantId};

/// How long the ERP may still carry out a change whose outcome nobody knows. What it
/// answers until then is passed on and not kept.
const SETTLES_IN: Duration = Duration::from_secs(30);

/// What an answer is about, within one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Every list of a kind of record.
    Lists(&'static str),
    /// One record of a kind.
    Record(&'static str, u64),
}

/// What is known of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The ERP made it.
    Made,
    /// It may have.
    Doubtful,
}

/// Counters for every subject, in a table of fixed size: no lock and no growth.
/// Two subjects that share a slot are dropped together, which costs a miss and
/// never serves anything old.
#[derive(Debug)]
pub(super) struct Generations {
    slots: Box<[Slot]>,
    hasher: RandomState,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Slot {
    made: AtomicU64,
    doubtful: AtomicU64,
    /// Milliseconds after the epoch.
    settled_at: AtomicU64,
}

impl Generations {
    pub(super) fn new(now: Instant) -> Self {
        const SLOTS: usize = 1 << 15;
        Self {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
            hasher: RandomState::new(),
            epoch: now,
        }
    }

    /// Where the subject stands now.
    pub(super) fn current(&self, tenant: &TenantId, subject: Subject) -> Generation {
        let slot = self.slot(tenant, subject);
        Generation {
            made: slot.made.load(Ordering::Acquire),
            doubtful: slot.doubtful.load(Ordering::Acquire),
        }
    }

    /// Whether no change of unknown outcome may still be carried out.
    pub(super) fn is_settled(&self, tenant: &TenantId, subject: Subject, now: Instant) -> bool {
        let settled_at = self
            .slot(tenant, subject)
            .settled_at
            .load(Ordering::Acquire);
        self.milliseconds(now) >= settled_at
    }

    /// Moves the subject on: everything fetched until now is old.
    pub(super) fn advance(
        &self,
        tenant: &TenantId,
        subject: Subject,
        change: Change,
        now: Instant,
    ) {
        let slot = self.slot(tenant, subject);
        match change {
            Change::Made => slot.made.fetch_add(1, Ordering::AcqRel),
            Change::Doubtful => {
                let settled_at = self.milliseconds(now + SETTLES_IN);
                slot.settled_at.fetch_max(settled_at, Ordering::AcqRel);
                slot.doubtful.fetch_add(1, Ordering::AcqRel)
            }
        };
    }

    fn milliseconds(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn slot(&self, tenant: &TenantId, subject: Subject) -> &Slot {
        let hash = self.hasher.hash_one((tenant, subject));
        // The table's length is a power of two well below 2^32.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only the low bits are wanted"
        )]
        let index = hash as usize & (self.slots.len() - 1);
        &self.slots[index]
    }
}
