//! Who waits for room. Whose tenant holds least comes first, of one tenant who holds least, and of one user what came
//! first; who needs more than there is holds up those behind, so that small uploads don't starve a large one.

use std::{collections::HashMap, hash::Hash};

use super::holdings::{Held, Owner};

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
    owner: Owner,
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

    /// Joins, and who has to leave for it: the last of the tenant that has most waiting, or of the user who has most of its
    /// own tenant. None where those are its own, which then has to come again.
    pub(super) fn push(
        &mut self,
        owner: Owner,
        bytes: u64,
        item: T,
    ) -> Option<(Ticket, Option<T>)> {
        let displaced = if self.all.len() < MOST {
            None
        } else {
            Some(self.displace_for(&owner)?)
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.all.push(Waiter {
            ticket,
            owner,
            bytes,
            item,
        });
        Some((ticket, displaced))
    }

    fn displace_for(&mut self, owner: &Owner) -> Option<T> {
        let at = self
            .last_of_most(owner.tenant(), |it| Some(it.owner.tenant()))
            .or_else(|| {
                let colleague = |it: &Owner| it.tenant() == owner.tenant();
                self.last_of_most(owner, |it| colleague(&it.owner).then_some(&it.owner))
            })?;
        Some(self.all.remove(at).item)
    }

    /// Where the last one stands of whoever has most waiting, where that is more than `whose` has with one more.
    fn last_of_most<'a, K: Eq + Hash + 'a>(
        &'a self,
        whose: &K,
        of: impl Fn(&'a Waiter<T>) -> Option<&'a K>,
    ) -> Option<usize> {
        let mut counts = HashMap::<&K, usize>::new();
        for waiter in &self.all {
            if let Some(key) = of(waiter) {
                *counts.entry(key).or_default() += 1;
            }
        }
        // Of equals the last one is found.
        let all = self.all.iter().enumerate();
        let all = all.filter_map(|(at, it)| Some((at, counts[of(it)?])));
        let (at, most) = all.max_by_key(|(_, count)| *count)?;
        let own = counts.get(whose).copied().unwrap_or_default();
        (most > own + 1).then_some(at)
    }

    /// Whose turn it is, where there is room for it.
    pub(super) fn pop_if(
        &mut self,
        holds: impl Fn(&Owner) -> Held,
        has_room: impl FnOnce(&Owner, u64) -> bool,
    ) -> Option<(Owner, u64, T)> {
        let waiting = self.all.iter().enumerate();
        let (at, next) = waiting.min_by_key(|(_, it)| (holds(&it.owner), it.ticket))?;
        if !has_room(&next.owner, next.bytes) {
            return None;
        }
        let Waiter {
            owner, bytes, item, ..
        } = self.all.remove(at);
        Some((owner, bytes, item))
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

    fn owner(tenant: &str, subject: &str) -> Owner {
        let tenant = tenant.parse().expect("an id");
        Owner::new(tenant, "https://issuer".into(), subject.into())
    }

    #[test]
    fn who_has_most_waiting_makes_room() {
        let mut waiting = Waiting::default();
        for at in 0..MOST {
            let joined = waiting.push(owner("a", "ana"), 1, at);
            let (_, displaced) = joined.expect("there is room");
            assert_eq!(displaced, None);
        }
        assert!(waiting.push(owner("a", "ana"), 1, MOST).is_none());
        for at in 1..=MOST / 2 {
            let joined = waiting.push(owner("b", "ana"), 1, MOST + at);
            let (_, displaced) = joined.expect("a has more");
            assert_eq!(displaced, Some(MOST - at), "the last of a");
        }
        assert!(
            waiting.push(owner("b", "ana"), 1, 0).is_none(),
            "half each is fair"
        );
        assert_eq!(waiting.all.len(), MOST);
    }

    #[test]
    fn of_a_tenant_that_has_most_waiting_the_user_who_has_most_makes_room() {
        let mut waiting = Waiting::default();
        for at in 0..MOST {
            let subject = if at == 0 { "carl" } else { "ana" };
            let joined = waiting.push(owner("a", subject), 1, at);
            joined.expect("there is room");
        }
        let (_, displaced) = waiting
            .push(owner("a", "beto"), 1, MOST)
            .expect("ana has more");
        assert_eq!(displaced, Some(MOST - 1), "the last of ana's");
        assert!(waiting.push(owner("a", "ana"), 1, 0).is_none());
        assert_eq!(waiting.all.len(), MOST);
    }

    #[test]
    fn who_holds_least_of_a_tenant_comes_first() {
        let mut waiting = Waiting::default();
        for (at, subject) in ["ana", "beto", "ana", "beto"].into_iter().enumerate() {
            waiting
                .push(owner("a", subject), 1, at)
                .expect("there is room");
        }
        let mut next = || {
            let holds = |it: &Owner| Held {
                tenant: 9,
                user: if *it == owner("a", "ana") { 9 } else { 0 },
            };
            waiting.pop_if(holds, |_, _| true).map(|(.., item)| item)
        };
        assert_eq!(
            [(); 5].map(|()| next()),
            [Some(1), Some(3), Some(0), Some(2), None]
        );
    }
}
