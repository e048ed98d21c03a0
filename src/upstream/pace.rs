//! How fast one credential may go. The ERP limits the rate and doesn't say how much
//! it allows; a 429 pauses everybody, and what was let through before it tells the
//! limit. Pure: time comes as an argument.
//!
//! Limits are written per second or per minute, and count what came in the last such
//! window. So the window is looked for where the pause ended: between the last refusal and
//! the first success. From then on requests are held under what it allowed and spread where
//! it is nearly used; it is tried a little higher now and then, and what nobody comes near
//! is forgotten. One odd 429 among successes says nothing: it pauses, and that is all.

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
const SLOWEST: f64 = 0.5;
/// After a refusal under a known limit.
const CUT: f64 = 0.95;
/// When a limit that was never confirmed is tried higher, and by how much.
const GUESS_HOLDS_WINDOWS: f64 = 0.25;
const GUESS_GROWS: f64 = 1.5;
/// The same of one that was: carefully at first, and then, where that goes well, sooner and further.
const LIMIT_HOLDS_WINDOWS: f64 = 4.0;
const LIMIT_GROWS: f64 = 1.05;
const NEXT_HOLDS_WINDOWS: f64 = 1.0;
/// A limit counts as used from this part on; one that isn't used shows nothing.
const USED: f64 = 0.9;
/// From this part on, what is left of a window is spread over it.
const BURST: f64 = 0.25;
/// A guess that holds for so many windows without being met was none, and a limit that
/// nobody comes near for so many is of no use.
const GUESS_LAPSES_WINDOWS: f64 = 2.0;
const LIMIT_LAPSES_WINDOWS: f64 = 10.0;
/// A pause that the ERP names and that is shorter shows no window.
const TELLING_PAUSE: Duration = Duration::from_secs(5);
/// So many single refusals at about the same count show a limit a minute too.
const SAMPLES: usize = 3;
const LEAST_SAMPLE: usize = 10;
const SAME_COUNT: f64 = 0.15;
/// So many refusals far below the limit show that it isn't the limit.
const STRAYS: u32 = 3;
/// A refusal far below the limit has another reason (requests at once, other clients of the
/// account): a pause must do.
const CLOSE: f64 = 0.5;
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
    /// When single refusals came without a known limit, and how many requests there were in
    /// the minute before.
    samples: VecDeque<(Instant, usize)>,
    /// Refusals in a row that were far below the limit.
    strays: u32,
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
    /// How often it has grown since.
    growths: i32,
    quiet_since: Instant,
    used_at: Instant,
}

/// What the first refusal showed, until a success shows the window.
#[derive(Debug, Clone, Copy)]
struct Search {
    first_sent: Instant,
    requests: usize,
    last_refused: Instant,
    /// Whether the pause was long enough to show a window: a probe was refused, or the ERP named it.
    tells: bool,
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
            samples: VecDeque::new(),
            strays: 0,
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

