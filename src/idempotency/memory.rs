//! A store in memory, bounded by bytes: what one process knows.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::sync::watch;

use crate::tenants::TenantId;

use super::{Attempt, Fingerprint, Found, Record, Slot, State, Store, StoreError};

/// What a record costs beside its answer: the maps' entries and their spare room.
const OVERHEAD: u64 = 320;
/// How many outdated records of a tenant go at once.
const SWEEP: usize = 32;

type Digest = [u8; 32];

/// Outcomes in memory. When it is full, the tenant that holds most gives up what it would have to soonest.
pub struct Memory {
    table: Mutex<Table>,
    most: u64,
    held: Gauge,
    evicted: Counter,
}

#[derive(Default)]
struct Table {
    bytes: u64,
    shelves: HashMap<TenantId, Shelf>,
}

/// One tenant's.
#[derive(Default)]
struct Shelf {
    bytes: u64,
    records: HashMap<Digest, Kept>,
    /// By when they end. What runs isn't in it.
    ends: BTreeSet<(SystemTime, Digest)>,
}

struct Kept {
    record: Record,
    /// Gone when the record is.
    changes: watch::Sender<()>,
}

impl Memory {
    /// At most so many bytes, but for what runs.
    #[must_use]
    pub fn bounded(most: u64, metrics: &mut MetricRegistry) -> Self {
        let (held, evicted) = (Gauge::default(), Counter::default());
        metrics.register(
            "llavero_idempotency_bytes",
            "What the outcomes of writes hold in memory",
            held.clone(),
        );
        metrics.register(
            "llavero_idempotency_evicted",
            "Outcomes that gave way before their time: sent again, those writes may be made twice",
            evicted.clone(),
        );
        Self {
            table: Mutex::default(),
            most,
            held,
            evicted,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(
        &self,
        slot: &Slot,
        fingerprint: Fingerprint,
        mark: &str,
        now: SystemTime,
        lease: SystemTime,
    ) -> Found {
        let mut table = self.table();
        table.sweep(slot.tenant(), now);
        let kept = table.get(slot);
        let found = match kept.map(|kept| &kept.record) {
            Some(record) if record.until <= now && !matches!(record.state, State::Running(_)) => {
                Found::Nothing
            }
            None => Found::Nothing,
            Some(record) if record.fingerprint != fingerprint => Found::Mismatch,
            Some(record) => match &record.state {
                State::Done(answer) => Found::Done(answer.clone()),
                State::Running(_) if record.until > now => Found::Running,
                State::Running(attempt) | State::Doubtful(attempt) => {
                    Found::Doubtful(attempt.clone())
                }
            },
        };
        let attempt = match &found {
            Found::Nothing => Attempt {
                first: now,
                sent: now,
                ended: now,
                mark: mark.to_owned(),
            },
            Found::Doubtful(attempt) => attempt.clone(),
            Found::Running | Found::Done(_) | Found::Mismatch => return found,
        };
        let record = Record {
            fingerprint,
            state: State::Running(attempt),
            until: lease,
        };
        table.put(slot, record);
        self.tidy(&mut table);
        found
    }

    /// Keeps to the bound.
    fn tidy(&self, table: &mut Table) {
        while table.bytes > self.most && table.evict() {
            self.evicted.inc();
        }
        self.held
            .set(i64::try_from(table.bytes).unwrap_or(i64::MAX));
    }
}

impl Table {
    fn get(&self, slot: &Slot) -> Option<&Kept> {
        self.shelves.get(slot.tenant())?.records.get(slot.digest())
    }

    fn put(&mut self, slot: &Slot, record: Record) {
        self.remove(slot);
        let shelf = self.shelves.entry(slot.tenant().clone()).or_default();
        let size = size(&record);
        shelf.bytes += size;
        self.bytes += size;
        if !matches!(record.state, State::Running(_)) {
            shelf.ends.insert((record.until, *slot.digest()));
        }
        let changes = watch::channel(()).0;
        shelf
            .records
            .insert(*slot.digest(), Kept { record, changes });
    }

    fn remove(&mut self, slot: &Slot) {
        if let Some(shelf) = self.shelves.get_mut(slot.tenant()) {
            self.bytes -= shelf.remove(slot.digest());
            if shelf.records.is_empty() {
                self.shelves.remove(slot.tenant());
            }
        }
    }

    /// Drops of a tenant what isn't to be kept any longer.
    fn sweep(&mut self, tenant: &TenantId, now: SystemTime) {
        let Some(shelf) = self.shelves.get_mut(tenant) else {
            return;
        };
        for _ in 0..SWEEP {
            match shelf.ends.first() {
                Some(&(until, digest)) if until <= now => self.bytes -= shelf.remove(&digest),
                _ => break,
            }
        }
        if shelf.records.is_empty() {
            self.shelves.remove(tenant);
        }
    }

    /// Makes the tenant that holds most give one up. False where nothing can go.
    fn evict(&mut self) -> bool {
        let shelves = self.shelves.values_mut();
        let most = shelves
            .filter(|shelf| !shelf.ends.is_empty())
            .max_by_key(|shelf| shelf.bytes);
        let Some(shelf) = most else { return false };
        let Some(&(_, digest)) = shelf.ends.first() else {
            return false;
        };
        self.bytes -= shelf.remove(&digest);
        true
    }
}

impl Shelf {
    /// How many bytes that frees.
    fn remove(&mut self, digest: &Digest) -> u64 {
        let Some(Kept { record, .. }) = self.records.remove(digest) else {
            return 0;
        };
        self.ends.remove(&(record.until, *digest));
        let size = size(&record);
        self.bytes -= size;
        size
    }
}

fn size(record: &Record) -> u64 {
    let held = match &record.state {
        State::Running(attempt) | State::Doubtful(attempt) => attempt.mark.len(),
        State::Done(answer) => answer.len(),
    };
    OVERHEAD + held as u64
}

impl Store for Memory {
    fn begin<'a>(
        &'a self,
        slot: &'a Slot,
        fingerprint: Fingerprint,
        mark: &'a str,
        now: SystemTime,
        lease: SystemTime,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        async move { Ok(self.take(slot, fingerprint, mark, now, lease)) }.boxed()
    }

    fn peek<'a>(
        &'a self,
        slot: &'a Slot,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<State>, StoreError>> {
        async move {
            let table = self.table();
            let record = table.get(slot).map(|kept| &kept.record);
            let record = record.filter(|record| record.until > now);
            Ok(record.map(|record| record.state.clone()))
        }
        .boxed()
    }

