//! A breaker: after failures in a row it lets nothing through for a while, then
//! one trial decides (Nygard, *Release It!*). Pure: time comes as an argument.

use std::time::{Duration, Instant};

/// Failures in a row that open it.
const THRESHOLD: u32 = 5;
/// How long it stays open the first time; doubled each time that the trial fails.
const FIRST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);
/// A trial that hasn't ended by then was lost, and another may begin.
const TRIAL_PATIENCE: Duration = Duration::from_secs(30);
/// When to come back while a trial decides.
pub(super) const TRIAL_RETRY: Duration = Duration::from_secs(1);

/// One tenant's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Openings since it was last closed.
    openings: u32,
    epoch: Epoch,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        /// The targets among them that an error of the ERP's own came from.
        targets: Vec<u64>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        since: Instant,
    },
}

/// How the ERP failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    /// It didn't answer, or something before it said that it can't.
    Gone,
    /// It answered 500. One bad record does that too, so only different targets count.
    Error {
        /// Tells targets apart.
        target: u64,
    },
}

/// Which state let a request through: what became of it counts in that state only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

/// Whether a request may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Pass(Epoch),
    /// It may not, and whoever asked begins the trial.
    Trial(Epoch),
    /// It may not; when it is likely to.
    Refuse(Duration),
}

/// As operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go through.
    Closed,
    /// One trial decides.
    HalfOpen,
    /// Nothing goes through.
    Open,
}

impl BreakerState {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }

    /// Its value in `llavero_upstream_breaker_state`.
    #[must_use]
    pub const fn as_metric(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::closed(),
            openings: 0,
            epoch: Epoch(0),
        }
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed {
            failures: 0,
            targets: Vec::new(),
        }
    }
}

