//! Which requests go side by side with one credential. Uploads hold their places for as long as the ERP takes over a
//! photo, which turns can't help against: so one place is never theirs, and of the rest one is never one caller's.
//! Pure: time comes as an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Lane;

/// How much of a new service time goes into the average.
const SMOOTHING: f64 = 0.2;

/// How long a request may hold its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A read, a change, a login.
    Brief,
    /// A photo.
    Upload,
}

/// The places of one credential.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    briefs: Holders,
    uploads: Holders,
    /// How many uploads are whose.
    uploads_of: HashMap<Lane, usize>,
}

/// Those of one kind.
#[derive(Debug, Default)]
struct Holders {
    /// When each was given its place.
    begun: Vec<Instant>,
    /// How long one takes, on average.
    service: Option<Duration>,
}

/// What has its turn before a request that joins now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) briefs: usize,
    pub(super) uploads: usize,
    /// Uploads of its own lane.
    pub(super) own: usize,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            briefs: Holders::default(),
            uploads: Holders::default(),
            uploads_of: HashMap::new(),
        }
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.briefs.begun.len() + self.uploads.begun.len()
    }

    /// Whether one may be given to such a request, where so many requests may go at once.
    pub(super) fn may(&self, kind: Kind, lane: &Lane, at_once: usize) -> bool {
        let is_free = self.held() < at_once;
        match kind {
            // Uploads that began before a pause don't keep the first one out that follows it.
            Kind::Brief => is_free || (self.briefs.begun.is_empty() && self.held() < self.most),
            Kind::Upload => {
                is_free
                    && self.uploads.begun.len() < for_uploads(at_once)
                    && self.uploads_of(lane) < for_one(at_once)
            }
        }
    }

    /// How many uploads of that lane could begin beside those that it has.
    pub(super) fn left_for(&self, lane: &Lane, at_once: usize) -> usize {
        for_one(at_once).saturating_sub(self.uploads_of(lane))
    }

    pub(super) fn take(&mut self, kind: Kind, lane: &Lane, now: Instant) {
        self.holders(kind).begun.push(now);
        if kind == Kind::Upload {
            *self.uploads_of.entry(lane.clone()).or_default() += 1;
        }
    }

    pub(super) fn give_back(&mut self, kind: Kind, lane: &Lane, begun: Instant) {
        let holders = &mut self.holders(kind).begun;
        if let Some(at) = holders.iter().position(|it| *it == begun) {
            holders.swap_remove(at);
        }
        if kind == Kind::Upload
            && let Some(count) = self.uploads_of.get_mut(lane)
        {
            *count -= 1;
            if *count == 0 {
                self.uploads_of.remove(lane);
            }
        }
    }

    /// One of that kind took so long.
    pub(super) fn took(&mut self, kind: Kind, took: Duration) {
        let service = &mut self.holders(kind).service;
        *service = Some(service.map_or(took, |average| {
            average.mul_f64(1.0 - SMOOTHING) + took.mul_f64(SMOOTHING)
        }));
    }

    /// How long such a request will wait for a place, as far as can be known.
    pub(super) fn expected_wait(
        &self,
        kind: Kind,
        lane: &Lane,
        ahead: Ahead,
        at_once: usize,
        now: Instant,
    ) -> Duration {
        let (brief, upload) = (self.briefs.service(now), self.uploads.service(now));
        let (briefs, uploads) = (self.briefs.begun.len(), self.uploads.begun.len());
        if self.most == 1 {
            // There is one place, and nothing to be held free.
            return times(brief, briefs + ahead.briefs) + times(upload, uploads + ahead.uploads);
        }
        // A place is free again each service time.
        let rounds = |service, before, places: usize| times(service, before / places.max(1));
        let may_begin = for_uploads(at_once).saturating_sub(uploads);
        let before = briefs + ahead.briefs + ahead.uploads.min(may_begin);
        let beside_uploads = rounds(brief, before, at_once.saturating_sub(uploads));
        match kind {
            Kind::Brief => beside_uploads,
            Kind::Upload => {
                let of_all = rounds(upload, uploads + ahead.uploads, for_uploads(at_once));
                let own = rounds(upload, self.uploads_of(lane) + ahead.own, for_one(at_once));
                beside_uploads.max(of_all).max(own)
            }
        }
    }

    fn uploads_of(&self, lane: &Lane) -> usize {
        self.uploads_of.get(lane).copied().unwrap_or_default()
    }

    fn holders(&mut self, kind: Kind) -> &mut Holders {
        match kind {
            Kind::Brief => &mut self.briefs,
            Kind::Upload => &mut self.uploads,
        }
    }
}

impl Holders {
    /// How long one takes: the average, or what those under way have taken already where that is more.
    fn service(&self, now: Instant) -> Duration {
        let running = self.begun.iter();
        let running = running.map(|begun| now.saturating_duration_since(*begun));
        running.fold(self.service.unwrap_or_default(), Duration::max)
    }
}

