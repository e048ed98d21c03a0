//! Who holds how much, and in which order each tenant's answers came.

use std::collections::{HashMap, VecDeque};

use crate::tenants::TenantId;

use super::Key;

/// Tells an answer's stay in the store from an earlier one under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64);

/// What was found of an answer that may have to go.
pub(super) enum Look {
    /// It was served since the last look: it stays for another round.
    Used,
    /// It is gone, and held so many bytes.
    Evicted(u64),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    bytes: u64,
    holders: HashMap<TenantId, Holder>,
    /// Tenants that were forgotten, each with the last fetch before.
    forgotten: HashMap<TenantId, u64>,
    stamps: u64,
}

#[derive(Debug, Default)]
struct Holder {
    bytes: u64,
    /// In the order of arrival.
    places: VecDeque<(Key, Stamp)>,
}

impl Ledger {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.holders.values().map(|it| it.places.len()).sum()
    }

    /// An answer comes in.
    pub(super) fn add(&mut self, key: &Key, bytes: u64) -> Stamp {
        self.stamps += 1;
        let stamp = Stamp(self.stamps);
        self.bytes += bytes;
        let tenant = key.viewer.tenant();
        let holder = self.holders.entry(tenant.clone()).or_default();
        holder.bytes += bytes;
        holder.places.push_back((key.clone(), stamp));
        stamp
    }

    /// An answer takes the place of an older one.
    pub(super) fn resize(&mut self, tenant: &TenantId, from: u64, to: u64) {
        self.bytes = self.bytes - from + to;
        if let Some(holder) = self.holders.get_mut(tenant) {
            holder.bytes = holder.bytes - from + to;
        }
    }

    /// Whether an answer that was asked for then is of a time before its tenant was forgotten.
    pub(super) fn is_forgotten(&self, tenant: &TenantId, asked: u64) -> bool {
        let last = self.forgotten.get(tenant);
        last.is_some_and(|last| asked <= *last)
    }

    /// A tenant holds nothing any more: the answers that it held.
    pub(super) fn forget(
        &mut self,
        tenant: &TenantId,
        asked: u64,
    ) -> impl Iterator<Item = Key> + use<> {
        self.forgotten.insert(tenant.clone(), asked);
        let holder = self.holders.remove(tenant).unwrap_or_default();
        self.bytes -= holder.bytes;
        holder.places.into_iter().map(|(key, _)| key)
    }

    /// Makes the tenant that holds most give one answer up; `look` tells what has become
    /// of an answer, and takes it out of the store where it may go. False where nobody holds anything.
    pub(super) fn evict(&mut self, look: impl Fn(&Key, Stamp) -> Option<Look>) -> bool {
        // As many as there are tenants with answers, and only on the way of a miss.
        let Some(holder) = self.holders.values_mut().max_by_key(|it| it.bytes) else {
            return false;
        };
        while let Some((key, stamp)) = holder.places.pop_front() {
            match look(&key, stamp) {
                None => {}
                Some(Look::Used) => holder.places.push_back((key, stamp)),
                Some(Look::Evicted(bytes)) => {
                    holder.bytes -= bytes;
                    self.bytes -= bytes;
                    return true;
                }
            }
        }
        false
    }
}
