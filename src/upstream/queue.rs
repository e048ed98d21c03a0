//! Turns: at most `max_concurrency` requests at once with one credential, at the
//! credential's pace, fairly between those who wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry as MetricRegistry};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    fair::{FairQueue, Ticket},
    tenants::{CredentialId, TenantId},
};

use super::{
    Failure, Jitter,
    pace::Pace,
    places::{Ahead, Kind, Places},
};

/// The most that wait for turns with one credential. Beyond it the longest lane gives way.
const MOST_WAITING: usize = 1000;
/// A longer wait than this isn't foretold.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// For whom a turn is: those who wait take turns by lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A caller.
    Caller {
        /// Of the token.
        issuer: Arc<str>,
        /// Of the token.
        subject: Arc<str>,
    },
    /// Answers that are refreshed before anybody waits for them.
    Refresh,
    /// The breaker's own trial.
    Trial,
}

/// For whom a request waits: who wanted it first, and whoever joins. Its turn is the first
/// that any of their lanes gives, so nobody waits in another's lane.
#[derive(Debug)]
pub struct Party {
    lanes: Mutex<Vec<Lane>>,
    joining: tokio::sync::Mutex<mpsc::UnboundedReceiver<Lane>>,
}

/// The way into a [`Party`].
#[derive(Debug, Clone)]
pub struct Joining(mpsc::UnboundedSender<Lane>);

impl Party {
    /// A party of one, and the way into it.
    #[must_use]
    pub fn of(lane: Lane) -> (Self, Joining) {
        let (sender, joining) = mpsc::unbounded_channel();
        let party = Self {
            lanes: Mutex::new(vec![lane]),
            joining: tokio::sync::Mutex::new(joining),
        };
        (party, Joining(sender))
    }

    /// A party of one that nobody joins.
    #[must_use]
    pub fn alone(lane: Lane) -> Self {
        Self::of(lane).0
    }

    /// Waits for the first turn in any lane.
    pub(super) async fn turn(
        &self,
        queue: &Arc<Queue>,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Turn, Failure> {
        let mut joining = self.joining.lock().await;
        let lanes = self.lock().clone();
        let mut waiting: FuturesUnordered<_> = lanes
            .into_iter()
            .map(|lane| queue.turn(lane, kind, deadline))
            .collect();
        loop {
            let joined = tokio::select! {
                biased;
                turn = waiting.next() => match turn {
                    Some(Err(_)) if !waiting.is_empty() => continue,
                    Some(turn) => return turn,
                    // There is at least one lane.
                    None => return Err(Failure::Abandoned),
                },
                Some(lane) = joining.recv() => lane,
            };
            let mut lanes = self.lock();
            if !lanes.contains(&joined) {
                lanes.push(joined.clone());
                waiting.push(queue.turn(joined, kind, deadline));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Joining {
    /// One more waits for it.
    pub fn join(&self, lane: Lane) {
        // Where nobody receives, it has its turn already.
        let _ = self.0.send(lane);
    }
}

/// The queues of every credential.
pub(super) struct Queues {
    queues: Mutex<HashMap<CredentialId, Arc<Queue>>>,
    max_concurrency: usize,
    clock: Clock,
    jitter: Jitter,
    gauges: Gauges,
}

#[derive(Clone, Default)]
struct Gauges {
    running: Gauge,
    waiting: Gauge,
}

impl Queues {
    pub(super) fn new(
        max_concurrency: usize,
        clock: Clock,
        jitter: Jitter,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let gauges = Gauges::default();
        metrics.register(
            "llavero_upstream_requests_in_flight",
            "Requests to the ERP that are under way",
            gauges.running.clone(),
        );
        metrics.register(
            "llavero_upstream_requests_waiting",
            "Requests that wait for their turn",
            gauges.waiting.clone(),
        );
        Self {
            queues: Mutex::default(),
            max_concurrency,
            clock,
            jitter,
            gauges,
        }
    }

    pub(super) fn of(&self, credential: &CredentialId) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(credential) {
            return queue.clone();
        }
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                waiting: FairQueue::default(),
                places: Places::new(self.max_concurrency),
                pace: Pace::new(self.max_concurrency),
                alarm: None,
            }),
            clock: self.clock.clone(),
            jitter: self.jitter.clone(),
            gauges: self.gauges.clone(),
        });
        queues.insert(credential.clone(), queue.clone());
        queue
    }

