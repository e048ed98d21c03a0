//! What became of a change whose answer never came: the ERP is asked for its trace.

use std::time::{Duration, SystemTime};

use crate::{cache::Representation, idempotency::Attempt, upstream::Target};

use super::{Unfit, marks::History};

/// How exact the ERP's clock is known: its `Date` has whole seconds, and an answer takes its time.
const EXACT: Duration = Duration::from_secs(2);
/// The same where it sends no `Date`.
const INEXACT: Duration = Duration::from_secs(60);
/// Two clocks may drift apart by one part in so many.
const DRIFT: u32 = 10_000;
/// How long after it was given up a change may still be made, since it may wait in a queue of the ERP's. A
/// trace of later is somebody else's; without one until then it is sent again.
pub(super) const LATE: Duration = Duration::from_secs(60);
/// When it is worth looking again until then.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How a change is known again at the ERP.
pub struct Trace {
    /// Where it shows.
    pub target: Target,
    /// By what, where changes can be mistaken for each other: then equal marks go one after the other.
    pub mark: Option<String>,
    /// The change's answer, from the ERP's record; none where the change isn't in it.
    pub find: Find,
    /// The trace's id, from an answer that would be served.
    pub id: fn(&[u8]) -> Option<u64>,
}

/// Looks for a trace in the ERP's answer.
pub type Find =
    Box<dyn Fn(&[u8], &Sighting<'_>) -> Result<Option<Representation>, Unfit> + Send + Sync>;

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Trace").field(&self.target).finish()
    }
}

/// Which trace is looked for.
#[derive(Debug)]
pub struct Sighting<'a> {
    /// What it bears; empty where nothing was asked for.
    pub mark: &'a str,
    /// By the ERP's clock, not before then.
    pub from: SystemTime,
    /// And not after.
    pub until: SystemTime,
    /// Those that are of other changes.
    pub taken: &'a [u64],
}

impl<'a> Sighting<'a> {
    /// The trace of that attempt, for a look that is made at `now` by our clock and at `date` by the ERP's.
    pub(super) fn of(
        attempt: &'a Attempt,
        history: Option<&'a History>,
        now: SystemTime,
        date: Option<SystemTime>,
    ) -> Self {
        let age = now.duration_since(attempt.sent).unwrap_or_default();
        let exact = if date.is_some() { EXACT } else { INEXACT } + age / DRIFT;
        let theirs = |ours: SystemTime| shifted(ours, now, date.unwrap_or(now));
        let latest = attempt.ended + LATE;
        let next = history.and_then(|history| history.next_after(attempt.sent));
        Self {
            mark: &attempt.mark,
            from: theirs(attempt.sent) - exact,
            until: next.map_or(theirs(latest) + exact, |next| theirs(next.min(latest))),
            taken: history.map_or(&[], |history| &history.taken),
        }
    }
}

/// A moment by another clock, which shows `there` when this one shows `here`.
fn shifted(moment: SystemTime, here: SystemTime, there: SystemTime) -> SystemTime {
    match here.duration_since(moment) {
        Ok(ago) => there - ago,
        Err(ahead) => there + ahead.duration(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn attempt() -> Attempt {
        Attempt {
            first: at(1000),
            sent: at(1000),
            ended: at(1120),
            mark: "foto".to_owned(),
        }
    }

    #[test]
    fn the_erps_clock_is_what_counts() {
        let attempt = attempt();
        // It is ahead.
        let seen = Sighting::of(&attempt, None, at(5000), Some(at(14_000)));
        let exact = EXACT + Duration::from_millis(400);
        assert_eq!(seen.from, at(14_000 - 4000) - exact);
        assert_eq!(seen.until, at(14_000 - 3880) + LATE + exact);
        let unknown = Sighting::of(&attempt, None, at(1000), None);
        assert_eq!(unknown.from, at(1000) - INEXACT);
    }

    #[test]
    fn what_was_sent_later_under_the_same_mark_ends_it() {
        let mut history = History::default();
        history.sends(at(1000));
        history.sends(at(1130));
        history.takes(7);
        let attempt = attempt();
        let seen = Sighting::of(&attempt, Some(&history), at(2000), Some(at(2000)));
        assert_eq!(seen.until, at(1130));
        assert_eq!(seen.taken, [7]);
    }
}