/// How many places all uploads may hold.
fn for_uploads(at_once: usize) -> usize {
    at_once.saturating_sub(1).max(1)
}

/// How many of them one caller's may.
fn for_one(at_once: usize) -> usize {
    for_uploads(for_uploads(at_once))
}

fn times(service: Duration, rounds: usize) -> Duration {
    service.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOBODY: Ahead = Ahead {
        briefs: 0,
        uploads: 0,
        own: 0,
    };

    fn lane(subject: &str) -> Lane {
        Lane::Caller {
            issuer: "https://id.example.com/".into(),
            subject: subject.into(),
        }
    }

    /// How many uploads of one caller, then of another, and then reads get a place.
    fn taken(most: usize, at_once: usize) -> [usize; 3] {
        let (mut places, now) = (Places::new(most), Instant::now());
        [
            (Kind::Upload, "ana"),
            (Kind::Upload, "beto"),
            (Kind::Brief, "ana"),
        ]
        .map(|(kind, subject)| {
            let lane = lane(subject);
            let mut count = 0;
            while places.may(kind, &lane, at_once) {
                places.take(kind, &lane, now);
                count += 1;
            }
            count
        })
    }

    #[test]
    fn one_place_is_never_an_uploads_and_one_of_theirs_never_one_callers() {
        assert_eq!(taken(1, 1), [1, 0, 0], "there is none to hold free");
        assert_eq!(taken(2, 2), [1, 0, 1]);
        assert_eq!(taken(3, 3), [1, 1, 1]);
        assert_eq!(taken(5, 5), [3, 1, 1]);
        assert_eq!(taken(20, 20), [18, 1, 1]);
        // While the pace allows less.
        assert_eq!(taken(5, 1), [1, 0, 1]);
        assert_eq!(taken(5, 2), [1, 0, 1]);
    }

    #[test]
    fn reads_have_every_place_that_is_free() {
        let (mut places, now) = (Places::new(5), Instant::now());
        for _ in 0..5 {
            assert!(places.may(Kind::Brief, &lane("ana"), 5));
            places.take(Kind::Brief, &lane("ana"), now);
        }
        assert!(!places.may(Kind::Brief, &lane("beto"), 5));
        assert!(!places.may(Kind::Upload, &lane("beto"), 5));
    }

    #[test]
    fn what_is_given_back_is_free_for_the_next() {
        let (mut places, now) = (Places::new(3), Instant::now());
        let (ana, beto) = (lane("ana"), lane("beto"));
        // All at one instant.
        places.take(Kind::Upload, &ana, now);
        places.take(Kind::Brief, &ana, now);
        assert!(!places.may(Kind::Upload, &ana, 3));
        assert!(places.may(Kind::Upload, &beto, 3));
        places.give_back(Kind::Upload, &ana, now);
        assert!(places.may(Kind::Upload, &ana, 3));
        places.give_back(Kind::Brief, &ana, now);
        assert_eq!((places.held(), places.uploads_of.len()), (0, 0));
    }

    #[test]
    fn slow_uploads_say_nothing_of_how_long_a_read_waits() {
        let (mut places, begun) = (Places::new(5), Instant::now());
        let (ana, beto) = (lane("ana"), lane("beto"));
        for _ in 0..3 {
            places.take(Kind::Upload, &ana, begun);
        }
        places.take(Kind::Brief, &beto, begun);
        let now = begun + 9 * SECOND;
        places.give_back(Kind::Brief, &beto, begun);
        places.took(Kind::Brief, SECOND);
        let wait = |kind, lane, ahead| places.expected_wait(kind, lane, ahead, 5, now);
        let reads = |briefs| Ahead { briefs, ..NOBODY };
        assert_eq!(wait(Kind::Brief, &ana, NOBODY), Duration::ZERO);
        assert_eq!(wait(Kind::Brief, &ana, reads(4)), 2 * SECOND);
        assert_eq!(wait(Kind::Upload, &beto, NOBODY), Duration::ZERO);
        assert_eq!(wait(Kind::Upload, &ana, NOBODY), 9 * SECOND);
        let own = Ahead {
            uploads: 3,
            own: 3,
            ..NOBODY
        };
        assert_eq!(wait(Kind::Upload, &ana, own), 18 * SECOND);
    }

    #[test]
    fn one_place_is_everybodys_in_turn() {
        let (mut places, begun) = (Places::new(1), Instant::now());
        places.take(Kind::Upload, &lane("ana"), begun);
        places.took(Kind::Brief, SECOND);
        let ahead = Ahead {
            briefs: 2,
            ..NOBODY
        };
        let now = begun + 3 * SECOND;
        let wait = places.expected_wait(Kind::Brief, &lane("beto"), ahead, 1, now);
        assert_eq!(wait, 5 * SECOND);
    }
}