    /// Credentials that a 429 has pausing, and for how long.
    pub(super) fn paused(&self) -> Vec<(CredentialId, Duration)> {
        let now = self.clock.instant();
        self.told_of(|pace| Some(pace.paused_until(now)?.saturating_duration_since(now)))
    }

    /// Credentials whose requests are held to a learnt limit, and how far apart.
    pub(super) fn paces(&self) -> Vec<(CredentialId, Duration)> {
        self.told_of(Pace::learnt)
    }

    /// What there is to tell of credentials' paces, in their order.
    fn told_of(&self, tell: impl Fn(&Pace) -> Option<Duration>) -> Vec<(CredentialId, Duration)> {
        let queues: Vec<_> = {
            let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let all = queues.iter();
            all.map(|(id, queue)| (id.clone(), queue.clone())).collect()
        };
        let told = queues.into_iter();
        let told = told.filter_map(|(id, queue)| Some((id, tell(&queue.lock().pace)?)));
        let mut told: Vec<_> = told.collect();
        told.sort_by(|(a, _), (b, _)| (a.tenant(), a.name()).cmp(&(b.tenant(), b.name())));
        told
    }

    /// Drops a tenant's queues; those who wait in them still have their turns.
    pub(super) fn forget(&self, tenant: &TenantId) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|id, _| id.tenant() != tenant);
    }

    /// Refuses all who wait for a tenant's ERP.
    pub(super) fn refuse_all(&self, tenant: &TenantId) {
        let queues: Vec<_> = {
            let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let theirs = queues.iter().filter(|(id, _)| id.tenant() == tenant);
            theirs.map(|(_, queue)| queue.clone()).collect()
        };
        queues.iter().for_each(|queue| queue.refuse_all());
    }
}

/// The queue of one credential.
pub(super) struct Queue {
    state: Mutex<State>,
    clock: Clock,
    jitter: Jitter,
    gauges: Gauges,
}

struct State {
    waiting: FairQueue<Lane, Waiter>,
    places: Places,
    pace: Pace,
    /// When somebody looks whether a turn can be given; none while no time is waited for.
    alarm: Option<Instant>,
}

struct Waiter {
    kind: Kind,
    sender: oneshot::Sender<Turn>,
}

/// A turn. Dropping it gives it up.
pub(super) struct Turn {
    queue: Option<Arc<Queue>>,
    kind: Kind,
    lane: Lane,
    sent_at: Instant,
    is_sent: bool,
}

