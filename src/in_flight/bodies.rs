//! The memory of bodies that are read whole. Each is small, but a client may begin many over one connection and end none.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::tenants::TenantId;

/// So much of each body isn't counted, in bytes: changes are a few hundred, mostly, and always go.
const UNCOUNTED: u64 = 8 * 1024;
/// Of all beyond that, in bytes: what a hundred and more of the longest changes take, and little beside what photos may.
const TOTAL: u64 = 32 << 20;
/// Of one tenant's: three others still find room when it sends without end.
const OF_ONE: u64 = TOTAL / 4;

/// Bounds what all such bodies hold together. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Bodies(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
struct Ledger {
    held: u64,
    tenants: HashMap<TenantId, u64>,
}

/// What one body holds, until it is dropped.
#[derive(Debug)]
pub struct Share {
    bodies: Bodies,
    tenant: TenantId,
    counted: u64,
}

/// There is no room for more of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bodies that are under way hold as much as they may together")]
pub struct Crowded;

impl Bodies {
    /// One of that tenant begins. It holds nothing yet.
    #[must_use]
    pub fn begin(&self, tenant: &TenantId) -> Share {
        Share {
            bodies: self.clone(),
            tenant: tenant.clone(),
            counted: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// It takes so many bytes in all from now on.
    ///
    /// # Errors
    /// There is no room for them; it holds what it held.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Crowded> {
        let counted = bytes.saturating_sub(UNCOUNTED);
        let more = counted.saturating_sub(self.counted);
        if more == 0 {
            return Ok(());
        }
        let mut ledger = self.bodies.lock();
        let of_tenant = ledger.tenants.get(&self.tenant).copied();
        let of_tenant = of_tenant.unwrap_or_default() + more;
        if ledger.held + more > TOTAL || of_tenant > OF_ONE {
            return Err(Crowded);
        }
        ledger.held += more;
        ledger.tenants.insert(self.tenant.clone(), of_tenant);
        self.counted = counted;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.counted == 0 {
            return;
        }
        let mut ledger = self.bodies.lock();
        ledger.held -= self.counted;
        if let Some(of_tenant) = ledger.tenants.get_mut(&self.tenant) {
            *of_tenant -= self.counted;
            if *of_tenant == 0 {
                ledger.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(bodies: &Bodies, tenant: &str, bytes: u64) -> Result<Share, Crowded> {
        let mut share = bodies.begin(&tenant.parse().expect("an id"));
        share.grow(bytes).map(|()| share)
    }

    #[test]
    fn a_tenant_has_a_quarter_and_all_have_what_there_is() {
        let bodies = Bodies::default();
        let full = |tenant| share(&bodies, tenant, UNCOUNTED + OF_ONE);
        assert_eq!(
            share(&bodies, "a", UNCOUNTED + OF_ONE + 1).err(),
            Some(Crowded)
        );
        let mut held = vec![full("a").expect("there is room")];
        assert_eq!(share(&bodies, "a", UNCOUNTED + 1).err(), Some(Crowded));
        for tenant in ["b", "c", "d"] {
            held.push(full(tenant).expect("there is room"));
        }
        assert_eq!(share(&bodies, "e", UNCOUNTED + 1).err(), Some(Crowded));
        for tenant in ["a", "e"] {
            let small = share(&bodies, tenant, UNCOUNTED);
            held.push(small.expect("it isn't counted"));
        }
        drop(held);
        assert!(full("e").is_ok());
        let ledger = bodies.lock();
        assert_eq!((ledger.held, ledger.tenants.len()), (0, 0));
    }

    #[test]
    fn what_a_body_takes_is_counted_once() {
        let bodies = Bodies::default();
        let mut growing = share(&bodies, "a", 1).expect("there is room");
        for bytes in [UNCOUNTED, 2 * UNCOUNTED, 4 * UNCOUNTED, 3 * UNCOUNTED] {
            growing.grow(bytes).expect("there is room");
        }
        assert_eq!(bodies.lock().held, 3 * UNCOUNTED);
        assert_eq!(growing.grow(UNCOUNTED + OF_ONE + 1), Err(Crowded));
        assert_eq!(bodies.lock().held, 3 * UNCOUNTED, "it holds what it held");
        growing.grow(UNCOUNTED + OF_ONE).expect("there is room");
        assert_eq!(bodies.lock().held, OF_ONE);
    }
}
