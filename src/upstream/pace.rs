//! How fast one credential may go. The ERP limits the rate and doesn't say how much
//! it allows; a 429 pauses everybody, and what was let through before it tells the
//! limit. Pure: time comes as an argument.
//!
//! Limits are written per second, per minute or per hour, and count what came in the
//! last such window. So the window is looked for where the pause ended: between
//! the last refusal and the first success. From then on requests are spread
//! over the window and held under what it allowed, which is tried a little higher now and then.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back requests are remembered, and how many.
const HORIZON: Duration = Duration::from_secs(120);
const MOST_REMEMBERED: usize = 8192;
/// Windows that limits are written in.
const USUAL_WINDOWS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The ERP counts when a request arrives, which isn't quite when it was sent.
const MARGIN: f64 = 1.02;
/// A limit below this, in requests a second, isn't believed: pauses alone must do.
const SLOWEST: f64 = 0.2;
/// After a refusal under a known limit.
const CUT: f64 = 0.95;
/// When a limit that was never confirmed, and one that was, is tried higher, and by how much.
const GUESS_HOLDS_WINDOWS: f64 = 0.25;
const GUESS_GROWS: f64 = 1.5;
const LIMIT_HOLDS_WINDOWS: f64 = 4.0;
const LIMIT_GROWS: f64 = 1.05;
/// A limit counts as used from this part on; one that isn't used shows nothing.
const USED: f64 = 0.9;
/// Pauses where the ERP names none: the first at most, any at most, any at least.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// One credential's pace.
#[derive(Debug)]
pub(super) struct Pace {
    most_at_once: usize,
    /// Grows by one with each success, from one after a pause.
    at_once: usize,
    pause: Option<Pause>,
    /// Pauses in a row that a refusal ended.
    refusals: u32,
    /// When requests were sent that the ERP didn't refuse.
    sent: VecDeque<Instant>,
    limit: Option<Limit>,
    search: Option<Search>,
}

#[derive(Debug, Clone, Copy)]
struct Pause {
    began: Instant,
    until: Instant,
}

/// So many requests in any such window.
#[derive(Debug, Clone, Copy)]
struct Limit {
    requests: f64,
    window: Duration,
    /// Whether a refusal has shown it a second time.
    is_confirmed: bool,
    quiet_since: Instant,
}

/// What the first refusal showed, until a success shows the window.
#[derive(Debug, Clone, Copy)]
struct Search {
    first_sent: Instant,
    requests: usize,
    last_refused: Instant,
}

impl Pace {
    pub(super) fn new(most_at_once: usize) -> Self {
        Self {
            most_at_once,
            at_once: most_at_once,
            pause: None,
            refusals: 0,
            sent: VecDeque::new(),
            limit: None,
            search: None,
        }
    }