impl Queue {
    /// Waits for a turn until `deadline`. Whoever would wait longer is refused at once,
    /// and a waiter that is dropped frees its place.
    pub(super) async fn turn(
        self: &Arc<Self>,
        lane: Lane,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Turn, Failure> {
        let (receiver, ticket, limited) = {
            let mut state = self.lock();
            let now = self.clock.instant();
            let limited = state.pace.is_limited(now);
            let expected = state.expected_wait(kind, &lane, now);
            let is_full = state.waiting.len() >= MOST_WAITING;
            if now + expected > deadline || (is_full && state.waiting.displace_for(&lane).is_none())
            {
                return Err(refusal(limited, expected));
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.waiting.push(lane.clone(), Waiter { kind, sender });
            self.gauges.waiting.inc();
            self.give_turns(&mut state);
            (receiver, ticket, limited)
        };
        let place = Place {
            queue: self,
            ticket,
        };
        let turn = self.clock.before(deadline, receiver).await;
        drop(place);
        match turn {
            Some(Ok(turn)) => Ok(turn),
            // It took too long, or somebody with a shorter lane needed the place.
            Some(Err(_)) | None => {
                let state = self.lock();
                let now = self.clock.instant();
                let expected = state.expected_wait(kind, &lane, now);
                Err(refusal(limited || state.pace.is_limited(now), expected))
            }
        }
    }

    /// Whether the pace lets a request go now.
    pub(super) fn is_ready(&self) -> bool {
        let now = self.clock.instant();
        self.lock().pace.ready_at(now) <= now
    }

    /// After the ERP was down: not everything at once.
    pub(super) fn begin_gently(&self) {
        self.lock().pace.begin_gently();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_turns(self: &Arc<Self>, state: &mut State) {
        let now = self.clock.instant();
        while !state.waiting.is_empty() {
            let ready = state.pace.ready_at(now);
            if ready > now {
                self.set_alarm(state, ready);
                return;
            }
            let (places, at_once) = (&state.places, state.pace.at_once());
            let may = |lane: &Lane, waiter: &Waiter| places.may(waiter.kind, lane, at_once);
            let Some((lane, Waiter { kind, sender })) = state.waiting.pop_passing(may) else {
                return;
            };
            let turn = Turn {
                queue: Some(self.clone()),
                kind,
                lane: lane.clone(),
                sent_at: now,
                is_sent: false,
            };
            match sender.send(turn) {
                Ok(()) => {
                    state.places.take(kind, &lane, now);
                    state.pace.send(now);
                    self.gauges.running.inc();
                }
                // Who waited has left: nothing was given. It must not take the lock that we hold.
                Err(mut turn) => turn.queue = None,
            }
        }
    }

    fn set_alarm(self: &Arc<Self>, state: &mut State, at: Instant) {
        if state.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        state.alarm = Some(at);
        let (queue, clock) = (Arc::downgrade(self), self.clock.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "it only wakes those who wait: a drain has nothing to wait for"
        )]
        tokio::spawn(async move {
            clock.sleep_until(at).await;
            if let Some(queue) = Weak::upgrade(&queue) {
                let mut state = queue.lock();
                if state.alarm == Some(at) {
                    state.alarm = None;
                }
                queue.give_turns(&mut state);
            }
        });
    }

    /// Refuses all who wait: what they wait for won't be had.
    pub(super) fn refuse_all(&self) {
        let waiters = self.lock().waiting.take_all();
        drop(waiters);
    }

    fn end(self: &Arc<Self>, turn: &Turn, ended: impl FnOnce(&mut State, Instant)) {
        let mut state = self.lock();
        state.places.give_back(turn.kind, &turn.lane, turn.sent_at);
        self.gauges.running.dec();
        ended(&mut state, self.clock.instant());
        self.give_turns(&mut state);
    }
}

impl State {
    /// How long a request that joins now will wait, as far as can be known.
    fn expected_wait(&self, kind: Kind, lane: &Lane, now: Instant) -> Duration {
        let at_once = self.pace.at_once();
        let is = |kind: Kind| move |waiter: &Waiter| waiter.kind == kind;
        // Uploads that may not go yet are passed, and so not ahead.
        let may_begin = |lane: &Lane| self.places.left_for(lane, at_once);
        let all = |_: &Lane| usize::MAX;
        let ahead = Ahead {
            briefs: self.waiting.ahead_of(lane, is(Kind::Brief), all),
            uploads: self.waiting.ahead_of(lane, is(Kind::Upload), may_begin),
            own: self.waiting.of_lane(lane, is(Kind::Upload)),
        };
        let places = &self.places;
        let for_a_place = places.expected_wait(kind, lane, ahead, at_once, now);
        let in_turn = ahead.briefs + ahead.uploads;
        match self.pace.expected_wait(now, in_turn) {
            Some(for_the_pace) => for_the_pace.max(for_a_place),
            None => self.pace.ready_at(now).saturating_duration_since(now) + for_a_place,
        }
    }
}

/// Why there is no turn: the ERP's limit, or the others who wait.
fn refusal(limited: bool, expected: Duration) -> Failure {
    if limited {
        Failure::Paused {
            retry_after: expected,
        }
    } else {
        // By then it works again or its breaker has opened.
        Failure::QueueFull {
            retry_after: expected.min(LONGEST_WAIT),
        }
    }
}

impl Turn {
    /// The request goes out. A turn that is dropped before was never used.
    pub(super) fn begin(&mut self) {
        self.is_sent = true;
    }

    /// The ERP answered, and not with 429.
    pub(super) fn accepted(self) {
        let kind = self.kind;
        self.end(|state, now, took| {
            state.pace.accepted(now);
            state.places.took(kind, took);
        });
    }

    /// The ERP answered with 429: everybody on this credential pauses.
    pub(super) fn refused(self, retry_after: Option<Duration>) {
        let sent_at = self.sent_at;
        let jitter = self.queue.as_ref().map(|queue| queue.jitter.clone());
        self.end(|state, now, _| {
            let shorten = |whole| jitter.map_or(whole, |jitter| jitter.of(whole));
            state.pace.refused(now, sent_at, retry_after, shorten);
        });
    }

    /// The ERP didn't answer.
    pub(super) fn failed(self) {
        let kind = self.kind;
        self.end(|state, _, took| state.places.took(kind, took));
    }

    fn end(mut self, ended: impl FnOnce(&mut State, Instant, Duration)) {
        let begun = self.sent_at;
        if let Some(queue) = self.queue.take() {
            queue.end(&self, |state, now| {
                ended(state, now, now.saturating_duration_since(begun));
            });
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.end(self, |state, _| {
                if !self.is_sent {
                    state.pace.take_back(self.sent_at);
                }
            });
        }
    }
}

/// A place in the queue, given up when its owner leaves.
struct Place<'a> {
    queue: &'a Arc<Queue>,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.gauges.waiting.dec();
        let waiter = self.queue.lock().waiting.remove(self.ticket);
        drop(waiter);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tasks that the test itself waits for"
)]
mod tests {
    use std::{collections::VecDeque, sync::atomic::AtomicUsize, sync::atomic::Ordering};

