//! Generations: a write moves its subject on, and an answer whose fetch began in
//! an earlier generation is never fresh again, however late it arrives.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::tenants::TenantId;

/// What an answer is about, within one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Every list of a kind of record.
    Lists(&'static str),
    /// One record of a kind.
    Record(&'static str, u64),
}

/// A counter for every subject, in a table of fixed size: no lock and no growth.
/// Two subjects that share a slot are dropped together, which costs a miss and
/// never serves anything old.
#[derive(Debug)]
pub struct Generations {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Generations {
    fn default() -> Self {
        const SLOTS: usize = 1 << 16;
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Generations {
    /// Where the subject stands now.
    #[must_use]
    pub fn current(&self, tenant: &TenantId, subject: Subject) -> u64 {
        self.slot(tenant, subject).load(Ordering::Acquire)
    }

    /// Moves the subject on: everything fetched until now is old.
    pub fn advance(&self, tenant: &TenantId, subject: Subject) {
        self.slot(tenant, subject).fetch_add(1, Ordering::AcqRel);
    }

    fn slot(&self, tenant: &TenantId, subject: Subject) -> &AtomicU64 {
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
