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

use super::{Attempt, Fingerprint, Found, Holder, Record, Slot, State, Store, StoreError};

/// What a record costs beside its answer: the maps' entries and their spare room, as measured with 100,000.
const OVERHEAD: u64 = 450;
/// What one costs beside that while it runs: its channel.
const RUNS: u64 = 220;
/// What a tenant's subject costs beside its records.
const SHARE: u64 = 540;
/// How many outdated records of a tenant go at once.
const SWEEP: usize = 32;

type Digest = [u8; 32];

/// Outcomes in memory. When it is full, the subject that holds most in the tenant that holds most gives up what it would
/// have to soonest.
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
    ends: Ends,
    shares: HashMap<Holder, Share>,
}

/// One subject's of a tenant's.
#[derive(Default)]
struct Share {
    bytes: u64,
    ends: Ends,
}

/// Records by when they end. What runs isn't among them.
type Ends = BTreeSet<(SystemTime, Digest)>;

struct Kept {
    record: Record,
    holder: Holder,
    /// What runs has one, which is gone when the record is.
    changes: Option<watch::Sender<()>>,
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
            Found::Running | Found::Done(_) | Found::Mismatch => {
                self.tidy(&mut table);
                return found;
            }
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
        self.bytes += shelf.put(*slot.digest(), slot.holder(), record);
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

    /// Makes the subject that holds most in the tenant that holds most give one up. False where nothing can go.
    fn evict(&mut self) -> bool {
        let shelves = self.shelves.values_mut();
        let most = shelves
            .filter(|shelf| !shelf.ends.is_empty())
            .max_by_key(|shelf| shelf.bytes);
        let Some(shelf) = most else { return false };
        let shares = shelf.shares.values();
        let most = shares
            .filter_map(|share| Some((share.bytes, share.ends.first()?.1)))
            .max_by_key(|(bytes, _)| *bytes);
        let Some((_, digest)) = most else {
            return false;
        };
        self.bytes -= shelf.remove(&digest);
        true
    }
}

impl Shelf {
    /// How many bytes that takes.
    fn put(&mut self, digest: Digest, holder: Holder, record: Record) -> u64 {
        let mut size = size(&record);
        let share = self.shares.entry(holder).or_default();
        if share.bytes == 0 {
            size += SHARE;
        }
        share.bytes += size;
        self.bytes += size;
        let runs = matches!(record.state, State::Running(_));
        if !runs {
            share.ends.insert((record.until, digest));
            self.ends.insert((record.until, digest));
        }
        let kept = Kept {
            record,
            holder,
            changes: runs.then(|| watch::channel(()).0),
        };
        self.records.insert(digest, kept);
        size
    }

    /// How many bytes that frees.
    fn remove(&mut self, digest: &Digest) -> u64 {
        let Some(Kept { record, holder, .. }) = self.records.remove(digest) else {
            return 0;
        };
        let (mut size, end) = (size(&record), (record.until, *digest));
        self.ends.remove(&end);
        if let Some(share) = self.shares.get_mut(&holder) {
            share.ends.remove(&end);
            share.bytes -= size;
            if share.bytes == SHARE {
                self.shares.remove(&holder);
                size += SHARE;
            }
        }
        self.bytes -= size;
        size
    }
}

