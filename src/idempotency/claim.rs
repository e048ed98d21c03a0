//! What goes with a change to its end, and says what became of it.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::{Attempt, Found, Once, Parts, Record, Slot, State, StoreError};

/// Leave to make a change that nobody else makes meanwhile. Dropped unsaid, as by a panic,
/// its outcome is unknown if it was sent.
#[must_use]
pub struct Claim {
    parts: Arc<Parts>,
    once: Once,
    earlier: Option<Attempt>,
    sent: Option<SystemTime>,
    /// It has [`Once::also`] while it runs.
    has_also: bool,
    is_settled: bool,
}

impl Claim {
    /// With the attempt before it, if nobody knows what became of that.
    pub(super) fn new(parts: Arc<Parts>, once: Once, earlier: Option<Attempt>) -> Self {
        Self {
            parts,
            once,
            earlier,
            sent: None,
            has_also: false,
            is_settled: false,
        }
    }

    /// Takes the other place of what is asked, where nobody has it.
    pub(super) async fn take_also(&mut self, now: SystemTime) -> Result<(), StoreError> {
        let (parts, once) = (&self.parts, &self.once);
        let Some((slot, fingerprint, keep)) = &once.also else {
            return Ok(());
        };
        if parts.store.peek(slot, now).await?.is_some() {
            return Ok(());
        }
        let lease = now + parts.lease;
        let begun = parts
            .store
            .begin(slot, *fingerprint, &once.mark, now, lease);
        match begun.await? {
            Found::Nothing => self.has_also = true,
            // What another has left meanwhile stays as it is.
            Found::Doubtful(attempt) => {
                let record = Record {
                    fingerprint: *fingerprint,
                    state: State::Doubtful(attempt),
                    until: now + *keep,
                };
                parts.settle(slot, record).await;
            }
            Found::Running | Found::Done(_) | Found::Mismatch => {}
        }
        Ok(())
    }

    /// The attempt before this one, if nobody knows what became of it.
    #[must_use]
    pub fn earlier(&self) -> Option<&Attempt> {
        self.earlier.as_ref()
    }

    /// By which its trace at the ERP is known: that of the attempt before, where there was one.
    #[must_use]
    pub fn mark(&self) -> &str {
        self.earlier
            .as_ref()
            .map_or(&self.once.mark, |earlier| &earlier.mark)
    }

    /// The answer of the attempt before this one, where another request has meanwhile found that it was made, or made it.
    pub async fn made_by_another(&self) -> Option<Bytes> {
        let (parts, earlier) = (&self.parts, self.earlier.as_ref()?);
        let made = parts.made(&self.once, earlier, parts.clock.wall()).await;
        // Where the store can't say, the ERP is asked.
        made.unwrap_or_default()
    }

    /// It is sent, then and no sooner.
    pub fn sends(&mut self, at: SystemTime) {
        self.sent = Some(at);
    }

    /// It was made, with that answer.
    pub async fn done(mut self, answer: Bytes) {
        self.is_settled = true;
        let now = self.parts.clock.wall();
        if let Some((slot, fingerprint, keep)) = &self.once.also {
            let record = Record {
                fingerprint: *fingerprint,
                state: State::Done(answer.clone()),
                until: now + *keep,
            };
            self.parts.settle(slot, record).await;
        }
        let record = self.once.record(State::Done(answer), now);
        if let (Some(shared), Some(earlier)) = (&self.once.shared, &self.earlier) {
            let slot = shared.attempts.of_attempt(earlier);
            let record = Record {
                until: now + shared.keep,
                ..record.clone()
            };
            self.parts.settle(&slot, record).await;
            self.parts.release(&shared.doubt).await;
        }
        self.parts.settle(&self.once.slot, record).await;
    }

    /// It certainly wasn't made: the next one is the first.
    pub async fn not_done(mut self) {
        self.is_settled = true;
        self.parts.release(&self.once.slot).await;
        if let (true, Some((slot, ..))) = (self.has_also, &self.once.also) {
            self.parts.release(slot).await;
        }
    }

    /// Nobody knows whether it was made; where it wasn't sent, nothing more is known than before.
    pub async fn undecided(mut self) {
        self.is_settled = true;
        self.unsaid().keep().await;
    }

    /// What is known where nothing was said.
    fn unsaid(&self) -> Unsaid {
        let (once, now) = (&self.once, self.parts.clock.wall());
        let attempt = match self.sent {
            Some(sent) => Some(Attempt {
                first: self.earlier.as_ref().map_or(sent, |earlier| earlier.first),
                sent,
                ended: now,
                mark: self.mark().to_owned(),
            }),
            None => self.earlier.clone(),
        };
        let mut records = Vec::new();
        let mut released = Vec::new();
        if let Some(attempt) = attempt {
            let doubt = once.record(State::Doubtful(attempt), now);
            if let Some((slot, fingerprint, keep)) = &once.also {
                let record = Record {
                    fingerprint: *fingerprint,
                    until: now + *keep,
                    ..doubt.clone()
                };
                records.push((slot.clone(), record));
            }
            if let Some(shared) = &once.shared {
                let record = Record {
                    until: now + shared.keep,
                    ..doubt.clone()
                };
                records.push((shared.doubt.clone(), record));
            }
            records.push((once.slot.clone(), doubt));
        } else {
            let also = once.also.iter().filter(|_| self.has_also);
            released.extend(also.map(|(slot, ..)| slot.clone()));
            released.push(once.slot.clone());
        }
        Unsaid {
            parts: self.parts.clone(),
            records,
            released,
        }
    }
}

/// What is kept of a claim that said nothing.
struct Unsaid {
    parts: Arc<Parts>,
    records: Vec<(Slot, Record)>,
    /// What may simply begin anew.
    released: Vec<Slot>,
}

impl Unsaid {
    async fn keep(self) {
        let Self {
            parts,
            records,
            released,
        } = self;
        for (slot, record) in records {
            parts.settle(&slot, record).await;
        }
        for slot in released {
            parts.release(&slot).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_settled {
            let tasks = self.parts.tasks.clone();
            tasks.spawn(self.unsaid().keep());
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.once).finish()
    }
}
