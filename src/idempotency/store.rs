//! Where outcomes are kept. A trait, since several replicas need one that they share.

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Fingerprint, Slot};

/// Keeps what became of requests that are to be done once. One that is full forgets before its time what whoever holds
/// most would have to soonest, by [`Slot::tenant`] and then by [`Slot::holder`]; never what runs.
pub trait Store: Send + Sync + 'static {
    /// Takes the slot for a request that begins now, or says what is in it: one step, so that
    /// of any number at once only one takes it. What is kept longer than it may be isn't there any more; what has run for
    /// longer than its lease is doubtful, and is taken over.
    fn begin<'a>(
        &'a self,
        slot: &'a Slot,
        fingerprint: Fingerprint,
        mark: &'a str,
        now: SystemTime,
        lease: SystemTime,
    ) -> BoxFuture<'a, Result<Found, StoreError>>;

    /// What is in a slot, which nobody takes for that.
    fn peek<'a>(
        &'a self,
        slot: &'a Slot,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<State>, StoreError>>;

    /// Says what became of the request that has the slot.
    fn settle<'a>(
        &'a self,
        slot: &'a Slot,
        record: Record,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Empties the slot.
    fn release<'a>(&'a self, slot: &'a Slot) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Waits until what runs in the slot may have ended.
    fn changed<'a>(&'a self, slot: &'a Slot) -> BoxFuture<'a, ()>;
}

/// What was in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is taken now.
    Nothing,
    /// An attempt whose outcome nobody knows: it is taken now.
    Doubtful(Attempt),
    /// A request that runs.
    Running,
    /// A change that was made, and its answer.
    Done(Bytes),
    /// Another request.
    Mismatch,
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// What became of it.
    pub state: State,
    /// Until when that is kept.
    pub until: SystemTime,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing yet: it began then, as part of that attempt.
    Running(Attempt),
    /// Nobody knows.
    Doubtful(Attempt),
    /// The change was made; the answer is kept.
    Done(Bytes),
}

/// A request to the ERP that may have changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When the first of those was sent that it repeats, which it is one with; else its own time.
    pub first: SystemTime,
    /// Not before then.
    pub sent: SystemTime,
    /// When it was given up.
    pub ended: SystemTime,
    /// By which its trace is known.
    pub mark: String,
}

/// The store can't be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store of idempotency keys can't be asked: {0}")]
pub struct StoreError(pub String);