    /// How many requests may be under way.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// The moment from which the next request may be sent.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let paused = self.pause.map_or(now, |pause| pause.until);
        paused.max(self.limit_allows_at(now)).max(now)
    }

    /// The time that passes between two requests; none where no limit is known.
    pub(super) fn gap(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.gap())
    }

    /// Whether requests wait for a pause or a limit, and not for each other.
    pub(super) fn is_limited(&self, now: Instant) -> bool {
        self.limit.is_some() || self.ready_at(now) > now
    }

    /// A request goes out.
    pub(super) fn send(&mut self, now: Instant) {
        while let Some(oldest) = self.sent.front()
            && (self.sent.len() >= MOST_REMEMBERED || now.duration_since(*oldest) > HORIZON)
        {
            self.sent.pop_front();
        }
        self.sent.push_back(now);
    }

    /// It was answered, and not with 429.
    pub(super) fn accepted(&mut self, now: Instant) {
        self.refusals = 0;
        if self.pause.is_none_or(|pause| now >= pause.until) {
            self.pause = None;
            self.at_once = (self.at_once + 1).min(self.most_at_once);
        }
        if let Some(search) = self.search.take() {
            self.limit = search.limit(now);
        }
        self.grow(now);
    }

    /// It was answered with 429. `jitter` shortens a pause that the ERP doesn't name.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        sent_at: Instant,
        retry_after: Option<Duration>,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        if let Some(at) = self.sent.iter().rposition(|sent| *sent == sent_at) {
            self.sent.remove(at);
        }
        // What was under way when the pause began tells nothing new of the ERP's mood.
        let is_news = self.pause.is_none_or(|pause| sent_at >= pause.began);
        if is_news {
            self.refusals = self.refusals.saturating_add(1);
            self.learn(now);
        } else if let Some(search) = &mut self.search {
            search.last_refused = now;
        }
        // A pause that the ERP names and then doesn't keep to grows all the same.
        let named = retry_after.unwrap_or_default();
        let own = match is_news {
            true => jitter(backoff(self.refusals)).max(SHORTEST_PAUSE),
            false => Duration::ZERO,
        };
        let until = now + named.max(own);
        let began = self.pause.filter(|_| !is_news).map_or(now, |it| it.began);
        let until = self.pause.map_or(until, |pause| pause.until.max(until));
        self.pause = Some(Pause { began, until });
        self.at_once = 1;
    }

    /// The way back after the ERP was down: one at a time first.
    pub(super) fn begin_gently(&mut self) {
        self.at_once = 1;
    }

    fn learn(&mut self, now: Instant) {
        if let Some(limit) = self.limit {
            let seen = self.sent_within(now, limit.window) as f64;
            let slowest = SLOWEST * limit.window.as_secs_f64();
            self.limit = Some(Limit {
                requests: (limit.requests * CUT).min(seen).max(slowest).max(1.0),
                is_confirmed: true,
                quiet_since: now,
                ..limit
            });
        } else if let Some(search) = &mut self.search {
            search.last_refused = now;
        } else if let Some(first_sent) = self.sent.front().copied() {
            self.search = Some(Search {
                first_sent,
                requests: self.sent.len(),
                last_refused: now,
            });
        }
    }

    fn grow(&mut self, now: Instant) {
        let Some(limit) = self.limit else { return };
        let (holds, grows) = if limit.is_confirmed {
            (LIMIT_HOLDS_WINDOWS, LIMIT_GROWS)
        } else {
            (GUESS_HOLDS_WINDOWS, GUESS_GROWS)
        };
        let quiet = now.saturating_duration_since(limit.quiet_since);
        let used = self.sent_within(now, limit.window) as f64 >= limit.requests * USED;
        // What is far above all that was ever sent at once limits nothing.
        if quiet >= limit.window.mul_f64(holds) && used {
            self.limit = Some(Limit {
                requests: limit.requests * grows,
                quiet_since: now,
                ..limit
            });
        }
    }

    fn limit_allows_at(&self, now: Instant) -> Instant {
        let Some(limit) = self.limit else { return now };
        let spread = self.sent.back().map_or(now, |last| *last + limit.gap());
        // As in the ERP's own window: the request that makes room must have left it.
        let allowed = limit.requests.max(1.0) as usize;
        let room = self
            .sent
            .len()
            .checked_sub(allowed)
            .map_or(now, |at| self.sent[at] + limit.window.mul_f64(MARGIN));
        spread.max(room)
    }

    fn sent_within(&self, now: Instant, window: Duration) -> usize {
        let inside = |sent: &&Instant| now.saturating_duration_since(**sent) < window;
        self.sent.iter().rev().take_while(inside).count()
    }
}

impl Limit {
    fn gap(&self) -> Duration {
        self.window.div_f64(self.requests.max(1.0)).mul_f64(MARGIN)
    }
}

impl Search {
    /// The limit, now that there is room again.
    fn limit(self, now: Instant) -> Option<Limit> {
        let at_least = self.last_refused.saturating_duration_since(self.first_sent);
        let at_most = now.saturating_duration_since(self.first_sent);
        let usual = USUAL_WINDOWS
            .into_iter()
            .find(|window| (at_least..=at_most).contains(window));
        let window = usual.unwrap_or(at_most).max(USUAL_WINDOWS[0]);
        let slowest = SLOWEST * window.as_secs_f64();
        Some(Limit {
            requests: (self.requests as f64).max(slowest).max(1.0),
            window,
            is_confirmed: false,
            quiet_since: now,
        })
    }
}

