//! Who waits for room. Whose tenant holds least comes first, and of one tenant who came first; who
//! needs more than there is holds up those behind, so that small uploads don't starve a large one.

use crate::tenants::TenantId;

/// The most that wait; each is a connection whose body isn't read.
const MOST: usize = 256;

/// Names one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Those that wait, in the order in which they came.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    all: Vec<Waiter<T>>,
    next: u64,
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: Ticket,
    tenant: TenantId,
    bytes: u64,
    item: T,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            next: 0,
        }
    }
}

impl<T> Waiting<T> {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Joins, and who has to leave for it: the last of the tenant that has most waiting. None where
    /// that is its own tenant, which then has to come again.
    pub(super) fn push(
        &mut self,
        tenant: TenantId,
        bytes: u64,
        item: T,
    ) -> Option<(Ticket, Option<T>)> {
        let displaced = if self.all.len() < MOST {
            None
        } else {
            Some(self.displace_for(&tenant)?)
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.all.push(Waiter {
            ticket,
            tenant,
            bytes,
            item,
        });
        Some((ticket, displaced))
    }

    fn displace_for(&mut self, tenant: &TenantId) -> Option<T> {
        let count = |tenant: &TenantId| self.all.iter().filter(|it| it.tenant == *tenant).count();
        // Of equals the last one is found.
        let waiting = self.all.iter().map(|it| count(&it.tenant)).enumerate();
        let (at, most) = waiting.max_by_key(|(_, count)| *count)?;
        (most > count(tenant) + 1).then(|| self.all.remove(at).item)
    }

    /// Whose turn it is, where there is room for it.
    pub(super) fn pop_if(
        &mut self,
        holds: impl Fn(&TenantId) -> u64,
        has_room: impl FnOnce(&TenantId, u64) -> bool,
    ) -> Option<(TenantId, u64, T)> {
        let waiting = self.all.iter().enumerate();
        let (at, next) = waiting.min_by_key(|(_, it)| (holds(&it.tenant), it.ticket))?;
        if !has_room(&next.tenant, next.bytes) {
            return None;
        }
        let Waiter {
            tenant,
            bytes,
            item,
            ..
        } = self.all.remove(at);
        Some((tenant, bytes, item))
    }

    /// Leaves; whether it still waited.
    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        let at = self.all.iter().position(|it| it.ticket == ticket);
        at.map(|at| self.all.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_waiting_makes_room() {
        let id = |name: &str| -> TenantId { name.parse().expect("an id") };
        let mut waiting = Waiting::default();
        for at in 0..MOST {
            let (_, displaced) = waiting.push(id("a"), 1, at).expect("there is room");
            assert_eq!(displaced, None);
        }
        assert!(waiting.push(id("a"), 1, MOST).is_none());
        for at in 1..=MOST / 2 {
            let (_, displaced) = waiting.push(id("b"), 1, MOST + at).expect("a has more");
            assert_eq!(displaced, Some(MOST - at), "the last of a");
        }
        assert!(waiting.push(id("b"), 1, 0).is_none(), "half each is fair");
        assert_eq!(waiting.all.len(), MOST);
    }
}