    use crate::tenants::Credential;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn queue(max_concurrency: usize) -> Arc<Queue> {
        let clock = Clock::system();
        let mut metrics = MetricRegistry::default();
        let queues = Queues::new(max_concurrency, clock, Jitter::seeded(1), &mut metrics);
        let tenant = "carper".parse().expect("an id");
        queues.of(Credential::api_key(tenant, "default", "k".to_owned().into()).id())
    }

    fn lane(subject: &str) -> Lane {
        Lane::Caller {
            issuer: "https://id.example.com/".into(),
            subject: subject.into(),
        }
    }

    async fn turn(queue: &Arc<Queue>, subject: &str) -> Result<Turn, Failure> {
        let deadline = queue.clock.instant() + PATIENCE;
        queue.turn(lane(subject), Kind::Brief, deadline).await
    }

    async fn pause(milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    fn open(queue: &Queue) -> (usize, usize) {
        let state = queue.lock();
        (state.places.held(), state.waiting.len())
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_allowed_at_once_and_every_place_is_given_back() {
        let queue = queue(3);
        let most = Arc::<AtomicUsize>::default();
        let all = (0..500_u64).map(|at| {
            let (queue, most) = (queue.clone(), most.clone());
            tokio::spawn(async move {
                pause(at % 97).await;
                let deadline = queue.clock.instant() + Duration::from_millis(50 + at * 7 % 500);
                let lane = lane(&format!("user {}", at % 11));
                // Some leave while they wait, or while it is their turn.
                let work = async {
                    let turn = queue.turn(lane, Kind::Brief, deadline).await?;
                    most.fetch_max(open(&queue).0, Ordering::Relaxed);
                    pause(at % 13).await;
                    match at % 5 {
                        0 => drop(turn),
                        _ => turn.accepted(),
                    }
                    Ok::<_, Failure>(())
                };
                let patience = Duration::from_millis(at * 31 % 400);
                let _ = tokio::time::timeout(patience, work).await;
            })
        });
        for task in futures_util::future::join_all(all.collect::<Vec<_>>()).await {
            task.expect("no panic");
        }
        assert_eq!(most.load(Ordering::Relaxed), 3);
        assert_eq!(open(&queue), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_up_before_it_is_used_counts_for_nothing() {
        let queue = queue(5);
        for _ in 0..400 {
            drop(turn(&queue, "ana").await.expect("a turn"));
        }
        assert_eq!(queue.lock().pace.remembered(), 0);
        let mut used = turn(&queue, "ana").await.expect("a turn");
        used.begin();
        drop(used);
        assert_eq!(queue.lock().pace.remembered(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_refused_at_once_and_told_how_long() {
        let queue = queue(1);
        // It takes two seconds, as is known from the first.
        for _ in 0..3 {
            let turn = turn(&queue, "ana").await.expect("a turn");
            pause(2000).await;
            turn.accepted();
        }
        let running = turn(&queue, "ana").await.expect("a turn");
        let mut waiting = Vec::new();
        for at in 0..10 {
            let queue = queue.clone();
            waiting.push(tokio::spawn(async move {
                turn(&queue, &format!("user {at}")).await.map(|_| ())
            }));
            tokio::task::yield_now().await;
        }
        let (_, admitted) = open(&queue);
        assert_eq!(admitted, 5, "as many as have their turn within ten seconds");
        let started = queue.clock.instant();
        let refused = turn(&queue, "zoe").await.err();
        assert_eq!(queue.clock.instant(), started, "at once");
        let Some(Failure::QueueFull { retry_after }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(retry_after, Duration::from_secs(12));
        drop(running);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_takes_a_stranger_in_the_place_of_the_longest_lane() {
        let queue = queue(1);
        let running = turn(&queue, "ana").await.expect("a turn");
        let poller: Vec<_> = (0..MOST_WAITING)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { turn(&queue, "poller").await.map(|_| ()) })
            })
            .collect();
        pause(1).await;
        assert_eq!(open(&queue).1, MOST_WAITING);
        assert!(turn(&queue, "poller").await.is_err(), "not at its own cost");
        let stranger = {
            let queue = queue.clone();
            tokio::spawn(async move { turn(&queue, "beto").await.map(|_| ()) })
        };
        pause(1).await;
        assert_eq!(open(&queue).1, MOST_WAITING);
        running.accepted();
        stranger.await.expect("no panic").expect("a turn");
        let outcomes = futures_util::future::join_all(poller).await;
        let refused = outcomes
            .into_iter()
            .filter(|it| matches!(it, Ok(Err(Failure::QueueFull { .. }))));
        assert_eq!(refused.count(), 1);
    }

    async fn upload(queue: &Arc<Queue>, subject: &str) -> Result<Turn, Failure> {
        let deadline = queue.clock.instant() + PATIENCE;
        queue.turn(lane(subject), Kind::Upload, deadline).await
    }

    /// One caller's batch of photos, each of which the ERP takes 18 s over, and colleagues who read and upload.
    #[tokio::test(start_paused = true)]
    async fn one_callers_uploads_leave_places_to_reads_and_to_other_uploads() {
        const TAKES: Duration = Duration::from_secs(18);
        let queue = queue(5);
        let start = queue.clock.instant();
        let batch: Vec<_> = (0..10)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let turn = upload(&queue, "ana").await?;
                    tokio::time::sleep(TAKES).await;
                    turn.accepted();
                    Ok::<_, Failure>(())
                })
            })
            .collect();
        pause(1000).await;
        assert_eq!(open(&queue), (3, 7));
        for _ in 0..10 {
            drop(turn(&queue, "carla").await.expect("a turn"));
        }
        let now = queue.clock.instant();
        let wait = queue.lock().expected_wait(Kind::Upload, &lane("beto"), now);
        assert_eq!(wait, Duration::ZERO, "who may not go isn't ahead");
        let colleague = upload(&queue, "beto").await.expect("a turn, at once");
        let third = upload(&queue, "carla").await.map(drop);
        assert!(third.is_err(), "the last place isn't for uploads");
        assert_eq!(queue.clock.instant() - start, Duration::from_secs(11));
        for _ in 0..50 {
            // Ana's own reads pass her uploads as well.
            for subject in ["ana", "beto", "carla"] {
                let turn = turn(&queue, subject).await.expect("a turn");
                pause(10).await;
                turn.accepted();
            }
        }
        let read = queue.clock.instant() - start - Duration::from_secs(11);
        assert_eq!(read, Duration::from_millis(1500), "none has waited");
        drop(colleague);
        let mut sent = 0;
        for upload in batch {
            sent += usize::from(upload.await.expect("no panic").is_ok());
        }
        assert_eq!(sent, 3, "the rest has waited for ten seconds");
        assert_eq!(open(&queue), (0, 0));
        assert_eq!(queue.lock().pace.remembered(), 3 + 150);
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_that_wait_go_as_soon_as_a_place_is_theirs() {
        let queue = queue(5);
        let first = [
            upload(&queue, "ana").await.expect("a turn"),
            upload(&queue, "ana").await.expect("a turn"),
            upload(&queue, "ana").await.expect("a turn"),
        ];
        let mut fourth = std::pin::pin!(upload(&queue, "ana"));
        let mut read = std::pin::pin!(turn(&queue, "ana"));
        assert!(futures_util::poll!(&mut fourth).is_pending());
        let _reads = [
            turn(&queue, "beto").await.expect("a turn"),
            turn(&queue, "beto").await.expect("a turn"),
        ];
        assert!(futures_util::poll!(&mut read).is_pending(), "all are held");
        let [one, other, third] = first;
        one.accepted();
        let fourth = fourth.await.expect("it waited longest");
        assert!(futures_util::poll!(&mut read).is_pending());
        other.accepted();
        let _read = read.await.expect("a turn");
        drop((third, fourth));
    }

    /// The ERP's hidden limit, a poller that offers ten times as much, and a person.
    #[tokio::test(start_paused = true)]
    async fn under_a_hidden_limit_a_person_is_served_before_a_batch() {
        const LIMIT: usize = 60;
        const WINDOW: Duration = Duration::from_secs(60);
        let queue = queue(5);
        let start = queue.clock.instant();
        let taken = Arc::new(Mutex::new(VecDeque::<Instant>::new()));
        let counts = Arc::<[AtomicUsize; 3]>::default();
        let ask = {
            let (queue, taken, counts) = (queue.clone(), taken, counts.clone());
            move |subject: &'static str| {
                let (queue, taken, counts) = (queue.clone(), taken.clone(), counts.clone());
                async move {
                    let asked = queue.clock.instant();
                    let turn = turn(&queue, subject).await?;
                    pause(100).await;
                    let now = queue.clock.instant();
                    let fits = {
                        let mut taken = taken.lock().expect("no panic");
                        while taken.front().is_some_and(|at| now - *at >= WINDOW) {
                            taken.pop_front();
                        }
                        let fits = taken.len() < LIMIT;
                        if fits {
                            taken.push_back(now);
                        }
                        fits
                    };
                    let steady = now - start > WINDOW + WINDOW / 2;
                    if fits {
                        turn.accepted();
                        counts[0].fetch_add(usize::from(steady), Ordering::Relaxed);
                    } else {
                        turn.refused(None);
                        counts[1].fetch_add(usize::from(steady), Ordering::Relaxed);
                    }
                    Ok::<_, Failure>(queue.clock.instant() - asked)
                }
            }
        };
        let poller = {
            let (ask, counts) = (ask.clone(), counts.clone());
            tokio::spawn(async move {
                for _ in 0..12_000 {
                    let (one, counts) = (ask("poller"), counts.clone());
                    tokio::spawn(async move {
                        if one.await.is_err() {
                            counts[2].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    pause(100).await;
                }
            })
        };
        pause(120_000).await;
        let mut waits = Vec::new();
        for _ in 0..100 {
            waits.push(ask("ana").await.expect("she has her turn"));
            pause(9_000).await;
        }
        poller.await.expect("no panic");
        waits.sort_unstable();
        let [accepted, refused, told] = [0, 1, 2].map(|at| counts[at].load(Ordering::Relaxed));
        let share = refused as f64 / (accepted + refused) as f64;
        let used = accepted as f64 / (1200.0 - 90.0);
        assert!(share < 0.02, "{refused} of {} refused", accepted + refused);
        assert!(used >= 0.85, "{used} of the limit is used");
        assert!(
            told > 8_000,
            "{told} of the poller's were told to come back later"
        );
        assert!(waits[50] < Duration::from_secs(3), "{:?}", waits[50]);
        assert!(waits[95] < Duration::from_secs(10), "{:?}", waits[95]);
    }
}