fn backoff(refusals: u32) -> Duration {
    FIRST_BACKOFF
        .saturating_mul(1 << refusals.saturating_sub(1).min(10))
        .min(LONGEST_BACKOFF)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A limit over a sliding window, as Django REST Framework's throttles count.
    struct Throttle {
        requests: usize,
        window: Duration,
        tells: bool,
        taken: VecDeque<Instant>,
    }

    impl Throttle {
        fn ask(&mut self, now: Instant) -> Result<(), Option<Duration>> {
            while let Some(oldest) = self.taken.front()
                && now - *oldest >= self.window
            {
                self.taken.pop_front();
            }
            if self.taken.len() < self.requests {
                self.taken.push_back(now);
                return Ok(());
            }
            let room = self.window - (now - self.taken[0]);
            Err(self
                .tells
                .then(|| Duration::from_secs(room.as_secs() + u64::from(room.subsec_nanos() > 0))))
        }
    }

    #[derive(Debug, Default)]
    struct Outcome {
        accepted: usize,
        refused: usize,
        refused_in_first_pause: usize,
        first_pause_ended: Option<Duration>,
    }

    /// Sends whenever the pace lets it, each answered 100 ms later.
    fn run(throttle: &mut Throttle, for_how_long: Duration, seed: u64) -> Outcome {
        let (start, mut pace, mut outcome) = (Instant::now(), Pace::new(5), Outcome::default());
        let mut random = fastrand::Rng::with_seed(seed);
        let mut under_way: VecDeque<(Instant, Instant, Result<(), Option<Duration>>)> =
            VecDeque::new();
        let mut now = start;
        while now - start < for_how_long {
            while let Some((done, sent, answer)) = under_way.front().copied()
                && done <= now
            {
                under_way.pop_front();
                match answer {
                    Ok(()) => {
                        outcome.accepted += 1;
                        pace.accepted(now);
                        if outcome.refused > 0 && outcome.first_pause_ended.is_none() {
                            outcome.first_pause_ended = Some(now - start);
                            outcome.refused_in_first_pause = outcome.refused;
                        }
                    }
                    Err(retry_after) => {
                        outcome.refused += 1;
                        pace.refused(now, sent, retry_after, |whole| whole.mul_f64(random.f64()));
                    }
                }
            }
            while under_way.len() < pace.at_once() && pace.ready_at(now) <= now {
                pace.send(now);
                under_way.push_back((now + ms(100), now, throttle.ask(now + ms(50))));
            }
            now += ms(10);
        }
        outcome
    }

    #[test]
    fn a_limit_that_nobody_tells_is_found_and_used() {
        for tells in [false, true] {
            for seed in 0..40 {
                let mut throttle = Throttle {
                    requests: 60,
                    window: Duration::from_secs(60),
                    tells,
                    taken: VecDeque::new(),
                };
                let whole = Duration::from_secs(20 * 60);
                let outcome = run(&mut throttle, whole, seed);
                let ended = outcome.first_pause_ended.expect("it ends");
                let refused = (outcome.refused - outcome.refused_in_first_pause) as f64;
                let accepted = (outcome.accepted - 60) as f64;
                let share = refused / (refused + accepted);
                let used = accepted / (whole - ended).as_secs_f64();
                assert!(
                    share < 0.02 && used >= 0.85,
                    "tells {tells}, seed {seed}: {share:.3} refused, {used:.3} used, {outcome:?}"
                );
            }
        }
    }

    #[test]
    fn limits_of_other_sizes_are_found_too() {
        for (requests, window, least) in [(5, 1, 0.6), (300, 60, 0.8), (20, 60, 0.8), (40, 90, 0.7)]
        {
            let mut throttle = Throttle {
                requests,
                window: Duration::from_secs(window),
                tells: false,
                taken: VecDeque::new(),
            };
            let whole = Duration::from_secs(20 * 60);
            let outcome = run(&mut throttle, whole, 3);
            let allowed = requests as f64 * whole.as_secs_f64() / window as f64;
            let used = outcome.accepted as f64 / allowed;
            let refused = outcome.refused - outcome.refused_in_first_pause;
            let share = refused as f64 / (refused + outcome.accepted) as f64;
            assert!(
                used > least && share < 0.03,
                "{requests} in {window} s: {used:.3} used, {share:.3} refused"
            );
        }
    }

    #[test]
    fn a_refusal_pauses_everybody_for_as_long_as_the_erp_says() {
        let (now, mut pace) = (Instant::now(), Pace::new(5));
        pace.send(now);
        pace.refused(now, now, Some(ms(3000)), |whole| whole);
        assert_eq!(pace.ready_at(now), now + ms(3000));
        assert!(pace.is_limited(now));
        assert_eq!(pace.at_once(), 1, "one tries first");
        pace.send(now + ms(3000));
        pace.accepted(now + ms(3100));
        assert_eq!(pace.at_once(), 2, "then two, not five");
    }

    #[test]
    fn what_was_under_way_does_not_lengthen_the_backoff() {
        let (now, mut pace) = (Instant::now(), Pace::new(5));
        for at in 0..5 {
            pace.send(now + ms(at));
        }
        for at in 0..5 {
            pace.refused(now + ms(100 + at), now + ms(at), None, |whole| whole);
        }
        assert_eq!(pace.ready_at(now), now + ms(100) + FIRST_BACKOFF);
        let again = now + ms(2000);
        pace.send(again);
        pace.refused(again, again, None, |whole| whole);
        assert_eq!(pace.ready_at(again), again + 2 * FIRST_BACKOFF);
    }

    #[test]
    fn pauses_that_nobody_names_have_a_bound() {
        let (mut now, mut pace) = (Instant::now(), Pace::new(5));
        for _ in 0..100 {
            pace.send(now);
            pace.refused(now, now, None, |whole| whole);
            let ready = pace.ready_at(now);
            assert!(ready - now <= LONGEST_BACKOFF);
            now = ready;
        }
    }
}