impl Breaker {
    /// `can_try` says whether whoever asks could send a trial now; another will, where not.
    pub(super) fn admit(&mut self, now: Instant, can_try: impl Fn() -> bool) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Pass(self.epoch),
            State::Open { until } if now < until => Admission::Refuse(until - now),
            State::HalfOpen { since } if now < since + TRIAL_PATIENCE => {
                Admission::Refuse(TRIAL_RETRY)
            }
            State::Open { .. } | State::HalfOpen { .. } if !can_try() => {
                Admission::Refuse(TRIAL_RETRY)
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                self.enter(State::HalfOpen { since: now });
                Admission::Trial(self.epoch)
            }
        }
    }

    /// The ERP answered.
    pub(super) fn succeeded(&mut self, epoch: Epoch) {
        if epoch != self.epoch {
            return;
        }
        match &mut self.state {
            State::Closed { failures, targets } => {
                *failures = 0;
                targets.clear();
            }
            State::HalfOpen { .. } => {
                self.openings = 0;
                self.enter(State::closed());
            }
            State::Open { .. } => {}
        }
    }

    /// The trial couldn't be sent, so it decides nothing: another may begin soon.
    pub(super) fn trial_was_not_sent(&mut self, epoch: Epoch, now: Instant) {
        if epoch == self.epoch && matches!(self.state, State::HalfOpen { .. }) {
            let until = now + TRIAL_RETRY;
            self.enter(State::Open { until });
        }
    }

    /// The ERP failed; `jitter` spreads what many gateways do at once.
    pub(super) fn failed(
        &mut self,
        epoch: Epoch,
        outage: Outage,
        now: Instant,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        if epoch != self.epoch {
            return;
        }
        let opens = match &mut self.state {
            State::Closed { failures, targets } => {
                let is_new = match outage {
                    Outage::Gone => true,
                    Outage::Error { target } if targets.contains(&target) => false,
                    Outage::Error { target } => {
                        targets.push(target);
                        true
                    }
                };
                *failures += u32::from(is_new);
                *failures >= THRESHOLD
            }
            State::HalfOpen { .. } => true,
            State::Open { .. } => false,
        };
        if opens {
            let factor = 1_u32 << self.openings.min(6);
            let open = FIRST_OPEN.saturating_mul(factor).min(LONGEST_OPEN);
            self.openings += 1;
            let until = now + open + jitter(open / 5);
            self.enter(State::Open { until });
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
            State::Open { .. } => BreakerState::Open,
        }
    }

    /// When a trial may begin; none while it is closed.
    pub(super) fn trial_at(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until } => Some(until),
            State::HalfOpen { since } => Some(since + TRIAL_PATIENCE),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = Epoch(self.epoch.0 + 1);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pass(breaker: &mut Breaker, now: Instant) -> Epoch {
        match breaker.admit(now, || true) {
            Admission::Pass(epoch) => epoch,
            other => panic!("{other:?}"),
        }
    }

    fn fail(breaker: &mut Breaker, epoch: Epoch, now: Instant) {
        breaker.failed(epoch, Outage::Gone, now, |_| Duration::ZERO);
    }

    fn open(breaker: &mut Breaker, now: Instant) {
        for _ in 0..THRESHOLD {
            let epoch = pass(breaker, now);
            fail(breaker, epoch, now);
        }
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..20 {
            for _ in 1..THRESHOLD {
                let epoch = pass(&mut breaker, now);
                fail(&mut breaker, epoch, now);
            }
            let epoch = pass(&mut breaker, now);
            breaker.succeeded(epoch);
        }
        open(&mut breaker, now);
        assert_eq!(breaker.admit(now, || true), Admission::Refuse(FIRST_OPEN));
    }

    #[test]
    fn one_trial_decides_and_the_others_are_refused() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        open(&mut breaker, start);
        let later = start + FIRST_OPEN;
        let Admission::Trial(epoch) = breaker.admit(later, || true) else {
            panic!("a trial")
        };
        assert_eq!(
            breaker.admit(later, || true),
            Admission::Refuse(TRIAL_RETRY)
        );
        fail(&mut breaker, epoch, later);
        assert_eq!(
            breaker.admit(later, || true),
            Admission::Refuse(2 * FIRST_OPEN)
        );
        let later = later + 2 * FIRST_OPEN;
        let Admission::Trial(epoch) = breaker.admit(later, || true) else {
            panic!("a trial")
        };
        breaker.succeeded(epoch);
        assert_eq!(breaker.state(), BreakerState::Closed);
        open(&mut breaker, later);
        assert_eq!(
            breaker.admit(later, || true),
            Admission::Refuse(FIRST_OPEN),
            "once closed it begins anew"
        );
    }

    #[test]
    fn what_began_before_it_opened_decides_nothing_after() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let old = pass(&mut breaker, now);
        open(&mut breaker, now);
        breaker.succeeded(old);
        assert_eq!(breaker.state(), BreakerState::Open);
        let Admission::Trial(_) = breaker.admit(now + FIRST_OPEN, || true) else {
            panic!("a trial")
        };
        fail(&mut breaker, old, now + FIRST_OPEN);
        breaker.succeeded(old);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn a_lost_trial_is_not_the_last() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        open(&mut breaker, now);
        let trial = breaker.admit(now + FIRST_OPEN, || true);
        assert!(matches!(trial, Admission::Trial(_)));
        let again = breaker.admit(now + FIRST_OPEN + TRIAL_PATIENCE, || true);
        assert!(matches!(again, Admission::Trial(_)));
    }

    #[test]
    fn it_stays_open_for_a_minute_at_most() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        open(&mut breaker, now);
        for _ in 0..20 {
            now += seconds(60);
            let Admission::Trial(epoch) = breaker.admit(now, || true) else {
                panic!("a trial")
            };
            fail(&mut breaker, epoch, now);
        }
        assert_eq!(breaker.admit(now, || true), Admission::Refuse(LONGEST_OPEN));
    }

    #[test]
    fn one_bad_record_is_no_outage_and_five_are() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let error = |breaker: &mut Breaker, target| {
            let epoch = pass(breaker, now);
            breaker.failed(epoch, Outage::Error { target }, now, |_| Duration::ZERO);
        };
        for _ in 0..100 {
            error(&mut breaker, 7);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        for target in 8..12 {
            error(&mut breaker, target);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn a_trial_that_was_not_sent_decides_nothing() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        open(&mut breaker, now);
        let later = now + FIRST_OPEN;
        let Admission::Trial(epoch) = breaker.admit(later, || true) else {
            panic!("a trial")
        };
        breaker.trial_was_not_sent(epoch, later);
        // Nor does one that couldn't be sent begin.
        let paused = breaker.admit(later + TRIAL_RETRY, || false);
        assert_eq!(paused, Admission::Refuse(TRIAL_RETRY));
        assert_eq!(
            breaker.admit(later, || true),
            Admission::Refuse(TRIAL_RETRY)
        );
        let again = breaker.admit(later + TRIAL_RETRY, || true);
        assert!(matches!(again, Admission::Trial(_)));
    }
}
