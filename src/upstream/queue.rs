//! Turns: at most `max_concurrency` requests at once with one credential, at the
//! credential's pace, fairly between those who wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use prometheus_client::{metrics::gauge::Gauge, registry::Registry as MetricRegistry};
use tokio::sync::oneshot;

use crate::{clock::Clock, tenants::CredentialId};

use super::{
    Failure, Jitter,
    fair::{FairQueue, Ticket},
    pace::Pace,
};

/// The most that wait for turns with one credential. Beyond it the longest lane gives way.
const MOST_WAITING: usize = 1000;
/// How much of a new service time goes into the average.
const SMOOTHING: f64 = 0.2;

/// For whom a turn is: those who wait take turns by lane.
#[derive(Debug, Clone, PartialEq, Eq)]
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
                running: 0,
                pace: Pace::new(self.max_concurrency),
                service: None,
                alarm: None,
            }),
            clock: self.clock.clone(),
            jitter: self.jitter.clone(),
            gauges: self.gauges.clone(),
        });
        queues.insert(credential.clone(), queue.clone());
        queue
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
    waiting: FairQueue<Lane, oneshot::Sender<Turn>>,
    running: usize,
    pace: Pace,
    /// How long a request takes, on average.
    service: Option<Duration>,
    /// When somebody looks whether a turn can be given; none while no time is waited for.
    alarm: Option<Instant>,
}

/// A turn. Dropping it gives it up.
pub(super) struct Turn {
    queue: Option<Arc<Queue>>,
    sent_at: Instant,
}

impl Queue {
    /// Waits for a turn until `deadline`. Whoever would wait longer is refused at once,
    /// and a waiter that is dropped frees its place.
    pub(super) async fn turn(
        self: &Arc<Self>,
        lane: &Lane,
        deadline: Instant,
    ) -> Result<Turn, Failure> {
        let (receiver, ticket) = {
            let mut state = self.lock();
            let now = self.clock.instant();
            let expected = state.expected_wait(lane, now);
            if now + expected > deadline {
                return Err(state.refusal(now, expected));
            }
            if state.waiting.len() >= MOST_WAITING && state.waiting.displace_for(lane).is_none() {
                return Err(state.refusal(now, expected));
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = state.waiting.push(lane.clone(), sender);
            self.gauges.waiting.inc();
            self.give_turns(&mut state);
            (receiver, ticket)
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
                let expected = state.expected_wait(lane, now);
                Err(state.refusal(now, expected))
            }
        }
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
        while state.running < state.pace.at_once() && !state.waiting.is_empty() {
            let ready = state.pace.ready_at(now);
            if ready > now {
                self.set_alarm(state, ready);
                return;
            }
            let Some(waiter) = state.waiting.pop() else {
                return;
            };
            let turn = Turn {
                queue: Some(self.clone()),
                sent_at: now,
            };
            match waiter.send(turn) {
                Ok(()) => {
                    state.running += 1;
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

    fn end(self: &Arc<Self>, ended: impl FnOnce(&mut State, Instant)) {
        let mut state = self.lock();
        state.running -= 1;
        self.gauges.running.dec();
        ended(&mut state, self.clock.instant());
        self.give_turns(&mut state);
    }
}

impl State {
    /// How long a request that joins now will wait, as far as can be known.
    fn expected_wait(&self, lane: &Lane, now: Instant) -> Duration {
        let ready_in = self.pace.ready_at(now).saturating_duration_since(now);
        let ahead = self.waiting.ahead_of(lane);
        let turns = |each: Duration, turns: usize| {
            each.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
        };
        if let Some(gap) = self.pace.gap() {
            return ready_in + turns(gap, ahead);
        }
        let places = self.pace.at_once();
        let service = self.service.unwrap_or_default();
        // Before us those who run and those ahead; a place is free again each service time.
        let rounds = (self.running + ahead) / places;
        ready_in + turns(service, rounds)
    }

    fn refusal(&self, now: Instant, expected: Duration) -> Failure {
        if self.pace.is_limited(now) {
            Failure::RateLimited {
                retry_after: Some(expected),
            }
        } else {
            Failure::QueueFull {
                retry_after: expected,
            }
        }
    }
}

impl Turn {
    /// The ERP answered, and not with 429.
    pub(super) fn accepted(mut self) {
        let sent_at = self.sent_at;
        if let Some(queue) = self.queue.take() {
            queue.end(|state, now| {
                state.pace.accepted(now);
                let took = now.saturating_duration_since(sent_at);
                state.service = Some(state.service.map_or(took, |average| {
                    average.mul_f64(1.0 - SMOOTHING) + took.mul_f64(SMOOTHING)
                }));
            });
        }
    }

    /// The ERP answered with 429: everybody on this credential pauses.
    pub(super) fn refused(mut self, retry_after: Option<Duration>) {
        let sent_at = self.sent_at;
        if let Some(queue) = self.queue.take() {
            let jitter = queue.jitter.clone();
            queue.end(|state, now| {
                state
                    .pace
                    .refused(now, sent_at, retry_after, |whole| jitter.of(whole));
            });
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.end(|_, _| {});
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