    /// When the pause ends that a 429 began, where there is one.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        let until = self.pause?.until;
        (until > now).then_some(until)
    }

    /// How far apart a learnt limit holds requests where it is nearly used; none where no limit is known.
    pub(super) fn learnt(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.gap())
    }

    /// How long the limit lets a request wait that has so many before it; none where
    /// no limit is known.
    pub(super) fn expected_wait(&self, now: Instant, ahead: usize) -> Option<Duration> {
        let limit = self.limit?;
        let burst = (limit.requests * BURST) as usize;
        let at_once = burst.saturating_sub(self.sent_within(now, limit.counted()));
        let spread = u32::try_from(ahead.saturating_sub(at_once)).unwrap_or(u32::MAX);
        let ready_in = self.ready_at(now).saturating_duration_since(now);
        Some(ready_in + limit.gap().saturating_mul(spread))
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

    /// It wasn't sent after all.
    pub(super) fn take_back(&mut self, sent_at: Instant) {
        if let Some(at) = self.sent.iter().rposition(|sent| *sent == sent_at) {
            self.sent.remove(at);
        }
    }

    /// It was answered, and not with 429.
    pub(super) fn accepted(&mut self, now: Instant) {
        self.refusals = 0;
        if self.pause.is_none_or(|pause| now >= pause.until) {
            self.pause = None;
            self.at_once = (self.at_once + 1).min(self.most_at_once);
        }
        if let Some(search) = self.search.take()
            && search.tells
        {
            self.limit = Some(search.limit(now));
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
        self.take_back(sent_at);
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
        if let Some(search) = &mut self.search
            && named >= TELLING_PAUSE
        {
            search.tells = true;
            // It says when there is room again, rounded up to the second.
            search.last_refused = now + named - Duration::from_secs(1);
        }
        let began = self.pause.filter(|_| !is_news).map_or(now, |it| it.began);
        let until = self.pause.map_or(until, |pause| pause.until.max(until));
        self.pause = Some(Pause { began, until });
        self.at_once = 1;
    }

    /// The way back after the ERP was down: one at a time first.
    pub(super) fn begin_gently(&mut self) {
        self.at_once = 1;
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.sent.len()
    }

    fn learn(&mut self, now: Instant) {
        if let Some(limit) = self.limit {
            let seen = self.sent_within(now, limit.window) as f64;
            if seen >= limit.requests * CLOSE {
                let slowest = SLOWEST * limit.window.as_secs_f64();
                self.strays = 0;
                self.limit = Some(Limit {
                    requests: (limit.requests * CUT).min(seen).max(slowest).max(1.0),
                    is_confirmed: true,
                    growths: 0,
                    quiet_since: now,
                    used_at: now,
                    ..limit
                });
                return;
            }
            self.strays += 1;
            if self.strays < STRAYS {
                return;
            }
            self.limit = None;
            self.strays = 0;
        }
        if let Some(search) = &mut self.search {
            search.last_refused = now;
            search.tells = true;
            return;
        }
        if self.take_sample(now) {
            return;
        }
        if let Some(first_sent) = self.sent.front().copied() {
            self.search = Some(Search {
                first_sent,
                requests: self.sent.len(),
                last_refused: now,
                tells: false,
            });
        }
    }

    /// Notes a refusal where no limit is known. Says whether it and those before show one.
    fn take_sample(&mut self, now: Instant) -> bool {
        let window = USUAL_WINDOWS[1];
        let count = self.sent_within(now, window);
        self.samples
            .retain(|(at, _)| now.duration_since(*at) <= HORIZON);
        self.samples.push_back((now, count));
        let alike = |other: usize| (other as f64 - count as f64).abs() <= count as f64 * SAME_COUNT;
        let shown = self.samples.len() >= SAMPLES
            && count >= LEAST_SAMPLE
            && self.samples.iter().all(|(_, other)| alike(*other));
        if shown {
            self.samples.clear();
            self.limit = Some(Limit {
                requests: (count as f64).max(SLOWEST * window.as_secs_f64()),
                window,
                is_confirmed: true,
                growths: 0,
                quiet_since: now,
                used_at: now,
            });
        }
        shown
    }

    fn grow(&mut self, now: Instant) {
        let Some(mut limit) = self.limit else { return };
        self.strays = 0;
        let used = self.sent_within(now, limit.window) as f64 >= limit.requests * USED;
        if used {
            limit.used_at = now;
            self.limit = Some(limit);
        }
        let windows = |since: Instant| {
            now.saturating_duration_since(since).as_secs_f64() / limit.window.as_secs_f64()
        };
        let lapses = match limit.is_confirmed {
            false => windows(limit.quiet_since) >= GUESS_LAPSES_WINDOWS && !used,
            true => windows(limit.used_at) >= LIMIT_LAPSES_WINDOWS,
        };
        if lapses {
            self.limit = None;
            return;
        }
        let (holds, grows) = match (limit.is_confirmed, limit.growths) {
            (false, _) => (GUESS_HOLDS_WINDOWS, GUESS_GROWS),
            (true, 0) => (LIMIT_HOLDS_WINDOWS, LIMIT_GROWS),
            (true, before) => (
                NEXT_HOLDS_WINDOWS,
                LIMIT_GROWS.powi(before + 1).min(GUESS_GROWS),
            ),
        };
        if windows(limit.quiet_since) >= holds && used {
            self.limit = Some(Limit {
                requests: limit.requests * grows,
                growths: limit.growths.saturating_add(1),
                quiet_since: now,
                ..limit
            });
        }
    }

    fn limit_allows_at(&self, now: Instant) -> Instant {
        let Some(limit) = self.limit else { return now };
        let (window, allowed) = (limit.counted(), limit.requests.max(1.0) as usize);
        let used = self.sent_within(now, window);
        // As in the ERP's own window: the request that makes room must have left it.
        if let Some(at) = self.sent.len().checked_sub(allowed)
            && used >= allowed
        {
            return self.sent[at] + window;
        }
        let (Some(last), Some(at)) = (self.sent.back(), self.sent.len().checked_sub(used)) else {
            return now;
        };
        let Some(oldest) = self
            .sent
            .get(at)
            .filter(|_| used as f64 >= limit.requests * BURST)
        else {
            return now;
        };
        // What is left must last until the oldest leaves the window, or nobody is served
        // from when it is gone until then.
        let lasts = (*oldest + window).saturating_duration_since(*last);
        let left = u32::try_from(allowed - used).unwrap_or(u32::MAX);
        *last + limit.gap().max(lasts / left.max(1))
    }

    fn sent_within(&self, now: Instant, window: Duration) -> usize {
        let inside = |sent: &&Instant| now.saturating_duration_since(**sent) < window;
        self.sent.iter().rev().take_while(inside).count()
    }
}

impl Limit {
    /// The window as we count it.
    fn counted(&self) -> Duration {
        self.window.mul_f64(MARGIN)
    }

    fn gap(&self) -> Duration {
        self.counted().div_f64(self.requests.max(1.0))
    }
}

impl Search {
    /// The limit, now that there is room again.
    fn limit(self, now: Instant) -> Limit {
        let at_least = self.last_refused.saturating_duration_since(self.first_sent);
        let at_most = now.saturating_duration_since(self.first_sent);
        let usual = USUAL_WINDOWS
            .into_iter()
            .rfind(|window| (at_least..=at_most).contains(window));
        let window = usual.unwrap_or(at_most).max(USUAL_WINDOWS[0]);
        let slowest = SLOWEST * window.as_secs_f64();
        Limit {
            requests: (self.requests as f64).max(slowest).max(1.0),
            window,
            is_confirmed: false,
            growths: 0,
            quiet_since: now,
            used_at: now,
        }
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
            for seed in 0..6 {
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
        for (requests, window, least) in [(5, 1, 0.6), (300, 60, 0.8), (40, 60, 0.8), (60, 90, 0.7)]
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

    #[test]
    fn refusals_for_other_reasons_do_not_stop_everything() {
        let (mut now, mut pace) = (Instant::now(), Pace::new(5));
        let mut random = fastrand::Rng::with_seed(5);
        let (start, mut accepted) = (now, 0);
        while now - start < Duration::from_secs(1200) {
            now = pace.ready_at(now).max(now + ms(100));
            pace.send(now);
            if random.u32(0..100) < 2 {
                pace.refused(now, now, None, |whole| whole.mul_f64(random.f64()));
            } else {
                accepted += 1;
                pace.accepted(now);
            }
        }
        assert!(accepted > 550, "{accepted} in 20 minutes");
    }

    #[test]
    fn one_odd_refusal_changes_nothing_for_long() {
        let (start, mut pace) = (Instant::now(), Pace::new(5));
        let mut now = start;
        for round in 0..20 {
            assert!(pace.limit.is_none());
            // A page of eight, and then a pause to read it.
            for _ in 0..8 {
                now = now.max(pace.ready_at(now)) + ms(20);
                pace.send(now);
                if round == 0 {
                    pace.refused(now, now, None, |whole| whole);
                    now = pace.ready_at(now);
                    pace.send(now);
                }
                pace.accepted(now);
            }
            now += ms(3000);
        }
        let begun = now;
        for _ in 0..25 {
            now = now.max(pace.ready_at(now)) + ms(20);
            pace.send(now);
            pace.accepted(now);
        }
        assert!(now - begun < ms(1000), "{:?} for a page of 25", now - begun);
    }

    #[test]
    fn a_limit_that_nobody_comes_near_is_forgotten() {
        let mut throttle = Throttle {
            requests: 60,
            window: Duration::from_secs(60),
            tells: true,
            taken: VecDeque::new(),
        };
        let (start, mut pace) = (Instant::now(), Pace::new(5));
        let mut now = start;
        while now - start < Duration::from_secs(90) {
            now = now.max(pace.ready_at(now)) + ms(10);
            pace.send(now);
            match throttle.ask(now) {
                Ok(()) => pace.accepted(now),
                Err(retry_after) => pace.refused(now, now, retry_after, |whole| whole),
            }
        }
        assert!(pace.limit.is_some());
        for _ in 0..100 {
            now += ms(10_000);
            pace.send(now);
            pace.accepted(now);
        }
        assert!(pace.limit.is_none());
    }

    #[test]
    fn a_limit_that_is_met_one_refusal_at_a_time_is_found_too() {
        let mut throttle = Throttle {
            requests: 60,
            window: Duration::from_secs(60),
            tells: false,
            taken: VecDeque::new(),
        };
        let (start, mut pace) = (Instant::now(), Pace::new(5));
        let (mut now, mut refused) = (start, 0);
        while now - start < Duration::from_secs(1200) {
            // Somewhat more than it allows, and never a burst.
            now = (now + ms(800)).max(pace.ready_at(now));
            pace.send(now);
            match throttle.ask(now) {
                Ok(()) => pace.accepted(now),
                Err(retry_after) => {
                    refused += 1;
                    pace.refused(now, now, retry_after, |whole| whole / 2);
                }
            }
        }
        assert!(refused < 30, "{refused} in 20 minutes");
    }

    #[test]
    fn what_was_not_sent_is_not_counted() {
        let (now, mut pace) = (Instant::now(), Pace::new(5));
        for at in 0..400 {
            pace.send(now + ms(at));
            pace.take_back(now + ms(at));
        }
        assert!(pace.sent.is_empty());
    }
}
