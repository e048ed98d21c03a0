//! A token's way to the keys: what is in force proves it, or a fetch that it waits for brings what does.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    super::{
        Refused,
        token::{Doubt, Proved, Unproved},
    },
    Current, Provider,
    flight::{Boarded, Landed},
};

/// When to come back where nothing is planned, and at the latest: tokens cause a fetch that often.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Provider {
    /// What the token says, and the version of the keys that prove it. Where no key that is
    /// known can prove it, the provider may be asked.
    pub(in crate::identity) async fn prove(
        &self,
        token: &Unproved<'_>,
    ) -> Result<(Proved, u64), Refused> {
        let inner = &self.0;
        let deadline = inner.clock.instant() + inner.rules.timeout;
        if matches!(self.current(), Current::Overdue) {
            let landed = self.board(false).flight().landed;
            inner.clock.before(deadline, landed).await;
        }
        let mut doubt = match self.judge(token) {
            Ok(proved) => return Ok(proved),
            Err(Some(doubt)) if !doubt.key_may_be_new => return Err(doubt.invalid.into()),
            Err(doubt) => doubt,
        };
        let mut looked_up = false;
        // A fetch that was under way may have read what was published before the token was
        // signed; the one after it can't have.
        for is_second in [false, true] {
            let (flight, is_recent) = match self.board_for_a_token() {
                Some(Boarded::Joined(flight)) => (flight, is_second),
                Some(Boarded::Begun(flight)) => (flight, true),
                None => {
                    looked_up = !inner.failing.load(Ordering::Acquire);
                    break;
                }
            };
            let landed = inner.clock.before(deadline, flight.landed).await;
            doubt = match self.judge(token) {
                Ok(proved) => return Ok(proved),
                Err(doubt) => doubt,
            };
            looked_up = is_recent && landed == Some(Landed::Fetched);
            if is_recent || landed.is_none() {
                break;
            }
        }
        match doubt {
            Some(doubt) if looked_up => Err(doubt.invalid.into()),
            // What couldn't be looked up isn't known to be wrong.
            _ => Err(self.unavailable()),
        }
    }

    /// Whether the keys in force prove the token; no doubt either where there are none.
    fn judge(&self, token: &Unproved<'_>) -> Result<(Proved, u64), Option<Doubt>> {
        // Keys that are overdue still are the last good ones.
        let held = self
            .0
            .held
            .load_full()
            .filter(|held| self.0.is_believed(held));
        let held = held.ok_or(None)?;
        let is_retired = |kid| held.is_retired(kid);
        let proved = token.prove(&held.keys).map_err(|doubt| {
            let key_may_be_new = doubt.key_may_be_new && !token.kid().is_some_and(is_retired);
            Some(Doubt {
                key_may_be_new,
                ..doubt
            })
        })?;
        Ok((proved, held.version))
    }

    fn unavailable(&self) -> Refused {
        let now = self.0.clock.instant();
        let planned = self.0.lock().next_attempt;
        let retry_after = planned
            .filter(|at| *at > now)
            .map_or(LONGEST_RETRY_AFTER, |at| at.duration_since(now))
            .min(LONGEST_RETRY_AFTER);
        Refused::Unavailable { retry_after }
    }

    /// The fetch under way, or a new one; none where tokens have caused too many.
    fn board_for_a_token(&self) -> Option<Boarded> {
        let mut state = self.0.lock();
        if let Some(joined) = self.join(&state, true) {
            return Some(joined);
        }
        let now = self.0.clock.instant();
        state
            .for_tokens
            .take(now)
            .then(|| self.begin(&mut state, true))
    }
}