    fn settle<'a>(
        &'a self,
        slot: &'a Slot,
        record: Record,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut table = self.table();
            table.put(slot, record);
            self.tidy(&mut table);
            Ok(())
        }
        .boxed()
    }

    fn release<'a>(&'a self, slot: &'a Slot) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut table = self.table();
            table.remove(slot);
            self.tidy(&mut table);
            Ok(())
        }
        .boxed()
    }

    fn changed<'a>(&'a self, slot: &'a Slot) -> BoxFuture<'a, ()> {
        async move {
            let changes = self.table().get(slot).map(|kept| kept.changes.subscribe());
            if let Some(mut changes) = changes {
                // Its end is the sender's end: nothing is ever sent.
                let _ = changes.changed().await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::tenants::{Clave, Credential};

    use super::{super::slot::Asked, *};

    const LEASE: Duration = Duration::from_secs(60);
    const KEPT: Duration = Duration::from_secs(3600);

    fn store(most: u64) -> Memory {
        Memory::bounded(most, &mut MetricRegistry::default())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn slot(tenant: &str, number: u64) -> Slot {
        let tenant = tenant.parse().expect("an id");
        let credential = Credential::api_key(tenant, "default", "k".to_owned().into());
        let asked = Asked {
            credential: credential.id(),
            clave: &"carper".parse::<Clave>().expect("a clave"),
            issuer: "https://id.example.com/",
            subject: "ana",
            operation: "adjuntar_imagen",
            record: number,
        };
        Slot::of_content(asked, content(0))
    }

    fn content(number: u8) -> Fingerprint {
        Fingerprint::of(&[&[number]])
    }

    fn begin(store: &Memory, slot: &Slot, now: SystemTime) -> Found {
        store.take(slot, content(0), "foto", now, now + LEASE)
    }

    async fn done(store: &Memory, slot: &Slot, size: usize, until: SystemTime) {
        let record = Record {
            fingerprint: content(0),
            state: State::Done(vec![0; size].into()),
            until,
        };
        store.settle(slot, record).await.expect("memory");
    }

    #[tokio::test]
    async fn a_slot_is_taken_once_and_its_outcome_is_kept_for_its_time() {
        let (store, slot) = (store(1 << 20), slot("carper", 1));
        assert_eq!(begin(&store, &slot, at(0)), Found::Nothing);
        assert_eq!(begin(&store, &slot, at(59)), Found::Running);
        let other = store.take(&slot, content(1), "", at(59), at(119));
        assert_eq!(other, Found::Mismatch);
        done(&store, &slot, 3, at(100)).await;
        assert_eq!(begin(&store, &slot, at(99)), Found::Done(vec![0; 3].into()));
        assert_eq!(begin(&store, &slot, at(100)), Found::Nothing);
        store.release(&slot).await.expect("memory");
        assert_eq!(begin(&store, &slot, at(101)), Found::Nothing);
    }

    #[tokio::test]
    async fn what_runs_longer_than_its_lease_is_doubtful_and_taken_over_once() {
        let (store, slot) = (store(1 << 20), slot("carper", 1));
        begin(&store, &slot, at(0));
        let Found::Doubtful(attempt) = begin(&store, &slot, at(60)) else {
            panic!("doubtful");
        };
        assert_eq!((attempt.sent, attempt.mark.as_str()), (at(0), "foto"));
        assert_eq!(begin(&store, &slot, at(61)), Found::Running);
    }

    #[tokio::test]
    async fn the_bound_is_kept_by_the_tenant_that_holds_most() {
        let store = store(40 * (OVERHEAD + 100));
        done(&store, &slot("norte", 0), 100, at(0) + KEPT).await;
        for number in 0..200 {
            let slot = slot("carper", number);
            begin(&store, &slot, at(number));
            done(&store, &slot, 100, at(number) + KEPT).await;
            assert!(store.table().bytes <= store.most);
        }
        let kept = |tenant, number| begin(&store, &slot(tenant, number), at(200));
        assert!(matches!(kept("norte", 0), Found::Done(_)));
        assert!(matches!(kept("carper", 199), Found::Done(_)));
        assert_eq!(kept("carper", 0), Found::Nothing, "the oldest gave way");
    }

    #[tokio::test]
    async fn what_runs_never_gives_way() {
        let store = store(2 * OVERHEAD);
        for number in 0..10 {
            begin(&store, &slot("carper", number), at(0));
        }
        done(&store, &slot("norte", 0), 5000, at(0) + KEPT).await;
        for number in 0..10 {
            assert_eq!(
                begin(&store, &slot("carper", number), at(1)),
                Found::Running
            );
        }
    }

    #[tokio::test]
    async fn nothing_outdated_piles_up_and_the_account_is_even() {
        let store = store(1 << 20);
        for number in 0..10_000 {
            let slot = slot("carper", number);
            begin(&store, &slot, at(number));
            done(&store, &slot, 10, at(number + 10)).await;
        }
        assert!(
            store.table().shelves[slot("carper", 0).tenant()]
                .records
                .len()
                <= 12
        );
        begin(&store, &slot("carper", 0), at(100_000));
        store.release(&slot("carper", 0)).await.expect("memory");
        let table = store.table();
        assert_eq!((table.bytes, table.shelves.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_it_ends() {
        let (store, slot) = (store(1 << 20), slot("carper", 1));
        begin(&store, &slot, at(0));
        let mut waiting = std::pin::pin!(store.changed(&slot));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        done(&store, &slot, 1, at(100)).await;
        waiting.await;
        // Nothing is there to wait for.
        store.release(&slot).await.expect("memory");
        store.changed(&slot).await;
    }
}