fn size(record: &Record) -> u64 {
    let held = match &record.state {
        State::Running(attempt) => RUNS + attempt.mark.len() as u64,
        State::Doubtful(attempt) => attempt.mark.len() as u64,
        State::Done(answer) => answer.len() as u64,
    };
    OVERHEAD + held
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
            let changes = {
                let table = self.table();
                let runs = table.get(slot).and_then(|kept| kept.changes.as_ref());
                runs.map(watch::Sender::subscribe)
            };
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
        slot_of(tenant, "ana", number)
    }

    /// The credential's callers' together, by that one.
    fn slot_of(tenant: &str, subject: &str, number: u64) -> Slot {
        let tenant = tenant.parse().expect("an id");
        let credential = Credential::api_key(tenant, "default", "k".to_owned().into());
        let asked = Asked {
            credential: credential.id(),
            clave: &"carper".parse::<Clave>().expect("a clave"),
            issuer: "https://id.example.com/",
            subject,
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
    async fn within_a_tenant_it_is_kept_by_the_subject_that_holds_most() {
        let store = store(40 * (OVERHEAD + 100));
        done(&store, &slot_of("carper", "eva", 1000), 100, at(0) + KEPT).await;
        for number in 0..200 {
            let slot = slot_of("carper", "ana", number);
            begin(&store, &slot, at(number));
            done(&store, &slot, 100, at(number) + KEPT).await;
            is_even(&store);
            assert!(store.table().bytes <= store.most);
        }
        let kept = |subject, number| begin(&store, &slot_of("carper", subject, number), at(200));
        assert!(matches!(kept("eva", 1000), Found::Done(_)));
        assert!(matches!(kept("ana", 199), Found::Done(_)));
        assert_eq!(kept("ana", 0), Found::Nothing, "the oldest gave way");
    }

    #[tokio::test]
    async fn a_subject_whose_own_all_runs_leaves_it_to_the_others() {
        let store = store(10 * OVERHEAD);
        for number in 0..20 {
            begin(&store, &slot_of("carper", "ana", number), at(0));
        }
        done(&store, &slot_of("carper", "eva", 100), 0, at(0) + KEPT).await;
        is_even(&store);
        assert_eq!(store.table().bytes, SHARE + 20 * (OVERHEAD + RUNS + 4));
    }

    /// Whatever happens, the accounts are those of what is there.
    #[tokio::test]
    async fn each_account_is_even() {
        let store = store(12 * (OVERHEAD + 50));
        let mut random = 7_u64;
        for step in 0..5_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let draw = |of: u64, bits: u32| (random >> bits) % of;
            let tenant = ["carper", "norte"][draw(2, 33) as usize];
            let subject = ["ana", "eva", "luz"][draw(3, 36) as usize];
            // Few, so that subjects meet in them.
            let slot = slot_of(tenant, subject, draw(8, 40));
            match draw(5, 44) {
                0 => store.release(&slot).await.expect("memory"),
                1 | 2 => drop(begin(&store, &slot, at(step))),
                _ => {
                    let size = draw(200, 50) as usize;
                    done(&store, &slot, size, at(step + draw(100, 58))).await;
                }
            }
            is_even(&store);
        }
        assert!(store.evicted.get() > 100);
    }

    fn is_even(store: &Memory) {
        let table = store.table();
        let account = |shelf: &Shelf, of: &Holder| -> (u64, usize) {
            let records = shelf.records.values().filter(|kept| kept.holder == *of);
            records.fold((SHARE, 0), |(bytes, ends), Kept { record, .. }| {
                let ends = ends + usize::from(!matches!(record.state, State::Running(_)));
                (bytes + size(record), ends)
            })
        };
        for shelf in table.shelves.values() {
            for (holder, share) in &shelf.shares {
                assert!(share.bytes > SHARE, "nobody is there for nothing");
                let expected = account(shelf, holder);
                assert_eq!((share.bytes, share.ends.len()), expected);
            }
            let (bytes, ends) = shelf.shares.values().fold((0, 0), |(bytes, ends), share| {
                (bytes + share.bytes, ends + share.ends.len())
            });
            assert_eq!((shelf.bytes, shelf.ends.len()), (bytes, ends));
        }
        let bytes: u64 = table.shelves.values().map(|shelf| shelf.bytes).sum();
        assert_eq!(table.bytes, bytes);
        assert_eq!(store.held.get().unsigned_abs(), bytes);
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
        // Who comes to wait when it has ended waits for nothing.
        store.changed(&slot).await;
        // Nothing is there to wait for.
        store.release(&slot).await.expect("memory");
        store.changed(&slot).await;
    }
}
